import CDemikernelShims
import Glibc
import Synchronization
import SystemPackage

/// An io_uring as the kernel made it: descriptor, mappings and what it can do. What `FileRing` and `SendRing` begin with, who own it from then on.
///
/// Invariant: `rings` and `entries` are mappings of the descriptor's, until they are unmapped; entry i of the submission queue is request i,
/// always: the kernel's level of indirection is not used.
@safe
struct RingSetup {
    let descriptor: Int32
    let parameters: dk_ring_parameters
    /// The opcodes that this kernel knows, as bits.
    let operations: UInt64
    let rings: UnsafeMutableRawBufferPointer
    let entries: UnsafeMutableBufferPointer<dk_ring_request>

    /// Both rings in one mapping, completions never dropped, requests copied at submission, positions as in read(2): Linux 5.6.
    private static var requiredFeatures: UInt32 { 0b1111 }

    /// A ring with room for `entries` requests, a power of two, and twice as many completions; `event` becomes readable with each of them.
    ///
    /// Throws the kernel's errno: `ENOSYS` without io_uring, `EPERM` where it is forbidden, `EINVAL` for `flags` that it does not know;
    /// `ENOTSUP` where it lacks one of the opcodes whose bits `needed` has.
    init(entries count: UInt32, flags: UInt32 = 0, needing needed: UInt64, event: Int32? = nil) throws(Errno) {
        var parameters = dk_ring_parameters()
        parameters.flags = flags
        let made = unsafe dk_ring_setup(count, &parameters)
        guard made >= 0 else { throw Errno(rawValue: Int32(-made)) }
        let ring = Int32(made)
        do throws(Errno) {
            guard parameters.features & Self.requiredFeatures == Self.requiredFeatures else { throw .notSupported }
            operations = try Self.operations(of: ring)
            guard operations & needed == needed else { throw .notSupported }
            if let event {
                let registered = dk_ring_register_event(ring, event)
                guard registered >= 0 else { throw Errno(rawValue: Int32(-registered)) }
            }
            unsafe (rings, entries) = try Self.map(ring, parameters)
        } catch {
            Glibc.close(ring)
            throw error
        }
        descriptor = ring
        self.parameters = parameters
        let order = unsafe (rings.baseAddress.unsafelyUnwrapped + Int(parameters.submission.array)).assumingMemoryBound(to: UInt32.self)
        for index in 0..<parameters.submission_entries { unsafe order[Int(index)] = index }
    }

    /// One of the words that the kernel shares.
    @unsafe func word(_ offset: UInt32) -> UnsafePointer<Atomic<UInt32>> {
        unsafe UnsafePointer((rings.baseAddress.unsafelyUnwrapped + Int(offset)).assumingMemoryBound(to: Atomic<UInt32>.self))
    }

    private static func operations(of ring: Int32) throws(Errno) -> UInt64 {
        var supported: UInt64 = 0
        let probed = unsafe dk_ring_supported(ring, &supported)
        guard probed >= 0 else { throw Errno(rawValue: Int32(-probed)) }
        return supported
    }

    private static func map(
        _ ring: Int32, _ parameters: dk_ring_parameters
    ) throws(Errno) -> (UnsafeMutableRawBufferPointer, UnsafeMutableBufferPointer<dk_ring_request>) {
        let submissionSize = Int(parameters.submission.array) + Int(parameters.submission_entries) * MemoryLayout<UInt32>.stride
        let completionSize =
            Int(parameters.completion.completions) + Int(parameters.completion_entries) * MemoryLayout<dk_ring_completion>.stride
        let rings = try unsafe map(ring, size: max(submissionSize, completionSize), offset: 0 /* IORING_OFF_SQ_RING */)
        let count = Int(parameters.submission_entries)
        do throws(Errno) {
            let entries = try unsafe map(ring, size: count * MemoryLayout<dk_ring_request>.stride, offset: 0x1000_0000 /* IORING_OFF_SQES */)
            return unsafe (rings, entries.bindMemory(to: dk_ring_request.self))
        } catch {
            unsafe munmap(rings.baseAddress, rings.count)
            throw error
        }
    }

    private static func map(_ ring: Int32, size: Int, offset: Int) throws(Errno) -> UnsafeMutableRawBufferPointer {
        let address = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED | Int32(MAP_POPULATE), ring, offset)
        guard let address = unsafe address, unsafe address != MAP_FAILED else { throw Errno(rawValue: errno) }
        return unsafe UnsafeMutableRawBufferPointer(start: address, count: size)
    }

    static func unmap(rings: UnsafeMutableRawBufferPointer, entries: UnsafeMutableBufferPointer<dk_ring_request>) {
        unsafe munmap(rings.baseAddress, rings.count)
        unsafe munmap(entries.baseAddress, entries.count * MemoryLayout<dk_ring_request>.stride)
    }
}
