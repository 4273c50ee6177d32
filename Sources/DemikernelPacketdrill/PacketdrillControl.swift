import Demikernel
import Glibc

/// fcntl(2), ioctl(2), and what poll(2) and epoll(7) wait for.
extension PacketdrillWorld {
    /// F_GETFL and F_SETFL, F_GETFD and F_SETFD, which have nothing to say here.
    func control(_ descriptor: Int32, _ command: Int32, _ argument: Int) -> Int {
        enter { world, _ in
            guard let isNonblocking = world.descriptors.isNonblocking(descriptor) else { return -Int(EBADF) }
            switch command {
            case F_GETFL: return Int(O_RDWR | (isNonblocking ? O_NONBLOCK : 0))
            case F_SETFL:
                world.descriptors.setNonblocking(descriptor, argument & Int(O_NONBLOCK) != 0)
                return 0
            case F_GETFD, F_SETFD: return 0
            default: return -Int(EINVAL)
            }
        }
    }

    /// ioctl(2): the number that goes to `target`. Bytes that wait: SIOCINQ (of datagrams the next alone), SIOCOUTQ (unacknowledged), SIOCOUTQNSD
    /// (unsent).
    func count(_ descriptor: Int32, _ request: UInt) -> Int {
        enter { world, stack in
            if let end = world.descriptors.pipeEnds[descriptor] {
                return request == 0x541b ? world.descriptors.pipes[end.pipe]?.bytes.count ?? 0 : -Int(ENOTTY)
            }
            guard let socket = world.descriptors[descriptor] else { return -Int(EBADF) }
            let information = socket.handle.map { stack.tcp.information($0) } ?? TCPInformation()
            switch request {
            case 0x541b:
                if let held = socket.held { return held.bytes.count }
                return socket.datagram.map { stack.udp.nextByteCount($0) ?? 0 } ?? information.bytesUnread
            case 0x5411: return information.bytesInFlight + information.bytesUnsent
            case 0x894b where !socket.isDatagram: return information.bytesUnsent
            default: return -Int(ENOTTY)
            }
        }
    }

    /// FIONBIO.
    func setNonblocking(_ descriptor: Int32, _ isNonblocking: Bool) -> Int {
        enter { world, _ in
            guard world.descriptors.isNonblocking(descriptor) != nil else { return -Int(EBADF) }
            world.descriptors.setNonblocking(descriptor, isNonblocking)
            return 0
        }
    }

    /// What is ready, as poll(2) has it.
    func readiness(_ descriptor: Int32) -> Int16 {
        Int16(truncatingIfNeeded: enter { world, stack -> Int32 in
            if let end = world.descriptors.pipeEnds[descriptor], let pipe = world.descriptors.pipes[end.pipe] {
                if end.isWriter { return pipe.hasReader ? (pipe.room > 0 ? POLLOUT : 0) : POLLOUT | POLLERR }
                return (pipe.bytes.isEmpty ? 0 : POLLIN) | (pipe.hasWriter ? 0 : POLLHUP)
            }
            guard let socket = world.descriptors[descriptor] else { return POLLNVAL }
            if socket.isDatagram {
                let hasError = socket.datagram.map { stack.udp.hasError($0) } ?? false
                let isReadable = socket.held != nil || socket.readsNoMore || hasError || socket.datagram.map { stack.udp.nextByteCount($0) != nil } ?? false
                return POLLOUT | (isReadable ? POLLIN : 0) | (hasError ? POLLERR : 0)
            }
            guard let handle = socket.handle else { return POLLOUT | POLLHUP }
            if socket.state == .listening { return stack.tcp.hasAcceptable(handle) ? POLLIN : 0 }
            if socket.state == .connecting { return socket.hasFailed ? POLLOUT | POLLERR | POLLHUP | POLLIN : 0 }
            let information = stack.tcp.information(handle)
            var result: Int32 = 0
            let hasEnded = [.closeWait, .lastAcknowledgement, .closing, .timeWait, .closed].contains(information.state)
            if information.bytesUnread > 0 || hasEnded { result |= POLLIN }
            if information.state == .closed || information.state == .timeWait { result |= POLLHUP }
            if [.established, .closeWait].contains(information.state) { result |= POLLOUT }
            return result
        })
    }

    /// Counts what is ready until something is, or so much virtual time has passed; for ever with a negative time.
    func waitForReadiness(milliseconds: Int32, _ count: () -> Int) -> Int {
        let limit = milliseconds < 0 ? UInt64.max : enter { world, _ in world.now } + UInt64(milliseconds) * 1_000_000
        var stillness = Stillness()
        while true {
            let ready = count()
            guard ready == 0, enter({ world, _ in world.now }) < limit, letPass(until: limit, &stillness) else { return ready }
        }
    }

    /// EPOLL_CTL_ADD, DEL and MOD: 1, 2, 3.
    func changePoll(_ poll: Int32, _ operation: Int32, _ descriptor: Int32, _ events: UInt32, _ data: UInt64) -> Int {
        enter { world, _ in
            guard let entries = world.descriptors.polls[poll], world.descriptors.isNonblocking(descriptor) != nil else { return -Int(EBADF) }
            switch operation {
            case 1 where entries[descriptor] == nil, 3 where entries[descriptor] != nil: world.descriptors.polls[poll]?[descriptor] = (events, data)
            case 1: return -Int(EEXIST)
            case 2 where entries[descriptor] != nil: world.descriptors.polls[poll]?[descriptor] = nil
            case 2, 3: return -Int(ENOENT)
            default: return -Int(EINVAL)
            }
            return 0
        }
    }
}

extension PacketdrillDescriptors {
    /// Of a socket or a pipe's end; nil where there is none of that number.
    func isNonblocking(_ descriptor: Int32) -> Bool? {
        if let end = pipeEnds[descriptor], let pipe = pipes[end.pipe] { return end.isWriter ? pipe.writerIsNonblocking : pipe.readerIsNonblocking }
        return sockets[descriptor]?.isNonblocking
    }

    mutating func setNonblocking(_ descriptor: Int32, _ isNonblocking: Bool) {
        if let end = pipeEnds[descriptor] {
            if end.isWriter { pipes[end.pipe]?.writerIsNonblocking = isNonblocking } else { pipes[end.pipe]?.readerIsNonblocking = isNonblocking }
        }
        self[descriptor]?.isNonblocking = isNonblocking
    }
}
