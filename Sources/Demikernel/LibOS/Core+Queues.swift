import SystemPackage

// push, pop and queue: the calls that every kind of queue answers, and memory queues, which need no device.

extension Core {
    /// A memory queue: bounded, first in, first out. Throws EMFILE.
    package mutating func queue() throws(DemikernelError) -> UInt32 {
        submissionTurn()
        guard let index = queues.insert(.memory) else {
            throw DemikernelError(.tooManyOpenFiles, "every queue descriptor is in use: close some, or raise descriptors.capacity")
        }
        queues[index].ring = SegmentRing(limit: configuration.queues.memoryQueueCapacity)
        return index
    }

    // MARK: - push

    /// Submits a push: the references that `segments` carries are the operation's from here on, the caller's where this throws.
    ///
    /// Throws EBADF; EINVAL for no bytes; ENOTCONN, EINPROGRESS; EPIPE after a shutdown; EOPNOTSUPP for an address where none belongs;
    /// EMSGSIZE for a datagram of over 65,507 bytes; ENOMEM where too many operations are pending.
    @inline(__always)
    package mutating func push(
        _ descriptor: QueueDescriptor, _ segments: SegmentList, to address: SocketAddress? = nil
    ) throws(DemikernelError) -> UInt32 {
        submissionTurn()
        guard let index = queues.index(of: descriptor) else { throw .badDescriptor }
        guard segments.byteCount > 0 else { throw DemikernelError(.invalidArgument, "there is nothing to push") }
        switch queues[index].kind {
        case .memory:
            guard address == nil else { throw .noAddressHere }
            let slot = try begin(.push, on: index, segments)
            pushMemory(index, slot)
            return slot
        case .kernelStream, .networkStream:
            guard address == nil else { throw .noAddressHere }
            guard queues[index].state == .connected else { throw .notConnected(queues[index].state) }
            guard !queues[index].flags.contains(.sendShutdown) else {
                throw DemikernelError(.brokenPipe, "the socket is shut down for sending")
            }
            let slot = try begin(.push, on: index, segments)
            if queues[index].kind == .networkStream { pushNetworkStream(index, slot, segments) } else { submitStream(index, slot) }
            return slot
        case .kernelDatagram, .networkDatagram: return try pushDatagram(index, segments, to: address)
        case .kernelListener, .networkListener, .free: throw .notConnected(.listening)
        case .kernelFile:
            guard address == nil else { throw .noAddressHere }
            return try pushFile(index, segments)
        }
    }

    private mutating func pushDatagram(
        _ index: UInt32, _ segments: SegmentList, to address: SocketAddress?
    ) throws(DemikernelError) -> UInt32 {
        guard segments.byteCount <= 65_507 else { throw DemikernelError(.messageTooLong, "the datagram is larger than 65,507 bytes") }
        guard segments.count <= 16 else { throw DemikernelError(.messageTooLong, "a datagram has 16 segments at most") }
        if let address {
            guard address.family == queues[index].family else {
                throw DemikernelError(.addressFamilyNotSupported, "the address is of another family than the socket")
            }
        } else if queues[index].state != .connected {
            throw DemikernelError(.addressRequired, "the socket is not connected and no address is given")
        }
        let slot = try begin(.push, on: index, segments)
        if let address { operations[slot].setAddress(address) }
        if queues[index].kind == .networkDatagram {
            pushNetworkDatagram(index, slot, segments, to: address)
            return slot
        }
        if queues[index].state == .unbound { queues[index].state = .bound }
        submitWriter(index, slot)
        return slot
    }

    // MARK: - pop

    /// Submits a pop of at most `limit` bytes (0: as many as come), of a stream in one segment where `isSingle`. Throws EBADF, ENOTCONN,
    /// EINPROGRESS, EINVAL, ENOMEM.
    @inline(__always)
    package mutating func pop(_ descriptor: QueueDescriptor, limit: Int = 0, isSingle: Bool = false) throws(DemikernelError) -> UInt32 {
        submissionTurn()
        guard let index = queues.index(of: descriptor) else { throw .badDescriptor }
        guard limit >= 0 else { throw DemikernelError(.invalidArgument, "a pop's limit is not negative") }
        let limit = UInt32(clamping: limit)
        switch queues[index].kind {
        case .memory:
            let slot = try begin(.pop, on: index)
            popMemory(index, slot)
            return slot
        case .kernelStream, .networkStream:
            guard queues[index].state == .connected else { throw .notConnected(queues[index].state) }
        case .kernelDatagram, .networkDatagram:
            guard queues[index].state != .unbound else { throw DemikernelError(.socketNotConnected, "the socket is neither bound nor connected") }
        case .kernelListener, .networkListener, .free: throw .notConnected(.listening)
        case .kernelFile: return try popFile(index, limit: limit)
        }
        let slot = try begin(.pop, on: index)
        operations[slot].limit = limit
        if isSingle { operations[slot].flags.insert(.single) }
        if queues[index].kind.isNetwork { submitNetworkReader(index, slot) } else { submitReader(index, slot) }
        return slot
    }

    // MARK: - Memory queues

    /// A push is complete when it is stored; where the queue is full, it waits for a pop.
    @inline(__always)
    private mutating func pushMemory(_ index: UInt32, _ slot: UInt32) {
        let segments = operations[slot].segments
        if !queues[index].readers.isEmpty {
            // A waiting pop takes it over: the queue is empty.
            let reader = queues[index].readers.first
            operations[reader].segments = segments
            completeReader(index, reader)
        } else if !queues[index].ring.isFull {
            queues[index].ring.append(segments)
        } else {
            queues[index].writers.append(slot, in: operations)
            return
        }
        operations[slot].segments = .empty
        complete(slot)
    }

    @inline(__always)
    private mutating func popMemory(_ index: UInt32, _ slot: UInt32) {
        guard !queues[index].ring.isEmpty else {
            queues[index].readers.append(slot, in: operations)
            return
        }
        operations[slot].segments = queues[index].ring.popFirst()
        complete(slot)
        if !queues[index].writers.isEmpty { storeFirstWriter(index) }
    }

    /// There is room: the push that has waited longest is stored.
    private mutating func storeFirstWriter(_ index: UInt32) {
        let writer = queues[index].writers.first
        queues[index].ring.append(operations[writer].segments)
        operations[writer].segments = .empty
        completeWriter(index, writer)
    }
}

extension DemikernelError {
    static var noAddressHere: DemikernelError { DemikernelError(.notSupportedOnSocket, "only a UDP socket pushes to an address") }

    static func notConnected(_ state: SocketState) -> DemikernelError {
        state == .connecting
            ? DemikernelError(.nowInProgress, "the socket is still connecting") : DemikernelError(.socketNotConnected, "the socket is not connected")
    }
}
