/// A frame in one line, for a person: `02:00:00:00:00:02 > 02:00:00:00:00:01, IPv4 10.0.0.2.40000 > 10.0.0.1.80, TCP SYN, seq 7, win 65535, 74 bytes`.
///
/// Allocates: for traces, messages and tests, not for the datapath. What cannot be read is named and left at that.
package struct FrameText: CustomStringConvertible {
    package let description: String

    /// `bytes` is a whole frame, from the Ethernet header on.
    package init(_ bytes: PacketBytes) {
        guard let ethernet = EthernetHeaderView(bytes) else {
            description = "no Ethernet header, \(bytes.count) bytes"
            return
        }
        var text = "\(ethernet.source) > \(ethernet.destination)"
        if let tag = ethernet.tag { text += ", VLAN \(tag.identifier)" }
        switch ethernet.etherType {
        case .arp: text += ", " + Self.arp(ethernet.payload)
        case .ipv4: text += ", " + Self.ipv4(ethernet.payload)
        case .ipv6: text += ", " + Self.ipv6(ethernet.payload)
        case let other: text += ", EtherType 0x" + String(other.rawValue, radix: 16)
        }
        description = text + ", \(bytes.count) bytes"
    }

    private static func arp(_ bytes: PacketBytes) -> String {
        guard let packet = ARPPacketView(bytes) else { return "bad ARP" }
        let sender = IPAddress(ipv4: packet.senderProtocolAddress)
        return packet.operation == .request
            ? "ARP who has \(IPAddress(ipv4: packet.targetProtocolAddress)), tell \(sender)"
            : "ARP \(sender) is at \(packet.senderHardwareAddress)"
    }

    private static func ipv4(_ bytes: PacketBytes) -> String {
        guard let packet = IPv4HeaderView(bytes) else { return "bad IPv4" }
        let ends = Ends(source: packet.sourceAddress, destination: packet.destinationAddress)
        if packet.fragmentOffset > 0 {
            return "IPv4 \(ends.text()), fragment of \(packet.identification) at \(packet.fragmentOffset)"
        }
        let more = packet.moreFragments ? ", first fragment of \(packet.identification)" : ""
        return "IPv4 " + transport(packet.ipProtocol, packet.payload, ends) + more
    }

    private static func ipv6(_ bytes: PacketBytes) -> String {
        guard let packet = IPv6HeaderView(bytes) else { return "bad IPv6" }
        let ends = Ends(source: packet.source, destination: packet.destination)
        return "IPv6 " + transport(packet.nextHeader, packet.payload, ends)
    }

    private struct Ends {
        let source: IPAddress
        let destination: IPAddress

        func text() -> String { "\(source) > \(destination)" }
        func text(_ sourcePort: UInt16, _ destinationPort: UInt16) -> String { "\(source).\(sourcePort) > \(destination).\(destinationPort)" }
    }

    private static func transport(_ number: IPProtocol, _ bytes: PacketBytes, _ ends: Ends) -> String {
        switch number {
        case .tcp:
            guard let segment = TCPHeaderView(bytes) else { return "\(ends.text()), bad TCP" }
            var text = "\(ends.text(segment.sourcePort, segment.destinationPort)), TCP \(segment.flags), seq \(segment.sequenceNumber)"
            if segment.payloadLength > 0 { text += "+\(segment.payloadLength)" }
            if segment.flags.contains(.ack) { text += ", ack \(segment.acknowledgmentNumber)" }
            return text + ", win \(segment.window)"
        case .udp:
            guard let datagram = UDPHeaderView(bytes) else { return "\(ends.text()), bad UDP" }
            return "\(ends.text(datagram.sourcePort, datagram.destinationPort)), UDP \(datagram.payloadLength)"
        case .icmp:
            guard let message = ICMPView(bytes) else { return "\(ends.text()), bad ICMP" }
            return "\(ends.text()), ICMP type \(message.type) code \(message.code)"
        case .icmpv6:
            guard let message = ICMPView(bytes) else { return "\(ends.text()), bad ICMPv6" }
            return "\(ends.text()), ICMPv6 type \(message.type) code \(message.code)"
        default: return "\(ends.text()), protocol \(number.rawValue)"
        }
    }
}
