import Glibc
import SystemPackage

extension UDP {
    /// The largest datagram: what an IPv4 packet holds.
    package static var payloadMaximum: Int { 65_507 }
    /// Up to here a copy behind the header is cheaper than a second piece.
    private static var copiedMaximum: Int { 512 }

    /// Sends a datagram to `remote`, or to the peer where that is nil. Takes the references where it does not throw.
    ///
    /// Throws EBADF for a closed socket, EDESTADDRREQ without a peer, EMSGSIZE over 65,507 bytes, EAFNOSUPPORT, EAGAIN where frames wait for
    /// the device (try again when they are gone), ENOBUFS where the heap is exhausted, and what ``NetworkLayer/path(from:to:)`` throws.
    @inline(always)
    package mutating func send(
        _ socket: UDPSocket, _ payload: SegmentList, to remote: SocketAddress? = nil, ip: inout NetworkLayer, now: UInt64
    ) throws(DemikernelError) {
        guard sockets.contains(socket.key) else { throw .closedSocket }
        let slot = socket.slot
        var port = sockets[unchecked: slot].remotePort
        var target = sockets[unchecked: slot].remote
        if let remote {
            port = remote.port
            target = IPAddress(remote)
        }
        guard ip.canSend else { throw stalled() }
        if sockets[unchecked: slot].path.epoch != ip.epoch || sockets[unchecked: slot].pathTarget != target || port == 0 {
            try findPath(slot, to: target, port, isGiven: remote != nil, ip: &ip)
        }
        let count = payload.byteCount
        guard payload.count == 1, count <= UDP.copiedMaximum, UDPHeader.byteCount &+ count <= sockets[unchecked: slot].path.transportBytesMaximum
        else { return try sendLarge(slot, payload, port, ip: &ip, now: now) }
        let length = UDPHeader.byteCount &+ count
        let source = sockets[unchecked: slot].localPort
        let pseudo = sockets[unchecked: slot].path.pseudoHeader(.udp, length: length)
        let leavesChecksum = ip.leavesChecksum(on: sockets[unchecked: slot].path)
        let data = payload.first.packet
        var packet = payload.first
        var sum: UInt64 = 0
        if packet.headroom >= UDPHeader.byteCount &+ ip.headerBytes(on: sockets[unchecked: slot].path), packet.isSoleReference {
            // What is answered as it came, in a buffer that nobody else holds, has room for the headers where it lies.
            _ = packet.prepend(UDPHeader.byteCount)
            if !leavesChecksum { sum = InternetChecksum.sum(data) }
        } else {
            packet = ip.makePacket(transportBytes: length)
            guard !packet.isNull else { throw .heapExhausted }
            if leavesChecksum {
                packet.packet.copy(from: data, at: UDPHeader.byteCount)
            } else {
                sum = InternetChecksum.copyAndSum(from: data, to: packet.packet.slice(from: UDPHeader.byteCount))
            }
            payload.first.release()
        }
        var checksum: UInt16
        var offload = FrameOffload.none
        if leavesChecksum {
            checksum = ~InternetChecksum.fold(pseudo)
            offload = FrameOffload(flags: .partialChecksum, checksumOffset: 6)
        } else {
            checksum = UDPHeader(sourcePort: source, destinationPort: port, payloadLength: count).checksum(payloadSum: sum, pseudoHeader: pseudo)
        }
        packet.packet.store64(
            UInt64(source) &<< 48 | UInt64(port) &<< 32 | UInt64(truncatingIfNeeded: length) &<< 16 | UInt64(checksum), at: 0)
        counters.datagramsSent &+= 1
        ip.send(
            packet, payload: .empty, on: &sockets[unchecked: slot].path, proto: IPProtocol.udp.rawValue, traffic: 0, dontFragment: true,
            offload: offload, now: now)
    }

    @inline(never)
    private mutating func stalled() -> DemikernelError {
        counters.sendStalls &+= 1
        return DemikernelError(.resourceTemporarilyUnavailable, "frames wait for the device")
    }

    /// Finds the way to a destination, for this and the next datagrams there.
    @inline(never)
    private mutating func findPath(_ slot: UInt32, to target: IPAddress, _ port: UInt16, isGiven: Bool, ip: inout NetworkLayer)
        throws(DemikernelError)
    {
        guard isGiven || sockets[unchecked: slot].isConnected else {
            throw DemikernelError(Errno(rawValue: EDESTADDRREQ), "the socket has no peer: name one or connect")
        }
        guard port != 0 else { throw DemikernelError(.invalidArgument, "port 0 is nobody's") }
        let local = sockets[unchecked: slot].local
        guard target.isIPv4 == local.isIPv4 else { throw .otherFamily }
        // A socket that is bound to a group or broadcast address sends from the interface's own.
        let isName = !sockets[unchecked: slot].isWildcard && ip.isOwn(local)
        sockets[unchecked: slot].path = try ip.path(from: isName ? local : nil, to: target)
        sockets[unchecked: slot].pathTarget = target
    }

    /// What is not copied, or does not fit into one packet.
    @inline(never)
    private mutating func sendLarge(_ slot: UInt32, _ payload: SegmentList, _ port: UInt16, ip: inout NetworkLayer, now: UInt64)
        throws(DemikernelError)
    {
        let count = payload.byteCount
        guard count <= UDP.payloadMaximum else { throw DemikernelError(.messageTooLong, "a datagram has 65,507 bytes at most") }
        let path = sockets[unchecked: slot].path
        let length = UDPHeader.byteCount + count
        let fits = length <= path.transportBytesMaximum
        let copies = fits && count <= UDP.copiedMaximum
        let packet = ip.makePacket(transportBytes: copies ? length : UDPHeader.byteCount)
        guard !packet.isNull else { throw .heapExhausted }
        let header = UDPHeader(sourcePort: sockets[unchecked: slot].localPort, destinationPort: port, payloadLength: count)
        let pseudo = path.pseudoHeader(.udp, length: length)
        var offload = FrameOffload.none
        if fits, ip.leavesChecksum(on: path) {
            header.emit(into: packet.packet, checksum: ~InternetChecksum.fold(pseudo))
            offload = FrameOffload(flags: .partialChecksum, checksumOffset: 6)
        } else {
            var sum = InternetChecksum.Accumulator()
            for number in 0..<payload.count where payload[number].byteCount > 0 { sum.add(payload[number].packet) }
            header.emit(into: packet.packet, checksum: header.checksum(payloadSum: sum.sum, pseudoHeader: pseudo))
        }
        counters.datagramsSent &+= 1
        if copies {
            _ = unsafe payload.copyBytes(to: UnsafeMutableRawBufferPointer(rebasing: packet.bytes[UDPHeader.byteCount...]))
            payload.releaseAll()
        }
        ip.send(
            packet, payload: copies ? .empty : payload, on: &sockets[unchecked: slot].path, proto: IPProtocol.udp.rawValue, traffic: 0,
            dontFragment: fits, offload: offload, now: now)
    }
}

extension DemikernelError {
    static var heapExhausted: DemikernelError { DemikernelError(.noBufferSpace, "the heap is exhausted") }
}
