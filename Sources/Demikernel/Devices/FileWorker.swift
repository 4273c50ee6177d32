import CDemikernelShims
import Glibc
import Synchronization
import SystemPackage

/// The helper thread: carries out file requests where io_uring cannot, one after the other, and never blocks the libOS's thread.
///
/// The thread starts with the first batch. Slots go to it through one single-producer single-consumer ring and outcomes come back through
/// another; an eventfd wakes the thread, only when it sleeps, and another tells the libOS. A stream that would block is parked and polled
/// together with the wake-up, so that it holds up neither other requests nor the end.
///
/// Invariant: `shared` lives as long as the value, and `stop`, which `deinit` calls, returns only when the thread has ended; the thread
/// reads the requests of slots that it was handed and has not given back, and of no others.
@safe
struct FileWorker: ~Copyable {
    private let shared: UnsafeMutablePointer<FileWorkerState>
    private let thread: UnsafeMutablePointer<pthread_t?>

    /// A worker, not yet running, for the requests of `table`; its outcomes make `event` readable. Throws where descriptors have run out.
    init(table: borrowing FileRequestTable, event: Int32) throws(Errno) {
        let control = dk_event_create()
        guard control >= 0 else { throw Errno(rawValue: errno) }
        unsafe thread = .allocate(capacity: 1)
        unsafe thread.initialize(to: nil)
        unsafe shared = .allocate(capacity: 1)
        unsafe shared.initialize(to: FileWorkerState(table: table, control: control, event: event))
    }

    deinit {
        stop()
        unsafe Glibc.close(shared.pointee.control)
        unsafe shared.deinitialize(count: 1)
        unsafe shared.deallocate()
        unsafe thread.deallocate()
    }

    /// Hands a slot over; `wake` makes sure that the thread looks.
    func put(_ slot: UInt32) { unsafe shared.pointee.submissions.append(slot) }

    /// Starts the thread where it is not running, and wakes it where it sleeps. Throws where no thread can be made; what was put stays.
    func wake() throws(Errno) {
        if unsafe thread.pointee == nil { try start() }
        unsafe shared.pointee.wake()
    }

    /// Lets the thread look at the cancellation marks of streams that it has parked.
    func noticeCancellation() { unsafe shared.pointee.wake() }

    /// The next outcome that is there, without a system call.
    func take() -> FileOutcome? { unsafe shared.pointee.outcomes.take() }

    /// Ends the thread: the request that it is carrying out ends as it does, all others as cancelled. Their outcomes stay to be taken.
    func stop() {
        unsafe shared.pointee.stopping.store(true, ordering: .releasing)
        guard let running = unsafe thread.pointee else {
            // Never started, so what was put is still there; cancelled here in its stead.
            unsafe shared.pointee.cancelSubmissions()
            return
        }
        unsafe shared.pointee.wake()
        pthread_join(running, nil)
        unsafe thread.pointee = nil
    }

    private func start() throws(Errno) {
        // Signals are the application's: the thread starts with all of them blocked, among them the SIGPIPE of a broken stream.
        var all = sigset_t()
        var before = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
        defer { unsafe _ = pthread_sigmask(SIG_SETMASK, &before, nil) }

        var started = pthread_t()
        let refusal = unsafe pthread_create(&started, nil, { context in
            unsafe dk_thread_set_name("demi-files")
            unsafe context.unsafelyUnwrapped.assumingMemoryBound(to: FileWorkerState.self).pointee.run()
            return nil
        }, shared)
        guard refusal == 0 else { throw Errno(rawValue: refusal) }
        unsafe thread.pointee = started
    }
}

/// What the libOS's thread and the helper thread share. `parked` and `polls` are the helper's alone.
@safe
private struct FileWorkerState: ~Copyable {
    let submissions: FileHandoff<UInt32>
    let outcomes: FileHandoff<FileOutcome>
    let sleeping = Atomic<Bool>(false)
    let stopping = Atomic<Bool>(false)
    let control: Int32
    private let event: Int32
    private let requests: UnsafePointer<FileRequest>
    private let cancellations: UnsafePointer<Atomic<Bool>>

    /// Slots of the streams that wait, and in `polls`, one further on, what they wait for; `polls[0]` is the wake-up.
    private let parked: UnsafeMutablePointer<UInt32>
    private let polls: UnsafeMutablePointer<pollfd>
    private let parkedCount: UnsafeMutablePointer<Int>

    init(table: borrowing FileRequestTable, control: Int32, event: Int32) {
        submissions = FileHandoff(capacity: table.capacity)
        outcomes = FileHandoff(capacity: table.capacity)
        self.control = control
        self.event = event
        unsafe requests = UnsafePointer(table.requests)
        unsafe cancellations = UnsafePointer(table.cancellations)
        unsafe parked = .allocate(capacity: table.capacity)
        unsafe polls = .allocate(capacity: table.capacity + 1)
        unsafe polls.initialize(to: pollfd(fd: control, events: Int16(POLLIN), revents: 0))
        unsafe parkedCount = .allocate(capacity: 1)
        unsafe parkedCount.initialize(to: 0)
    }

    deinit {
        unsafe parked.deallocate()
        unsafe polls.deallocate()
        unsafe parkedCount.deallocate()
    }

    // MARK: - Either thread

    /// Wakes the helper where it sleeps. Both sides exchange `sleeping`, so that either this sees the flag, or the helper, which sets it
    /// before it looks for the last time, sees what was put before this.
    func wake() {
        if sleeping.exchange(false, ordering: .acquiringAndReleasing) { Self.signal(control) }
    }

    func cancelSubmissions() {
        while let slot = submissions.take() { finish(slot, -ECANCELED) }
    }

    private static func signal(_ event: Int32) {
        var one: UInt64 = 1
        unsafe _ = write(event, &one, 8)
    }

    // MARK: - The helper thread

    func run() {
        while true {
            while !stopping.load(ordering: .acquiring), let slot = submissions.take() { carryOut(slot) }
            if stopping.load(ordering: .acquiring) { break }
            sleep()
            retryParked()
        }
        cancelSubmissions()
        for index in 0..<(unsafe parkedCount.pointee) { unsafe finish(parked[index], -ECANCELED) }
        unsafe parkedCount.pointee = 0
    }

    private func carryOut(_ slot: UInt32) {
        if isCancelled(slot) { return finish(slot, -ECANCELED) }
        switch unsafe FileTransfer.perform(requests[Int(slot)]) {
        case .ended(let result): finish(slot, result)
        case .blocked(let events): park(slot, events)
        }
    }

    private func isCancelled(_ slot: UInt32) -> Bool { unsafe cancellations[Int(slot)].load(ordering: .acquiring) }

    private func finish(_ slot: UInt32, _ result: Int32) {
        outcomes.append(FileOutcome(slot: slot, result: result))
        Self.signal(event)
    }

    private func park(_ slot: UInt32, _ events: Int16) {
        let index = unsafe parkedCount.pointee
        unsafe (parked + index).initialize(to: slot)
        unsafe (polls + index + 1).initialize(to: pollfd(fd: requests[Int(slot)].descriptor, events: events, revents: 0))
        unsafe parkedCount.pointee = index + 1
    }

    /// Sleeps until there is work or a parked stream is ready.
    private func sleep() {
        _ = sleeping.exchange(true, ordering: .acquiringAndReleasing)
        let wanted = !submissions.isEmpty || stopping.load(ordering: .acquiring) || hasCancelledParked
        unsafe _ = poll(polls, nfds_t(parkedCount.pointee + 1), wanted ? 0 : -1)
        _ = sleeping.exchange(false, ordering: .acquiringAndReleasing)
        var count: UInt64 = 0
        if unsafe polls[0].revents != 0 { unsafe _ = read(control, &count, 8) }
    }

    private var hasCancelledParked: Bool {
        for index in 0..<(unsafe parkedCount.pointee) where isCancelled(unsafe parked[index]) { return true }
        return false
    }

    /// Tries the parked streams that are ready or cancelled; those that block again are parked again.
    private func retryParked() {
        let count = unsafe parkedCount.pointee
        unsafe parkedCount.pointee = 0
        for index in 0..<count {
            let slot = unsafe parked[index]
            let question = unsafe polls[index + 1]
            if question.revents != 0 || isCancelled(slot) { carryOut(slot) } else { park(slot, question.events) }
        }
    }
}
