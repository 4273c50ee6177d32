// What the network says about packets of this host's, passed on to the transports. RFC 1122, section 3.2.2.1; RFC 5927 for how far to believe it.

extension NetworkStack {
    /// An ICMP or ICMPv6 error, whose frame begins with the ICMP header. Takes the reference.
    @inline(never)
    mutating func receiveError(_ packet: ReceivedPacket, now: UInt64) {
        defer { packet.frame.release() }
        let bytes = packet.frame.packet
        guard packet.destination.isIPv4 else { return receiveErrorIPv6(bytes, now: now) }
        guard let view = ICMPView(bytes), let quoted = QuotedPacket(ipv4: view.payload) else { return ip.counters.icmpMalformed &+= 1 }
        switch ICMPv4(view) {
        case .destinationUnreachable(.fragmentationNeeded, let nextHopMTU):
            reportTooBig(quoted, length: Int(view.payload.load16(2)), mtu: Int(nextHopMTU), now: now)
        case .destinationUnreachable(let code, _): report(quoted, .unreachable(ICMPError.Unreachable(code)), now: now)
        case .timeExceeded: report(quoted, .timeExceeded, now: now)
        case .parameterProblem: report(quoted, .parameterProblem, now: now)
        case .echoRequest, .echoReply, .other: break
        }
    }

    private mutating func receiveErrorIPv6(_ bytes: PacketBytes, now: UInt64) {
        guard let view = ICMPView(bytes), let quoted = QuotedPacket(ipv6: view.payload) else { return ip.counters.icmpMalformed &+= 1 }
        switch ICMPv6(view) {
        case .packetTooBig(let mtu):
            reportTooBig(quoted, length: Int(view.payload.load16(4)) + IPv6Header.byteCount, mtu: Int(mtu), now: now)
        case .destinationUnreachable(let code): report(quoted, .unreachable(ICMPError.Unreachable(code)), now: now)
        case .timeExceeded: report(quoted, .timeExceeded, now: now)
        case .parameterProblem: report(quoted, .parameterProblem, now: now)
        case .echoRequest, .echoReply, .other: break
        }
    }

    /// The neighbour did not answer: the same as if a router had said so. RFC 1122, section 2.3.2.2.
    mutating func reportUndeliverable(_ frame: Frame, now: UInt64) {
        guard let view = EthernetHeaderView(frame.head.packet) else { return }
        let payload = view.payload
        guard let quoted = view.etherType == .ipv4 ? QuotedPacket(ipv4: payload) : QuotedPacket(ipv6: payload) else { return }
        report(quoted, .unreachable(.host), now: now)
    }

    private mutating func report(_ quoted: QuotedPacket, _ error: ICMPError, now: UInt64) {
        guard ip.isOwn(quoted.source) else { return ip.counters.icmpErrorsIgnored &+= 1 }
        switch quoted.ipProtocol {
        case .udp:
            udp.receiveError(
                source: quoted.source, destination: quoted.destination, quotedTransport: quoted.upperLayer, error: error, ip: &ip,
                events: &events, now: now)
        case .tcp:
            tcp.receiveError(
                source: quoted.source, destination: quoted.destination, quotedTransport: quoted.upperLayer, error: error, ip: &ip,
                events: &events, now: now)
        case .icmp, .icmpv6:
            if !ip.noteEchoError(quoted, error, now: now) { ip.counters.icmpErrorsIgnored &+= 1 }
        default: ip.counters.icmpErrorsIgnored &+= 1
        }
    }

    /// RFC 1191, section 3 and RFC 8201, section 4: the path takes smaller packets than was thought.
    private mutating func reportTooBig(_ quoted: QuotedPacket, length: Int, mtu: Int, now: UInt64) {
        guard couldBeOurs(quoted, length: length) else { return ip.counters.icmpErrorsIgnored &+= 1 }
        guard let mtu = ip.notePathMTU(quoted, length: length, mtu: mtu, now: now) else { return ip.counters.icmpErrorsIgnored &+= 1 }
        report(quoted, .packetTooBig(mtu: mtu), now: now)
    }

    /// Whether this host can have sent a packet of `length` bytes that begins so: the transport is asked before anything is believed. RFC 5927,
    /// section 7.2; RFC 8085, section 3.2; RFC 8201, section 4. What else a host sends, answers to echoes, is not worth a forger's finding it.
    private mutating func couldBeOurs(_ quoted: QuotedPacket, length: Int) -> Bool {
        switch quoted.ipProtocol {
        case .tcp: tcp.isOut(source: quoted.source, destination: quoted.destination, quotedTransport: quoted.upperLayer)
        case .udp:
            length <= Int(ip.mtu)
                && udp.couldHaveSent(source: quoted.source, destination: quoted.destination, quotedTransport: quoted.upperLayer, ip: &ip)
        default: false
        }
    }
}

extension ICMPError.Unreachable {
    init(_ code: ICMPv4.UnreachableCode) {
        switch code {
        case .network: self = .network
        case .ipProtocol: self = .protocol
        case .port: self = .port
        case .administrativelyProhibited: self = .administratively
        default: self = .host
        }
    }

    init(_ code: ICMPv6.UnreachableCode) {
        switch code {
        case .noRoute: self = .network
        case .administrativelyProhibited: self = .administratively
        case .port: self = .port
        default: self = .host
        }
    }
}
