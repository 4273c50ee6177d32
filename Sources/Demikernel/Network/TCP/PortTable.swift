/// Which local addresses and ports are bound, who listens on them, and how many connections have each port.
///
/// Everything takes constant time (but the search for a free port, which looks at the range once at most). A port that is bound to the
/// wildcard address is bound to every address of its family.
///
/// Invariant: `addresses` has each live entry of `entries` under the hash of its address and port; a port's `bound4` and `bound6` count its
/// entries of each family.
struct PortTable: ~Copyable {
    /// A bound address: reserved by bind(2), or listened on.
    struct Entry: BitwiseCopyable {
        var address: IPAddress
        var port: UInt16
        /// SO_REUSEADDR of the socket that bound it.
        var reuse: Bool
        /// The listener's slot; `none` while the address is reserved only.
        var listener: UInt32

        static var none: UInt32 { .max }
    }

    struct Use: BitwiseCopyable {
        /// Connections with this local port, those in TIME_WAIT included.
        var connections: UInt32
        /// Those whose sockets do not reuse addresses: a stranger in the way of bind(2).
        var bound4: UInt16
        var bound6: UInt16
    }

    private let uses: MappedMemory<Use>
    private var addresses: ConnectionTable
    private var entries: Slab<Entry>
    private let hash: KeyedHash

    init(maximum: Int, hash: KeyedHash) throws(DemikernelError) {
        let uses = try MappedMemory<Use>(count: 65_536)
        let addresses = try ConnectionTable(maximum: maximum)
        let entries = try Slab<Entry>(capacity: maximum)
        self.uses = uses
        self.addresses = addresses
        self.entries = entries
        self.hash = hash
    }

    @inline(__always)
    private func code(_ address: IPAddress, _ port: UInt16) -> UInt32 {
        UInt32(truncatingIfNeeded: hash.hash(address.low ^ address.high &* 0x9e37_79b9_7f4a_7c15, UInt64(port) | UInt64(address.isIPv4 ? 1 : 0) << 16) &>> 32)
    }

    /// The entry of exactly this address and port.
    mutating func find(_ address: IPAddress, _ port: UInt16) -> UInt32? {
        var search = addresses.search(code(address, port))
        while let slot = search.slot {
            let entry = entries[unchecked: slot]
            if entry.address == address, entry.port == port { return slot }
            addresses.advance(&search)
        }
        return nil
    }

    /// Who listens for connections to `address` and `port`: on exactly that address, else on the wildcard.
    mutating func listener(_ address: IPAddress, _ port: UInt16) -> UInt32? {
        guard isBound(port, isIPv4: address.isIPv4) else { return nil }
        if let slot = find(address, port), entries[unchecked: slot].listener != Entry.none { return entries[unchecked: slot].listener }
        let wildcard = address.isIPv4 ? IPAddress.ipv4Unspecified : IPAddress.ipv6Unspecified
        if let slot = find(wildcard, port), entries[unchecked: slot].listener != Entry.none { return entries[unchecked: slot].listener }
        return nil
    }

    func isBound(_ port: UInt16, isIPv4: Bool) -> Bool {
        let use = unsafe uses.base[Int(port)]
        return isIPv4 ? use.bound4 > 0 : use.bound6 > 0
    }

    subscript(slot: UInt32) -> Entry { entries[unchecked: slot] }

    /// Binds an address. Throws EADDRINUSE where it, or the wildcard on either side, is bound, or, without `reuse`, the port has connections;
    /// ENOMEM where the table is full.
    mutating func bind(_ address: IPAddress, _ port: UInt16, reuse: Bool) throws(DemikernelError) -> UInt32 {
        let use = unsafe uses.base[Int(port)]
        let bound = address.isIPv4 ? use.bound4 : use.bound6
        if bound > 0 {
            let wildcard = address.isIPv4 ? IPAddress.ipv4Unspecified : IPAddress.ipv6Unspecified
            guard !address.isUnspecified, find(address, port) == nil, find(wildcard, port) == nil else {
                throw DemikernelError(.addressInUse, "another socket has this address and port")
            }
        }
        guard reuse || use.connections == 0 else {
            throw DemikernelError(.addressInUse, "the port has connections (in TIME_WAIT, perhaps): set SO_REUSEADDR")
        }
        let entry = Entry(address: address, port: port, reuse: reuse, listener: Entry.none)
        guard let key = entries.insert(entry) else { throw DemikernelError(.noMemory, "no room for another bound address") }
        guard addresses.insert(code(address, port), slot: key.slot) else {
            _ = entries.remove(unchecked: key.slot)
            throw DemikernelError(.noMemory, "no room for another bound address")
        }
        if address.isIPv4 { unsafe uses.base[Int(port)].bound4 += 1 } else { unsafe uses.base[Int(port)].bound6 += 1 }
        return key.slot
    }

    mutating func unbind(_ slot: UInt32) {
        let entry = entries.remove(unchecked: slot)
        let removed = addresses.remove(code(entry.address, entry.port), slot: slot)
        assert(removed, "a bound address is in the table")
        let port = Int(entry.port)
        if entry.address.isIPv4 { unsafe uses.base[port].bound4 -= 1 } else { unsafe uses.base[port].bound6 -= 1 }
    }

    mutating func setListener(_ slot: UInt32, _ listener: UInt32) { entries[unchecked: slot].listener = listener }

    /// A port of `range` on which nothing is bound and no connection is, from `start` on. Complexity: O(range) at worst.
    func freePort(in range: ClosedRange<UInt16>, startingAt start: UInt32) -> UInt16? {
        let count = UInt32(range.upperBound - range.lowerBound) + 1
        for step in 0..<count {
            let port = range.lowerBound + UInt16((start &+ step) % count)
            let use = unsafe uses.base[Int(port)]
            if use.bound4 == 0, use.bound6 == 0, use.connections == 0 { return port }
        }
        return nil
    }

    @inline(__always) func connectionOpened(_ port: UInt16) { unsafe uses.base[Int(port)].connections &+= 1 }
    @inline(__always) func connectionClosed(_ port: UInt16) { unsafe uses.base[Int(port)].connections &-= 1 }
}
