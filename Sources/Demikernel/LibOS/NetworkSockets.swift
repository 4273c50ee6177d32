import Glibc
import SystemPackage

// The control path of the network stack's sockets: everything that is not push or pop. What every libOS checks alike has been checked.

extension Core {
    mutating func networkSocket(_ family: AddressFamily, _ type: SocketType) throws(DemikernelError) -> UInt32 {
        guard let index = queues.insert(type == .stream ? .networkStream : .networkDatagram, family: family) else {
            throw DemikernelError(.tooManyOpenFiles, "every queue descriptor is in use: close some, or raise descriptors.capacity")
        }
        network[index] = NetworkSocket(family)
        return index
    }

    /// Notes which socket of the stack a queue stands for.
    @inline(__always)
    func adopt(_ socket: TCPSocket, as index: UInt32) {
        queues[index].stackSlot = socket.slot
        queues[index].stackGeneration = socket.generation
    }

    @inline(__always)
    private func adopt(_ socket: UDPSocket, as index: UInt32) {
        queues[index].stackSlot = socket.slot
        queues[index].stackGeneration = socket.generation
    }

    // MARK: - bind and listen

    mutating func bindNetwork(_ index: UInt32, _ address: SocketAddress) throws(DemikernelError) {
        if queues[index].kind == .networkStream {
            // Connections in TIME_WAIT keep nobody from the port, as with Catnap.
            network[index].local = try network.stack.tcp.reserve(local: address, reuse: true, ip: &network.stack.ip)
        } else {
            adopt(try network.stack.udp.bind(address, reuse: network[index].isPortShared, tag: index, ip: &network.stack.ip), as: index)
        }
        queues[index].state = .bound
        queues[index].flags.insert(.bound)
    }

    /// Gives a UDP socket a port of the stack's choice. Answers an errno where there is none.
    mutating func bindUnbound(_ index: UInt32) -> Int32? {
        do throws(DemikernelError) {
            adopt(try network.stack.udp.bind(.any(queues[index].family, port: 0), reuse: false, tag: index, ip: &network.stack.ip), as: index)
            queues[index].state = .bound
            return nil
        } catch {
            return error.errno.rawValue
        }
    }

    mutating func listenNetwork(_ index: UInt32, backlog: Int) throws(DemikernelError) {
        // One more waits than the backlog says, as in Linux.
        let socket = try network.stack.tcp.listen(
            on: network[index].local, backlog: min(backlog, 65_534) + 1, options: network[index].options, tag: index, ip: &network.stack.ip)
        adopt(socket, as: index)
        queues[index].kind = .networkListener
        queues[index].state = .listening
    }

    // MARK: - connect

    /// Starts a connection for the first writer of a queue.
    mutating func connectNetwork(_ index: UInt32, _ slot: UInt32, to address: SocketAddress) {
        let now = readTime()
        do throws(DemikernelError) {
            if queues[index].kind == .networkDatagram {
                if queues[index].state == .unbound, let errno = bindUnbound(index) { return completeWriter(index, slot, errno: errno) }
                try network.stack.udp.connect(datagramSocket(index), to: address, ip: &network.stack.ip)
                queues[index].state = .connected
                return completeWriter(index, slot)
            }
            let local = queues[index].flags.contains(.bound) ? network[index].local : nil
            let socket = try network.stack.tcp.connect(
                from: local, to: address, options: network[index].options, tag: index, ip: &network.stack.ip, now: now)
            adopt(socket, as: index)
            queues[index].state = .connecting
        } catch {
            completeWriter(index, slot, errno: error.errno.rawValue)
        }
    }

    /// Takes note of how a connection attempt has ended.
    mutating func finishNetworkConnect(_ index: UInt32, _ kinds: SocketEvent.Kinds) {
        guard !queues[index].writers.isEmpty else { return }
        let slot = queues[index].writers.first
        if kinds.contains(.connected) {
            queues[index].state = .connected
            completeWriter(index, slot)
        } else if !kinds.isDisjoint(with: [.failed, .closed]) {
            var error = Errno.connectionRefused.rawValue
            if case .failed(let errno) = network.stack.tcp.receive(streamSocket(index), limit: 0, ip: &network.stack.ip, now: turnTime) {
                error = errno
            }
            abandonNetworkConnect(index)
            completeWriter(index, slot, errno: error)
        }
    }

    /// Gives up a connection attempt, so that the socket can make another.
    mutating func abandonNetworkConnect(_ index: UInt32) {
        endStream(index, isReset: true)
        queues[index].state = stateWithoutPeer(index)
        guard queues[index].state == .bound else { return }
        // The connection had the address; it is the socket's again, where nobody has been faster.
        let again = try? network.stack.tcp.reserve(local: network[index].local, reuse: true, ip: &network.stack.ip)
        if again == nil {
            queues[index].state = .unbound
            queues[index].flags.remove(.bound)
        }
    }

    // MARK: - shutdown and close

    mutating func shutdownNetwork(_ index: UInt32, _ direction: ShutdownDirection) {
        let now = readTime()
        if direction != .receive {
            queues[index].flags.insert(.sendShutdown)
            finishNetworkShutdown(index)
        }
        if direction != .send {
            network.stack.tcp.shutdownReceive(streamSocket(index))
            queues[index].flags.insert(.readable)
            pollNetworkSocket(index, now: now)
        }
    }

    /// Sends the end of the stream that ``shutdownNetwork(_:_:)`` asked for, once the last push has gone.
    mutating func finishNetworkShutdown(_ index: UInt32) {
        guard queues[index].flags.contains(.sendShutdown), queues[index].writers.isEmpty else { return }
        network.stack.tcp.shutdownSend(streamSocket(index), ip: &network.stack.ip, now: readTime())
    }

    mutating func closeNetwork(_ index: UInt32) {
        cancelAll(index, errno: Errno.canceled.rawValue)
        switch (queues[index].kind, queues[index].state) {
        case (.networkStream, .bound): network.stack.tcp.release(local: network[index].local)
        case (.networkStream, .unbound), (.networkDatagram, .unbound): break
        case (.networkDatagram, _): network.stack.udp.close(datagramSocket(index), events: &network.stack.events)
        default: endStream(index, isReset: network[index].lingerSeconds == 0)
        }
        network.stack.events.forget(tag: index)
        queues.remove(index)
    }

    private mutating func endStream(_ index: UInt32, isReset: Bool) {
        network.stack.tcp.close(
            streamSocket(index), lingerReset: isReset, ip: &network.stack.ip, events: &network.stack.events, now: readTime())
        network.stack.events.forget(tag: index)
    }

    // MARK: - Addresses

    mutating func networkLocalAddress(_ index: UInt32) -> SocketAddress {
        let address: SocketAddress? =
            switch (queues[index].kind, queues[index].state) {
            case (_, .unbound): nil
            case (.networkDatagram, _): network.stack.udp.localAddress(datagramSocket(index))
            case (.networkStream, .bound): network[index].local
            default: network.stack.tcp.localAddress(streamSocket(index))
            }
        return address ?? .any(queues[index].family, port: 0)
    }

    mutating func networkRemoteAddress(_ index: UInt32) throws(DemikernelError) -> SocketAddress {
        if queues[index].state == .connected {
            let address = queues[index].kind == .networkDatagram
                ? network.stack.udp.remoteAddress(datagramSocket(index)) : network.stack.tcp.remoteAddress(streamSocket(index))
            if let address { return address }
        }
        throw DemikernelError(.socketNotConnected, "the socket is not connected")
    }
}
