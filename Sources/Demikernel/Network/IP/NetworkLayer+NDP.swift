// Neighbour discovery for IPv6. RFC 4861.

extension NetworkLayer {
    /// A neighbour discovery message whose checksum is right. RFC 4861, sections 6.1 and 7.1.
    mutating func receiveNDP(_ view: ICMPView, _ packet: ReceivedPacket, now: UInt64) {
        counters.ndpReceived &+= 1
        // A device that is connected to itself brings back what was asked.
        guard packet.linkSource != macAddress else { return }
        // The hop limit shows that the sender is on this link: no router has passed it on.
        guard packet.hopLimit == 255, let message = NDPMessage(view) else {
            if view.type == 137 { return counters.icmpRedirectsIgnored &+= 1 }
            return counters.ndpMalformed &+= 1
        }
        switch message {
        case .neighbourSolicitation(let target, let options): receiveSolicitation(of: target, options, packet, now: now)
        case .neighbourAdvertisement(let advertisement, let options): receiveAdvertisement(advertisement, options, packet, now: now)
        case .routerAdvertisement: counters.routerAdvertisementsIgnored &+= 1
        case .routerSolicitation: counters.icmpIgnored &+= 1
        }
    }

    /// RFC 4861, section 7.2.3.
    private mutating func receiveSolicitation(of target: IPAddress, _ options: NDPOptions, _ packet: ReceivedPacket, now: UInt64) {
        guard isConfigured(target) else { return counters.ndpUnsolicited &+= 1 }
        let address = options.sourceLinkLayerAddress
        if packet.source.isUnspecified {
            // Duplicate address detection of another: RFC 4861, section 7.1.1.
            guard packet.destination == target.solicitedNodeMulticast, address == nil else { return counters.ndpMalformed &+= 1 }
            counters.addressConflicts &+= 1
        } else if let address {
            guard address.isUnicast else { return counters.ndpMalformed &+= 1 }
            // A request for this host's address: an answer is likely to follow.
            if let slot = neighbours.find(packet.source)
                ?? (onLinkPrefix(of: packet.source) == nil
                    ? nil : neighbours.insert(packet.source, forOwnUse: false, counters: &counters))
            {
                if neighbours[slot].state != .permanent, neighbours[slot].linkAddress != address {
                    learn(slot, address, now: now)
                    sendPending(slot, now: now)
                }
            }
        }
        advertise(target, to: packet.source, station: address ?? packet.linkSource)
    }

    /// RFC 4861, section 7.2.5.
    private mutating func receiveAdvertisement(
        _ advertisement: NDPMessage.NeighbourAdvertisement, _ options: NDPOptions, _ packet: ReceivedPacket, now: UInt64
    ) {
        // Section 7.1.2: what goes to a group is no answer.
        guard !advertisement.isSolicited || !packet.isBroadcast else { return counters.ndpMalformed &+= 1 }
        guard !isConfigured(advertisement.target) else { return counters.addressConflicts &+= 1 }
        guard let slot = neighbours.find(advertisement.target), neighbours[slot].state != .permanent else {
            return counters.ndpUnsolicited &+= 1
        }
        let address = options.targetLinkLayerAddress ?? neighbours[slot].linkAddress
        guard address.isUnicast else { return counters.ndpMalformed &+= 1 }
        switch neighbours[slot].state {
        case .permanent: return
        case .unresolved: return counters.ndpUnsolicited &+= 1
        case .incomplete:
            guard options.targetLinkLayerAddress != nil else { return counters.ndpMalformed &+= 1 }
            learn(slot, address, now: now)
            if advertisement.isSolicited { confirm(slot, now: now) }
        case .reachable, .stale, .delay, .probe:
            let differs = address != neighbours[slot].linkAddress
            if differs, !advertisement.overrides {
                // Somebody else answers as well: what is known is doubted, but not given up.
                if neighbours[slot].state == .reachable { learn(slot, neighbours[slot].linkAddress, now: now) }
                return
            }
            // What says that it is an answer, where nobody has asked, is no proof: another address is used, but asked for soon. A forged one would
            // else be believed for REACHABLE_TIME. Stricter than section 7.2.5, which takes any solicited advertisement for a proof.
            let isAnswer = advertisement.isSolicited && neighbours[slot].state == .probe
            if differs { learn(slot, address, now: now) }
            if isAnswer { confirm(slot, now: now) }
        }
        sendPending(slot, now: now)
    }

    /// Asks for a neighbour: its group, or the station that is believed to be it. RFC 4861, section 7.2.2.
    mutating func sendNeighbourSolicitation(for target: IPAddress, to station: MACAddress?) {
        guard let source = sourceAddress(for: target, prefix: onLinkPrefix(of: target)) else { return }
        counters.ndpSolicitationsSent &+= 1
        let options = NDPOptions(sourceLinkLayerAddress: macAddress)
        let destination = station == nil ? target.solicitedNodeMulticast : target
        sendNDP(
            .neighbourSolicitation(target: target, options), from: source, to: destination, station: station ?? destination.multicastMACAddress)
    }

    /// Asks whether anybody has one of this host's addresses already. RFC 4862, section 5.4.2.
    mutating func sendDuplicateProbe(for target: IPAddress) {
        counters.ndpSolicitationsSent &+= 1
        let group = target.solicitedNodeMulticast
        sendNDP(.neighbourSolicitation(target: target, NDPOptions()), from: .ipv6Unspecified, to: group, station: group.multicastMACAddress)
    }

    /// RFC 4861, section 7.2.4: to the asker, or to all where it has no address yet.
    private mutating func advertise(_ target: IPAddress, to asker: IPAddress, station: MACAddress) {
        let isSolicited = !asker.isUnspecified
        let destination = isSolicited ? asker : IPAddress.allNodes
        let station = isSolicited ? station : destination.multicastMACAddress
        counters.ndpAdvertisementsSent &+= 1
        let advertisement = NDPMessage.NeighbourAdvertisement(target: target, isSolicited: isSolicited, overrides: true)
        sendNDP(
            .neighbourAdvertisement(advertisement, NDPOptions(targetLinkLayerAddress: macAddress)), from: target, to: destination,
            station: station)
    }

    private mutating func sendNDP(_ message: NDPMessage, from source: IPAddress, to destination: IPAddress, station: MACAddress) {
        var segment = makePacket(transportBytes: message.byteCount)
        guard !segment.isNull else { return }
        message.emit(into: segment.packet, source: source, destination: destination)
        _ = segment.prepend(IPv6Header.byteCount)
        IPv6Header(source: source, destination: destination, nextHeader: .icmpv6, payloadLength: message.byteCount, hopLimit: 255)
            .emit(into: segment.packet)
        _ = segment.prepend(linkHeaderBytes)
        emitLinkHeader(to: station, .ipv6, into: segment.packet)
        push(Frame(segment))
    }
}
