import CDemikernelShims
import Glibc
import Synchronization
import SystemPackage

/// io_uring, as far as files need it: queue requests, hand them over in one system call, take completions without any.
///
/// swift-system's `IORing` (1.8.1) offers neither fsync nor ftruncate nor `RWF_DSYNC`, without which there is no durable log; its requests
/// cannot be made outside its module; and its ring arithmetic is checked, so that it traps when the 32-bit positions wrap. Hence the kernel's
/// interface itself, which is three system calls and two rings in shared memory: io_uring(7).
///
/// Sizes: a ring for `depth` requests has room for as many cancellations (submission queue: 2 × depth entries) and for the completions of
/// all of them and of the cancellations that `drain` adds (completion queue: 4 × depth), so neither overflows.
///
/// Invariant: the pointers lead into the two mappings, which live as long as the value; entries between the kernel's head and `state.tail`
/// are the kernel's, all others ours; `state.unfinished` requests have been put and not taken, and `deinit` returns only when the kernel has
/// finished with all of them, so that it writes no memory afterwards.
@safe
struct FileRing: ~Copyable {
    private struct State {
        /// Our end of the submission queue; the kernel's copy follows in `submit`.
        var tail: UInt32 = 0
        /// Requests and cancellations that were put and whose completions were not taken.
        var unfinished: UInt32 = 0
        var cancellations: UInt32 = 0
    }

    private let descriptor: Int32
    private let depth: UInt32
    private let operations: UInt64
    private let state: UnsafeMutablePointer<State>

    private let rings: UnsafeMutableRawBufferPointer
    private let entries: UnsafeMutableBufferPointer<dk_ring_request>
    private let submissionHead: UnsafePointer<Atomic<UInt32>>
    private let submissionTail: UnsafePointer<Atomic<UInt32>>
    private let submissionMask: UInt32
    private let completionHead: UnsafePointer<Atomic<UInt32>>
    private let completionTail: UnsafePointer<Atomic<UInt32>>
    private let completionMask: UInt32
    private let completions: UnsafePointer<dk_ring_completion>

    /// A ring whose completions make `event` readable. Throws the kernel's errno: `ENOSYS` without io_uring, `EPERM` where it is forbidden,
    /// `ENOTSUP` where this kernel's lacks what files need (it came with Linux 5.6).
    init(depth: Int, event: Int32) throws(Errno) {
        // writev, fsync, cancel, openat, close, read, write
        let set = try RingSetup(entries: UInt32(depth) * 2, needing: 1 << 2 | 1 << 3 | 1 << 14 | 1 << 18 | 1 << 19 | 1 << 22 | 1 << 23, event: event)
        let base = unsafe set.rings.baseAddress.unsafelyUnwrapped
        let submission = set.parameters.submission
        let completion = set.parameters.completion
        descriptor = set.descriptor
        self.depth = UInt32(depth)
        operations = set.operations
        unsafe state = .allocate(capacity: 1)
        unsafe state.initialize(to: State())
        unsafe rings = set.rings
        unsafe entries = set.entries
        unsafe submissionHead = set.word(submission.head)
        unsafe submissionTail = set.word(submission.tail)
        unsafe submissionMask = base.load(fromByteOffset: Int(submission.mask), as: UInt32.self)
        unsafe completionHead = set.word(completion.head)
        unsafe completionTail = set.word(completion.tail)
        unsafe completionMask = base.load(fromByteOffset: Int(completion.mask), as: UInt32.self)
        unsafe completions = UnsafePointer((base + Int(completion.completions)).assumingMemoryBound(to: dk_ring_completion.self))
    }

    deinit {
        drain()
        unsafe RingSetup.unmap(rings: rings, entries: entries)
        Glibc.close(descriptor)
        unsafe state.deallocate()
    }

    /// Whether this kernel carries out such requests; a truncation came with Linux 6.9.
    func offers(_ kind: FileRequest.Kind) -> Bool { operations >> UInt64(Self.opcode(kind)) & 1 == 1 }

    /// Requests that `submit` has yet to hand over.
    func unsubmitted() -> UInt32 { unsafe state.pointee.tail &- submissionHead.pointee.load(ordering: .acquiring) }

    // MARK: - Requests

    /// Transfers longer than this are made by the kernel's own threads: copying them within `submit` would hold up the loop.
    private static var inlineTransferMaximum: UInt32 { 64 << 10 }

    /// Queues a request. There is room, because the engine accepts no more than `depth`.
    func put(_ request: FileRequest, slot: UInt32) {
        var entry = dk_ring_request()
        entry.opcode = Self.opcode(request.kind)
        entry.descriptor = request.descriptor
        entry.user_data = UInt64(slot)
        switch request.kind {
        case .read, .write:
            entry.address = UInt64(request.address)
            entry.length = request.count
            if request.pieces > 0 {
                entry.opcode = 2 // IORING_OP_WRITEV
                entry.length = request.pieces
            }
            entry.offset = UInt64(bitPattern: request.offset)
            if request.option { entry.operation_flags = FileTransfer.durable }
            if request.count > Self.inlineTransferMaximum { entry.flags = 1 << 4 /* IOSQE_ASYNC */ }
        case .synchronize:
            entry.operation_flags = request.option ? 1 /* IORING_FSYNC_DATASYNC */ : 0
        case .truncate:
            entry.offset = UInt64(bitPattern: request.offset)
        case .open:
            entry.address = UInt64(request.address)
            entry.length = request.count
            entry.operation_flags = UInt32(bitPattern: request.flags)
        case .close:
            break
        }
        put(entry)
    }

    /// Queues the cancellation of a slot's request, where there is room for it.
    func cancel(slot: UInt32) -> Bool {
        guard unsafe state.pointee.cancellations < depth else { return false }
        putCancellation(of: slot)
        return true
    }

    private func putCancellation(of slot: UInt32) {
        var entry = dk_ring_request()
        entry.opcode = 14 // IORING_OP_ASYNC_CANCEL
        entry.descriptor = -1
        entry.address = UInt64(slot)
        entry.user_data = Self.cancellation
        unsafe state.pointee.cancellations += 1
        put(entry)
    }

    private func put(_ entry: dk_ring_request) {
        precondition(unsafe unsubmitted() < UInt32(entries.count), "more requests than the ring was made for")
        unsafe entries[Int(state.pointee.tail & submissionMask)] = entry
        unsafe state.pointee.tail &+= 1
        unsafe state.pointee.unfinished += 1
    }

    /// Hands over what is queued: one system call, unless the kernel stops at a request that it refuses. Where the kernel is out of memory
    /// for the moment the rest stays queued. Answers why it could not, where the ring is broken.
    func submit() -> Errno? {
        unsafe submissionTail.pointee.store(state.pointee.tail, ordering: .releasing)
        var remaining = unsubmitted()
        while remaining > 0 {
            switch dk_ring_enter(descriptor, remaining, 0, 0) {
            case 1...: remaining = unsubmitted()
            case Int(-EINTR): continue
            case 0, Int(-EAGAIN), Int(-EBUSY): return nil
            case let refusal: return Errno(rawValue: Int32(-refusal))
            }
        }
        return nil
    }

    // MARK: - Completions

    private static var cancellation: UInt64 { .max }

    /// The next completion that is there, without a system call.
    func take() -> FileOutcome? {
        while true {
            let head = unsafe completionHead.pointee.load(ordering: .relaxed)
            guard unsafe head != completionTail.pointee.load(ordering: .acquiring) else { return nil }
            let completion = unsafe completions[Int(head & completionMask)]
            unsafe completionHead.pointee.store(head &+ 1, ordering: .releasing)
            unsafe state.pointee.unfinished -= 1
            guard completion.user_data == Self.cancellation else {
                return FileOutcome(slot: UInt32(truncatingIfNeeded: completion.user_data), result: completion.result)
            }
            unsafe state.pointee.cancellations -= 1
        }
    }

    /// Asks to cancel each slot for which `cancels` answers true and waits until every request has ended. Their completions stay to be taken.
    func drain(cancelling slots: Range<UInt32> = 0..<0, where cancels: (UInt32) -> Bool = { _ in true }) {
        submitAll()
        for slot in slots where cancels(slot) { putCancellation(of: slot) }
        submitAll()
        while true {
            let unfinished = unsafe state.pointee.unfinished
            let there = unsafe completionTail.pointee.load(ordering: .acquiring) &- completionHead.pointee.load(ordering: .relaxed)
            guard there < unfinished else { return }
            let answer = dk_ring_enter(descriptor, 0, unfinished, 1 /* IORING_ENTER_GETEVENTS */)
            // Anything else means that the ring is gone (its descriptor was closed under us): there is nothing left to wait with.
            guard answer >= 0 || answer == Int(-EINTR) || answer == Int(-EAGAIN) || answer == Int(-EBUSY) else { return }
        }
    }

    private func submitAll() {
        while unsubmitted() > 0 {
            guard submit() == nil else { return }
            // The kernel is short of memory: the requests in flight free some as they end.
            if unsubmitted() > 0 { _ = poll(nil, 0, 1) }
        }
    }

    /// IORING_OP_READ, _WRITE, _FSYNC, _FTRUNCATE, _OPENAT, _CLOSE.
    private static func opcode(_ kind: FileRequest.Kind) -> UInt8 {
        switch kind {
        case .read: 22
        case .write: 23
        case .synchronize: 3
        case .truncate: 55
        case .open: 18
        case .close: 19
        }
    }
}
