import Testing
import TestSupport
@testable import Demikernel

@Suite struct IPAddressTests {
    private func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text), "\(text)") }

    @Test func `text comes back as it was`() throws {
        for text in ["0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "::1", "2001:db8::1", "fe80::ff:fe00:1", "ff02::1:ff00:2"] {
            #expect(try address(text).description == text)
        }
        #expect(try address("::ffff:192.0.2.1") == address("192.0.2.1"))
        for text in ["", "1", "1.2.3", "1.2.3.4.5", "256.0.0.1", "a.b.c.d", ":::", "2001:db8", "fe80::1%eth0", "1.2.3.4 "] {
            #expect(IPAddress(text) == nil, "\(text)")
        }
    }

    @Test func `random addresses come back from their text`() {
        var generator = SplitMix64(seed: 21)
        for _ in 0..<1000 {
            let v4 = IPAddress(ipv4: generator.value())
            let v6 = IPAddress(high: generator.value() & generator.value(), low: generator.value() & generator.value())
            #expect(IPAddress(v4.description) == v4)
            #expect(IPAddress(v6.description) == v6)
        }
    }

    @Test func `kinds of addresses`() throws {
        #expect(try address("10.1.2.3").isIPv4 && address("10.1.2.3").ipv4 == 0x0a01_0203)
        #expect(try !address("2001:db8::1").isIPv4 && !address("::1").isIPv4 && !address("::").isIPv4)
        #expect(try address("0.0.0.0").isUnspecified && address("::").isUnspecified && !address("0.0.0.1").isUnspecified)
        #expect(try address("0.0.0.0") == .ipv4Unspecified && address("::") == .ipv6Unspecified)
        #expect(try address("224.0.0.1").isMulticast && address("239.255.255.255").isMulticast && address("ff02::1").isMulticast)
        #expect(try !address("223.255.255.255").isMulticast && !address("240.0.0.0").isMulticast && !address("fe80::1").isMulticast)
        #expect(try address("169.254.3.4").isLinkLocal && address("fe80::1").isLinkLocal && address("febf::1").isLinkLocal)
        #expect(try !address("169.253.0.1").isLinkLocal && !address("fec0::1").isLinkLocal)
        #expect(try address("127.9.9.9").isLoopback && address("::1").isLoopback && !address("128.0.0.1").isLoopback)
        #expect(try address("255.255.255.255").isLimitedBroadcast && !address("255.255.255.254").isLimitedBroadcast)
        #expect(try address("ff02::1") == .allNodes && address("ff02::2") == .allRouters)
    }

    @Test func `made addresses`() throws {
        #expect(try address("2001:db8::aabb:ccdd").solicitedNodeMulticast == address("ff02::1:ffbb:ccdd"))
        #expect(IPAddress.linkLocal(MACAddress(0x0200_5e10_2030)).description == "fe80::5eff:fe10:2030")
        #expect(try address("192.0.2.1").directedBroadcast(prefixLength: 24) == address("192.0.2.255"))
        #expect(try address("192.0.2.1").directedBroadcast(prefixLength: 32) == address("192.0.2.1"))
        #expect(try address("192.0.2.1").directedBroadcast(prefixLength: 0) == .limitedBroadcast)
        #expect(try address("2001:db8::1").directedBroadcast(prefixLength: 64) == address("2001:db8::1"))
    }

    @Test func `a prefix matches in the family's own bits`() throws {
        #expect(try address("10.1.2.3").matches(address("10.1.0.0"), prefixLength: 16))
        #expect(try !address("10.2.2.3").matches(address("10.1.0.0"), prefixLength: 16))
        #expect(try address("10.2.2.3").matches(address("99.1.0.0"), prefixLength: 0))
        #expect(try address("10.2.2.3").matches(address("10.2.2.3"), prefixLength: 32))
        #expect(try !address("10.2.2.2").matches(address("10.2.2.3"), prefixLength: 32))
        #expect(try address("2001:db8:1::5").matches(address("2001:db8:1::"), prefixLength: 64))
        #expect(try !address("10.1.2.3").matches(address("::"), prefixLength: 0))
        #expect(try !address("2001:db8::1").matches(address("0.0.0.0"), prefixLength: 0))
    }

    @Test func `every prefix length agrees with comparing bit by bit`() {
        var generator = SplitMix64(seed: 22)
        for _ in 0..<200 {
            let network = generator.ipv6()
            let bit = Int.random(in: 0..<128, using: &generator)
            let other = IPAddress(
                high: bit < 64 ? network.high ^ 1 << UInt64(63 - bit) : network.high,
                low: bit < 64 ? network.low : network.low ^ 1 << UInt64(127 - bit))
            guard !other.isIPv4 else { continue }
            for length in 0...128 { #expect(other.matches(network, prefixLength: length) == (length <= bit)) }
            let v4 = IPAddress(ipv4: generator.value())
            let flipped = IPAddress(ipv4: v4.ipv4 ^ 1 << UInt32(31 - bit % 32))
            for length in 0...32 { #expect(flipped.matches(v4, prefixLength: length) == (length <= bit % 32)) }
        }
    }
}
