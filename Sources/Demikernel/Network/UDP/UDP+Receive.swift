/// What `read` found on a socket: an error, a datagram, or nothing.
package struct UDPReading: BitwiseCopyable {
    /// A positive errno that ICMP brought; else 0.
    package internal(set) var errno: Int32 = 0
    /// The datagram; null for none.
    package internal(set) var segment = Segment.null
    package internal(set) var source = IPAddress.ipv4Unspecified
    package internal(set) var port: UInt16 = 0
    /// Whether the next `read` may have something without an event before it.
    package internal(set) var hasMore = false
}

extension UDP {
    /// Takes a frame of one segment, and its reference, where it is the ordinary one (``NetworkLayer/isOrdinary(_:)``) and has a whole, valid datagram
    /// for one of the sockets: nothing is written down between the frame and the socket. False, and nothing changed, for every other frame.
    @inline(always)
    package mutating func receivePredicted(_ head: Segment, vouched: Bool, ip: inout NetworkLayer, events: inout SocketEvents) -> Bool {
        let bytes = head.packet
        let length = bytes.count
        guard length >= 42, bytes.load8(23) == IPProtocol.udp.rawValue, ip.isOrdinary(bytes) else { return false }
        // Ports, length and checksum in one load.
        let word = bytes.load64(34)
        let count = Int(truncatingIfNeeded: word &>> 16 & 0xffff)
        guard count >= UDPHeader.byteCount, count &+ 20 <= Int(bytes.load16(16)) else { return false }
        let source = IPAddress(ipv4: bytes.load32(26))
        let slot = socket(from: source, to: IPAddress(ipv4: ip.primaryIPv4), ports: UInt32(truncatingIfNeeded: word &>> 32))
        guard slot != .max else { return false }
        // RFC 768: a checksum of 0 is none.
        if !vouched, word & 0xffff != 0 {
            let pseudo = InternetChecksum.pseudoHeader(
                source: bytes.load32(26), destination: ip.primaryIPv4, ipProtocol: .udp, length: count)
            guard InternetChecksum.isValid(InternetChecksum.sum(bytes.slice(34, count), initial: pseudo)) else { return false }
        }
        ip.counters.framesReceived &+= 1
        ip.counters.packetsReceived &+= 1
        var payload = head
        payload.trimLast(length &- 34 &- count)
        payload.trimFirst(42)
        enqueue(payload, from: source, UInt16(truncatingIfNeeded: word &>> 48), slot, events: &events)
        return true
    }

    /// A datagram for somebody. Takes the packet's reference.
    @inline(always)
    package mutating func receive(_ packet: inout ReceivedPacket, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        let bytes = packet.frame.packet
        guard bytes.count >= UDPHeader.byteCount else { return refuse(packet, isMalformed: true) }
        // Ports, length and checksum in one load.
        let word = bytes.load64(0)
        let length = Int(truncatingIfNeeded: word &>> 16 & 0xffff)
        guard length >= UDPHeader.byteCount, length <= bytes.count else { return refuse(packet, isMalformed: true) }
        guard packet.checksumIsValid || isIntact(&packet, length: length, checksum: UInt16(truncatingIfNeeded: word)) else {
            return refuse(packet, isMalformed: false)
        }
        guard !packet.isBroadcast else { return receiveForAll(packet, length: length, events: &events) }
        let slot = socket(from: packet.source, to: packet.destination, ports: UInt32(truncatingIfNeeded: word &>> 32))
        guard slot != .max else { return refuseClosed(packet, ip: &ip, now: now) }
        var payload = packet.frame
        payload.trimLast(bytes.count &- length)
        payload.trimFirst(UDPHeader.byteCount)
        enqueue(payload, from: packet.source, UInt16(truncatingIfNeeded: word &>> 48), slot, events: &events)
    }

    /// RFC 768: a checksum of 0 is none. RFC 8200, section 8.1: over IPv6 there has to be one.
    @inline(__always)
    private mutating func isIntact(_ packet: inout ReceivedPacket, length: Int, checksum: UInt16) -> Bool {
        if checksum == 0 { return packet.source.isIPv4 }
        let pseudo = InternetChecksum.pseudoHeader(
            source: packet.source, destination: packet.destination, ipProtocol: .udp, length: length)
        return InternetChecksum.isValid(InternetChecksum.sum(packet.frame.packet.slice(0, length), initial: pseudo))
    }

    @inline(never)
    private mutating func refuse(_ packet: ReceivedPacket, isMalformed: Bool) {
        if isMalformed { counters.malformed &+= 1 } else { counters.badChecksum &+= 1 }
        packet.frame.release()
    }

    @inline(never)
    private mutating func refuseClosed(_ packet: ReceivedPacket, ip: inout NetworkLayer, now: UInt64) {
        counters.noPort &+= 1
        ip.sendPortUnreachable(packet, now: now)
        packet.frame.release()
    }

    /// To a group or a broadcast address: every socket of the port that would take it gets it. RFC 1122, section 4.1.3.5.
    @inline(never)
    private mutating func receiveForAll(_ packet: ReceivedPacket, length: Int, events: inout SocketEvents) {
        let bytes = packet.frame.packet
        let port = ports[Int(bytes.load16(2))]
        var payload = packet.frame
        payload.trimLast(bytes.count - length)
        payload.trimFirst(UDPHeader.byteCount)
        let sourcePort = bytes.load16(0)
        var found = false
        for list in [port.open, port.connected] {
            var link = list
            while link != 0 {
                let state = sockets[unchecked: link &- 1]
                let isPeer = !state.isConnected || state.remote == packet.source && state.remotePort == sourcePort
                let isName = state.local == packet.destination || state.boundWildcard && state.local.isIPv4 == packet.destination.isIPv4
                if isPeer, isName {
                    payload.retain()
                    enqueue(payload, from: packet.source, sourcePort, link &- 1, events: &events)
                    found = true
                }
                link = state.next
            }
        }
        if !found { counters.noPort &+= 1 }
        packet.frame.release()
    }

    /// Puts a datagram at the end of a socket's queue, where there is room, and takes its reference in any case.
    @inline(__always)
    private mutating func enqueue(
        _ payload: Segment, from source: IPAddress, _ port: UInt16, _ slot: UInt32, events: inout SocketEvents
    ) {
        if sockets[unchecked: slot].readerWaits {
            sockets[unchecked: slot].readerWaits = false
            counters.datagramsReceived &+= 1
            return events.deliver(SocketDelivery(segment: payload, source: source, port: port), tag: sockets[unchecked: slot].tag)
        }
        var number = queueFree
        guard sockets[unchecked: slot].waiting < receiveDatagrams, sockets[unchecked: slot].waitingBytes < receiveBytes,
            number != .max || queueUsed < UInt32(truncatingIfNeeded: queue.count)
        else { return overflow(payload, slot) }
        if number == .max {
            number = queueUsed
            queueUsed &+= 1
        } else {
            queueFree = queue[Int(number)].next
        }
        queue[Int(number)] = Waiting(segment: payload, source: source, port: port, next: .max)
        let last = sockets[unchecked: slot].last
        if last == .max { sockets[unchecked: slot].first = number } else { queue[Int(last)].next = number }
        sockets[unchecked: slot].last = number
        sockets[unchecked: slot].waiting &+= 1
        // What is held is the whole frame.
        sockets[unchecked: slot].waitingBytes &+= payload.headroom &+ payload.byteCount
        counters.datagramsReceived &+= 1
        events.append(.readable, tag: sockets[unchecked: slot].tag)
    }

    @inline(never)
    private mutating func overflow(_ payload: Segment, _ slot: UInt32) {
        counters.receiveDrops &+= 1
        sockets[unchecked: slot].drops &+= 1
        payload.release()
    }

    /// The datagram that has waited longest, with where it came from; nil where there is none, and for a closed socket. The reference passes.
    @inline(__always)
    package mutating func receive(_ socket: UDPSocket) -> (SegmentList, SocketAddress)? {
        guard sockets.contains(socket.key), let waiting = takeWaiting(socket.slot) else { return nil }
        return (.single(waiting.segment), SocketAddress(waiting.source, port: waiting.port))
    }

    /// What there is to tell a reader: an error, once, else the datagram that has waited longest. Its reference passes. Nothing for a closed socket.
    @inline(always)
    package mutating func read(_ socket: UDPSocket) -> UDPReading {
        guard sockets.contains(socket.key) else { return UDPReading() }
        let error = sockets[unchecked: socket.slot].error
        if error != 0 {
            sockets[unchecked: socket.slot].error = 0
            return UDPReading(errno: error, hasMore: true)
        }
        guard let waiting = takeWaiting(socket.slot) else { return UDPReading() }
        return UDPReading(segment: waiting.segment, source: waiting.source, port: waiting.port, hasMore: waiting.next != .max)
    }

    /// Says whether a reader waits, so that the next datagram is delivered to it (``SocketEvent/Kinds/delivered``). Without effect where there is
    /// something to be read first.
    @inline(__always)
    package mutating func setReaderWaits(_ socket: UDPSocket, _ waits: Bool) {
        guard sockets.contains(socket.key) else { return }
        let isEmpty = sockets[unchecked: socket.slot].first == .max && sockets[unchecked: socket.slot].error == 0
        sockets[unchecked: socket.slot].readerWaits = waits && isEmpty
    }

    @inline(__always)
    mutating func takeWaiting(_ slot: UInt32) -> Waiting? {
        let number = sockets[unchecked: slot].first
        guard number != .max else { return nil }
        let waiting = queue[Int(number)]
        sockets[unchecked: slot].first = waiting.next
        if waiting.next == .max { sockets[unchecked: slot].last = .max }
        sockets[unchecked: slot].waiting &-= 1
        sockets[unchecked: slot].waitingBytes &-= waiting.segment.headroom &+ waiting.segment.byteCount
        queue[Int(number)].next = queueFree
        queueFree = number
        return waiting
    }

    // MARK: - Errors

    /// What ICMP says about a datagram of this host's from `source` to `destination`, of which `quotedTransport` is the beginning. Reported
    /// to the socket that is connected there, and has sent: RFC 1122, section 4.1.3.3; RFC 8085, section 5.2. A forger has to name a connection
    /// exactly, and finds nothing where nothing was said yet.
    package mutating func receiveError(
        source: IPAddress, destination: IPAddress, quotedTransport: PacketBytes, error: ICMPError, ip: inout NetworkLayer,
        events: inout SocketEvents, now: UInt64
    ) {
        guard quotedTransport.count >= UDPHeader.byteCount, quotedTransport.load16(4) >= UInt16(UDPHeader.byteCount) else {
            return ip.counters.icmpErrorsIgnored &+= 1
        }
        let both = UInt32(quotedTransport.load16(2)) &<< 16 | UInt32(quotedTransport.load16(0))
        let slot = connectedSocket(from: destination, to: source, ports: both)
        guard slot != .max, sockets[unchecked: slot].hasSent else { return ip.counters.icmpErrorsIgnored &+= 1 }
        counters.errorsReceived &+= 1
        // The path has taken note of a smaller MTU already: the next datagram is sent in pieces.
        if case .packetTooBig = error { return }
        sockets[unchecked: slot].error = error.errno.rawValue
        events.append(.failed, tag: sockets[unchecked: slot].tag)
    }

    /// Whether a datagram from `source` to `destination`, of which `quotedTransport` is the beginning, can be one of this host's: a socket that has
    /// sent has its port and no peer, and sends from that address, or has exactly this peer. Complexity: O(sockets of the port).
    package mutating func couldHaveSent(
        source: IPAddress, destination: IPAddress, quotedTransport: PacketBytes, ip: inout NetworkLayer
    ) -> Bool {
        guard quotedTransport.count >= UDPHeader.byteCount, quotedTransport.load16(4) >= UInt16(UDPHeader.byteCount) else { return false }
        let both = UInt32(quotedTransport.load16(2)) &<< 16 | UInt32(quotedTransport.load16(0))
        let port = ports[Int(both & 0xffff)]
        let slot = port.connected != 0 ? connectedSocket(from: destination, to: source, ports: both) : .max
        if slot != .max, sockets[unchecked: slot].hasSent { return true }
        var link = port.open
        while link != 0 {
            defer { link = sockets[unchecked: link &- 1].next }
            guard sockets[unchecked: link &- 1].hasSent else { continue }
            let local = sockets[unchecked: link &- 1].local
            // One that is bound to all addresses, a group or a broadcast sends from any of this host's.
            if local == source || local.isIPv4 == source.isIPv4 && !ip.isOwn(local) { return true }
        }
        return false
    }
}
