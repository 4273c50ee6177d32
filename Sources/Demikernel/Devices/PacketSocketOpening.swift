import CDemikernelShims
import Glibc
import SystemPackage

/// How a packet socket device's sockets are made.
enum PacketSockets {
    /// What a device begins with.
    struct Parts {
        let capabilities: NetworkDeviceCapabilities
        let interface: NetworkInterface
        let events: Int32
        let ringCount: Int
    }

    /// Opens everything. What fails leaves nothing open.
    @unsafe
    static func parts(_ configuration: PacketSocketConfiguration, _ rings: UnsafeMutablePointer<PacketSocketRing>) throws(DemikernelError) -> Parts {
        let events = try DeviceEvents.make()
        do throws(DemikernelError) {
            let (first, interface) = try find(configuration)
            let capabilities = NetworkDeviceCapabilities(
                address: configuration.address ?? interface.address, maximumTransmissionUnit: min(configuration.mtu, interface.mtu),
                fillsChecksums: true, name: interface.name)
            let count = try unsafe open(configuration, capabilities, interface, first: first, into: rings, events)
            return Parts(capabilities: capabilities, interface: interface, events: events, ringCount: count)
        } catch {
            close(events)
            throw error
        }
    }

    /// The interface, and a socket in its namespace, not yet bound.
    static func find(_ configuration: PacketSocketConfiguration) throws(DemikernelError) -> (first: Int32, interface: NetworkInterface) {
        let first = try socket(configuration)
        do throws(DemikernelError) {
            return (first, try NetworkInterface.usable(configuration.interface, socket: first))
        } catch {
            close(first)
            throw error
        }
    }

    /// A socket in the namespace of the settings, not yet bound.
    private static func socket(_ configuration: PacketSocketConfiguration) throws(DemikernelError) -> Int32 {
        let made = try NetworkNamespace.run(in: configuration.namespace) { dk_packet_socket() }
        guard made < 0 else { return Int32(made) }
        let error = Errno.negated(made)
        throw error == .notPermitted
            ? DemikernelError(error, "a packet socket takes CAP_NET_RAW: run as root, or grant it with setcap cap_net_raw+ep FILE")
            : DemikernelError(error, "this kernel gives no packet socket (AF_PACKET)")
    }

    /// Opens the rings, of which `first` becomes the first, and answers how many there are. What fails leaves nothing open, `first` neither.
    @unsafe
    static func open(
        _ configuration: PacketSocketConfiguration, _ capabilities: NetworkDeviceCapabilities, _ interface: NetworkInterface, first: Int32,
        into rings: UnsafeMutablePointer<PacketSocketRing>, _ events: Int32
    ) throws(DemikernelError) -> Int {
        var count = 0
        var pending = first
        do throws(DemikernelError) {
            var group: Int32 = 0
            while count < configuration.rings {
                if pending < 0 { pending = try socket(configuration) }
                unsafe rings[count] = try ring(on: pending, configuration, capabilities, interface, transmits: count == 0)
                // The ring's from here on.
                let descriptor = pending
                pending = -1
                count += 1
                try check(dk_packet_bind(descriptor, interface.index, UInt16(ETH_P_ALL)), "the packet socket cannot be bound to the interface")
                try DeviceEvents.add(descriptor, to: events)
                if configuration.rings > 1 { group = try join(group, descriptor, isFirst: count == 1) }
                // What came before the socket was bound to the interface alone.
                _ = dk_packet_take_drops(descriptor)
            }
            return count
        } catch {
            if pending >= 0 { close(pending) }
            for number in 0..<count { unsafe rings[number].close() }
            throw error
        }
    }

    /// A socket without rings, to send packets that the kernel cuts into segments; -1 where the settings want none or the kernel has none. What goes past
    /// the queueing discipline is not cut but dropped.
    static func sender(_ configuration: PacketSocketConfiguration, index: Int32) -> Int32 {
        guard configuration.joinsSegments, !configuration.bypassesQueueing, let descriptor = try? socket(configuration) else { return -1 }
        enlarge(descriptor, SO_SNDBUFFORCE, SO_SNDBUF)
        if dk_socket_option(descriptor, SOL_PACKET, PACKET_VNET_HDR, 1) == 0, dk_packet_bind(descriptor, index, 0) == 0 { return descriptor }
        close(descriptor)
        return -1
    }

    /// How long the packets may be that such a socket sends: ``SegmentRun/longPacketMaximum`` or, mostly, what IP can say.
    static func packetMaximum(sender: Int32, index: Int32) -> Int {
        sender >= 0 && dk_interface_cuts_long(sender, index) != 0 ? SegmentRun.longPacketMaximum : SegmentRun.packetMaximum
    }

    /// Has the kernel hold more bytes for the socket beside its rings.
    private static func enlarge(_ descriptor: Int32, _ forced: Int32, _ option: Int32) {
        if dk_socket_option(descriptor, SOL_SOCKET, forced, bufferSize) < 0 { _ = dk_socket_option(descriptor, SOL_SOCKET, option, bufferSize) }
    }

    private static func check(_ result: Int, _ reason: StaticString) throws(DemikernelError) {
        if result < 0 { throw DemikernelError(.negated(result), reason) }
    }

    private static func set(_ descriptor: Int32, _ option: Int32, _ value: Int32, _ reason: StaticString) throws(DemikernelError) {
        try check(dk_socket_option(descriptor, SOL_PACKET, option, value), reason)
    }

    /// One socket with its rings, not yet bound.
    private static func ring(
        on descriptor: Int32, _ configuration: PacketSocketConfiguration, _ capabilities: NetworkDeviceCapabilities, _ interface: NetworkInterface,
        transmits: Bool
    ) throws(DemikernelError) -> PacketSocketRing {
        try set(descriptor, PACKET_VERSION, Int32(TPACKET_V2.rawValue), "this kernel's packet sockets have no rings (TPACKET_V2)")
        try set(descriptor, PACKET_VNET_HDR, 1, "this kernel's packet sockets say nothing of checksums (PACKET_VNET_HDR)")
        // Frames that are longer than a slot lie in the socket's queue besides.
        try set(descriptor, PACKET_COPY_THRESH, 1, "this kernel's packet sockets take no long frames (PACKET_COPY_THRESH)")
        // A frame that cannot go, because the interface's MTU has become smaller, is dropped instead of blocking those behind it.
        try set(descriptor, PACKET_LOSS, 1, "this kernel's packet sockets block on bad frames (PACKET_LOSS)")
        // Since Linux 4.20 and 3.14; without the first, the stack drops what it hears of itself.
        _ = dk_socket_option(descriptor, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        if configuration.bypassesQueueing { _ = dk_socket_option(descriptor, SOL_PACKET, PACKET_QDISC_BYPASS, 1) }
        enlarge(descriptor, SO_RCVBUFFORCE, SO_RCVBUF)
        enlarge(descriptor, SO_SNDBUFFORCE, SO_SNDBUF)
        if !configuration.takesAll {
            try check(dk_packet_filter_station(descriptor, capabilities.address), "the packet socket takes no filter")
        }
        if configuration.takesAll || capabilities.address != interface.address {
            try check(
                dk_packet_be_promiscuous(descriptor, interface.index),
                "the interface does not receive frames to other stations: set network.mac to its own address, and no address of its kernel's")
        }
        let layout = PacketRingLayout(frameMaximum: capabilities.frameByteCountMaximum, ringSize: configuration.ringSize)
        let blocks = UInt32(layout.byteCount / layout.blockSize)
        for option in transmits ? [PACKET_RX_RING, PACKET_TX_RING] : [PACKET_RX_RING] {
            try check(
                dk_packet_ring(descriptor, option, UInt32(layout.blockSize), blocks, UInt32(layout.frameSize)),
                "the kernel has no memory for the packet socket's rings: make catpowder.ring_size smaller")
        }
        let byteCount = layout.byteCount * (transmits ? 2 : 1)
        let base = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED | Int32(MAP_POPULATE), descriptor, 0)
        guard let base = unsafe base, unsafe base != MAP_FAILED else {
            throw DemikernelError(.last, "the packet socket's rings cannot be mapped")
        }
        return unsafe PacketSocketRing(descriptor: descriptor, base: base, layout: layout, transmits: transmits)
    }

    /// Bytes that the kernel may hold for the socket beside its rings.
    private static var bufferSize: Int32 { 16 << 20 }

    /// Puts a bound socket into the fanout group, which its first makes and names; answers the name. Flows are divided by their hash.
    private static func join(_ group: Int32, _ descriptor: Int32, isFirst: Bool) throws(DemikernelError) -> Int32 {
        let kind = PACKET_FANOUT_HASH | dk_packet_fanout_ignore_outgoing
        let wanted = (kind | (isFirst ? PACKET_FANOUT_FLAG_UNIQUEID : 0)) << 16 | group
        try set(descriptor, PACKET_FANOUT, Int32(bitPattern: UInt32(wanted)), "the kernel does not divide frames between sockets: set catpowder.queues to 1")
        guard isFirst else { return group }
        var made: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        guard unsafe getsockopt(descriptor, SOL_PACKET, PACKET_FANOUT, &made, &size) == 0 else {
            throw DemikernelError(.last, "the kernel does not name the group of sockets")
        }
        return made & 0xffff
    }
}
