/// The limits of retransmission timeouts, in nanoseconds: one per stack, not one per connection.
package struct TimeoutLimits: BitwiseCopyable, Sendable {
    /// RFC 6298 says 1 s; 200 ms is what others use on the Internet, and less where round trips are microseconds.
    package var minimum: UInt64
    /// At least 60 s: RFC 6298, section 2.5.
    package var maximum: UInt64
    /// Before the first sample: RFC 6298, section 2.1.
    package var initial: UInt64
    /// G, how late a timer may go off. RFC 6298, section 2.
    package var granularity: UInt64

    package init(
        minimum: UInt64 = 200_000_000, maximum: UInt64 = 60_000_000_000, initial: UInt64 = 1_000_000_000, granularity: UInt64 = 1_000_000
    ) {
        self.minimum = minimum
        self.maximum = max(minimum, maximum)
        self.initial = initial
        self.granularity = granularity
    }
}

/// The retransmission timeout of a connection, and its shortest round trip of late: RFC 6298; the gains for more than one sample per round
/// trip are RFC 7323's, appendix G.
///
/// 24 bytes. Samples are in nanoseconds and kept to 125 ns, up to 60 s. Karn's algorithm is the caller's: no sample comes from a segment that
/// was retransmitted, unless a timestamp says which transmission was acknowledged.
package struct RoundTripEstimator: BitwiseCopyable, Sendable {
    /// SRTT × 8, in units of 125 ns; 0 before the first sample.
    private var smoothedTimes8: UInt32 = 0
    /// RTTVAR × 4, in units of 125 ns.
    private var variationTimes4: UInt32 = 0
    /// The least sample of the window that runs, and of the one before: units of 125 ns.
    private var least: UInt32 = .max
    private var leastBefore: UInt32 = .max
    /// When the running window began, in units of 2²⁰ ns (1.05 ms).
    private var windowStart: UInt32 = 0
    /// How often the timeout has been doubled.
    package private(set) var backOffs: UInt8 = 0
    /// The handshake's SYN was retransmitted: RFC 6298, section 5.7.
    private var startsAtThreeSeconds = false

    private static var unit: UInt64 { 125 }
    private static var sampleMaximum: UInt64 { 60_000_000_000 }
    /// The least round trip is that of the last one or two windows: 8.6 s each.
    private static var windowLength: UInt32 { 8192 }

    @inline(__always) package init() {}

    @inline(__always) package var hasSample: Bool { smoothedTimes8 != 0 }
    /// SRTT in nanoseconds; 0 before the first sample.
    @inline(__always) package var smoothed: UInt64 { (UInt64(smoothedTimes8) &* Self.unit) &>> 3 }
    /// RTTVAR in nanoseconds.
    @inline(__always) package var variation: UInt64 { (UInt64(variationTimes4) &* Self.unit) &>> 2 }
    /// The shortest round trip of the last 9 to 17 seconds in which there were samples; 0 before the first.
    @inline(__always) package var minimum: UInt64 {
        let shortest = min(least, leastBefore)
        return shortest == .max ? smoothed : UInt64(shortest) &* Self.unit
    }

    /// Takes a sample. `samplesPerRoundTrip` is about how many there are in flight (FlightSize / 2·SMSS, at least 1), so that the average
    /// looks as far back as with one. Ends the back-off. Complexity: a few ns.
    @inline(__always)
    package mutating func sample(_ roundTrip: UInt64, now: UInt64, samplesPerRoundTrip: UInt32 = 1) {
        // A sample of 0 would look like none.
        let measured = max(1, UInt32(truncatingIfNeeded: min(roundTrip, Self.sampleMaximum) / Self.unit))
        if smoothedTimes8 == 0 {
            // RFC 6298, section 2.2: SRTT is R, RTTVAR is R / 2.
            smoothedTimes8 = measured &<< 3
            variationTimes4 = measured &<< 1
        } else {
            let shift = UInt32(truncatingIfNeeded: 31 &- (samplesPerRoundTrip | 1).leadingZeroBitCount)
            let difference = Int64(measured) &- Int64(smoothedTimes8 &>> 3)
            // Section 2.3: RTTVAR with the old SRTT, gains 1/4 and 1/8.
            let variationChange = Int64(difference.magnitude) &- Int64(variationTimes4 &>> 2)
            variationTimes4 = UInt32(truncatingIfNeeded: Int64(variationTimes4) &+ variationChange &>> Int64(shift))
            smoothedTimes8 = max(1, UInt32(truncatingIfNeeded: Int64(smoothedTimes8) &+ difference &>> Int64(shift)))
        }
        let clock = UInt32(truncatingIfNeeded: now &>> 20)
        if least == .max || clock &- windowStart >= Self.windowLength {
            leastBefore = least
            least = measured
            windowStart = clock
        } else if measured < least {
            least = measured
        }
        backOffs = 0
    }

    /// RTO in nanoseconds: `SRTT + max(G, 4·RTTVAR)` within the limits, doubled by each back-off. RFC 6298, sections 2 and 5.5.
    @inline(__always)
    package func timeout(_ limits: TimeoutLimits) -> UInt64 {
        let base: UInt64
        if hasSample {
            base = max(limits.minimum, smoothed &+ max(limits.granularity, UInt64(variationTimes4) &* Self.unit))
        } else {
            base = startsAtThreeSeconds ? max(3_000_000_000, limits.initial) : limits.initial
        }
        // No overflow: a base is below 2^40, and 2^16 times as much is beyond every limit.
        return min(limits.maximum, min(base, 1 &<< 40) &<< UInt64(min(backOffs, 16)))
    }

    /// The timer has gone off: the timeout doubles. RFC 6298, section 5.5.
    @inline(__always) package mutating func backOff() { if backOffs < .max { backOffs &+= 1 } }

    /// Takes the doublings back: the peer acknowledged what the timer had not waited for (RFC 3522, 5682), or data that was sent once.
    @inline(__always) package mutating func endBackOff() { backOffs = 0 }

    /// Takes one doubling back: an ICMP error said that the network, not congestion, ate the segment. RFC 6069.
    @inline(__always) package mutating func undoBackOff() { if backOffs > 0 { backOffs &-= 1 } }

    /// The handshake is over, and its SYN had to be sent again: data starts with 3 s and no back-off. RFC 6298, section 5.7.
    package mutating func handshakeHadTimeout() {
        startsAtThreeSeconds = true
        backOffs = 0
    }

    /// Forgets the shortest round trip: the path has changed.
    package mutating func forgetMinimum() {
        least = .max
        leastBefore = .max
    }
}
