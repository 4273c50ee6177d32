// Van Jacobson's header prediction: data in order or an acknowledgement, on an established connection on which nothing else is the matter, with
// timestamps and no other option. What such a segment does not need is not asked; everything else goes the long way.

extension TCP {
    /// Takes a frame of one segment, and its reference, where it is an untagged, whole, valid IPv4 packet without options for a connection, and holds
    /// what that connection expects. False, and nothing changed, for every other frame.
    ///
    /// Addresses need no look of their own: they are those of a connection.
    @inline(__always)
    package mutating func receivePredicted(
        _ head: Segment, vouched: Bool, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64
    ) -> Bool {
        let bytes = head.packet
        let length = bytes.count
        guard length >= 66,
            // No fragment; TCP.
            bytes.load32(20) & 0x3fff_00ff == 6, bytes.load32(12) &>> 8 == 0x08_0045, bytes.load64(0) &>> 16 == ip.macAddress.rawValue, ip.isUntagged,
            TCPConnection.isExpected(bytes.load16(46)), bytes.load8(6) & 1 == 0
        else { return false }
        let total = Int(bytes.load16(16))
        guard total >= 52, total &+ 14 <= length else { return false }
        let addresses = bytes.load64(26)
        let ports = bytes.load32(34)
        let tuple = ConnectionTuple(
            local: IPAddress(ipv4: UInt32(truncatingIfNeeded: addresses)), localPort: UInt16(truncatingIfNeeded: ports),
            remote: IPAddress(ipv4: UInt32(truncatingIfNeeded: addresses &>> 32)), remotePort: UInt16(truncatingIfNeeded: ports &>> 16))
        guard let slot = table.slotAtHome(code(tuple)), slot & Self.timeWaitBit == 0, connections[unchecked: slot].isOf(tuple),
            ip.trustsDevice || InternetChecksum.isValid(InternetChecksum.sum20(bytes.slice(from: 14)))
        else { return false }
        var segment = head
        segment.trimFirst(34)
        segment.trimLast(length &- 14 &- total)
        if !vouched {
            let pseudoHeader = connections[unchecked: slot].path.pseudoHeader(.tcp, length: total &- 20)
            guard InternetChecksum.isValid(InternetChecksum.sum(segment.packet, initial: pseudoHeader)) else { return false }
        }
        guard connections[unchecked: slot].receivePredicted(
            segment, traffic: bytes.load8(15), &shared, ip: &ip, events: &events, now: now)
        else { return false }
        ip.counters.framesReceived &+= 1
        ip.counters.packetsReceived &+= 1
        shared.counters.segmentsReceived &+= 1
        return true
    }
}

extension TCPConnection {
    /// Of the flags, those that prediction looks at: of these, `timestamps` alone is set.
    private static var predicted: ConnectionFlags {
        [
            .timestamps, .isOrphan, .receiveIsShut, .isInRecovery, .isAfterTimeout, .isProbing, .mayUndo, .echoesCongestion, .ecn, .finIsKnown,
            .finIsReceived, .isBlocked, .tailIsOurs,
        ]
    }

    /// Whether the header's fourth word begins as it should: 32 bytes; ACK, with or without PSH.
    @inline(__always)
    fileprivate static func isExpected(_ lengthAndFlags: UInt16) -> Bool { lengthAndFlags & 0xfff7 == 0x8010 }

    /// Takes a segment whose checksum is good, and its reference, where it is what is expected. False, and nothing changed, for every other one.
    @inline(always)
    mutating func receivePredicted(
        _ segment: Segment, traffic: UInt8, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64
    ) -> Bool {
        let bytes = segment.packet
        guard bytes.count >= 32 else { return false }
        let word = bytes.load32(12)
        let sequence = SequenceNumber(bytes.load32(4))
        let acknowledgment = SequenceNumber(bytes.load32(8))
        let length = UInt32(truncatingIfNeeded: bytes.count &- 32)
        let acknowledged = acknowledgment.distance(from: sendUnacknowledged)
        let stamp = bytes.load32(24)
        guard Self.isExpected(UInt16(truncatingIfNeeded: word &>> 16)), bytes.load32(20) == TCPOptions.timestampsPrefix, state == .established,
            flags.intersection(Self.predicted) == .timestamps, sequence == receiveNext, acknowledged <= flightSize, acknowledged &+ length != 0,
            length <= receiveEdge.distance(from: receiveNext), traffic & 3 != 3, reorder.isEmpty, !scoreboard.hasHoles,
            // RFC 7323, section 5.3: PAWS.
            Int32(bitPattern: stamp &- timestampRecent) >= 0
        else { return false }
        // RFC 7323, section 4.3, (2).
        if sequence <= acknowledgementSent {
            timestampRecent = stamp
            timestampRecentAt = TCPShared.timestampClock(now)
        }
        shared.counters.fastPath &+= 1
        lastReceived = now
        updateSendWindow(word & 0xffff, sequence, acknowledgment)
        if acknowledged > 0 {
            ip.confirmReachability(on: path, now: now)
            acknowledgeInOrder(acknowledgment, acknowledged, &shared, events: &events, now: now)
        }
        if length > 0 {
            var text = segment
            text.trimFirst(32)
            takeInOrder(text, &shared, events: &events, now: now)
        } else {
            segment.release()
        }
        transmit(&shared, ip: &ip, now: now)
        return true
    }

    /// SND.WND from a window field as it stands.
    @inline(__always)
    mutating func updateSendWindow(_ field: UInt32, _ sequence: SequenceNumber, _ acknowledgment: SequenceNumber) {
        sendWindow = field &<< UInt32(sendScale)
        if sendWindow > largestSendWindow { largestSendWindow = sendWindow }
        windowUpdateSequence = sequence
        windowUpdateAcknowledgement = acknowledgment
    }

    /// Queues payload that begins with RCV.NXT and fits the window; takes its reference.
    @inline(always)
    mutating func takeInOrder(_ frame: Segment, _ shared: inout TCPShared, events: inout SocketEvents, now: UInt64) {
        let length = frame.count
        if flags.contains(.readerWaits) {
            flags.remove(.readerWaits)
            events.deliver(SocketDelivery(segment: frame, source: path.destination, port: 0), tag: tag)
        } else {
            guard queueText(frame, &shared) else { return }
            events.append(.readable, tag: tag)
        }
        receiveNext += length
        if length > UInt32(receiveSegmentSize) { receiveSegmentSize = UInt16(truncatingIfNeeded: min(length, 65_535)) }
        shared.counters.bytesReceived &+= UInt64(length)
        // RFC 9293, section 3.8.6.3: less than a segment waits for company; more is looked at when the burst ends.
        if receiveNext.distance(from: acknowledgementSent) >= UInt32(receiveSegmentSize) || flags.contains(.acknowledgeNow) {
            joinPending(&shared)
        } else if acknowledgementDeadline == .max {
            acknowledgementDeadline = now &+ shared.configuration.delayedAcknowledgement
            armTimer(&shared)
        }
    }
}
