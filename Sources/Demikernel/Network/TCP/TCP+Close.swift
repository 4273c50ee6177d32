// The end of connections: RFC 9293, sections 3.6 and 3.10.4 to 3.10.5.

extension TCP {
    /// The application sends no more: a FIN follows what it has sent. Nothing where that has been said, or there is no connection.
    package mutating func shutdownSend(_ socket: TCPSocket, ip: inout NetworkLayer, now: UInt64) {
        guard isConnection(socket) else { return }
        connections[unchecked: socket.slot].shutdownSend(&shared, ip: &ip, now: now)
    }

    /// The application receives no more: what comes is acknowledged and dropped.
    package mutating func shutdownReceive(_ socket: TCPSocket) {
        guard isConnection(socket) else { return }
        connections[unchecked: socket.slot].flags.insert(.receiveIsShut)
        connections[unchecked: socket.slot].dropUnread()
    }

    /// Gives a handle up. The connection goes on by itself until everything is sent and both sides have closed; with `lingerReset`, or where
    /// data is unread (RFC 2525, section 2.17), it is reset.
    package mutating func close(_ socket: TCPSocket, lingerReset: Bool, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        if socket.isListener { return closeListener(socket, ip: &ip, events: &events, now: now) }
        guard isConnection(socket) else { return }
        let slot = socket.slot
        events.forget(tag: connections[unchecked: slot].tag)
        connections[unchecked: slot].tag = .max
        connections[unchecked: slot].flags.insert(.isOrphan)
        connections[unchecked: slot].flags.remove(.readerWaits)
        if connections[unchecked: slot].flags.contains(.isDetached) { return free(slot) }
        connections[unchecked: slot].abandon(lingerReset: lingerReset, &shared, ip: &ip, now: now)
        if !connections[unchecked: slot].flags.isDisjoint(with: .wantsSettling) { settle(slot, ip: &ip, events: &events, now: now) }
    }

    /// Whether the peer of a connection that was closed has yet to acknowledge data or the end of the stream. Complexity: O(connections).
    package var hasUnfinished: Bool { firstUnfinished(from: 0) != nil }

    private func firstUnfinished(from slot: UInt32) -> UInt32? {
        var next = slot
        while let slot = connections.firstLive(from: next) {
            if connections[unchecked: slot].isUnfinished { return slot }
            next = slot + 1
        }
        return nil
    }

    /// Resets those connections: nobody will be here to send again what they have. Complexity: O(connections).
    package mutating func resetUnfinished(ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        var next: UInt32 = 0
        while let slot = firstUnfinished(from: next) {
            connections[unchecked: slot].abandon(lingerReset: true, &shared, ip: &ip, now: now)
            if !connections[unchecked: slot].flags.isDisjoint(with: .wantsSettling) { settle(slot, ip: &ip, events: &events, now: now) }
            next = slot + 1
        }
    }

    func isConnection(_ socket: TCPSocket) -> Bool {
        !socket.isListener && connections.contains(.init(slot: socket.slot, generation: socket.generation))
            && !connections[unchecked: socket.slot].flags.contains(.isOrphan)
    }

    // MARK: - What a segment or a timer left for the tables

    /// Puts the connection where its last step wants it.
    @inline(never)
    mutating func settle(_ slot: UInt32, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        let flags = connections[unchecked: slot].flags
        if flags.contains(.isEstablishedNow) {
            connections[unchecked: slot].flags.remove(.isEstablishedNow)
            if flags.contains(.isQueued) { offer(slot, events: &events) }
        }
        if flags.contains(.isClosedNow) {
            detach(slot, events: &events)
        } else if flags.contains(.isTimeWaitNow) {
            wait(slot, now: now)
            detach(slot, events: &events)
        }
    }

    /// Makes the connection's TIME_WAIT entry. Where there is no room the oldest ends early.
    private mutating func wait(_ slot: UInt32, now: UInt64) {
        guard shared.configuration.timeWait > 0, shared.configuration.timeWaitMaximum > 0 else { return }
        if timeWaits.isFull, let oldest = timeWaits.oldest {
            shared.counters.timeWaitOverflows &+= 1
            endTimeWait(oldest)
        }
        let tuple = connections[unchecked: slot].tuple
        let hash = code(tuple)
        let removed = table.remove(hash, slot: slot)
        assert(removed, "a connection that is not detached is in the table")
        connections[unchecked: slot].flags.remove(.isInTable)
        let made = connections[unchecked: slot].timeWaitEntry(in: &timeWaits, deadline: now &+ shared.configuration.timeWait, now: now)
        guard let made else { return ports.connectionClosed(tuple.localPort) }
        guard table.insert(hash, slot: made | Self.timeWaitBit) else {
            timeWaits.remove(made)
            return ports.connectionClosed(tuple.localPort)
        }
    }

    mutating func endTimeWait(_ slot: UInt32) {
        let tuple = timeWaits[slot].tuple
        let removed = table.remove(code(tuple), slot: slot | Self.timeWaitBit)
        assert(removed, "an entry is in the table")
        timeWaits.remove(slot)
        ports.connectionClosed(tuple.localPort)
    }

    /// Takes a connection that has ended out of the tables. What is unread, and the errno, stay until the application closes its handle.
    mutating func detach(_ slot: UInt32, events: inout SocketEvents) {
        let flags = connections[unchecked: slot].flags
        guard !flags.contains(.isDetached) else { return }
        if flags.contains(.isInTable) {
            let tuple = connections[unchecked: slot].tuple
            let removed = table.remove(code(tuple), slot: slot)
            assert(removed, "a connection that is not detached is in the table")
            ports.connectionClosed(tuple.localPort)
        }
        if flags.contains(.isQueued) { unqueue(slot) }
        connections[unchecked: slot].flags.insert(.isDetached)
        connections[unchecked: slot].flags.remove([.isClosedNow, .isTimeWaitNow, .isEstablishedNow, .isInTable])
        connections[unchecked: slot].stopTimers(&shared)
        connections[unchecked: slot].releaseSendBuffers()
        // One that nobody has accepted is nobody's.
        if flags.contains(.isOrphan) || flags.contains(.isQueued) { return free(slot) }
        let tag = connections[unchecked: slot].tag
        if connections[unchecked: slot].error != 0 {
            shared.counters.connectionsFailed &+= 1
            events.append([.failed, .readable, .writable], tag: tag)
        } else {
            events.append([.closed, .readable], tag: tag)
        }
    }

    /// The slot's end; where the connection is in the list of pending ones, that follows at the next flush.
    mutating func free(_ slot: UInt32) {
        connections[unchecked: slot].flags.insert([.isOrphan, .isDetached])
        connections[unchecked: slot].releaseBuffers()
        guard connections[unchecked: slot].nextPending == TCPShared.notPending else { return }
        _ = connections.remove(unchecked: slot)
    }
}

extension TCPConnection {
    mutating func shutdownSend(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        guard !flags.contains(.sendIsShut) else { return }
        switch state {
        case .established: state = .finWait1
        case .closeWait: state = .lastAcknowledgement
        case .synSent, .synReceived: break  // The FIN follows the handshake.
        default: return
        }
        flags.insert(.sendIsShut)
        transmit(&shared, ip: &ip, now: now)
    }

    /// Closed by the application, with data or a FIN that the peer has not acknowledged.
    var isUnfinished: Bool {
        switch state {
        case .synReceived, .finWait1, .closing, .lastAcknowledgement: flags.contains(.isOrphan) && !flags.contains(.isDetached)
        default: false
        }
    }

    /// The application has closed its handle.
    mutating func abandon(lingerReset: Bool, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        switch state {
        case .synSent: return close(0)
        case .timeWait, .closed: return
        default: break
        }
        if lingerReset || unreadBytes > 0 {
            sendReset(sendNext, &shared, ip: &ip, now: now)
            shared.counters.connectionsReset &+= 1
            return close(0)
        }
        dropUnread()
        shutdownSend(&shared, ip: &ip, now: now)
        if state == .finWait2 { startFinWait2(&shared, now: now) }
    }

    /// The TIME_WAIT entry of this connection; nil where the table is full.
    mutating func timeWaitEntry(in entries: inout TimeWaitTable, deadline: UInt64, now: UInt64) -> UInt32? {
        let stamps = flags.contains(.timestamps) ? (timestampRecent, timestampOffset, TCPShared.timestampClock(now) &+ timestampOffset) : nil
        return entries.insert(
            tuple, sendNext: sendNext, receiveNext: receiveNext, timestamps: stamps, trafficClass: options.trafficClass, deadline: deadline)
    }

    /// Forgets what was received and not read.
    mutating func dropUnread() {
        while !received.isEmpty { received.removeFirst().release() }
        received.free()
        reorder.releaseAll()
        reorder = ReorderQueue()
        unreadBytes = 0
        heldBytes = 0
        flags.remove(.tailIsOurs)
    }

    mutating func releaseSendBuffers() {
        queue.free()
        scoreboard.free()
        reorder.releaseAll()
        reorder = ReorderQueue()
    }

    /// Gives everything back to the heap.
    mutating func releaseBuffers() {
        releaseSendBuffers()
        dropUnread()
    }
}

/// The errnos that connections end with.
enum SocketError {
    static var brokenPipe: Int32 { 32 }
    static var badDescriptor: Int32 { 9 }
    static var noMemory: Int32 { 12 }
    static var notConnected: Int32 { 107 }
    static var reset: Int32 { 104 }
    static var timedOut: Int32 { 110 }
    static var refused: Int32 { 111 }
}
