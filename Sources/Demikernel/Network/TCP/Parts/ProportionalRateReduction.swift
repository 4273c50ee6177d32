/// How much is sent in fast recovery: as much as leaves the network, in proportion, so that the window ends at the threshold when the recovery
/// does, without a pause and without a burst. RFC 6937, with the bound of its successor (RFC 9937): slow start's where the recovery goes well,
/// packet conservation elsewhere.
///
/// 12 bytes. `begin` at the first loss; then, for each acknowledgement, `allowance`, and `sent` for each segment, repeated or new.
package struct ProportionalRateReduction: BitwiseCopyable, Sendable {
    /// prr_delivered, prr_out, RecoverFS.
    private var delivered: UInt32 = 0
    private var sent: UInt32 = 0
    private var flight: UInt32 = 0

    @inline(__always) package init() {}

    /// A recovery begins with `flight` bytes out: SND.NXT - SND.UNA.
    package mutating func begin(flight: UInt32) {
        delivered = 0
        sent = 0
        self.flight = max(1, flight)
    }

    /// What may be sent now, bytes; the window is that and what is in the network. `delivered` is what the acknowledgement newly says to have
    /// arrived (without SACK: a segment for each duplicate), `isSafe` where it moved SND.UNA and nothing more was found lost.
    package mutating func allowance(delivered newly: UInt32, inNetwork: UInt32, threshold: UInt32, segmentSize: UInt32, isSafe: Bool) -> UInt32 {
        delivered = delivered &+ min(newly, .max &- delivered)
        var allowance: UInt32
        if inNetwork > threshold {
            let share = (UInt64(delivered) &* UInt64(threshold) &+ UInt64(flight) &- 1) / UInt64(flight)
            allowance = UInt32(clamping: share > UInt64(sent) ? share &- UInt64(sent) : 0)
        } else {
            allowance = max(delivered > sent ? delivered &- sent : 0, newly)
            if isSafe { allowance &+= segmentSize }
            allowance = min(allowance, threshold &- inNetwork)
        }
        // The first retransmission goes out whatever the sums say: RFC 5681, section 3.2, step 3; half a segment would hold it back.
        if sent == 0, allowance < segmentSize { allowance = segmentSize }
        return allowance
    }

    @inline(__always) package mutating func noteSent(_ bytes: UInt32) { sent &+= bytes }
}
