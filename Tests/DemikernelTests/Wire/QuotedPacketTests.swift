import Testing
import TestSupport
@testable import Demikernel

@Suite struct QuotedPacketTests {
    @Test func `a port unreachable names the datagram's ports and addresses`() throws {
        try withPacket(CapturedFrameTests.portUnreachable) { packet in
            let quoted = try #require(QuotedPacket(ipv4: packet.slice(from: 42)))
            #expect(quoted.ipProtocol == .udp && quoted.sourcePort == 0x8101 && quoted.destinationPort == 9)
            #expect(quoted.source.description == "10.0.0.1" && quoted.destination.description == "10.0.0.2")
        }
        try withPacket(CapturedFrameTests.portUnreachableIPv6) { packet in
            let quoted = try #require(QuotedPacket(ipv6: packet.slice(from: 62)))
            #expect(quoted.ipProtocol == .udp && quoted.sourcePort == 0xce80 && quoted.destinationPort == 9)
            #expect(quoted.source.description == "2001:db8::1" && quoted.destination.description == "2001:db8::2")
        }
    }

    @Test func `eight bytes of a longer TCP segment are enough, seven are not`() throws {
        let packet = Array(CapturedFrameTests.tcpIPv4[3][14...])
        try withPacket(Array(packet[..<28])) { bytes in
            #expect(IPv4HeaderView(bytes) == nil)
            let quoted = try #require(QuotedPacket(ipv4: bytes))
            #expect(quoted.ipProtocol == .tcp && quoted.destinationPort == 80 && quoted.sequenceNumber == SequenceNumber(0x5ab6_92da))
        }
        #expect(lengthsAccepted(of: packet, below: 28) { QuotedPacket(ipv4: $0) == nil } == [])
        let packetIPv6 = Array(CapturedFrameTests.tcpIPv6[2][14...])
        #expect(lengthsAccepted(of: packetIPv6, below: 48) { QuotedPacket(ipv6: $0) == nil } == [])
        #expect(withPacket(Array(packetIPv6[..<48])) { QuotedPacket(ipv6: $0)?.sequenceNumber } == SequenceNumber(0xaff5_fba0))
    }

    @Test func `of a fragmented packet the first fragment alone says what it was`() {
        #expect(withPacket(Array(CapturedFrameTests.fragmentIPv4[14...])) { QuotedPacket(ipv4: $0) == nil })
        #expect(withPacket(Array(CapturedFrameTests.fragmentIPv6[14...])) { QuotedPacket(ipv6: $0) == nil })
        var first = Array(CapturedFrameTests.fragmentIPv6[14...])
        first[42] = 0
        first[43] = 1  // offset 0, more fragments
        #expect(withPacket(first) { QuotedPacket(ipv6: $0)?.sourcePort } == 0x7878)
    }

    @Test func `options and extension headers are passed over`() {
        let ipv4 = hex("46000020 00000000 40110000 0a000001 0a000002 01010101 0001000200080000")
        #expect(withPacket(ipv4) { QuotedPacket(ipv4: $0)?.destinationPort } == 2)
        let ipv6 = hex("60000000 0010 3c 40 20010db8000000000000000000000001 20010db8000000000000000000000002 1100010400000000 0001000200080000")
        #expect(withPacket(ipv6) { QuotedPacket(ipv6: $0)?.destinationPort } == 2)
    }
}
