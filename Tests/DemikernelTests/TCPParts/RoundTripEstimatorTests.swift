import Testing
@testable import Demikernel

@Suite struct RoundTripEstimatorTests {
    private static let limits = TimeoutLimits(minimum: 1_000_000, maximum: 60_000_000_000, initial: 1_000_000_000, granularity: 0)

    @Test func `the first timeout is one second, and three after a handshake that had to repeat its SYN`() {
        var estimator = RoundTripEstimator()
        #expect(estimator.timeout(TimeoutLimits()) == 1_000_000_000)
        estimator.backOff()
        #expect(estimator.timeout(TimeoutLimits()) == 2_000_000_000)
        estimator.handshakeHadTimeout()
        #expect(estimator.timeout(TimeoutLimits()) == 3_000_000_000)
        estimator.sample(100_000_000, now: 0)
        #expect(estimator.timeout(TimeoutLimits()) == 300_000_000)
    }

    @Test func `the first sample gives SRTT = R and RTTVAR = R / 2`() {
        var estimator = RoundTripEstimator()
        #expect(!estimator.hasSample && estimator.smoothed == 0 && estimator.minimum == 0)
        estimator.sample(80_000_000, now: 0)
        #expect(estimator.smoothed == 80_000_000)
        #expect(estimator.variation == 40_000_000)
        #expect(estimator.timeout(Self.limits) == 240_000_000)
        #expect(estimator.minimum == 80_000_000)
    }

    /// RFC 6298, section 2, in floating point.
    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func `random samples agree with the RFC's formulas`(seed: UInt64) {
        var generator = SplitMix64(seed: seed)
        var estimator = RoundTripEstimator()
        var smoothed = 0.0
        var variation = 0.0
        let scale = UInt64(1) << UInt64.random(in: 10...32, using: &generator)
        for step in 0..<500 as Range<UInt64> {
            let sample = UInt64.random(in: scale...scale * 4, using: &generator)
            estimator.sample(sample, now: step * scale)
            if step == 0 {
                smoothed = Double(sample)
                variation = smoothed / 2
            } else {
                variation += (abs(smoothed - Double(sample)) - variation) / 4
                smoothed += (Double(sample) - smoothed) / 8
            }
            // The units' error is bounded: samples to 125 ns, the averages to an eighth and a quarter of that, rounded down once a step.
            #expect(abs(Double(estimator.smoothed) - smoothed) < 300)
            #expect(abs(Double(estimator.variation) - variation) < 700)
            let timeout = smoothed + 4 * variation
            #expect(abs(Double(estimator.timeout(Self.limits)) - max(1e6, min(6e10, timeout))) < 4_000)
        }
    }

    @Test func `many samples per round trip weigh as much as one`() {
        var single = RoundTripEstimator()
        var many = RoundTripEstimator()
        single.sample(10_000_000, now: 0)
        many.sample(10_000_000, now: 0)
        single.sample(20_000_000, now: 0)
        for _ in 0..<16 { many.sample(20_000_000, now: 0, samplesPerRoundTrip: 16) }
        let difference = Int64(single.smoothed) - Int64(many.smoothed)
        #expect(abs(difference) < 200_000)
    }

    @Test func `the timeout doubles up to its limit and starts over with a sample`() {
        var estimator = RoundTripEstimator()
        estimator.sample(100_000_000, now: 0)
        var expected: UInt64 = 300_000_000
        for _ in 0..<300 {
            #expect(estimator.timeout(Self.limits) == min(expected, 60_000_000_000))
            estimator.backOff()
            expected = min(expected * 2, 1 << 60)
        }
        estimator.undoBackOff()
        #expect(estimator.backOffs == 254)
        estimator.sample(100_000_000, now: 1)
        #expect(estimator.backOffs == 0)
        #expect(estimator.timeout(Self.limits) < 300_000_000)
    }

    @Test func `samples out of any range change no sense`() {
        var estimator = RoundTripEstimator()
        for sample in [0, 1, .max, 0, 60_000_000_000, .max / 2, 0] as [UInt64] {
            estimator.sample(sample, now: .max)
            #expect(estimator.hasSample)
            #expect(estimator.smoothed <= 60_000_000_000)
            #expect(estimator.timeout(Self.limits) >= Self.limits.minimum && estimator.timeout(Self.limits) <= Self.limits.maximum)
        }
    }

    @Test func `the least round trip forgets what is older than two windows`() {
        var estimator = RoundTripEstimator()
        let second: UInt64 = 1_000_000_000
        estimator.sample(5_000_000, now: 0)
        for step in 1...8 as ClosedRange<UInt64> { estimator.sample(9_000_000, now: step * second) }
        #expect(estimator.minimum == 5_000_000)
        for step in 9...27 as ClosedRange<UInt64> { estimator.sample(9_000_000, now: step * second) }
        #expect(estimator.minimum == 9_000_000)
        estimator.sample(7_000_000, now: 27 * second)
        #expect(estimator.minimum == 7_000_000)
        estimator.forgetMinimum()
        #expect(estimator.minimum == estimator.smoothed)
    }

    @Test func `it takes 24 bytes`() { #expect(MemoryLayout<RoundTripEstimator>.size <= 24) }
}
