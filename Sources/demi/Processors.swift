import CDemikernelShims
import Glibc

/// The processors that this process may run on.
enum Processors {
    /// As many as the kernel's own limit (`CONFIG_NR_CPUS` is at most 8,192).
    private static let maskWords = 128

    /// Their numbers, ascending.
    static var allowed: [Int] {
        var mask = [UInt64](repeating: 0, count: maskWords)
        let filled = unsafe mask.withUnsafeMutableBytes { unsafe dk_processors_get($0.baseAddress!, $0.count) }
        guard filled > 0 else { return [] }
        return (0..<maskWords * 64).filter { mask[$0 / 64] >> UInt64($0 % 64) & 1 == 1 }
    }

    /// Has this thread, and those that it starts, run on one processor alone.
    static func pin(to processor: Int) throws {
        guard (0..<1024).contains(processor) else { throw Failure("only the first 1,024 processors can be chosen") }
        guard dk_pin_thread(Int32(processor)) == 0 else {
            throw Failure("cannot run on processor \(processor) alone: \(errorText(errno))")
        }
    }
}
