/// The window itself, as the algorithms see it. Bytes.
package struct CongestionWindow: BitwiseCopyable, Sendable {
    /// cwnd.
    package var window: UInt32 = 14_600
    /// ssthresh: RFC 5681, section 3.1, arbitrarily high at first.
    package var threshold: UInt32 = 1 << 31
    /// SMSS, without the options that each segment carries.
    package var segmentSize: UInt16 = 1_460

    @inline(__always) package var segment: UInt32 { UInt32(segmentSize) }

    @inline(__always) package mutating func grow(by bytes: UInt32) {
        window = min(window &+ min(bytes, CongestionControl.windowMaximum), CongestionControl.windowMaximum)
    }
}

/// Why a window shrinks.
package enum CongestionCause: BitwiseCopyable, Sendable {
    case loss, mark, timeout
}

/// How things stood before a reduction.
package struct CongestionSnapshot: BitwiseCopyable, Sendable {
    package let window: UInt32
    package let threshold: UInt32
    /// CUBIC's W_max.
    package let maximum: UInt32
}

/// A congestion control algorithm: what is its own beside ``CongestionControl``, which has slow start, validation, undoing and the once per
/// round trip.
///
/// To add one: a struct of at most 24 bytes that conforms, a case in `CongestionControl.Algorithm` and in its `Variant`, and the case in each of
/// its switches; the compiler finds them. Nothing is called through an existential: the protocol is the reference for what is to be written.
/// All arithmetic is in integers, so that a run is the same on every machine. Rows for the tests: `CongestionControlTests.algorithms`.
package protocol CongestionAlgorithm: BitwiseCopyable, Sendable {
    /// As for a connection that has seen no congestion.
    init()

    /// New data is acknowledged beyond slow start, and the window was used: grow it. Called for each acknowledgement, so it takes a few ns.
    /// `before` is how things stood before the last reduction, nil where there was none that still counts.
    mutating func avoid(_ sample: CongestionSample, _ common: inout CongestionWindow, _ before: CongestionSnapshot?)

    /// The network is congested: the new threshold, which `CongestionControl` keeps to two segments at least. `flight` is SND.NXT - SND.UNA.
    /// Called at most once a round trip, and for the first timeout of a segment.
    mutating func reduce(_ cause: CongestionCause, flight: UInt32, _ common: CongestionWindow, now: UInt64) -> UInt32
}

/// Additive increase, multiplicative decrease: RFC 5681, with RFC 3465's counting of bytes. RFC 6582's recovery is the connection's.
package struct NewReno: CongestionAlgorithm {
    /// bytes_acked.
    private var acknowledged: UInt32 = 0

    package init() {}

    @inline(__always)
    package mutating func avoid(_ sample: CongestionSample, _ common: inout CongestionWindow, _ before: CongestionSnapshot?) {
        // RFC 3465, section 2.1: one segment for each window that is acknowledged.
        acknowledged &+= min(sample.acknowledged, common.window)
        if acknowledged >= common.window {
            acknowledged &-= common.window
            common.grow(by: common.segment)
        }
    }

    package mutating func reduce(_ cause: CongestionCause, flight: UInt32, _ common: CongestionWindow, now: UInt64) -> UInt32 {
        acknowledged = 0
        // Equation 4. A mark halves the window, which is not more than was in flight by much: RFC 3168, section 6.1.2.
        return flight / 2
    }
}

/// DCTCP: the window shrinks by half the fraction of bytes that were marked. RFC 8257.
package struct DCTCP: CongestionAlgorithm {
    /// DCTCP.Alpha of 2²⁰; starts at 1 (section 3.3), so that a connection that meets congestion early halves its window.
    package private(set) var alpha: UInt32 = 1 << 20
    /// DCTCP.BytesAcked, DCTCP.BytesMarked.
    private var acknowledged: UInt32 = 0
    private var marked: UInt32 = 0
    private var reno = NewReno()

    package init() {}

    /// Each acknowledgement's bytes count as marked where it has ECE.
    @inline(__always) package mutating func count(_ sample: CongestionSample) {
        acknowledged &+= min(sample.acknowledged, 1 << 30 &- min(acknowledged, 1 << 30))
        if sample.isEchoed { marked &+= min(sample.acknowledged, 1 << 30 &- min(marked, 1 << 30)) }
    }

    /// An observation window is over: `Alpha = Alpha · (1 - g) + g · M`, g = 1/16.
    package mutating func endWindow() {
        guard acknowledged > 0 else { return }
        let fraction = UInt32(truncatingIfNeeded: (UInt64(min(marked, acknowledged)) &<< 20) / UInt64(acknowledged))
        // Rounded up on the way down, so that alpha reaches 0.
        alpha = alpha &- (alpha &+ 15) &>> 4 &+ fraction &>> 4
        alpha = min(alpha, 1 << 20)
        acknowledged = 0
        marked = 0
    }

    @inline(__always)
    package mutating func avoid(_ sample: CongestionSample, _ common: inout CongestionWindow, _ before: CongestionSnapshot?) {
        reno.avoid(sample, &common, before)
    }

    package mutating func reduce(_ cause: CongestionCause, flight: UInt32, _ common: CongestionWindow, now: UInt64) -> UInt32 {
        // Section 3.4: loss is answered as everybody answers it.
        guard cause == .mark else { return reno.reduce(cause, flight: flight, common, now: now) }
        // Section 3.3: cwnd · (1 - Alpha / 2).
        let cut = UInt32(truncatingIfNeeded: (UInt64(common.window) &* UInt64(alpha)) &>> 21)
        return common.window &- cut
    }
}

/// CUBIC: RFC 9438. Between reductions the window is a cubic function of time with its turning point where the last congestion was.
///
/// Times are in units of 2²⁰ ns (1.05 ms). W_max, W_est and the window are in bytes; C is 0.4 segments per second cubed.
package struct Cubic: CongestionAlgorithm {
    /// W_max: the window at the last reduction, or less (section 4.7); 0 before the first.
    package private(set) var maximum: UInt32 = 0
    /// When this stage of congestion avoidance began, moved on by times in which the window was not used (section 4.2).
    private var epochStart: UInt32 = 0
    /// K: from the epoch's start to W_max; `.max` where no epoch has begun.
    private var timeToMaximum: UInt32 = .max
    /// W_est: what Reno would have, section 4.3; and bytes acknowledged towards its next segment.
    private var estimate: UInt32 = 0
    private var estimateAcknowledged: UInt32 = 0
    /// Of (target - cwnd) · acknowledged, what did not make a byte.
    private var remainder: UInt32 = 0

    package init() {}

    /// Units cubed in which the window moves by one segment: 1 / (0.4 · (2²⁰ / 10⁹)³).
    private static var unitsCubedPerSegment: UInt64 { 2_168_404_345 }

    package mutating func avoid(_ sample: CongestionSample, _ common: inout CongestionWindow, _ before: CongestionSnapshot?) {
        let clock = UInt32(truncatingIfNeeded: sample.now &>> 20)
        if timeToMaximum == .max { beginEpoch(clock, common) }
        let time = clock &- epochStart
        growEstimate(sample, common, before)
        if curve(time, common.segment) < estimate {
            // Section 4.3: no less than Reno.
            if estimate > common.window { common.window = min(estimate, CongestionControl.windowMaximum) }
            return
        }
        // Sections 4.4 and 4.5: towards where the curve is a round trip from now, by half a window per round trip at most.
        let target = min(curve(time &+ UInt32(truncatingIfNeeded: sample.smoothed &>> 20), common.segment), common.window &+ common.window / 2)
        guard target > common.window else { return }
        let product = UInt64(target &- common.window) &* UInt64(sample.acknowledged) &+ UInt64(remainder)
        let (growth, rest) = product.quotientAndRemainder(dividingBy: UInt64(common.window))
        common.grow(by: UInt32(truncatingIfNeeded: growth))
        remainder = UInt32(truncatingIfNeeded: rest)
    }

    private mutating func beginEpoch(_ clock: UInt32, _ common: CongestionWindow) {
        epochStart = clock
        estimate = common.window
        estimateAcknowledged = 0
        remainder = 0
        if common.window < maximum {
            timeToMaximum = Self.cubeRoot(UInt64(maximum &- common.window) &* Self.unitsCubedPerSegment / UInt64(common.segment))
        } else {
            // Slow start has gone beyond, or there was no congestion yet: section 4.10.
            maximum = common.window
            timeToMaximum = 0
        }
    }

    /// W_cubic(t) in bytes. Section 4.2.
    private func curve(_ time: UInt32, _ segment: UInt32) -> UInt32 {
        let isBefore = time < timeToMaximum
        // 2¹⁷ units are 137 s, in which the window has grown by 10⁶ segments: no further, and nothing overflows.
        let distance = UInt64(min(isBefore ? timeToMaximum &- time : time &- timeToMaximum, 1 << 17))
        let change = ((distance &* distance &* distance) &>> 10) &* UInt64(segment) / (Self.unitsCubedPerSegment &>> 10)
        let bytes = UInt32(truncatingIfNeeded: min(change, UInt64(CongestionControl.windowMaximum)))
        if isBefore { return maximum > bytes ? maximum &- bytes : 0 }
        return maximum &+ bytes
    }

    /// `W_est += alpha · segments_acked / cwnd`, with alpha = 3 · (1 - 0.7) / (1 + 0.7) = 9/17, or 1 once what there was before the reduction
    /// is reached.
    @inline(__always)
    private mutating func growEstimate(_ sample: CongestionSample, _ common: CongestionWindow, _ before: CongestionSnapshot?) {
        estimateAcknowledged &+= min(sample.acknowledged, common.window)
        var needed = common.window
        if let before, estimate < before.window { needed = UInt32(truncatingIfNeeded: UInt64(needed) &* 17 / 9) }
        if estimateAcknowledged >= needed {
            estimateAcknowledged &-= needed
            estimate = min(estimate &+ common.segment, CongestionControl.windowMaximum)
        }
    }

    package mutating func reduce(_ cause: CongestionCause, flight: UInt32, _ common: CongestionWindow, now: UInt64) -> UInt32 {
        // Section 4.7: fast convergence, (1 + 0.7) / 2.
        maximum = common.window < maximum ? UInt32(truncatingIfNeeded: UInt64(common.window) &* 17 / 20) : common.window
        // Section 4.8: the first stage after a timeout has its turning point where it begins.
        if cause == .timeout { maximum = 0 }
        timeToMaximum = .max
        // Section 4.6: beta is 0.7.
        return UInt32(truncatingIfNeeded: UInt64(flight) &* 7 / 10)
    }

    /// The window was not used for a while: that while does not count. Section 4.2.
    @inline(__always) package mutating func passed(idle: UInt32) { epochStart &+= idle }

    /// A new epoch, with the old turning point before it. Section 4.9.
    package mutating func undo(_ before: CongestionSnapshot) {
        maximum = before.maximum
        timeToMaximum = .max
    }

    /// The greatest number whose cube is not more than `number`; Newton's method from above. Complexity: about ten divisions, once an epoch.
    static func cubeRoot(_ number: UInt64) -> UInt32 {
        guard number > 0 else { return 0 }
        var root = UInt64(1) &<< ((UInt64(64 &- number.leadingZeroBitCount) &+ 2) / 3)
        while true {
            let next = (2 &* root &+ number / (root &* root)) / 3
            if next >= root { return UInt32(truncatingIfNeeded: root) }
            root = next
        }
    }
}
