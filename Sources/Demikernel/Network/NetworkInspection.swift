// What the control socket asks the stack for, beside ``TCP/information(_:)``.

extension TCP {
    /// Of a listener: connections that wait to be accepted, and how many may; nil for another socket.
    mutating func acceptQueue(_ socket: TCPSocket) -> (waiting: Int, backlog: Int)? {
        guard let slot = listenerSlot(socket) else { return nil }
        return (Int(listeners[unchecked: slot].accept.count), Int(listeners[unchecked: slot].backlog))
    }

    /// Whether a listener has a connection to be accepted.
    package mutating func hasAcceptable(_ socket: TCPSocket) -> Bool { acceptQueue(socket).map { $0.waiting > 0 } ?? false }

    /// A live connection that no socket of the application's stands for: half open, waiting to be accepted, or closed by the application; nil
    /// where one does.
    mutating func connectionWithoutSocket(_ slot: UInt32) -> (local: SocketAddress, remote: SocketAddress, information: TCPInformation)? {
        guard !connections[unchecked: slot].flags.isDisjoint(with: [.isOrphan, .isQueued]) else { return nil }
        let tuple = connections[unchecked: slot].tuple
        return (
            SocketAddress(tuple.local, port: tuple.localPort), SocketAddress(tuple.remote, port: tuple.remotePort),
            connections[unchecked: slot].information(shared.limits)
        )
    }
}

extension UDP {
    /// Bytes that wait to be popped.
    mutating func waitingBytes(_ socket: UDPSocket) -> Int {
        sockets.contains(socket.key) ? sockets[unchecked: socket.slot].waitingBytes : 0
    }
}

extension NetworkLayer {
    /// This host's addresses, in the order of the settings.
    var interfaceAddresses: [NetworkConfiguration.InterfaceAddress] {
        mutating get {
            (0..<addressCount).map { NetworkConfiguration.InterfaceAddress(addresses[$0].address, prefixLength: addresses[$0].prefixLength) }
        }
    }
}
