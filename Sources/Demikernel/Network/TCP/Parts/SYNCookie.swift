/// Initial sequence numbers that remember a SYN instead of the listener: RFC 4987, section 3.6. For as long as the SYN queue is full.
///
/// Of the 32 bits, 29 are SipHash's over the tuple, the peer's initial sequence number and the minute; three hide which of eight segment sizes
/// the peer offered. A stranger who sees no answer of ours guesses a valid one once in 2²⁸. What else a SYN may offer fits only where it has
/// timestamps: their low bits bring it back (``encode(windowScale:sackPermitted:ecn:in:)``); without them a connection has no window scaling and
/// no selective acknowledgements.
package struct SYNCookie: BitwiseCopyable, Sendable {
    private let key: SipHash.Key

    package init(key: SipHash.Key) { self.key = key }

    /// How long a counter lasts, ns: a cookie is valid for one to two of them.
    private static var minute: UInt64 { 60_000_000_000 }

    private static var segmentSizes4: InlineArray<8, UInt16> { [256, 536, 1_200, 1_360, 1_400, 1_440, 1_460, 8_960] }
    private static var segmentSizes6: InlineArray<8, UInt16> { [536, 1_220, 1_280, 1_340, 1_380, 1_420, 1_440, 8_940] }

    /// ISS for the answer to a SYN with the sequence number `peerSequence` (IRS) that offers `segmentSize`.
    package func make(for tuple: ConnectionTuple, peerSequence: SequenceNumber, segmentSize: UInt16, now: UInt64) -> SequenceNumber {
        let sizes = tuple.remote.isIPv4 ? Self.segmentSizes4 : Self.segmentSizes6
        var index = 7
        while index > 0, sizes[index] > segmentSize { index -= 1 }
        return SequenceNumber(hash(tuple, peerSequence, now / Self.minute) ^ UInt32(index))
    }

    /// The segment size that the peer offered, rounded down to one of eight (and up to the least of them), where `cookie` (the acknowledgement
    /// less one) is one that this stack made for this SYN in the last minute or two; nil elsewhere. Complexity: two SipHashes at most.
    package func check(_ cookie: SequenceNumber, for tuple: ConnectionTuple, peerSequence: SequenceNumber, now: UInt64) -> UInt16? {
        let sizes = tuple.remote.isIPv4 ? Self.segmentSizes4 : Self.segmentSizes6
        let counter = now / Self.minute
        for age in 0...min(1, counter) {
            let difference = cookie.rawValue ^ hash(tuple, peerSequence, counter - age)
            if difference < 8 { return sizes[Int(difference)] }
        }
        return nil
    }

    private func hash(_ tuple: ConnectionTuple, _ peerSequence: SequenceNumber, _ counter: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: SipHash.hash(key, tuple, counter << 32 | UInt64(peerSequence.rawValue)))
    }

    // MARK: Timestamps

    private static var optionBits: UInt32 { 63 }
    private static var noScale: UInt32 { 15 }

    /// A TSval not after `clock`, and 64 ticks before it at most, whose six low bits are the other options of a SYN. The peer echoes it.
    package static func encode(windowScale: UInt8?, sackPermitted: Bool, ecn: Bool, in clock: UInt32) -> UInt32 {
        var bits = windowScale.map { min(UInt32($0), 14) } ?? noScale
        if sackPermitted { bits |= 16 }
        if ecn { bits |= 32 }
        let value = clock & ~optionBits | bits
        return value & optionBits > clock & optionBits ? value &- 64 : value
    }

    /// The options in an echoed timestamp. Nobody vouches for them, but they concern only who sent them.
    package static func decode(_ echo: UInt32) -> (windowScale: UInt8?, sackPermitted: Bool, ecn: Bool) {
        let scale = echo & 15
        return (scale == noScale ? nil : UInt8(truncatingIfNeeded: scale), echo & 16 != 0, echo & 32 != 0)
    }
}
