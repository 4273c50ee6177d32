// Packets that are larger than the path takes. RFC 791, section 3.2; RFC 8200, section 4.5.

extension NetworkLayer {
    /// Sends `header` and `payload` in fragments, which are slices of them. Takes both references.
    mutating func sendFragments(_ header: Segment, payload: SegmentList, on path: NetworkPath, proto: UInt8, traffic: UInt8, now: UInt64) {
        defer { Frame(header, rest: payload).release() }
        let total = header.byteCount + payload.byteCount
        let extra = path.isIPv4 ? 0 : IPv6FragmentHeader.byteCount
        let unit = (path.transportBytesMaximum - extra) & ~7
        // All or nothing: a datagram with a hole is of use to nobody.
        guard unit > 0, (total + unit - 1) / unit <= (path.isLocal ? looped.room : outgoing.room) else { return counters.transmitDrops &+= 1 }
        counters.datagramsFragmented &+= 1
        let identification = identification(for: path.destination)
        var reader = PieceReader(header: header, payload: payload)
        var start = 0
        while start < total {
            let length = min(unit, total - start)
            let isLast = start + length == total
            let head = makePacket(transportBytes: extra)
            guard !head.isNull else { return }
            guard let rest = reader.take(length, heap) else {
                counters.allocationFailures &+= 1
                return head.release()
            }
            if !path.isIPv4 {
                IPv6FragmentHeader(
                    nextHeader: IPProtocol(rawValue: proto), fragmentOffset: start, moreFragments: !isLast, identification: identification
                ).emit(into: head.packet)
            }
            counters.fragmentsSent &+= 1
            sendFragment(
                head, rest, on: path, proto: path.isIPv4 ? proto : IPProtocol.fragment.rawValue, traffic: traffic, start: start, isLast: isLast,
                identification: UInt16(truncatingIfNeeded: identification), now: now)
            start += length
        }
    }

    private mutating func sendFragment(
        _ header: Segment, _ rest: SegmentList, on path: NetworkPath, proto: UInt8, traffic: UInt8, start: Int, isLast: Bool,
        identification: UInt16, now: UInt64
    ) {
        var head = header
        // makePacket has left the room.
        _ = head.prepend(path.headerBytes)
        let length = header.byteCount + rest.byteCount
        if path.isIPv4 {
            IPv4Header(
                source: path.source.ipv4, destination: path.destination.ipv4, ipProtocol: IPProtocol(rawValue: proto), payloadLength: length,
                timeToLive: hopLimit(on: path), identification: identification, dontFragment: false, moreFragments: !isLast,
                fragmentOffset: start, differentiatedServices: traffic >> 2, ecn: ECN(lowBitsOf: traffic)
            ).emit(into: head.packet)
        } else {
            IPv6Header(
                source: path.source, destination: path.destination, nextHeader: IPProtocol(rawValue: proto), payloadLength: length,
                hopLimit: hopLimit(on: path), differentiatedServices: traffic >> 2, ecn: ECN(lowBitsOf: traffic)
            ).emit(into: head.packet)
        }
        transmit(Frame(head, rest: rest), on: path, now: now)
    }
}

/// Cuts a header and the segments behind it into slices, from front to back.
private struct PieceReader: BitwiseCopyable {
    let header: Segment
    let payload: SegmentList
    /// 0: the header; from 1 on the payload's segments.
    var number = 0
    var offset = 0

    init(header: Segment, payload: SegmentList) {
        self.header = header
        self.payload = payload
    }

    /// The next `length` bytes, which are there, with references of their own; nil where the heap is exhausted.
    mutating func take(_ length: Int, _ heap: HeapReference) -> SegmentList? {
        var list = SegmentList.empty
        var left = length
        while left > 0, number <= payload.count {
            let segment = number == 0 ? header : payload[number - 1]
            let count = min(left, segment.byteCount - offset)
            if count > 0 {
                let slice = segment.slice(offset, count: count)
                guard heap.append(slice, to: &list) else {
                    slice.release()
                    list.releaseAll()
                    return nil
                }
            }
            left -= count
            offset += count
            if offset == segment.byteCount {
                number += 1
                offset = 0
            }
        }
        return list
    }
}
