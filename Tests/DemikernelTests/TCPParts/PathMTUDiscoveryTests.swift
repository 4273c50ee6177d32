import Testing
@testable import Demikernel

@Suite struct PathMTUDiscoveryTests {
    private static let minute: UInt64 = 60_000_000_000

    @Test func `a router's MTU is taken where it is smaller, never where it is larger`() {
        var discovery = PathMTUDiscovery(mtu: 1_500, isIPv4: true)
        #expect(discovery.segmentSize == 1_460)
        var changed = discovery.packetTooBig(1_500, now: 0)
        #expect(!changed)
        changed = discovery.packetTooBig(9_000, now: 0)
        #expect(!changed && discovery.mtu == 1_500)
        changed = discovery.packetTooBig(1_400, now: 0)
        #expect(changed && discovery.mtu == 1_400 && discovery.segmentSize == 1_360)
        changed = discovery.packetTooBig(1_450, now: 0)
        #expect(!changed && discovery.mtu == 1_400)
    }

    @Test func `no message makes packets smaller than 552 bytes, or 1,280 for IPv6`() {
        for reported in [1, 20, 68, 551, 552] as [UInt32] {
            var discovery = PathMTUDiscovery(mtu: 1_500, isIPv4: true)
            let changed = discovery.packetTooBig(reported, now: 0)
            #expect(changed && discovery.mtu == 552)
            discovery = PathMTUDiscovery(mtu: 1_500, isIPv4: false)
            let also = discovery.packetTooBig(reported, now: 0)
            #expect(also && discovery.mtu == 1_280 && discovery.segmentSize == 1_220)
        }
        // A link below that is what it is.
        var discovery = PathMTUDiscovery(mtu: 500, isIPv4: true)
        let changed = discovery.packetTooBig(100, now: 0)
        #expect(!changed && discovery.mtu == 500)
        var none = PathMTUDiscovery(mtu: 30, isIPv4: true)
        let noneChanged = none.fullSizedTimedOut(now: 0)
        #expect(!noneChanged && none.segmentSize == 1)
    }

    @Test func `a router that does not tell its MTU makes it a step of the table`() {
        var discovery = PathMTUDiscovery(mtu: 1_500, isIPv4: true)
        var sizes: [UInt16] = []
        while true {
            let changed = discovery.packetTooBig(0, now: 0)
            guard changed else { break }
            sizes.append(discovery.mtu)
        }
        #expect(sizes == [1_492, 1_400, 1_280, 1_006, 552])
    }

    @Test func `a black hole is found by two timeouts of full segments in a row`() {
        var discovery = PathMTUDiscovery(mtu: 1_500, isIPv4: true)
        var changed = discovery.fullSizedTimedOut(now: 0)
        #expect(!changed)
        discovery.fullSizedAcknowledged()
        changed = discovery.fullSizedTimedOut(now: 0)
        #expect(!changed)
        changed = discovery.fullSizedTimedOut(now: 0)
        #expect(changed && discovery.mtu == 1_492)
        for size in [1_400, 1_280, 1_006, 552] as [UInt16] {
            _ = discovery.fullSizedTimedOut(now: 0)
            changed = discovery.fullSizedTimedOut(now: 0)
            #expect(changed && discovery.mtu == size)
        }
        _ = discovery.fullSizedTimedOut(now: 0)
        changed = discovery.fullSizedTimedOut(now: 0)
        #expect(!changed && discovery.mtu == 552)
    }

    @Test func `after ten minutes a larger size is tried, for one timeout`() {
        var discovery = PathMTUDiscovery(mtu: 1_500, isIPv4: true)
        var raised = discovery.raiseIfDue(now: .max >> 2)
        #expect(!raised)
        _ = discovery.packetTooBig(1_280, now: 0)
        raised = discovery.raiseIfDue(now: 9 * Self.minute)
        #expect(!raised)
        var now = 11 * Self.minute
        raised = discovery.raiseIfDue(now: now)
        #expect(raised && discovery.mtu == 1_400)
        raised = discovery.raiseIfDue(now: now)
        #expect(!raised)
        var lowered = discovery.fullSizedTimedOut(now: now)
        #expect(lowered && discovery.mtu == 1_280)
        now += 11 * Self.minute
        raised = discovery.raiseIfDue(now: now)
        #expect(raised && discovery.mtu == 1_400)
        // It gets through: as good as any from now on.
        discovery.fullSizedAcknowledged()
        lowered = discovery.fullSizedTimedOut(now: now)
        #expect(!lowered && discovery.mtu == 1_400)
        discovery.fullSizedAcknowledged()
        for size in [1_492, 1_500] as [UInt16] {
            now += 11 * Self.minute
            raised = discovery.raiseIfDue(now: now)
            #expect(raised && discovery.mtu == size)
            discovery.fullSizedAcknowledged()
        }
        raised = discovery.raiseIfDue(now: now + 60 * Self.minute)
        #expect(!raised && discovery.mtu == 1_500)
        #expect(MemoryLayout<PathMTUDiscovery>.size <= 12)
    }
}
