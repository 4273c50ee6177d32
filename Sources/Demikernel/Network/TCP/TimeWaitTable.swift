/// A connection in TIME_WAIT: what is left of it once both sides have closed. RFC 9293, section 3.6.1.
struct TimeWait: BitwiseCopyable {
    var tuple: ConnectionTuple
    var sendNext: SequenceNumber
    var receiveNext: SequenceNumber
    /// TS.Recent, where the connection had timestamps.
    var timestampRecent: UInt32
    var timestampOffset: UInt32
    /// TSval of the connection's last possible segment: a new incarnation's are greater.
    var timestampLast: UInt32
    var hasTimestamps: Bool
    var trafficClass: UInt8
    var deadline: UInt64
    /// The list in the order of deadlines.
    fileprivate var next: UInt32
    fileprivate var previous: UInt32
}

/// The connections in TIME_WAIT, first the one that ends first: all wait equally long, so the list is in order by itself, and needs no timers.
struct TimeWaitTable: ~Copyable {
    private var entries: Slab<TimeWait>
    private var first: UInt32 = none
    private var last: UInt32 = none

    private static var none: UInt32 { .max }

    init(maximum: Int) throws(DemikernelError) { entries = try Slab(capacity: max(1, maximum)) }

    var count: Int { entries.count }
    var isFull: Bool { entries.isFull }
    /// The one that ends first.
    var oldest: UInt32? { first == Self.none ? nil : first }
    /// When it does; the far future where there is none.
    @inline(__always) var deadline: UInt64 { first == Self.none ? .max : entries[unchecked: first].deadline }

    subscript(slot: UInt32) -> TimeWait {
        @inline(__always) get { entries[unchecked: slot] }
        set { entries[unchecked: slot] = newValue }
    }

    /// The first entry at or after `slot`: for walking over all. Complexity: O(slots ever used).
    func firstLive(from slot: UInt32) -> UInt32? { entries.firstLive(from: slot) }

    /// Adds an entry at the end; nil where the table is full.
    mutating func insert(
        _ tuple: ConnectionTuple, sendNext: SequenceNumber, receiveNext: SequenceNumber, timestamps: (recent: UInt32, offset: UInt32, last: UInt32)?,
        trafficClass: UInt8, deadline: UInt64
    ) -> UInt32? {
        let entry = TimeWait(
            tuple: tuple, sendNext: sendNext, receiveNext: receiveNext, timestampRecent: timestamps?.recent ?? 0,
            timestampOffset: timestamps?.offset ?? 0, timestampLast: timestamps?.last ?? 0, hasTimestamps: timestamps != nil,
            trafficClass: trafficClass, deadline: deadline, next: Self.none, previous: last)
        guard let key = entries.insert(entry) else { return nil }
        append(key.slot)
        return key.slot
    }

    /// Starts the wait anew: the peer has sent its FIN again.
    mutating func restart(_ slot: UInt32, deadline: UInt64) {
        unlink(slot)
        entries[unchecked: slot].deadline = deadline
        append(slot)
    }

    mutating func remove(_ slot: UInt32) {
        unlink(slot)
        _ = entries.remove(unchecked: slot)
    }

    private mutating func append(_ slot: UInt32) {
        entries[unchecked: slot].previous = last
        entries[unchecked: slot].next = Self.none
        if last == Self.none { first = slot } else { entries[unchecked: last].next = slot }
        last = slot
    }

    private mutating func unlink(_ slot: UInt32) {
        let next = entries[unchecked: slot].next
        let previous = entries[unchecked: slot].previous
        if previous == Self.none { first = next } else { entries[unchecked: previous].next = next }
        if next == Self.none { last = previous } else { entries[unchecked: next].previous = previous }
    }
}
