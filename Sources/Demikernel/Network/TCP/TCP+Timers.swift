// Timers. A connection has one entry in the wheel, and several deadlines; the entry rings no later than the first of them and is moved only where
// a deadline comes before it. What rings early finds nothing due and is set anew, so that a deadline that is put off again and again, by every
// segment, costs nothing.

extension TCP {
    /// Runs what is due: retransmissions, delayed acknowledgements, keep-alives, the ends of FIN_WAIT_2 and TIME_WAIT; and tries again what a
    /// full frame queue had put off.
    @inline(__always)
    package mutating func poll(ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        while let slot = shared.timers.popExpired(now: now) { ring(slot, ip: &ip, events: &events, now: now) }
        if timeWaits.deadline <= now { endTimeWaits(now) }
        flush(ip: &ip, now: now)
    }

    @inline(never)
    private mutating func ring(_ slot: UInt32, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        connections[unchecked: slot].ring(&shared, ip: &ip, events: &events, now: now)
        if !connections[unchecked: slot].flags.isDisjoint(with: .wantsSettling) { settle(slot, ip: &ip, events: &events, now: now) }
    }

    @inline(never)
    private mutating func endTimeWaits(_ now: UInt64) {
        while timeWaits.deadline <= now, let oldest = timeWaits.oldest { endTimeWait(oldest) }
    }

    /// When `poll` has something to do; nil for never. It can be earlier than that, never later. What waits for room below has nothing to do before
    /// there is some: `canSend` says whether there is.
    package mutating func nextDeadline(canSend: Bool) -> UInt64? {
        var deadline = min(shared.timers.nextDeadline() ?? .max, timeWaits.deadline)
        if canSend, shared.pending != TCPShared.endOfPending { deadline = min(deadline, shared.pendingDeadline) }
        return deadline == .max ? nil : deadline
    }

    /// Whether ``poll(ip:events:now:)`` has something to do that does not depend on the time.
    @inline(__always) var isPressed: Bool { shared.pending != TCPShared.endOfPending }

    /// Data that was sent at `began`, as far as the caller knew, may have been sent as late as `ended`: timers that were started then do not ring
    /// early for it.
    package mutating func notePause(from began: UInt64, to ended: UInt64) {
        shared.pauseBegan = began
        shared.pauseEnded = ended
    }

    /// A burst has ended: what it made necessary to acknowledge is acknowledged, in one segment per connection.
    @inline(__always)
    package mutating func flush(ip: inout NetworkLayer, now: UInt64) {
        if shared.pending != TCPShared.endOfPending { flushPending(ip: &ip, now: now) }
    }

    @inline(never)
    private mutating func flushPending(ip: inout NetworkLayer, now: UInt64) {
        var slot = shared.pending
        shared.pending = TCPShared.endOfPending
        while slot != TCPShared.endOfPending {
            let next = connections[unchecked: slot].nextPending
            connections[unchecked: slot].nextPending = TCPShared.notPending
            let flags = connections[unchecked: slot].flags
            if !flags.contains(.isDetached) {
                connections[unchecked: slot].flush(&shared, ip: &ip, now: now)
            } else if flags.contains(.isOrphan) {
                free(slot)
            }
            slot = next
        }
        // What is still there was refused memory, unless the frame queue is full: asking at once again would be spinning.
        shared.pendingDeadline = shared.pending != TCPShared.endOfPending && ip.canSend ? now &+ TCPShared.memoryInterval : 0
    }
}

extension TCPConnection {
    /// Puts the connection into the list of those that have something to do when the burst ends.
    @inline(__always)
    mutating func joinPending(_ shared: inout TCPShared) {
        guard nextPending == TCPShared.notPending else { return }
        nextPending = shared.pending
        shared.pending = slot
    }

    /// The end of a burst.
    @inline(__always)
    mutating func flush(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        if flags.contains(.isBlocked) { unblock(&shared, ip: &ip, now: now) }
        let waiting = receiveNext.distance(from: acknowledgementSent)
        let now1 = flags.contains(.acknowledgeNow)
        guard waiting != 0 || now1, maySendAcknowledgements else { return }
        let full = UInt32(receiveSegmentSize)
        // RFC 5681, section 4.2: at least every second full-sized segment.
        if now1 || waiting >= full &* 2 || (quickAcknowledgements > 0 && waiting >= full) {
            if quickAcknowledgements > 0 { quickAcknowledgements &-= 1 }
            sendAcknowledgement(&shared, ip: &ip, now: now)
        } else if acknowledgementDeadline == .max {
            acknowledgementDeadline = now &+ shared.configuration.delayedAcknowledgement
            armTimer(&shared)
        }
    }

    private var maySendAcknowledgements: Bool {
        switch state {
        case .closed, .listen, .synSent, .synReceived: false
        default: true
        }
    }

    /// There may be room in the frame queue again.
    @inline(never)
    private mutating func unblock(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        guard ip.canSend else { return joinPending(&shared) }
        flags.remove(.isBlocked)
        if state == .synSent || state == .synReceived { return sendSYN(&shared, ip: &ip, now: now) }
        transmitSome(&shared, ip: &ip, now: now)
    }

    // MARK: - The wheel's entry

    /// Moves the entry to the first deadline, where that is before it.
    @inline(__always)
    mutating func armTimer(_ shared: inout TCPShared) {
        let first = min(retransmissionDeadline, acknowledgementDeadline, idleDeadline)
        if first < armedDeadline { moveTimer(first, &shared) }
    }

    @inline(never)
    private mutating func moveTimer(_ deadline: UInt64, _ shared: inout TCPShared) {
        if armedDeadline != .max { _ = shared.timers.cancel(timer) }
        armedDeadline = .max
        // The wheel has room for every connection.
        guard let key = shared.timers.insert(deadline: deadline, payload: slot) else { return }
        timer = key
        armedDeadline = deadline
    }

    mutating func stopTimers(_ shared: inout TCPShared) {
        if armedDeadline != .max { _ = shared.timers.cancel(timer) }
        armedDeadline = .max
        retransmissionDeadline = .max
        acknowledgementDeadline = .max
        idleDeadline = .max
        retransmissionTimer = .off
    }

    /// The wheel's entry has come due.
    mutating func ring(_ shared: inout TCPShared, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        armedDeadline = .max
        if acknowledgementDeadline <= now {
            acknowledgementDeadline = .max
            shared.counters.delayedAcknowledgements &+= 1
            sendAcknowledgement(&shared, ip: &ip, now: now)
        }
        if retransmissionDeadline <= now { retransmissionRings(&shared, ip: &ip, now: now) }
        if idleDeadline <= now, !flags.contains(.isClosedNow) { idleRings(&shared, ip: &ip, now: now) }
        if !flags.contains(.isClosedNow) { armTimer(&shared) }
    }

    // MARK: - Retransmission, probes

    /// Starts the one timer for what is out. What it stands for is only computed when the earliest moment has come that it can ring at.
    @inline(__always)
    mutating func armRetransmission(_ shared: inout TCPShared, now: UInt64) {
        if flightSize == 0 || (sendWindow == 0 && maySend) { return armPersist(&shared, now: now) }
        // The window is open again, and what is out is waited for from now on.
        if retransmissionTimer == .persist { timeoutSince = now }
        retransmissionTimer = .unresolved
        probeSince = now
        let least = flightSize < 2 &* UInt32(segmentSize) ? Self.peersDelay : Self.probeDelayMinimum
        let deadline = min(timeoutSince &+ shared.timeoutMinimum, now &+ least, reorderingDeadline)
        retransmissionDeadline = deadline
        if deadline < armedDeadline { moveTimer(deadline, &shared) }
    }

    /// Computes what the timer stands for, and when: RFC 6298, section 5; RFC 8985, section 7.2.
    private mutating func resolveRetransmission(_ shared: inout TCPShared) {
        let timeout = roundTrip.timeout(shared.limits)
        retransmissionTimer = .timeout
        // Neither data sent meanwhile nor acknowledgements of nothing new put it off: RFC 6298, sections 5.1 and 5.3.
        retransmissionDeadline = timeoutSince &+ timeout
        if reorderingDeadline != .max {
            // The timeout, where it comes first, is a timeout: as the reordering timer it would ring for ever without retransmitting.
            if reorderingDeadline < retransmissionDeadline {
                retransmissionTimer = .reordering
                retransmissionDeadline = reorderingDeadline
            }
        } else if mayProbe {
            let probe = probeSince &+ tailLossProbeDelay(timeout)
            if probe < retransmissionDeadline {
                retransmissionTimer = .tailLossProbe
                retransmissionDeadline = probe
            }
        }
    }

    /// A closed window, with data behind it, is probed; otherwise there is nothing to wait for.
    @inline(__always)
    private mutating func armPersist(_ shared: inout TCPShared, now: UInt64) {
        guard !hasSentEverything || flightSize > 0, maySend else {
            retransmissionTimer = .off
            retransmissionDeadline = .max
            return
        }
        startPersist(&shared, now: now)
    }

    @inline(never)
    private mutating func startPersist(_ shared: inout TCPShared, now: UInt64) {
        if retransmissionTimer != .persist {
            // RFC 9293, section 3.8.6.1: the retransmission timeout, then with back-off.
            roundTrip.endBackOff()
            backOff = 0
            if flightSize == 0 { stalledSince = now }
        }
        retransmissionTimer = .persist
        retransmissionDeadline = now &+ roundTrip.timeout(shared.limits)
        armTimer(&shared)
    }

    @inline(never)
    private mutating func retransmissionRings(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        if retransmissionTimer == .unresolved {
            if timeoutSince == shared.pauseBegan { timeoutSince = shared.pauseEnded }
            if probeSince == shared.pauseBegan { probeSince = shared.pauseEnded }
            resolveRetransmission(&shared)
            guard retransmissionDeadline <= now else { return }
        }
        let kind = retransmissionTimer
        retransmissionTimer = .off
        retransmissionDeadline = .max
        if state == .synSent || state == .synReceived { return handshakeRings(&shared, ip: &ip, now: now) }
        switch kind {
        case .off, .unresolved: break
        case .timeout: timeoutRings(&shared, ip: &ip, now: now)
        case .tailLossProbe: probeTail(&shared, ip: &ip, now: now)
        case .reordering: reorderingRings(&shared, ip: &ip, now: now)
        case .persist: probeWindow(&shared, ip: &ip, now: now)
        }
    }

    /// The SYN, or the SYN-ACK, was not answered.
    private mutating func handshakeRings(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        let limit = flags.contains(.isActive) ? shared.configuration.synRetries : shared.configuration.synAcknowledgementRetries
        if Int(handshakeRetries) >= limit || userTimeoutHasPassed(&shared, now) { return close(SocketError.timedOut) }
        handshakeRetries &+= 1
        roundTrip.backOff()
        shared.counters.retransmittedSegments &+= 1
        sendSYN(&shared, ip: &ip, now: now)
        armHandshake(&shared, now: now)
    }

    mutating func armHandshake(_ shared: inout TCPShared, now: UInt64) {
        retransmissionTimer = .timeout
        retransmissionDeadline = now &+ roundTrip.timeout(shared.limits)
        armTimer(&shared)
    }

    /// RFC 5482; RFC 9293, section 3.8.3.
    mutating func userTimeoutHasPassed(_ shared: inout TCPShared, _ now: UInt64) -> Bool {
        let limit = options.userTimeout != 0 ? options.userTimeout : shared.configuration.userTimeout
        guard limit != 0, now &- stalledSince >= limit else { return false }
        shared.counters.userTimeouts &+= 1
        return true
    }

    /// Sends the byte behind the peer's window (or the first that it has not acknowledged): RFC 9293, section 3.8.6.1. A window that is open, and
    /// was too small to be worth a segment, has been for long enough: what fits goes; section 3.8.6.2.1, case 4. A peer that answers is never given
    /// up, however long its window stays closed; RFC 1122, section 4.2.2.17.
    private mutating func probeWindow(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        if backOff >= shared.configuration.retries || userTimeoutHasPassed(&shared, now) { return close(SocketError.timedOut) }
        backOff &+= 1
        roundTrip.backOff()
        shared.counters.windowProbes &+= 1
        if sendNext == sendUnacknowledged {
            let unsent = sendEnd.distance(from: sendNext)
            let length = min(unsent, max(1, min(sendWindow, UInt32(segmentSize))))
            _ = sendData(
                sendNext, Int(length), fin: length == unsent && flags.contains(.sendIsShut), isNew: true, &shared, ip: &ip, now: now)
        } else {
            let hasData = sendUnacknowledged != sendEnd
            let isLast = sendEnd.distance(from: sendUnacknowledged) <= 1
            let fin = isLast && flags.contains(.finIsSent)
            _ = sendData(sendUnacknowledged, hasData ? 1 : 0, fin: fin, isNew: false, &shared, ip: &ip, now: now)
        }
        retransmissionTimer = .persist
        retransmissionDeadline = now &+ roundTrip.timeout(shared.limits)
    }

    // MARK: - Idle connections

    /// FIN_WAIT_2 has lasted long enough, or a keep-alive is due: RFC 9293, section 3.8.4.
    private mutating func idleRings(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        idleDeadline = .max
        if state == .finWait2, flags.contains(.isOrphan) {
            shared.counters.connectionsFailed &+= 1
            return close(SocketError.timedOut)
        }
        guard flags.contains(.keepAlive), maySendAcknowledgements else { return }
        let settings = shared.configuration
        let idle = options.keepAliveIdle != 0 ? options.keepAliveIdle : settings.keepAliveIdle
        let interval = options.keepAliveInterval != 0 ? options.keepAliveInterval : settings.keepAliveInterval
        let limit = options.keepAliveProbes != 0 ? Int(options.keepAliveProbes) : settings.keepAliveProbes
        if now &- lastReceived < idle {
            keepAliveProbes = 0
            idleDeadline = lastReceived &+ idle
            return
        }
        // Data that is out finds out for itself.
        if flightSize > 0 {
            idleDeadline = now &+ interval
            return
        }
        if Int(keepAliveProbes) >= limit {
            sendReset(sendNext, &shared, ip: &ip, now: now)
            return close(SocketError.timedOut)
        }
        keepAliveProbes &+= 1
        shared.counters.keepAliveProbes &+= 1
        // An old number makes the peer answer. RFC 1122, section 4.2.3.6.
        sendAcknowledgement(&shared, ip: &ip, now: now, sequence: sendNext - 1)
        idleDeadline = now &+ interval
    }

    mutating func startKeepAlive(_ shared: inout TCPShared, now: UInt64) {
        guard flags.contains(.keepAlive) else { return }
        lastReceived = now
        idleDeadline = now &+ (options.keepAliveIdle != 0 ? options.keepAliveIdle : shared.configuration.keepAliveIdle)
        armTimer(&shared)
    }
}
