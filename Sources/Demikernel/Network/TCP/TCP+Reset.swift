// Resets, sent and received: RFC 9293, section 3.5.2; RFC 5961, sections 3 and 4.

extension TCPConnection {
    /// Second, check the RST bit. Its sequence number is in the window.
    mutating func receiveReset(
        _ segment: ArrivingSegment, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64
    ) {
        // RFC 5961, section 3.2: anything but the exact number may be a stranger's guess.
        guard segment.sequence == receiveNext else { return challenge(&shared, ip: &ip, now: now) }
        shared.counters.resetsReceived &+= 1
        // errno: a connection that was never made was refused.
        let error: Int32 = state == .synReceived ? SocketError.refused : SocketError.reset
        shared.counters.connectionsReset &+= 1
        // RFC 9293, section 3.10.7.4: past the exchange of FINs a reset is just the end.
        close(state == .closing || state == .lastAcknowledgement ? 0 : error)
    }

    /// A challenge ack: the peer, if it is the peer, answers with a reset that fits. RFC 5961, section 7: not more often than is good.
    @inline(never)
    mutating func challenge(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        guard shared.mayAnswer(now) else { return }
        shared.counters.challengeAcknowledgements &+= 1
        sendAcknowledgement(&shared, ip: &ip, now: now)
    }

    /// Sends a reset with this sequence number, and the acknowledgement that belongs to it in a synchronised state.
    @inline(never)
    mutating func sendReset(_ sequence: SequenceNumber, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        let isSynchronized = state != .synSent && state != .synReceived
        let header = TCPHeader(
            sourcePort: UInt16(ports >> 16), destinationPort: UInt16(truncatingIfNeeded: ports), sequenceNumber: sequence,
            acknowledgmentNumber: isSynchronized ? receiveNext : SequenceNumber(0), flags: isSynchronized ? [.rst, .ack] : .rst, window: 0)
        shared.sendReset(header, on: &path, ip: &ip, now: now)
    }

    /// The end of the connection, in whichever state, for this errno (0 for the regular end). The tables are told by `TCP.settle`.
    mutating func close(_ error: Int32) {
        self.error = error
        state = .closed
        flags.insert(.isClosedNow)
    }

    /// Both sides have closed: TIME_WAIT, which a compact entry serves.
    mutating func enterTimeWait() {
        state = .timeWait
        flags.insert(.isTimeWaitNow)
    }
}

extension TCPShared {
    /// Sends a reset, or puts it off for good where the frame queue is full: the peer's next segment asks for another.
    mutating func sendReset(_ header: TCPHeader, on path: inout NetworkPath, ip: inout NetworkLayer, now: UInt64) {
        sendBare(header, TCPOptions(), on: &path, traffic: 0, ip: &ip, now: now)
        counters.resetsSent &+= 1
    }

    /// Sends a segment without data for nobody's connection.
    mutating func sendBare(
        _ header: TCPHeader, _ options: TCPOptions, on path: inout NetworkPath, traffic: UInt8, ip: inout NetworkLayer, now: UInt64
    ) {
        guard ip.canSend else {
            counters.backPressure &+= 1
            return
        }
        let packet = ip.makePacket(transportBytes: TCPHeader.byteCount + options.byteCount)
        guard !packet.isNull else { return }
        header.emit(into: packet.packet, options: options)
        TCPHeader.storeChecksum(in: packet.packet, sum: path.pseudoHeader(.tcp, length: packet.byteCount))
        counters.segmentsSent &+= 1
        ip.send(packet, payload: .empty, on: &path, proto: 6, traffic: traffic, dontFragment: true, offload: .none, now: now)
    }

    /// Answers a segment that belongs to no connection. RFC 9293, section 3.10.7.1: never a reset; the reset of a segment without ACK
    /// acknowledges SEG.SEQ + SEG.LEN.
    mutating func refuse(_ packet: ReceivedPacket, _ view: TCPHeaderView, ip: inout NetworkLayer, now: UInt64) {
        guard !view.flags.contains(.rst), !packet.isBroadcast, mayAnswer(now) else { return }
        guard var path = try? ip.path(from: packet.destination, to: packet.source) else { return }
        let hasAcknowledgment = view.flags.contains(.ack)
        let header = TCPHeader(
            sourcePort: view.destinationPort, destinationPort: view.sourcePort,
            sequenceNumber: hasAcknowledgment ? view.acknowledgmentNumber : SequenceNumber(0),
            acknowledgmentNumber: hasAcknowledgment ? SequenceNumber(0) : view.sequenceNumber + view.segmentLength,
            flags: hasAcknowledgment ? .rst : [.rst, .ack], window: 0)
        sendReset(header, on: &path, ip: &ip, now: now)
    }
}

// MARK: - What the network says

extension TCP {
    /// An ICMP error about a segment of ours. RFC 1122, section 4.2.3.9; RFC 5927, section 4: it is believed only where it quotes a sequence number
    /// that is out, and hard errors end only a connection that is being opened.
    package mutating func receiveError(
        source: IPAddress, destination: IPAddress, quotedTransport: PacketBytes, error: ICMPError, ip: inout NetworkLayer,
        events: inout SocketEvents, now: UInt64
    ) {
        guard let slot = findQuoted(source, destination, quotedTransport) else { return }
        let sequence = SequenceNumber(quotedTransport.load32(4))
        connections[unchecked: slot].receiveError(error, about: sequence, &shared, ip: &ip, now: now)
        if !connections[unchecked: slot].flags.isDisjoint(with: .wantsSettling) { settle(slot, ip: &ip, events: &events, now: now) }
    }

    /// Whether an ICMP error quotes a segment that is out: only then can it be true, whatever it says about the path. RFC 5927, section 4.1.
    package mutating func isOut(source: IPAddress, destination: IPAddress, quotedTransport: PacketBytes) -> Bool {
        guard let slot = findQuoted(source, destination, quotedTransport) else { return false }
        return connections[unchecked: slot].isOut(SequenceNumber(quotedTransport.load32(4)))
    }

    private mutating func findQuoted(_ source: IPAddress, _ destination: IPAddress, _ quotedTransport: PacketBytes) -> UInt32? {
        guard quotedTransport.count >= 8 else { return nil }
        let tuple = ConnectionTuple(
            local: source, localPort: quotedTransport.load16(0), remote: destination, remotePort: quotedTransport.load16(2))
        guard let slot = find(tuple, code(tuple)), slot & Self.timeWaitBit == 0 else { return nil }
        return slot
    }
}

extension TCPConnection {
    fileprivate mutating func isOut(_ sequence: SequenceNumber) -> Bool { sequence.isWithin(sendUnacknowledged, length: flightSize) }

    fileprivate mutating func receiveError(
        _ error: ICMPError, about sequence: SequenceNumber, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64
    ) {
        guard isOut(sequence) else { return }
        if case .packetTooBig(let mtu) = error { return reducePathMTU(mtu, &shared, ip: &ip, now: now) }
        guard state == .synSent || state == .synReceived else { return }
        // RFC 1122, section 4.2.3.9: soft errors do not end a connection; RFC 5461: but somebody waits for one that is being opened, so that after
        // three retransmissions the network is believed. A neighbour whose first three requests were lost is not yet gone.
        guard error.isHard || (state == .synSent && handshakeRetries >= 3) else { return }
        close(error.errno.rawValue)
    }

    /// The path takes smaller packets: RFC 1191, section 6.5; RFC 8201, section 5.4. What is out is cut anew and goes again at once; this is no
    /// congestion.
    private mutating func reducePathMTU(_ mtu: UInt16, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        guard discovery.packetTooBig(UInt32(mtu), now: now) else { return }
        updateSegmentSize()
        shared.counters.pathMTUReductions &+= 1
        guard maySend else { return }
        scoreboard.markAllLost()
        transmitSome(&shared, ip: &ip, now: now)
    }
}
