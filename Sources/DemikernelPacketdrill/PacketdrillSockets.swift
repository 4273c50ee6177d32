import Demikernel
import Glibc
import SystemPackage

/// The socket calls, with what they answer: a count or 0, or a negative errno.
extension PacketdrillWorld {
    private static let nonblocking: Int32 = 0x800
    static let dontWait: Int32 = 0x40

    func socket(_ domain: Int32, _ type: Int32, _ number: Int32) -> Int {
        guard let family = UInt16(exactly: domain).flatMap(AddressFamily.init(rawValue:)) else { return -Int(EAFNOSUPPORT) }
        let isDatagram = type & 0xf == 2
        guard isDatagram || type & 0xf == 1, number == 0 || number == (isDatagram ? 17 : 6) else { return -Int(EPROTONOSUPPORT) }
        return enter { world, _ in
            var socket = PacketdrillDescriptors.Socket(family: family)
            socket.isNonblocking = type & Self.nonblocking != 0
            socket.isDatagram = isDatagram
            return Int(world.descriptors.insert(socket))
        }
    }

    /// Calls `body` with a descriptor's socket; EBADF where there is none.
    func with(
        _ descriptor: Int32, _ body: (borrowing PacketdrillWorld, inout NetworkStack, inout PacketdrillDescriptors.Socket) -> Int
    ) -> Int {
        enter { world, stack in
            guard var socket = world.descriptors[descriptor] else { return -Int(EBADF) }
            defer { world.descriptors[descriptor] = socket }
            return body(world, &stack, &socket)
        }
    }

    func bind(_ descriptor: Int32, _ address: SocketAddress) -> Int {
        with(descriptor) { world, stack, socket in
            guard socket.state == .unbound else { return -Int(EINVAL) }
            guard address.family == socket.family else { return -Int(EAFNOSUPPORT) }
            if socket.isDatagram { return Self.open(&socket, on: address, tag: world.descriptors.tag(descriptor), &stack) }
            return Self.outcome { () throws(DemikernelError) in
                socket.local = try stack.reserve(address, reuse: socket.options.reuseAddress)
                socket.state = .bound
            }
        }
    }

    func listen(_ descriptor: Int32, _ backlog: Int32) -> Int {
        with(descriptor) { world, stack, socket in
            guard !socket.isDatagram else { return -Int(EOPNOTSUPP) }
            if socket.state == .listening { return 0 }
            guard socket.state == .bound || socket.state == .unbound else { return -Int(EINVAL) }
            return Self.outcome { () throws(DemikernelError) in
                // One more waits than the backlog says, as in Linux.
                socket.handle = try stack.listen(
                    on: socket.local ?? .any(socket.family, port: 0), backlog: max(0, Int(backlog)) + 1, options: socket.options,
                    tag: world.descriptors.tag(descriptor))
                socket.state = .listening
            }
        }
    }

    /// A new descriptor, and the peer's address.
    func accept(_ descriptor: Int32, _ take: (SocketAddress) -> Void) -> Int {
        block(descriptor) { world, stack, socket in
            guard !socket.isDatagram else { return -Int(EOPNOTSUPP) }
            guard socket.state == .listening, let listener = socket.handle else { return -Int(EINVAL) }
            // The descriptor that it will have names it in events from the first on.
            let child = world.descriptors.insert(PacketdrillDescriptors.Socket(family: socket.family))
            guard let handle = stack.tcp.accept(listener, tag: world.descriptors.tag(child)) else {
                world.descriptors.remove(child)
                return nil
            }
            world.descriptors[child]?.handle = handle
            world.descriptors[child]?.state = .connected
            world.descriptors[child]?.options = socket.options
            if let remote = stack.tcp.remoteAddress(handle) { take(remote) }
            return Int(child)
        }
    }

    func connect(_ descriptor: Int32, _ address: SocketAddress) -> Int {
        if isDatagram(descriptor) { return connectDatagram(descriptor, address) }
        let began = with(descriptor) { world, stack, socket in
            switch socket.state {
            case .connecting: return socket.hasFailed ? 0 : -Int(EALREADY)
            case .connected: return -Int(EISCONN)
            case .listening: return -Int(EISCONN)
            case .unbound, .bound: break
            }
            return Self.outcome { () throws(DemikernelError) in
                socket.handle = try stack.connect(
                    from: socket.local, to: address, options: socket.options, tag: world.descriptors.tag(descriptor), now: world.now)
                socket.state = .connecting
                socket.hasFailed = false
            }
        }
        guard began == 0 else { return began }
        let ended = block(descriptor) { world, stack, socket in
            if socket.state == .connected { return 0 }
            guard socket.hasFailed, let handle = socket.handle else { return nil }
            var error = ECONNREFUSED
            if case .failed(let number) = stack.receive(handle, limit: 0, now: world.now) { error = number }
            stack.close(handle, lingerReset: true, now: world.now)
            (socket.handle, socket.state, socket.hasFailed) = (nil, socket.local == nil ? .unbound : .bound, false)
            return -Int(error)
        }
        return ended == -Int(EAGAIN) ? -Int(EINPROGRESS) : ended
    }

    /// connect(2) to AF_UNSPEC.
    func disconnect(_ descriptor: Int32) -> Int {
        with(descriptor) { world, stack, socket in
            if let datagram = socket.datagram {
                socket.state = .bound
                return Self.outcome { () throws(DemikernelError) in try stack.udp.disconnect(datagram) }
            }
            if let handle = socket.handle { stack.close(handle, lingerReset: true, now: world.now) }
            if !socket.isDatagram { (socket.handle, socket.state, socket.hasFailed) = (nil, socket.local == nil ? .unbound : .bound, false) }
            return 0
        }
    }

    /// What a receiving call has got.
    struct Received {
        /// A count, or a negative errno.
        var result: Int
        /// Of a datagram.
        var source: SocketAddress?
        var isTruncated = false
    }

    func receive(_ descriptor: Int32, _ flags: Int32, _ target: UnsafeMutableRawBufferPointer) -> Received {
        if isPipe(descriptor) { return Received(result: unsafe readPipe(descriptor, target)) }
        if isDatagram(descriptor) { return unsafe receiveDatagram(descriptor, flags, target) }
        return Received(result: unsafe receiveStream(descriptor, flags, target))
    }

    private func receiveStream(_ descriptor: Int32, _ flags: Int32, _ target: UnsafeMutableRawBufferPointer) -> Int {
        guard flags & ~Self.dontWait == 0 else { return -Int(EOPNOTSUPP) }
        return block(descriptor, isBlocking: flags & Self.dontWait == 0) { world, stack, socket in
            guard let handle = socket.handle, socket.state != .listening else { return -Int(ENOTCONN) }
            guard target.count > 0 else { return 0 }
            var done = 0
            while done < target.count {
                switch stack.receive(handle, limit: target.count - done, now: world.now) {
                case .segments(let list):
                    done += unsafe list.copyBytes(to: UnsafeMutableRawBufferPointer(rebasing: target[done...]))
                    list.releaseAll()
                case .empty: return done > 0 ? done : nil
                case .endOfStream: return done
                case .failed(let error): return done > 0 ? done : -Int(error)
                }
            }
            return done
        }
    }

    /// Sends; to `address` where that is given and the socket is one of datagrams.
    func send(_ descriptor: Int32, _ flags: Int32, _ source: UnsafeRawBufferPointer, to address: SocketAddress? = nil) -> Int {
        if isPipe(descriptor) { return unsafe writePipe(descriptor, source) }
        guard flags & ~(Self.dontWait | Int32(MSG_NOSIGNAL)) == 0 else { return -Int(EOPNOTSUPP) }
        if isDatagram(descriptor) { return unsafe sendDatagram(descriptor, source, to: address) }
        let isBlocking = flags & Self.dontWait == 0
        var done = 0
        let result = block(descriptor, isBlocking: isBlocking) { world, stack, socket in
            guard let handle = socket.handle, socket.state == .connected || socket.state == .connecting else { return -Int(EPIPE) }
            if socket.state == .connecting { return socket.hasFailed ? -Int(EPIPE) : nil }
            while done < source.count {
                let piece = unsafe UnsafeRawBufferPointer(rebasing: source[done..<min(source.count, done + 65_536)])
                guard let list = unsafe world.segment(piece) else { return -Int(ENOMEM) }
                switch stack.send(handle, list, now: world.now) {
                case .taken: done += piece.count
                case .full:
                    list.releaseAll()
                    return !isBlocking || socket.isNonblocking ? (done > 0 ? done : -Int(EAGAIN)) : nil
                case .failed(let error):
                    list.releaseAll()
                    return done > 0 ? done : -Int(error)
                }
            }
            return done
        }
        return result == -Int(EAGAIN) && done > 0 ? done : result
    }

    func close(_ descriptor: Int32) -> Int {
        enter { world, stack in
            if world.descriptors.polls[descriptor] != nil || world.descriptors.pipeEnds[descriptor] != nil {
                world.descriptors.remove(descriptor)
                return 0
            }
            guard let socket = world.descriptors[descriptor] else { return -Int(EBADF) }
            if let datagram = socket.datagram {
                stack.closeUDP(datagram)
            } else if let handle = socket.handle {
                stack.close(handle, lingerReset: socket.linger == 0, now: world.now)
            } else if let local = socket.local {
                stack.tcp.release(local: local)
            }
            world.descriptors.remove(descriptor)
            return 0
        }
    }

    func shutdown(_ descriptor: Int32, _ how: Int32) -> Int {
        with(descriptor) { world, stack, socket in
            guard 0...2 ~= how else { return -Int(EINVAL) }
            if socket.isDatagram {
                guard socket.state == .connected else { return -Int(ENOTCONN) }
                if how != Int32(SHUT_RD) { socket.writesNoMore = true }
                if how != Int32(SHUT_WR) { socket.readsNoMore = true }
                return 0
            }
            guard let handle = socket.handle, socket.state == .connected else { return -Int(ENOTCONN) }
            if how != Int32(SHUT_RD) { stack.shutdownSend(handle, now: world.now) }
            if how != Int32(SHUT_WR) { stack.tcp.shutdownReceive(handle) }
            return 0
        }
    }

    // MARK: - Blocking

    /// Calls `body` until it has an answer, unless the socket is not to block: EAGAIN then.
    func block(
        _ descriptor: Int32, isBlocking: Bool = true,
        _ body: (borrowing PacketdrillWorld, inout NetworkStack, inout PacketdrillDescriptors.Socket) -> Int?
    ) -> Int {
        let waits = isBlocking && enter { world, _ in world.descriptors[descriptor].map { !$0.isNonblocking } ?? false }
        let result = wait(isBlocking: waits) { world, stack -> Int? in
            guard var socket = world.descriptors[descriptor] else { return -Int(EBADF) }
            defer { world.descriptors[descriptor] = socket }
            return body(world, &stack, &socket)
        }
        return result ?? -Int(EAGAIN)
    }

    static func outcome(_ body: () throws(DemikernelError) -> Void) -> Int {
        do throws(DemikernelError) {
            try body()
            return 0
        } catch {
            return -Int(error.errno.rawValue)
        }
    }
}
