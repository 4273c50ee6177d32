/// IPv4 and IPv6 over one Ethernet device, with ARP, NDP and ICMP: what the transports need from below.
///
/// No I/O, no clock, no chance: frames come by ``receive(_:into:now:)`` and leave by ``outgoing``; `now` comes with every call and never goes back.
/// Nothing here grows: every table, queue and rate has a bound in ``NetworkConfiguration`` and a counter for what went over it.
package struct NetworkLayer: ~Copyable {
    /// An address of this host, with what is compared for each packet.
    struct Address: BitwiseCopyable {
        var address: IPAddress
        var prefixLength: Int
        /// IPv4's directed broadcast address; none (0.0.0.0, which is never received) for IPv6 and prefixes of 31 and 32 bits (RFC 3021).
        var broadcast: IPAddress
    }
    /// A network address announced, or asked for by duplicate address detection, soon.
    struct Announcement: BitwiseCopyable {
        var left: UInt8
        var deadline: UInt64
    }

    // What every packet needs, first.
    let macAddress: MACAddress
    /// The first IPv4 address, the one that most packets are for; 0 where there is none.
    let primaryIPv4: UInt32
    let primaryBroadcast: UInt32
    /// Frames carry no tag.
    let isUntagged: Bool
    /// Own addresses may be sources of frames that come in: the device is connected to itself.
    let mayHearItself: Bool
    /// Checksums are not verified: the device cannot damage frames, and the settings say so.
    let trustsDevice: Bool
    /// Transports may leave their checksum to the device: ``FrameOffload/Flags/partialChecksum``.
    package internal(set) var offloadsChecksums: Bool
    let hopLimit: UInt8
    /// What paths were made under: changes make them look again.
    package internal(set) var epoch: UInt32 = 1

    /// Frames that wait for the device, in the order in which they were sent; whoever drives the stack gives them to the device.
    package var outgoing: FrameBurst
    package internal(set) var counters = NetworkCounters()
    var neighbours: NeighbourTable
    let heap: HeapReference

    // What is looked at less often.
    let mtu: UInt16
    let vlan: UInt16
    let localDelivery: NetworkConfiguration.LocalDelivery
    var addresses = InlineArray<8, Address>(
        repeating: Address(address: .ipv6Unspecified, prefixLength: 0, broadcast: .ipv4Unspecified))
    var addressCount = 0
    let gatewayIPv4: IPAddress?
    let gatewayIPv6: IPAddress?
    let neighbourConfiguration: NeighbourConfiguration
    var pathMTUs: PathMTUTable
    var reassembly: ReassemblyTable
    /// Frames of this host to itself.
    var looped: FrameBurst
    /// Frames whose neighbour did not answer: the transports have to know.
    var undeliverable: FrameBurst
    var random: NetworkRandom
    let hash: NetworkHash
    /// One counter of identifications for each of 256 classes of destinations, from places that nobody can guess. RFC 7739, section 5.3.
    var identifications = InlineArray<256, UInt32>(repeating: 0)
    var errorLimit: TokenBucket
    var echoLimit: TokenBucket
    var announcement: Announcement
    let announcesAddresses: Bool
    var defendedAt: UInt64?
    /// The last echo replies, a ring.
    var echoReplies = InlineArray<16, EchoReply>(
        repeating: EchoReply(source: .ipv4Unspecified, identifier: 0, sequenceNumber: 0, dataBytes: 0, hopLimit: 0, receivedAt: 0))
    var echoReplyFirst = 0
    var echoReplyCount = 0

    package init(_ configuration: NetworkConfiguration, heap: HeapReference, device: NetworkDeviceCapabilities, entropy: NetworkEntropy, now: UInt64)
        throws(DemikernelError)
    {
        let addresses = try configuration.checked(device)
        let words = entropy.words
        let hash = NetworkHash(words.0, words.1)
        let neighbours = try NeighbourTable(configuration.neighbours, hash: hash)
        let pathMTUs = try PathMTUTable(capacity: configuration.pathMTUCapacity, lifetime: configuration.pathMTULifetime, hash: hash)
        let reassembly = try ReassemblyTable(configuration.reassembly)
        self.hash = hash
        random = NetworkRandom(seed: words.2)
        self.heap = heap
        macAddress = configuration.macAddress ?? MACAddress(device.address)
        mtu = UInt16(min(configuration.mtu ?? device.maximumTransmissionUnit, 65_535))
        vlan = configuration.vlan ?? 0
        isUntagged = configuration.vlan == nil
        mayHearItself = device.isLoop || configuration.localDelivery == .device
        trustsDevice = device.isReliable && configuration.trustsReliableDevice
        offloadsChecksums = device.fillsChecksums && configuration.checksumOffload
        hopLimit = configuration.hopLimit
        localDelivery = configuration.localDelivery
        gatewayIPv4 = configuration.gatewayIPv4
        gatewayIPv6 = configuration.gatewayIPv6
        neighbourConfiguration = configuration.neighbours
        self.neighbours = neighbours
        self.pathMTUs = pathMTUs
        self.reassembly = reassembly
        outgoing = FrameBurst(capacity: 256, heap: heap)
        looped = FrameBurst(capacity: 256, heap: heap)
        undeliverable = FrameBurst(capacity: 64, heap: heap)
        errorLimit = TokenBucket(rate: configuration.icmp.errorsPerSecond, burst: configuration.icmp.errorBurst)
        echoLimit = TokenBucket(rate: configuration.icmp.echoRepliesPerSecond, burst: configuration.icmp.echoReplyBurst)
        announcesAddresses = configuration.announcesAddresses
        announcement = Announcement(left: configuration.announcesAddresses ? 2 : 0, deadline: configuration.announcesAddresses ? now : .max)
        let primary = addresses.first { $0.address.isIPv4 }
        primaryIPv4 = primary?.address.ipv4 ?? 0
        primaryBroadcast = primary?.broadcast.ipv4 ?? 0
        for address in addresses {
            self.addresses[addressCount] = address
            addressCount += 1
        }
        for number in 0..<256 { identifications[number] = UInt32(truncatingIfNeeded: random.next()) }
        for neighbour in configuration.staticNeighbours { addStaticNeighbour(neighbour) }
    }

    mutating func addStaticNeighbour(_ neighbour: NetworkConfiguration.StaticNeighbour) {
        guard let slot = neighbours.find(neighbour.address) ?? neighbours.insert(neighbour.address, forOwnUse: true, counters: &counters)
        else { return }
        neighbours[slot].linkAddress = neighbour.macAddress
        neighbours[slot].state = .permanent
        neighbours[slot].freshUntil = .max
        neighbours.move(slot, to: .fixed)
    }

    /// Whether there is room for one more packet: what transports look at before they make one.
    @inline(__always) package var canSend: Bool { !outgoing.isFull && !looped.isFull }

    /// The largest IP packet that the link takes.
    package var linkMTU: Int { Int(mtu) }
    /// The station's own Ethernet address.
    package var linkAddress: MACAddress { macAddress }
}

// MARK: - Addresses

extension NetworkLayer {
    /// Whether `address` is this host's: configured, or a loopback address.
    package mutating func isOwn(_ address: IPAddress) -> Bool { isConfigured(address) || address.isLoopback }

    /// Whether `address` is one of the interface's.
    mutating func isConfigured(_ address: IPAddress) -> Bool {
        for number in 0..<addressCount where addresses[number].address == address { return true }
        return false
    }

    /// Whether `address` is a broadcast address of this link: limited or directed.
    mutating func isBroadcast(_ address: IPAddress) -> Bool {
        guard address.isIPv4 else { return false }
        if address.isLimitedBroadcast { return true }
        for number in 0..<addressCount where addresses[number].broadcast == address { return address.ipv4 != 0 }
        return false
    }

    /// Whether this host listens to the multicast group: all-hosts (RFC 1112), all-nodes and its addresses' solicited-node groups (RFC 4291,
    /// section 2.8).
    mutating func isJoined(_ group: IPAddress) -> Bool {
        if group.isIPv4 { return group.ipv4 == 0xe000_0001 && primaryIPv4 != 0 }
        if group == .allNodes || group == IPAddress(high: 0xff01 << 48, low: 1) { return hasIPv6 }
        for number in 0..<addressCount {
            let address = addresses[number].address
            if !address.isIPv4, address.solicitedNodeMulticast == group { return true }
        }
        return false
    }

    var hasIPv6: Bool {
        mutating get {
            for number in 0..<addressCount where !addresses[number].address.isIPv4 { return true }
            return false
        }
    }

    /// Whether a frame to this Ethernet group is for a group that this host listens to.
    mutating func isJoined(_ group: MACAddress) -> Bool {
        if group == .ipv4Multicast(0xe000_0001) { return primaryIPv4 != 0 }
        if group == IPAddress.allNodes.multicastMACAddress { return hasIPv6 }
        for number in 0..<addressCount {
            let address = addresses[number].address
            if !address.isIPv4, address.solicitedNodeMulticast.multicastMACAddress == group { return true }
        }
        return false
    }

    /// The address that this host sends from where nobody says which, for `destination` out of on-link prefix number `prefix`, or through a
    /// gateway there. A much reduced RFC 6724: the same prefix, then the same scope.
    mutating func sourceAddress(for destination: IPAddress, prefix: Int?) -> IPAddress? {
        // A group's scope is in its second byte: RFC 4291, section 2.7.
        let isLocal = destination.isLinkLocal || !destination.isIPv4 && destination.isMulticast && destination.high &>> 48 & 0xf <= 2
        if let prefix, addresses[prefix].address.isLinkLocal == isLocal || destination.isIPv4 { return addresses[prefix].address }
        var fallback: IPAddress?
        for number in 0..<addressCount {
            let address = addresses[number].address
            guard address.isIPv4 == destination.isIPv4 else { continue }
            if address.isLinkLocal == isLocal || address.isIPv4 { return address }
            if fallback == nil { fallback = address }
        }
        return fallback
    }
}
