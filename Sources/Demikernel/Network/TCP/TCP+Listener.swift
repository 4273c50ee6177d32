// Passive opens: RFC 9293, section 3.10.7.2; RFC 4987. Half-open connections wait in the SYN queue, finished ones in the accept queue; both are
// bounded, each by itself. Beyond the first, SYNs are answered with cookies and nothing is kept.

/// Who listens on a port.
struct TCPListener: BitwiseCopyable {
    /// Its entry in the table of ports.
    var port: UInt32
    var tag: UInt32
    /// Connections that may wait to be accepted.
    var backlog: UInt32
    var options: TCPSocketOptions
    /// Connections that wait to be accepted, first in first out.
    var accept = ConnectionList()
    /// Half-open connections, oldest first.
    var half = ConnectionList()
    /// When a cookie was last sent: what claims to answer one later than this and a minute is not looked at.
    var cookieSentAt: UInt64 = 0
    var hasSentCookie = false

    var isFull: Bool { accept.count >= backlog }
}

/// A list through `queueNext` and `queuePrevious` of connections.
struct ConnectionList: BitwiseCopyable {
    var first: UInt32 = none
    var last: UInt32 = none
    var count: UInt32 = 0

    static var none: UInt32 { .max }
}

extension TCP {
    // MARK: - The application's side

    /// Listens on an address, which may be the wildcard of its family, or port 0 for any port; at most `backlog` connections wait to be
    /// accepted. Throws EADDRINUSE, EADDRNOTAVAIL, EINVAL (a backlog below 1), ENOMEM.
    package mutating func listen(
        on local: SocketAddress, backlog: Int, options: TCPSocketOptions, tag: UInt32, ip: inout NetworkLayer
    ) throws(DemikernelError) -> TCPSocket {
        guard backlog > 0 else { throw DemikernelError(.invalidArgument, "a listener's backlog is 1 at least") }
        let entry = try bind(local, reuse: options.reuseAddress, isOwn: true, ip: &ip)
        guard ports[entry].listener == PortTable.Entry.none else {
            throw DemikernelError(.addressInUse, "another socket listens on this address and port")
        }
        let listener = TCPListener(
            port: entry, tag: tag, backlog: UInt32(min(backlog, shared.configuration.maximumBacklog)), options: options)
        guard let key = listeners.insert(listener) else {
            ports.unbind(entry)
            throw DemikernelError(.noMemory, "no room for another listener")
        }
        ports.setListener(entry, key.slot)
        return TCPSocket(slot: key.slot | TCPSocket.listenerBit, generation: key.generation)
    }

    /// The connection that has waited longest, which is the caller's from now on; nil where none waits. Its state is to be asked at once: data
    /// may have come, or the peer may have closed.
    package mutating func accept(_ listener: TCPSocket, tag: UInt32) -> TCPSocket? {
        guard let slot = listenerSlot(listener), listeners[unchecked: slot].accept.count > 0 else { return nil }
        let connection = listeners[unchecked: slot].accept.first
        unlink(connection, from: \.accept, of: slot)
        connections[unchecked: connection].flags.remove([.isQueued, .isAcceptable])
        connections[unchecked: connection].listener = .max
        connections[unchecked: connection].tag = tag
        shared.counters.connectionsAccepted &+= 1
        return connections.key(of: connection).map { TCPSocket(slot: $0.slot, generation: $0.generation) }
    }

    func listenerSlot(_ socket: TCPSocket) -> UInt32? {
        let slot = socket.slot & ~TCPSocket.listenerBit
        guard socket.isListener, listeners.contains(.init(slot: slot, generation: socket.generation)) else { return nil }
        return slot
    }

    /// Stops listening: those that wait, and those that are half open, are reset.
    @inline(never)
    mutating func closeListener(_ socket: TCPSocket, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        guard let slot = listenerSlot(socket) else { return }
        events.forget(tag: listeners[unchecked: slot].tag)
        listeners[unchecked: slot].tag = .max
        while listeners[unchecked: slot].accept.count > 0 {
            abort(listeners[unchecked: slot].accept.first, ip: &ip, events: &events, now: now)
        }
        while listeners[unchecked: slot].half.count > 0 {
            abort(listeners[unchecked: slot].half.first, ip: &ip, events: &events, now: now)
        }
        ports.unbind(listeners[unchecked: slot].port)
        _ = listeners.remove(unchecked: slot)
    }

    private mutating func abort(_ slot: UInt32, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        let sequence = connections[unchecked: slot].sendNext
        connections[unchecked: slot].sendReset(sequence, &shared, ip: &ip, now: now)
        connections[unchecked: slot].close(0)
        detach(slot, events: &events)
    }

    // MARK: - Queues

    mutating func link(_ slot: UInt32, to list: WritableKeyPath<TCPListener, ConnectionList>, of listener: UInt32) {
        let last = listeners[unchecked: listener][keyPath: list].last
        connections[unchecked: slot].queuePrevious = last
        connections[unchecked: slot].queueNext = ConnectionList.none
        if last == ConnectionList.none {
            listeners[unchecked: listener][keyPath: list].first = slot
        } else {
            connections[unchecked: last].queueNext = slot
        }
        listeners[unchecked: listener][keyPath: list].last = slot
        listeners[unchecked: listener][keyPath: list].count += 1
    }

    mutating func unlink(_ slot: UInt32, from list: WritableKeyPath<TCPListener, ConnectionList>, of listener: UInt32) {
        let next = connections[unchecked: slot].queueNext
        let previous = connections[unchecked: slot].queuePrevious
        if previous == ConnectionList.none {
            listeners[unchecked: listener][keyPath: list].first = next
        } else {
            connections[unchecked: previous].queueNext = next
        }
        if next == ConnectionList.none {
            listeners[unchecked: listener][keyPath: list].last = previous
        } else {
            connections[unchecked: next].queuePrevious = previous
        }
        listeners[unchecked: listener][keyPath: list].count -= 1
    }

    mutating func unqueue(_ slot: UInt32) {
        let isAcceptable = connections[unchecked: slot].flags.contains(.isAcceptable)
        unlink(slot, from: isAcceptable ? \.accept : \.half, of: connections[unchecked: slot].listener)
    }

    /// The handshake is done: from the SYN queue to the accept queue.
    mutating func offer(_ slot: UInt32, events: inout SocketEvents) {
        let listener = connections[unchecked: slot].listener
        unlink(slot, from: \.half, of: listener)
        link(slot, to: \.accept, of: listener)
        connections[unchecked: slot].flags.insert(.isAcceptable)
        events.append(.acceptable, tag: listeners[unchecked: listener].tag)
    }

    // MARK: - The network's side

    /// A segment for no connection: for one in TIME_WAIT, for a listener, or for nobody.
    @inline(never)
    mutating func receiveElsewhere(
        _ packet: ReceivedPacket, _ view: TCPHeaderView, _ tuple: ConnectionTuple, _ found: UInt32?, ip: inout NetworkLayer,
        events: inout SocketEvents, now: UInt64
    ) {
        defer { packet.frame.release() }
        let flags = view.flags
        // Flags that exclude each other, and ports that nobody has.
        guard view.sourcePort != 0, view.destinationPort != 0,
            !flags.contains([.syn, .fin]), !flags.contains([.syn, .rst]), !packet.isBroadcast
        else {
            shared.counters.malformed &+= 1
            return
        }
        if let found {
            guard receiveInTimeWait(packet, view, found & ~Self.timeWaitBit, ip: &ip, now: now) else { return }
            endTimeWait(found & ~Self.timeWaitBit)
        }
        if let listener = ports.listener(tuple.local, tuple.localPort) {
            // RFC 9293, section 3.10.7.2. First RST, second ACK, third SYN.
            if flags.contains(.rst) { return }
            if flags.contains(.syn), !flags.contains(.ack) {
                return receiveSYN(packet, view, tuple, listener, ip: &ip, now: now)
            }
            if flags.contains(.ack), !flags.contains(.syn),
                acceptCookie(packet, view, tuple, listener, ip: &ip, events: &events, now: now)
            {
                return
            }
        }
        shared.counters.notForUs &+= 1
        shared.refuse(packet, view, ip: &ip, now: now)
    }

    private mutating func receiveSYN(
        _ packet: ReceivedPacket, _ view: TCPHeaderView, _ tuple: ConnectionTuple, _ listener: UInt32, ip: inout NetworkLayer, now: UInt64
    ) {
        // Nobody would accept it: the peer tries again.
        guard !listeners[unchecked: listener].isFull else {
            shared.counters.acceptQueueOverflows &+= 1
            return
        }
        let segment = ArrivingSegment(view, traffic: packet.traffic)
        guard Int(listeners[unchecked: listener].half.count) < shared.configuration.synQueue, !connections.isFull else {
            shared.counters.synQueueOverflows &+= 1
            return sendCookie(packet, segment, tuple, listener, ip: &ip, now: now)
        }
        guard let path = try? ip.path(from: tuple.local, to: tuple.remote) else { return }
        let options = listeners[unchecked: listener].options
        guard let slot = open(path, tuple, options, now: now) else {
            shared.counters.outOfMemory &+= 1
            return
        }
        link(slot, to: \.half, of: listener)
        connections[unchecked: slot].listener = listener
        connections[unchecked: slot].flags.insert(.isQueued)
        connections[unchecked: slot].takeSYN(segment, shared.configuration, now: now)
        connections[unchecked: slot].state = .synReceived
        connections[unchecked: slot].sendSYN(&shared, ip: &ip, now: now)
        connections[unchecked: slot].armHandshake(&shared, now: now)
    }

    // MARK: - SYN cookies

    /// Answers a SYN with a number that holds all that is to be known, and keeps nothing. RFC 4987, section 3.6.
    private mutating func sendCookie(
        _ packet: ReceivedPacket, _ segment: ArrivingSegment, _ tuple: ConnectionTuple, _ listener: UInt32, ip: inout NetworkLayer, now: UInt64
    ) {
        guard shared.configuration.synCookies, var path = try? ip.path(from: tuple.local, to: tuple.remote) else { return }
        let settings = shared.configuration
        let asked = segment.options
        var answer = TCPOptions(maximumSegmentSize: path.mtu &- UInt16(path.headerBytes + 20))
        let receiveLimit = TCPConnection.receiveLimit(listeners[unchecked: listener].options, settings)
        let stamps = settings.timestamps ? asked.timestamps : nil
        let cookie = shared.cookies.make(
            for: tuple, peerSequence: segment.sequence, segmentSize: asked.maximumSegmentSize ?? (path.isIPv4 ? 536 : 1_220), now: now)
        if let stamps {
            let clock = TCPShared.timestampClock(now) &+ shared.sequences.timestampOffset(for: tuple)
            let scale = settings.windowScale ? asked.windowScale : nil
            let sack = settings.selectiveAcknowledgement && asked.sackPermitted
            answer.timestamps = TCPTimestamps(
                value: SYNCookie.encode(windowScale: scale, sackPermitted: sack, ecn: false, in: clock), echo: stamps.value)
            answer.sackPermitted = sack
            if scale != nil { answer.windowScale = TCPConnection.scale(for: receiveLimit) }
        }
        let header = TCPHeader(
            sourcePort: tuple.localPort, destinationPort: tuple.remotePort, sequenceNumber: cookie,
            acknowledgmentNumber: segment.sequence + 1, flags: [.syn, .ack], window: UInt16(min(receiveLimit, 65_535)))
        shared.counters.synCookiesSent &+= 1
        listeners[unchecked: listener].cookieSentAt = now
        listeners[unchecked: listener].hasSentCookie = true
        shared.sendBare(header, answer, on: &path, traffic: 0, ip: &ip, now: now)
    }

    /// Makes a connection of an ACK that returns a cookie; false where it is none of ours and is to be refused.
    private mutating func acceptCookie(
        _ packet: ReceivedPacket, _ view: TCPHeaderView, _ tuple: ConnectionTuple, _ listener: UInt32, ip: inout NetworkLayer,
        events: inout SocketEvents, now: UInt64
    ) -> Bool {
        guard listeners[unchecked: listener].hasSentCookie, now &- listeners[unchecked: listener].cookieSentAt < 128_000_000_000 else {
            return false
        }
        var segment = ArrivingSegment(view, traffic: packet.traffic)
        guard let segmentSize = shared.cookies.check(
            segment.acknowledgment - 1, for: tuple, peerSequence: segment.sequence - 1, now: now)
        else {
            shared.counters.synCookiesRejected &+= 1
            // A later segment of a connection whose first ACK was lost or overtaken looks the same: a reset would end what the next
            // retransmission completes. So while cookies are fresh nobody is refused.
            return now &- listeners[unchecked: listener].cookieSentAt < 4_000_000_000
        }
        guard !listeners[unchecked: listener].isFull else {
            shared.counters.acceptQueueOverflows &+= 1
            return true
        }
        guard let path = try? ip.path(from: tuple.local, to: tuple.remote),
            let slot = open(path, tuple, listeners[unchecked: listener].options, now: now)
        else {
            shared.counters.outOfMemory &+= 1
            return true
        }
        shared.counters.synCookiesAccepted &+= 1
        link(slot, to: \.half, of: listener)
        connections[unchecked: slot].listener = listener
        connections[unchecked: slot].flags.insert(.isQueued)
        connections[unchecked: slot].takeCookie(&segment, segmentSize: segmentSize, shared.configuration, now: now)
        let frame = packet.frame.slice(0, count: packet.frame.byteCount)
        var again = packet
        again.frame = frame
        connections[unchecked: slot].receive(again, view, &shared, ip: &ip, events: &events, now: now)
        if !connections[unchecked: slot].flags.isDisjoint(with: .wantsSettling) { settle(slot, ip: &ip, events: &events, now: now) }
        return true
    }
}
