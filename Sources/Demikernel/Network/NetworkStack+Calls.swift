// The stack's calls, each as one access to it: for whoever keeps a stack in a class.

extension NetworkStack {
    package mutating func reserve(_ address: SocketAddress, reuse: Bool) throws(DemikernelError) -> SocketAddress {
        try tcp.reserve(local: address, reuse: reuse, ip: &ip)
    }

    package mutating func listen(
        on address: SocketAddress, backlog: Int, options: TCPSocketOptions = TCPSocketOptions(), tag: UInt32
    ) throws(DemikernelError) -> TCPSocket {
        try tcp.listen(on: address, backlog: backlog, options: options, tag: tag, ip: &ip)
    }

    package mutating func connect(
        from local: SocketAddress? = nil, to remote: SocketAddress, options: TCPSocketOptions = TCPSocketOptions(), tag: UInt32, now: UInt64
    ) throws(DemikernelError) -> TCPSocket {
        try tcp.connect(from: local, to: remote, options: options, tag: tag, ip: &ip, now: now)
    }

    package mutating func send(_ socket: TCPSocket, _ list: SegmentList, now: UInt64) -> SendResult {
        tcp.send(socket, list, ip: &ip, now: now)
    }

    package mutating func receive(_ socket: TCPSocket, limit: Int, now: UInt64) -> ReceiveResult {
        tcp.receive(socket, limit: limit, ip: &ip, now: now)
    }

    package mutating func setOptions(_ socket: TCPSocket, _ options: TCPSocketOptions, now: UInt64) {
        tcp.setOptions(socket, options, ip: &ip, now: now)
    }

    package mutating func shutdownSend(_ socket: TCPSocket, now: UInt64) { tcp.shutdownSend(socket, ip: &ip, now: now) }

    package mutating func close(_ socket: TCPSocket, lingerReset: Bool = false, now: UInt64) {
        tcp.close(socket, lingerReset: lingerReset, ip: &ip, events: &events, now: now)
    }

    package mutating func bindUDP(_ address: SocketAddress, reuse: Bool = false, tag: UInt32) throws(DemikernelError) -> UDPSocket {
        try udp.bind(address, reuse: reuse, tag: tag, ip: &ip)
    }

    package mutating func connectUDP(_ socket: UDPSocket, to address: SocketAddress) throws(DemikernelError) {
        try udp.connect(socket, to: address, ip: &ip)
    }

    package mutating func sendUDP(
        _ socket: UDPSocket, _ list: SegmentList, to address: SocketAddress?, now: UInt64
    ) throws(DemikernelError) {
        try udp.send(socket, list, to: address, ip: &ip, now: now)
    }

    package mutating func closeUDP(_ socket: UDPSocket) { udp.close(socket, events: &events) }
}
