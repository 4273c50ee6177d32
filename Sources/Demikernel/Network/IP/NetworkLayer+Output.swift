// Packets to frames.

extension NetworkLayer {
    /// Where a transport header begins in its object: room for Ethernet (14), an 802.1Q tag (4) and IPv6 (40), a cache line's multiple.
    package static var transportOffset: Int { 64 }

    /// A segment of `transportBytes`, with room for the lower headers in front; null where the heap is exhausted (counted).
    @inline(__always)
    package mutating func makePacket(transportBytes: Int) -> Segment {
        let segment = heap.allocateSegment(transportBytes, headroom: NetworkLayer.transportOffset)
        if segment.isNull { counters.allocationFailures &+= 1 }
        return segment
    }

    /// What `send` puts in front of a transport header: the IP and the Ethernet header, in bytes.
    @inline(__always)
    package func headerBytes(on path: NetworkPath) -> Int { path.headerBytes &+ linkHeaderBytes }

    /// Whether a transport may leave the checksum undone on this path (`FrameOffload.Flags.partialChecksum`), for a packet that is not to be
    /// fragmented: the device fills it in, or the packet never leaves this host.
    @inline(__always)
    package func leavesChecksum(on path: NetworkPath) -> Bool { offloadsChecksums || path.isLocal }

    /// Puts the IP and Ethernet headers in front of `header`, which begins with the transport header, and queues the frame.
    ///
    /// Takes both references in every case, and does not fail: a frame whose neighbour is not known waits for it, one that has no room is
    /// dropped and counted, as a wire would. Look at ``canSend`` before.
    ///
    /// - Parameters:
    ///   - header: made by ``makePacket(transportBytes:)``, or a segment whose object nobody else holds, with the headers' room in front.
    ///   - payload: what follows it: slices of the application's buffers.
    ///   - path: brought up to date where that is needed; its MTU may be smaller afterwards.
    ///   - dontFragment: a packet larger than the path takes is dropped instead of being sent in pieces.
    ///   - offload: with `partialChecksum`, `checksumOffset` alone has to be set; the start is filled in here.
    @inline(__always)
    package mutating func send(
        _ header: Segment, payload: SegmentList, on path: inout NetworkPath, proto: UInt8, traffic: UInt8, dontFragment: Bool,
        offload: FrameOffload, now: UInt64
    ) {
        var head = header
        let total = 20 &+ header.byteCount &+ payload.byteCount
        // What is always so in a conversation: one comparison each, then fifteen words written.
        if path.epoch == epoch, path.isIPv4, total <= Int(path.mtu), dontFragment, isUntagged, path.neighbour < NetworkPath.multicast,
            neighbours[path.neighbour].freshUntil > now, !outgoing.isFull, head.prepend(34)
        {
            let bytes = head.packet
            let destination = neighbours[path.neighbour].linkAddress.rawValue
            bytes.store64(destination &<< 16 | macAddress.rawValue &>> 32, at: 0)
            bytes.store32(UInt32(truncatingIfNeeded: macAddress.rawValue), at: 8)
            bytes.store32(0x0800_4500 | UInt32(traffic), at: 12)
            // An atomic datagram: its identification means nothing. RFC 6864, section 4.1.
            let word0 = 0x4500_0000 | UInt32(traffic) &<< 16 | UInt32(truncatingIfNeeded: total)
            let word2 = UInt32(hopLimit) &<< 24 | UInt32(proto) &<< 16
            let source = path.source.ipv4
            let target = path.destination.ipv4
            let sum = UInt64(word0) &+ 0x4000 &+ UInt64(word2) &+ UInt64(source) &+ UInt64(target)
            bytes.store64(UInt64(truncatingIfNeeded: total) &<< 48 | 0x4000_0000 | UInt64(word2 &>> 16), at: 16)
            bytes.store16(InternetChecksum.foldHostOrder(sum), at: 24)
            bytes.store64(UInt64(source) &<< 32 | UInt64(target), at: 26)
            var offload = offload
            offload.checksumStart = 34
            counters.framesSent &+= 1
            outgoing.append(Frame(head, rest: payload, offload: offload))
            return
        }
        sendSlow(
            header, payload: payload, on: &path, proto: proto, traffic: traffic, dontFragment: dontFragment, offload: offload, now: now)
    }

    /// As `send`, for every other case.
    @inline(never)
    mutating func sendSlow(
        _ header: Segment, payload: SegmentList, on path: inout NetworkPath, proto: UInt8, traffic: UInt8, dontFragment: Bool,
        offload: FrameOffload, now: UInt64
    ) {
        let transportBytes = header.byteCount + payload.byteCount
        guard refresh(&path) else {
            counters.packetsUnroutable &+= 1
            return Frame(header, rest: payload).release()
        }
        guard transportBytes <= path.transportBytesMaximum else {
            guard !dontFragment, offload.flags.isEmpty, transportBytes <= 65_515 else {
                counters.packetsTooBig &+= 1
                return Frame(header, rest: payload).release()
            }
            return sendFragments(header, payload: payload, on: path, proto: proto, traffic: traffic, now: now)
        }
        var head = header
        guard head.prepend(path.headerBytes) else {
            counters.transmitDrops &+= 1
            return Frame(header, rest: payload).release()
        }
        if path.isIPv4 {
            IPv4Header(
                source: path.source.ipv4, destination: path.destination.ipv4, ipProtocol: IPProtocol(rawValue: proto),
                payloadLength: transportBytes, timeToLive: hopLimit(on: path),
                identification: dontFragment ? 0 : UInt16(truncatingIfNeeded: identification(for: path.destination)),
                dontFragment: dontFragment, differentiatedServices: traffic &>> 2, ecn: ECN(lowBitsOf: traffic)
            ).emit(into: head.packet)
        } else {
            IPv6Header(
                source: path.source, destination: path.destination, nextHeader: IPProtocol(rawValue: proto), payloadLength: transportBytes,
                hopLimit: hopLimit(on: path), differentiatedServices: traffic &>> 2, ecn: ECN(lowBitsOf: traffic)
            ).emit(into: head.packet)
        }
        var offload = offload
        offload.checksumStart = UInt16(linkHeaderBytes + path.headerBytes)
        transmit(Frame(head, rest: payload, offload: offload), on: path, now: now)
    }

    /// Multicast stays on the link unless somebody says otherwise: RFC 1112, section 6.1.
    func hopLimit(on path: NetworkPath) -> UInt8 { path.neighbour == NetworkPath.multicast ? 1 : hopLimit }

    /// The next identification for datagrams to `destination` that may be fragmented. RFC 6864, section 4.3; RFC 7739, section 5.3.
    mutating func identification(for destination: IPAddress) -> UInt32 {
        let number = Int(hash(destination) & 255)
        identifications[number] &+= 1
        return identifications[number]
    }

    // MARK: - Frames

    /// 14, or 18 with a tag.
    var linkHeaderBytes: Int { isUntagged ? 14 : 18 }

    func emitLinkHeader(to destination: MACAddress, _ type: EtherType, into bytes: PacketBytes) {
        EthernetHeader(
            destination: destination, source: macAddress, etherType: type, tag: isUntagged ? nil : VLANTag(identifier: vlan)
        ).emit(into: bytes)
    }

    /// Puts the Ethernet header in front of a packet, whose references are taken, and sends it the path's way.
    mutating func transmit(_ packet: Frame, on path: NetworkPath, now: UInt64) {
        var frame = packet
        guard frame.head.prepend(linkHeaderBytes) else {
            counters.transmitDrops &+= 1
            return packet.release()
        }
        let type = path.isIPv4 ? EtherType.ipv4 : .ipv6
        switch path.neighbour {
        case NetworkPath.local:
            emitLinkHeader(to: macAddress, type, into: frame.head.packet)
            loop(frame)
        case NetworkPath.broadcast:
            emitLinkHeader(to: .broadcast, type, into: frame.head.packet)
            push(frame)
        case NetworkPath.multicast:
            emitLinkHeader(to: path.destination.multicastMACAddress, type, into: frame.head.packet)
            push(frame)
        default:
            emitLinkHeader(to: neighbours[path.neighbour].linkAddress, type, into: frame.head.packet)
            dispatch(frame, to: path.neighbour, now: now)
        }
    }

    /// Queues a whole frame for the device.
    @inline(__always)
    mutating func push(_ frame: Frame) {
        guard !outgoing.isFull else {
            counters.transmitDrops &+= 1
            return frame.release()
        }
        counters.framesSent &+= 1
        outgoing.append(frame)
    }

    /// Queues a frame for this host itself, in one piece, as a device would bring it.
    private mutating func loop(_ frame: Frame) {
        guard !looped.isFull else {
            counters.transmitDrops &+= 1
            return frame.release()
        }
        // What stays in memory needs no checksum.
        var single = Frame(frame.head, offload: FrameOffload(flags: .checksumIsValid))
        if !frame.rest.isEmpty {
            let copy = heap.allocateSegment(frame.byteCount)
            guard !copy.isNull else {
                counters.allocationFailures &+= 1
                return frame.release()
            }
            _ = unsafe frame.copyBytes(to: copy.bytes)
            frame.release()
            single.head = copy
        }
        counters.framesLooped &+= 1
        looped.append(single)
    }
}
