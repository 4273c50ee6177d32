import SystemPackage

// The data path of the network stack's sockets: a push goes through the stack at once, its frame to the device at the latest when the
// application waits; a pop takes what has come, or waits in line for the stack's event.

extension Core {
    /// The most bytes of a push that the stack is given at once. What it has taken cannot be called back, so a longer push completes only when
    /// the stack's send buffer has had room for all of it.
    private static var sendUnit: Int { 65_536 }

    @inline(__always)
    func streamSocket(_ index: UInt32) -> TCPSocket {
        TCPSocket(slot: queues[index].stackSlot, generation: queues[index].stackGeneration)
    }

    @inline(__always)
    func datagramSocket(_ index: UInt32) -> UDPSocket {
        UDPSocket(slot: queues[index].stackSlot, generation: queues[index].stackGeneration)
    }

    // MARK: - Pushing

    /// Whether no completion waits whose answer could go together with what is pushed now: then the peer need not wait until the program has
    /// done what else it does before its next wait. How many of the tasks that run wait for their turn is not known here.
    @inline(__always)
    private var isLastAnswer: Bool { completions.nextNew == nil && !isRunningTasks }

    /// A push on a connection: complete at once where the send buffer has room.
    @inline(__always)
    mutating func pushNetworkStream(_ index: UInt32, _ slot: UInt32, _ segments: SegmentList) {
        guard queues[index].writers.isEmpty, segments.byteCount <= Self.sendUnit else { return queueNetworkPush(index, slot) }
        let isLast = isLastAnswer
        hasPushed = true
        switch network.stack.tcp.send(streamSocket(index), segments, ip: &network.stack.ip, now: turnTime) {
        case .taken:
            operations[slot].segments = .empty
            complete(slot)
        case .full: queues[index].writers.append(slot, in: operations)
        case .failed(let errno): complete(slot, errno: pushError(index, errno))
        }
        network.transmitBatch(atOnce: isLast)
    }

    @inline(never)
    private mutating func queueNetworkPush(_ index: UInt32, _ slot: UInt32) {
        let isFirst = queues[index].writers.isEmpty
        queues[index].writers.append(slot, in: operations)
        if isFirst { sendNetworkWriters(index, now: readTime()) }
    }

    /// Goes on with the pushes of a socket, in line, for as long as the stack has room.
    mutating func sendNetworkWriters(_ index: UInt32, now: UInt64) {
        while !queues[index].writers.isEmpty {
            let slot = queues[index].writers.first
            guard operations[slot].kind == .push else { return }
            guard queues[index].kind == .networkStream ? sendStream(index, slot, now: now) : sendDatagram(index, slot, now: now) else { return }
        }
        finishNetworkShutdown(index)
    }

    /// Gives the stack what is left of a push, a part at a time; true where it completed.
    private mutating func sendStream(_ index: UInt32, _ slot: UInt32, now: UInt64) -> Bool {
        let total = operations[slot].segments.byteCount
        while operations[slot].progress < total {
            let isWhole = operations[slot].progress == 0 && total <= Self.sendUnit
            let count = min(Self.sendUnit, total - operations[slot].progress)
            let part = isWhole
                ? operations[slot].segments : operations[slot].segments.slice(from: operations[slot].progress, count: count, in: heap.reference)
            guard let part else {
                completeWriter(index, slot, errno: Errno.noMemory.rawValue)
                return true
            }
            switch network.stack.tcp.send(streamSocket(index), part, ip: &network.stack.ip, now: now) {
            case .taken:
                if isWhole { operations[slot].segments = .empty }
                operations[slot].progress &+= count
            case .full:
                if !isWhole { part.releaseAll() }
                return false
            case .failed(let errno):
                // All of it stays with the operation, so that a Swift caller gets it back.
                if !isWhole { part.releaseAll() }
                completeWriter(index, slot, errno: pushError(index, errno))
                return true
            }
            if network.stack.ip.outgoing.isFull { network.transmit() }
        }
        completeWriter(index, slot)
        return true
    }

    /// What a push to a connection that has ended says: once what ended it, then EPIPE, as send(2) does.
    private mutating func pushError(_ index: UInt32, _ errno: Int32) -> Int32 {
        let isKnown = queues[index].flags.contains(.hangup)
        queues[index].flags.insert(.hangup)
        return isKnown ? Errno.brokenPipe.rawValue : errno
    }

    /// A datagram: complete when it is on its way to the device, or waits there for its neighbour's address.
    @inline(always)
    mutating func pushNetworkDatagram(_ index: UInt32, _ slot: UInt32, _ segments: SegmentList, to address: SocketAddress?) {
        if queues[index].state == .unbound, let errno = bindUnbound(index) { return complete(slot, errno: errno) }
        guard queues[index].writers.isEmpty else { return queues[index].writers.append(slot, in: operations) }
        // IP wants no exact time, and reading the clock is a good part of what a datagram costs.
        guard let errno = trySend(index, segments, to: address, now: turnTime) else {
            queues[index].writers.append(slot, in: operations)
            return scheduler.application.wake(slot)
        }
        let isLast = isLastAnswer
        if errno == 0 { operations[slot].segments = .empty }
        complete(slot, errno: errno)
        network.transmitBatch(atOnce: isLast)
    }

    /// True where the first of a UDP socket's pushes completed.
    private mutating func sendDatagram(_ index: UInt32, _ slot: UInt32, now: UInt64) -> Bool {
        let target = operations[slot].flags.contains(.hasAddress) ? operations[slot].address : nil
        guard let errno = trySend(index, operations[slot].segments, to: target, now: now) else {
            // The device is full: its task runs again with the next turn.
            scheduler.application.wake(slot)
            return false
        }
        if errno == 0 { operations[slot].segments = .empty }
        completeWriter(index, slot, errno: errno)
        return true
    }

    /// One try to send a datagram: an errno or 0, nil where there is no room. What was sent is the stack's.
    @inline(always)
    private mutating func trySend(_ index: UInt32, _ segments: SegmentList, to target: SocketAddress?, now: UInt64) -> Int32? {
        if network.stack.ip.outgoing.isFull { network.transmit() }
        do throws(DemikernelError) {
            try network.stack.udp.send(datagramSocket(index), segments, to: target, ip: &network.stack.ip, now: now)
        } catch {
            return error.errno == .wouldBlock || error.errno == .noBufferSpace ? nil : error.errno.rawValue
        }
        return 0
    }

    // MARK: - Popping and accepting

    /// A pop or an accept: complete at once where something has come.
    @inline(always)
    mutating func submitNetworkReader(_ index: UInt32, _ slot: UInt32) {
        if queues[index].readers.isEmpty, let errno = tryNetworkReader(index, slot, now: turnTime) { return complete(slot, errno: errno) }
        let isFirst = queues[index].readers.isEmpty
        queues[index].readers.append(slot, in: operations)
        if isFirst, operations[slot].limit == 0 { setReaderWaits(index, true) }
    }

    /// One try for a reader: an errno or 0 where it is done, nil where nothing has come.
    ///
    /// `readable` is off from when the stack had nothing left until its next event for the socket: there is no need to ask it in between.
    @inline(always)
    mutating func tryNetworkReader(_ index: UInt32, _ slot: UInt32, now: UInt64) -> Int32? {
        guard queues[index].flags.contains(.readable) else { return nil }
        return switch queues[index].kind {
        case .networkStream: receiveNetworkStream(index, slot, now: now)
        case .networkDatagram: receiveNetworkDatagram(index, slot)
        default: acceptNetwork(index, slot)
        }
    }

    @inline(always)
    private mutating func receiveNetworkStream(_ index: UInt32, _ slot: UInt32, now: UInt64) -> Int32? {
        let limit = Int(operations[slot].limit)
        let isSingle = operations[slot].flags.contains(.single)
        switch network.stack.tcp.receive(streamSocket(index), limit: limit, isSingle: isSingle, ip: &network.stack.ip, now: now) {
        case .segments(let segments):
            operations[slot].segments = segments
            if network.stack.tcp.isDrained(streamSocket(index)) { queues[index].flags.remove(.readable) }
            return 0
        case .empty:
            queues[index].flags.remove(.readable)
            return nil
        // A completed pop without bytes, and so with each further pop.
        case .endOfStream: return 0
        case .failed(let errno): return errno
        }
    }

    @inline(always)
    private mutating func receiveNetworkDatagram(_ index: UInt32, _ slot: UInt32) -> Int32? {
        let reading = network.stack.udp.read(datagramSocket(index))
        if !reading.hasMore { queues[index].flags.remove(.readable) }
        guard reading.errno == 0 else { return reading.errno }
        var segment = reading.segment
        guard !segment.isNull else { return nil }
        // A pop with a limit takes the datagram's beginning; the rest is lost, as with recv(2).
        let limit = operations[slot].limit
        if limit > 0 && segment.count > limit { segment.trimLast(segment.byteCount - Int(limit)) }
        operations[slot].segments = .single(segment)
        operations[slot].setAddress(SocketAddress(reading.source, port: reading.port))
        return 0
    }

    /// Accepts a connection for a listener's first reader.
    @inline(never)
    private mutating func acceptNetwork(_ index: UInt32, _ slot: UInt32) -> Int32? {
        // The connection stays in the listener's queue; the application may close something and accept again.
        guard let accepted = queues.insert(.networkStream, family: queues[index].family) else { return Errno.tooManyOpenFiles.rawValue }
        guard let socket = network.stack.tcp.accept(streamSocket(index), tag: accepted) else {
            queues.remove(accepted)
            queues[index].flags.remove(.readable)
            return nil
        }
        adopt(socket, as: accepted)
        network[accepted] = NetworkSocket(queues[index].family)
        queues[accepted].state = .connected
        operations[slot].accepted = accepted
        operations[slot].setAddress(network.stack.tcp.remoteAddress(socket) ?? .any(queues[index].family, port: 0))
        return 0
    }
}
