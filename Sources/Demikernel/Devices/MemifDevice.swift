import CDemikernelShims
import Glibc

/// An Ethernet between two processes of one machine, without the kernel: rings and buffers in shared memory, agreed upon over a Unix socket. It
/// speaks memif 2.0, so the other end may be VPP or DPDK's `net_memif` as well.
///
/// Frames are copied once at each end, into buffers of the client's shared memory and out of them into heap memory: what was checked cannot
/// change afterwards. Nothing that the peer writes is believed. A bad frame is dropped and counted as malformed; a peer whose rings or messages
/// make no sense is disconnected, with a reason.
///
/// The link comes and goes with the peer (``isConnected``): a server takes the next client, a client looks for its server ten times a second.
/// Frames that are transmitted meanwhile are dropped and counted. A server cannot transmit before its client has offered it buffers.
///
/// Invariant: `receiveRings` and `transmitRings` have room for `MemifLimits.ringsMaximum` rings, the first of which, as many as the counts say,
/// are valid while the phase is `connected`; `regions` holds their memory until the counts are zero.
@safe package struct MemifDevice: NetworkDevice, ~Copyable {
    enum Phase {
        /// No peer.
        case idle
        /// Messages are being exchanged.
        case handshake
        case connected
    }

    package let capabilities: NetworkDeviceCapabilities
    package let configuration: MemifConfiguration
    var traffic: MemifTraffic
    var phase = Phase.idle

    let receiveRings: UnsafeMutablePointer<MemifRing>
    let transmitRings: UnsafeMutablePointer<MemifRing>
    var receiveRingCount = 0
    var transmitRingCount = 0
    private var nextReceiveRing = 0

    var regions = MemifRegions()
    let events: MemifEvents
    let listener: MemifListener?
    /// The socket to the peer, or -1.
    var control: Int32 = -1
    var handshake = MemifHandshake()
    /// When a handshake has taken too long, or the server is looked for again.
    var deadline: UInt64 = 0
    private var lastTime: UInt64 = 0

    /// What the peer calls itself; empty before the first.
    package internal(set) var peerName = ""
    /// Why the last connection ended or did not come about; empty while there was none.
    package private(set) var disconnectReason = ""

    /// Opens the device; a server listens from here on, a client connects with ``maintain(now:)``. Throws EINVAL or ENAMETOOLONG for bad
    /// settings, EADDRINUSE where the socket is another server's, ENOENT or EACCES for its folder, EMFILE without descriptors.
    package init(_ configuration: MemifConfiguration) throws(DemikernelError) {
        try configuration.validate()
        let events = try MemifEvents()
        let listener = configuration.role == .server ? try MemifListener(configuration.socketPath) : nil
        if let socket = listener?.descriptor, !events.add(socket, isInterrupt: false) {
            throw DemikernelError(.noMemory, "no memory for memif's events")
        }
        self.events = events
        self.listener = listener
        self.configuration = configuration
        capabilities = NetworkDeviceCapabilities(
            address: configuration.address, maximumTransmissionUnit: configuration.mtu, isReliable: true, name: configuration.name)
        traffic = MemifTraffic(frameMaximum: capabilities.frameByteCountMaximum)
        unsafe receiveRings = .allocate(capacity: MemifLimits.ringsMaximum)
        unsafe transmitRings = .allocate(capacity: MemifLimits.ringsMaximum)
    }

    deinit {
        if control >= 0 {
            _ = MemifSocket.send(.disconnect("closed"), to: control)
            close(control)
        }
        handshake.closeAll(events)
        unsafe receiveRings.deallocate()
        unsafe transmitRings.deallocate()
    }

    package var statistics: NetworkDeviceStatistics { traffic.statistics }
    package var isConnected: Bool { phase == .connected }
    package var eventDescriptor: Int32? { events.descriptor }

    // MARK: Frames

    package mutating func receive(into burst: inout FrameBurst) {
        guard phase == .connected else { return }
        // The pointer apart: with the thread sanitizer the compiler (6.3.1) takes using it through `self` for a change of all of `self`.
        let rings = unsafe receiveRings
        if receiveRingCount == 1 {
            if unsafe !rings[0].receive(into: &burst, &traffic) { failRing() }
            return
        }
        // Each ring comes first in its turn.
        nextReceiveRing = nextReceiveRing &+ 1 < receiveRingCount ? nextReceiveRing &+ 1 : 0
        var index = nextReceiveRing
        for _ in 0..<receiveRingCount {
            if unsafe !rings[index].receive(into: &burst, &traffic) { return failRing() }
            index = index &+ 1 < receiveRingCount ? index &+ 1 : 0
        }
    }

    package mutating func transmit(_ burst: inout FrameBurst) {
        guard !burst.isEmpty else { return }
        guard phase == .connected else {
            traffic.statistics.transmitDrops &+= UInt64(burst.count)
            return burst.removeAll()
        }
        if transmitRingCount == 1 {
            let rings = unsafe transmitRings
            if unsafe !rings[0].transmit(&burst, &traffic) { return failRing() }
        } else if !transmitOverRings(&burst) {
            return failRing()
        }
        if !burst.isEmpty { traffic.statistics.transmitStalls &+= 1 }
    }

    /// Frames of one flow stay on one ring, in their order.
    private mutating func transmitOverRings(_ burst: inout FrameBurst) -> Bool {
        var touched: UInt32 = 0
        var outcome = MemifRing.Outcome.done
        let rings = unsafe transmitRings
        while outcome == .done, !burst.isEmpty {
            let frame = burst[0]
            let index = Int(frame.flowHash % UInt32(transmitRingCount))
            outcome = unsafe rings[index].put(frame, &traffic)
            guard outcome == .done else { break }
            touched |= 1 << index
            burst.removeFirst().release()
        }
        while touched != 0 {
            unsafe rings[touched.trailingZeroBitCount].publishAndInterrupt()
            touched &= touched - 1
        }
        return outcome != .impossible
    }

    @inline(never)
    private mutating func failRing() {
        traffic.statistics.malformed &+= 1
        disconnect("a ring's positions or buffers are impossible", tellsPeer: true)
    }

    // MARK: Sleeping

    package mutating func prepareToSleep() -> Bool {
        guard phase == .connected else { return true }
        offerBuffers()
        var isIdle = true
        let rings = unsafe receiveRings
        for index in 0..<receiveRingCount {
            unsafe rings[index].maskInterrupts(false)
            if unsafe rings[index].arrived() != 0 { isIdle = false }
        }
        if !isIdle { maskInterrupts() }
        return isIdle
    }

    package mutating func wake() {
        if phase == .connected { maskInterrupts() }
        events.takeInterrupts()
    }

    private func maskInterrupts() {
        let rings = unsafe receiveRings
        for index in 0..<receiveRingCount { unsafe rings[index].maskInterrupts(true) }
    }

    /// All buffers that a client has emptied, so that a frame that needs nearly all of them finds them.
    private mutating func offerBuffers() {
        guard configuration.role == .client else { return }
        let rings = unsafe receiveRings
        for index in 0..<receiveRingCount { unsafe rings[index].offerBuffers(atLeast: 1) }
    }

    // MARK: The link

    package mutating func maintain(now: UInt64) -> UInt64 {
        lastTime = now
        switch configuration.role {
        case .server: acceptClients(now)
        case .client: findServer(now)
        }
        if control >= 0 { takeMessages() }
        switch phase {
        case .connected:
            offerBuffers()
            return .max
        case .handshake:
            guard now < deadline else {
                disconnect("the peer took too long to connect", tellsPeer: true)
                return now
            }
            return deadline
        case .idle:
            return configuration.role == .client ? max(deadline, now) : .max
        }
    }

    private mutating func acceptClients(_ now: UInt64) {
        // A few: others that knock without end have to wait.
        for _ in 0..<8 {
            guard let client = listener?.accept() else { return }
            guard phase == .idle else {
                _ = MemifSocket.send(.disconnect("already connected"), to: client)
                close(client)
                continue
            }
            begin(client, now)
            send(.hello(name: configuration.name, rings: configuration.rings))
        }
    }

    private mutating func findServer(_ now: UInt64) {
        guard phase == .idle, now >= deadline else { return }
        guard let socket = MemifSocket.connect(configuration.socketPath) else {
            deadline = now &+ MemifLimits.reconnectNanoseconds
            return
        }
        begin(socket, now)
    }

    private mutating func begin(_ socket: Int32, _ now: UInt64) {
        control = socket
        phase = .handshake
        deadline = now &+ MemifLimits.handshakeNanoseconds
        if !events.add(socket, isInterrupt: false) { disconnect("no memory for the connection's events", tellsPeer: true) }
    }

    private mutating func takeMessages() {
        for _ in 0..<MemifLimits.messagesMaximum where control >= 0 {
            switch MemifSocket.receive(from: control) {
            case .message(let message, let file): take(message, file)
            case .nothing: return
            case .end: disconnect("the peer has gone", tellsPeer: false)
            case .invalid: refuse("a message of another size than 128 bytes")
            }
        }
    }

    /// Sends a message, or gives the connection up.
    mutating func send(_ message: MemifMessage, file: Int32 = -1) {
        guard control >= 0, !MemifSocket.send(message, file: file, to: control) else { return }
        disconnect("the peer does not take messages", tellsPeer: false)
    }

    /// The peer has broken the protocol.
    mutating func refuse(_ reason: String) {
        traffic.statistics.malformed &+= 1
        disconnect(reason, tellsPeer: true)
    }

    /// Takes the link down: memory is unmapped, frames that have come and were not taken are lost.
    mutating func disconnect(_ reason: String, tellsPeer: Bool) {
        guard control >= 0 else { return }
        if tellsPeer { _ = MemifSocket.send(.disconnect(reason), to: control) }
        disconnectReason = reason
        if phase == .connected {
            traffic.statistics.disconnections &+= 1
            let rings = unsafe receiveRings
            for index in 0..<receiveRingCount {
                let arrived = unsafe rings[index].arrived() ?? 0
                traffic.statistics.receiveDrops &+= UInt64(arrived)
            }
        }
        phase = .idle
        receiveRingCount = 0
        transmitRingCount = 0
        handshake.closeAll(events)
        handshake = MemifHandshake()
        regions.removeAll()
        events.remove(control)
        close(control)
        control = -1
        deadline = lastTime &+ MemifLimits.reconnectNanoseconds
    }
}

extension Frame {
    /// Equal for the frames of one IP flow. Looks at addresses and ports where they usually are, in the first segment.
    var flowHash: UInt32 {
        let bytes = unsafe PacketBytes(start: head.start, count: head.byteCount)
        guard bytes.count >= 42 else { return 0 }
        switch bytes.load16(12) {
        case 0x0800:
            let ports = bytes.load8(14) == 0x45 && bytes.load16(20) & 0x3fff == 0 ? bytes.load32(34) : 0
            return MemifHash.mix(bytes.load32(26) ^ bytes.load32(30), ports)
        case 0x86dd:
            guard bytes.count >= 58 else { return 0 }
            let ends = bytes.load64(22) ^ bytes.load64(30) ^ bytes.load64(38) ^ bytes.load64(46)
            let hasPorts = bytes.load8(20) == 6 || bytes.load8(20) == 17
            return MemifHash.mix(UInt32(truncatingIfNeeded: ends ^ ends &>> 32), hasPorts ? bytes.load32(54) : 0)
        default: return 0
        }
    }
}

private enum MemifHash {
    static func mix(_ addresses: UInt32, _ ports: UInt32) -> UInt32 {
        let product = UInt64(addresses ^ ports) &* 0x9E37_79B9_7F4A_7C15 ^ UInt64(ports) &* 0xBF58_476D_1CE4_E5B9
        return UInt32(truncatingIfNeeded: product &>> 32)
    }
}
