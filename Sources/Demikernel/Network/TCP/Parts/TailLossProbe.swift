/// A tail loss probe: repeats the last segment, or sends one more, when acknowledgements stay away, so that the answer starts RACK instead of
/// the retransmission timer. RFC 8985, section 7. 8 bytes.
package struct TailLossProbe: BitwiseCopyable, Sendable {
    /// What an acknowledgement means for a probe that is out.
    package enum Outcome: BitwiseCopyable, Sendable {
        /// Nothing yet, or no probe is out.
        case nothing
        /// The probe is accounted for.
        case over
        /// The probe repaired a loss that nothing else has told of: congestion control has to hear of it. Section 7.4.2.
        case lossRepaired
    }

    /// TLP.end_seq, TLP.is_retrans.
    private var end = SequenceNumber(0)
    package private(set) var isOut = false
    private var repeated = false

    @inline(__always) package init() {}

    /// PTO, ns: how long after the last transmission or acknowledgement the probe goes out, by the retransmission timeout at the latest.
    /// Section 7.2. `isSingle` where only one segment is out, which the peer may delay acknowledging by `delayedAcknowledgement`.
    @inline(__always)
    package static func delay(
        _ roundTrip: RoundTripEstimator, isSingle: Bool, delayedAcknowledgement: UInt64, timeout: UInt64
    ) -> UInt64 {
        guard roundTrip.hasSample else { return min(1_000_000_000, timeout) }
        return min(2 &* roundTrip.smoothed &+ (isSingle ? delayedAcknowledgement : 0), timeout)
    }

    /// The probe was sent; `next` is SND.NXT after it. Section 7.3.
    package mutating func sent(next: SequenceNumber, repeated: Bool) {
        end = next
        isOut = true
        self.repeated = repeated
    }

    /// A probe is not asked about any more: a recovery or a timeout has begun.
    package mutating func forget() { isOut = false }

    /// What an acknowledgement says of the probe. `isDuplicate`: it acknowledges nothing new, and has no data, no window change and no SACK
    /// block. Section 7.4.2.
    @inline(__always)
    package mutating func acknowledged(_ delivery: Delivery, isDuplicate: Bool) -> Outcome {
        guard isOut, delivery.acknowledgement >= end else { return .nothing }
        return settle(delivery, isDuplicate)
    }

    private mutating func settle(_ delivery: Delivery, _ isDuplicate: Bool) -> Outcome {
        // New data, or a D-SACK for the probe, or both copies acknowledged by a peer without D-SACK: nothing was lost.
        if !repeated || delivery.hasDuplicate && delivery.duplicate.right == end || isDuplicate {
            isOut = false
            return .over
        }
        guard delivery.acknowledgement > end else { return .nothing }
        isOut = false
        return .lossRepaired
    }
}
