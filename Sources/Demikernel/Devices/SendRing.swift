import CDemikernelShims
import Glibc
import Synchronization
import SystemPackage

/// Sends on several sockets in one system call, through an io_uring(7) that is used for nothing else.
///
/// A send that must not wait (`MSG_DONTWAIT`) is carried out within the call that submits it: when ``submit()`` returns, every result is
/// there. The kernel thus never has memory of ours between two calls, and a batch costs one entry into the kernel instead of one a send.
///
/// Invariant: once it is open, the pointers of `shared` lead into the two mappings, which live as long as the value; the first `count` entries
/// from `tail` on are ours, filled and not handed over; outside of ``submit()`` the kernel has none.
@safe
struct SendRing: ~Copyable {
    /// What the kernel and we look at together.
    @unsafe private struct Shared: BitwiseCopyable {
        let descriptor: Int32
        let submissionMask: UInt32
        let completionMask: UInt32
        let rings: UnsafeMutableRawBufferPointer
        let entries: UnsafeMutableBufferPointer<dk_ring_request>
        let submissionHead: UnsafePointer<Atomic<UInt32>>
        let submissionTail: UnsafePointer<Atomic<UInt32>>
        let completionHead: UnsafePointer<Atomic<UInt32>>
        let completionTail: UnsafePointer<Atomic<UInt32>>
        let completions: UnsafePointer<dk_ring_completion>
    }

    /// The most sends of a batch. The first of them waits for the last one's message to be read and answered, so it is not many.
    static var capacity: Int { 16 }
    private static var entryCount: UInt32 { UInt32(capacity) }

    private var storage: Shared?
    /// Our end of the submission queue. The kernel's is the same between two calls.
    private var tail: UInt32 = 0
    /// Sends that wait for ``submit()``.
    private(set) var count = 0

    init() { unsafe storage = nil }

    deinit {
        guard let shared = unsafe storage else { return }
        unsafe RingSetup.unmap(rings: shared.rings, entries: shared.entries)
        unsafe Glibc.close(shared.descriptor)
    }

    /// Of a ring that is open.
    private var shared: Shared { @inline(__always) get { unsafe storage.unsafelyUnwrapped } }

    /// Has the kernel make the ring, once, before anything else is asked of it. Throws the kernel's errno: `ENOSYS` without io_uring, `EPERM`
    /// where it is forbidden, `ENOTSUP` where it lacks sending (Linux 5.6).
    mutating func open() throws(Errno) {
        precondition(unsafe storage == nil)
        let set = try Self.setUp()
        let submission = set.parameters.submission
        let completion = set.parameters.completion
        let base = unsafe set.rings.baseAddress.unsafelyUnwrapped
        unsafe storage = Shared(
            descriptor: set.descriptor, submissionMask: base.load(fromByteOffset: Int(submission.mask), as: UInt32.self),
            completionMask: base.load(fromByteOffset: Int(completion.mask), as: UInt32.self), rings: set.rings, entries: set.entries,
            submissionHead: set.word(submission.head), submissionTail: set.word(submission.tail), completionHead: set.word(completion.head),
            completionTail: set.word(completion.tail),
            completions: UnsafePointer((base + Int(completion.completions)).assumingMemoryBound(to: dk_ring_completion.self)))
        // What all requests have alike is written once.
        var request = dk_ring_request()
        request.opcode = Self.send
        request.operation_flags = UInt32(MSG_DONTWAIT) | UInt32(MSG_NOSIGNAL)
        for index in unsafe set.entries.indices { unsafe set.entries[index] = request }
    }

    /// IORING_OP_SEND
    private static var send: UInt8 { 26 }

    /// IORING_SETUP_SINGLE_ISSUER and _DEFER_TASKRUN spare the kernel locks and interrupts; they came with Linux 6.1.
    private static func setUp() throws(Errno) -> RingSetup {
        do throws(Errno) {
            return try RingSetup(entries: entryCount, flags: 1 << 12 | 1 << 13, needing: 1 << send)
        } catch .invalidArgument {
            return try RingSetup(entries: entryCount, needing: 1 << send)
        }
    }

    /// Queues the send of `count` bytes at `start`, named `slot`. There is room: `count` is below ``capacity``.
    @inline(__always)
    mutating func append(_ socket: Int32, _ start: UnsafeRawPointer, _ byteCount: UInt32, slot: UInt32) {
        assert(count < Self.capacity)
        let entry = unsafe shared.entries.baseAddress.unsafelyUnwrapped + Int((tail &+ UInt32(truncatingIfNeeded: count)) & shared.submissionMask)
        unsafe entry.pointee.descriptor = socket
        unsafe entry.pointee.address = UInt64(UInt(bitPattern: start))
        unsafe entry.pointee.length = byteCount
        unsafe entry.pointee.user_data = UInt64(slot)
        count &+= 1
    }

    /// The name of the send that was queued first.
    var first: UInt32 { unsafe UInt32(truncatingIfNeeded: shared.entries[Int(tail & shared.submissionMask)].user_data) }

    /// Takes back the send named `slot`, which is queued. Complexity: O(``capacity``).
    mutating func remove(slot: UInt32) {
        var kept: UInt32 = 0
        for position in 0..<UInt32(count) {
            let entry = unsafe shared.entries[Int((tail &+ position) & shared.submissionMask)]
            if entry.user_data == UInt64(slot) { continue }
            unsafe shared.entries[Int((tail &+ kept) & shared.submissionMask)] = entry
            kept += 1
        }
        count = Int(kept)
    }

    /// Hands over what is queued, in one system call. True where the kernel took all of it: ``take()`` then has as many results. Where it is
    /// out of memory or will have no more of this ring it took the first ones; the others are still queued.
    mutating func submit() -> Bool {
        unsafe shared.submissionTail.pointee.store(tail &+ UInt32(truncatingIfNeeded: count), ordering: .releasing)
        _ = unsafe dk_ring_submit(shared.descriptor, UInt32(truncatingIfNeeded: count))
        let head = unsafe shared.submissionHead.pointee.load(ordering: .acquiring)
        let taken = head &- tail
        count &-= Int(taken)
        tail = head
        if resultCount < taken { awaitResults(taken) }
        guard count > 0 else { return true }
        // It looks at the queue within the call alone, so the rest is ours again.
        unsafe shared.submissionTail.pointee.store(tail, ordering: .releasing)
        return false
    }

    private var resultCount: UInt32 {
        unsafe shared.completionTail.pointee.load(ordering: .acquiring) &- shared.completionHead.pointee.load(ordering: .relaxed)
    }

    /// No kernel is known that puts off what must not wait; the memory of one that did would still be in use.
    @inline(never)
    private func awaitResults(_ count: UInt32) {
        while resultCount < count {
            let answer = unsafe dk_ring_enter(shared.descriptor, 0, count, 1 /* IORING_ENTER_GETEVENTS */)
            // Anything else means that the ring is gone: there is nothing left to wait with.
            guard answer >= 0 || answer == Int(-EINTR) || answer == Int(-EAGAIN) || answer == Int(-EBUSY) else { return }
        }
    }

    /// The next result that is there: bytes, or a negative errno.
    @inline(__always)
    mutating func take() -> (slot: UInt32, result: Int)? {
        let head = unsafe shared.completionHead.pointee.load(ordering: .relaxed)
        guard unsafe head != shared.completionTail.pointee.load(ordering: .acquiring) else { return nil }
        let completion = unsafe shared.completions + Int(head & shared.completionMask)
        let answer = unsafe (UInt32(truncatingIfNeeded: completion.pointee.user_data), Int(completion.pointee.result))
        unsafe shared.completionHead.pointee.store(head &+ 1, ordering: .releasing)
        return answer
    }
}
