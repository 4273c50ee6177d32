import Demikernel
