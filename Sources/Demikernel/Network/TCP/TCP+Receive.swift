// Segments in: RFC 9293, section 3.10.7, in its order. What is expected has been recognised before: TCP+ReceivePredicted.

/// What the slow path knows of a segment.
struct ArrivingSegment: BitwiseCopyable {
    var sequence: SequenceNumber
    let acknowledgment: SequenceNumber
    var flags: TCPFlags
    /// SEG.WND as it stands.
    let window: UInt16
    /// Payload bytes.
    var length: UInt32
    let options: TCPOptions
    /// ECN of the packet.
    let mark: UInt8

    init(_ view: TCPHeaderView, traffic: UInt8) {
        sequence = view.sequenceNumber
        acknowledgment = view.acknowledgmentNumber
        flags = view.flags
        window = view.window
        length = UInt32(truncatingIfNeeded: view.payloadLength)
        options = TCPOptions(view)
        mark = traffic & 3
    }

    /// SEG.LEN
    var sequenceLength: UInt32 { length &+ (flags.contains(.syn) ? 1 : 0) &+ (flags.contains(.fin) ? 1 : 0) }
}

extension TCPConnection {
    @inline(__always)
    func isOf(_ tuple: ConnectionTuple) -> Bool {
        (path.source.low ^ tuple.local.low) | (path.destination.low ^ tuple.remote.low) | (path.source.high ^ tuple.local.high)
            | (path.destination.high ^ tuple.remote.high) | (UInt64(ports) ^ tuple.ports) == 0
    }

    var tuple: ConnectionTuple {
        ConnectionTuple(
            local: path.source, localPort: UInt16(ports >> 16), remote: path.destination, remotePort: UInt16(truncatingIfNeeded: ports))
    }

    /// Takes a segment for this connection, and its reference.
    @inline(__always)
    mutating func receive(
        _ packet: ReceivedPacket, _ view: TCPHeaderView, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64
    ) {
        if receiveAsPredicted(packet, &shared, ip: &ip, events: &events, now: now) { return }
        receiveSlowly(packet, view, &shared, ip: &ip, events: &events, now: now)
    }

    /// Data in order and acknowledgements that come by another way than ``TCP/receivePredicted(_:vouched:ip:events:now:)``: over IPv6, say.
    @inline(never)
    private mutating func receiveAsPredicted(
        _ packet: ReceivedPacket, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64
    ) -> Bool {
        receivePredicted(packet.frame, traffic: packet.traffic, &shared, ip: &ip, events: &events, now: now)
    }

    /// Keeps payload until somebody reads it. False where it was dropped for want of memory: it is not acknowledged, the peer sends it again.
    @inline(never)
    mutating func queueText(_ frame: Segment, _ shared: inout TCPShared) -> Bool {
        let length = frame.count
        let size = UInt32(truncatingIfNeeded: frame.capacity)
        // Small payloads in large buffers: beyond twice the limit they are copied together.
        if heldBytes &+ size > receiveLimit &* 2 || flags.contains(.tailIsOurs) {
            guard takeCopied(frame, &shared) else { return false }
        } else {
            guard received.append(frame, in: shared.heap) else {
                shared.counters.outOfMemory &+= 1
                frame.release()
                return false
            }
            heldBytes &+= size
        }
        unreadBytes &+= length
        return true
    }

    /// ``takeInOrder(_:_:events:now:)`` for the slow path.
    @inline(never)
    private mutating func takeText(_ frame: Segment, _ shared: inout TCPShared, events: inout SocketEvents, now: UInt64) {
        takeInOrder(frame, &shared, events: &events, now: now)
    }

    /// Copies payload behind the last that was copied, or into a new buffer of our own; takes the frame's reference.
    @inline(never)
    private mutating func takeCopied(_ frame: Segment, _ shared: inout TCPShared) -> Bool {
        defer { frame.release() }
        if flags.contains(.tailIsOurs), !received.isEmpty {
            let last = received.count - 1
            let used = received[last].byteCount
            if received[last].append(frame.byteCount) {
                received[last].packet.copy(from: frame.packet, at: used)
                return true
            }
        }
        var copy = shared.heap.allocateSegment(max(frame.byteCount, 4_096))
        guard !copy.isNull else {
            shared.counters.outOfMemory &+= 1
            return false
        }
        copy.packet.copy(from: frame.packet, at: 0)
        copy.trimLast(copy.byteCount - frame.byteCount)
        guard received.append(copy, in: shared.heap) else {
            copy.release()
            shared.counters.outOfMemory &+= 1
            return false
        }
        heldBytes &+= UInt32(truncatingIfNeeded: copy.capacity)
        flags.insert(.tailIsOurs)
        return true
    }

    // MARK: - The slow path

    @inline(never)
    mutating func receiveSlowly(
        _ packet: ReceivedPacket, _ view: TCPHeaderView, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64
    ) {
        var segment = ArrivingSegment(view, traffic: packet.traffic)
        var frame = packet.frame
        frame.trimFirst(view.headerLength)
        if state == .synSent {
            receiveInSynSent(&segment, frame, &shared, ip: &ip, events: &events, now: now)
        } else if state != .synReceived || !flags.contains(.isActive)
            || !receiveInSimultaneousOpen(&segment, frame, &shared, ip: &ip, events: &events, now: now)
        {
            receiveSynchronized(&segment, frame, &shared, ip: &ip, events: &events, now: now)
        }
    }

    /// RFC 9293, section 3.10.7.4: SYN_RECEIVED and what follows it.
    private mutating func receiveSynchronized(
        _ segment: inout ArrivingSegment, _ frame: Segment, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents,
        now: UInt64
    ) {
        guard passesTimestamps(segment, &shared, ip: &ip, now: now), isAcceptable(segment, &shared, ip: &ip, now: now) else {
            return frame.release()
        }
        if segment.flags.contains(.rst) {
            frame.release()
            return receiveReset(segment, &shared, ip: &ip, events: &events, now: now)
        }
        if segment.flags.contains(.syn) {
            // RFC 5961, section 4: whatever its sequence number.
            frame.release()
            return challenge(&shared, ip: &ip, now: now)
        }
        guard segment.flags.contains(.ack) else { return frame.release() }
        guard receiveAcknowledgment(segment, &shared, ip: &ip, events: &events, now: now) else { return frame.release() }
        // Not before its ACK was believed: whoever guesses a number in the window could otherwise make the peer's own segments too old.
        updateTimestamp(segment, now)
        lastReceived = now
        noteMark(segment, &shared, ip: &ip, now: now)
        receiveText(&segment, frame, &shared, ip: &ip, events: &events, now: now)
        if flags.contains(.isClosedNow) { return }
        transmit(&shared, ip: &ip, now: now)
        if state == .finWait1, sendNext.distance(from: sendEnd) == 1, sendUnacknowledged == sendNext { finIsAcknowledged(&shared, now: now) }
    }

    /// RFC 7323, section 5.3, R1: PAWS. And section 3.2: a segment must have timestamps where they were agreed on.
    private mutating func passesTimestamps(_ segment: ArrivingSegment, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) -> Bool {
        guard flags.contains(.timestamps), !segment.flags.contains(.rst) else { return true }
        guard let stamps = segment.options.timestamps else {
            if state == .synReceived, segment.flags.contains(.syn) { return true }
            shared.counters.oldTimestamps &+= 1
            return false
        }
        guard Int32(bitPattern: stamps.value &- timestampRecent) < 0 else { return true }
        // Section 5.5: after 24 days TS.Recent says nothing any more.
        guard TCPShared.timestampClock(now) &- timestampRecentAt < 24 * 86_400_000 else { return true }
        shared.counters.oldTimestamps &+= 1
        if shared.mayAnswer(now) { sendAcknowledgement(&shared, ip: &ip, now: now) }
        return false
    }

    /// RFC 7323, section 4.3, (2).
    private mutating func updateTimestamp(_ segment: ArrivingSegment, _ now: UInt64) {
        guard flags.contains(.timestamps), let stamps = segment.options.timestamps, segment.sequence <= acknowledgementSent else { return }
        guard Int32(bitPattern: stamps.value &- timestampRecent) >= 0
            || TCPShared.timestampClock(now) &- timestampRecentAt >= 24 * 86_400_000
        else { return }
        timestampRecent = stamps.value
        timestampRecentAt = TCPShared.timestampClock(now)
    }

    /// First, check sequence number. Answers what is not acceptable with an acknowledgement, but for RST.
    private mutating func isAcceptable(_ segment: ArrivingSegment, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) -> Bool {
        let window = receiveEdge.distance(from: receiveNext)
        let length = segment.sequenceLength
        let start = segment.sequence
        // The window's own end counts as inside for segments without data: an acknowledgement sent when the window was full.
        if length == 0, start.distance(from: receiveNext) <= window { return true }
        if length > 0 {
            if start == receiveNext { return true }  // With a window of 0: its ACK, URG and RST are valid.
            if start.isWithin(receiveNext, length: window) || (start < receiveNext && start + length > receiveNext && window > 0) { return true }
        }
        if segment.flags.contains(.rst) { return false }
        shared.counters.outOfWindow &+= 1
        if state == .synReceived, segment.flags.contains(.syn), !segment.flags.contains(.ack), start == initialReceiveSequence {
            // Our SYN-ACK was lost, and this is the SYN again.
            if shared.mayAnswer(now) { sendSYN(&shared, ip: &ip, now: now) }
            return false
        }
        var duplicate: SACKBlock?
        if segment.length > 0, start + length <= receiveNext {
            shared.counters.duplicateSegments &+= 1
            // RFC 2883, section 4.
            duplicate = SACKBlock(left: start, right: start + segment.length)
        } else if !shared.mayAnswer(now) {
            return false
        }
        sendAcknowledgement(&shared, ip: &ip, now: now, duplicate: flags.contains(.selectiveAcknowledgement) ? duplicate : nil)
        return false
    }

    /// Fifth, check the ACK field. False where the segment ends here.
    private mutating func receiveAcknowledgment(
        _ segment: ArrivingSegment, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64
    ) -> Bool {
        let acknowledgment = segment.acknowledgment
        if state == .synReceived {
            guard acknowledgment == sendNext else {
                sendReset(acknowledgment, &shared, ip: &ip, now: now)
                return false
            }
            // A full accept queue: the peer's data comes again, and so does our SYN-ACK.
            if flags.contains(.isQueued), shared.acceptQueueIsFull {
                shared.counters.acceptQueueOverflows &+= 1
                return false
            }
            establish(segment, &shared, ip: &ip, events: &events, now: now)
            return true
        }
        // RFC 5961, section 5: not older than the largest window, not newer than what was sent (an optimistic acknowledgement).
        guard acknowledgment <= sendNext, acknowledgment >= sendUnacknowledged - min(largestSendWindow, 1 << 30) else {
            shared.counters.unacceptableAcknowledgements &+= 1
            challenge(&shared, ip: &ip, now: now)
            return false
        }
        if acknowledgment >= sendUnacknowledged {
            let before = sendWindow
            // Section 3.10.7.4: an old segment does not bring an old window back.
            if windowUpdateSequence < segment.sequence
                || (windowUpdateSequence == segment.sequence && windowUpdateAcknowledgement <= acknowledgment)
            {
                updateSendWindow(UInt32(segment.window), segment.sequence, acknowledgment)
            }
            acknowledge(segment, windowBefore: before, &shared, ip: &ip, events: &events, now: now)
        } else if segment.options.sackCount > 0 {
            acknowledge(segment, windowBefore: sendWindow, &shared, ip: &ip, events: &events, now: now)
        }
        let hasFinAcknowledged = flags.contains(.finIsSent) && sendUnacknowledged.distance(from: sendEnd) == 1
        guard hasFinAcknowledged else { return true }
        switch state {
        case .finWait1: finIsAcknowledged(&shared, now: now)
        case .closing:
            enterTimeWait()
            return false
        case .lastAcknowledgement:
            close(0)
            return false
        default: break
        }
        return true
    }

    /// FIN_WAIT_1 to FIN_WAIT_2: only the acknowledgement of our FIN does this.
    private mutating func finIsAcknowledged(_ shared: inout TCPShared, now: UInt64) {
        guard state == .finWait1 else { return }
        state = .finWait2
        // Only a connection that nobody reads is given up: RFC 1122, section 4.2.2.20.
        if flags.contains(.isOrphan) { startFinWait2(&shared, now: now) }
    }

    mutating func startFinWait2(_ shared: inout TCPShared, now: UInt64) {
        idleDeadline = now + shared.configuration.finWait2Timeout
        armTimer(&shared)
    }

    // MARK: - Text and FIN

    /// Seventh, process the segment text; eighth, check the FIN bit. Takes the frame's reference.
    mutating func receiveText(
        _ segment: inout ArrivingSegment, _ frame: Segment, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents,
        now: UInt64
    ) {
        guard segment.length > 0 || segment.flags.contains(.fin) else { return frame.release() }
        guard state == .established || state == .finWait1 || state == .finWait2, !flags.contains(.finIsReceived) else {
            // Behind the peer's FIN there is nothing: it comes again, so its acknowledgement was lost.
            flags.insert(.acknowledgeNow)
            joinPending(&shared)
            return frame.release()
        }
        if segment.length > 0, flags.contains(.isOrphan), segment.sequence + segment.length > receiveNext {
            // Data for nobody: RFC 1122, section 4.2.2.13.
            frame.release()
            sendReset(sendNext, &shared, ip: &ip, now: now)
            return close(0)
        }
        if segment.flags.contains(.fin) {
            let end = segment.sequence + segment.length
            if end <= receiveEdge, !flags.contains(.finIsKnown) {
                receiveEnd = end
                flags.insert(.finIsKnown)
            }
        }
        var block: SACKBlock?
        if segment.length > 0 { block = placeText(segment, frame, &shared, events: &events, now: now) } else { frame.release() }
        if flags.contains(.finIsKnown), receiveNext == receiveEnd { return receiveFin(&shared, ip: &ip, events: &events, now: now) }
        // RFC 5681, section 4.2: what is out of order, or fills a gap, is acknowledged at once.
        if segment.sequence != receiveNext - segment.length || !reorder.isEmpty || block != nil {
            sendAcknowledgement(&shared, ip: &ip, now: now, duplicate: flags.contains(.selectiveAcknowledgement) ? block : nil)
        }
    }

    /// Puts payload where it belongs; answers what of it had come before.
    private mutating func placeText(
        _ segment: ArrivingSegment, _ frame: Segment, _ shared: inout TCPShared, events: inout SocketEvents, now: UInt64
    ) -> SACKBlock? {
        var frame = frame
        var start = segment.sequence
        var duplicate: SACKBlock?
        if start < receiveNext {
            let old = min(receiveNext.distance(from: start), frame.count)
            duplicate = SACKBlock(left: start, right: start + old)
            frame.trimFirst(Int(old))
            start += old
        }
        let room = receiveEdge.distance(from: start)
        if start >= receiveEdge {
            frame.trimLast(frame.byteCount)
        } else if frame.count > room {
            frame.trimLast(Int(frame.count - room))
        }
        guard frame.count > 0 else {
            frame.release()
            flags.insert(.acknowledgeNow)
            joinPending(&shared)
            return duplicate
        }
        if flags.contains(.receiveIsShut), start == receiveNext {
            receiveNext += frame.count
            frame.release()
            flags.insert(.acknowledgeNow)
            joinPending(&shared)
            return duplicate
        }
        guard start == receiveNext else {
            shared.counters.outOfOrderSegments &+= 1
            let limits = ReorderLimits(segments: 1_024, bytes: receiveLimit)
            let result = reorder.insert(frame, at: start, next: receiveNext, limits: limits, heap: shared.heap)
            if result.outcome == .refused { shared.counters.outOfOrderDrops &+= 1 }
            if result.outcome == .duplicate { shared.counters.duplicateSegments &+= 1 }
            return result.duplicate.left == result.duplicate.right ? duplicate : result.duplicate
        }
        if reorder.isEmpty {
            takeText(frame, &shared, events: &events, now: now)
            return duplicate
        }
        // The gap closes, at least in part: what follows comes out of the reorder queue.
        flags.insert(.acknowledgeNow)
        takeText(frame, &shared, events: &events, now: now)
        while true {
            let next = reorder.takeInOrder(next: receiveNext)
            if next.isNull { return duplicate }
            let before = receiveNext
            takeText(next, &shared, events: &events, now: now)
            // The heap was exhausted: what is behind comes again.
            if receiveNext == before { return duplicate }
        }
    }

    /// The peer sends no more.
    private mutating func receiveFin(_ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        receiveNext += 1
        if receiveEdge < receiveNext { receiveEdge = receiveNext }
        flags.insert([.finIsReceived, .acknowledgeNow])
        flags.remove(.finIsKnown)
        reorder.releaseAll()
        reorder = ReorderQueue()
        events.append(.readable, tag: tag)
        sendAcknowledgement(&shared, ip: &ip, now: now)
        switch state {
        case .established: state = .closeWait
        case .finWait1: state = .closing
        case .finWait2: enterTimeWait()
        default: break
        }
    }
}
