import Testing
import TestSupport
@testable import Demikernel

@Suite struct LinkWireTests {
    @Test func `an Ethernet header comes back as it was written, with and without a tag`() {
        var generator = SplitMix64(seed: 11)
        for round in 0..<2000 {
            let tag = round % 2 == 0 ? nil : VLANTag(priority: generator.value(), dropEligible: generator.flag(), identifier: generator.value())
            var type = EtherType(rawValue: generator.value())
            if type == .vlan { type = .ipv4 }
            let header = EthernetHeader(destination: generator.mac(), source: generator.mac(), etherType: type, tag: tag)
            let bytes = written(header.byteCount) { header.emit(into: $0) }
            let parsed = withPacket(bytes) { EthernetHeaderView($0).map { EthernetHeader($0) } }
            #expect(parsed == header)
            // Cut to 14 bytes, a tagged header is still too short: its tag is announced.
            #expect(lengthsAccepted(of: bytes, below: header.byteCount) { EthernetHeaderView($0) == nil } == [])
        }
    }

    @Test func `a tag's fields are where IEEE 802.1Q has them`() {
        let tag = VLANTag(priority: 5, dropEligible: true, identifier: 0x123)
        #expect(tag.control == 0xb123)
        #expect(tag.priority == 5 && tag.dropEligible && tag.identifier == 0x123)
        let bytes = written(18) {
            EthernetHeader(destination: .broadcast, source: MACAddress(1), etherType: .arp, tag: tag).emit(into: $0)
        }
        #expect(bytes == hex("ffffffffffff 000000000001 8100 b123 0806"))
    }

    @Test func `the payload follows header and tag`() throws {
        let plain = hex("ffffffffffff 000000000001 0800 aabb")
        let tagged = hex("ffffffffffff 000000000001 8100 0001 0800 aabb")
        for frame in [plain, tagged] {
            try withPacket(frame) { packet in
                let view = try #require(EthernetHeaderView(packet))
                #expect(view.etherType == .ipv4)
                #expect(view.payload.count == 2 && view.payload.load16(0) == 0xaabb)
            }
        }
    }

    @Test func `an ARP packet comes back as it was written`() {
        var generator = SplitMix64(seed: 12)
        for _ in 0..<2000 {
            let packet = ARPPacket(
                operation: generator.flag() ? .request : .reply, senderHardwareAddress: generator.mac(),
                senderProtocolAddress: generator.value(), targetHardwareAddress: generator.mac(), targetProtocolAddress: generator.value())
            let bytes = written(28) { packet.emit(into: $0) }
            let parsed = withPacket(bytes) { ARPPacketView($0).map { ARPPacket($0) } }
            #expect(parsed == packet)
            #expect(lengthsAccepted(of: bytes, below: 28) { ARPPacketView($0) == nil } == [])
        }
    }

    @Test func `ARP about anything but IPv4 over Ethernet, or with another operation, is refused`() {
        let bytes = written(28) { ARPPacket.probe(for: 1, from: MACAddress(2)).emit(into: $0) }
        for index in 0..<8 {
            for flip in [UInt8(0x80), 0x04, 0x01] {
                var other = bytes
                other[index] ^= flip
                #expect(withPacket(other) { ARPPacketView($0) == nil }, "byte \(index)")
            }
        }
    }

    @Test func `probes and announcements are those of RFC 5227`() {
        let address = MACAddress(0x0200_0000_0007)
        let probe = ARPPacket.probe(for: 0x0a00_0005, from: address)
        #expect(probe.isProbe && !probe.isGratuitous)
        #expect(probe.senderProtocolAddress == 0 && probe.targetHardwareAddress == .zero && probe.targetProtocolAddress == 0x0a00_0005)
        let announcement = ARPPacket.announcement(of: 0x0a00_0005, from: address)
        #expect(announcement.isGratuitous && !announcement.isProbe && announcement.operation == .request)
    }

    @Test func `MAC addresses in text`() {
        #expect(MACAddress("02:00:5e:10:Ff:01")?.rawValue == 0x0200_5e10_ff01)
        #expect(MACAddress("02-00-5e-10-ff-01")?.description == "02:00:5e:10:ff:01")
        #expect(MACAddress.broadcast.description == "ff:ff:ff:ff:ff:ff")
        #expect(MACAddress.zero.description == "00:00:00:00:00:00")
        for text in ["", "02", "02:00:5e:10:ff", "02:00:5e:10:ff:0", "02:00:5e:10:ff:011", "02:00:5e:10:ff:0g", "02005e10ff01", "02:00:5e:10:ff:01:", ":2:00:5e:10:ff:01"] {
            #expect(MACAddress(text) == nil, "\(text)")
        }
    }

    @Test func `MAC addresses of groups`() throws {
        #expect(MACAddress.broadcast.isMulticast && MACAddress.broadcast.isBroadcast && !MACAddress.broadcast.isUnicast)
        #expect(MACAddress(0x0200_0000_0001).isUnicast && MACAddress(0x0200_0000_0001).isLocallyAdministered)
        #expect(!MACAddress.zero.isUnicast)
        // RFC 1112, section 6.4: 224.129.2.3 has a 24th bit that is lost.
        #expect(MACAddress.ipv4Multicast(0xe081_0203).description == "01:00:5e:01:02:03")
        #expect(try #require(IPAddress("224.0.0.251")).multicastMACAddress.description == "01:00:5e:00:00:fb")
        #expect(try #require(IPAddress("ff02::1:ff12:3456")).multicastMACAddress.description == "33:33:ff:12:34:56")
    }
}
