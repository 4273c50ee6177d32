import CDemikernelShims
import Glibc
import SystemPackage

/// The device side of Catnap, the libOS over plain kernel sockets and files (paper, section 6.1): which queues have blocked operations,
/// and how their readiness is learned.
///
/// With few blocked queues the fast path just tries their system calls again: one call, no epoll. With many, readiness comes from an
/// edge-triggered epoll set, so that the cost follows activity and not the number of connections. A sleeping libOS always sleeps on the set.
package struct Catnap: ~Copyable {
    /// Queues with a blocked operation, in no order.
    var blocked: BlockedQueues
    let epoll: Int32
    var events: EventBuffer
    let directPollLimit: Int
    /// Direct polls since the start, to ask the epoll set now and then.
    var directPolls: UInt32 = 0
    /// Where the direct polls have got to among the blocked queues.
    var directCursor = 0
    var files: FileBackend
    var sends: BatchedSends

    /// What events that belong to no queue carry: the mailbox's, the file engine's, and the network device's.
    static var mailboxData: UInt64 { .max }
    static var filesData: UInt64 { .max - 1 }
    static var networkData: UInt64 { .max - 2 }

    init(_ configuration: Configuration, wakeDescriptor: Int32) throws(DemikernelError) {
        let blocked = try BlockedQueues(capacity: configuration.descriptors.capacity)
        let sends = try BatchedSends(configuration.catnap.batchSends)
        let epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else { throw DemikernelError(.last, "Catnap needs an epoll descriptor") }
        guard Self.add(wakeDescriptor, to: epoll, data: Self.mailboxData, events: EPOLLIN.rawValue) else {
            let error = Errno.last
            Glibc.close(epoll)
            throw DemikernelError(error, "Catnap cannot watch its event descriptor")
        }
        self.blocked = blocked
        self.epoll = epoll
        directPollLimit = configuration.catnap.directPollLimit
        events = EventBuffer(capacity: 256)
        files = FileBackend(configuration.catnap)
        self.sends = sends
    }

    deinit { Glibc.close(epoll) }

    /// Whether there is something to do without asking the kernel what has happened: events to take, or pushes that waited for their end.
    var hasBufferedWork: Bool { @inline(__always) get { !events.isEmpty || sends.count > 0 } }

    /// Adds a descriptor to the epoll set; false with `errno` where the kernel refuses.
    static func add(_ descriptor: Int32, to epoll: Int32, data: UInt64, events: UInt32) -> Bool {
        var event = unsafe epoll_event(events: events, data: epoll_data_t(u64: data))
        return unsafe epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0
    }
}

/// Indices of the queues that have a blocked operation, each of which knows its own place here.
///
/// Invariant: the first `count` of `storage` are distinct indices; the queue at place `i` has `blockedIndex == i`.
@safe
package struct BlockedQueues: ~Copyable {
    private let storage: MappedMemory<UInt32>
    private(set) var count = 0
    /// How many of them are not in the epoll set yet.
    var unregistered = 0

    init(capacity: Int) throws(DemikernelError) { storage = try MappedMemory(count: capacity) }

    subscript(place: Int) -> UInt32 {
        assert(place < count)
        return unsafe storage.base[place]
    }

    mutating func insert(_ index: UInt32, in queues: borrowing QueueTable) {
        guard queues[index].blockedIndex == Operation.none else { return }
        assert(count < storage.count)
        unsafe storage.base[count] = index
        queues[index].blockedIndex = UInt32(truncatingIfNeeded: count)
        count &+= 1
    }

    mutating func remove(_ index: UInt32, in queues: borrowing QueueTable) {
        let place = queues[index].blockedIndex
        guard place != Operation.none else { return }
        count &-= 1
        let last = unsafe storage.base[count]
        unsafe storage.base[Int(place)] = last
        queues[last].blockedIndex = place
        queues[index].blockedIndex = Operation.none
    }
}

/// What `epoll_wait` fills, and what of it has not been looked at yet.
///
/// Invariant: `storage` holds `capacity` events, of which those from `next` up to `count` came with the last call and are still to be taken.
@safe
package struct EventBuffer: ~Copyable {
    private let storage: UnsafeMutablePointer<epoll_event>
    let capacity: Int
    private var next = 0
    private var count = 0

    init(capacity: Int) {
        self.capacity = capacity
        unsafe storage = .allocate(capacity: capacity)
        unsafe storage.initialize(repeating: epoll_event(), count: capacity)
    }

    deinit { unsafe storage.deallocate() }

    var isEmpty: Bool { @inline(__always) get { next == count } }

    /// Takes the next event: the data that the descriptor was added with, and what happened to it.
    @inline(__always)
    mutating func popFirst() -> (data: UInt64, events: UInt32)? {
        guard next < count else { return nil }
        next &+= 1
        return unsafe (storage[next &- 1].data.u64, storage[next &- 1].events)
    }

    /// Waits for events for at most `nanoseconds` (`.max` is for ever, 0 polls). All that came before were taken. Interruption counts as none.
    mutating func wait(_ epoll: Int32, nanoseconds: UInt64) {
        assert(isEmpty)
        let result: Int32
        switch nanoseconds {
        case 0: result = unsafe Int32(truncatingIfNeeded: dk_epoll_poll(epoll, storage, Int32(capacity)))
        case .max: result = unsafe epoll_wait(epoll, storage, Int32(capacity), -1)
        default:
            var timeout = timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
            result = unsafe epoll_pwait2(epoll, storage, Int32(capacity), &timeout, nil)
        }
        next = 0
        count = Int(max(0, result))
    }
}

extension Core {
    // MARK: - The fast path

    /// One poll of the kernel devices.
    mutating func pollCatnap() {
        if catnap.files.inFlight > 0 { reapFiles() }
        guard !catnap.hasBufferedWork else { return takeBufferedEvents() }
        guard catnap.blocked.count > 0 else { return }
        guard catnap.blocked.count <= catnap.directPollLimit else {
            registerBlocked()
            return takeEvents(nanoseconds: 0)
        }
        var hasListener = false
        // Going round, and until an operation has completed: the application answers one request before the next is read.
        let before = completedCount
        var left = catnap.blocked.count
        while left > 0, completedCount == before, catnap.blocked.count > 0 {
            left &-= 1
            catnap.directCursor = catnap.directCursor &+ 1 < catnap.blocked.count ? catnap.directCursor &+ 1 : 0
            let index = catnap.blocked[catnap.directCursor]
            if queues[index].kind == .kernelListener {
                hasListener = true
                if !queues[index].flags.contains(.registered) && register(index) { catnap.blocked.unregistered &-= 1 }
            } else {
                pollKernelSocket(index, regardless: true)
            }
        }
        // accept4(2) makes a socket before it looks whether there is a connection: a listener's readiness is asked for now and then instead.
        guard hasListener else { return }
        catnap.directPolls &+= 1
        if catnap.directPolls & 15 == 0 || catnap.blocked.count == 1 { takeEvents(nanoseconds: 0) }
    }

    /// Sleeps on the epoll set.
    mutating func sleepCatnap(nanoseconds: UInt64) {
        let before = completedCount
        sendDeferred()
        registerBlocked()
        // What was sent has completed, and so may have what the kernel refused to watch and was tried: no time to sleep.
        guard completedCount == before else { return }
        catnap.files.watch(in: catnap.epoll)
        // Queues that cannot be watched have to be looked at now and then.
        takeEvents(nanoseconds: catnap.blocked.unregistered > 0 ? min(nanoseconds, 1_000_000) : nanoseconds)
        if catnap.files.inFlight > 0 { reapFiles() }
    }

    /// Waits for events where all earlier ones were taken, and takes them until an operation has completed.
    private mutating func takeEvents(nanoseconds: UInt64) {
        if catnap.events.isEmpty { catnap.events.wait(catnap.epoll, nanoseconds: nanoseconds) }
        takeBufferedEvents()
    }

    /// Takes events that came with an earlier system call until an operation has completed: the application answers one request before the
    /// next is read, so that its peer need not wait for the whole batch. Where none has, what waited for others to be sent with is sent.
    mutating func takeBufferedEvents() {
        let before = completedCount
        while completedCount == before, let (data, events) = catnap.events.popFirst() {
            switch data {
            case Catnap.mailboxData: mailbox.acknowledge()
            // The engine's completions are taken by whoever polls it.
            case Catnap.filesData: break
            // The device is polled after every sleep.
            case Catnap.networkData: break
            default: noteReadiness(index: UInt32(truncatingIfNeeded: data), generation: UInt32(truncatingIfNeeded: data >> 32), events)
            }
        }
        if completedCount == before { sendDeferred() }
    }

    private mutating func noteReadiness(index: UInt32, generation: UInt32, _ events: UInt32) {
        // The queue may have been closed, and its slot taken by another, since the event was queued.
        guard queues[index].kind != .free, queues[index].generation == generation else { return }
        if events & (EPOLLIN.rawValue | EPOLLERR.rawValue) != 0 { queues[index].flags.insert(.readable) }
        if events & (EPOLLOUT.rawValue | EPOLLERR.rawValue) != 0 { queues[index].flags.insert(.writable) }
        if events & (EPOLLRDHUP.rawValue | EPOLLHUP.rawValue | EPOLLERR.rawValue) != 0 {
            queues[index].flags.formUnion([.hangup, .readable, .writable])
        }
        // Run to completion, in the order of the events, and so alike for all.
        pollKernelSocket(index, regardless: false)
    }

    /// Puts every blocked queue into the epoll set; each is registered once in its life, most when they first block. What the kernel refuses
    /// to watch (out of memory, `fs.epoll.max_user_watches`) is tried directly instead.
    private mutating func registerBlocked() {
        guard catnap.blocked.unregistered > 0 else { return }
        var place = catnap.blocked.count
        while place > 0 {
            place &-= 1
            let index = catnap.blocked[place]
            guard !queues[index].flags.contains(.registered) else { continue }
            if register(index) { catnap.blocked.unregistered &-= 1 } else { pollKernelSocket(index, regardless: true) }
        }
    }

    private mutating func register(_ index: UInt32) -> Bool {
        guard !queues[index].flags.contains(.registered) else { return true }
        let mask = EPOLLIN.rawValue | EPOLLOUT.rawValue | EPOLLRDHUP.rawValue | EPOLLET.rawValue
        let data = UInt64(queues[index].generation) << 32 | UInt64(index)
        guard Catnap.add(queues[index].fileDescriptor, to: catnap.epoll, data: data, events: mask) else { return false }
        queues[index].flags.insert(.registered)
        return true
    }

    /// Marks a queue as having a blocked operation.
    @inline(__always)
    mutating func block(_ index: UInt32) {
        guard queues[index].blockedIndex == Operation.none else { return }
        catnap.blocked.insert(index, in: queues)
        guard !queues[index].flags.contains(.registered) else { return }
        // Among many at once, so that nobody ever has to go through all of them.
        if catnap.blocked.count > catnap.directPollLimit && register(index) { return }
        catnap.blocked.unregistered &+= 1
    }

    /// After operations of a queue have completed: forgets the queue where none is left, else has the next one tried.
    @inline(__always)
    mutating func settle(_ index: UInt32) {
        if queues[index].readers.isEmpty && queues[index].writers.isEmpty {
            if queues[index].blockedIndex != Operation.none {
                catnap.blocked.remove(index, in: queues)
                if !queues[index].flags.contains(.registered) { catnap.blocked.unregistered &-= 1 }
            }
        }
    }
}
