import Testing
import TestSupport
@testable import Demikernel

@Suite struct PacketBytesTests {
    @Test func `stores and loads are big-endian, at any alignment`() {
        let bytes = written(17) { packet in
            packet.store8(0x01, at: 0)
            packet.store16(0x0203, at: 1)
            packet.store32(0x0405_0607, at: 3)
            packet.store64(0x0809_0a0b_0c0d_0e0f, at: 7)
            packet.store16(0x1011, at: 15)
        }
        #expect(bytes == Array(1...17))
        withPacket(bytes) { packet in
            #expect(packet.load8(0) == 0x01 && packet.load16(1) == 0x0203 && packet.load32(3) == 0x0405_0607)
            #expect(packet.load64(7) == 0x0809_0a0b_0c0d_0e0f)
            #expect(packet.loadMAC(1).rawValue == 0x0203_0405_0607)
            #expect(packet.loadIPv6(1) == IPAddress(high: 0x0203_0405_0607_0809, low: 0x0a0b_0c0d_0e0f_1011))
        }
        var generator = SplitMix64(seed: 8)
        let (mac, address) = (generator.mac(), generator.ipv6())
        let again = written(22) {
            $0.storeMAC(mac, at: 0)
            $0.storeIPv6(address, at: 6)
        }
        #expect(withPacket(again) { $0.loadMAC(0) } == mac)
        #expect(withPacket(again) { $0.loadIPv6(6) } == address)
    }

    @Test func `parts share the bytes`() {
        let bytes = written(8) { packet in
            packet.clear(0, 8)
            packet.slice(2, 3).store8(7, at: 2)
            packet.slice(from: 6).store16(0x0809, at: 0)
            #expect(packet.slice(from: 8).isEmpty && packet.slice(0, 0).isEmpty)
            #expect(packet.slice(2, 3).count == 3 && packet.slice(from: 2).count == 6)
        }
        #expect(bytes == [0, 0, 0, 0, 7, 0, 8, 9])
        #expect(PacketBytes.empty.isEmpty)
    }

    @Test func `copying may overlap`() {
        let bytes = written(6) { packet in
            for index in 0..<6 { packet.store8(UInt8(index), at: index) }
            packet.copy(from: packet.slice(0, 4), at: 2)
        }
        #expect(bytes == [0, 1, 0, 1, 2, 3])
    }

    @Test func `a span shows the same bytes`() {
        withPacket([1, 2, 3]) { packet in
            let span = packet.span
            #expect(span.byteCount == 3)
            #expect(unsafe span.unsafeLoad(fromByteOffset: 2, as: UInt8.self) == 3)
        }
    }
}
