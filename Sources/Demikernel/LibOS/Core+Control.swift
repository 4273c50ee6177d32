import CDemikernelShims
import SystemPackage

// What a libOS says of itself when the control socket asks: on its own thread, between two turns, a bounded piece at a time.

extension Core {
    /// The most sockets of one answer: a few microseconds.
    private static var pageLength: Int { 128 }
    /// The most places of a table that one answer looks at.
    private static var pageSteps: Int { 4_096 }

    @inline(never)
    mutating func answer(_ question: ControlQuestion) -> ControlAnswer {
        switch question {
        case .status: return .status(controlStatus())
        case .sockets(let cursor): return .sockets(controlSockets(from: cursor))
        case .capture(nil):
            if network.isPresent { network.tap(nil) }
            return .done
        case .capture(let queue?):
            guard network.isPresent else {
                return .refused(DemikernelError(.notSupported, "its frames are the kernel's: capture them with tcpdump"))
            }
            guard !network.isTapped else { return .refused(DemikernelError(.resourceBusy, "somebody captures its frames already")) }
            network.tap(queue)
            return .done
        }
    }

    private mutating func controlStatus() -> ControlStatus {
        var status = ControlStatus(
            libOS: configuration.libOS, queues: queues.count, operations: operations.count, completed: completedCount, heap: heap.summary)
        guard network.isPresent else { return status }
        status.network = ControlStatus.Network(
            capabilities: network.capabilities, isConnected: network.isConnected, device: network.deviceStatistics,
            addresses: network.stack.ip.interfaceAddresses, ip: network.stack.ip.counters, udp: network.stack.udp.counters,
            tcp: network.stack.tcp.counters, connections: network.stack.tcp.connectionCount, timeWaits: network.stack.tcp.timeWaitCount,
            udpSockets: network.stack.udp.socketCount, isCaptured: network.isTapped)
        return status
    }

    // MARK: - Sockets

    private mutating func controlSockets(from cursor: ControlCursor) -> ControlSocketPage {
        var page = ControlSocketPage()
        page.next = cursor
        var steps = 0
        while let place = page.next, page.sockets.count < Self.pageLength, steps < Self.pageSteps {
            steps += 1
            switch place.stage {
            case .queues: page.next = addQueue(place.index, to: &page)
            case .connections: page.next = addConnection(place.index, to: &page)
            case .timeWaits: page.next = addTimeWait(place.index, to: &page)
            }
        }
        return page
    }

    private mutating func addQueue(_ index: UInt32, to page: inout ControlSocketPage) -> ControlCursor? {
        guard index < queues.end else { return network.isPresent ? ControlCursor(stage: .connections) : nil }
        switch queues[index].kind {
        case .networkStream, .networkListener: page.sockets.append(networkStream(index))
        case .networkDatagram: page.sockets.append(networkDatagram(index))
        case .kernelStream, .kernelListener, .kernelDatagram: page.sockets.append(kernelSocket(index))
        case .free, .memory, .kernelFile: break
        }
        return ControlCursor(stage: .queues, index: index + 1)
    }

    private mutating func networkStream(_ index: UInt32) -> ControlSocket {
        var socket = ControlSocket(.tcp)
        socket.descriptor = queues.descriptor(of: index).rawValue
        let handle = streamSocket(index)
        if queues[index].state == .unbound || queues[index].state == .bound {
            // The stack knows nothing of it yet.
            socket.local = network[index].local
            socket.tcp = TCPInformation()
            return socket
        }
        socket.local = network.stack.tcp.localAddress(handle)
        socket.remote = network.stack.tcp.remoteAddress(handle)
        socket.take(network.stack.tcp.information(handle))
        // What `listen` was told: the stack lets one more wait.
        if let (waiting, backlog) = network.stack.tcp.acceptQueue(handle) { (socket.receiveQueue, socket.sendQueue) = (waiting, backlog - 1) }
        return socket
    }

    private mutating func networkDatagram(_ index: UInt32) -> ControlSocket {
        var socket = ControlSocket(.udp)
        socket.descriptor = queues.descriptor(of: index).rawValue
        let handle = datagramSocket(index)
        socket.local = network.stack.udp.localAddress(handle) ?? network[index].local
        socket.remote = network.stack.udp.remoteAddress(handle)
        socket.receiveQueue = network.stack.udp.waitingBytes(handle)
        socket.drops = network.stack.udp.drops(handle)
        return socket
    }

    private mutating func addConnection(_ slot: UInt32, to page: inout ControlSocketPage) -> ControlCursor? {
        guard let live = network.stack.tcp.connections.firstLive(from: slot) else { return ControlCursor(stage: .timeWaits) }
        if let (local, remote, information) = network.stack.tcp.connectionWithoutSocket(live) {
            var socket = ControlSocket(.tcp)
            socket.local = local
            socket.remote = remote
            socket.take(information)
            page.sockets.append(socket)
        }
        return ControlCursor(stage: .connections, index: live + 1)
    }

    private mutating func addTimeWait(_ slot: UInt32, to page: inout ControlSocketPage) -> ControlCursor? {
        guard let live = network.stack.tcp.timeWaits.firstLive(from: slot) else { return nil }
        let tuple = network.stack.tcp.timeWaits[live].tuple
        var socket = ControlSocket(.tcp)
        socket.local = SocketAddress(tuple.local, port: tuple.localPort)
        socket.remote = SocketAddress(tuple.remote, port: tuple.remotePort)
        var information = TCPInformation()
        information.state = .timeWait
        socket.tcp = information
        page.sockets.append(socket)
        return ControlCursor(stage: .timeWaits, index: live + 1)
    }

    /// What the kernel says of a socket of its own: four system calls.
    private mutating func kernelSocket(_ index: UInt32) -> ControlSocket {
        let kind = queues[index].kind
        let file = queues[index].fileDescriptor
        let descriptor = queues.descriptor(of: index)
        var socket = ControlSocket(kind == .kernelDatagram ? .udp : .tcp)
        socket.isKernel = true
        socket.descriptor = descriptor.rawValue
        socket.local = try? localAddress(descriptor)
        socket.remote = try? remoteAddress(descriptor)
        guard kind != .kernelDatagram else {
            socket.receiveQueue = Int(dk_socket_queued(file, UInt(SIOCINQ)))
            socket.sendQueue = Int(dk_socket_queued(file, UInt(SIOCOUTQ)))
            return socket
        }
        var kernel = dk_tcp_information()
        guard unsafe dk_tcp_information_get(file, &kernel) == 0 else { return socket }
        socket.tcp = TCPInformation(kernel)
        if socket.tcp?.state == .listen {
            (socket.receiveQueue, socket.sendQueue) = (Int(kernel.unacknowledged), Int(kernel.acknowledged))
        } else {
            socket.receiveQueue = Int(dk_socket_queued(file, UInt(SIOCINQ)))
            socket.sendQueue = Int(dk_socket_queued(file, UInt(SIOCOUTQ)))
        }
        return socket
    }
}

extension ControlSocket {
    fileprivate mutating func take(_ information: TCPInformation) {
        tcp = information
        receiveQueue = information.bytesUnread
        sendQueue = information.bytesInFlight + information.bytesUnsent
    }
}

extension TCPInformation {
    /// Linux numbers states as BSD does: net/tcp_states.h.
    private static var kernelStates: [TCPState] {
        [.closed, .established, .synSent, .synReceived, .finWait1, .finWait2, .timeWait, .closed, .closeWait, .lastAcknowledgement, .listen, .closing, .synReceived]
    }

    fileprivate init(_ kernel: dk_tcp_information) {
        self.init()
        let states = Self.kernelStates
        state = Int(kernel.state) < states.count ? states[Int(kernel.state)] : .closed
        smoothedRoundTrip = UInt64(kernel.round_trip) * 1000
        roundTripVariation = UInt64(kernel.variation) * 1000
        minimumRoundTrip = kernel.minimum_round_trip == .max ? 0 : UInt64(kernel.minimum_round_trip) * 1000
        retransmissionTimeout = UInt64(kernel.timeout) * 1000
        maximumSegmentSize = Int(kernel.segment)
        // The kernel counts segments.
        congestionWindow = Int(kernel.window) * Int(kernel.segment)
        slowStartThreshold = kernel.threshold > 1 << 30 ? Int.max : Int(kernel.threshold) * Int(kernel.segment)
        receiveWindow = Int(kernel.receive_window)
        sendWindow = Int(kernel.send_window)
        bytesInFlight = Int(kernel.unacknowledged) * Int(kernel.segment)
        bytesUnsent = Int(kernel.unsent)
        retransmissions = Int(kernel.retransmissions)
        backOff = Int(kernel.backoff)
        isInRecovery = kernel.ca_state >= 3
        hasTimestamps = kernel.options & 1 != 0
        hasSelectiveAcknowledgement = kernel.options & 2 != 0
        hasWindowScale = kernel.options & 4 != 0
        hasECN = kernel.options & 8 != 0
    }
}
