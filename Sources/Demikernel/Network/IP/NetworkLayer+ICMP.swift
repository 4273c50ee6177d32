// ICMP and ICMPv6: echo, and what is said about packets that could not be taken. RFC 792; RFC 1122, section 3.2.2; RFC 4443.

extension NetworkLayer {
    // MARK: - Input

    mutating func receiveICMPv4(_ packet: ReceivedPacket, now: UInt64) -> Arrival {
        counters.icmpReceived &+= 1
        guard let view = ICMPView(packet.frame.packet) else {
            counters.icmpMalformed &+= 1
            return drop(packet.frame)
        }
        guard packet.checksumIsValid || view.checksumIsValid else {
            counters.icmpBadChecksum &+= 1
            return drop(packet.frame)
        }
        switch ICMPv4(view) {
        case .echoRequest(let identifier, let sequenceNumber):
            answerEcho(packet, identifier, sequenceNumber, data: view.payload, now: now)
        case .echoReply(let identifier, let sequenceNumber):
            noteEchoReply(packet, identifier, sequenceNumber, data: view.payload, now: now)
        case .destinationUnreachable, .timeExceeded, .parameterProblem:
            counters.icmpErrorsReceived &+= 1
            return .icmpError
        case .other(let type, _, _):
            // RFC 1122, section 3.2.2.2: a host may ignore a redirect, and this one has one gateway alone. Source quench is dead (RFC 6633).
            if type == 5 { counters.icmpRedirectsIgnored &+= 1 } else { counters.icmpIgnored &+= 1 }
        }
        return drop(packet.frame)
    }

    mutating func receiveICMPv6(_ packet: ReceivedPacket, now: UInt64) -> Arrival {
        counters.icmpReceived &+= 1
        guard let view = ICMPView(packet.frame.packet) else {
            counters.icmpMalformed &+= 1
            return drop(packet.frame)
        }
        guard packet.checksumIsValid || view.checksumIsValid(source: packet.source, destination: packet.destination) else {
            counters.icmpBadChecksum &+= 1
            return drop(packet.frame)
        }
        if view.isNeighbourDiscovery {
            receiveNDP(view, packet, now: now)
            return drop(packet.frame)
        }
        guard !packet.source.isUnspecified else {
            counters.packetsBadSource &+= 1
            return drop(packet.frame)
        }
        switch ICMPv6(view) {
        case .echoRequest(let identifier, let sequenceNumber):
            answerEcho(packet, identifier, sequenceNumber, data: view.payload, now: now)
        case .echoReply(let identifier, let sequenceNumber):
            noteEchoReply(packet, identifier, sequenceNumber, data: view.payload, now: now)
        case .destinationUnreachable, .packetTooBig, .timeExceeded, .parameterProblem:
            counters.icmpErrorsReceived &+= 1
            return .icmpv6Error
        case .other:
            counters.icmpIgnored &+= 1
        }
        return drop(packet.frame)
    }

    // MARK: - Echo

    /// RFC 1122, section 3.2.2.6: the data comes back whole. To groups nobody answers, as that section allows.
    private mutating func answerEcho(
        _ packet: ReceivedPacket, _ identifier: UInt16, _ sequenceNumber: UInt16, data: PacketBytes, now: UInt64
    ) {
        counters.echoRequestsReceived &+= 1
        guard !packet.isBroadcast else { return counters.icmpIgnored &+= 1 }
        guard echoLimit.take(now) else { return counters.echoRepliesLimited &+= 1 }
        guard var path = try? path(from: packet.destination, to: packet.source) else { return counters.packetsUnroutable &+= 1 }
        let reply = makePacket(transportBytes: ICMPv4.byteCount + data.count)
        guard !reply.isNull else { return }
        reply.packet.copy(from: data, at: ICMPv4.byteCount)
        if path.isIPv4 {
            ICMPv4.echoReply(identifier: identifier, sequenceNumber: sequenceNumber).emit(into: reply.packet)
        } else {
            ICMPv6.echoReply(identifier: identifier, sequenceNumber: sequenceNumber)
                .emit(into: reply.packet, source: path.source, destination: path.destination)
        }
        counters.echoRepliesSent &+= 1
        let ipProtocol = path.isIPv4 ? IPProtocol.icmp : .icmpv6
        sendSlow(
            reply, payload: .empty, on: &path, proto: ipProtocol.rawValue, traffic: packet.traffic & 0xfc, dontFragment: false, offload: .none,
            now: now)
    }

    /// Sends an echo request with `dataBytes` of data. Throws what ``path(from:to:)`` throws, EMSGSIZE for more data than a packet holds, ENOMEM
    /// where the heap is exhausted.
    package mutating func sendEcho(
        to destination: IPAddress, from source: IPAddress? = nil, identifier: UInt16, sequenceNumber: UInt16, dataBytes: Int = 56, now: UInt64
    ) throws(DemikernelError) {
        guard 0...65_000 ~= dataBytes else { throw DemikernelError(.messageTooLong, "an echo request has 65,000 bytes of data at most") }
        var path = try path(from: source, to: destination)
        let request = makePacket(transportBytes: ICMPv4.byteCount + dataBytes)
        guard !request.isNull else { throw DemikernelError(.noMemory, "the heap is exhausted") }
        let bytes = request.packet
        for offset in 0..<dataBytes { bytes.store8(UInt8(truncatingIfNeeded: offset), at: ICMPv4.byteCount + offset) }
        if path.isIPv4 {
            ICMPv4.echoRequest(identifier: identifier, sequenceNumber: sequenceNumber).emit(into: bytes)
        } else {
            ICMPv6.echoRequest(identifier: identifier, sequenceNumber: sequenceNumber)
                .emit(into: bytes, source: path.source, destination: path.destination)
        }
        counters.echoRequestsSent &+= 1
        let ipProtocol = path.isIPv4 ? IPProtocol.icmp : .icmpv6
        sendSlow(
            request, payload: .empty, on: &path, proto: ipProtocol.rawValue, traffic: 0, dontFragment: false, offload: .none, now: now)
    }

    private mutating func noteEchoReply(
        _ packet: ReceivedPacket, _ identifier: UInt16, _ sequenceNumber: UInt16, data: PacketBytes, now: UInt64
    ) {
        counters.echoRepliesReceived &+= 1
        var isIntact = true
        for offset in 0..<data.count where data.load8(offset) != UInt8(truncatingIfNeeded: offset) { isIntact = false }
        note(EchoReply(
            source: packet.source, identifier: identifier, sequenceNumber: sequenceNumber, dataBytes: data.count, hopLimit: packet.hopLimit,
            receivedAt: now, isIntact: isIntact))
    }

    /// An ICMP error about an echo request of this host's. False where the quoted packet is none.
    mutating func noteEchoError(_ quoted: QuotedPacket, _ error: ICMPError, now: UInt64) -> Bool {
        let type = quoted.upperLayer.load8(0)
        guard quoted.ipProtocol == .icmp ? type == 8 : type == 128 else { return false }
        note(EchoReply(
            source: quoted.destination, identifier: quoted.upperLayer.load16(4), sequenceNumber: quoted.upperLayer.load16(6), dataBytes: 0,
            hopLimit: 0, receivedAt: now, error: error))
        return true
    }

    private mutating func note(_ reply: EchoReply) {
        echoReplies[(echoReplyFirst + echoReplyCount) % echoReplies.count] = reply
        if echoReplyCount < echoReplies.count {
            echoReplyCount += 1
        } else {
            echoReplyFirst = (echoReplyFirst + 1) % echoReplies.count
        }
    }

    /// The oldest echo reply of the last 16 that have come; nil where there is none.
    package mutating func takeEchoReply() -> EchoReply? {
        guard echoReplyCount > 0 else { return nil }
        let reply = echoReplies[echoReplyFirst]
        echoReplyFirst = (echoReplyFirst + 1) % echoReplies.count
        echoReplyCount -= 1
        return reply
    }
}

/// An echo reply that has come, or an error about the request.
package struct EchoReply: BitwiseCopyable, Equatable {
    package var source: IPAddress
    package var identifier: UInt16
    package var sequenceNumber: UInt16
    package var dataBytes: Int
    package var hopLimit: UInt8
    package var receivedAt: UInt64
    /// Whether its data is what ``NetworkLayer/sendEcho(to:from:identifier:sequenceNumber:dataBytes:now:)`` sends.
    package var isIntact = true
    /// Why there is no reply: `source` is the host that the request was for.
    package var error: ICMPError?
}
