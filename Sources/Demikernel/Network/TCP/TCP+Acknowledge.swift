// Acknowledgements of what was sent: round trips, congestion control, and what was lost. RFC 9293, section 3.10.7.4; RFC 6298; RFC 6675; RFC 6582
// without SACK; RFC 8985; RFC 6937.

extension TCPConnection {
    /// An acknowledgement of new data while nothing is missing: header prediction has seen to that.
    @inline(always)
    mutating func acknowledgeInOrder(
        _ acknowledgment: SequenceNumber, _ acknowledged: UInt32, _ shared: inout TCPShared, events: inout SocketEvents, now: UInt64
    ) {
        var first = scoreboard.acknowledgeSingle(acknowledgment, now: now)
        var latest = first
        if first == 0 { (first, latest) = acknowledgeRecords(acknowledgment, now: now) }
        advance(to: acknowledgment, &shared, events: &events, now: now)
        takeSample(first, now)
        if !congestion.acknowledgedUnlimited(now: now) {
            growWindow(acknowledged, latest, isEchoed: false, isRecovering: false, now)
        }
        if acknowledgment == sendNext, hasSentEverything {
            retransmissionTimer = .off
            retransmissionDeadline = .max
        } else {
            armRetransmission(&shared, now: now)
        }
    }

    /// The round trips of the first and of the last record that is acknowledged.
    @inline(never)
    private mutating func acknowledgeRecords(_ acknowledgment: SequenceNumber, now: UInt64) -> (first: UInt64, latest: UInt64) {
        var delivery = Delivery(acknowledgement: acknowledgment, next: sendNext, minimumRoundTrip: 0)
        scoreboard.acknowledge(now: now, &delivery)
        return (delivery.roundTrip, delivery.latestRoundTrip)
    }

    @inline(never)
    private mutating func growWindow(_ acknowledged: UInt32, _ latestRoundTrip: UInt64, isEchoed: Bool, isRecovering: Bool, _ now: UInt64) {
        let sample = CongestionSample(
            acknowledged: acknowledged, acknowledgement: sendUnacknowledged, next: sendNext, roundTrip: latestRoundTrip,
            smoothed: roundTrip.smoothed, isEchoed: isEchoed, now: now)
        congestion.acknowledged(sample, isRecovering: isRecovering)
    }

    /// SND.UNA moves on: what is before it is the application's again.
    @inline(__always)
    private mutating func advance(to acknowledgment: SequenceNumber, _ shared: inout TCPShared, events: inout SocketEvents, now: UInt64) {
        sendUnacknowledged = acknowledgment
        queue.release(upTo: acknowledgment)
        backOff = 0
        if flightSize != 0 { stalledSince = now }
        timeoutSince = now
        if flags.contains(.wantsToWrite), sendEnd.distance(from: sendUnacknowledged) < sendLimit {
            flags.remove(.wantsToWrite)
            events.append(.writable, tag: tag)
        }
    }

    /// RFC 6298, with Karn's rule in the scoreboard; RFC 7323, appendix G, for several samples in a round trip.
    @inline(__always)
    private mutating func takeSample(_ measured: UInt64, _ now: UInt64) {
        guard measured != 0 else { return }
        // FlightSize / 2·SMSS, by shifts: segments are about 1 KiB.
        roundTrip.sample(measured, now: now, samplesPerRoundTrip: max(1, flightSize &>> 11))
    }

    /// An acknowledgement of any kind; its number is between what RFC 5961 allows and SND.NXT.
    @inline(never)
    mutating func acknowledge(
        _ segment: ArrivingSegment, windowBefore: UInt32, _ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents,
        now: UInt64
    ) {
        let number = SequenceNumber.later(segment.acknowledgment, sendUnacknowledged)
        let acknowledged = number.distance(from: sendUnacknowledged)
        let flight = flightSize
        let wasRecovering = flags.contains(.isInRecovery)
        var delivery = Delivery(
            acknowledgement: number, next: sendNext, minimumRoundTrip: roundTrip.minimum, notSentAfter: sendTime(segment, now))
        if acknowledged > 0 { scoreboard.acknowledge(now: now, &delivery) }
        if segment.options.sackCount > 0, flags.contains(.selectiveAcknowledgement) {
            scoreboard.sack(segment.options, now: now, segmentSize: UInt32(segmentSize), in: shared.heap, &delivery)
        }
        if acknowledged > 0 {
            ip.confirmReachability(on: path, now: now)
            advance(to: number, &shared, events: &events, now: now)
            takeSample(delivery.roundTrip, now)
        } else if segment.length == 0, !segment.flags.contains(.fin), windowBefore == sendWindow, flight > 0,
            segment.acknowledgment == sendUnacknowledged, sendWindow != 0, !flags.contains(.selectiveAcknowledgement)
        {
            // The answers to probes of a closed window are none.
            noteDuplicateAcknowledgement(&delivery)
        }
        // A probe of a closed window that is answered: the peer lives. RFC 9293, section 3.8.6.1.
        let wasClosed = retransmissionTimer == .persist
        if wasClosed { backOff = 0 }
        if flags.contains(.isAfterTimeout) { undoIfSpurious(segment, acknowledged, &shared, now: now) }
        if flags.contains(.isProbing) { endProbe(segment, delivery, now: now) }
        if acknowledged > 0 { leaveRecovery(number, now: now) }
        let lost = findLosses(acknowledged, &shared, now: now)
        respond(segment, acknowledged, flight, delivery, lost: lost, wasRecovering: wasRecovering, &shared, now: now)
        // The window opens, and the probe's byte was not taken: it goes again at once, and is no sign of congestion.
        if wasClosed, windowBefore == 0, sendWindow > 0, flightSize == 1 { scoreboard.markAllLost() }
        armRetransmission(&shared, now: now)
    }

    /// The latest time at which what the peer answers can have been sent, by the echoed timestamp: RFC 8985, section 6.2, step 2.
    private func sendTime(_ segment: ArrivingSegment, _ now: UInt64) -> UInt64 {
        guard flags.contains(.timestamps), let stamps = segment.options.timestamps else { return .max }
        let age = TCPShared.timestampClock(now) &- (stamps.echo &- timestampOffset)
        guard UInt64(age) < now / 1_000_000 else { return .max }
        return (now / 1_000_000 - UInt64(age) + 1) * 1_000_000 - 1
    }

    // MARK: - Without SACK: RFC 5681, section 3.2; RFC 6582

    private mutating func noteDuplicateAcknowledgement(_ delivery: inout Delivery) {
        if duplicateAcknowledgements < .max { duplicateAcknowledgements &+= 1 }
        // Each says that a segment has left the network.
        delivery.delivered &+= UInt32(segmentSize)
    }

    /// Bytes in the network: what is out, less what has arrived or is lost.
    @inline(__always) var inNetwork: UInt32 {
        let known = scoreboard.inNetwork(flightSize)
        // After a timeout duplicates answer what was sent twice, and say nothing.
        if duplicateAcknowledgements == 0 || !flags.isDisjoint(with: [.selectiveAcknowledgement, .isAfterTimeout]) { return known }
        // RFC 3042: before a recovery the first two of them let new segments go, and no more.
        let counted = flags.contains(.isInRecovery) ? duplicateAcknowledgements : min(duplicateAcknowledgements, 2)
        let gone = UInt32(counted) &* UInt32(segmentSize)
        return known > gone ? known &- gone : 0
    }

    // MARK: - Losses

    /// Marks what is lost by now; begins a recovery where that is news. Answers the bytes that are newly lost.
    @discardableResult
    private mutating func findLosses(_ acknowledged: UInt32, _ shared: inout TCPShared, now: UInt64) -> UInt32 {
        let before = scoreboard.lostBytes
        let isRecovering = !flags.isDisjoint(with: [.isInRecovery, .isAfterTimeout])
        reorderingDeadline = .max
        if flags.contains(.selectiveAcknowledgement) {
            let found = scoreboard.detectLosses(now: now, roundTrip: roundTrip, isRecovering: isRecovering)
            reorderingDeadline = found.deadline
            if found.lost > 0, !isRecovering { enterRecovery(&shared, now: now) }
        } else if !isRecovering {
            if duplicateAcknowledgements == 3 {
                scoreboard.markFirstLost(UInt32(segmentSize), in: shared.heap)
                enterRecovery(&shared, now: now)
            } else if acknowledged > 0 {
                duplicateAcknowledgements = 0
            }
        } else if acknowledged > 0 {
            // A partial acknowledgement: the next segment is missing too. RFC 6582, section 3.2, step 3.
            let segments = min(255, acknowledged / UInt32(segmentSize))
            duplicateAcknowledgements = duplicateAcknowledgements > UInt8(segments) ? duplicateAcknowledgements - UInt8(segments) : 0
            if flags.contains(.isInRecovery) { scoreboard.markFirstLost(UInt32(segmentSize), in: shared.heap) }
        }
        return scoreboard.lostBytes > before ? scoreboard.lostBytes - before : 0
    }

    private mutating func enterRecovery(_ shared: inout TCPShared, now: UInt64) {
        shared.counters.fastRecoveries &+= 1
        flags.insert(.isInRecovery)
        flags.remove(.isProbing)
        probe.forget()
        recoveryPoint = sendNext
        let flight = flightSize
        congestion.lossDetected(flight: flight, now: now)
        recovery.begin(flight: flight)
        if flags.contains(.ecn) { flags.insert(.reportsReduction) }
    }

    /// Everything that was out when the loss was found is acknowledged.
    private mutating func leaveRecovery(_ number: SequenceNumber, now: UInt64) {
        guard !flags.isDisjoint(with: [.isInRecovery, .isAfterTimeout]), number >= recoveryPoint else { return }
        if flags.contains(.isInRecovery) { congestion.recovered() }
        scoreboard.recoveryEnded()
        discovery.fullSizedAcknowledged()
        duplicateAcknowledgements = 0
        flags.remove([.isInRecovery, .isAfterTimeout, .mayUndo])
    }

    /// What congestion control makes of it.
    private mutating func respond(
        _ segment: ArrivingSegment, _ acknowledged: UInt32, _ flight: UInt32, _ delivery: Delivery, lost: UInt32, wasRecovering: Bool,
        _ shared: inout TCPShared, now: UInt64
    ) {
        let isEchoed = flags.contains(.ecn) && segment.flags.contains(.ece)
        if acknowledged > 0 {
            // The acknowledgement that ends a recovery leaves the window at ssthresh: RFC 6582, section 3.2, step 3; RFC 6937, section 3.
            let isRecovering = wasRecovering || flags.contains(.isInRecovery)
            growWindow(acknowledged, delivery.latestRoundTrip, isEchoed: isEchoed, isRecovering: isRecovering, now)
        }
        if isEchoed, flags.isDisjoint(with: [.isInRecovery, .isAfterTimeout]),
            congestion.echoed(flight: flight, acknowledgement: sendUnacknowledged, next: sendNext, now: now)
        {
            flags.insert(.reportsReduction)
        }
        guard flags.contains(.isInRecovery) else { return }
        let pipe = inNetwork
        let allowance = recovery.allowance(
            delivered: delivery.delivered, inNetwork: pipe, threshold: UInt32(clamping: congestion.slowStartThreshold),
            segmentSize: UInt32(segmentSize), isSafe: acknowledged > 0 && lost == 0)
        congestion.setWindow(pipe &+ allowance)
    }

    /// Sends again what is lost, as far as the windows allow. False where nothing more may be sent.
    @inline(never)
    mutating func retransmitLost(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) -> Bool {
        while scoreboard.hasLost {
            let range = scoreboard.nextLost(limit: UInt32(segmentSize))
            if range.isEmpty { return true }
            let pipe = inNetwork
            if pipe != 0, Int(pipe) + Int(range.length) > congestion.window { return false }
            // The peer may have shrunk its window: what is behind it waits for the probe.
            if range.start != sendUnacknowledged, range.end - sendUnacknowledged > Int32(clamping: sendWindow) { return false }
            guard retransmit(range, &shared, ip: &ip, now: now) else { return false }
        }
        return true
    }

    /// Sends these bytes, or FIN, again, out of the application's buffers.
    mutating func retransmit(_ range: SequenceRange, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) -> Bool {
        let length = range.start == sendEnd + 1 ? 0 : min(range.length, sendEnd.distance(from: range.start))
        let fin = flags.contains(.finIsSent) && range.end == sendEnd + 1
        guard sendData(range.start, Int(length), fin: fin, isNew: false, &shared, ip: &ip, now: now) else { return false }
        scoreboard.recordRetransmitted(range, now: now, in: shared.heap)
        if range.start == sendUnacknowledged {
            // What the timer waits for has just gone again.
            timeoutSince = now
            armRetransmission(&shared, now: now)
        }
        return true
    }

    // MARK: - Timeouts

    /// RFC 6298, section 5; RFC 5681, section 3.1, (4).
    mutating func timeoutRings(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        guard flightSize > 0 else { return transmitSome(&shared, ip: &ip, now: now) }
        if Int(backOff) >= shared.configuration.retries || userTimeoutHasPassed(&shared, now) { return close(SocketError.timedOut) }
        shared.counters.retransmissionTimeouts &+= 1
        backOff &+= 1
        roundTrip.backOff()
        timeoutSince = now
        if backOff == 1 {
            flags.insert(.mayUndo)
            undoStamp = TCPShared.timestampClock(now) &+ timestampOffset
        } else {
            flags.remove(.mayUndo)
        }
        // A path that swallows large packets and says nothing: RFC 8899, section 4.3.
        if flightSize >= UInt32(segmentSize), discovery.fullSizedTimedOut(now: now) {
            shared.counters.pathMTUReductions &+= 1
            updateSegmentSize()
        }
        scoreboard.markLostOnTimeout(now: now, roundTrip: roundTrip)
        congestion.timedOut(flight: flightSize, isFirst: backOff == 1, now: now)
        flags.remove([.isInRecovery, .isProbing])
        probe.forget()
        flags.insert(.isAfterTimeout)
        if flags.contains(.ecn) { flags.insert(.reportsReduction) }
        recoveryPoint = sendNext
        duplicateAcknowledgements = 0
        reorderingDeadline = .max
        // The earliest segment goes whatever is in the network besides: RFC 6298, section 5.4.
        let first = scoreboard.nextLost(limit: UInt32(segmentSize))
        if !first.isEmpty { _ = retransmit(first, &shared, ip: &ip, now: now) }
        transmitSome(&shared, ip: &ip, now: now)
        armRetransmission(&shared, now: now)
    }

    /// The Eifel test: an acknowledgement that answers what was sent before the retransmission. RFC 3522; RFC 4015 for the response.
    private mutating func undoIfSpurious(_ segment: ArrivingSegment, _ acknowledged: UInt32, _ shared: inout TCPShared, now: UInt64) {
        guard flags.contains(.mayUndo), acknowledged > 0, let stamps = segment.options.timestamps, flags.contains(.timestamps) else { return }
        flags.remove(.mayUndo)
        guard Int32(bitPattern: stamps.echo &- undoStamp) < 0 else { return }
        shared.counters.spuriousTimeouts &+= 1
        // What was late was not too large.
        discovery.fullSizedAcknowledged()
        scoreboard.unmarkLost()
        congestion.undo()
        roundTrip.endBackOff()
        flags.remove(.isAfterTimeout)
    }

    // MARK: - RACK's timers: RFC 8985, sections 6.3 and 7

    /// Something that was only late is lost now.
    mutating func reorderingRings(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        findLosses(0, &shared, now: now)
        if flags.contains(.isInRecovery) { congestion.setWindow(max(UInt32(clamping: congestion.window), inNetwork &+ UInt32(segmentSize))) }
        transmitSome(&shared, ip: &ip, now: now)
        armRetransmission(&shared, now: now)
    }

    /// Whether a tail loss probe is of use: section 7.2.
    var mayProbe: Bool {
        flags.intersection([.selectiveAcknowledgement, .isInRecovery, .isAfterTimeout, .isProbing]) == .selectiveAcknowledgement
            && roundTrip.hasSample && !scoreboard.hasHoles
    }

    /// How long a peer that has less than two segments may wait before it acknowledges them: 40 ms, which most keep to; the worst case, 200 ms,
    /// would leave the probe no time before the timeout.
    static var peersDelay: UInt64 { 40_000_000 }
    /// As others have it.
    static var probeDelayMinimum: UInt64 { 2_000_000 }

    /// PTO: 2·SRTT, and the peer's delay.
    func tailLossProbeDelay(_ timeout: UInt64) -> UInt64 {
        max(
            Self.probeDelayMinimum,
            TailLossProbe.delay(
                roundTrip, isSingle: flightSize < 2 &* UInt32(segmentSize), delayedAcknowledgement: Self.peersDelay, timeout: timeout))
    }

    /// Section 7.3: one segment more, new where there is one, so that the peer says what it has.
    mutating func probeTail(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        guard flightSize > 0 else { return }
        shared.counters.tailLossProbes &+= 1
        let unsent = sendNext.distance(from: sendEnd) == 1 ? 0 : sendEnd.distance(from: sendNext)
        let usable = sendWindow > flightSize ? sendWindow - flightSize : 0
        let length = min(unsent, UInt32(segmentSize), usable)
        var sent = false
        let repeats = length == 0
        if !repeats {
            sent = sendData(
                sendNext, Int(length), fin: length == unsent && flags.contains(.sendIsShut), isNew: true, &shared, ip: &ip, now: now)
        } else {
            let range = scoreboard.lastOutstanding(limit: UInt32(segmentSize))
            if !range.isEmpty { sent = retransmit(range, &shared, ip: &ip, now: now) }
        }
        if sent {
            flags.insert(.isProbing)
            probe.sent(next: sendNext, repeated: repeats)
        }
        // RFC 8985, section 7.3: the last resort, in case the probe is lost too.
        timeoutSince = now
        armRetransmission(&shared, now: now)
    }

    /// Section 7.4: what the acknowledgement says of the probe.
    private mutating func endProbe(_ segment: ArrivingSegment, _ delivery: Delivery, now: UInt64) {
        let isDuplicate = delivery.acknowledged == 0 && segment.options.sackCount == 0 && segment.length == 0
        switch probe.acknowledged(delivery, isDuplicate: isDuplicate) {
        case .nothing: return
        case .over: break
        case .lossRepaired:
            congestion.lossDetected(flight: flightSize, now: now)
            congestion.recovered()
        }
        flags.remove(.isProbing)
    }
}
