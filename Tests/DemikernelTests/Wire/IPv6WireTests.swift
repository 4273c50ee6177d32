import Testing
import TestSupport
@testable import Demikernel

@Suite struct IPv6WireTests {
    @Test func `a header comes back as it was written`() {
        var generator = SplitMix64(seed: 51)
        for _ in 0..<2000 {
            let payloadLength = Int.random(in: 0...60, using: &generator)
            let header = IPv6Header(
                source: generator.ipv6(), destination: generator.ipv6(), nextHeader: IPProtocol(rawValue: generator.value()),
                payloadLength: payloadLength, hopLimit: generator.value(), flowLabel: UInt32.random(in: 0...0xf_ffff, using: &generator),
                differentiatedServices: UInt8.random(in: 0...63, using: &generator), ecn: ECN(lowBitsOf: generator.value()))
            let bytes = written(40 + payloadLength) { header.emit(into: $0) }
            withPacket(bytes) { packet in
                let view = IPv6HeaderView(packet)
                #expect(view.map { IPv6Header($0) } == header)
                #expect(view?.payload.count == payloadLength)
                #expect(view?.flowLabel == header.flowLabel && view?.differentiatedServices == header.differentiatedServices)
            }
            #expect(lengthsAccepted(of: bytes, below: bytes.count) { IPv6HeaderView($0) == nil } == [])
        }
    }

    @Test func `another version and IPv4-mapped addresses are refused`() throws {
        let address = try #require(IPAddress("2001:db8::1"))
        let good = written(40) { IPv6Header(source: address, destination: .allNodes, nextHeader: .noNext, payloadLength: 0).emit(into: $0) }
        #expect(withPacket(good) { IPv6HeaderView($0) != nil })
        var version = good
        version[0] = 0x40
        #expect(withPacket(version) { IPv6HeaderView($0) == nil })
        for offset in [8, 24] {
            var mapped = good
            mapped.replaceSubrange(offset..<offset + 16, with: hex("00000000000000000000 ffff 0a000001"))
            #expect(withPacket(mapped) { IPv6HeaderView($0) == nil })
        }
    }

    @Test func `the congestion mark can be set alone`() throws {
        var header = IPv6Header(
            source: .ipv6Unspecified, destination: .allNodes, nextHeader: .udp, payloadLength: 1, flowLabel: 0xabcde, differentiatedServices: 46,
            ecn: .capable0)
        header.ecn = .congestionExperienced
        header.payloadLength = 65_535
        #expect(header.ecn == .congestionExperienced && header.differentiatedServices == 46 && header.flowLabel == 0xabcde)
        #expect(header.payloadLength == 65_535)
    }

    @Test func `a fragment header comes back as it was written`() {
        var generator = SplitMix64(seed: 52)
        for _ in 0..<2000 {
            let header = IPv6FragmentHeader(
                nextHeader: IPProtocol(rawValue: generator.value()), fragmentOffset: Int.random(in: 0...8191, using: &generator) * 8,
                moreFragments: generator.flag(), identification: generator.value())
            let bytes = written(8) { header.emit(into: $0) }
            #expect(withPacket(bytes) { IPv6FragmentHeaderView($0).map { IPv6FragmentHeader($0) } } == header)
            #expect(header.isAtomic == (header.fragmentOffset == 0 && !header.moreFragments))
            #expect(lengthsAccepted(of: bytes, below: 8) { IPv6FragmentHeaderView($0) == nil } == [])
        }
    }
}
