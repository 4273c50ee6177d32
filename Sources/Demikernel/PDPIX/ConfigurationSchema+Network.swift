// The rows of the libOSes with a network stack of their own, and what binds them.

extension Configuration {
    /// Longest times are a day: more is no timer.
    private static let day: UInt64 = 86_400_000_000_000
    private static let millisecond: UInt64 = 1_000_000

    static let networkSettings: [ConfigurationSetting] = [
        .list("network.addresses", \.network.addresses, .interfaceAddress, maximum: 7,
            "This host's addresses. With none, catnip takes 10.117.0.1/24 and fd00:117::1/64 as memif server and .2 and ::2 as client; catloop the first, catpowder the second."),
        .list("network.gateways", \.network.gateways, .address, maximum: 2,
            "Routers for what is on none of the links, one of each family."),
        .list("network.neighbours", \.network.neighbours, .neighbour, maximum: 512,
            "Ethernet addresses of other hosts that are known and never asked for."),
        .text("network.mac", \.network.mac, .ethernetAddress,
            "This host's Ethernet address. With none, one that follows from the memif role or, with catpowder, from the first of network.addresses."),
        .choice("network.local_delivery", \.network.localDelivery,
            "Where packets for this host's own addresses go: device is for a peer that reflects frames. catloop with itself always goes there."),
        .count("network.mtu", \.network.mtu, 576...65_535, unit: "bytes", "The largest IP packet. IPv6 needs 1280."),
        .count("network.vlan", \.network.vlan, 0...4_094, unit: "a VLAN",
            "The 802.1Q VLAN that frames are tagged with. 0 is none."),
        .boolean("network.checksum_offload", \.network.checksumOffload, "Whether checksums are left to a device that fills them in."),
        .boolean("network.verify_checksums", \.network.verifyChecksums,
            "Whether checksums are verified also where the device, shared memory, cannot damage frames."),
        .size("network.send_buffer", \.network.sendBuffer, 4_096...1 << 30,
            "What each connection keeps to be sent or acknowledged before pushes wait."),
        .size("network.receive_buffer", \.network.receiveBuffer, 4_096...1 << 30, "What each connection keeps until it is popped."),
        .size("network.datagram_buffer", \.network.datagramBuffer, 4_096...1 << 30, "What each UDP socket keeps until it is popped."),
        .count("network.connections", \.network.connections, 16...1 << 20, unit: "connections", "The most connections at any one time."),
        .choice("network.congestion_control", \.network.congestionControl, "How TCP shares a network: RFC 9438, RFC 6582 or RFC 8257."),
        .boolean("network.ecn", \.network.ecn, "Whether explicit congestion notification is asked for and agreed to. DCTCP always does."),
        .boolean("network.no_delay", \.network.noDelay, "Whether small segments go out at once on sockets that say nothing else."),
        .duration("network.linger", \.network.linger, 0...60_000 * millisecond,
            "How long a libOS that ends waits for its connections to bring their peers what was pushed. What is left then is reset."),
        .duration("network.timers.minimum_rto", \.network.timers.minimumRTO, 1_000_000...60_000 * millisecond,
            "The shortest time after which TCP sends again what was not acknowledged."),
        .duration("network.timers.delayed_ack", \.network.timers.delayedAck, 0...500 * millisecond,
            "How long an acknowledgement waits for data to go with."),
        .duration("network.timers.keepalive", \.network.timers.keepalive, 1_000 * millisecond...day,
            "How long a connection with SO_KEEPALIVE is idle before it is probed."),
        .duration("network.timers.time_wait", \.network.timers.timeWait, 1 * millisecond...600_000 * millisecond,
            "How long a closed connection's ports are kept."),
        .count("network.faults.loss", \.network.faults.loss, 0...1_000_000, unit: "frames in a million",
            "Frames that are lost on purpose, both ways, for tests."),
        .count("network.faults.duplicate", \.network.faults.duplicate, 0...1_000_000, unit: "frames in a million",
            "Frames that come twice on purpose."),
        .count("network.faults.reorder", \.network.faults.reorder, 0...1_000_000, unit: "frames in a million",
            "Frames that are overtaken on purpose."),
        .count("network.faults.corrupt", \.network.faults.corrupt, 0...1_000_000, unit: "frames in a million",
            "Frames of which a bit is changed on purpose."),
        .count("network.faults.seed", \.network.faults.seed, 0...1 << 32, unit: "a seed",
            "Where the chance of the faults begins: the same seed, the same faults."),
        .text("network.capture", \.network.capture, .path(4_095), "A file that every frame is written to as pcapng, for Wireshark."),

        .choice("memif.role", \.memif.role, "Which end of catnip's shared-memory device this is: the server listens on the socket."),
        .text("memif.socket", \.memif.socket, .path(107),
            "The Unix socket at which both ends meet, in the abstract namespace where it begins with @. catnip needs it."),
        .count("memif.id", \.memif.id, 0...Int(UInt32.max), unit: "an interface", "Both ends name the same interface of the socket."),
        .text("memif.secret", \.memif.secret, .word(24), "What a client has to know where the server has one."),
        .count("memif.rings", \.memif.rings, 1...16, unit: "rings", "Rings in each direction. The smaller number of both ends counts."),
        .count("memif.ring_size", \.memif.ringSize, 2...16_384, unit: "frames", "What a ring holds, rounded up to a power of two. The client's counts."),
        .count("memif.buffer_size", \.memif.bufferSize, 64...65_536, unit: "bytes",
            "The buffer of a frame. Longer frames take several. The client's counts."),

        .text("catloop.pair", \.catloop.pair, .word(64),
            "The two libOSes of one process that name the same pair are connected with each other. With none, the libOS is with itself."),
        .count("catloop.ring_size", \.catloop.ringSize, 16...65_536, unit: "frames", "What is under way in each direction."),

        .choice("catpowder.device", \.catpowder.device,
            "How catpowder exchanges frames: through a packet socket on an interface, as the other end of a TAP interface, which it makes if need be, or through AF_XDP."),
        .text("catpowder.interface", \.catpowder.interface, .word(15),
            "The network interface, as ip link names it. catpowder needs it. This host's addresses must not be the kernel's."),
        .text("catpowder.namespace", \.catpowder.namespace, .path(4_095),
            "The network namespace of the interface: a name of ip netns, or a path. With none, the program's own."),
        .count("catpowder.queues", \.catpowder.queues, 1...16, unit: "queues", "Queues between which the kernel divides the flows that come. With AF_XDP, as many as the interface has."),
        .count("catpowder.ring_size", \.catpowder.ringSize, 16...16_384, unit: "frames",
            "What a ring of a packet socket or of AF_XDP holds in each direction, rounded up to a power of two."),
        .boolean("catpowder.bypass_queueing", \.catpowder.bypassQueueing,
            "Whether a packet socket's frames go past the interface's queueing discipline, and past tcpdump on it. A full card then loses them."),
        .boolean("catpowder.segmentation_offload", \.catpowder.segmentationOffload,
            "Whether consecutive TCP segments of a connection go to the kernel as one packet, which it cuts again (GSO), through a TAP or, without bypass_queueing, a packet socket. tcpdump on the interface shows it uncut where the interface cuts by itself."),
        .choice("catpowder.xdp_mode", \.catpowder.xdpMode,
            "How AF_XDP takes frames: the card reads and writes the heap (zero_copy), the driver's frames are copied (copy), or the kernel's (generic); auto takes the first that works."),
        .size("catpowder.xdp_memory", \.catpowder.xdpMemory, 2 << 20...4 << 30,
            "How much of the heap, from its start, AF_XDP registers with the kernel. Frames in buffers beyond are copied."),
    ]

    /// Settings of the network that contradict each other.
    func networkProblem() -> (path: String, message: String)? {
        let addresses = network.addresses.compactMap(ConfigurationGrammar.interfaceAddress)
        for (position, entry) in addresses.enumerated() where addresses[..<position].contains(where: { $0.address == entry.address }) {
            return ("network.addresses", "expected each address once, found \(network.addresses[position].quotedForMessage) twice")
        }
        if network.mtu < 1_280, let place = addresses.firstIndex(where: { !$0.address.isIPv4 }) {
            let address = network.addresses[place].quotedForMessage
            return ("network.mtu", "expected at least 1280, which IPv6 needs (network.addresses has \(address)), found \(network.mtu)")
        }
        return gatewayProblem(addresses)
    }

    private func gatewayProblem(_ addresses: [(address: IPAddress, prefixLength: Int)]) -> (path: String, message: String)? {
        let gateways = network.gateways.compactMap { ConfigurationGrammar.address($0[...]) }
        if gateways.count == 2, gateways[0].isIPv4 == gateways[1].isIPv4 {
            return ("network.gateways", "expected one of each family, found two of the same")
        }
        for (position, gateway) in gateways.enumerated() where !addresses.isEmpty {
            guard addresses.contains(where: { gateway.matches($0.address, prefixLength: $0.prefixLength) && gateway != $0.address }) else {
                let text = network.gateways[position].quotedForMessage
                return ("network.gateways", "expected a host on the link of one of network.addresses, found \(text)")
            }
        }
        return nil
    }
}
