import CDemikernelShims

/// Runs the jobs of a libOS's Swift tasks on the libOS's own thread.
///
/// A task executor, so that a task comes back to it from wherever it was resumed: `Task.sleep`, an actor, another thread. A job that is
/// enqueued on the libOS's thread goes to a ring; any other takes the mailbox's lock and wakes the libOS.
final class LibOSExecutor: TaskExecutor, @unchecked Sendable {
    private let mailbox: Mailbox
    private let thread: UInt
    // Touched on the libOS's thread alone.
    private let ring: JobRing

    init(mailbox: Mailbox) {
        self.mailbox = mailbox
        thread = dk_thread_identity()
        ring = JobRing()
    }

    func enqueue(_ job: consuming ExecutorJob) {
        if dk_thread_identity() == thread { ring.append(UnownedJob(job)) } else { mailbox.enqueue(UnownedJob(job)) }
    }

    /// Whether no job waits, here or in the mailbox: a task that polls must make way for both. On the libOS's thread.
    var isIdle: Bool { ring.isEmpty && !mailbox.hasJobs }

    /// Runs the jobs that wait, those included that they enqueue, up to a number, so that devices get their turn.
    func runJobs() {
        if mailbox.hasJobs { for job in mailbox.takeJobs() { ring.append(job) } }
        var budget = 256
        while budget > 0, let job = ring.popFirst() {
            unsafe job.runSynchronously(on: asUnownedTaskExecutor())
            budget -= 1
        }
    }
}

/// A ring of jobs that doubles when it is full. A class with constant storage, so that touching it costs no exclusivity check.
///
/// Invariant: `state` addresses an initialised `State` whose storage has `mask + 1` slots, `count` of them initialised from `head` on.
@safe
private final class JobRing {
    @unsafe private struct State {
        var storage: UnsafeMutablePointer<UnownedJob>
        var mask: Int
        var head = 0
        var count = 0
    }

    @unsafe private let state: UnsafeMutablePointer<State>

    init() {
        unsafe state = .allocate(capacity: 1)
        unsafe state.initialize(to: State(storage: .allocate(capacity: 64), mask: 63))
    }

    deinit {
        unsafe state.pointee.storage.deallocate()
        unsafe state.deallocate()
    }

    var isEmpty: Bool { unsafe state.pointee.count == 0 }

    func append(_ job: UnownedJob) {
        if unsafe state.pointee.count > state.pointee.mask { grow() }
        let place = unsafe (state.pointee.head &+ state.pointee.count) & state.pointee.mask
        unsafe (state.pointee.storage + place).initialize(to: job)
        unsafe state.pointee.count &+= 1
    }

    func popFirst() -> UnownedJob? {
        guard unsafe state.pointee.count > 0 else { return nil }
        let job = unsafe (state.pointee.storage + state.pointee.head).move()
        unsafe state.pointee.head = (state.pointee.head &+ 1) & state.pointee.mask
        unsafe state.pointee.count &-= 1
        return job
    }

    private func grow() {
        let old = unsafe state.pointee
        let storage = unsafe UnsafeMutablePointer<UnownedJob>.allocate(capacity: (old.mask + 1) * 2)
        for position in unsafe 0..<old.count {
            unsafe (storage + position).moveInitialize(from: old.storage + ((old.head + position) & old.mask), count: 1)
        }
        unsafe old.storage.deallocate()
        unsafe state.pointee = State(storage: storage, mask: old.mask * 2 + 1, head: 0, count: old.count)
    }
}
