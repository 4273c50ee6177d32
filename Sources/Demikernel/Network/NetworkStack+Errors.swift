// What the network says about packets of this host's, passed on to the transports. RFC 1122, section 3.2.2.1; RFC 5927 for how far to believe it.

extension NetworkStack {
    /// An ICMP or ICMPv6 error, whose frame begins with the ICMP header. Takes the reference.
    @inline(never)
    mutating func receiveError(_ packet: ReceivedPacket, now: UInt64) {
        defer { packet.frame.release() }
        let bytes = packet.frame.packet
        guard packet.destination.isIPv4 else { return receiveErrorIPv6(bytes, now: now) }
        guard let view = ICMPv4View(bytes), let quoted = QuotedPacket(ipv4: view.payload) else { return ip.counters.icmpMalformed &+= 1 }
        switch ICMPv4(view) {
        case .destinationUnreachable(.fragmentationNeeded, let nextHopMTU):
            reportTooBig(quoted, mtu: Int(nextHopMTU), now: now)
        case .destinationUnreachable(let code, _): report(quoted, .unreachable(ICMPError.Unreachable(code)), now: now)
        case .timeExceeded: report(quoted, .timeExceeded, now: now)
        case .parameterProblem: report(quoted, .parameterProblem, now: now)
        case .echoRequest, .echoReply, .other: break
        }
    }

    private mutating func receiveErrorIPv6(_ bytes: PacketBytes, now: UInt64) {
        guard let view = ICMPv6View(bytes), let quoted = QuotedPacket(ipv6: view.payload) else { return ip.counters.icmpMalformed &+= 1 }
        switch ICMPv6(view) {
        case .packetTooBig(let mtu): reportTooBig(quoted, mtu: Int(mtu), now: now)
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
                source: quoted.source, destination: quoted.destination, quotedTransport: quoted.transport, error: error, ip: &ip,
                events: &events, now: now)
        default: ip.counters.icmpErrorsIgnored &+= 1
        }
    }

    /// RFC 1191, section 3 and RFC 8201, section 4: the path takes smaller packets than was thought.
    private mutating func reportTooBig(_ quoted: QuotedPacket, mtu: Int, now: UInt64) {
        guard let mtu = ip.notePathMTU(quoted, mtu: mtu, now: now) else { return ip.counters.icmpErrorsIgnored &+= 1 }
        report(quoted, .packetTooBig(mtu: mtu), now: now)
    }
}

/// The beginning of a packet of this host's that an error is about.
struct QuotedPacket: BitwiseCopyable {
    var source: IPAddress
    var destination: IPAddress
    var ipProtocol: IPProtocol
    /// What is there of the transport's header: at least 8 bytes.
    var transport: PacketBytes
    var totalLength: Int

    /// Fails where there is less than the header and 8 bytes, or it is not the beginning of a datagram.
    init?(ipv4 bytes: PacketBytes) {
        // The packet is cut off, so its length says nothing about what is there.
        guard bytes.count >= IPv4Header.byteCount + 8, bytes.load8(0) >> 4 == 4 else { return nil }
        let headerLength = Int(bytes.load8(0) & 0xf) * 4
        guard headerLength >= IPv4Header.byteCount, bytes.count >= headerLength + 8, bytes.load16(6) & 0x1fff == 0 else { return nil }
        source = IPAddress(ipv4: bytes.load32(12))
        destination = IPAddress(ipv4: bytes.load32(16))
        ipProtocol = IPProtocol(rawValue: bytes.load8(9))
        transport = bytes.slice(from: headerLength)
        totalLength = Int(bytes.load16(2))
    }

    init?(ipv6 bytes: PacketBytes) {
        guard bytes.count >= IPv6Header.byteCount + 8, bytes.load8(0) >> 4 == 6 else { return nil }
        source = bytes.loadIPv6(8)
        destination = bytes.loadIPv6(24)
        totalLength = Int(bytes.load16(4)) + IPv6Header.byteCount
        let payload = bytes.slice(from: IPv6Header.byteCount)
        switch IPv6ExtensionHeaders.walk(payload, nextHeader: IPProtocol(rawValue: bytes.load8(6))) {
        case .upperLayer(let upper, let offset, _):
            ipProtocol = upper
            transport = payload.slice(from: offset)
        case .fragment(let header, let offset):
            guard header.fragmentOffset == 0 else { return nil }
            ipProtocol = header.nextHeader
            transport = payload.slice(from: offset)
        case .malformed, .unrecognised, .discard: return nil
        }
        guard transport.count >= 8 else { return nil }
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
