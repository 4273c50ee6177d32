// Who has which port. A port's sockets are in two lists, those with a peer also in a hash table, so that a datagram is found its socket by one
// load, or one load and one lookup.

extension UDP {
    /// IANA's dynamic ports: RFC 6335, section 6.
    private static var dynamicPorts: ClosedRange<UInt16> { 49_152...65_535 }

    /// A port that no socket has. RFC 6056, section 3.3.1: from a place that nobody can guess on. Throws EADDRINUSE where there is none.
    mutating func freePort() throws(DemikernelError) -> UInt16 {
        let count = UDP.dynamicPorts.count
        let start = Int(random.next(below: UInt64(count)))
        for step in 0..<count {
            let port = UDP.dynamicPorts.lowerBound + UInt16((start + step) % count)
            if ports[Int(port)].open == 0, ports[Int(port)].connected == 0 { return port }
        }
        throw DemikernelError(.addressInUse, "no dynamic port is free")
    }

    /// Whether a socket on `address` and `port` would get another's datagrams, or another its.
    mutating func isTaken(_ port: UInt16, by address: IPAddress, reuse: Bool) -> Bool {
        for list in [ports[Int(port)].open, ports[Int(port)].connected] {
            var link = list
            while link != 0 {
                let other = sockets[unchecked: link &- 1]
                let overlaps = other.local.isIPv4 == address.isIPv4
                    && (other.isWildcard || address.isUnspecified || other.local == address)
                if overlaps, !(reuse && other.reuses) { return true }
                link = other.next
            }
        }
        return false
    }

    /// Adds a socket to its port, before those that are there: of several, the youngest gets what comes.
    mutating func enlist(_ slot: UInt32) {
        let port = Int(sockets[unchecked: slot].localPort)
        if sockets[unchecked: slot].isConnected {
            sockets[unchecked: slot].next = ports[port].connected
            ports[port].connected = slot + 1
            // There are as many places as sockets.
            _ = connected.insert(connectionHash(sockets[unchecked: slot]), slot: slot)
        } else {
            sockets[unchecked: slot].next = ports[port].open
            ports[port].open = slot + 1
        }
    }

    mutating func delist(_ slot: UInt32) {
        let port = Int(sockets[unchecked: slot].localPort)
        let isConnected = sockets[unchecked: slot].isConnected
        let next = sockets[unchecked: slot].next
        if isConnected { connected.remove(connectionHash(sockets[unchecked: slot]), slot: slot) }
        var link = isConnected ? ports[port].connected : ports[port].open
        if link == slot + 1 {
            if isConnected { ports[port].connected = next } else { ports[port].open = next }
            return
        }
        while link != 0 {
            if sockets[unchecked: link - 1].next == slot + 1 {
                sockets[unchecked: link - 1].next = next
                return
            }
            link = sockets[unchecked: link - 1].next
        }
    }

    private func connectionHash(_ state: State) -> UInt64 {
        connectionHash(local: state.local, remote: state.remote, ports: UInt32(state.remotePort) &<< 16 | UInt32(state.localPort))
    }

    @inline(__always)
    private func connectionHash(local: IPAddress, remote: IPAddress, ports: UInt32) -> UInt64 {
        hash(hash(remote.high ^ local.high &<< 1, remote.low), local.low &<< 1 ^ UInt64(ports) &<< 20)
    }

    /// The socket for a datagram; `UInt32.max` for none. `ports`: the remote one in the upper half.
    @inline(__always)
    mutating func socket(from remote: IPAddress, to local: IPAddress, ports both: UInt32) -> UInt32 {
        let port = ports[Int(both & 0xffff)]
        if port.connected != 0 {
            // Most ports have one such socket, or one that has all the traffic: no need for a hash.
            let first = port.connected &- 1
            if isSocket(first, from: remote, to: local, ports: both) { return first }
            let slot = connectedSocket(from: remote, to: local, ports: both)
            if slot != .max { return slot }
        }
        var link = port.open
        var wildcard = UInt32.max
        while link != 0 {
            let slot = link &- 1
            if sockets[unchecked: slot].local == local { return slot }
            if wildcard == .max, sockets[unchecked: slot].isWildcard, sockets[unchecked: slot].local.isIPv4 == local.isIPv4 { wildcard = slot }
            link = sockets[unchecked: slot].next
        }
        return wildcard
    }

    @inline(never)
    mutating func connectedSocket(from remote: IPAddress, to local: IPAddress, ports both: UInt32) -> UInt32 {
        var walk = connected.walk(connectionHash(local: local, remote: remote, ports: both))
        while let slot = connected.next(&walk) {
            if isSocket(slot, from: remote, to: local, ports: both) { return slot }
        }
        return .max
    }

    /// Whether a connected socket is the one for these addresses and ports.
    @inline(__always)
    private func isSocket(_ slot: UInt32, from remote: IPAddress, to local: IPAddress, ports both: UInt32) -> Bool {
        sockets[unchecked: slot].remote == remote && sockets[unchecked: slot].local == local
            && sockets[unchecked: slot].remotePort == UInt16(truncatingIfNeeded: both &>> 16)
            && sockets[unchecked: slot].localPort == UInt16(truncatingIfNeeded: both)
    }
}
