// The compiler must refuse this file: a push owns its buffer. `Scripts/rejected` looks for the text after "error:" on the marked line.
import Demikernel

func useAfterPush(_ libOS: LibOS, _ queue: QueueDescriptor) throws {
    let buffer = try libOS.allocate(64)
    _ = try libOS.push(queue, buffer)
    print(buffer.count)
}  // error: 'buffer' used after consume
