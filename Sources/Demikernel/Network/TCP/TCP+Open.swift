// Handshakes: active, passive and simultaneous opens. RFC 9293, sections 3.5 and 3.10.7.3.

extension TCPConnection {
    /// What a SYN, or a SYN-ACK, says: numbers, window, options.
    mutating func takeSYN(_ segment: ArrivingSegment, _ settings: TCPConfiguration, now: UInt64) {
        initialReceiveSequence = segment.sequence
        receiveNext = segment.sequence + 1
        receiveEdge = receiveNext + min(receiveLimit, 65_535)
        acknowledgementSent = receiveNext
        // What another SYN agreed to before is forgotten: see receiveInSimultaneousOpen.
        flags.subtract([.timestamps, .selectiveAcknowledgement, .windowScale, .ecn])
        let asked = segment.options
        if settings.timestamps, let stamps = asked.timestamps {
            flags.insert(.timestamps)
            timestampRecent = stamps.value
            timestampRecentAt = TCPShared.timestampClock(now)
        }
        if settings.selectiveAcknowledgement, asked.sackPermitted { flags.insert(.selectiveAcknowledgement) }
        if settings.windowScale, let scale = asked.windowScale {
            flags.insert(.windowScale)
            // RFC 7323, section 2.3: more than 14 counts as 14.
            sendScale = min(scale, 14)
        } else {
            sendScale = 0
        }
        takeECN(segment, settings)
        setPeerSegmentSize(asked.maximumSegmentSize)
        // The window of a segment with SYN is never scaled.
        sendWindow = UInt32(segment.window)
        largestSendWindow = sendWindow
        windowUpdateSequence = segment.sequence
        windowUpdateAcknowledgement = segment.acknowledgment
    }

    /// RFC 3168, section 6.1.1: a SYN asks with both bits, a SYN-ACK agrees with ECE alone.
    private mutating func takeECN(_ segment: ArrivingSegment, _ settings: TCPConfiguration) {
        guard wantsECN(settings) else { return }
        let agrees = segment.flags.contains(.ack)
            ? segment.flags.contains(.ece) && !segment.flags.contains(.cwr)
            : segment.flags.contains([.ece, .cwr])
        if agrees { flags.insert(.ecn) }
    }

    /// RFC 9293, section 3.7.1: 536 (1,220 for IPv6) where the peer does not say.
    private mutating func setPeerSegmentSize(_ said: UInt16?) {
        peerSegmentSize = max(said ?? (path.isIPv4 ? 536 : 1_220), 64)
        updateSegmentSize()
    }

    /// What a segment carries: as much as the peer takes and the path does, less the options that go with every segment (RFC 6691).
    mutating func updateSegmentSize() {
        let options: UInt16 = flags.contains(.timestamps) ? 12 : 0
        let size = min(peerSegmentSize, localSegmentSize, discovery.segmentSize)
        segmentSize = max(size > options ? size - options : 1, 28)
        congestion.setSegmentSize(Int(segmentSize))
    }

    /// The handshake is over: data may flow.
    mutating func establish(
        _ segment: ArrivingSegment, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64
    ) {
        ip.confirmReachability(on: path, now: now)
        state = flags.contains(.sendIsShut) ? .finWait1 : .established
        sendUnacknowledged = segment.acknowledgment
        if !flags.contains(.windowScale) { receiveScale = 0 }
        retransmissionTimer = .off
        retransmissionDeadline = .max
        if handshakeRetries == 0 {
            if now > stalledSince { roundTrip.sample(now - stalledSince, now: now) }
        } else {
            roundTrip.handshakeHadTimeout()
        }
        // The window of a segment without SYN is scaled.
        if !segment.flags.contains(.syn) { updateSendWindow(UInt32(segment.window), segment.sequence, segment.acknowledgment) }
        congestion.start(segmentSize: Int(segmentSize), initialSegments: shared.configuration.initialWindow, hadTimeout: handshakeRetries > 0)
        startKeepAlive(&shared, now: now)
        lastReceived = now
        if flags.contains(.isQueued) {
            flags.insert(.isEstablishedNow)
        } else {
            events.append([.connected, .writable], tag: tag)
        }
    }

    /// RFC 9293, section 3.10.7.3: SYN_SENT. Takes the frame's reference.
    mutating func receiveInSynSent(
        _ segment: inout ArrivingSegment, _ frame: Segment, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents,
        now: UInt64
    ) {
        guard isAnswerToSYN(segment, &shared, ip: &ip, now: now) else { return frame.release() }
        takeSYN(segment, shared.configuration, now: now)
        guard segment.flags.contains(.ack) else {
            // A simultaneous open: section 3.5, figure 8. The timer goes on: whoever sends such a SYN does not put it off.
            frame.release()
            state = .synReceived
            return sendSYN(&shared, ip: &ip, now: now)
        }
        establish(segment, &shared, ip: &ip, events: &events, now: now)
        flags.insert(.acknowledgeNow)
        // What came with it stands behind the SYN.
        segment.flags.remove(.syn)
        segment.sequence += 1
        receiveText(&segment, frame, &shared, ip: &ip, events: &events, now: now)
        if flags.contains(.isClosedNow) { return }
        sendAcknowledgement(&shared, ip: &ip, now: now)
        transmit(&shared, ip: &ip, now: now)
    }

    /// The checks of SYN_SENT in their order, ACK, RST, SYN: whether a handshake goes on with this segment.
    private mutating func isAnswerToSYN(_ segment: ArrivingSegment, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) -> Bool {
        if segment.flags.contains(.ack), segment.acknowledgment != sendNext {
            shared.counters.unacceptableAcknowledgements &+= 1
            if !segment.flags.contains(.rst), shared.mayAnswer(now) { sendReset(segment.acknowledgment, &shared, ip: &ip, now: now) }
            return false
        }
        if segment.flags.contains(.rst) {
            // Without an ACK nobody knows that it is the peer's.
            guard segment.flags.contains(.ack) else { return false }
            shared.counters.resetsReceived &+= 1
            close(SocketError.refused)
            return false
        }
        return segment.flags.contains(.syn) && !segment.flags.contains(.fin)
    }

    /// SYN_RECEIVED out of SYN_SENT. The SYN that led here acknowledged nothing: anybody who knows addresses and ports can have sent it, and the
    /// numbers in it are then nobody's. So what acknowledges our SYN is believed more than that SYN was, a reset that does not takes the connection
    /// back to SYN_SENT instead of ending it, and nothing is answered that the peer, if it knows nothing of that SYN, would answer with such a
    /// reset. Takes the frame's reference and answers true where that was all.
    mutating func receiveInSimultaneousOpen(
        _ segment: inout ArrivingSegment, _ frame: Segment, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents,
        now: UInt64
    ) -> Bool {
        let knowsOurs = segment.flags.contains(.ack) && segment.acknowledgment == sendNext
        if segment.flags.contains(.rst) {
            frame.release()
            if knowsOurs {
                shared.counters.resetsReceived &+= 1
                close(SocketError.refused)
            } else if segment.sequence == receiveNext {
                shared.counters.resetsReceived &+= 1
                state = .synSent
                timestampRecent = 0
            }
            return true
        }
        if segment.flags.contains(.syn), knowsOurs || (!segment.flags.contains(.ack) && shared.mayAnswer(now)) {
            receiveInSynSent(&segment, frame, &shared, ip: &ip, events: &events, now: now)
            return true
        }
        if knowsOurs, segment.sequence == receiveNext || segment.sequence.isWithin(receiveNext, length: receiveEdge.distance(from: receiveNext)) {
            return false
        }
        shared.counters.outOfWindow &+= 1
        frame.release()
        return true
    }

    /// A half-open connection of which nothing was kept but a cookie, as it would be if something had been.
    mutating func takeCookie(_ segment: inout ArrivingSegment, segmentSize: UInt16, _ settings: TCPConfiguration, now: UInt64) {
        initialReceiveSequence = segment.sequence - 1
        receiveNext = segment.sequence
        acknowledgementSent = receiveNext
        receiveEdge = receiveNext + min(receiveLimit, 65_535)
        initialSendSequence = segment.acknowledgment - 1
        sendUnacknowledged = initialSendSequence
        sendNext = segment.acknowledgment
        sendEnd = segment.acknowledgment
        state = .synReceived
        // When the SYN-ACK went out nobody knows any more: no sample.
        stalledSince = .max
        receiveScale = 0
        if settings.timestamps, let stamps = segment.options.timestamps {
            flags.insert(.timestamps)
            timestampRecent = stamps.value
            timestampRecentAt = TCPShared.timestampClock(now)
            let agreed = SYNCookie.decode(stamps.echo)
            if agreed.sackPermitted { flags.insert(.selectiveAcknowledgement) }
            if let scale = agreed.windowScale {
                flags.insert(.windowScale)
                sendScale = min(scale, 14)
                receiveScale = Self.scale(for: receiveLimit)
            }
        }
        setPeerSegmentSize(segmentSize)
        windowUpdateSequence = segment.sequence
        windowUpdateAcknowledgement = segment.acknowledgment
    }
}
