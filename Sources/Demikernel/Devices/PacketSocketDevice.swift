import CDemikernelShims
import Glibc
import SystemPackage

/// An interface of the kernel, by a packet socket (AF_PACKET): packet(7). For machines whose network card has no other way round the kernel, and
/// for virtual interfaces; needs CAP_NET_RAW and nothing else.
///
/// The kernel sees the same frames. It leaves ours alone as long as our addresses are not its own: an Ethernet address that is not the
/// interface's, which a promiscuous membership lets through, makes it ignore them already there. What we send goes out of the interface; the
/// kernel to which the interface belongs does not receive it, its peer at the other end does.
///
/// Checksums are left undone in both directions where the peer is the kernel of this machine; else the interface or the kernel fills them in.
/// Frames may be longer than the MTU where the interface or a local peer joins segments (GRO, TSO), and consecutive segments of a connection go into
/// the kernel as one packet (``SegmentRun``), which `tcpdump` on the interface shows uncut where the interface cuts it, and cut where the kernel does.
///
/// An interface that is taken down, or removed, leaves the device open and not connected: frames that are transmitted meanwhile are dropped and
/// counted. It goes on when the interface is up again, or one of the name that it had at the start exists again.
///
/// Invariant: `rings` has room for 16 rings, of which the first `ringCount` are open; the first of them transmits.
@safe package struct PacketSocketDevice: NetworkDevice, ~Copyable {
    package let capabilities: NetworkDeviceCapabilities
    private let configuration: PacketSocketConfiguration
    private var traffic = NetworkDeviceStatistics()
    private let rings: UnsafeMutablePointer<PacketSocketRing>
    private var ringCount = 0
    private var turn = QueueTurn()
    /// The socket for packets that the kernel is to cut into segments; -1 where there is none, or the kernel does not cut.
    private var sender: Int32 = -1
    /// How long they may be, as it was last found to be.
    private(set) var packetMaximum = SegmentRun.packetMaximum
    private var run = SegmentRun()
    private var interface: InterfaceWatch
    private let events: Int32

    /// Opens the device. Throws EINVAL for bad settings, ENXIO where there is no such interface, ENETDOWN where it is down, EPERM without
    /// CAP_NET_RAW, ENOMEM without memory for the rings, and what entering the namespace throws.
    package init(_ configuration: PacketSocketConfiguration) throws(DemikernelError) {
        try configuration.validate()
        let rings = UnsafeMutablePointer<PacketSocketRing>.allocate(capacity: 16)
        let parts: PacketSockets.Parts
        do throws(DemikernelError) {
            parts = try unsafe PacketSockets.parts(configuration, rings)
        } catch {
            unsafe rings.deallocate()
            throw error
        }
        capabilities = parts.capabilities
        events = parts.events
        ringCount = parts.ringCount
        interface = InterfaceWatch(parts.interface, mtuMaximum: capabilities.maximumTransmissionUnit)
        self.configuration = configuration
        unsafe self.rings = rings
        openSender(index: parts.interface.index)
    }

    deinit {
        if sender >= 0 { close(sender) }
        for number in 0..<ringCount { unsafe rings[number].close() }
        unsafe rings.deallocate()
        close(events)
    }

    package var statistics: NetworkDeviceStatistics {
        mutating get {
            let rings = unsafe rings
            for number in 0..<ringCount { unsafe traffic.receiveDrops &+= UInt64(dk_packet_take_drops(rings[number].descriptor)) }
            return traffic
        }
    }

    package var isConnected: Bool { interface.isUp }
    package var eventDescriptor: Int32? { events }

    // MARK: Frames

    package mutating func receive(into burst: inout FrameBurst) {
        // The pointer apart: with the thread sanitizer the compiler (6.3.1) takes using it through `self` for a change of all of `self`.
        let rings = unsafe rings
        if ringCount == 1 {
            unsafe rings[0].receive(into: &burst, &traffic)
        } else if ringCount > 1 {
            var number = turn.next(of: ringCount)
            for _ in 0..<ringCount {
                unsafe rings[number].receive(into: &burst, &traffic)
                number = QueueTurn.after(number, of: ringCount)
            }
        } else {
            return
        }
        if unsafe rings[0].isUnsent, interface.isUp { kick() }
    }

    package mutating func transmit(_ burst: inout FrameBurst) {
        guard !burst.isEmpty else { return }
        guard interface.isUp else {
            traffic.transmitDrops &+= UInt64(burst.count)
            return burst.removeAll()
        }
        let rings = unsafe rings
        while !burst.isEmpty {
            if sender >= 0, burst.count > 1, run.join(burst, frameMaximum: interface.frameMaximum, packetMaximum: packetMaximum) {
                guard sendRun(of: &burst) else { break }
                continue
            }
            let count = burst.firstByteCount
            if count >= 14, count <= interface.frameMaximum {
                guard unsafe rings[0].put(burst[0], count: count, &traffic) else { break }
            } else {
                traffic.transmitDrops &+= 1
            }
            burst.removeFirst().release()
        }
        if unsafe rings[0].isUnsent { kick() }
        if !burst.isEmpty { traffic.transmitStalls &+= 1 }
    }

    /// Sends what ``run`` has put together, behind what is in the ring, and takes it out of the burst. False where it has to wait.
    @inline(never)
    private mutating func sendRun(of burst: inout FrameBurst) -> Bool {
        let rings = unsafe rings
        if unsafe rings[0].isUnsent {
            kick()
            guard interface.isUp else {
                traffic.transmitDrops &+= UInt64(burst.count)
                burst.removeAll()
                return false
            }
            guard unsafe !rings[0].isUnsent else { return false }
        }
        switch run.send(to: sender) {
        case 0...:
            traffic.transmittedFrames &+= UInt64(run.frameCount)
            traffic.transmittedBytes &+= UInt64(run.byteCount)
        case -Int(ENOBUFS) where packetMaximum > SegmentRun.packetMaximum, -Int(EMSGSIZE) where packetMaximum > SegmentRun.packetMaximum:
            // Memory in pieces as large as it takes may not be had: shorter ones until the next look at the interface, beginning with this one.
            packetMaximum = SegmentRun.packetMaximum
            return true
        case -Int(EAGAIN), -Int(ENOBUFS), -Int(ENOMEM), -Int(EINTR):
            return false
        case -Int(ENETDOWN), -Int(ENXIO), -Int(ENODEV):
            interface.goDown(&traffic)
            traffic.transmitDrops &+= UInt64(run.frameCount)
        default:
            // It takes no such packets: the frames go one by one from now on.
            close(sender)
            sender = -1
            return true
        }
        for _ in 0..<run.frameCount { burst.removeFirst().release() }
        return true
    }

    private mutating func kick() {
        let rings = unsafe rings
        interface.note(unsafe rings[0].kick(), &traffic)
    }

    // MARK: Sleeping

    package mutating func prepareToSleep() -> Bool {
        let rings = unsafe rings
        for number in 0..<ringCount where unsafe rings[number].hasFrames { return false }
        return unsafe ringCount == 0 || !interface.isUp || !rings[0].isUnsent
    }

    package mutating func wake() {
        let rings = unsafe rings
        for number in 0..<ringCount {
            // An interface that goes down leaves an error, which would wake for ever.
            if dk_socket_take_error(unsafe rings[number].descriptor) != 0 { interface.hurry() }
        }
    }

    // MARK: The interface

    package mutating func maintain(now: UInt64) -> UInt64 {
        if interface.isDue(now) {
            if ringCount > 0 { look() } else { reopen() }
        }
        return interface.nextTime
    }

    /// Whether the interface is still there, and up, and what it leaves to the kernel.
    private mutating func look() {
        let rings = unsafe rings
        if !interface.look(unsafe rings[0].descriptor, &traffic) { return closeRings() }
        packetMaximum = PacketSockets.packetMaximum(sender: sender, index: interface.index)
    }

    private mutating func openSender(index: Int32) {
        sender = PacketSockets.sender(configuration, index: index)
        packetMaximum = PacketSockets.packetMaximum(sender: sender, index: index)
    }

    private mutating func closeRings() {
        let drops = statistics.receiveDrops
        traffic.receiveDrops = drops
        let rings = unsafe rings
        for number in 0..<ringCount {
            DeviceEvents.remove(unsafe rings[number].descriptor, from: events)
            unsafe rings[number].close()
        }
        ringCount = 0
        if sender >= 0 { close(sender) }
        sender = -1
    }

    /// Looks for an interface of the name that ours had.
    private mutating func reopen() {
        guard let (first, found) = try? PacketSockets.find(configuration) else { return }
        guard let count = try? unsafe PacketSockets.open(configuration, capabilities, found, first: first, into: rings, events) else { return }
        ringCount = count
        openSender(index: found.index)
        interface.follow(found, &traffic)
    }
}

/// The one descriptor on which a libOS sleeps for a device whose own descriptors come and go: an epoll set of them.
enum DeviceEvents {
    static func make() throws(DemikernelError) -> Int32 {
        let descriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard descriptor >= 0 else { throw DemikernelError(.last, "no descriptor for a device's events") }
        return descriptor
    }

    static func add(_ file: Int32, to events: Int32) throws(DemikernelError) {
        var event = unsafe epoll_event()
        unsafe event.events = EPOLLIN.rawValue
        guard unsafe epoll_ctl(events, EPOLL_CTL_ADD, file, &event) == 0 else {
            throw DemikernelError(.last, "a device's descriptor cannot be watched")
        }
    }

    static func remove(_ file: Int32, from events: Int32) {
        var event = unsafe epoll_event()
        unsafe _ = epoll_ctl(events, EPOLL_CTL_DEL, file, &event)
    }
}
