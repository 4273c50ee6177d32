// TIME_WAIT: RFC 9293, section 3.6.1 and 3.10.7.4; RFC 6191; RFC 1337.

extension TCP {
    /// A segment for a connection in TIME_WAIT. True where it is a SYN that may open a new incarnation, for which the entry makes room.
    mutating func receiveInTimeWait(
        _ packet: ReceivedPacket, _ view: TCPHeaderView, _ slot: UInt32, ip: inout NetworkLayer, now: UInt64
    ) -> Bool {
        let entry = timeWaits[slot]
        let segment = ArrivingSegment(view, traffic: packet.traffic)
        // RFC 1337, section 3 (F1): a reset does not end TIME_WAIT.
        if segment.flags.contains(.rst) { return false }
        if segment.flags.contains(.syn), !segment.flags.contains(.ack) {
            // RFC 6191, section 2: a greater timestamp, or without timestamps a greater sequence number.
            if entry.hasTimestamps, let stamps = segment.options.timestamps {
                if Int32(bitPattern: stamps.value &- entry.timestampRecent) > 0 || segment.sequence > entry.receiveNext {
                    shared.counters.timeWaitReused &+= 1
                    return true
                }
            } else if segment.sequence > entry.receiveNext {
                shared.counters.timeWaitReused &+= 1
                return true
            }
            answer(entry, ip: &ip, now: now)
            return false
        }
        // Its FIN again: our last ACK was lost, and the wait begins anew.
        if segment.flags.contains(.fin), segment.sequence + segment.sequenceLength == entry.receiveNext {
            timeWaits.restart(slot, deadline: now &+ shared.configuration.timeWait)
        }
        if segment.sequenceLength > 0 || segment.sequence != entry.receiveNext { answer(entry, ip: &ip, now: now) }
        return false
    }

    private mutating func answer(_ entry: TimeWait, ip: inout NetworkLayer, now: UInt64) {
        guard shared.mayAnswer(now), var path = try? ip.path(from: entry.tuple.local, to: entry.tuple.remote) else { return }
        var options = TCPOptions()
        if entry.hasTimestamps {
            options.timestamps = TCPTimestamps(
                value: TCPShared.timestampClock(now) &+ entry.timestampOffset, echo: entry.timestampRecent)
        }
        let header = TCPHeader(
            sourcePort: entry.tuple.localPort, destinationPort: entry.tuple.remotePort, sequenceNumber: entry.sendNext,
            acknowledgmentNumber: entry.receiveNext, flags: .ack, window: 0)
        shared.sendBare(header, options, on: &path, traffic: entry.trafficClass << 2, ip: &ip, now: now)
    }
}
