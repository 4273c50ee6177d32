import Demikernel
import Glibc

/// The calls of UDP sockets. A stack's socket is made by the first that needs one.
extension PacketdrillWorld {
    func isDatagram(_ descriptor: Int32) -> Bool { enter { world, _ in world.descriptors[descriptor]?.isDatagram ?? false } }

    static func open(_ socket: inout PacketdrillDescriptors.Socket, on address: SocketAddress?, tag: UInt32, _ stack: inout NetworkStack) -> Int {
        guard socket.datagram == nil else { return 0 }
        let (reuse, family) = (socket.options.reuseAddress, socket.family)
        var made: UDPSocket?
        let result = outcome { () throws(DemikernelError) in made = try stack.bindUDP(address ?? .any(family, port: 0), reuse: reuse, tag: tag) }
        guard result == 0 else { return result }
        socket.datagram = made
        socket.state = .bound
        return 0
    }

    func connectDatagram(_ descriptor: Int32, _ address: SocketAddress) -> Int {
        with(descriptor) { world, stack, socket in
            guard address.family == socket.family else { return -Int(EAFNOSUPPORT) }
            let opened = Self.open(&socket, on: nil, tag: world.descriptors.tag(descriptor), &stack)
            guard opened == 0, let datagram = socket.datagram else { return opened }
            let result = Self.outcome { () throws(DemikernelError) in try stack.connectUDP(datagram, to: address) }
            if result == 0 { socket.state = .connected }
            return result
        }
    }

    /// Sends one datagram. A connected socket hears first, once, what ICMP has said of an earlier one.
    func sendDatagram(_ descriptor: Int32, _ source: UnsafeRawBufferPointer, to address: SocketAddress?) -> Int {
        with(descriptor) { world, stack, socket in
            guard !socket.writesNoMore else { return -Int(EPIPE) }
            if let address, address.family != socket.family { return -Int(EAFNOSUPPORT) }
            guard address != nil || socket.state == .connected else { return -Int(EDESTADDRREQ) }
            guard source.count <= UDP.payloadMaximum else { return -Int(EMSGSIZE) }
            let opened = Self.open(&socket, on: nil, tag: world.descriptors.tag(descriptor), &stack)
            guard opened == 0, let datagram = socket.datagram else { return opened }
            let error = stack.udp.pendingError(datagram)
            guard error == 0 else { return -Int(error) }
            guard let list = unsafe world.segment(source) else { return -Int(ENOBUFS) }
            let now = world.now
            let result = Self.outcome { () throws(DemikernelError) in try stack.sendUDP(datagram, list, to: address, now: now) }
            guard result == 0 else {
                list.releaseAll()
                return result
            }
            return source.count
        }
    }

    /// Receives one datagram, or as much of it as there is room for. MSG_DONTWAIT, MSG_PEEK and MSG_TRUNC.
    func receiveDatagram(_ descriptor: Int32, _ flags: Int32, _ target: UnsafeMutableRawBufferPointer) -> Received {
        let (peek, truncate): (Int32, Int32) = (0x02, 0x20)
        guard flags & ~(Self.dontWait | peek | truncate) == 0 else { return Received(result: -Int(EOPNOTSUPP)) }
        var received = Received(result: 0)
        received.result = block(descriptor, isBlocking: flags & Self.dontWait == 0) { world, stack, socket in
            var next = socket.held
            if next == nil, let handle = socket.datagram {
                let reading = stack.udp.read(handle)
                if reading.errno != 0 { return -Int(reading.errno) }
                if !reading.segment.isNull {
                    next = PacketdrillDatagram(bytes: unsafe Array(reading.segment.bytes), source: SocketAddress(reading.source, port: reading.port))
                    reading.segment.release()
                }
            }
            guard let datagram = next else { return socket.readsNoMore ? 0 : nil }
            socket.held = flags & peek != 0 ? datagram : nil
            let count = min(datagram.bytes.count, target.count)
            unsafe target.copyBytes(from: datagram.bytes.prefix(count))
            received.source = datagram.source
            received.isTruncated = count < datagram.bytes.count
            return flags & truncate != 0 ? datagram.bytes.count : count
        }
        return received
    }
}
