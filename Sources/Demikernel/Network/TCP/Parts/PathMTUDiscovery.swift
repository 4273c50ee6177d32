/// What size of packet reaches the peer, as one connection finds out: by ICMP (RFC 1191, RFC 8201), and where that is filtered, by timeouts of
/// full-sized segments (RFC 4821, section 7.7; RFC 8899, section 4.3). 12 bytes.
///
/// Whether an ICMP message quotes a segment that is out is the caller's to check, before it asks here (RFC 5927, section 7).
package struct PathMTUDiscovery: BitwiseCopyable, Sendable {
    /// The largest packet to send now, IP header and all.
    package private(set) var mtu: UInt16
    /// The interface's, or the path's as first known.
    private var ceiling: UInt16
    private let isIPv4: Bool
    /// Timeouts of a full-sized segment since one was acknowledged.
    private var timeouts: UInt8 = 0
    /// The size in use was tried after having been too much: one timeout suffices.
    private var isTrial = false
    /// When a larger size is tried, in units of 2³⁰ ns (1.07 s); 0 for never.
    private var raiseAt: UInt32 = 0

    /// Sizes of common links and tunnels, in descending order. RFC 1191, section 7; RFC 8899, section 5.3.2 leaves the steps open.
    private static var plateaus: InlineArray<10, UInt16> { [9_000, 4_352, 2_002, 1_500, 1_492, 1_400, 1_280, 1_006, 552, 0] }
    /// Below these no ICMP message and no timeout goes: an attacker would like to (RFC 8201, section 4; Linux's least for IPv4).
    private static var leastIPv4: UInt16 { 552 }
    private static var leastIPv6: UInt16 { 1_280 }
    /// RFC 4821, section 7.7: a few timeouts in a row.
    private static var timeoutsOfBlackHole: UInt8 { 2 }
    /// PMTU_RAISE_TIMER: RFC 8899, section 5.1.1; RFC 1191, section 6.3: ten minutes.
    private static var raiseInterval: UInt64 { 600_000_000_000 }

    package init(mtu: UInt16, isIPv4: Bool) {
        self.mtu = mtu
        ceiling = mtu
        self.isIPv4 = isIPv4
    }

    private var least: UInt16 { min(ceiling, isIPv4 ? Self.leastIPv4 : Self.leastIPv6) }

    /// The payload of a segment without options: RFC 9293, section 3.7.1.
    @inline(__always) package var segmentSize: UInt16 {
        let headers: UInt16 = isIPv4 ? 40 : 60
        return mtu > headers ? mtu &- headers : 1
    }

    /// A router said that a packet of ours was too big for the next link, whose MTU it gives; 0 from one that does not know RFC 1191. True
    /// where the size is another now: what is out has to be cut anew.
    package mutating func packetTooBig(_ reported: UInt32, now: UInt64) -> Bool {
        let size = reported == 0 ? plateau(below: mtu) : UInt16(clamping: reported)
        return lower(to: size, now)
    }

    /// The retransmission timer went off for a segment of full size. True where that has happened too often and the size is smaller now.
    package mutating func fullSizedTimedOut(now: UInt64) -> Bool {
        timeouts &+= timeouts < .max ? 1 : 0
        guard timeouts >= (isTrial ? 1 : Self.timeoutsOfBlackHole) else { return false }
        return lower(to: plateau(below: mtu), now)
    }

    /// A segment of full size was acknowledged: packets of this size arrive.
    @inline(__always)
    package mutating func fullSizedAcknowledged() {
        timeouts = 0
        isTrial = false
    }

    /// A larger size, where it is time to try one: the connection uses it from now on, and goes back after one timeout. True where the size is
    /// another now.
    @inline(__always)
    package mutating func raiseIfDue(now: UInt64) -> Bool {
        guard raiseAt != 0, now &>> 30 >= UInt64(raiseAt) else { return false }
        return raise(now)
    }

    private mutating func raise(_ now: UInt64) -> Bool {
        var size = ceiling
        for index in 0..<Self.plateaus.count where Self.plateaus[index] > mtu && Self.plateaus[index] < ceiling { size = Self.plateaus[index] }
        mtu = size
        isTrial = true
        timeouts = 0
        setRaise(now)
        return true
    }

    private mutating func lower(to size: UInt16, _ now: UInt64) -> Bool {
        // Never up: RFC 1191, section 3; RFC 8201, section 4.
        let size = max(size, least)
        timeouts = 0
        isTrial = false
        guard size < mtu else { return false }
        mtu = size
        setRaise(now)
        return true
    }

    private mutating func setRaise(_ now: UInt64) {
        raiseAt = mtu < ceiling ? UInt32(truncatingIfNeeded: (now &+ Self.raiseInterval) &>> 30) : 0
    }

    private func plateau(below size: UInt16) -> UInt16 {
        for index in 0..<Self.plateaus.count where Self.plateaus[index] < size { return Self.plateaus[index] }
        return 0
    }
}
