/// Destinations whose path takes smaller packets than the link: learnt from ICMP "fragmentation needed" and ICMPv6 "packet too big", and
/// forgotten after a while, so that a larger path is found again. RFC 1191, section 6.3; RFC 8201, section 5.3.
///
/// Bounded: the entry that will expire first makes room. Lookup, insertion and expiry are O(1).
///
/// Invariant: `count` slots from `first` on, in a ring, are in the index; their order is the order of insertion, hence of expiry.
struct PathMTUTable: ~Copyable {
    struct Entry: BitwiseCopyable {
        var address: IPAddress
        var expiry: UInt64
        var mtu: UInt16
    }

    private var entries: MappedMemory<Entry>
    private var index: HashIndex
    private let hash: NetworkHash
    private let lifetime: UInt64
    private var first = 0
    private(set) var count = 0

    init(capacity: Int, lifetime: UInt64, hash: NetworkHash) throws(DemikernelError) {
        let entries = try MappedMemory<Entry>(count: max(1, capacity))
        let index = try HashIndex(capacity: max(1, capacity))
        self.entries = entries
        self.index = index
        self.hash = hash
        self.lifetime = lifetime
    }

    /// What is known about the path to `destination`.
    mutating func find(_ destination: IPAddress) -> UInt16? {
        guard count > 0 else { return nil }
        guard let slot = slot(of: destination) else { return nil }
        return entries[Int(slot)].mtu
    }

    /// Notes a path's MTU. True where that makes it smaller than it was known to be.
    mutating func insert(_ destination: IPAddress, mtu: UInt16, now: UInt64) -> Bool {
        if let slot = slot(of: destination) {
            // RFC 8201, section 4: a "packet too big" never makes the estimate larger. The time runs on from the first.
            guard mtu < entries[Int(slot)].mtu else { return false }
            entries[Int(slot)].mtu = mtu
            return true
        }
        if count == entries.count { removeFirst() }
        let slot = (first + count) % entries.count
        entries[slot] = Entry(address: destination, expiry: now &+ lifetime, mtu: mtu)
        _ = index.insert(hash(destination), slot: UInt32(slot))
        count += 1
        return true
    }

    /// When the first entry expires; `UInt64.max` for none.
    mutating func nextDeadline() -> UInt64 { count > 0 ? entries[first].expiry : .max }

    /// Forgets what has expired; true where that is anything.
    mutating func expire(_ now: UInt64) -> Bool {
        var changed = false
        while count > 0, entries[first].expiry <= now {
            removeFirst()
            changed = true
        }
        return changed
    }

    private mutating func slot(of destination: IPAddress) -> UInt32? {
        var walk = index.walk(hash(destination))
        while let slot = index.next(&walk) {
            if entries[Int(slot)].address == destination { return slot }
        }
        return nil
    }

    private mutating func removeFirst() {
        index.remove(hash(entries[first].address), slot: UInt32(first))
        first = (first + 1) % entries.count
        count -= 1
    }
}
