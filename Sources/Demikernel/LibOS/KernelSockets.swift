import CDemikernelShims
import Glibc
import SystemPackage

// The control path of Catnap's sockets: everything that is not push or pop. Each call names the system call behind it.

extension Errno {
    /// What the last system call of this thread left in `errno`.
    static var last: Errno { Errno(rawValue: Glibc.errno) }
}

extension Core {
    /// `socket(2)`. Throws EMFILE, ENFILE, ENOMEM, EAFNOSUPPORT.
    package mutating func socket(_ family: AddressFamily, _ type: SocketType) throws(DemikernelError) -> UInt32 {
        submissionTurn()
        if network.isPresent { return try networkSocket(family, type) }
        let flags = Int32(SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let descriptor = Glibc.socket(Int32(family.rawValue), type.rawValue | flags, 0)
        guard descriptor >= 0 else { throw DemikernelError(.last, "the kernel gave no socket") }
        return try adopt(descriptor, type == .stream ? .kernelStream : .kernelDatagram, family)
    }

    /// Gives a kernel socket a queue; closes it where there is none left.
    private mutating func adopt(_ descriptor: Int32, _ kind: QueueKind, _ family: AddressFamily) throws(DemikernelError) -> UInt32 {
        guard let index = queues.insert(kind, family: family, fileDescriptor: descriptor) else {
            Glibc.close(descriptor)
            throw DemikernelError(.tooManyOpenFiles, "every queue descriptor is in use: close some, or raise descriptors.capacity")
        }
        queues[index].receiveSize = UInt32(configuration.catnap.receiveSize)
        return index
    }

    /// The queue of a descriptor that is a socket. Throws EBADF, ENOTSOCK.
    ///
    /// Mutating, as are others that change nothing: a borrowed core would be copied to the stack, all of its kilobyte.
    mutating func socketIndex(_ descriptor: QueueDescriptor) throws(DemikernelError) -> UInt32 {
        guard let index = queues.index(of: descriptor) else { throw .badDescriptor }
        switch queues[index].kind {
        case .kernelStream, .kernelListener, .kernelDatagram, .networkStream, .networkListener, .networkDatagram: return index
        case .memory, .kernelFile, .free: throw DemikernelError(.notSocket, "the descriptor is no socket")
        }
    }

    /// `bind(2)`. Throws EADDRINUSE, EADDRNOTAVAIL, EACCES; EINVAL for a socket that is bound; EAFNOSUPPORT for another family's address.
    package mutating func bind(_ descriptor: QueueDescriptor, to address: SocketAddress) throws(DemikernelError) {
        submissionTurn()
        let index = try socketIndex(descriptor)
        guard queues[index].state == .unbound else { throw DemikernelError(.invalidArgument, "the socket is bound already") }
        try requireFamily(address, of: index)
        if queues[index].kind.isNetwork { return try bindNetwork(index, address) }
        var result = unsafe withSocketAddress(address) { unsafe Glibc.bind(queues[index].fileDescriptor, $0, $1) }
        if result != 0, Errno.last == .addressInUse, queues[index].kind == .kernelStream {
            result = bindReusing(index, address)
        }
        guard result == 0 else { throw DemikernelError(.last, "the address cannot be bound") }
        queues[index].state = .bound
        queues[index].flags.insert(.bound)
    }

    /// Binds an address that connections in TIME_WAIT hold: with SO_REUSEADDR the kernel refuses every other holder that does not have the
    /// option itself. It is taken away again at once, so that the socket holds its address alone; answers what `bind(2)` answers.
    private mutating func bindReusing(_ index: UInt32, _ address: SocketAddress) -> Int32 {
        let descriptor = queues[index].fileDescriptor
        _ = setFlag(descriptor, SOL_SOCKET, SO_REUSEADDR, true)
        let result = unsafe withSocketAddress(address) { unsafe Glibc.bind(descriptor, $0, $1) }
        let error = Glibc.errno
        _ = setFlag(descriptor, SOL_SOCKET, SO_REUSEADDR, false)
        Glibc.errno = error
        return result
    }

    mutating func setFlag(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ isOn: Bool) -> Bool {
        var value: Int32 = isOn ? 1 : 0
        return unsafe setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<Int32>.size)) == 0
    }

    private mutating func requireFamily(_ address: SocketAddress, of index: UInt32) throws(DemikernelError) {
        guard address.family == queues[index].family else {
            throw DemikernelError(.addressFamilyNotSupported, "the address is of another family than the socket")
        }
    }

    /// `listen(2)`. Throws EDESTADDRREQ for a socket that is not bound, EISCONN, EINVAL for a backlog below 1, EADDRINUSE, EOPNOTSUPP for UDP.
    package mutating func listen(_ descriptor: QueueDescriptor, backlog: Int) throws(DemikernelError) {
        submissionTurn()
        let index = try socketIndex(descriptor)
        guard backlog >= 1 else { throw DemikernelError(.invalidArgument, "the backlog is below 1") }
        guard !queues[index].kind.isDatagram else { throw DemikernelError(.notSupportedOnSocket, "a UDP socket does not listen") }
        switch queues[index].state {
        case .unbound: throw DemikernelError(.addressRequired, "the socket is not bound")
        case .connected: throw DemikernelError(.socketIsConnected, "the socket is connected")
        case .connecting: throw DemikernelError(.nowInProgress, "the socket is connecting")
        case .listening: throw DemikernelError(.invalidArgument, "the socket listens already")
        case .bound: break
        }
        if queues[index].kind.isNetwork { return try listenNetwork(index, backlog: backlog) }
        let backlog = Int32(min(backlog, configuration.catnap.backlogMaximum))
        // From here on, so that connections in TIME_WAIT keep neither this server nor a restarted one from the port; a listener itself does.
        _ = setFlag(queues[index].fileDescriptor, SOL_SOCKET, SO_REUSEADDR, true)
        guard Glibc.listen(queues[index].fileDescriptor, backlog) == 0 else {
            let error = Errno.last
            _ = setFlag(queues[index].fileDescriptor, SOL_SOCKET, SO_REUSEADDR, false)
            throw DemikernelError(error, "the socket cannot listen")
        }
        queues[index].kind = .kernelListener
        queues[index].state = .listening
    }

    /// `accept4(2)`. Throws EINVAL for a socket that does not listen.
    package mutating func accept(_ descriptor: QueueDescriptor) throws(DemikernelError) -> UInt32 {
        submissionTurn()
        let index = try socketIndex(descriptor)
        guard queues[index].state == .listening else { throw DemikernelError(.invalidArgument, "the socket does not listen") }
        let slot = try begin(.accept, on: index)
        if queues[index].kind.isNetwork { submitNetworkReader(index, slot) } else { submitReader(index, slot) }
        return slot
    }

    /// `connect(2)`. Throws EOPNOTSUPP for a listener, EINPROGRESS while connecting, EISCONN.
    package mutating func connect(_ descriptor: QueueDescriptor, to address: SocketAddress) throws(DemikernelError) -> UInt32 {
        submissionTurn()
        let index = try socketIndex(descriptor)
        switch queues[index].state {
        case .listening: throw DemikernelError(.notSupportedOnSocket, "the socket listens")
        case .connecting: throw DemikernelError(.nowInProgress, "the socket is connecting")
        case .connected where queues[index].kind.isStream: throw DemikernelError(.socketIsConnected, "the socket is connected")
        case .unbound, .bound, .connected: break
        }
        try requireFamily(address, of: index)
        let slot = try begin(.connect, on: index)
        operations[slot].address = address
        queues[index].writers.append(slot, in: operations)
        if queues[index].kind.isNetwork {
            connectNetwork(index, slot, to: address)
            return slot
        }
        if unsafe withSocketAddress(address, { unsafe Glibc.connect(queues[index].fileDescriptor, $0, $1) }) == 0 {
            queues[index].state = .connected
            completeWriter(index, slot)
        } else if Errno.last == .nowInProgress {
            queues[index].state = .connecting
            queues[index].flags.subtract([.readable, .writable])
            block(index)
        } else {
            completeWriter(index, slot, errno: Errno.last.rawValue)
        }
        return slot
    }

    /// Whether a connection attempt has ended: a second `connect(2)` says so, and after a failure leaves the socket ready for another
    /// attempt, which reading SO_ERROR does not (the next connect would answer ECONNABORTED).
    mutating func pollConnect(_ index: UInt32, _ slot: UInt32) {
        let result = unsafe withSocketAddress(operations[slot].address) { unsafe Glibc.connect(queues[index].fileDescriptor, $0, $1) }
        let error = result == 0 || Errno.last == .socketIsConnected ? 0 : Errno.last.rawValue
        guard error != Errno.alreadyInProcess.rawValue, error != Errno.nowInProgress.rawValue else { return }
        queues[index].state = error == 0 ? .connected : stateWithoutPeer(index)
        queues[index].flags.formUnion([.readable, .writable])
        completeWriter(index, slot, errno: error)
    }

    /// Where a socket stands whose connect came to nothing.
    mutating func stateWithoutPeer(_ index: UInt32) -> SocketState { queues[index].flags.contains(.bound) ? .bound : .unbound }

    /// Gives up a connection attempt, so that the socket can make another: `connect(2)` to AF_UNSPEC.
    mutating func abandonConnect(_ index: UInt32) {
        guard !queues[index].kind.isNetwork else { return abandonNetworkConnect(index) }
        var nobody = sockaddr()
        nobody.sa_family = sa_family_t(AF_UNSPEC)
        _ = unsafe Glibc.connect(queues[index].fileDescriptor, &nobody, socklen_t(MemoryLayout<sockaddr>.size))
        queues[index].state = stateWithoutPeer(index)
        queues[index].flags.formUnion([.readable, .writable])
    }

    /// One try at accepting for the first of a listener's readers; true where it completed.
    mutating func pollAccept(_ index: UInt32, _ slot: UInt32) -> Bool {
        guard queues.count < queues.capacity else {
            // The connection stays in the kernel's queue; the application may close something and accept again.
            completeReader(index, slot, errno: Errno.tooManyOpenFiles.rawValue)
            return true
        }
        var address: SocketAddress?
        let descriptor = unsafe receivingSocketAddress(into: &address) {
            unsafe dk_accept(queues[index].fileDescriptor, $0, $1)
        }
        guard descriptor >= 0 else {
            switch Errno.last {
            case .wouldBlock:
                queues[index].flags.remove(.readable)
                return false
            // Errors of the connection that was to be accepted, not of the listener (accept(2)): the next one is tried.
            case .interrupted, .connectionAbort:
                scheduler.application.wake(slot)
                return false
            case let error:
                completeReader(index, slot, errno: error.rawValue)
                return true
            }
        }
        let family = queues[index].family
        do throws(DemikernelError) {
            let accepted = try adopt(descriptor, .kernelStream, family)
            queues[accepted].state = .connected
            operations[slot].accepted = accepted
            operations[slot].setAddress(address ?? .any(queues[index].family, port: 0))
            completeReader(index, slot)
        } catch {
            completeReader(index, slot, errno: error.errno.rawValue)
        }
        return true
    }

    /// `shutdown(2)`. Throws ENOTCONN. Pushes that wait for room are sent first where the kernel has taken them; others fail with EPIPE.
    package mutating func shutdown(_ descriptor: QueueDescriptor, _ direction: ShutdownDirection) throws(DemikernelError) {
        submissionTurn()
        let index = try socketIndex(descriptor)
        guard queues[index].kind.isStream, queues[index].state == .connected else {
            throw DemikernelError(.socketNotConnected, "the socket is not connected")
        }
        if queues[index].kind.isNetwork { return shutdownNetwork(index, direction) }
        // Pushed data precedes the end of the stream: what waits for others goes at once, what waits for room in the kernel's buffer first.
        sendDeferred(of: index)
        if direction != .receive { queues[index].flags.insert(.sendShutdown) }
        if direction != .receive && !queues[index].writers.isEmpty {
            if direction == .both { _ = Glibc.shutdown(queues[index].fileDescriptor, Int32(SHUT_RD)) }
            return
        }
        guard Glibc.shutdown(queues[index].fileDescriptor, direction.rawValue) == 0 else {
            throw DemikernelError(.last, "the kernel refuses the shutdown")
        }
    }

    /// Sends the end of the stream that ``shutdown(_:_:)`` asked for, once the last push has gone.
    mutating func finishShutdown(_ index: UInt32) {
        guard queues[index].flags.contains(.sendShutdown), queues[index].writers.isEmpty else { return }
        _ = Glibc.shutdown(queues[index].fileDescriptor, Int32(SHUT_WR))
    }

    /// `close(2)`: operations that are pending complete as failed with ECANCELED. Throws EBADF.
    package mutating func close(_ descriptor: QueueDescriptor) throws(DemikernelError) {
        submissionTurn()
        guard let index = queues.index(of: descriptor) else { throw .badDescriptor }
        if queues[index].kind == .kernelFile { return closeFile(index) }
        if queues[index].kind.isNetwork { return closeNetwork(index) }
        sendDeferred(of: index)
        cancelAll(index, errno: Errno.canceled.rawValue)
        settle(index)
        if queues[index].fileDescriptor >= 0 { Glibc.close(queues[index].fileDescriptor) }
        queues[index].ring.destroy()
        queues.remove(index)
    }

    /// `getsockname(2)`. Throws EBADF, ENOTSOCK.
    package mutating func localAddress(_ descriptor: QueueDescriptor) throws(DemikernelError) -> SocketAddress {
        let index = try socketIndex(descriptor)
        if queues[index].kind.isNetwork { return networkLocalAddress(index) }
        var address: SocketAddress?
        let result = unsafe receivingSocketAddress(into: &address) { unsafe getsockname(queues[index].fileDescriptor, $0, $1) }
        guard result == 0, let address else { throw DemikernelError(.last, "the socket has no address") }
        return address
    }

    /// `getpeername(2)`. Throws EBADF, ENOTSOCK, ENOTCONN.
    package mutating func remoteAddress(_ descriptor: QueueDescriptor) throws(DemikernelError) -> SocketAddress {
        let index = try socketIndex(descriptor)
        if queues[index].kind.isNetwork { return try networkRemoteAddress(index) }
        var address: SocketAddress?
        let result = unsafe receivingSocketAddress(into: &address) { unsafe getpeername(queues[index].fileDescriptor, $0, $1) }
        guard result == 0, let address else { throw DemikernelError(.last, "the socket is not connected") }
        return address
    }

    /// `setsockopt(2)` of an option at SOL_SOCKET or IPPROTO_TCP whose value is `size` bytes. Throws EBADF, ENOTSOCK, ENOTSUP, ENOPROTOOPT;
    /// EINVAL, EDOM for a value out of range.
    @unsafe package mutating func setOption(
        _ descriptor: QueueDescriptor, _ level: Int32, _ name: Int32, _ value: UnsafeRawPointer, _ size: UInt32
    ) throws(DemikernelError) {
        let index = try optionIndex(descriptor, level)
        if queues[index].kind.isNetwork { return unsafe try setNetworkOption(index, level, name, value, Int(size)) }
        guard unsafe setsockopt(queues[index].fileDescriptor, level, name, value, size) == 0 else {
            throw DemikernelError(.last, "the socket does not take that option")
        }
    }

    /// `getsockopt(2)`: writes the value to `value`, which has room for `size` bytes, and answers how many it has. Throws EBADF, ENOTSOCK,
    /// ENOTSUP, ENOPROTOOPT; EINVAL where there is too little room.
    @unsafe package mutating func option(
        _ descriptor: QueueDescriptor, _ level: Int32, _ name: Int32, _ value: UnsafeMutableRawPointer, _ size: UInt32
    ) throws(DemikernelError) -> UInt32 {
        let index = try optionIndex(descriptor, level)
        // The kernel would cut the value off.
        let need = level == SOL_SOCKET && name == SO_LINGER ? MemoryLayout<linger>.size : MemoryLayout<Int32>.size
        guard size >= need else { throw DemikernelError(.invalidArgument, "there is too little room for the option's value") }
        if queues[index].kind.isNetwork { return unsafe UInt32(try networkOption(index, level, name, value)) }
        var count = size
        guard unsafe getsockopt(queues[index].fileDescriptor, level, name, value, &count) == 0 else {
            throw DemikernelError(.last, "the socket does not have that option")
        }
        return count
    }

    /// Throws EBADF, ENOTSOCK for what is no socket.
    mutating func requireSocket(_ descriptor: QueueDescriptor) throws(DemikernelError) { _ = try socketIndex(descriptor) }

    private mutating func optionIndex(_ descriptor: QueueDescriptor, _ level: Int32) throws(DemikernelError) -> UInt32 {
        let index = try socketIndex(descriptor)
        guard level == SOL_SOCKET || level == Int32(IPPROTO_TCP) else {
            throw DemikernelError(.notSupported, "options are those of SOL_SOCKET and IPPROTO_TCP")
        }
        sendDeferred(of: index)
        return index
    }
}

/// Lends an address as the `struct sockaddr` that a system call takes.
@inline(__always)
func withSocketAddress<Result>(_ address: SocketAddress, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
    var storage = sockaddr_storage()
    return unsafe withUnsafeMutablePointer(to: &storage) { storage in
        let size = unsafe address.write(to: UnsafeMutableRawPointer(storage))
        return unsafe body(UnsafeRawPointer(storage).assumingMemoryBound(to: sockaddr.self), socklen_t(size))
    }
}

/// Lends room for the `struct sockaddr` that a system call fills in, and reads it.
@inline(__always)
func receivingSocketAddress<Result>(
    into address: inout SocketAddress?, _ body: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Result
) -> Result {
    var storage = sockaddr_storage()
    var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
    return unsafe withUnsafeMutablePointer(to: &storage) { storage in
        let result = unsafe body(UnsafeMutableRawPointer(storage).assumingMemoryBound(to: sockaddr.self), &size)
        address = unsafe SocketAddress(reading: UnsafeRawPointer(storage), byteCount: Int(size))
        return result
    }
}

extension DemikernelError {
    package static var badDescriptor: DemikernelError { DemikernelError(.badFileDescriptor, "the queue descriptor is not open") }
}
