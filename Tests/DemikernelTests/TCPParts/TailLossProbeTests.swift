import Testing
@testable import Demikernel

@Suite struct TailLossProbeTests {
    private static func estimator(_ roundTrip: UInt64) -> RoundTripEstimator {
        var estimator = RoundTripEstimator()
        estimator.sample(roundTrip, now: 0)
        return estimator
    }

    private static func delivery(_ acknowledgement: UInt32, duplicate: SACKBlock? = nil) -> Delivery {
        var delivery = Delivery(acknowledgement: SequenceNumber(acknowledgement), next: SequenceNumber(100), minimumRoundTrip: 0)
        if let duplicate { delivery.duplicate = duplicate }
        return delivery
    }

    @Test func `a probe goes out after two round trips, and the peer's delay where one segment is out`() {
        let known = Self.estimator(10_000_000)
        #expect(TailLossProbe.delay(known, isSingle: false, delayedAcknowledgement: 40_000_000, timeout: 200_000_000) == 20_000_000)
        #expect(TailLossProbe.delay(known, isSingle: true, delayedAcknowledgement: 40_000_000, timeout: 200_000_000) == 60_000_000)
        #expect(TailLossProbe.delay(known, isSingle: true, delayedAcknowledgement: 40_000_000, timeout: 30_000_000) == 30_000_000)
        #expect(TailLossProbe.delay(RoundTripEstimator(), isSingle: true, delayedAcknowledgement: 0, timeout: 3_000_000_000) == 1_000_000_000)
    }

    /// RFC 8985, section 7.4.2, with SND.NXT across the end of the sequence space.
    @Test func `only a repaired loss is one`() {
        let end = SequenceNumber(5)
        var probe = TailLossProbe()
        #expect(probe.acknowledged(Self.delivery(50), isDuplicate: false) == .nothing)
        probe.sent(next: end, repeated: false)
        #expect(probe.acknowledged(Self.delivery(.max - 3), isDuplicate: false) == .nothing)
        #expect(probe.acknowledged(Self.delivery(5), isDuplicate: false) == .over && !probe.isOut)

        probe.sent(next: end, repeated: true)
        #expect(probe.acknowledged(Self.delivery(5), isDuplicate: false) == .nothing && probe.isOut)
        let block = SACKBlock(left: SequenceNumber(.max - 10), right: end)
        #expect(probe.acknowledged(Self.delivery(5, duplicate: block), isDuplicate: false) == .over)

        probe.sent(next: end, repeated: true)
        #expect(probe.acknowledged(Self.delivery(5), isDuplicate: true) == .over)

        probe.sent(next: end, repeated: true)
        #expect(probe.acknowledged(Self.delivery(6), isDuplicate: false) == .lossRepaired)
        #expect(probe.acknowledged(Self.delivery(7), isDuplicate: false) == .nothing)

        probe.sent(next: end, repeated: true)
        probe.forget()
        #expect(probe.acknowledged(Self.delivery(6), isDuplicate: false) == .nothing)
    }
}
