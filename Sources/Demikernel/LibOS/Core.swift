import SystemPackage

/// Everything behind a ``LibOS``: one heap, one scheduler, one table of operations, one table of queues, and the devices. One thread.
///
/// The calls that the application makes are in the extensions: queues in `Core+Queues`, waiting in `Core+Wait`, each device in files
/// of its own.
package struct Core: ~Copyable {
    package let heap: Heap
    package var clock: Clock
    package var timers: TimerWheel<QToken>
    package var scheduler: Scheduler
    package var operations: OperationTable
    package var completions = CompletionList()
    package var queues: QueueTable
    package var catnap: Catnap
    /// The device and the network stack where the libOS has its own; else sockets are the kernel's.
    package var network: NetworkBackend
    package let mailbox: Mailbox
    package let configuration: Configuration
    /// How long a waiting call spins before it sleeps; `.max` is for ever.
    let spin: UInt64

    /// Operations that completed since the start: whoever polls sees by it whether there was progress.
    package var completedCount: UInt64 = 0
    /// When an operation last completed, as far as the clock was read.
    var lastProgress: UInt64 = 0
    private var lastProgressCount: UInt64 = 0
    /// The time that was read last: the stack's time never goes back.
    private(set) var turnTime: UInt64 = 0
    /// Turns since the clock was read, of those that brought nothing; see ``networkTurn()``.
    var turnsWithoutTime: UInt32 = 0
    let turnsWithoutTimeMaximum: UInt32
    /// Something was pushed since the clock was read, and is taken for pushed then.
    var hasPushed = false
    /// Calls since the start, to poll the devices now and then in programs that submit without waiting.
    var calls: UInt32 = 0
    /// Where `waitAny` goes on checking its array.
    var sweepCursor = 0
    /// How many tokens it has checked so since the start.
    var sweptCount: UInt64 = 0
    var lastOffset = 0
    var lastCount = 0
    /// The object that owns this core (unmanaged), for ``LibOS/current``.
    var owner: UInt = 0
    /// Whether ``LibOS/run(_:)`` is on the stack.
    var isRunningTasks = false

    /// A core whose sockets go through a network stack of its own where `parts` are given, and are the kernel's else. The heap is one of the
    /// settings', the calling thread's from here on.
    package init(
        _ configuration: Configuration, network parts: NetworkParts? = nil, clock policy: Clock.Policy? = nil
    ) throws(DemikernelError) {
        let heap = try Heap(HeapConfiguration(settings: configuration.heap))
        _ = heap.makeCurrent()
        try self.init(configuration, heap: heap, network: parts, clock: policy)
    }

    /// The same with a heap that there is already, current on this thread: a device may have its memory.
    init(
        _ configuration: Configuration, heap: consuming Heap, network parts: NetworkParts?, clock policy: Clock.Policy? = nil
    ) throws(DemikernelError) {
        // What may throw comes before the first stored property, so that a half-made core never has to be taken apart.
        var clock = Clock(policy ?? (configuration.clock.tsc == .prefer ? .preferTimestampCounter : .system))
        let scheduler = try Scheduler(applicationCapacity: configuration.operations.capacity)
        let operations = try OperationTable(capacity: configuration.operations.capacity)
        let queues = try QueueTable(capacity: configuration.descriptors.capacity)
        let timers = try TimerWheel<QToken>(capacity: configuration.operations.capacity)
        let mailbox = try Mailbox()
        let catnap = try Catnap(configuration, wakeDescriptor: mailbox.eventDescriptor)
        let now = clock.now()
        var parts = parts
        try parts?.dress(configuration.network, heap: heap.reference)
        let network = try NetworkBackend.make(parts, heap: heap.reference, queues: queues.capacity, now: now, watchedBy: catnap.epoll)
        self.configuration = configuration
        spin = configuration.wait.spin.nanoseconds
        self.heap = heap
        self.scheduler = scheduler
        self.operations = operations
        self.queues = queues
        self.timers = timers
        self.mailbox = mailbox
        self.catnap = catnap
        // A time that is set from outside is looked at in each turn: there may be no further one.
        turnsWithoutTimeMaximum = clock.source == .manual ? 0 : Self.turnsWithoutTime
        self.clock = clock
        let isNetworkPresent = network.isPresent
        self.network = network
        self.scheduler.spawnFastPath(isNetworkPresent ? .network : .catnap)
        lastProgress = now
        turnTime = now
    }

    // MARK: - Turns of the scheduler

    /// How many application tasks run before devices get their turn.
    static var readyBudget: Int { 1024 }

    /// Polls application tasks that are ready; a bounded number, so that devices get their turn.
    @inline(__always)
    mutating func runReady() {
        guard !scheduler.application.isEmpty else { return }
        runReadySlowly()
    }

    @inline(never)
    private mutating func runReadySlowly() {
        var budget = Self.readyBudget
        while budget > 0, let slot = scheduler.application.next() {
            poll(slot)
            budget &-= 1
        }
    }

    /// The turn that every submitting call gives the scheduler: ready tasks, and now and then a device, which costs a system call.
    @inline(__always)
    mutating func submissionTurn() {
        runReady()
        calls &+= 1
        if calls & 63 == 0 { runBackground(now: readTime()) }
    }

    /// A turn of a waiting call, which has run the ready tasks: one background task, mostly the device's fast path, then what other threads
    /// ask for and what is due, then the tasks that all this has made ready.
    package mutating func idleTurn() { idleTurnInline() }

    /// The same within its caller.
    @inline(always)
    mutating func idleTurnInline() {
        if network.isPresent, scheduler.isFastPathAlone { return networkTurn() }
        let now = readTime()
        runBackground(now: now)
        mailboxTurn()
        fireTimers(now: now)
        runReady()
        noteProgress(now: now)
    }

    /// Reads the clock: for a turn, or a call into the network stack.
    @inline(__always)
    mutating func readTime() -> UInt64 {
        let before = turnTime
        turnTime = clock.now()
        if hasPushed { notePushes(since: before) }
        return turnTime
    }

    /// What was pushed since the clock was last read carries that reading: where the application took its time, the stack has to know.
    @inline(__always)
    private mutating func notePushes(since before: UInt64) {
        hasPushed = false
        if turnTime &- before > Self.longCall, clock.source != .manual { network.stack.tcp.notePause(from: before, to: turnTime) }
    }

    /// How many turns in a row that bring nothing may do without reading the clock.
    private static var turnsWithoutTime: UInt32 { 3 }
    /// Nanoseconds between two calls of the application beyond which a push's time is not the last reading's.
    private static var longCall: UInt64 { 1_000_000 }

    @inline(__always)
    mutating func noteProgress(now: UInt64) {
        if completedCount != lastProgressCount {
            lastProgressCount = completedCount
            lastProgress = now
        }
    }

    /// Polls the background task that has been ready for longest, if any.
    @inline(__always)
    mutating func runBackground(now: UInt64) {
        guard scheduler.isFastPathAlone else { return runBackgroundSlowly(now: now) }
        if network.isPresent { pollNetwork(now: now) } else { pollCatnap() }
        scheduler.fastPathWasPolled()
    }

    @inline(never)
    private mutating func runBackgroundSlowly(now: UInt64) {
        guard let waker = scheduler.nextBackground() else { return }
        switch scheduler.task(waker) {
        case .catnap:
            pollCatnap()
            scheduler.polled(waker, .ready)
        case .network:
            pollNetwork(now: now)
            scheduler.polled(waker, .ready)
        case .foreign(let task):
            scheduler.polled(waker, unsafe PollResult(rawValue: task.poll(task.context, now)) ?? .finished)
        }
    }

    /// Completes the timers that are due, in the order of their times: waking their tasks would poll them in the order of their slots.
    @inline(__always)
    mutating func fireTimers(now: UInt64) {
        if !timers.isEmpty { firePendingTimers(now: now) }
    }

    @inline(never)
    private mutating func firePendingTimers(now: UInt64) {
        while let token = timers.popExpired(now: now) {
            if operations.contains(token) && operations[token.slot].phase == .pending { complete(token.slot) }
        }
    }

    /// Does what other threads asked for: cancellations, and memory that they gave back.
    @inline(__always)
    mutating func mailboxTurn() {
        heap.drainReturns()
        if mailbox.hasMail { takeMail() }
    }

    @inline(never)
    private mutating func takeMail() {
        mailbox.clearFlag()
        for token in mailbox.takeCancellations() { cancelAwaited(token) }
        for closed in mailbox.takeClosed() { closeAbandoned(closed) }
        for exchange in mailbox.takeQuestions() { exchange.complete(answer(exchange.question)) }
    }

    /// Sleeps until a device or another thread has something, a timer is due, or `deadline` has come.
    mutating func sleep(until deadline: UInt64) {
        var limit = deadline
        if let due = timers.nextDeadline() { limit = min(limit, due) }
        let now = readTime()
        // Something is due already: no time to sleep, but the devices get their turn.
        guard limit > now else { return idleTurn() }
        // What became ready while the descriptors were being registered must not wait for the sleep.
        // Neither must the devices: a file operation that found its device full stays ready until that has completed something.
        guard scheduler.application.isEmpty else { return idleTurn() }
        guard !network.isPresent || prepareNetworkToSleep(until: &limit, now: now) else { return idleTurn() }
        sleepCatnap(nanoseconds: limit == .max ? .max : limit - now)
        let woken = readTime()
        if network.isPresent {
            network.wake()
            pollNetwork(now: woken)
        }
        mailboxTurn()
        fireTimers(now: woken)
        runReady()
        // The spinning that precedes the next sleep starts at the wake-up's progress, not at the one before the sleep.
        noteProgress(now: woken)
    }

    // MARK: - Operations

    /// Polls the task of one operation: tries once more what it is blocked on.
    mutating func poll(_ slot: UInt32) {
        // The slot's tenant may have ended, or may be new: every kind bears a needless poll.
        guard operations[slot].phase == .pending else { return }
        switch operations[slot].kind {
        case .yield: return scheduler.application.wake(slot)
        // Its entry in the wheel completes it.
        case .timer: return
        case .accept, .connect, .push, .pop: break
        }
        let index = operations[slot].queue
        switch queues[index].kind {
        case .free: break
        // Pushes and pops of a memory queue complete each other.
        case .memory: break
        case .kernelStream, .kernelListener, .kernelDatagram: pollKernelSocket(index, regardless: true)
        case .networkStream, .networkListener, .networkDatagram: pollNetworkSocket(index)
        case .kernelFile: pollFile(index)
        }
    }

    /// Completes a pending operation that is in no queue's list any more.
    @inline(__always)
    mutating func complete(_ slot: UInt32, errno: Int32 = 0) {
        let operation = unsafe operations.pointer(to: slot)
        assert(unsafe operation.pointee.phase == .pending)
        unsafe operation.pointee.phase = .complete
        unsafe operation.pointee.errno = errno
        completedCount &+= 1
        guard unsafe operation.pointee.flags.isDisjoint(with: [.awaited, .abandoned]) else { return completeForTask(slot) }
        completions.append(slot, in: operations)
    }

    /// The same for an operation that belongs to a Swift task, or did until the task was cancelled.
    private mutating func completeForTask(_ slot: UInt32) {
        if operations[slot].flags.contains(.abandoned) {
            operations[slot].segments.releaseAll()
            return operations.remove(slot)
        }
        operations[slot].flags.insert(.unlisted)
        resume(slot)
    }

    /// Completes the first of a queue's readers.
    @inline(__always)
    mutating func completeReader(_ index: UInt32, _ slot: UInt32, errno: Int32 = 0) {
        queues[index].readers.remove(slot, in: operations)
        complete(slot, errno: errno)
    }

    /// Completes the first of a queue's writers; what it sent is released, what it could not send stays with it.
    @inline(__always)
    mutating func completeWriter(_ index: UInt32, _ slot: UInt32, errno: Int32 = 0) {
        queues[index].writers.remove(slot, in: operations)
        if errno == 0 {
            operations[slot].segments.releaseAll()
            operations[slot].segments = .empty
        }
        complete(slot, errno: errno)
    }

    /// A new pending operation on a queue, to which the references of `segments` pass. Throws ENOMEM where the table is full.
    @inline(__always)
    mutating func begin(_ kind: OperationKind, on index: UInt32, _ segments: SegmentList = .empty) throws(DemikernelError) -> UInt32 {
        guard let slot = operations.insert(kind, queue: index, segments: segments) else {
            throw DemikernelError(.noMemory, "too many operations are pending: wait for some, or raise operations.capacity")
        }
        return slot
    }

    /// Takes a completed operation out of the table: its token is dead from here on, what it carries is the caller's.
    @inline(__always)
    package mutating func take(_ slot: UInt32) -> RawCompletion { take(operations.token(of: slot)) }

    /// The same for a token that is known to name a completed operation.
    @inline(__always)
    package mutating func take(_ token: QToken) -> RawCompletion {
        let slot = token.slot
        let operation = unsafe operations.pointer(to: slot)
        assert(unsafe operation.pointee.phase == .complete)
        let flags = unsafe operation.pointee.flags
        let result = unsafe RawCompletion(
            token: token, errno: operation.pointee.errno, kind: operation.pointee.kind, hasAddress: flags.contains(.hasAddress),
            descriptor: queues.descriptor(of: operation.pointee.queue), accepted: queues.descriptor(of: operation.pointee.accepted),
            segments: operation.pointee.segments,
            // The address is on the operation's second cache line: left alone where there is none.
            address: flags.contains(.hasAddress) ? operation.pointee.address : .any(port: 0))
        if !flags.contains(.unlisted) { completions.remove(slot, in: operations) }
        operations.remove(slot)
        return result
    }

    /// Cancels a pending operation: it completes as failed with ECANCELED, or with what the device did if that is already under way.
    ///
    /// Throws EINVAL for a token that names no operation, EALREADY for one that has completed, EBUSY for a stream push of which the device
    /// has taken a part: cancelling it would tear the byte stream.
    package mutating func cancel(_ token: QToken) throws(DemikernelError) {
        guard operations.contains(token) else { throw DemikernelError(.invalidArgument, "the token names no operation") }
        let slot = token.slot
        guard operations[slot].phase == .pending else {
            throw DemikernelError(.alreadyInProcess, "the operation has completed: wait for it")
        }
        guard !isPartlySent(slot) else {
            throw DemikernelError(.resourceBusy, "a part of the push has been sent: cancelling it would tear the stream")
        }
        guard !operations[slot].isInFlight else { return cancelInFlight(slot) }
        let index = operations[slot].queue
        switch operations[slot].kind {
        case .accept, .pop:
            completeReader(index, slot, errno: Errno.canceled.rawValue)
            if queues[index].kind.isNetwork { noteReader(index) }
        case .push: cancelPush(index, slot)
        case .connect:
            abandonConnect(index)
            completeWriter(index, slot, errno: Errno.canceled.rawValue)
        case .timer: return cancelTimer(slot)
        case .yield: return complete(slot, errno: Errno.canceled.rawValue)
        }
        settle(index)
    }

    /// Cancels an operation whose task was cancelled. Where it cannot be, the task goes on without it: see ``abandon(_:)``.
    private mutating func cancelAwaited(_ token: QToken) {
        do throws(DemikernelError) {
            try cancel(token)
        } catch {
            guard error.errno == .resourceBusy, operations[token.slot].flags.contains(.awaited) else { return }
            resume(token.slot)
        }
    }

    /// Leaves a push of which a part has been sent to the device, which keeps its memory until it has gone: nobody waits for it any more.
    /// False for an operation that can be cancelled instead.
    func abandon(_ token: QToken) -> Bool {
        guard isPartlySent(token.slot) else { return false }
        operations[token.slot].flags.insert(.abandoned)
        return true
    }

    private func isPartlySent(_ slot: UInt32) -> Bool {
        operations[slot].kind == .push && queues[operations[slot].queue].kind.isStream && operations[slot].progress > 0
    }

    /// Fails every operation that is pending on a queue.
    mutating func cancelAll(_ index: UInt32, errno: Int32) {
        while !queues[index].readers.isEmpty { completeReader(index, queues[index].readers.first, errno: errno) }
        while !queues[index].writers.isEmpty { completeWriter(index, queues[index].writers.first, errno: errno) }
    }
}

/// A completed operation as plain memory: the reference that `segments` carries is whoever takes it.
package struct RawCompletion: BitwiseCopyable {
    package let token: QToken
    /// A positive errno, or 0.
    package let errno: Int32
    package let kind: OperationKind
    package let hasAddress: Bool
    package let descriptor: QueueDescriptor
    package let accepted: QueueDescriptor
    package let segments: SegmentList
    package let address: SocketAddress
}

extension HeapConfiguration {
    init(settings: Configuration.Heap) {
        let hugePages: HugePagePolicy = switch settings.hugePages {
        case .prefer: .prefer
        case .never: .never
        case .require: .require
        }
        self.init(limit: settings.limit, hugePages: hugePages, lockPages: settings.lockPages, checked: settings.checked)
    }
}
