// Errors about packets that could not be taken. RFC 792; RFC 1122, section 3.2.2; RFC 1812, section 4.3.2; RFC 4443, section 2.4.

extension NetworkLayer {
    /// Says that nobody listens on the datagram's port, where that may be said. Does not take the reference.
    package mutating func sendPortUnreachable(_ packet: ReceivedPacket, now: UInt64) {
        var whole = packet.frame
        guard !packet.isBroadcast, whole.prepend(Int(packet.networkHeaderBytes)) else { return }
        if packet.source.isIPv4 {
            sendError(.destinationUnreachable(.port, nextHopMTU: 0), about: whole, now: now)
        } else {
            sendError(.destinationUnreachable(.port), about: whole, isBroadcast: false, now: now)
        }
    }

    /// Sends an ICMP error about `packet`, which begins with its IPv4 header. Not about errors, fragments but the first, or packets that were to
    /// or from anything but one host: RFC 1122, section 3.2.2. The caller has seen to it that it was not a broadcast.
    mutating func sendError(_ error: ICMPv4, about packet: Segment, now: UInt64) {
        guard let view = IPv4HeaderView(packet.packet), view.fragmentOffset == 0,
            isHost(view.sourceAddress) || view.sourceAddress.isLoopback, isOwn(view.destinationAddress)
        else { return }
        if view.ipProtocol == .icmp, ICMPView(view.payload).map({ ICMPv4($0).isError }) ?? true { return }
        guard errorLimit.take(now) else { return counters.icmpErrorsLimited &+= 1 }
        guard var path = try? path(from: view.destinationAddress, to: view.sourceAddress) else { return counters.packetsUnroutable &+= 1 }
        // RFC 1812, section 4.3.2.3: as much as fits in 576 bytes.
        let quoted = min(view.totalLength, 576 - IPv4Header.byteCount - ICMPv4.byteCount)
        let message = makePacket(transportBytes: ICMPv4.byteCount + quoted)
        guard !message.isNull else { return }
        message.packet.copy(from: packet.packet.slice(0, quoted), at: ICMPv4.byteCount)
        error.emit(into: message.packet)
        counters.icmpErrorsSent &+= 1
        sendSlow(
            message, payload: .empty, on: &path, proto: IPProtocol.icmp.rawValue, traffic: 0, dontFragment: false, offload: .none, now: now)
    }

    /// The same for IPv6. `isBroadcast`: no answer to what was sent to a group (RFC 4443, section 2.4(e)), with the exceptions that the caller
    /// knows.
    mutating func sendError(_ error: ICMPv6, about packet: Segment, isBroadcast: Bool, now: UInt64) {
        guard !isBroadcast, let view = IPv6HeaderView(packet.packet), !view.source.isUnspecified, !view.source.isMulticast else { return }
        if case .upperLayer(.icmpv6, let offset, _) = IPv6ExtensionHeaders.walk(view.payload, nextHeader: view.nextHeader) {
            guard let inner = ICMPView(view.payload.slice(from: offset)), !ICMPv6(inner).isError, inner.type != 137 else { return }
        }
        guard errorLimit.take(now) else { return counters.icmpErrorsLimited &+= 1 }
        let source = isOwn(view.destination) ? view.destination : nil
        guard var path = try? path(from: source, to: view.source) else { return counters.packetsUnroutable &+= 1 }
        // RFC 4443, section 2.4(c): as much as fits in the smallest MTU there is.
        let quoted = min(packet.byteCount, IPv6Header.linkMTUMinimum - IPv6Header.byteCount - ICMPv6.byteCount)
        let message = makePacket(transportBytes: ICMPv6.byteCount + quoted)
        guard !message.isNull else { return }
        message.packet.copy(from: packet.packet.slice(0, quoted), at: ICMPv6.byteCount)
        error.emit(into: message.packet, source: path.source, destination: path.destination)
        counters.icmpErrorsSent &+= 1
        sendSlow(
            message, payload: .empty, on: &path, proto: IPProtocol.icmpv6.rawValue, traffic: 0, dontFragment: false, offload: .none, now: now)
    }

    /// Drops an IPv6 packet with a parameter problem. RFC 4443, section 3.4.
    mutating func refuse(_ whole: Segment, _ view: IPv6HeaderView, code: UInt8, pointer: Int, isBroadcast: Bool, now: UInt64) -> Arrival {
        sendError(
            .parameterProblem(ICMPv6.ParameterProblemCode(rawValue: code), pointer: UInt32(truncatingIfNeeded: pointer)), about: whole,
            isBroadcast: isBroadcast, now: now)
        return drop(whole)
    }
}
