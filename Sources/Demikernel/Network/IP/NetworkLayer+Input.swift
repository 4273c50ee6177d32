// Frames to packets.

extension NetworkLayer {
    /// What became of a frame.
    enum Arrival: UInt8, BitwiseCopyable {
        /// Answered, kept or dropped (and counted): its reference is gone.
        case consumed
        /// A packet for a transport, whose reference passes on.
        case udp, tcp
        /// A message about a packet of this host's: its reference passes on. `frame` begins with the ICMP header.
        case icmpError, icmpv6Error
    }

    /// How a frame came.
    struct Link: BitwiseCopyable {
        var source: MACAddress
        /// To more than one station, by Ethernet.
        var isBroadcast: Bool
        /// From this host itself, without a device.
        var isLooped: Bool
        /// The transport checksum needs no look.
        var checksumIsValid: Bool
    }

    /// Whether a frame of one segment, with room for an Ethernet and an IPv4 header, is the ordinary one: an untagged, whole, valid IPv4 packet without
    /// options, to this host's first address.
    @inline(always)
    func isOrdinary(_ bytes: PacketBytes) -> Bool {
        guard bytes.load64(0) &>> 16 == macAddress.rawValue, bytes.load32(12) &>> 8 == 0x08_0045, isUntagged else { return false }
        let total = Int(bytes.load16(16))
        let source = bytes.load32(26)
        let linkSource = MACAddress(bytes.load64(6) &>> 16)
        let first = source &>> 24
        return bytes.load32(30) == primaryIPv4 && bytes.load16(20) & 0x3fff == 0 && total >= 20 && total &+ 14 <= bytes.count
            // RFC 1122, section 3.2.1.3: neither this network, nor loopback, nor groups, nor ourselves, nor a broadcast address.
            && first &- 1 < 223 && first != 127 && source != primaryBroadcast && (source != primaryIPv4 && linkSource != macAddress || mayHearItself)
            && !linkSource.isMulticast
            && (trustsDevice || InternetChecksum.isValid(InternetChecksum.sum20(bytes.slice(from: 14))))
    }

    /// Takes the ordinary frame in, where UDP or TCP is in it. `packet` is what the transport gets. Nil for every other frame, which is
    /// `receiveOther`'s.
    @inline(always)
    mutating func receiveOrdinary(_ frame: Frame, into packet: inout ReceivedPacket) -> Arrival? {
        counters.framesReceived &+= 1
        let bytes = frame.head.packet
        let length = bytes.count
        guard length >= 34, frame.rest.isEmpty, isOrdinary(bytes) else { return nil }
        let ipProtocol = bytes.load8(23)
        guard ipProtocol == IPProtocol.udp.rawValue || ipProtocol == IPProtocol.tcp.rawValue else {
            return nil
        }
        counters.packetsReceived &+= 1
        var head = frame.head
        head.trimFirst(34)
        head.trimLast(length &- 14 &- Int(bytes.load16(16)))
        packet = ReceivedPacket(
            frame: head, source: IPAddress(ipv4: bytes.load32(26)), destination: IPAddress(ipv4: primaryIPv4), networkHeaderBytes: 20,
            traffic: bytes.load8(15), hopLimit: bytes.load8(22), checksumIsValid: vouches(for: frame), isBroadcast: false,
            linkSource: MACAddress(bytes.load64(6) &>> 16))
        return ipProtocol == IPProtocol.udp.rawValue ? .udp : .tcp
    }

    /// Whether the transport checksum needs no look: the device or the local peer vouches for it.
    @inline(__always)
    func vouches(for frame: Frame) -> Bool {
        trustsDevice || !frame.offload.flags.isDisjoint(with: [.checksumIsValid, .partialChecksum])
    }

    // MARK: - Ethernet

    /// Every other frame: `head`, and all of it where `isWhole`; `vouched` for by the device.
    @inline(never)
    mutating func receiveOther(_ head: Segment, isWhole: Bool, vouched: Bool, into packet: inout ReceivedPacket, now: UInt64) -> Arrival {
        guard isWhole, let view = EthernetHeaderView(head.packet) else {
            counters.framesMalformed &+= 1
            return drop(head)
        }
        guard carriesOwnTag(view) else {
            counters.framesOfOtherVLANs &+= 1
            return drop(head)
        }
        let destination = view.destination
        guard destination == macAddress || destination.isBroadcast || destination.isMulticast && isJoined(destination) else {
            counters.framesForOthers &+= 1
            return drop(head)
        }
        guard view.source.isUnicast, view.source != macAddress || mayHearItself else {
            counters.framesMalformed &+= 1
            return drop(head)
        }
        let link = Link(
            source: view.source, isBroadcast: destination.isMulticast, isLooped: false, checksumIsValid: vouched)
        return receive(head, view, link, into: &packet, now: now)
    }

    /// Takes in a frame of this host to itself.
    mutating func receiveLooped(_ frame: Frame, into packet: inout ReceivedPacket, now: UInt64) -> Arrival {
        guard let view = EthernetHeaderView(frame.head.packet) else { return drop(frame.head) }
        let link = Link(source: macAddress, isBroadcast: false, isLooped: true, checksumIsValid: true)
        return receive(frame.head, view, link, into: &packet, now: now)
    }

    private mutating func receive(
        _ frame: Segment, _ view: EthernetHeaderView, _ link: Link, into packet: inout ReceivedPacket, now: UInt64
    ) -> Arrival {
        var head = frame
        head.trimFirst(view.headerLength)
        switch view.etherType {
        case .ipv4: return receiveIPv4(head, link, into: &packet, now: now)
        case .ipv6: return receiveIPv6(head, link, into: &packet, now: now)
        case .arp:
            receiveARP(view.payload, from: view.source, now: now)
            return drop(frame)
        default:
            counters.framesOfUnknownType &+= 1
            return drop(frame)
        }
    }

    /// IEEE 802.1Q: the own VLAN's tag where there is one; none, or one that carries a priority alone, where there is not.
    private func carriesOwnTag(_ view: EthernetHeaderView) -> Bool {
        let identifier = view.tag?.identifier ?? 0
        return identifier == vlan
    }

    /// The end of a packet that was counted.
    func drop(_ packet: Segment) -> Arrival {
        packet.release()
        return .consumed
    }

    // MARK: - IPv4

    /// An IPv4 packet; `packet` begins with its header. RFC 791; RFC 1122, section 3.2.1.
    mutating func receiveIPv4(_ head: Segment, _ link: Link, into packet: inout ReceivedPacket, now: UInt64) -> Arrival {
        counters.packetsReceived &+= 1
        guard let view = IPv4HeaderView(head.packet) else {
            counters.packetsMalformed &+= 1
            return drop(head)
        }
        guard trustsDevice || view.checksumIsValid else {
            counters.packetsBadChecksum &+= 1
            return drop(head)
        }
        guard isPlausibleSource(view.sourceAddress, link) else {
            counters.packetsBadSource &+= 1
            return drop(head)
        }
        guard let isBroadcast = accepts(view.destinationAddress, link) else {
            counters.packetsForOthers &+= 1
            return drop(head)
        }
        guard !view.hasOptions || !isSourceRouted(view.options) else {
            counters.packetsSourceRouted &+= 1
            return drop(head)
        }
        var whole = head
        whole.trimLast(head.byteCount - view.totalLength)
        guard view.isFragment else { return deliver(whole, view, isBroadcast: isBroadcast, link, into: &packet, now: now) }
        // The fragment's header is gone with its fragment: the datagram has one of its own.
        guard let datagram = reassemble(whole, view, now: now) else { return .consumed }
        guard let view = IPv4HeaderView(datagram.packet) else { return drop(datagram) }
        var link = link
        link.checksumIsValid = trustsDevice || link.isLooped
        return deliver(datagram, view, isBroadcast: isBroadcast, link, into: &packet, now: now)
    }

    private mutating func deliver(
        _ whole: Segment, _ view: IPv4HeaderView, isBroadcast: Bool, _ link: Link, into packet: inout ReceivedPacket, now: UInt64
    ) -> Arrival {
        deliver(
            whole, headerBytes: view.headerLength, view.ipProtocol, from: view.sourceAddress, to: view.destinationAddress,
            traffic: view.differentiatedServices << 2 | view.ecn.rawValue, hopLimit: view.timeToLive, isBroadcast: isBroadcast, link,
            into: &packet, now: now)
    }

    /// Whether a packet may come from `source`. RFC 1122, section 3.2.1.3; RFC 4291, sections 2.5.2, 2.5.3 and 2.7.
    mutating func isPlausibleSource(_ source: IPAddress, _ link: Link) -> Bool {
        if source.isMulticast { return false }
        if source.isLoopback { return link.isLooped }
        if source.isIPv4 {
            let first = source.ipv4 &>> 24
            guard first != 0, first < 224, !isBroadcast(source) else { return false }
        }
        guard isConfigured(source), !link.isLooped, !mayHearItself else { return true }
        // Somebody else has this host's address. RFC 4862, section 5.4.
        counters.addressConflicts &+= 1
        return false
    }

    /// Whether a packet to `destination` is for this host, and if so, whether it is for others as well.
    mutating func accepts(_ destination: IPAddress, _ link: Link) -> Bool? {
        if isConfigured(destination) {
            // RFC 1122, section 3.3.6: what was sent to one host does not come in a frame for all. Neighbour discovery never does either.
            return link.isBroadcast ? nil : false
        }
        if destination.isLoopback { return link.isLooped ? false : nil }
        if destination.isMulticast { return isJoined(destination) ? true : nil }
        return isBroadcast(destination) ? true : nil
    }

    /// Whether the options (of at most 40 bytes) ask to be forwarded by a list of stations: loose or strict source route. RFC 791, section 3.1;
    /// such packets are dropped (RFC 7126, section 4.3). Options that make no sense end the look; the others mean nothing to a host.
    private func isSourceRouted(_ options: PacketBytes) -> Bool {
        var offset = 0
        while offset < options.count {
            switch options.load8(offset) {
            case 0: return false
            case 1: offset += 1
            case 131, 137: return true
            default:
                guard offset + 1 < options.count, options.load8(offset + 1) >= 2 else { return false }
                offset += Int(options.load8(offset + 1))
            }
        }
        return false
    }

    /// A whole packet, of either family, whose headers are checked: `head` begins with the network header, the upper layer follows after
    /// `headerBytes`.
    mutating func deliver(
        _ head: Segment, headerBytes: Int, _ ipProtocol: IPProtocol, from source: IPAddress, to destination: IPAddress, traffic: UInt8,
        hopLimit: UInt8, isBroadcast: Bool, _ link: Link, into packet: inout ReceivedPacket, now: UInt64
    ) -> Arrival {
        var frame = head
        frame.trimFirst(headerBytes)
        guard !source.isUnspecified || ipProtocol == .icmpv6 else {
            // RFC 4291, section 2.5.2: :: is nobody's; neighbour discovery alone comes from there.
            counters.packetsBadSource &+= 1
            return drop(frame)
        }
        packet = ReceivedPacket(
            frame: frame, source: source, destination: destination, networkHeaderBytes: UInt16(truncatingIfNeeded: headerBytes),
            traffic: traffic, hopLimit: hopLimit, checksumIsValid: link.checksumIsValid, isBroadcast: isBroadcast || link.isBroadcast,
            linkSource: link.source)
        switch ipProtocol {
        case .udp: return .udp
        case .tcp:
            // RFC 9293, section 3.9.2.3: a connection has one host at each end.
            guard !packet.isBroadcast else {
                counters.packetsForOthers &+= 1
                return drop(frame)
            }
            return .tcp
        case .icmp where source.isIPv4: return receiveICMPv4(packet, now: now)
        case .icmpv6 where !source.isIPv4: return receiveICMPv6(packet, now: now)
        default:
            counters.packetsUnknownProtocol &+= 1
            // RFC 1122, section 3.2.2.1.
            if !packet.isBroadcast { sendError(.destinationUnreachable(.ipProtocol, nextHopMTU: 0), about: head, now: now) }
            return drop(frame)
        }
    }
}
