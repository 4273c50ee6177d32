// IPv6 input. RFC 8200.

extension NetworkLayer {
    /// An IPv6 packet; `head` begins with its header.
    mutating func receiveIPv6(_ head: Segment, _ link: Link, into packet: inout ReceivedPacket, now: UInt64) -> Arrival {
        counters.packetsReceived &+= 1
        guard let view = IPv6HeaderView(head.packet) else {
            counters.packetsMalformed &+= 1
            return drop(head)
        }
        guard isPlausibleSource(view.source, link) else {
            counters.packetsBadSource &+= 1
            return drop(head)
        }
        guard let isBroadcast = accepts(view.destination, link) else {
            counters.packetsForOthers &+= 1
            return drop(head)
        }
        var whole = head
        whole.trimLast(head.byteCount - IPv6Header.byteCount - view.payloadLength)
        return walk(whole, view, isReassembled: false, isBroadcast: isBroadcast, link, into: &packet, now: now)
    }

    /// Goes through the extension headers to the upper layer.
    mutating func walk(
        _ whole: Segment, _ view: IPv6HeaderView, isReassembled: Bool, isBroadcast: Bool, _ link: Link, into packet: inout ReceivedPacket,
        now: UInt64
    ) -> Arrival {
        switch IPv6ExtensionHeaders.walk(view.payload, nextHeader: view.nextHeader, isReassembled: isReassembled) {
        case .upperLayer(.noNext, _, _): return drop(whole)
        case .upperLayer(let ipProtocol, let offset, let nextHeaderPointer):
            guard ipProtocol == .udp || ipProtocol == .tcp || ipProtocol == .icmpv6 else {
                counters.packetsUnknownProtocol &+= 1
                return refuse(whole, view, code: 1, pointer: nextHeaderPointer, isBroadcast: isBroadcast || link.isBroadcast, now: now)
            }
            return deliver(
                whole, headerBytes: IPv6Header.byteCount + offset, ipProtocol, from: view.source, to: view.destination,
                traffic: view.differentiatedServices << 2 | view.ecn.rawValue, hopLimit: view.hopLimit, isBroadcast: isBroadcast, link,
                into: &packet, now: now)
        case .fragment(let header, let offset):
            guard !isReassembled else {
                counters.packetsBadExtension &+= 1
                return drop(whole)
            }
            return receiveFragment(whole, view, header, offset: offset, isBroadcast: isBroadcast, link, into: &packet, now: now)
        case .malformed(let pointer):
            counters.packetsBadExtension &+= 1
            return refuse(whole, view, code: 0, pointer: pointer, isBroadcast: isBroadcast || link.isBroadcast, now: now)
        case .unrecognised(let pointer, let code, let answersMulticast):
            counters.packetsBadExtension &+= 1
            // RFC 4443, section 2.4(e.3): the parameter problem about an option is one of the two errors that answer a group.
            return refuse(
                whole, view, code: code, pointer: pointer, isBroadcast: !answersMulticast && (isBroadcast || link.isBroadcast), now: now)
        case .discard:
            counters.packetsBadExtension &+= 1
            return drop(whole)
        }
    }
}
