// Fragments that come in. RFC 791, section 3.2; RFC 8200, section 4.5.

extension NetworkLayer {
    /// Takes a fragment of an IPv4 datagram in; answers the datagram, with a header of its own, where it is complete. `whole` begins with the
    /// header and ends with the packet.
    mutating func reassemble(_ whole: Segment, _ view: IPv4HeaderView, now: UInt64) -> Segment? {
        counters.fragmentsReceived &+= 1
        let end = view.fragmentOffset + view.payloadLength
        guard view.payloadLength > 0, !view.moreFragments || view.payloadLength % 8 == 0, end <= IPv4Header.payloadLengthMaximum,
            // RFC 1858, section 3 and RFC 3128: a TCP header in two pieces is there to deceive a filter.
            view.ipProtocol != .tcp || view.fragmentOffset >= 16 || view.fragmentOffset == 0 && view.payloadLength >= TCPHeader.byteCount
        else {
            counters.fragmentsDropped &+= 1
            whole.release()
            return nil
        }
        var data = whole
        data.trimFirst(view.headerLength)
        let piece = ReassemblyTable.Piece(
            source: view.sourceAddress, destination: view.destinationAddress, identification: UInt32(view.identification),
            ipProtocol: view.ipProtocol, segment: data, headerBytes: UInt16(view.headerLength), start: view.fragmentOffset,
            more: view.moreFragments, traffic: view.differentiatedServices << 2 | view.ecn.rawValue, hopLimit: view.timeToLive)
        guard let number = reassembly.insert(piece, now: now, counters: &counters) else { return nil }
        return finishDatagram(number)
    }

    /// The same for IPv6; the fragment's data begins `offset` bytes behind the IPv6 header.
    mutating func receiveFragment(
        _ whole: Segment, _ view: IPv6HeaderView, _ header: IPv6FragmentHeader, offset: Int, isBroadcast: Bool, _ link: Link,
        into packet: inout ReceivedPacket, now: UInt64
    ) -> Arrival {
        counters.fragmentsReceived &+= 1
        let isForMany = isBroadcast || link.isBroadcast
        let length = view.payloadLength - offset
        // RFC 8200, section 4.5: the two errors that are to be reported, then what is not.
        if header.moreFragments, length % 8 != 0 {
            counters.fragmentsDropped &+= 1
            return refuse(whole, view, code: 0, pointer: 4, isBroadcast: isForMany, now: now)
        }
        if header.fragmentOffset + length > 65_535 {
            counters.fragmentsDropped &+= 1
            return refuse(whole, view, code: 0, pointer: IPv6Header.byteCount + offset - 6, isBroadcast: isForMany, now: now)
        }
        guard length > 0 else {
            counters.fragmentsDropped &+= 1
            return drop(whole)
        }
        if header.fragmentOffset == 0, !holdsHeaders(view.payload.slice(from: offset), header.nextHeader) {
            counters.fragmentsDropped &+= 1
            return refuse(whole, view, code: 3, pointer: 0, isBroadcast: isForMany, now: now)
        }
        var data = whole
        data.trimFirst(IPv6Header.byteCount + offset)
        let piece = ReassemblyTable.Piece(
            source: view.source, destination: view.destination, identification: header.identification, ipProtocol: header.nextHeader,
            segment: data, headerBytes: UInt16(IPv6Header.byteCount + offset), start: header.fragmentOffset, more: header.moreFragments,
            traffic: view.differentiatedServices << 2 | view.ecn.rawValue, hopLimit: view.hopLimit)
        let datagram: Segment
        if header.isAtomic {
            // RFC 6946, section 4: by itself, whatever else is there under the same name.
            guard let alone = rebuild(piece, data.byteCount) else { return drop(whole) }
            alone.packet.copy(from: data.packet, at: IPv6Header.byteCount)
            whole.release()
            datagram = alone
        } else {
            guard let number = reassembly.insert(piece, now: now, counters: &counters), let complete = finishDatagram(number) else {
                return .consumed
            }
            datagram = complete
        }
        var link = link
        link.checksumIsValid = trustsDevice || link.isLooped
        guard let view = IPv6HeaderView(datagram.packet) else { return drop(datagram) }
        return walk(datagram, view, isReassembled: true, isBroadcast: isBroadcast, link, into: &packet, now: now)
    }

    /// RFC 7112, section 5: the first fragment has all headers, the upper layer's included.
    private func holdsHeaders(_ data: PacketBytes, _ next: IPProtocol) -> Bool {
        switch IPv6ExtensionHeaders.walk(data, nextHeader: next, isReassembled: true) {
        case .upperLayer(.tcp, let offset, _): data.count - offset >= TCPHeader.byteCount
        case .upperLayer(.noNext, _, _): true
        case .upperLayer(_, let offset, _): data.count - offset >= 8
        case .malformed: false
        case .fragment, .unrecognised, .discard: true
        }
    }

    /// A complete datagram in one piece, with a header.
    private mutating func finishDatagram(_ number: Int) -> Segment? {
        let datagram = reassembly[number]
        var traffic = datagram.traffic
        if datagram.codepoints & 0b1000 != 0 {
            // RFC 3168, section 5.3: congestion that one fragment has met is the datagram's; with one that cannot say so it is dropped.
            guard datagram.codepoints & 0b0001 == 0 else {
                counters.fragmentsDropped &+= UInt64(datagram.fragmentCount)
                reassembly.remove(number)
                return nil
            }
            traffic |= ECN.congestionExperienced.rawValue
        }
        let piece = ReassemblyTable.Piece(
            source: datagram.source, destination: datagram.destination, identification: datagram.identification,
            ipProtocol: datagram.ipProtocol, segment: .null, headerBytes: 0, start: 0, more: false, traffic: traffic,
            hopLimit: datagram.hopLimit)
        guard let whole = rebuild(piece, datagram.totalBytes) else {
            reassembly.remove(number)
            return nil
        }
        reassembly.finish(number, into: whole.packet.slice(from: whole.byteCount - datagram.totalBytes))
        counters.datagramsReassembled &+= 1
        return whole
    }

    /// A packet with room for `bytes` of data behind the header that says so.
    private mutating func rebuild(_ piece: ReassemblyTable.Piece, _ bytes: Int) -> Segment? {
        let headerBytes = piece.source.isIPv4 ? IPv4Header.byteCount : IPv6Header.byteCount
        let whole = makePacket(transportBytes: headerBytes + bytes)
        guard !whole.isNull else { return nil }
        if piece.source.isIPv4 {
            IPv4Header(
                source: piece.source.ipv4, destination: piece.destination.ipv4, ipProtocol: piece.ipProtocol, payloadLength: bytes,
                timeToLive: piece.hopLimit, identification: UInt16(truncatingIfNeeded: piece.identification), dontFragment: false,
                differentiatedServices: piece.traffic >> 2, ecn: ECN(lowBitsOf: piece.traffic)
            ).emit(into: whole.packet)
        } else {
            IPv6Header(
                source: piece.source, destination: piece.destination, nextHeader: piece.ipProtocol, payloadLength: bytes,
                hopLimit: piece.hopLimit, differentiatedServices: piece.traffic >> 2, ecn: ECN(lowBitsOf: piece.traffic)
            ).emit(into: whole.packet)
        }
        return whole
    }

    /// Gives up datagrams whose time is over. RFC 792 and RFC 4443, section 3.3: the sender is told where its first fragment has come.
    mutating func expireDatagrams(_ now: UInt64) {
        while let first = reassembly.expire(now) {
            counters.reassemblyTimeouts &+= 1
            guard !first.isNull else { continue }
            if first.packet.load8(0) >> 4 == 4 {
                sendError(ICMPv4.timeExceeded(code: 1), about: first, now: now)
            } else {
                let isForMany = IPv6HeaderView(first.packet)?.destination.isMulticast ?? true
                sendError(ICMPv6.timeExceeded(code: 1), about: first, isBroadcast: isForMany, now: now)
            }
            first.release()
        }
    }
}
