/// HyStart++: leaves the first slow start when round trips grow, before it has filled the path's queue and lost half a window. RFC 9406.
///
/// Only the first slow start has it (section 4.3); 14 bytes. Round trips are in units of 1,024 ns.
package struct HyStart: BitwiseCopyable, Sendable {
    /// lastRoundMinRTT, currentRoundMinRTT, cssBaselineMinRtt.
    private var lastLeast: UInt32 = .max
    private var least: UInt32 = .max
    private var baseline: UInt32 = .max
    /// rttSampleCount.
    private var samples: UInt8 = 0
    /// Rounds of conservative slow start, with the one in which it began; 0 outside of it, more than `conservativeRounds` at its end.
    private var rounds: UInt8 = 0

    // Section 4.3.
    private static var thresholdMinimum: UInt32 { 4_000_000 / 1_024 }
    private static var thresholdMaximum: UInt32 { 16_000_000 / 1_024 }
    private static var divisor: UInt32 { 8 }
    private static var samplesNeeded: UInt8 { 8 }
    private static var conservativeDivisor: UInt32 { 4 }
    private static var conservativeRounds: UInt8 { 5 }

    package init() {}

    /// Conservative slow start has run its course: congestion avoidance follows.
    @inline(__always) package var isOver: Bool { rounds > Self.conservativeRounds }
    @inline(__always) package var isConservative: Bool { rounds != 0 }

    /// An acknowledgement, whose round trip is 0 where it has measured none. Answers what the growth of slow start is to be divided by.
    package mutating func acknowledged(roundTrip: UInt64, roundHasEnded: Bool) -> UInt32 {
        if roundHasEnded {
            lastLeast = least
            least = .max
            samples = 0
            if rounds != 0 { rounds &+= 1 }
        }
        if roundTrip != 0 {
            least = min(least, UInt32(truncatingIfNeeded: min(roundTrip &>> 10, UInt64(UInt32.max - 1))))
            if samples < .max { samples &+= 1 }
        }
        guard samples >= Self.samplesNeeded else { return rounds == 0 ? 1 : Self.conservativeDivisor }
        if rounds == 0 {
            if lastLeast != .max {
                let threshold = max(Self.thresholdMinimum, min(lastLeast / Self.divisor, Self.thresholdMaximum))
                if least >= lastLeast, least &- lastLeast >= threshold {
                    baseline = least
                    rounds = 1
                }
            }
        } else if least < baseline {
            // It was jitter: slow start goes on.
            baseline = .max
            rounds = 0
        }
        return rounds == 0 ? 1 : Self.conservativeDivisor
    }
}
