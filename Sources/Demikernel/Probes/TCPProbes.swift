// What a TCP segment costs between a device and an application, for `demi bench`: a libOS with a network stack, and a peer that is a stack of its
// own. Frames are made and taken away outside of the measured time, as a device does it.

extension LibOS {
    /// Nanoseconds for each TCP data segment of 64 bytes from the frame to the pop that waits and its completed qtoken, in each of `repetitions`
    /// rounds: each segment comes alone, on one of many connections, and acknowledges what that connection has sent. `verifies`: with checksums
    /// in software. For a libOS with a stack of its own and the address 10.117.0.1.
    package func measureTCPIn(repetitions: Int, verifies: Bool = false) throws(DemikernelError) -> [Double] {
        guard core.network.isPresent else { throw DemikernelError(.invalidArgument, "the libOS has no network stack") }
        let offloads = core.network.stack.ip.offloadsChecksums
        defer { core.network.stack.ip.offloadsChecksums = offloads }
        var probe = try TCPProbe(self, fillsChecksums: !verifies)
        try probe.connect(self, fillsChecksums: !verifies)
        return try probe.segmentsIn(self, repetitions)
    }

    /// Nanoseconds for each push of 64 bytes, from the call to the frame in the transmit burst and the completed qtoken. `fills`: the device
    /// fills checksums in. As above.
    package func measureTCPOut(repetitions: Int, fills: Bool = true) throws(DemikernelError) -> [Double] {
        guard core.network.isPresent else { throw DemikernelError(.invalidArgument, "the libOS has no network stack") }
        let offloads = core.network.stack.ip.offloadsChecksums
        defer { core.network.stack.ip.offloadsChecksums = offloads }
        var probe = try TCPProbe(self, fillsChecksums: fills)
        try probe.connect(self, fillsChecksums: fills)
        return try probe.segmentsOut(self, repetitions)
    }
}

/// A peer of a libOS that is not on its device, and connections between the two.
private struct TCPProbe: ~Copyable {
    /// Connections, and segments between two readings of the clock: few enough for the nearest cache.
    private static var connections: Int { 16 }
    private static var burstsPerRound: Int { 256 }
    /// Pushes between two readings of the clock: with one more the libOS would give them to its device.
    private static var pushes: Int { 7 }
    private static var port: UInt16 { 11 }

    private var peer: NetworkStack
    private var frames: FrameBurst
    private var ends: [(queue: QueueDescriptor, peer: TCPSocket)] = []
    private let heap: HeapReference

    init(_ libOS: LibOS, fillsChecksums: Bool) throws(DemikernelError) {
        let heap = libOS.core.heap.reference
        var configuration = NetworkConfiguration(addresses: [.init(IPAddress(ipv4: 0x0a75_0002), prefixLength: 24)])
        configuration.announcesAddresses = false
        let device = NetworkDeviceCapabilities(address: 0x0200_0000_0099, fillsChecksums: fillsChecksums, name: "probe")
        let peer = try NetworkStack(configuration, heap: heap, device: device, entropy: NetworkEntropy(seed: 1), now: libOS.core.readTime())
        self.peer = peer
        self.heap = heap
        frames = FrameBurst(capacity: 256, heap: heap)
    }

    /// Addresses, handshakes, acceptance.
    mutating func connect(_ libOS: LibOS, fillsChecksums: Bool) throws(DemikernelError) {
        libOS.core.network.stack.ip.offloadsChecksums = fillsChecksums
        let address = SocketAddress.ipv4(0x0a75_0001, port: Self.port)
        let listener = try libOS.core.listeningQueue(address)
        for _ in 0..<Self.connections {
            let socket = try peer.tcp.connect(
                from: nil, to: address, options: TCPSocketOptions(), tag: 1, ip: &peer.ip, now: libOS.core.readTime())
            let accept = try libOS.core.acceptToken(listener)
            for _ in 0..<8 { exchange(libOS) }
            ends.append((queue: try taken(libOS, accept).accepted, peer: socket))
        }
        try libOS.core.close(listener)
    }

    /// Takes what has to be complete.
    private func taken(_ libOS: LibOS, _ token: QToken) throws(DemikernelError) -> RawCompletion {
        guard libOS.hasCompleted(token) else { throw DemikernelError(.ioError, "the probe's segments did not arrive") }
        return libOS.core.take(completed: token)
    }

    /// Everything that either has to send is received by the other.
    private mutating func exchange(_ libOS: LibOS) {
        let now = libOS.core.readTime()
        while !libOS.core.network.stack.ip.outgoing.isEmpty, !frames.isFull { frames.append(libOS.core.network.stack.ip.outgoing.removeFirst()) }
        if !frames.isEmpty { peer.receive(&frames, now: now) }
        while !peer.ip.outgoing.isEmpty, !frames.isFull { frames.append(peer.ip.outgoing.removeFirst()) }
        if !frames.isEmpty { libOS.core.network.stack.receive(&frames, now: now) }
        libOS.core.takeNetworkEvents(now: now)
        // No turn of a device during the probe: it would take the frames away.
        libOS.core.calls = 0
    }

    /// What has come to the peer is read.
    private mutating func readAll(_ now: UInt64) {
        while peer.events.popFirst() != nil {}
        for end in ends {
            while case .segments(let list) = peer.tcp.receive(end.peer, limit: 0, ip: &peer.ip, now: now) { list.releaseAll() }
        }
    }

    private func payload() throws(DemikernelError) -> Segment {
        let segment = heap.allocateSegment(64)
        guard !segment.isNull else { throw .heapExhausted }
        segment.packet.clear(0, 64)
        return segment
    }

    /// Ends the connections, and leaves nothing behind: a peer that resets them costs no TIME_WAIT.
    private mutating func close(_ libOS: LibOS) throws(DemikernelError) {
        for end in ends {
            peer.tcp.close(end.peer, lingerReset: true, ip: &peer.ip, events: &peer.events, now: libOS.core.readTime())
            exchange(libOS)
            try libOS.core.close(end.queue)
        }
    }

    mutating func segmentsIn(_ libOS: LibOS, _ repetitions: Int) throws(DemikernelError) -> [Double] {
        let segment = try payload()
        defer { segment.release() }
        var samples: [Double] = []
        var single = FrameBurst(capacity: 1, heap: heap)
        var pops: [QToken] = []
        for _ in 0..<repetitions {
            var spent: UInt64 = 0
            for _ in 0..<Self.burstsPerRound {
                for end in ends {
                    pops.append(try libOS.core.popToken(end.queue))
                    segment.retain()
                    libOS.core.take(completed: libOS.core.operations.token(of: try libOS.core.push(end.queue, .single(segment)))).segments.releaseAll()
                    libOS.core.calls = 0
                    if libOS.core.network.stack.ip.outgoing.count == Self.pushes { exchange(libOS) }
                }
                exchange(libOS)
                let now = libOS.core.readTime()
                readAll(now)
                for end in ends {
                    segment.retain()
                    _ = peer.tcp.send(end.peer, .single(segment), ip: &peer.ip, now: now)
                }
                guard peer.ip.outgoing.count == ends.count else { throw DemikernelError(.ioError, "the probe's segments were not sent at once") }
                let start = probeTime()
                while !peer.ip.outgoing.isEmpty {
                    single.append(peer.ip.outgoing.removeFirst())
                    libOS.core.network.stack.receive(&single, now: now)
                    libOS.core.network.stack.poll(now: now)
                    libOS.core.takeNetworkEvents(now: now)
                }
                spent += probeTime() - start
                for token in pops { try taken(libOS, token).segments.releaseAll() }
                pops.removeAll(keepingCapacity: true)
                exchange(libOS)
            }
            samples.append(Double(spent) / Double(Self.connections * Self.burstsPerRound))
        }
        try close(libOS)
        return samples
    }

    mutating func segmentsOut(_ libOS: LibOS, _ repetitions: Int) throws(DemikernelError) -> [Double] {
        let segment = try payload()
        defer { segment.release() }
        var samples: [Double] = []
        var pushes: [UInt32] = []
        pushes.reserveCapacity(Self.pushes)
        let groups = ends.count / Self.pushes
        for _ in 0..<repetitions {
            var spent: UInt64 = 0
            for _ in 0..<Self.burstsPerRound {
                for group in 0..<groups {
                    libOS.core.calls = 0
                    let start = probeTime()
                    for index in group * Self.pushes..<(group + 1) * Self.pushes {
                        segment.retain()
                        pushes.append(try libOS.core.push(ends[index].queue, .single(segment)))
                    }
                    spent += probeTime() - start
                    guard libOS.core.network.stack.ip.outgoing.count == Self.pushes else {
                        throw DemikernelError(.ioError, "the probe's segments were not sent at once")
                    }
                    for slot in pushes { _ = try taken(libOS, libOS.core.operations.token(of: slot)) }
                    pushes.removeAll(keepingCapacity: true)
                    exchange(libOS)
                }
                readAll(libOS.core.readTime())
                exchange(libOS)
            }
            samples.append(Double(spent) / Double(groups * Self.pushes * Self.burstsPerRound))
        }
        try close(libOS)
        return samples
    }
}

extension Core {
    /// A queue that listens.
    fileprivate mutating func listeningQueue(_ address: SocketAddress) throws(DemikernelError) -> QueueDescriptor {
        let queue = queues.descriptor(of: try socket(address.family, .stream))
        try bind(queue, to: address)
        try listen(queue, backlog: 128)
        return queue
    }
}
