import Testing
import TestSupport
@testable import Demikernel

@Suite struct ChecksumTests {
    @Test func `RFC 1071's example`() {
        // Section 3: the sum is ddf2.
        let checksum = withPacket(hex("0001 f203 f4f5 f6f7")) { InternetChecksum.fold(InternetChecksum.sum($0)) }
        #expect(checksum == ~0xddf2)
    }

    @Test func `RFC 1624's example, by equation 3`() {
        // Section 4: a header's checksum dd2f, a word changes from 5555 to 3285; the checksum becomes 0000, not ffff.
        #expect(InternetChecksum.update(0xdd2f, from: UInt16(0x5555), to: UInt16(0x3285)) == 0)
    }

    @Test func `every length and alignment agrees with the definition`() {
        var generator = SplitMix64(seed: 1)
        let bytes = generator.bytes(2048 + 16)
        withPacket(bytes) { all in
            for length in 0...2048 {
                let offset = length % 17 % 16
                let reference = referenceChecksum(Array(bytes[offset..<offset + length]))
                #expect(InternetChecksum.fold(InternetChecksum.sum(all.slice(offset, length))) == reference, "length \(length)")
            }
            for offset in 0..<16 {
                for length in [0, 1, 7, 8, 15, 16, 20, 31, 32, 33, 63, 64, 65, 1460] {
                    let reference = referenceChecksum(Array(bytes[offset..<offset + length]))
                    #expect(InternetChecksum.fold(InternetChecksum.sum(all.slice(offset, length))) == reference)
                }
            }
        }
    }

    @Test(arguments: [UInt8(0), 0x7f, 0x80, 0xff])
    func `extreme bytes overflow nothing, however many`(byte: UInt8) {
        for length in [1, 2, 20, 32, 64, 1460, 65_535, 262_144, 262_145, 600_001] {
            let bytes = [UInt8](repeating: byte, count: length)
            let checksum = withPacket(bytes) { InternetChecksum.fold(InternetChecksum.sum($0)) }
            #expect(checksum == referenceChecksum(bytes), "length \(length)")
        }
    }

    @Test func `sum20 is the sum of 20 bytes`() {
        var generator = SplitMix64(seed: 2)
        for _ in 0..<1000 {
            let bytes = generator.bytes(20)
            #expect(withPacket(bytes) { InternetChecksum.fold(InternetChecksum.sum20($0)) } == referenceChecksum(bytes))
        }
    }

    @Test func `copying and summing is both`() {
        var generator = SplitMix64(seed: 3)
        for length in Array(0...300) + [1460, 9000, 65_535, 300_001] {
            let bytes = generator.bytes(length)
            var sum: UInt64 = 0
            let copy = written(length + 3) { target in
                sum = withPacket(bytes) { InternetChecksum.copyAndSum(from: $0, to: target) }
            }
            #expect(copy == bytes + [0xa5, 0xa5, 0xa5])
            #expect(InternetChecksum.fold(sum) == referenceChecksum(bytes))
        }
    }

    @Test func `pieces of any lengths sum up to the whole`() {
        var generator = SplitMix64(seed: 4)
        for _ in 0..<2000 {
            let bytes = generator.bytes(Int.random(in: 0...400, using: &generator))
            var accumulator = InternetChecksum.Accumulator()
            withPacket(bytes) { all in
                var offset = 0
                while offset < all.count {
                    let length = min(Int.random(in: 0...40, using: &generator), all.count - offset)
                    accumulator.add(all.slice(offset, length))
                    offset += length
                }
            }
            #expect(accumulator.checksum == referenceChecksum(bytes))
        }
    }

    @Test func `an incremental update is what summing again would say`() {
        var generator = SplitMix64(seed: 5)
        let corners: [UInt16] = [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff]
        for round in 0..<20_000 {
            var bytes = generator.bytes(8)
            bytes[0] |= 1  // Never all zeros, as no header is: there alone the two forms of zero differ.
            for offset in stride(from: 2, to: 8, by: 2) where round % 3 == 0 {
                let corner = corners.randomElement(using: &generator)!
                bytes[offset] = UInt8(corner >> 8)
                bytes[offset + 1] = UInt8(corner & 255)
            }
            let old = referenceChecksum(bytes)
            let new16 = round % 2 == 0 ? corners.randomElement(using: &generator)! : generator.value()
            let new32 = round % 2 == 0 ? UInt32(new16) << 16 | UInt32(corners.randomElement(using: &generator)!) : generator.value()
            withPacket(bytes) { packet in
                let before16 = packet.load16(2)
                packet.store16(new16, at: 2)
                #expect(InternetChecksum.fold(InternetChecksum.sum(packet)) == InternetChecksum.update(old, from: before16, to: new16))
                packet.store16(before16, at: 2)
                let before32 = packet.load32(4)
                packet.store32(new32, at: 4)
                #expect(InternetChecksum.fold(InternetChecksum.sum(packet)) == InternetChecksum.update(old, from: before32, to: new32))
            }
        }
    }

    @Test func `the sum that includes the checksum is valid, and no other`() {
        var generator = SplitMix64(seed: 6)
        for _ in 0..<1000 {
            var bytes = generator.bytes(2 * Int.random(in: 2...50, using: &generator))
            bytes[0] = 0
            bytes[1] = 0
            let checksum = referenceChecksum(bytes)
            bytes[0] = UInt8(checksum >> 8)
            bytes[1] = UInt8(checksum & 255)
            #expect(withPacket(bytes) { InternetChecksum.isValid(InternetChecksum.sum($0)) })
            let index = Int.random(in: 0..<bytes.count, using: &generator)
            bytes[index] ^= UInt8.random(in: 1...254, using: &generator)
            #expect(!withPacket(bytes) { InternetChecksum.isValid(InternetChecksum.sum($0)) })
        }
    }

    @Test func `pseudo-headers are those of the RFCs`() {
        var generator = SplitMix64(seed: 7)
        for _ in 0..<1000 {
            let (source, destination) = (generator.value(UInt32.self), generator.value(UInt32.self))
            let length = Int.random(in: 0...65_535, using: &generator)
            let v4 = written(12) {
                $0.store32(source, at: 0)
                $0.store32(destination, at: 4)
                $0.store16(6, at: 8)
                $0.store16(UInt16(length), at: 10)
            }
            let sum4 = InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: .tcp, length: length)
            #expect(InternetChecksum.fold(sum4) == referenceChecksum(v4))
            let mapped = InternetChecksum.pseudoHeader(
                source: IPAddress(ipv4: source), destination: IPAddress(ipv4: destination), ipProtocol: .tcp, length: length)
            #expect(mapped == sum4)
            let (from, to) = (generator.ipv6(), generator.ipv6())
            let v6 = written(40) {
                $0.storeIPv6(from, at: 0)
                $0.storeIPv6(to, at: 16)
                $0.store32(UInt32(length), at: 32)
                $0.store32(17, at: 36)
            }
            let sum6 = InternetChecksum.pseudoHeader(source: from, destination: to, ipProtocol: .udp, length: length)
            #expect(InternetChecksum.fold(sum6) == referenceChecksum(v6))
        }
    }
}
