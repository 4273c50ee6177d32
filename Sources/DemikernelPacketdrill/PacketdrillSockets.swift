import Demikernel
import Glibc
import SystemPackage

/// What packetdrill's file descriptors stand for.
///
/// Numbers begin far from those of the process's own files, so that a script's mistake finds none of them.
struct PacketdrillDescriptors {
    struct Socket {
        enum State { case unbound, bound, listening, connecting, connected }

        var state = State.unbound
        var isNonblocking = false
        var family: AddressFamily
        var local: SocketAddress?
        var options = TCPSocketOptions()
        /// SO_LINGER; nil is off.
        var linger: Int32?
        var handle: TCPSocket?
        /// What happened to the connect under way.
        var hasFailed = false
        /// What the next SO_ERROR says.
        var error: Int32 = 0
    }

    static let first: Int32 = 10_000
    private(set) var sockets: [Int32: Socket] = [:]
    var polls: [Int32: [Int32: (events: UInt32, data: UInt64)]] = [:]
    private var next = first

    mutating func insert(_ socket: Socket) -> Int32 {
        defer { next += 1 }
        sockets[next] = socket
        return next
    }

    mutating func insertPoll() -> Int32 {
        defer { next += 1 }
        polls[next] = [:]
        return next
    }

    mutating func remove(_ descriptor: Int32) {
        sockets[descriptor] = nil
        polls[descriptor] = nil
        for poll in polls.keys { polls[poll]?[descriptor] = nil }
    }

    subscript(descriptor: Int32) -> Socket? {
        get { sockets[descriptor] }
        set { if sockets[descriptor] != nil { sockets[descriptor] = newValue } }
    }

    /// What the stack calls a descriptor's socket in its events.
    func tag(_ descriptor: Int32) -> UInt32 { UInt32(descriptor - Self.first) }

    mutating func note(_ event: SocketEvent) {
        let descriptor = Int32(truncatingIfNeeded: event.tag) &+ Self.first
        guard var socket = sockets[descriptor], socket.state == .connecting else { return }
        if event.kinds.contains(.connected) {
            socket.state = .connected
        } else if !event.kinds.isDisjoint(with: [.failed, .closed]) {
            socket.hasFailed = true
        }
        sockets[descriptor] = socket
    }
}

/// The socket calls, with what they answer: a count or 0, or a negative errno.
extension PacketdrillWorld {
    private static let nonblocking: Int32 = 0x800
    private static let dontWait: Int32 = 0x40

    func socket(_ domain: Int32, _ type: Int32, _ number: Int32) -> Int {
        guard let family = UInt16(exactly: domain).flatMap(AddressFamily.init(rawValue:)) else { return -Int(EAFNOSUPPORT) }
        guard type & 0xf == 1, number == 0 || number == 6 else { return -Int(EPROTONOSUPPORT) }
        return enter { world, _ in
            var socket = PacketdrillDescriptors.Socket(family: family)
            socket.isNonblocking = type & Self.nonblocking != 0
            return Int(world.descriptors.insert(socket))
        }
    }

    /// Calls `body` with a descriptor's socket; EBADF where there is none.
    private func with(
        _ descriptor: Int32, _ body: (borrowing PacketdrillWorld, inout NetworkStack, inout PacketdrillDescriptors.Socket) -> Int
    ) -> Int {
        enter { world, stack in
            guard var socket = world.descriptors[descriptor] else { return -Int(EBADF) }
            defer { world.descriptors[descriptor] = socket }
            return body(world, &stack, &socket)
        }
    }

    func bind(_ descriptor: Int32, _ address: SocketAddress) -> Int {
        with(descriptor) { _, stack, socket in
            guard socket.state == .unbound else { return -Int(EINVAL) }
            guard address.family == socket.family else { return -Int(EAFNOSUPPORT) }
            return Self.outcome { () throws(DemikernelError) in
                socket.local = try stack.reserve(address, reuse: socket.options.reuseAddress)
                socket.state = .bound
            }
        }
    }

    func listen(_ descriptor: Int32, _ backlog: Int32) -> Int {
        with(descriptor) { world, stack, socket in
            if socket.state == .listening { return 0 }
            guard socket.state == .bound || socket.state == .unbound else { return -Int(EINVAL) }
            return Self.outcome { () throws(DemikernelError) in
                // One more waits than the backlog says, as in Linux.
                socket.handle = try stack.openListener(
                    socket.local ?? .any(socket.family, port: 0), backlog: max(0, Int(backlog)) + 1, socket.options, tag: world.descriptors.tag(descriptor))
                socket.state = .listening
            }
        }
    }

    /// A new descriptor, and the peer's address.
    func accept(_ descriptor: Int32, _ take: (SocketAddress) -> Void) -> Int {
        block(descriptor) { world, stack, socket in
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
        let began = with(descriptor) { world, stack, socket in
            switch socket.state {
            case .connecting: return socket.hasFailed ? 0 : -Int(EALREADY)
            case .connected: return -Int(EISCONN)
            case .listening: return -Int(EISCONN)
            case .unbound, .bound: break
            }
            return Self.outcome { () throws(DemikernelError) in
                socket.handle = try stack.openConnection(
                    from: socket.local, to: address, socket.options, tag: world.descriptors.tag(descriptor), now: world.now)
                socket.state = .connecting
                socket.hasFailed = false
            }
        }
        guard began == 0 else { return began }
        let ended = block(descriptor) { world, stack, socket in
            if socket.state == .connected { return 0 }
            guard socket.hasFailed, let handle = socket.handle else { return nil }
            var error = ECONNREFUSED
            if case .failed(let number) = stack.read(handle, limit: 0, now: world.now) { error = number }
            stack.end(handle, isReset: true, now: world.now)
            (socket.handle, socket.state, socket.hasFailed) = (nil, socket.local == nil ? .unbound : .bound, false)
            return -Int(error)
        }
        return ended == -Int(EAGAIN) ? -Int(EINPROGRESS) : ended
    }

    func receive(_ descriptor: Int32, _ flags: Int32, _ target: UnsafeMutableRawBufferPointer) -> Int {
        guard flags & ~Self.dontWait == 0 else { return -Int(EOPNOTSUPP) }
        return block(descriptor, isBlocking: flags & Self.dontWait == 0) { world, stack, socket in
            guard let handle = socket.handle, socket.state != .listening else { return -Int(ENOTCONN) }
            guard target.count > 0 else { return 0 }
            var done = 0
            while done < target.count {
                switch stack.read(handle, limit: target.count - done, now: world.now) {
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

    func send(_ descriptor: Int32, _ flags: Int32, _ source: UnsafeRawBufferPointer) -> Int {
        guard flags & ~(Self.dontWait | Int32(MSG_NOSIGNAL)) == 0 else { return -Int(EOPNOTSUPP) }
        let isBlocking = flags & Self.dontWait == 0
        var done = 0
        let result = block(descriptor, isBlocking: isBlocking) { world, stack, socket in
            guard let handle = socket.handle, socket.state == .connected || socket.state == .connecting else { return -Int(EPIPE) }
            if socket.state == .connecting { return socket.hasFailed ? -Int(EPIPE) : nil }
            while done < source.count {
                let piece = unsafe UnsafeRawBufferPointer(rebasing: source[done..<min(source.count, done + 65_536)])
                guard let list = unsafe world.segment(piece) else { return -Int(ENOMEM) }
                switch stack.write(handle, list, now: world.now) {
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
            if world.descriptors.polls[descriptor] != nil {
                world.descriptors.remove(descriptor)
                return 0
            }
            guard let socket = world.descriptors[descriptor] else { return -Int(EBADF) }
            if let handle = socket.handle {
                stack.end(handle, isReset: socket.linger == 0, now: world.now)
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
            guard let handle = socket.handle, socket.state == .connected else { return -Int(ENOTCONN) }
            if how != Int32(SHUT_RD) { stack.endSending(handle, now: world.now) }
            if how != Int32(SHUT_WR) { stack.tcp.shutdownReceive(handle) }
            return 0
        }
    }

    /// F_GETFL and F_SETFL.
    func control(_ descriptor: Int32, _ command: Int32, _ argument: Int) -> Int {
        with(descriptor) { _, _, socket in
            switch command {
            case F_GETFL: return Int(O_RDWR | (socket.isNonblocking ? O_NONBLOCK : 0))
            case F_SETFL:
                socket.isNonblocking = argument & Int(O_NONBLOCK) != 0
                return 0
            default: return -Int(EINVAL)
            }
        }
    }

    /// Bytes that wait: SIOCINQ, SIOCOUTQ (unacknowledged), SIOCOUTQNSD (unsent).
    func count(_ descriptor: Int32, _ request: UInt) -> Int {
        with(descriptor) { _, stack, socket in
            guard let handle = socket.handle else { return 0 }
            let information = stack.tcp.information(handle)
            switch request {
            case 0x541b: return information.bytesUnread
            case 0x5411: return information.bytesInFlight + information.bytesUnsent
            case 0x894b: return information.bytesUnsent
            default: return -Int(ENOTTY)
            }
        }
    }

    /// What is ready, as poll(2) has it.
    func readiness(_ descriptor: Int32) -> Int16 {
        Int16(truncatingIfNeeded: with(descriptor) { _, stack, socket in
            guard let handle = socket.handle else { return Int(POLLOUT | POLLHUP) }
            if socket.state == .listening { return stack.tcp.hasAcceptable(handle) ? Int(POLLIN) : 0 }
            if socket.state == .connecting { return socket.hasFailed ? Int(POLLOUT | POLLERR | POLLHUP | POLLIN) : 0 }
            let information = stack.tcp.information(handle)
            var result: Int32 = 0
            let hasEnded = [.closeWait, .lastAcknowledgement, .closing, .timeWait, .closed].contains(information.state)
            if information.bytesUnread > 0 || hasEnded { result |= POLLIN }
            if information.state == .closed || information.state == .timeWait { result |= POLLHUP }
            if [.established, .closeWait].contains(information.state) { result |= POLLOUT }
            return Int(result)
        })
    }

    // MARK: - Blocking

    /// Calls `body` until it has an answer, unless the socket is not to block: EAGAIN then.
    private func block(
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

    private static func outcome(_ body: () throws(DemikernelError) -> Void) -> Int {
        do throws(DemikernelError) {
            try body()
            return 0
        } catch {
            return -Int(error.errno.rawValue)
        }
    }
}

// The stack's calls, each as one access to it.
extension NetworkStack {
    fileprivate mutating func reserve(_ address: SocketAddress, reuse: Bool) throws(DemikernelError) -> SocketAddress {
        try tcp.reserve(local: address, reuse: reuse, ip: &ip)
    }

    fileprivate mutating func openListener(
        _ address: SocketAddress, backlog: Int, _ options: TCPSocketOptions, tag: UInt32
    ) throws(DemikernelError) -> TCPSocket {
        try tcp.listen(on: address, backlog: backlog, options: options, tag: tag, ip: &ip)
    }

    fileprivate mutating func openConnection(
        from local: SocketAddress?, to remote: SocketAddress, _ options: TCPSocketOptions, tag: UInt32, now: UInt64
    ) throws(DemikernelError) -> TCPSocket {
        try tcp.connect(from: local, to: remote, options: options, tag: tag, ip: &ip, now: now)
    }

    fileprivate mutating func write(_ socket: TCPSocket, _ list: SegmentList, now: UInt64) -> SendResult { tcp.send(socket, list, ip: &ip, now: now) }

    fileprivate mutating func read(_ socket: TCPSocket, limit: Int, now: UInt64) -> ReceiveResult {
        tcp.receive(socket, limit: limit, ip: &ip, now: now)
    }

    fileprivate mutating func endSending(_ socket: TCPSocket, now: UInt64) { tcp.shutdownSend(socket, ip: &ip, now: now) }

    fileprivate mutating func end(_ socket: TCPSocket, isReset: Bool, now: UInt64) {
        tcp.close(socket, lingerReset: isReset, ip: &ip, events: &events, now: now)
    }
}
