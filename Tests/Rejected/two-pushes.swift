// The compiler must refuse this file: what has been pushed once cannot be pushed again.
import Demikernel

func pushTwice(_ libOS: LibOS, _ queue: QueueDescriptor) throws {
    let segments = ScatterGatherArray(try libOS.allocate(64))
    _ = try libOS.push(queue, segments)
    _ = try libOS.push(queue, segments)
}  // error: 'segments' consumed more than once
