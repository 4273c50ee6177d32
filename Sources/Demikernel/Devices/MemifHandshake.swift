import CDemikernelShims
import Glibc

/// What has been agreed on so far, and the descriptors that came with it or go with it.
struct MemifHandshake {
    struct Ring {
        let region: Int
        let offset: Int
        let sizeLog2: Int
        let interrupt: Int32
    }

    /// A server's: INIT was accepted.
    var isInitialized = false
    /// A server's: what the client announced, by index.
    var toServer: [Ring?] = []
    var toClient: [Ring?] = []
    /// A client's: the messages that are still to be sent, each after the acknowledgment of the one before it, last first.
    var script: [(message: MemifMessage, file: Int32)] = []
    var layout: MemifLayout?
    /// All that have to be closed, and are waited for where we receive.
    var interrupts: [Int32] = []
    var regionFile: Int32 = -1

    /// Closes the descriptors; nothing is agreed on afterwards.
    func closeAll(_ events: borrowing MemifEvents) {
        for interrupt in interrupts {
            events.remove(interrupt)
            close(interrupt)
        }
        if regionFile >= 0 { close(regionFile) }
    }
}

extension MemifDevice {
    /// Acts on a message; `file`, unless -1, is ours to close.
    mutating func take(_ message: MemifMessage, _ file: Int32) {
        var file = file
        switch (message.kind, configuration.role, phase) {
        case (.disconnect, _, _): disconnect("the peer says: \(message.disconnectReason)", tellsPeer: false)
        case (.acknowledge, _, .connected): break
        case (.initialize, .server, .handshake): takeInitialize(message)
        case (.addRegion, .server, .handshake) where handshake.isInitialized: takeRegion(message, file)
        case (.addRing, .server, .handshake) where handshake.isInitialized: takeRing(message, &file)
        case (.connect, .server, .handshake) where handshake.isInitialized: takeConnect(message)
        case (.hello, .client, .handshake) where handshake.layout == nil: takeHello(message)
        case (.acknowledge, .client, .handshake) where handshake.layout != nil: sendNext()
        case (.connected, .client, .handshake) where handshake.layout != nil && handshake.script.isEmpty: takeConnected(message)
        case (nil, _, _): refuse("an unknown message")
        default: refuse("an unexpected message")
        }
        if file >= 0 { close(file) }
    }

    // MARK: The server's side

    private mutating func takeInitialize(_ message: MemifMessage) {
        guard !handshake.isInitialized else { return refuse("a second INIT") }
        guard message.initializeVersion == MemifMessage.version else { return refuse("not memif 2.0") }
        guard message.initializeMode == MemifMessage.ethernetMode else { return refuse("only Ethernet mode is supported") }
        guard message.initializeIdentifier == configuration.interfaceIdentifier else {
            return disconnect("no interface with this identifier", tellsPeer: true)
        }
        guard configuration.secret.isEmpty || message.initializeSecret == configuration.secret else {
            return disconnect("the secret is wrong", tellsPeer: true)
        }
        handshake.isInitialized = true
        handshake.toServer = Array(repeating: nil, count: configuration.rings)
        handshake.toClient = handshake.toServer
        peerName = message.initializeName
        send(MemifMessage(.acknowledge))
    }

    private mutating func takeRegion(_ message: MemifMessage, _ file: Int32) {
        guard file >= 0 else { return refuse("a region without a descriptor") }
        guard message.regionIndex == regions.count else { return refuse("regions out of order") }
        if let reason = regions.add(file, byteCount: message.regionByteCount) { return refuse("\(reason)") }
        send(MemifMessage(.acknowledge))
    }

    /// Keeps the descriptor where the ring is accepted.
    private mutating func takeRing(_ message: MemifMessage, _ file: inout Int32) {
        let isToServer = message.ringIsToServer
        let index = message.ringIndex
        let known = isToServer ? handshake.toServer : handshake.toClient
        guard index < known.count else { return refuse("more rings than there may be") }
        guard known[index] == nil else { return refuse("a ring twice") }
        // Writing to another kind of descriptor might block.
        guard file >= 0, dk_event_adopt(file) != 0 else { return refuse("a ring without an eventfd") }
        let ring = MemifHandshake.Ring(
            region: message.ringRegion, offset: message.ringOffset, sizeLog2: message.ringSizeLog2, interrupt: file)
        guard let base = unsafe regions.ring(region: ring.region, offset: ring.offset, sizeLog2: ring.sizeLog2),
            unsafe MemifRing(base, sizeLog2: ring.sizeLog2, regions: regions, interrupt: file).hasCookie
        else { return refuse("a ring outside of its region, too large, or without the cookie") }
        if isToServer { handshake.toServer[index] = ring } else { handshake.toClient[index] = ring }
        handshake.interrupts.append(file)
        file = -1
        if isToServer, !events.add(ring.interrupt, isInterrupt: true) {
            return disconnect("no memory for the connection's events", tellsPeer: true)
        }
        send(MemifMessage(.acknowledge))
    }

    private mutating func takeConnect(_ message: MemifMessage) {
        let incoming = handshake.toServer.prefix { $0 != nil }.compactMap(\.self)
        let outgoing = handshake.toClient.prefix { $0 != nil }.compactMap(\.self)
        let announced = (handshake.toServer + handshake.toClient).count { $0 != nil }
        guard !incoming.isEmpty, !outgoing.isEmpty, incoming.count + outgoing.count == announced else {
            return refuse("rings in one direction alone, or with gaps")
        }
        for (index, ring) in incoming.enumerated() { unsafe place(ring, receiveRings + index, isReceiver: true) }
        for (index, ring) in outgoing.enumerated() { unsafe place(ring, transmitRings + index, isReceiver: false) }
        receiveRingCount = incoming.count
        transmitRingCount = outgoing.count
        phase = .connected
        send(.connect(.connected, name: configuration.name))
    }

    private func place(_ ring: MemifHandshake.Ring, _ target: UnsafeMutablePointer<MemifRing>, isReceiver: Bool) {
        guard let base = unsafe regions.ring(region: ring.region, offset: ring.offset, sizeLog2: ring.sizeLog2) else { return }
        unsafe target.initialize(to: MemifRing(base, sizeLog2: ring.sizeLog2, regions: regions, interrupt: ring.interrupt))
        unsafe target.pointee.start(isReceiver: isReceiver)
    }

    // MARK: The client's side

    private mutating func takeHello(_ message: MemifMessage) {
        guard let versions = message.helloVersions, versions.contains(MemifMessage.version) else { return refuse("not memif 2.0") }
        guard message.helloRingSizeLog2 >= 1 else { return refuse("rings of one descriptor") }
        peerName = message.helloName
        let layout = MemifLayout(
            rings: min(configuration.rings, message.helloRingsToServer, message.helloRingsToClient),
            ringSize: min(configuration.ringSize, 1 << min(message.helloRingSizeLog2, MemifLimits.ringSizeLog2Maximum)),
            bufferSize: configuration.bufferSize)
        guard prepare(layout) else { return disconnect("no memory or descriptors for the shared memory", tellsPeer: true) }
        sendNext()
    }

    /// Makes region and rings, and the messages that announce them.
    private mutating func prepare(_ layout: MemifLayout) -> Bool {
        guard let file = regions.create(byteCount: layout.byteCount) else { return false }
        handshake.layout = layout
        handshake.regionFile = file
        var script: [(message: MemifMessage, file: Int32)] = [
            (.initialize(configuration), -1), (.addRegion(0, byteCount: layout.byteCount), file),
        ]
        for isToServer in [true, false] {
            for index in 0..<layout.rings {
                let interrupt = dk_event_create()
                guard interrupt >= 0 else { return false }
                handshake.interrupts.append(interrupt)
                guard isToServer || events.add(interrupt, isInterrupt: true) else { return false }
                let ring = MemifRing(layout, index, toServer: isToServer, regions: regions, interrupt: interrupt)
                ring.format()
                unsafe ((isToServer ? transmitRings : receiveRings) + index).initialize(to: ring)
                let offset = layout.ringOffset(index, toServer: isToServer)
                script.append((
                    .addRing(
                        index, toServer: isToServer, region: 0, offset: offset, sizeLog2: layout.ringSize.trailingZeroBitCount), interrupt
                ))
            }
        }
        script.append((.connect(.connect, name: configuration.name), -1))
        handshake.script = script.reversed()
        return true
    }

    private mutating func sendNext() {
        guard let (message, file) = handshake.script.popLast() else { return refuse("an acknowledgment of nothing") }
        send(message, file: file)
    }

    private mutating func takeConnected(_ message: MemifMessage) {
        guard let layout = handshake.layout else { return }
        // Apart, as in `receive(into:)`.
        let (sending, receiving) = unsafe (transmitRings, receiveRings)
        for index in 0..<layout.rings {
            unsafe sending[index].start(isReceiver: false)
            unsafe receiving[index].start(isReceiver: true)
        }
        receiveRingCount = layout.rings
        transmitRingCount = layout.rings
        phase = .connected
    }
}
