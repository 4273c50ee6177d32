// Explicit congestion notification: RFC 3168, section 6.1; RFC 8257, section 3.

extension TCPConnection {
    /// The receiver's side: the network has marked what came, and the peer is told.
    mutating func noteMark(_ segment: ArrivingSegment, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        guard flags.contains(.ecn) else { return }
        let isMarked = segment.mark == 3
        if isMarked { shared.counters.congestionMarks &+= 1 }
        if congestion.algorithm == .dctcp {
            // RFC 8257, section 3.2: the state changes with each segment, and a change is acknowledged at once, for what came before it.
            guard segment.length > 0, isMarked != flags.contains(.echoesCongestion) else { return }
            if receiveNext != acknowledgementSent { sendAcknowledgement(&shared, ip: &ip, now: now) }
            if isMarked { flags.insert(.echoesCongestion) } else { flags.remove(.echoesCongestion) }
        } else {
            if segment.flags.contains(.cwr) { flags.remove(.echoesCongestion) }
            if isMarked {
                flags.insert(.echoesCongestion)
                flags.insert(.acknowledgeNow)
                joinPending(&shared)
            }
        }
    }

    /// ECE, and on new data CWR where the window was reduced. Only called where one of them may be due.
    @inline(never)
    mutating func congestionBits(isNew: Bool, _ length: Int) -> UInt32 {
        var bits: UInt32 = flags.contains(.echoesCongestion) ? 0x40 : 0
        if isNew, length > 0, flags.contains(.reportsReduction) {
            bits |= 0x80
            flags.remove(.reportsReduction)
        }
        return bits
    }
}
