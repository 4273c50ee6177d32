/// The packet that an ICMP error is about, of which the error carries the beginning: the IP header and at least 8 bytes of what follows.
/// RFC 792; RFC 1122, section 3.2.2; RFC 4443, section 2.4(c).
///
/// The lengths in a quoted header are those of the whole packet, so the ordinary views refuse it. That the quoted packet was sent at all is
/// for the upper layer to find out: an error is easily forged (RFC 5927).
package struct QuotedPacket: BitwiseCopyable {
    package let source: IPAddress
    package let destination: IPAddress
    package let ipProtocol: IPProtocol
    /// What is left of the upper layer's header and payload: 8 bytes or more.
    package let upperLayer: PacketBytes

    /// TCP's and UDP's ports.
    @inline(__always) package var sourcePort: UInt16 { upperLayer.load16(0) }
    @inline(__always) package var destinationPort: UInt16 { upperLayer.load16(2) }
    /// TCP's.
    @inline(__always) package var sequenceNumber: SequenceNumber { SequenceNumber(upperLayer.load32(4)) }

    private init(_ source: IPAddress, _ destination: IPAddress, _ ipProtocol: IPProtocol, _ upperLayer: PacketBytes) {
        self.source = source
        self.destination = destination
        self.ipProtocol = ipProtocol
        self.upperLayer = upperLayer
    }

    /// Reads the payload of an ICMP error. Fails where there is no IPv4 header with 8 bytes behind it, or they are a later fragment's.
    package init?(ipv4 bytes: PacketBytes) {
        guard bytes.count >= IPv4Header.byteCount else { return nil }
        let headerLength = Int(bytes.load8(0) & 0xf) &* 4
        guard bytes.load8(0) &>> 4 == 4, headerLength >= IPv4Header.byteCount, bytes.count &- headerLength >= 8 else { return nil }
        guard bytes.load16(6) & 0x1fff == 0 else { return nil }
        self.init(
            IPAddress(ipv4: bytes.load32(12)), IPAddress(ipv4: bytes.load32(16)), IPProtocol(rawValue: bytes.load8(9)),
            bytes.slice(from: headerLength))
    }

    /// Reads the payload of an ICMPv6 error. Fails where there is no IPv6 header, extension headers or upper layer of 8 bytes, or they are a
    /// later fragment's.
    package init?(ipv6 bytes: PacketBytes) {
        guard bytes.count >= IPv6Header.byteCount, bytes.load8(0) &>> 4 == 6 else { return nil }
        let source = bytes.loadIPv6(8)
        let destination = bytes.loadIPv6(24)
        guard !source.isIPv4, !destination.isIPv4 else { return nil }
        let payload = bytes.slice(from: IPv6Header.byteCount)
        var outcome = IPv6ExtensionHeaders.walk(payload, nextHeader: IPProtocol(rawValue: bytes.load8(6)))
        var start = 0
        if case .fragment(let header, let offset) = outcome {
            guard header.fragmentOffset == 0 else { return nil }
            start = offset
            outcome = IPv6ExtensionHeaders.walk(payload.slice(from: offset), nextHeader: header.nextHeader, isReassembled: true)
        }
        guard case .upperLayer(let upper, let offset, _) = outcome, payload.count &- start &- offset >= 8 else { return nil }
        self.init(source, destination, upper, payload.slice(from: start &+ offset))
    }
}
