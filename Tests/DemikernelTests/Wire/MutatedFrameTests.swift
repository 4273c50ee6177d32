import Testing
import TestSupport
@testable import Demikernel

/// Frames damaged in flight, read as the stack reads them: loads outside of the frame trap in debug builds and under a sanitizer.
@Suite struct MutatedFrameTests {
    private static let frames: [[UInt8]] =
        CapturedFrameTests.tcpIPv4 + CapturedFrameTests.tcpIPv6 + [
            CapturedFrameTests.arpRequest, CapturedFrameTests.udpIPv4, CapturedFrameTests.udpIPv6, CapturedFrameTests.portUnreachable,
            CapturedFrameTests.portUnreachableIPv6, CapturedFrameTests.echoRequest, CapturedFrameTests.neighbourSolicitation,
            CapturedFrameTests.neighbourAdvertisement, CapturedFrameTests.routerSolicitation, CapturedFrameTests.multicastListenerReport,
            CapturedFrameTests.fragmentIPv4, CapturedFrameTests.fragmentIPv6,
        ]

    @Test(arguments: 0..<8)
    func `a damaged frame is read to its end, or refused`(seed: UInt64) {
        var generator = SplitMix64(seed: 200 + seed)
        for _ in 0..<4000 {
            var frame = Self.frames.randomElement(using: &generator)!
            for _ in 0..<Int.random(in: 0...4, using: &generator) {
                frame[Int.random(in: 0..<frame.count, using: &generator)] = generator.value()
            }
            if generator.flag() { frame.removeLast(Int.random(in: 0...frame.count, using: &generator)) }
            if generator.flag() { frame += generator.bytes(Int.random(in: 0...20, using: &generator)) }
            let payload = withPacket(frame) { read($0) }
            #expect(payload <= frame.count)
        }
    }

    /// Loads every field there is and answers the bytes that were found to be payload.
    private func read(_ packet: PacketBytes) -> Int {
        guard let ethernet = EthernetHeaderView(packet) else { return 0 }
        _ = EthernetHeader(ethernet)
        switch ethernet.etherType {
        case .arp:
            if let view = ARPPacketView(ethernet.payload) { _ = ARPPacket(view) }
            return 0
        case .ipv4:
            guard let view = IPv4HeaderView(ethernet.payload) else { return 0 }
            _ = (IPv4Header(view), view.checksumIsValid, view.options.count)
            return readUpperLayer(view.payload, view.ipProtocol, view.sourceAddress, view.destinationAddress)
        case .ipv6:
            guard let view = IPv6HeaderView(ethernet.payload) else { return 0 }
            _ = IPv6Header(view)
            guard
                case .upperLayer(let upper, let offset, _) = IPv6ExtensionHeaders.walk(view.payload, nextHeader: view.nextHeader)
            else { return 0 }
            return readUpperLayer(view.payload.slice(from: offset), upper, view.source, view.destination)
        default: return 0
        }
    }

    private func readUpperLayer(_ bytes: PacketBytes, _ upper: IPProtocol, _ source: IPAddress, _ destination: IPAddress) -> Int {
        let pseudo = InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: upper, length: bytes.count)
        switch upper {
        case .tcp:
            guard let view = TCPHeaderView(bytes) else { return 0 }
            _ = (TCPHeader(view), TCPOptions(view), view.checksumIsValid(pseudoHeader: pseudo), view.segmentLength)
            return view.payload.count
        case .udp:
            guard let view = UDPHeaderView(bytes) else { return 0 }
            _ = (UDPHeader(view), view.checksumIsValid(pseudoHeader: pseudo))
            return view.payload.count
        case .icmp:
            guard let view = ICMPView(bytes) else { return 0 }
            _ = (ICMPv4(view), view.checksumIsValid)
            if let quoted = QuotedPacket(ipv4: view.payload) { _ = (quoted.sourcePort, quoted.destinationPort, quoted.sequenceNumber) }
            return view.payload.count
        case .icmpv6:
            guard let view = ICMPView(bytes) else { return 0 }
            _ = (ICMPv6(view), NDPMessage(view), view.checksumIsValid(source: source, destination: destination))
            if let quoted = QuotedPacket(ipv6: view.payload) { _ = (quoted.sourcePort, quoted.destinationPort, quoted.sequenceNumber) }
            return view.payload.count
        default: return 0
        }
    }
}
