/// Initial sequence numbers that a stranger cannot predict and that still grow from one incarnation of a connection to the next: RFC 6528,
/// section 3; RFC 9293, section 3.4.1.
package struct InitialSequence: BitwiseCopyable, Sendable {
    private let key: SipHash.Key

    package init(key: SipHash.Key) { self.key = key }

    /// `ISN = M + F(tuple, key)`, where M advances every 4 µs (and wraps after 4.77 hours) and F is SipHash. `now` is in nanoseconds.
    package func next(for tuple: ConnectionTuple, now: UInt64) -> SequenceNumber {
        let clock = UInt32(truncatingIfNeeded: now / 4_000)
        return SequenceNumber(clock &+ UInt32(truncatingIfNeeded: SipHash.hash(key, tuple)))
    }

    /// An offset for the timestamps of a connection, so that they do not tell how long the machine has been up nor whether two connections
    /// have the same origin. RFC 7323, section 5.4.
    package func timestampOffset(for tuple: ConnectionTuple) -> UInt32 {
        UInt32(truncatingIfNeeded: SipHash.hash(key, tuple, 1))
    }
}
