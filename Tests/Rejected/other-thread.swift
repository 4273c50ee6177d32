// The compiler must refuse this file: a libOS stays on its thread.
import Demikernel

func useElsewhere(_ libOS: LibOS) {
    Task.detached { _ = try libOS.queue() }
}  // error: passing closure as a 'sending' parameter risks causing data races
