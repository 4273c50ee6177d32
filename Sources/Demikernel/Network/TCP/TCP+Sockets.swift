// What the application's side calls: binding, connecting, sending, receiving, asking. RFC 9293, section 3.9.1.

extension TCP {
    // MARK: - Addresses and ports

    /// Binds an address for a socket that will listen or connect, and answers it with its port: port 0 chooses one. Throws EADDRINUSE,
    /// EADDRNOTAVAIL, ENOMEM.
    package mutating func reserve(local: SocketAddress, reuse: Bool, ip: inout NetworkLayer) throws(DemikernelError) -> SocketAddress {
        let slot = try bind(local, reuse: reuse, isOwn: false, ip: &ip)
        return SocketAddress(ports[slot].address, port: ports[slot].port)
    }

    /// Gives back what `reserve` gave, where the socket was closed without being used.
    package mutating func release(local: SocketAddress) {
        guard let slot = ports.find(IPAddress(local), local.port), ports[slot].listener == PortTable.Entry.none else { return }
        ports.unbind(slot)
    }

    /// The entry of a bound address: where `isOwn`, the one that `reserve` has made already.
    mutating func bind(_ local: SocketAddress, reuse: Bool, isOwn: Bool, ip: inout NetworkLayer) throws(DemikernelError) -> UInt32 {
        let address = IPAddress(local)
        guard address.isUnspecified || ip.isOwn(address) else {
            throw DemikernelError(.addressNotAvailable, "the address is not one of this host's")
        }
        if local.port == 0 {
            let settings = shared.configuration
            let range = settings.firstEphemeralPort...settings.lastEphemeralPort
            let start = UInt32(truncatingIfNeeded: shared.random.next(below: UInt64(range.count)))
            guard let port = ports.freePort(in: range, startingAt: start) else {
                throw DemikernelError(.addressInUse, "every ephemeral port is in use")
            }
            return try ports.bind(address, port, reuse: reuse)
        }
        if isOwn, let slot = ports.find(address, local.port), ports[slot].listener == PortTable.Entry.none { return slot }
        return try ports.bind(address, local.port, reuse: reuse)
    }

    // MARK: - Connecting

    /// Begins to open a connection; a `connected` or `failed` event follows. `local` nil, or its port 0, chooses; an address that `reserve` gave
    /// passes to the connection.
    ///
    /// Throws EADDRINUSE where there is such a connection, EADDRNOTAVAIL where the local address is not ours or no port is left,
    /// ENETUNREACH, EHOSTUNREACH, EINVAL for an address that nobody can be connected to, ENOMEM where all slots are taken.
    package mutating func connect(
        from local: SocketAddress?, to remote: SocketAddress, options: TCPSocketOptions, tag: UInt32, ip: inout NetworkLayer, now: UInt64
    ) throws(DemikernelError) -> TCPSocket {
        let destination = IPAddress(remote)
        guard remote.port != 0, !destination.isMulticast, !destination.isLimitedBroadcast else {
            throw DemikernelError(.invalidArgument, "a TCP connection needs the address of one host, and a port")
        }
        if let local, local.family != remote.family {
            throw DemikernelError(.invalidArgument, "the local address is of another family than the remote one")
        }
        let source = local.map { IPAddress($0) }
        let path = try ip.path(from: source.flatMap { $0.isUnspecified ? nil : $0 }, to: destination)
        guard !path.isBroadcast else { throw DemikernelError(.invalidArgument, "a TCP connection needs the address of one host") }
        guard !connections.isFull else { throw DemikernelError(.noMemory, "all connections that the settings allow are in use") }
        var tuple = ConnectionTuple(local: path.source, localPort: local?.port ?? 0, remote: path.destination, remotePort: remote.port)
        var after: SequenceNumber?
        if tuple.localPort == 0 {
            after = try choosePort(&tuple, now: now)
        } else if let found = find(tuple, code(tuple)) {
            guard let previous = reusable(found, now: now) else {
                throw DemikernelError(.addressInUse, "there is a connection between these addresses and ports")
            }
            endTimeWait(found & ~Self.timeWaitBit)
            after = previous
        }
        guard let slot = open(path, tuple, options, after: after, now: now) else {
            throw DemikernelError(.noMemory, "no room for another connection")
        }
        // The reservation has become the connection's.
        if let local, local.port != 0 { release(local: local) }
        connections[unchecked: slot].tag = tag
        connections[unchecked: slot].state = .synSent
        connections[unchecked: slot].flags.insert(.isActive)
        connections[unchecked: slot].sendSYN(&shared, ip: &ip, now: now)
        connections[unchecked: slot].armHandshake(&shared, now: now)
        let key = connections.key(of: slot)
        return TCPSocket(slot: slot, generation: key?.generation ?? 0)
    }

    /// The last sequence number of the entry in TIME_WAIT, where it may make room for a new connection of ours: RFC 6191 from the other side. The
    /// new one's timestamps are greater, so nothing old is taken for new (RFC 7323, section 5).
    private mutating func reusable(_ found: UInt32, now: UInt64) -> SequenceNumber? {
        guard found & Self.timeWaitBit != 0 else { return nil }
        let entry = timeWaits[found & ~Self.timeWaitBit]
        let clock = TCPShared.timestampClock(now) &+ entry.timestampOffset
        guard entry.hasTimestamps, Int32(bitPattern: clock &- entry.timestampLast) > 0 else { return nil }
        return entry.sendNext
    }

    /// Chooses a port for a connection to this remote address: RFC 6056, section 3.3.3. Answers where a predecessor's sequence numbers ended.
    private mutating func choosePort(_ tuple: inout ConnectionTuple, now: UInt64) throws(DemikernelError) -> SequenceNumber? {
        let settings = shared.configuration
        let count = UInt32(settings.lastEphemeralPort - settings.firstEphemeralPort) + 1
        tuple.localPort = 0
        let offset = UInt32(truncatingIfNeeded: shared.hash.hash(tuple) >> 16)
        var waiting: (UInt16, UInt32)?
        for _ in 0..<count {
            shared.nextPort &+= 1
            let port = settings.firstEphemeralPort + UInt16((offset &+ shared.nextPort) % count)
            if ports.isBound(port, isIPv4: tuple.local.isIPv4) { continue }
            tuple.localPort = port
            guard let found = find(tuple, code(tuple)) else { return nil }
            if reusable(found, now: now) != nil {
                waiting = (port, found)
                break
            }
        }
        guard let (port, found) = waiting else {
            throw DemikernelError(.addressNotAvailable, "every ephemeral port has a connection to this address")
        }
        tuple.localPort = port
        let after = timeWaits[found & ~Self.timeWaitBit].sendNext
        endTimeWait(found & ~Self.timeWaitBit)
        return after
    }

    /// A control block for a connection, in the table; nil where there is no room.
    mutating func open(
        _ path: NetworkPath, _ tuple: ConnectionTuple, _ options: TCPSocketOptions, after: SequenceNumber? = nil, now: UInt64
    ) -> UInt32? {
        var initial = shared.sequences.next(for: tuple, now: now)
        // RFC 6191, section 2; RFC 9293, section 3.4.1: beyond everything that the predecessor sent.
        if let after, initial <= after { initial = after + 0x2_0000 }
        let offset = shared.sequences.timestampOffset(for: tuple)
        let connection = TCPConnection(path, tuple, options, shared.configuration, initialSequence: initial, timestampOffset: offset)
        guard let key = connections.insert(connection) else { return nil }
        guard table.insert(code(tuple), slot: key.slot) else {
            _ = connections.remove(unchecked: key.slot)
            return nil
        }
        connections[unchecked: key.slot].slot = key.slot
        connections[unchecked: key.slot].flags.insert(.isInTable)
        ports.connectionOpened(tuple.localPort)
        shared.counters.connectionsOpened &+= 1
        return key.slot
    }

    // MARK: - Sending and receiving

    /// Queues data, and sends what may be sent. Complexity: O(segments).
    @inline(__always)
    package mutating func send(_ socket: TCPSocket, _ segments: SegmentList, ip: inout NetworkLayer, now: UInt64) -> SendResult {
        guard isConnection(socket) else { return .failed(SocketError.badDescriptor) }
        return connections[unchecked: socket.slot].send(segments, &shared, ip: &ip, now: now)
    }

    /// What has come, in at most 16 segments, or one where `isSingle`, and, unless `limit` is 0, at most `limit` bytes.
    @inline(__always)
    package mutating func receive(
        _ socket: TCPSocket, limit: Int, isSingle: Bool = false, ip: inout NetworkLayer, now: UInt64
    ) -> ReceiveResult {
        guard isConnection(socket) else { return .failed(SocketError.badDescriptor) }
        return connections[unchecked: socket.slot].read(limit: limit, isSingle: isSingle, &shared, ip: &ip, now: now)
    }

    /// Says whether a reader waits, so that the next data is delivered to it (``SocketEvent/Kinds/delivered``). Without effect where there is data
    /// to be received first.
    @inline(__always)
    package mutating func setReaderWaits(_ socket: TCPSocket, _ waits: Bool) {
        guard isConnection(socket) else { return }
        if waits, connections[unchecked: socket.slot].received.isEmpty {
            connections[unchecked: socket.slot].flags.insert(.readerWaits)
        } else {
            connections[unchecked: socket.slot].flags.remove(.readerWaits)
        }
    }

    /// Whether there is certainly nothing to receive before the socket's next event.
    @inline(__always)
    package mutating func isDrained(_ socket: TCPSocket) -> Bool { isConnection(socket) && connections[unchecked: socket.slot].isDrained }

    // MARK: - Asking

    /// The connection's or listener's address; nil for a stale handle.
    package mutating func localAddress(_ socket: TCPSocket) -> SocketAddress? {
        if let listener = listenerSlot(socket) {
            let entry = ports[listeners[unchecked: listener].port]
            return SocketAddress(entry.address, port: entry.port)
        }
        guard isConnection(socket) else { return nil }
        let tuple = connections[unchecked: socket.slot].tuple
        return SocketAddress(tuple.local, port: tuple.localPort)
    }

    package mutating func remoteAddress(_ socket: TCPSocket) -> SocketAddress? {
        guard isConnection(socket) else { return nil }
        let tuple = connections[unchecked: socket.slot].tuple
        return SocketAddress(tuple.remote, port: tuple.remotePort)
    }

    /// Takes effect from the next segment on, and sends what had to wait without them (`noDelay`); a buffer that shrinks does so as it empties. The window
    /// scale stays what it was agreed to be.
    package mutating func setOptions(_ socket: TCPSocket, _ options: TCPSocketOptions, ip: inout NetworkLayer, now: UInt64) {
        if let listener = listenerSlot(socket) {
            listeners[unchecked: listener].options = options
        } else if isConnection(socket) {
            connections[unchecked: socket.slot].set(options, &shared, now: now)
            connections[unchecked: socket.slot].transmit(&shared, ip: &ip, now: now)
        }
    }

    package mutating func options(_ socket: TCPSocket) -> TCPSocketOptions? {
        if let listener = listenerSlot(socket) { return listeners[unchecked: listener].options }
        return isConnection(socket) ? connections[unchecked: socket.slot].options : nil
    }

    package mutating func information(_ socket: TCPSocket) -> TCPInformation {
        if listenerSlot(socket) != nil {
            var information = TCPInformation()
            information.state = .listen
            return information
        }
        return isConnection(socket) ? connections[unchecked: socket.slot].information(shared.limits) : TCPInformation()
    }
}
