/// What an acknowledgement has told: gathered by ``SendScoreboard/acknowledge(to:now:_:)`` and ``SendScoreboard/sack(_:now:segmentSize:heap:_:)``.
package struct Delivery: BitwiseCopyable, Sendable {
    // MARK: Given by the caller

    /// SEG.ACK, and SND.NXT.
    package let acknowledgement: SequenceNumber
    package let next: SequenceNumber
    /// The connection's least round trip, ns: what is faster answers an earlier transmission. RFC 8985, section 6.2, step 2.
    package let minimumRoundTrip: UInt64
    /// From the echoed timestamp: no transmission after this time, ns, can be what is answered. `.max` where that is not known.
    package let notSentAfter: UInt64

    // MARK: Found out

    /// Bytes that SND.UNA moved by, as far as they were on the scoreboard.
    package var acknowledged: UInt32 = 0
    /// Bytes that were not known to be delivered before: DeliveredData of RFC 6937.
    package var delivered: UInt32 = 0
    /// Bytes newly reported by SACK.
    package var sacked: UInt32 = 0
    /// A sample for the retransmission timeout: of the first segment newly acknowledged that was sent once (Karn), ns; 0 for none.
    package var roundTrip: UInt64 = 0
    /// The same of the last such segment: without the peer's delay, mostly.
    package var latestRoundTrip: UInt64 = 0
    /// What a D-SACK says was received twice; empty (`left == right`) where there was none. RFC 2883, section 5.
    package var duplicate = SACKBlock(left: SequenceNumber(0), right: SequenceNumber(0))
    /// Some of what is newly delivered was sent once only: after a timeout, a sign that it was spurious. RFC 5682, section 3.
    package var includesOriginal = false
    /// Some was delivered after what was sent later: the network reorders. RFC 8985, section 6.2, step 3.
    package var isReordered = false
    /// The SACK blocks told something new.
    package var hasNewSACK: Bool { sacked != 0 }
    package var hasDuplicate: Bool { duplicate.left != duplicate.right }

    @inline(__always)
    package init(acknowledgement: SequenceNumber, next: SequenceNumber, minimumRoundTrip: UInt64, notSentAfter: UInt64 = .max) {
        self.acknowledgement = acknowledgement
        self.next = next
        self.minimumRoundTrip = minimumRoundTrip
        self.notSentAfter = notSentAfter
    }
}

/// A range of sequence numbers; none where `length` is 0.
package struct SequenceRange: BitwiseCopyable, Hashable, Sendable {
    package var start: SequenceNumber
    package var length: UInt32
    @inline(__always) package var end: SequenceNumber { start + length }
    @inline(__always) package var isEmpty: Bool { length == 0 }

    @inline(__always) package init(start: SequenceNumber, length: UInt32) {
        self.start = start
        self.length = length
    }
}
