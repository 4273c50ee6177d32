/// One station of the link, found by ARP or NDP. RFC 4861, section 5.1; ARP entries live by the same rules.
struct Neighbour: BitwiseCopyable {
    /// RFC 4861, section 7.3.2; `unresolved` is a neighbour that nothing was sent to yet, or that did not answer.
    enum State: UInt8, BitwiseCopyable {
        case unresolved, incomplete, reachable, stale, delay, probe, permanent
    }

    var address: IPAddress
    var linkAddress: MACAddress
    /// Before this time a frame goes out without a thought: 0 where there is no address yet, and where sending begins to cast doubt on it (stale).
    var freshUntil: UInt64
    /// When the state's timer runs out: incomplete, delay and probe.
    var deadline: UInt64
    /// When `linkAddress` was last changed.
    var changedAt: UInt64
    fileprivate var next: UInt32
    fileprivate var previous: UInt32
    var state: State
    var attempts: UInt8
    fileprivate var pendingFirst: UInt8
    fileprivate(set) var pendingCount: UInt8
    fileprivate var list: NeighbourTable.List

    /// Whether frames go to an address that wants to be confirmed.
    @inline(__always)
    func isInDoubt(_ now: UInt64) -> Bool { state == .delay || state == .probe || (state == .reachable && freshUntil <= now) }

    /// Whether frames can be sent now, though the address may need to be confirmed.
    @inline(__always) var hasLinkAddress: Bool { state.rawValue >= State.reachable.rawValue }
}

/// The stations of the link that this one has needed, or that have asked for it. RFC 4861, section 5.1 and 7.3; RFC 826.
///
/// Bounded: what is needed by this host takes the place of what was confirmed longest ago, what others bring takes free places alone, and not
/// the last quarter of them. Every operation is O(1) and allocates nothing.
///
/// Invariant: every slot that is in use is in exactly one list; `timed` and `delayed` are in the order of their deadlines, because each has
/// one interval; pending frames are owned by the table, at most `pendingMaximum` for each slot; `pendingCount` is how many they are in all.
struct NeighbourTable: ~Copyable {
    /// `idle`: no timer, the longest unconfirmed first; `timed`: waiting for an answer; `delayed`: waiting to be probed.
    enum List: UInt8, BitwiseCopyable { case idle, timed, delayed, fixed }
    struct Ends: BitwiseCopyable {
        var first = UInt32.max
        var last = UInt32.max
    }

    private var entries: MappedMemory<Neighbour>
    private var pending: MappedMemory<Frame>
    private var index: HashIndex
    private let hash: NetworkHash
    private let pendingMaximum: Int
    private let pendingShare: Int
    private let pendingTotalMaximum: Int
    /// Frames that wait, for all neighbours.
    private(set) var pendingCount = 0
    let capacity: Int
    private var lists = InlineArray<4, Ends>(repeating: Ends())
    private var used = 0
    private(set) var count = 0

    init(_ configuration: NeighbourConfiguration, hash: NetworkHash) throws(DemikernelError) {
        let capacity = max(1, min(configuration.capacity, 1 << 20))
        let pendingMaximum = max(1, min(configuration.pendingMaximum, 255))
        let entries = try MappedMemory<Neighbour>(count: capacity)
        let pending = try MappedMemory<Frame>(count: capacity * pendingMaximum)
        let index = try HashIndex(capacity: capacity)
        self.capacity = capacity
        self.pendingMaximum = pendingMaximum
        pendingShare = max(1, configuration.pendingShare)
        pendingTotalMaximum = configuration.pendingTotalMaximum
        self.hash = hash
        self.entries = entries
        self.pending = pending
        self.index = index
    }

    deinit {
        for slot in 0..<used {
            let entry = unsafe entries.base[slot]
            for number in 0..<Int(entry.pendingCount) {
                let place = slot * pendingMaximum + (Int(entry.pendingFirst) + number) % pendingMaximum
                unsafe pending.base[place].release()
            }
        }
    }

    /// The neighbour of a slot that ``find(_:)`` or ``insert(_:forOwnUse:counters:)`` has answered.
    @inline(__always) subscript(slot: UInt32) -> Neighbour {
        @inline(__always) unsafeAddress { unsafe UnsafePointer(entries.base + Int(slot)) }
        @inline(__always) unsafeMutableAddress { unsafe entries.base + Int(slot) }
    }

    /// The slot of `address`; nil where it is not in the table.
    mutating func find(_ address: IPAddress) -> UInt32? {
        var walk = index.walk(hash(address))
        while let slot = index.next(&walk) {
            if self[slot].address == address { return slot }
        }
        return nil
    }

    /// A new, unresolved neighbour, idle. `address` is not in the table. nil where there is no room: never for this host's own use, unless all
    /// entries are static.
    mutating func insert(_ address: IPAddress, forOwnUse: Bool, counters: inout NetworkCounters) -> UInt32? {
        if !forOwnUse, count >= capacity - capacity / 4 {
            counters.neighbourTableFull &+= 1
            return nil
        }
        guard let slot = takeSlot(counters: &counters) else {
            counters.neighbourTableFull &+= 1
            return nil
        }
        self[slot] = Neighbour(
            address: address, linkAddress: .zero, freshUntil: 0, deadline: .max, changedAt: 0, next: .max, previous: .max, state: .unresolved,
            attempts: 0, pendingFirst: 0, pendingCount: 0, list: .idle)
        link(slot, to: .idle)
        _ = index.insert(hash(address), slot: slot)
        count += 1
        return slot
    }

    /// Puts a slot to the end of a list, with the deadline that it has there (idle and fixed: none).
    mutating func move(_ slot: UInt32, to list: List, deadline: UInt64 = .max) {
        unlink(slot)
        self[slot].deadline = deadline
        link(slot, to: list)
    }

    /// Believes no neighbour any more but static ones and those that are being asked for. Complexity: O(neighbours).
    mutating func forgetAddresses() {
        for slot in 0..<UInt32(used) {
            switch self[slot].state {
            case .reachable, .stale, .delay, .probe:
                self[slot].state = .unresolved
                self[slot].freshUntil = 0
                move(slot, to: .idle)
            case .unresolved, .incomplete, .permanent: break
            }
        }
    }

    /// The first deadline there is; `UInt64.max` for none.
    @inline(__always) mutating func nextDeadline() -> UInt64 {
        let timed = lists[Int(List.timed.rawValue)].first
        let delayed = lists[Int(List.delayed.rawValue)].first
        return min(timed == .max ? .max : self[timed].deadline, delayed == .max ? .max : self[delayed].deadline)
    }

    /// A slot whose deadline has come; nil where there is none. The caller moves it on.
    mutating func due(_ now: UInt64) -> UInt32? {
        let timed = lists[Int(List.timed.rawValue)].first
        if timed != .max, self[timed].deadline <= now { return timed }
        let delayed = lists[Int(List.delayed.rawValue)].first
        if delayed != .max, self[delayed].deadline <= now { return delayed }
        return nil
    }

    // MARK: Pending frames

    /// Keeps a frame until the neighbour is found; answers the oldest where there are too many, for the caller to release. RFC 1122, section
    /// 2.3.2.2; RFC 4861, section 7.2.2. What all neighbours share may be used up; their own shares never are.
    mutating func enqueue(_ frame: Frame, _ slot: UInt32) -> Frame? {
        let waiting = Int(self[slot].pendingCount)
        let isFull = waiting == pendingMaximum || (waiting >= pendingShare && pendingCount >= pendingTotalMaximum)
        let oldest = isFull ? dequeue(slot) : nil
        let place = (Int(self[slot].pendingFirst) + Int(self[slot].pendingCount)) % pendingMaximum
        pending[Int(slot) * pendingMaximum + place] = frame
        self[slot].pendingCount += 1
        pendingCount += 1
        return oldest
    }

    /// The oldest frame that waits for the neighbour; nil where there is none.
    mutating func dequeue(_ slot: UInt32) -> Frame? {
        guard self[slot].pendingCount > 0 else { return nil }
        let frame = pending[Int(slot) * pendingMaximum + Int(self[slot].pendingFirst)]
        self[slot].pendingFirst = UInt8((Int(self[slot].pendingFirst) + 1) % pendingMaximum)
        self[slot].pendingCount -= 1
        pendingCount -= 1
        return frame
    }

    // MARK: Slots and lists

    /// A slot never used, or the one that can best be spared: RFC 4861 leaves the choice to us.
    private mutating func takeSlot(counters: inout NetworkCounters) -> UInt32? {
        if used < capacity {
            used += 1
            return UInt32(used - 1)
        }
        let idle = lists[Int(List.idle.rawValue)].first
        let victim = idle != .max ? idle : lists[Int(List.delayed.rawValue)].first != .max
            ? lists[Int(List.delayed.rawValue)].first : lists[Int(List.timed.rawValue)].first
        guard victim != .max else { return nil }
        counters.neighboursEvicted &+= 1
        while let frame = dequeue(victim) {
            counters.pendingDrops &+= 1
            frame.release()
        }
        unlink(victim)
        index.remove(hash(self[victim].address), slot: victim)
        count -= 1
        return victim
    }

    private mutating func link(_ slot: UInt32, to list: List) {
        let last = lists[Int(list.rawValue)].last
        self[slot].list = list
        self[slot].previous = last
        self[slot].next = .max
        if last == .max { lists[Int(list.rawValue)].first = slot } else { self[last].next = slot }
        lists[Int(list.rawValue)].last = slot
    }

    private mutating func unlink(_ slot: UInt32) {
        let list = Int(self[slot].list.rawValue)
        let (previous, next) = (self[slot].previous, self[slot].next)
        if previous == .max { lists[list].first = next } else { self[previous].next = next }
        if next == .max { lists[list].last = previous } else { self[next].previous = previous }
    }
}
