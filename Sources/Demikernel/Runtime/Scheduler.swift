/// What a poll of a task answers.
package enum PollResult: UInt8 {
    /// The task is blocked: it costs nothing until its waker is called.
    case blocked
    /// The task wants to run again after the others (the fast path does, always).
    case ready
    /// The task has ended; its wakers are dead from here on.
    case finished
}

/// Names a task for whoever will wake it: slot and generation, so that waking a task that has ended does nothing.
package struct Waker: BitwiseCopyable, Equatable {
    fileprivate let key: Slab<BackgroundTask>.Key
    fileprivate init(_ key: Slab<BackgroundTask>.Key) { self.key = key }
}

/// A background task that code outside the scheduler polls: a function and its context, not a closure (27.7 ns and a retain).
@safe package struct ForeignTask: BitwiseCopyable {
    package typealias Poll = @convention(c) (_ context: UnsafeMutableRawPointer?, _ now: UInt64) -> UInt8
    let poll: Poll
    let context: UnsafeMutableRawPointer?
}

/// The kinds of background task: closed, so that polling one is a switch.
package enum BackgroundTask {
    /// The fast path of Catnap: polls kernel sockets and files.
    case catnap
    /// The fast path of a libOS with a network stack of its own: polls the device and the stack.
    case network
    case foreign(ForeignTask)
}

/// The cooperative scheduler: which task runs next (paper, section 5.4).
///
/// Application tasks are the operations that have a qtoken: they are polled first, in rounds. Background tasks and the fast path follow in
/// the order in which they became ready. A blocked task is a zero bit. Every operation takes constant time and allocates nothing.
package struct Scheduler: ~Copyable {
    package static var backgroundCapacity: Int { 4096 }

    package var application: ReadySet
    private var records: Slab<BackgroundTask>
    private var queued: Bitmap
    private var ready: FixedRing
    /// The slot of the fast path.
    private var fastPath = UInt32.max

    package init(applicationCapacity: Int) throws(DemikernelError) {
        application = ReadySet(capacity: applicationCapacity)
        records = try Slab(capacity: Self.backgroundCapacity)
        queued = Bitmap(capacity: Self.backgroundCapacity)
        ready = FixedRing(capacity: Self.backgroundCapacity)
    }

    /// Starts a background task, ready at once; nil where ``backgroundCapacity`` tasks live already.
    package mutating func spawn(_ task: BackgroundTask) -> Waker? {
        guard let key = records.insert(task) else { return nil }
        wakeBackground(key.slot)
        return Waker(key)
    }

    /// Starts the task that is ready for as long as the libOS lives. Called once, before any task is spawned.
    package mutating func spawnFastPath(_ task: BackgroundTask) {
        guard let waker = spawn(task) else { return }
        fastPath = waker.key.slot
    }

    /// Whether no background task but the fast path is ready: to be polled, it need not leave the line, of which it is both ends.
    @inline(__always)
    package var isFastPathAlone: Bool { ready.count == 1 && ready.first == fastPath }

    /// The fast path was polled in its place: what it has woken meanwhile comes before it.
    @inline(__always)
    package mutating func fastPathWasPolled() {
        if ready.count > 1 { ready.rotate() }
    }

    /// Ends a task. Safe for a task that has ended.
    package mutating func end(_ waker: Waker) { _ = records.remove(waker.key) }

    /// Wakes a background task that still lives.
    @inline(__always)
    package mutating func wake(background waker: Waker) {
        if records.contains(waker.key) { wakeBackground(waker.key.slot) }
    }

    /// Takes the background task that has been ready for longest.
    @inline(__always)
    package mutating func nextBackground() -> Waker? {
        while let slot = ready.popFirst() {
            queued.remove(slot)
            if let key = records.key(of: slot) { return Waker(key) }
        }
        return nil
    }

    /// How many background tasks are ready, the fast path among them.
    package var backgroundReadyCount: Int { ready.count }

    package func task(_ waker: Waker) -> BackgroundTask { records[waker.key] }

    /// Takes note of what polling a background task answered.
    @inline(__always)
    package mutating func polled(_ waker: Waker, _ result: PollResult) {
        switch result {
        case .blocked: break
        case .ready: wake(background: waker)
        case .finished: end(waker)
        }
    }

    // A slot is in the ring exactly when its bit is set, also after its task has ended, so that the ring never outgrows the slots.
    @inline(__always)
    private mutating func wakeBackground(_ slot: UInt32) {
        guard !queued.contains(slot) else { return }
        queued.insert(slot)
        ready.append(slot)
    }
}

/// A ring of slots that cannot overflow: each slot is in it at most once.
///
/// Invariant: `storage` holds `mask + 1` initialised words, a power of two; `count` of them from `head` on are in the ring.
@safe
private struct FixedRing: ~Copyable {
    private let storage: UnsafeMutablePointer<UInt32>
    private let mask: Int
    private var head = 0
    private(set) var count = 0

    init(capacity: Int) {
        precondition(capacity.nonzeroBitCount == 1)
        mask = capacity - 1
        unsafe storage = .allocate(capacity: capacity)
        unsafe storage.initialize(repeating: 0, count: capacity)
    }

    deinit { unsafe storage.deallocate() }

    @inline(__always)
    mutating func append(_ slot: UInt32) {
        assert(count <= mask)
        unsafe storage[(head &+ count) & mask] = slot
        count &+= 1
    }

    /// The first slot; anything where there is none.
    @inline(__always) var first: UInt32 { unsafe storage[head] }

    /// Puts the first slot behind the others. The ring is not empty.
    @inline(never)
    mutating func rotate() {
        guard let slot = popFirst() else { return }
        append(slot)
    }

    @inline(__always)
    mutating func popFirst() -> UInt32? {
        guard count > 0 else { return nil }
        let slot = unsafe storage[head]
        head = (head &+ 1) & mask
        count &-= 1
        return slot
    }
}
