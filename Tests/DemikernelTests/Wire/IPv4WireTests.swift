import Testing
import TestSupport
@testable import Demikernel

@Suite struct IPv4WireTests {
    @Test func `a header comes back as it was written, and its checksum is right`() {
        var generator = SplitMix64(seed: 41)
        for _ in 0..<3000 {
            let payloadLength = Int.random(in: 0...100, using: &generator)
            let header = IPv4Header(
                source: generator.value(), destination: generator.value(), ipProtocol: IPProtocol(rawValue: generator.value()),
                payloadLength: payloadLength, timeToLive: generator.value(), identification: generator.value(),
                dontFragment: generator.flag(), moreFragments: generator.flag(),
                fragmentOffset: Int.random(in: 0...8191, using: &generator) * 8,
                differentiatedServices: UInt8.random(in: 0...63, using: &generator), ecn: ECN(lowBitsOf: generator.value()))
            let bytes = written(20 + payloadLength) { header.emit(into: $0) }
            withPacket(bytes) { packet in
                let view = IPv4HeaderView(packet)
                #expect(view.map { IPv4Header($0) } == header)
                #expect(view?.checksumIsValid == true)
                #expect(view?.payload.count == payloadLength)
                #expect(view?.isFragment == (header.moreFragments || header.fragmentOffset != 0))
            }
            #expect(referenceChecksum(Array(bytes[..<20])) == 0)
            #expect(lengthsAccepted(of: bytes, below: bytes.count) { IPv4HeaderView($0) == nil } == [])
        }
    }

    @Test func `a known header's checksum`() {
        let bytes = written(20) {
            IPv4Header(
                source: 0xc0a8_0001, destination: 0xc0a8_00c7, ipProtocol: .udp, payloadLength: 0x73 - 20, dontFragment: true
            ).emit(into: $0)
        }
        #expect(bytes == hex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7"))
    }

    @Test func `the checksum is left out where the device fills it in`() {
        let header = IPv4Header(source: 1, destination: 2, ipProtocol: .tcp, payloadLength: 0)
        let bytes = written(20) { header.emit(into: $0, checksum: false) }
        #expect(bytes[10] == 0 && bytes[11] == 0)
    }

    @Test func `options are skipped, and the checksum covers them`() throws {
        var generator = SplitMix64(seed: 42)
        for words in 5...15 {
            var bytes = written(words * 4 + 8) { packet in
                IPv4Header(source: 1, destination: 2, ipProtocol: .udp, payloadLength: words * 4 - 20 + 8).emit(into: packet, checksum: false)
                packet.store8(0x40 | UInt8(words), at: 0)
                for offset in 20..<words * 4 { packet.store8(generator.value(), at: offset) }
            }
            let checksum = referenceChecksum(Array(bytes[..<(words * 4)]))
            bytes[10] = UInt8(checksum >> 8)
            bytes[11] = UInt8(checksum & 255)
            try withPacket(bytes) { packet in
                let view = try #require(IPv4HeaderView(packet))
                #expect(view.headerLength == words * 4 && view.options.count == words * 4 - 20 && view.hasOptions == (words > 5))
                #expect(view.payload.count == 8 && view.payloadLength == 8)
                #expect(view.checksumIsValid)
                packet.store8(packet.load8(words * 4 - 1) ^ 1, at: words * 4 - 1)
                #expect(!view.checksumIsValid)
            }
        }
    }

    @Test func `what contradicts itself is refused`() {
        let good = written(40) { IPv4Header(source: 1, destination: 2, ipProtocol: .udp, payloadLength: 20).emit(into: $0) }
        #expect(withPacket(good) { IPv4HeaderView($0) != nil })
        func isRefused(_ change: (inout [UInt8]) -> Void) -> Bool {
            var bytes = good
            change(&bytes)
            return withPacket(bytes) { IPv4HeaderView($0) == nil }
        }
        #expect(isRefused { $0[0] = 0x65 })
        #expect(isRefused { $0[0] = 0x44 })
        #expect(isRefused { $0[0] = 0x40 })
        #expect(isRefused { $0[0] = 0x4b })  // 44 bytes of header in 40
        #expect(isRefused { $0[3] = 41 })
        #expect(isRefused { $0[3] = 19 })
        #expect(isRefused { $0[2] = 0xff })
    }

    @Test func `padding behind the packet is no part of it`() {
        let frame = written(46) { IPv4Header(source: 1, destination: 2, ipProtocol: .udp, payloadLength: 9).emit(into: $0) }
        let length = withPacket(frame) { IPv4HeaderView($0)?.payload.count }
        #expect(length == 9)
    }

    @Test func `fields can be changed`() {
        var header = IPv4Header(source: 1, destination: 2, ipProtocol: .udp, payloadLength: 9, differentiatedServices: 46, ecn: .capable0)
        header.ecn = .congestionExperienced
        header.payloadLength = 100
        header.fragmentOffset = 1480
        #expect(header.ecn == .congestionExperienced && header.differentiatedServices == 46)
        #expect(header.totalLength == 120 && header.fragmentOffset == 1480)
    }
}
