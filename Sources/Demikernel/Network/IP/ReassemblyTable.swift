/// Datagrams of which some fragments have come. RFC 791, section 3.2; RFC 815; RFC 8200, section 4.5.
///
/// Bounded by datagrams, fragments, fragments of one datagram and heap memory; where there is too much the oldest datagram goes. A datagram
/// whose fragments overlap is discarded whole, with what still comes of it: RFC 5722 for IPv6, and the same for IPv4, where an overlap is an
/// attack as well (RFC 1858; Linux since 2018). Exact duplicates are a network's doing, and passed over.
///
/// Complexity: O(datagrams) to find one, O(1) for a fragment that comes in order and O(fragments of the datagram) for others.
///
/// Invariant: datagrams 0..<count are in use; the fragments of one are a list through `fragments` in the order of their starts, without overlap;
/// each holds the reference of its segment.
struct ReassemblyTable: ~Copyable {
    /// A fragment that has come.
    struct Piece: BitwiseCopyable {
        var source: IPAddress
        var destination: IPAddress
        var identification: UInt32
        /// What the datagram carries, as the first fragment says.
        var ipProtocol: IPProtocol
        /// The fragment's data; its headers lie in front.
        var segment: Segment
        var headerBytes: UInt16
        var start: Int
        var more: Bool
        var traffic: UInt8
        var hopLimit: UInt8
    }
    struct Datagram: BitwiseCopyable {
        var source: IPAddress
        var destination: IPAddress
        var identification: UInt32
        var deadline: UInt64
        var first = UInt32.max
        var last = UInt32.max
        var fragmentCount = 0
        var heldBytes = 0
        var receivedBytes = 0
        /// Known from the last fragment; -1 before.
        var totalBytes = -1
        /// Of the first fragment.
        var ipProtocol: IPProtocol
        var hopLimit: UInt8 = 0
        var traffic: UInt8 = 0
        /// A bit for each ECN codepoint that has come. RFC 3168, section 5.3.
        var codepoints: UInt8 = 0
        /// Fragments overlapped, or were too many: nothing of it is taken any more.
        var isBroken = false
    }
    struct Fragment: BitwiseCopyable {
        var segment: Segment
        var start: UInt32
        var next: UInt32
        var headerBytes: UInt16
    }

    private let configuration: ReassemblyConfiguration
    private var datagrams: MappedMemory<Datagram>
    private var fragments: MappedMemory<Fragment>
    private(set) var count = 0
    private var fragmentsUsed: UInt32 = 0
    private var freeFragment = UInt32.max
    private var fragmentCount = 0
    /// Heap memory that is held.
    private(set) var heldBytes = 0
    /// When the first datagram times out; `UInt64.max` for none.
    private(set) var nextDeadline = UInt64.max

    init(_ configuration: ReassemblyConfiguration) throws(DemikernelError) {
        self.configuration = configuration
        let datagrams = try MappedMemory<Datagram>(count: max(1, configuration.datagramsMaximum))
        let fragments = try MappedMemory<Fragment>(count: max(1, configuration.fragmentsMaximum))
        self.datagrams = datagrams
        self.fragments = fragments
    }

    deinit {
        for number in 0..<count {
            var fragment = unsafe datagrams.base[number].first
            while fragment != .max {
                unsafe fragments.base[Int(fragment)].segment.release()
                fragment = unsafe fragments.base[Int(fragment)].next
            }
        }
    }

    subscript(number: Int) -> Datagram { mutating get { datagrams[number] } }

    /// Takes a fragment, and its reference; answers the number of its datagram where that is complete now: ``finish(_:into:)`` it.
    mutating func insert(_ piece: Piece, now: UInt64, counters: inout NetworkCounters) -> Int? {
        let number = find(piece) ?? begin(piece, now: now, counters: &counters)
        guard !datagrams[number].isBroken else { return refuse(piece, &counters) }
        let end = piece.start + piece.segment.byteCount
        let total = datagrams[number].totalBytes
        // Two ends that differ, or data behind the end: somebody plays with us.
        if total >= 0 ? end > total || !piece.more && end != total : !piece.more && end < furthest(number) {
            return breakUp(number, piece, &counters)
        }
        switch place(piece, end: end, in: number) {
        case .duplicate: return refuse(piece, &counters)
        case .overlap: return breakUp(number, piece, &counters)
        case .after(let previous):
            guard makeRoom(for: piece, keeping: number, &counters) else { return breakUp(number, piece, &counters) }
            // Others may have gone, and the datagram moved.
            return link(piece, after: previous, in: find(piece) ?? number)
        }
    }

    /// Copies a complete datagram's data to `target`, which has room for `totalBytes`, and forgets it.
    mutating func finish(_ number: Int, into target: PacketBytes) {
        var fragment = datagrams[number].first
        while fragment != .max {
            let entry = fragments[Int(fragment)]
            target.copy(from: entry.segment.packet, at: Int(entry.start))
            fragment = entry.next
        }
        remove(number)
    }

    /// Forgets a datagram.
    mutating func remove(_ number: Int) {
        releaseFragments(number)
        count -= 1
        if number != count { datagrams[number] = datagrams[count] }
        findDeadline()
    }

    /// Forgets a datagram that has timed out, and answers its first fragment, headers included, where that has come: the caller releases it.
    /// nil where none is due; null where there is nothing to say.
    mutating func expire(_ now: UInt64) -> Segment? {
        guard nextDeadline <= now else { return nil }
        for number in 0..<count where datagrams[number].deadline <= now {
            var answer = Segment.null
            let first = datagrams[number].first
            if first != .max, fragments[Int(first)].start == 0 {
                answer = fragments[Int(first)].segment
                answer.retain()
                _ = answer.prepend(Int(fragments[Int(first)].headerBytes))
            }
            remove(number)
            return answer
        }
        return nil
    }

    // MARK: - Datagrams

    private func matches(_ datagram: Datagram, _ piece: Piece) -> Bool {
        // RFC 791: the protocol is part of an IPv4 datagram's name; RFC 8200: not of an IPv6 one's.
        datagram.identification == piece.identification && datagram.source == piece.source && datagram.destination == piece.destination
            && (datagram.ipProtocol == piece.ipProtocol || !piece.source.isIPv4)
    }

    private mutating func find(_ piece: Piece) -> Int? {
        for number in 0..<count where matches(datagrams[number], piece) { return number }
        return nil
    }

    private mutating func begin(_ piece: Piece, now: UInt64, counters: inout NetworkCounters) -> Int {
        if count == datagrams.count {
            counters.reassemblyLimits &+= 1
            remove(oldest(but: nil) ?? 0)
        }
        let timeout = piece.source.isIPv4 ? configuration.timeoutIPv4 : configuration.timeoutIPv6
        datagrams[count] = Datagram(
            source: piece.source, destination: piece.destination, identification: piece.identification, deadline: now &+ timeout,
            ipProtocol: piece.ipProtocol)
        count += 1
        nextDeadline = min(nextDeadline, now &+ timeout)
        return count - 1
    }

    private mutating func oldest(but kept: Int?) -> Int? {
        var oldest: Int?
        for number in 0..<count where number != kept {
            if let best = oldest, datagrams[best].deadline <= datagrams[number].deadline { continue }
            oldest = number
        }
        return oldest
    }

    private mutating func findDeadline() {
        nextDeadline = .max
        for number in 0..<count { nextDeadline = min(nextDeadline, datagrams[number].deadline) }
    }

    /// Where the data that has come ends.
    private mutating func furthest(_ number: Int) -> Int {
        let last = datagrams[number].last
        return last == .max ? 0 : Int(fragments[Int(last)].start) + fragments[Int(last)].segment.byteCount
    }

    private func refuse(_ piece: Piece, _ counters: inout NetworkCounters) -> Int? {
        counters.fragmentsDropped &+= 1
        piece.segment.release()
        return nil
    }

    /// Discards what has come of a datagram; the entry stays until its time is up, so that the rest is discarded too. RFC 5722, section 4.
    private mutating func breakUp(_ number: Int, _ piece: Piece, _ counters: inout NetworkCounters) -> Int? {
        counters.reassemblyOverlaps &+= 1
        let number = find(piece) ?? number
        if number < count {
            counters.fragmentsDropped &+= UInt64(datagrams[number].fragmentCount)
            releaseFragments(number)
            datagrams[number].isBroken = true
        }
        return refuse(piece, &counters)
    }

    // MARK: - Fragments

    private enum Place {
        case after(UInt32)
        case duplicate, overlap
    }

    /// Where a fragment belongs: behind the last one in most cases.
    private mutating func place(_ piece: Piece, end: Int, in number: Int) -> Place {
        if piece.start >= furthest(number) { return .after(datagrams[number].last) }
        var previous = UInt32.max
        var next = datagrams[number].first
        while next != .max, Int(fragments[Int(next)].start) < piece.start {
            previous = next
            next = fragments[Int(next)].next
        }
        if next != .max {
            let entry = fragments[Int(next)]
            if Int(entry.start) == piece.start, entry.segment.byteCount == piece.segment.byteCount { return .duplicate }
            if Int(entry.start) < end { return .overlap }
        }
        if previous != .max, Int(fragments[Int(previous)].start) + fragments[Int(previous)].segment.byteCount > piece.start { return .overlap }
        return .after(previous)
    }

    /// Room for one more fragment, of others' if need be; false where the datagram itself has too much.
    private mutating func makeRoom(for piece: Piece, keeping number: Int, _ counters: inout NetworkCounters) -> Bool {
        guard datagrams[number].fragmentCount < configuration.fragmentsPerDatagram else {
            counters.reassemblyLimits &+= 1
            return false
        }
        let bytes = piece.segment.capacity
        while fragmentCount >= fragments.count || heldBytes + bytes > configuration.bytesMaximum {
            counters.reassemblyLimits &+= 1
            guard let victim = oldest(but: find(piece)) else { return false }
            counters.fragmentsDropped &+= UInt64(datagrams[victim].fragmentCount)
            remove(victim)
        }
        return true
    }

    private mutating func link(_ piece: Piece, after previous: UInt32, in number: Int) -> Int? {
        var slot = freeFragment
        if slot == .max {
            slot = fragmentsUsed
            fragmentsUsed += 1
        } else {
            freeFragment = fragments[Int(slot)].next
        }
        let next = previous == .max ? datagrams[number].first : fragments[Int(previous)].next
        fragments[Int(slot)] = Fragment(segment: piece.segment, start: UInt32(piece.start), next: next, headerBytes: piece.headerBytes)
        if previous == .max { datagrams[number].first = slot } else { fragments[Int(previous)].next = slot }
        if next == .max { datagrams[number].last = slot }
        let bytes = piece.segment.capacity
        fragmentCount += 1
        heldBytes += bytes
        datagrams[number].fragmentCount += 1
        datagrams[number].heldBytes += bytes
        datagrams[number].receivedBytes += piece.segment.byteCount
        datagrams[number].codepoints |= 1 << (piece.traffic & 3)
        if !piece.more { datagrams[number].totalBytes = piece.start + piece.segment.byteCount }
        if piece.start == 0 {
            datagrams[number].ipProtocol = piece.ipProtocol
            datagrams[number].traffic = piece.traffic
            datagrams[number].hopLimit = piece.hopLimit
        }
        return datagrams[number].receivedBytes == datagrams[number].totalBytes ? number : nil
    }

    private mutating func releaseFragments(_ number: Int) {
        var fragment = datagrams[number].first
        while fragment != .max {
            let next = fragments[Int(fragment)].next
            fragments[Int(fragment)].segment.release()
            fragments[Int(fragment)].next = freeFragment
            freeFragment = fragment
            fragmentCount -= 1
            fragment = next
        }
        heldBytes -= datagrams[number].heldBytes
        datagrams[number].heldBytes = 0
        datagrams[number].fragmentCount = 0
        datagrams[number].first = .max
        datagrams[number].last = .max
    }
}
