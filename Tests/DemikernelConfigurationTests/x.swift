import Testing
@testable import Demikernel

