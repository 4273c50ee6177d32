// Address resolution for IPv4: RFC 826, with the conflict rules of RFC 5227.

extension NetworkLayer {
    /// How long a defended address is not defended again: DEFEND_INTERVAL of RFC 5227, section 1.1.
    private static var defendInterval: UInt64 { 10_000_000_000 }
    /// How long a second, different answer is not believed.
    private static var answerLockTime: UInt64 { 1_000_000_000 }

    /// An ARP packet; `bytes` is what follows the Ethernet header.
    @inline(never)
    mutating func receiveARP(_ bytes: PacketBytes, from linkSource: MACAddress, now: UInt64) {
        counters.arpReceived &+= 1
        guard let view = ARPPacketView(bytes) else { return counters.arpMalformed &+= 1 }
        let packet = ARPPacket(view)
        let sender = IPAddress(ipv4: packet.senderProtocolAddress)
        // The sender speaks for itself: whoever writes another's address, or a group's, is not believed.
        guard packet.senderHardwareAddress.isUnicast, packet.senderHardwareAddress == linkSource, !sender.isMulticast, !isBroadcast(sender),
            !sender.isLoopback
        else { return counters.arpMalformed &+= 1 }
        if isConfigured(sender) {
            if packet.senderHardwareAddress != macAddress { defend(packet.senderProtocolAddress, now: now) }
            return
        }
        let isForUs = isConfigured(IPAddress(ipv4: packet.targetProtocolAddress))
        if !sender.isUnspecified { learn(packet, sender, isForUs: isForUs, now: now) }
        if packet.operation == .request, isForUs { reply(to: packet) }
    }

    /// RFC 826, "Packet Reception": an entry that is there is brought up to date by every packet, a new one is made only by a request for this
    /// host's own address, because an answer is likely to follow.
    private mutating func learn(_ packet: ARPPacket, _ sender: IPAddress, isForUs: Bool, now: UInt64) {
        let address = packet.senderHardwareAddress
        guard let slot = neighbours.find(sender) else {
            guard packet.operation == .request, isForUs, onLinkPrefix(of: sender) != nil else {
                if packet.operation == .reply { counters.arpUnsolicited &+= 1 }
                return
            }
            guard let slot = neighbours.insert(sender, forOwnUse: false, counters: &counters) else { return }
            return learn(slot, address, now: now)
        }
        let isAnswer = packet.operation == .reply && isForUs
        switch neighbours[slot].state {
        case .permanent: return
        case .incomplete, .probe:
            guard isAnswer else {
                learn(slot, address, now: now)
                break
            }
            if neighbours[slot].linkAddress != address {
                neighbours[slot].linkAddress = address
                neighbours[slot].changedAt = now
            }
            confirm(slot, now: now)
        case .unresolved: learn(slot, address, now: now)
        case .reachable, .stale, .delay:
            guard neighbours[slot].linkAddress != address else { return }
            if isAnswer { counters.arpUnsolicited &+= 1 }
            // Two stations that answer for one address must not take it in turns within a second.
            guard now >= neighbours[slot].changedAt &+ NetworkLayer.answerLockTime else { return }
            learn(slot, address, now: now)
        }
        sendPending(slot, now: now)
    }

    /// Somebody else uses this host's address: it is kept, and claimed once in ten seconds at most. RFC 5227, section 2.4(b).
    private mutating func defend(_ address: UInt32, now: UInt64) {
        counters.addressConflicts &+= 1
        if let defendedAt, now &- defendedAt < NetworkLayer.defendInterval { return }
        defendedAt = now
        announce(address)
    }

    private mutating func reply(to request: ARPPacket) {
        // A probe (RFC 5227, section 2.1.1) is answered as well: that is how a conflict is found.
        counters.arpRepliesSent &+= 1
        sendARP(request.reply(from: macAddress), to: request.senderHardwareAddress)
    }

    /// Asks for `target`: everybody, or the station that is believed to have it.
    mutating func sendARPRequest(for target: UInt32, to station: MACAddress?) {
        guard let source = sourceAddress(for: IPAddress(ipv4: target), prefix: onLinkPrefix(of: IPAddress(ipv4: target))) else { return }
        counters.arpRequestsSent &+= 1
        var request = ARPPacket.request(for: target, from: macAddress, source.ipv4)
        if let station { request.targetHardwareAddress = station }
        sendARP(request, to: station ?? .broadcast)
    }

    /// Tells everybody whose `address` is. RFC 5227, section 2.3.
    mutating func announce(_ address: UInt32) {
        counters.arpRequestsSent &+= 1
        sendARP(.announcement(of: address, from: macAddress), to: .broadcast)
    }

    private mutating func sendARP(_ packet: ARPPacket, to station: MACAddress) {
        var segment = makePacket(transportBytes: ARPPacket.byteCount)
        guard !segment.isNull else { return }
        packet.emit(into: segment.packet)
        _ = segment.prepend(linkHeaderBytes)
        emitLinkHeader(to: station, .arp, into: segment.packet)
        push(Frame(segment))
    }
}
