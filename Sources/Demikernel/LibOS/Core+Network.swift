import SystemPackage

// The turns of a libOS with a network stack of its own: device, stack, completions, device; and its sleep.

extension Core {
    /// One poll of the device and the stack: what waits is transmitted, one burst is received and answered, timers that are due run, and the
    /// operations that all this has made possible complete, in the order in which it came.
    mutating func pollNetwork(now: UInt64) {
        if catnap.files.inFlight > 0 { reapFiles() }
        network.transmit()
        _ = network.receive()
        pollStack(now: now)
    }

    /// A turn where the device's fast path is all that is ready: as ``idleTurn()``, but that the clock is read only for frames that have come, or
    /// once in several turns: frames are seen the sooner without, by up to the 15 ns that a reading takes; timers ring by those turns later.
    @inline(always)
    mutating func networkTurn() {
        if catnap.files.inFlight > 0 { reapFiles() }
        network.transmit()
        let hasFrames = network.receive()
        if hasFrames || hasPushed || turnsWithoutTime >= turnsWithoutTimeMaximum || network.stack.isPressed {
            turnsWithoutTime = 0
            let now = readTime()
            pollStack(now: now)
            scheduler.fastPathWasPolled()
            mailboxTurn()
            fireTimers(now: now)
            runReady()
            noteProgress(now: now)
        } else {
            turnsWithoutTime &+= 1
            scheduler.fastPathWasPolled()
            mailboxTurn()
            runReady()
        }
    }

    /// Passes the burst that has come to the stack, and what follows from it and from the time.
    @inline(always)
    private mutating func pollStack(now: UInt64) {
        network.maintain(now: now)
        network.takeBurst(now: now)
        network.stack.poll(now: now)
        takeNetworkEvents(now: now)
        network.transmit()
    }

    /// Completes what the stack has news of.
    @inline(__always)
    mutating func takeNetworkEvents(now: UInt64) {
        while let event = network.stack.events.popFirst() { take(event, now: now) }
    }

    private mutating func take(_ event: SocketEvent, now: UInt64) {
        let index = event.tag
        if event.kinds.contains(.delivered) {
            deliver(network.stack.events.takeDelivery(tag: index), index)
            if event.kinds == .delivered { return }
        }
        guard index < queues.end, queues[index].kind.isNetwork else { return }
        queues[index].flags.insert(.readable)
        if queues[index].state == .connecting { finishNetworkConnect(index, event.kinds) }
        pollNetworkSocket(index, now: now)
    }

    /// Completes the reader that something was delivered to: the first, which has waited since ``noteReader(_:)``.
    @inline(__always)
    private mutating func deliver(_ delivery: SocketDelivery, _ index: UInt32) {
        let slot = queues[index].readers.first
        operations[slot].segments = .single(delivery.segment)
        if queues[index].kind == .networkDatagram { operations[slot].setAddress(SocketAddress(delivery.source, port: delivery.port)) }
        completeReader(index, slot)
        if !queues[index].readers.isEmpty { noteReader(index) }
    }

    /// Has the stack deliver to the first reader of a connection or a UDP socket, which has found nothing, what comes next; or not, where there is
    /// none, or one that may not take all of it. After each change of the first reader.
    mutating func noteReader(_ index: UInt32) {
        setReaderWaits(index, !queues[index].readers.isEmpty && operations[queues[index].readers.first].limit == 0)
    }

    @inline(__always)
    mutating func setReaderWaits(_ index: UInt32, _ waits: Bool) {
        switch queues[index].kind {
        case .networkStream: network.stack.tcp.setReaderWaits(streamSocket(index), waits)
        case .networkDatagram: network.stack.udp.setReaderWaits(datagramSocket(index), waits)
        default: break
        }
    }

    /// Tries what a socket's first reader and first writer are blocked on, and what stands in line behind them.
    mutating func pollNetworkSocket(_ index: UInt32, now: UInt64) {
        guard queues[index].state != .connecting else { return }
        if !queues[index].writers.isEmpty { sendNetworkWriters(index, now: now) }
        while !queues[index].readers.isEmpty {
            let slot = queues[index].readers.first
            guard let errno = tryNetworkReader(index, slot, now: now) else { break }
            completeReader(index, slot, errno: errno)
        }
        noteReader(index)
    }

    /// The same now. Out of line: the clock's registers would cost every poll of a task of another kind.
    @inline(never)
    mutating func pollNetworkSocket(_ index: UInt32) { pollNetworkSocket(index, now: readTime()) }

    // MARK: - Sleeping

    /// Gets the device ready for a sleep until `limit` at the latest, which it may bring forward. False where there is no time to sleep.
    mutating func prepareNetworkToSleep(until limit: inout UInt64, now: UInt64) -> Bool {
        guard let latest = network.prepareToSleep(now: now) else { return false }
        limit = min(limit, latest)
        return true
    }

    // MARK: - The end

    /// After the last queue was closed: connections get `network.linger` to bring their peers what was pushed, and the end of the stream, as the
    /// kernel's would although the process has gone. What is left then is reset, so that no peer waits for it.
    mutating func lingerNetwork() {
        // Where time is set from outside, it does not pass here.
        let now = clock.now()
        let deadline = clock.source == .manual ? now : Clock.deadline(after: configuration.network.linger.nanosecondsClamped, from: now)
        while clock.now() < deadline, network.isConnected, network.stack.tcp.hasUnfinished {
            if network.canSleep { sleep(until: deadline) } else { idleTurn() }
        }
        network.stack.tcp.resetUnfinished(ip: &network.stack.ip, events: &network.stack.events, now: readTime())
        network.transmit()
    }
}
