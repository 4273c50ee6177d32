import CDemikernelShims
import Glibc
import SystemPackage

/// How an AF_XDP device's sockets are made.
enum XDPSockets {
    /// An interface, and a packet socket in its namespace that hears what befalls it, and keeps it promiscuous where that is wanted.
    struct Place {
        let watcher: Int32
        let interface: NetworkInterface
        let hasLocalPeer: Bool
    }

    // MARK: The interface

    static func find(_ configuration: XDPConfiguration) throws(XDPFailure) -> Place {
        let made = try XDPFailure.wrapping { () throws(DemikernelError) in
            try NetworkNamespace.run(in: configuration.namespace) { dk_packet_socket() }
        }
        guard made >= 0 else {
            throw made == -Int(EPERM) ? XDPFailure(.notPermitted, XDPProgram.permission) : XDPFailure(.negated(made), "this kernel gives no packet socket (AF_PACKET)")
        }
        let watcher = Int32(made)
        do throws(XDPFailure) {
            let interface = try usable(configuration, watcher)
            try XDPFailure.check(dk_packet_watch(watcher, interface.index), "the interface cannot be watched")
            let station = configuration.address ?? interface.address
            if configuration.takesAll || station != interface.address {
                try XDPFailure.check(
                    dk_packet_be_promiscuous(watcher, interface.index),
                    "the interface does not receive frames to other stations: set network.mac to its own address, and no address of its kernel's")
            }
            return Place(watcher: watcher, interface: interface, hasLocalPeer: unsafe dk_interface_has_local_peer(watcher, interface.name) != 0)
        } catch {
            close(watcher)
            throw error
        }
    }

    /// The interface, which exists, is an Ethernet, is up, and has as many receive queues as are wanted.
    private static func usable(_ configuration: XDPConfiguration, _ socket: Int32) throws(XDPFailure) -> NetworkInterface {
        let interface = try XDPFailure.wrapping { () throws(DemikernelError) in try NetworkInterface.usable(configuration.interface, socket: socket) }
        let queues = unsafe dk_xdp_queue_count(socket, interface.name)
        guard queues <= 0 || configuration.queues <= queues else {
            throw XDPFailure(.invalidArgument, "the interface has fewer receive queues than catpowder.queues", detail: "it has \(queues)")
        }
        guard queues <= 0 || configuration.queues >= queues else {
            throw XDPFailure(
                .invalidArgument, "the interface receives on more queues than catpowder.queues, and frames of the others would be missed; make both equal, with ethtool -L",
                detail: "it has \(queues)")
        }
        return interface
    }

    // MARK: The sockets

    /// Whether frames may take more than one chunk, or more than what a driver has left of a page.
    static func needsSegments(_ mtu: Int) -> Bool { mtu > 3_498 }
    static func chunkByteCount(_ mtu: Int) -> Int { mtu + 18 <= 2_048 - XDPMemory.headroom ? 2_048 : 4_096 }

    /// Opens a socket for each queue, into `queues`, and answers what is attached. What fails leaves nothing open. `waits`: for a queue that the kernel
    /// has not yet let go of; else that is an error at once.
    @unsafe
    static func open(
        _ configuration: XDPConfiguration, _ place: Place, _ memory: borrowing XDPMemory, into queues: UnsafeMutablePointer<XDPQueue>, _ events: Int32,
        waits: Bool
    ) throws(XDPFailure) -> XDPAttachment {
        var attachment = try XDPAttachment(
            configuration, index: place.interface.index, station: configuration.takesAll ? nil : configuration.address ?? place.interface.address,
            takesSegments: needsSegments(place.interface.mtu))
        var count = 0
        do throws(XDPFailure) {
            while count < configuration.queues {
                let socket = try self.socket(configuration)
                if count == 0 { try register(memory, with: socket) }
                unsafe try (queues + count).initialize(to: queue(socket, configuration, place))
                count += 1
                let shared = unsafe count > 1 ? queues[0].descriptor : -1
                let segments = try bind(socket, place.interface.index, UInt32(count - 1), shared: shared, configuration, isGeneric: attachment.isGeneric, waits: waits)
                let isFirstsSegments = unsafe count > 1 && queues[0].usesSegments
                unsafe queues[count - 1].noteBound(segments: segments || isFirstsSegments, sendsPieces: configuration.transmitsSegments)
                try XDPFailure.wrapping { () throws(DemikernelError) in try DeviceEvents.add(socket, to: events) }
            }
            // The kernel's chunks, dealt out in turn.
            var next = 0
            memory.forEachHeld { address in
                unsafe queues[next].fill(address)
                next = next + 1 < count ? next + 1 : 0
            }
            for number in 0..<count {
                unsafe queues[number].publishFill()
                let descriptor = unsafe queues[number].descriptor
                try XDPFailure.check(dk_xdp_map_set(attachment.map, UInt32(number), descriptor), "the AF_XDP socket cannot be put before its queue")
            }
            return attachment
        } catch {
            attachment.close()
            unsafe queues.deinitialize(count: count)
            throw error
        }
    }

    private static func socket(_ configuration: XDPConfiguration) throws(XDPFailure) -> Int32 {
        let made = try XDPFailure.wrapping { () throws(DemikernelError) in
            try NetworkNamespace.run(in: configuration.namespace) { dk_xdp_socket() }
        }
        guard made >= 0 else {
            throw made == -Int(EPERM)
                ? XDPFailure(.notPermitted, XDPProgram.permission)
                : XDPFailure(.negated(made), "this kernel gives no AF_XDP socket: set catpowder.device to af_packet")
        }
        return Int32(made)
    }

    private static func register(_ memory: borrowing XDPMemory, with socket: Int32) throws(XDPFailure) {
        let result = unsafe dk_xdp_register(socket, memory.base, memory.byteCount, UInt32(memory.chunkByteCount))
        guard result < 0 else { return }
        close(socket)
        throw result == -Int(ENOBUFS)
            ? XDPFailure(.noBufferSpace, "the kernel may not lock so much of the heap for AF_XDP: ulimit -l unlimited, or make catpowder.xdp_memory smaller")
            : XDPFailure(.negated(result), "the kernel does not take the heap for AF_XDP's memory")
    }

    /// Takes over the socket.
    private static func queue(_ socket: Int32, _ configuration: XDPConfiguration, _ place: Place) throws(XDPFailure) -> XDPQueue {
        do throws(XDPFailure) {
            return try XDPQueue(socket, entries: configuration.ringEntries, hasLocalPeer: place.hasLocalPeer)
        } catch {
            close(socket)
            throw error
        }
    }

    /// How often, and after how many microseconds, a queue is asked for again that is not free yet: the kernel gives one back a little after its socket
    /// was closed, also that of a process that has ended.
    private static var attempts: (count: Int, microseconds: UInt32) { (200, 5_000) }

    /// Binds a socket to its queue and answers whether frames may take several descriptors.
    private static func bind(
        _ socket: Int32, _ index: Int32, _ queue: UInt32, shared: Int32, _ configuration: XDPConfiguration, isGeneric: Bool, waits: Bool
    ) throws(XDPFailure) -> Bool {
        var flags = UInt16(XDP_USE_NEED_WAKEUP) | dk_xdp_use_segments
        if configuration.mode == .zeroCopy { flags |= UInt16(XDP_ZEROCOPY) }
        // With neither, the kernel tries without copies first.
        if configuration.mode == .copy || isGeneric { flags |= UInt16(XDP_COPY) }
        if shared >= 0 { flags = UInt16(XDP_SHARED_UMEM) }
        var result = 0
        for _ in 0..<attempts.count {
            result = dk_xdp_bind(socket, index, queue, flags, shared)
            if result == 0 { return flags & dk_xdp_use_segments != 0 }
            if flags & dk_xdp_use_segments != 0, result == -Int(EINVAL) || result == -Int(EOPNOTSUPP) {
                flags &= ~dk_xdp_use_segments
                continue
            }
            guard result == -Int(EBUSY), waits else { break }
            // While it opens, before there is a turn that this could hold up; the kernel tells nobody when a queue is free.
            usleep(attempts.microseconds)
        }
        switch -result {
        case Int(EBUSY): throw XDPFailure(.resourceBusy, "another AF_XDP socket has the interface's queue, that of another process perhaps: end it, or use another interface")
        case Int(EOPNOTSUPP):
            throw XDPFailure(.notSupportedOnSocket, "the interface's driver does not give frames without copying: set catpowder.xdp_mode to auto, or copy")
        case Int(EINVAL): throw XDPFailure(.invalidArgument, "the interface has no such queue, or takes no such memory: see catpowder.queues and catpowder.xdp_mode")
        case Int(ENODEV), Int(ENETDOWN): throw XDPFailure(.negated(result), "the interface has gone down")
        default: throw XDPFailure(.negated(result), "the AF_XDP socket cannot be bound to the interface's queue")
        }
    }
}
