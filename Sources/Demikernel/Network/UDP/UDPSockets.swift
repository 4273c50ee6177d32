/// A UDP socket: stale after ``UDP/close(_:events:)``, and recognised as such.
package struct UDPSocket: BitwiseCopyable, Hashable, Sendable {
    let slot: UInt32
    let generation: UInt32
    var key: Slab<UDP.State>.Key { Slab<UDP.State>.Key(slot: slot, generation: generation) }
}

/// The user datagram protocol. RFC 768; RFC 1122, section 4.1; RFC 8085 for what applications must see to themselves.
///
/// Datagrams come and go without being copied (small ones are, where that is faster), one lookup by port finds the socket; nothing is
/// allocated but the heap objects of packets. Bounded: datagrams and bytes of each socket, datagrams of all.
package struct UDP: ~Copyable {
    /// One socket. Datagrams that wait are a list through `UDP.queue`.
    struct State: BitwiseCopyable {
        /// To the last destination, which was `pathTarget`; none before the first datagram.
        var path = NetworkPath.none
        var pathTarget = IPAddress.ipv6Unspecified
        /// The wildcard address of the family where none is bound.
        var local: IPAddress
        var remote: IPAddress
        var localPort: UInt16
        var remotePort: UInt16 = 0
        var tag: UInt32
        var first = UInt32.max
        var last = UInt32.max
        var waiting: UInt32 = 0
        var isConnected = false
        /// A reader of the libOS's waits: the next datagram goes to it at once. None is waiting.
        var readerWaits = false
        var isWildcard: Bool
        var reuses: Bool
        /// What the socket's owner asked for: restored when the connection is dissolved.
        var boundWildcard: Bool
        var waitingBytes = 0
        var error: Int32 = 0
        /// The next socket of the same port and kind.
        var next = UInt32.max
        /// Datagrams that found the queue full.
        var drops: UInt64 = 0

        /// A datagram has gone, to the peer where there is one: the way is looked for by the first.
        @inline(__always) var hasSent: Bool { path.mtu != 0 }
    }
    /// The sockets of a port: a list of those without a peer, and one of those with one. Slots plus one, 0 for none.
    struct Port: BitwiseCopyable {
        var open: UInt32
        var connected: UInt32
    }
    /// A datagram that waits.
    struct Waiting: BitwiseCopyable {
        var segment: Segment
        var source: IPAddress
        var port: UInt16
        var next: UInt32
    }

    var sockets: Slab<State>
    var ports: MappedMemory<Port>
    var connected: HashIndex
    let hash: NetworkHash
    var queue: MappedMemory<Waiting>
    var queueUsed: UInt32 = 0
    var queueFree = UInt32.max
    let heap: HeapReference
    let receiveDatagrams: UInt32
    let receiveBytes: Int
    var random: NetworkRandom
    package internal(set) var counters = UDPCounters()

    package init(_ configuration: UDPConfiguration, heap: HeapReference, entropy: NetworkEntropy) throws(DemikernelError) {
        let sockets = try Slab<State>(capacity: max(1, configuration.socketsMaximum))
        let ports = try MappedMemory<Port>(count: 65_536)
        let connected = try HashIndex(capacity: max(1, configuration.socketsMaximum))
        let queue = try MappedMemory<Waiting>(count: max(1, configuration.datagramsMaximum))
        self.sockets = sockets
        self.ports = ports
        self.connected = connected
        self.queue = queue
        self.heap = heap
        receiveDatagrams = UInt32(clamping: configuration.receiveDatagrams)
        receiveBytes = configuration.receiveBytes
        hash = NetworkHash(entropy.words.3, entropy.words.0)
        random = NetworkRandom(seed: entropy.words.1 ^ 0x7564_7000)
    }

    deinit {
        var slot: UInt32 = 0
        while let live = sockets.firstLive(from: slot) {
            var number = sockets[unchecked: live].first
            while number != .max {
                unsafe queue.base[Int(number)].segment.release()
                number = unsafe queue.base[Int(number)].next
            }
            slot = live + 1
        }
    }

    // MARK: - Names

    /// Opens a socket on `local`: the wildcard address of a family for all of this host's, port 0 for one that is free.
    ///
    /// `tag` names the socket in events. Throws EADDRNOTAVAIL where the address is not this host's, EADDRINUSE where another socket has the
    /// port (but where both allow `reuse`; then the younger one gets what comes), ENOBUFS where there are too many sockets.
    /// Complexity: O(sockets of the port), with port 0 O(ports) at worst.
    package mutating func bind(_ local: SocketAddress, reuse: Bool, tag: UInt32, ip: inout NetworkLayer) throws(DemikernelError) -> UDPSocket {
        let address = IPAddress(local)
        guard address.isUnspecified || ip.isOwn(address) || ip.isBroadcast(address) || address.isMulticast else {
            throw DemikernelError(.addressNotAvailable, "the address is not one of this host's")
        }
        var port = local.port
        if port == 0 {
            port = try freePort()
        } else if isTaken(port, by: address, reuse: reuse) {
            throw DemikernelError(.addressInUse, "another socket has the port")
        }
        let wildcard = address.isUnspecified
        let state = State(
            local: address, remote: address, localPort: port, tag: tag, isWildcard: wildcard, reuses: reuse, boundWildcard: wildcard)
        guard let key = sockets.insert(state) else { throw DemikernelError(.noBufferSpace, "there are too many sockets") }
        enlist(key.slot)
        return UDPSocket(slot: key.slot, generation: key.generation)
    }

    /// Sets the peer: the one that `send` without an address goes to, and the only one that anything is received from, errors included.
    ///
    /// Throws EBADF for a closed socket, EADDRNOTAVAIL for port 0, EAFNOSUPPORT for another family, and what ``NetworkLayer/path(from:to:)`` throws.
    package mutating func connect(_ socket: UDPSocket, to remote: SocketAddress, ip: inout NetworkLayer) throws(DemikernelError) {
        guard sockets.contains(socket.key) else { throw .closedSocket }
        let target = IPAddress(remote)
        let slot = socket.slot
        guard target.isIPv4 == sockets[unchecked: slot].local.isIPv4 else { throw .otherFamily }
        guard remote.port != 0 else { throw DemikernelError(.addressNotAvailable, "port 0 is nobody's") }
        let bound = sockets[unchecked: slot].boundWildcard ? nil : Optional(sockets[unchecked: slot].local)
        let path = try ip.path(from: bound, to: target)
        delist(slot)
        sockets[unchecked: slot].isConnected = true
        sockets[unchecked: slot].isWildcard = false
        sockets[unchecked: slot].local = path.source
        sockets[unchecked: slot].remote = path.destination
        sockets[unchecked: slot].remotePort = remote.port
        // Nothing has been sent to this peer: the first datagram looks for the way again, and from then on errors are believed.
        sockets[unchecked: slot].path = .none
        sockets[unchecked: slot].error = 0
        enlist(slot)
    }

    /// Dissolves the connection. Throws EBADF.
    package mutating func disconnect(_ socket: UDPSocket) throws(DemikernelError) {
        guard sockets.contains(socket.key) else { throw .closedSocket }
        let slot = socket.slot
        guard sockets[unchecked: slot].isConnected else { return }
        delist(slot)
        sockets[unchecked: slot].isConnected = false
        sockets[unchecked: slot].remotePort = 0
        sockets[unchecked: slot].path = .none
        if sockets[unchecked: slot].boundWildcard {
            sockets[unchecked: slot].isWildcard = true
            sockets[unchecked: slot].local = sockets[unchecked: slot].local.isIPv4 ? .ipv4Unspecified : .ipv6Unspecified
        }
        enlist(slot)
    }

    /// Ends the socket; what waits in it is released. A closed socket is ignored.
    package mutating func close(_ socket: UDPSocket, events: inout SocketEvents) {
        guard sockets.contains(socket.key) else { return }
        let slot = socket.slot
        while let waiting = takeWaiting(slot) { waiting.segment.release() }
        delist(slot)
        events.forget(tag: sockets[unchecked: slot].tag)
        _ = sockets.remove(unchecked: slot)
    }

    /// Where the socket is bound; nil for a closed one.
    package mutating func localAddress(_ socket: UDPSocket) -> SocketAddress? {
        guard sockets.contains(socket.key) else { return nil }
        return SocketAddress(sockets[unchecked: socket.slot].local, port: sockets[unchecked: socket.slot].localPort)
    }

    /// The peer; nil where there is none.
    package mutating func remoteAddress(_ socket: UDPSocket) -> SocketAddress? {
        guard sockets.contains(socket.key), sockets[unchecked: socket.slot].isConnected else { return nil }
        return SocketAddress(sockets[unchecked: socket.slot].remote, port: sockets[unchecked: socket.slot].remotePort)
    }

    /// Sets or clears what `bind` was told about `reuse`, for sockets that come later.
    package mutating func setReuse(_ socket: UDPSocket, _ reuse: Bool) {
        guard sockets.contains(socket.key) else { return }
        sockets[unchecked: socket.slot].reuses = reuse
    }

    /// The errno that ICMP brought to a connected socket, once; 0 for none. RFC 1122, section 4.1.3.3.
    @inline(__always)
    package mutating func pendingError(_ socket: UDPSocket) -> Int32 {
        guard sockets.contains(socket.key) else { return 0 }
        let error = sockets[unchecked: socket.slot].error
        if error != 0 { sockets[unchecked: socket.slot].error = 0 }
        return error
    }

    /// Whether ``pendingError(_:)`` has one to tell.
    package mutating func hasError(_ socket: UDPSocket) -> Bool { sockets.contains(socket.key) && sockets[unchecked: socket.slot].error != 0 }

    /// How many bytes the datagram has that `read` takes next; nil where none waits.
    package mutating func nextByteCount(_ socket: UDPSocket) -> Int? {
        guard sockets.contains(socket.key), sockets[unchecked: socket.slot].first != .max else { return nil }
        return queue[Int(sockets[unchecked: socket.slot].first)].segment.byteCount
    }

    /// Datagrams that this socket has lost because its queue was full.
    package mutating func drops(_ socket: UDPSocket) -> UInt64 { sockets.contains(socket.key) ? sockets[unchecked: socket.slot].drops : 0 }

    /// How many sockets are open.
    package var socketCount: Int { sockets.count }
}

extension DemikernelError {
    static var closedSocket: DemikernelError { DemikernelError(.badFileDescriptor, "the socket is closed") }
    static var otherFamily: DemikernelError {
        DemikernelError(.addressFamilyNotSupported, "the address is of another family than the socket")
    }
}
