// Which way a packet goes: RFC 1122, section 3.3.1; RFC 4861, section 5.2.

extension NetworkLayer {
    /// The path from `source`, or from the address that fits best, to `destination`. 0.0.0.0 and :: are this host, as elsewhere.
    ///
    /// Makes a place in the neighbour table where there is none yet, but sends nothing. Throws ENETUNREACH where no route leads there,
    /// EADDRNOTAVAIL where `source` is not an address of this host, or of another family, EHOSTUNREACH where the neighbour table is full of
    /// static entries. Complexity: O(addresses).
    package mutating func path(from source: IPAddress?, to destination: IPAddress) throws(DemikernelError) -> NetworkPath {
        var destination = destination
        if destination.isUnspecified { destination = destination.isIPv4 ? IPAddress(ipv4: 0x7f00_0001) : IPAddress(high: 0, low: 1) }
        if let source, !source.isUnspecified {
            guard source.isIPv4 == destination.isIPv4, isOwn(source) else {
                throw DemikernelError(.addressNotAvailable, "the source address is not one of this host's")
            }
        }
        let given = source.flatMap { $0.isUnspecified ? nil : $0 }
        if isOwn(destination) { return try localPath(from: given ?? destination, to: destination) }
        if let given, given.isLoopback { throw DemikernelError(.addressNotAvailable, "a loopback address reaches this host alone") }
        if isBroadcast(destination) {
            let onLink = onLinkPrefix(of: destination)
            guard let source = given ?? sourceAddress(for: destination, prefix: onLink) else { throw .noRoute }
            return makePath(source, destination, NetworkPath.broadcast, Int(mtu))
        }
        if destination.isMulticast {
            guard let source = given ?? sourceAddress(for: destination, prefix: nil) else { throw .noRoute }
            return makePath(source, destination, NetworkPath.multicast, Int(mtu))
        }
        return try unicastPath(from: given, to: destination)
    }

    private mutating func unicastPath(from given: IPAddress?, to destination: IPAddress) throws(DemikernelError) -> NetworkPath {
        guard isHost(destination) else { throw .noRoute }
        var nextHop = destination
        var prefix = onLinkPrefix(of: destination)
        if prefix == nil {
            guard let gateway = destination.isIPv4 ? gatewayIPv4 : gatewayIPv6, !destination.isLinkLocal else { throw .noRoute }
            nextHop = gateway
            prefix = onLinkPrefix(of: gateway)
        }
        guard let source = given ?? sourceAddress(for: destination, prefix: prefix) else { throw .noRoute }
        guard let slot = neighbours.find(nextHop) ?? insertNeighbour(nextHop) else {
            throw DemikernelError(.noRouteToHost, "the neighbour table is full: enlarge it")
        }
        let known = pathMTUs.find(destination).map { min(Int($0), Int(mtu)) }
        return makePath(source, destination, slot, known ?? Int(mtu))
    }

    private mutating func localPath(from source: IPAddress, to destination: IPAddress) throws(DemikernelError) -> NetworkPath {
        // A loopback address never leaves the host, not even to a device that comes back (RFC 1122, section 3.2.1.3(g)).
        guard localDelivery == .device, !destination.isLoopback, !source.isLoopback else {
            return makePath(source, destination, NetworkPath.local, 65_535)
        }
        var slot = neighbours.find(destination)
        if slot == nil {
            addStaticNeighbour(NetworkConfiguration.StaticNeighbour(destination, macAddress))
            slot = neighbours.find(destination)
        }
        guard let slot else { throw DemikernelError(.noRouteToHost, "the neighbour table is full: enlarge it") }
        return makePath(source, destination, slot, Int(mtu))
    }

    /// A place for a neighbour that this host needs. Paths to whoever had the place have to look again.
    private mutating func insertNeighbour(_ address: IPAddress) -> UInt32? {
        let evicted = counters.neighboursEvicted
        let slot = neighbours.insert(address, forOwnUse: true, counters: &counters)
        if counters.neighboursEvicted != evicted { advanceEpoch() }
        return slot
    }

    private func makePath(_ source: IPAddress, _ destination: IPAddress, _ neighbour: UInt32, _ mtu: Int) -> NetworkPath {
        let none = IPProtocol(rawValue: 0)
        return NetworkPath(
            source: source, destination: destination,
            pseudoHeaderSum: InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: none, length: 0),
            neighbour: neighbour, epoch: epoch, mtu: UInt16(truncatingIfNeeded: mtu), isIPv4: destination.isIPv4)
    }

    /// The number of the address whose network holds `address`, the longest prefix where there are several.
    mutating func onLinkPrefix(of address: IPAddress) -> Int? {
        var best: Int?
        for number in 0..<addressCount {
            let entry = addresses[number]
            guard address.matches(entry.address, prefixLength: entry.prefixLength) else { continue }
            if best.map({ addresses[$0].prefixLength < entry.prefixLength }) ?? true { best = number }
        }
        return best
    }

    /// Whether an address can be one host's. RFC 1122, section 3.2.1.3; 240.0.0.0/4 is reserved (RFC 1112, section 4).
    func isHost(_ address: IPAddress) -> Bool {
        guard address.isIPv4 else { return true }
        let first = address.ipv4 &>> 24
        return first != 0 && first != 127 && first < 224
    }

    /// Every path is looked up again before its next use.
    mutating func advanceEpoch() {
        epoch &+= 1
        if epoch == 0 { epoch = 1 }
    }

    /// Brings a path up to date; false where there is none any more.
    mutating func refresh(_ path: inout NetworkPath) -> Bool {
        guard path.epoch != epoch else { return true }
        guard path.epoch != 0, let fresh = try? self.path(from: path.source, to: path.destination) else { return false }
        path = fresh
        return true
    }
}

extension DemikernelError {
    static var noRoute: DemikernelError {
        DemikernelError(.networkUnreachable, "no route leads there: the address is on none of this host's networks and there is no gateway for it")
    }
}
