// What a datagram costs between a device and an application, for `demi bench`.

extension LibOS {
    /// Nanoseconds for each UDP datagram of 64 bytes from the frame to the pop that waits and its completed qtoken, in each of `repetitions` rounds:
    /// each comes alone, to one of several sockets. `verifies`: with checksums in software. For a libOS as ``ProbePeer`` has it.
    package func measureUDPIn(repetitions: Int, verifies: Bool = false) throws(DemikernelError) -> [Double] {
        try withProbePeer(fillsChecksums: !verifies) { peer throws(DemikernelError) in
            var probe = UDPProbe(peer)
            try probe.connect(self)
            return try probe.datagramsIn(self, repetitions)
        }
    }

    /// Nanoseconds for each push of 64 bytes, from the call to the frame in the transmit burst and the completed qtoken. `fills`: the device
    /// fills checksums in. As above.
    package func measureUDPOut(repetitions: Int, fills: Bool = true) throws(DemikernelError) -> [Double] {
        try withProbePeer(fillsChecksums: fills) { peer throws(DemikernelError) in
            var probe = UDPProbe(peer)
            try probe.connect(self)
            return try probe.datagramsOut(self, repetitions)
        }
    }
}

/// Sockets of a libOS that are connected to one of its peer.
private struct UDPProbe: ~Copyable {
    private static var sockets: Int { 16 }
    private static var burstsPerRound: Int { 256 }
    private static var firstPort: UInt16 { 20 }
    private static var port: UInt16 { 11 }

    private var peer: ProbePeer
    private var socket = UDPSocket?.none
    private var queues: [QueueDescriptor] = []

    init(_ peer: consuming ProbePeer) { self.peer = peer }

    private static func address(_ index: Int) -> SocketAddress { .ipv4(ProbePeer.libOSAddress, port: firstPort + UInt16(index)) }

    /// Sockets, and addresses: a datagram each way finds the neighbours.
    mutating func connect(_ libOS: LibOS) throws(DemikernelError) {
        let address = SocketAddress.ipv4(ProbePeer.address, port: Self.port)
        socket = try peer.stack.udp.bind(address, reuse: false, tag: 1, ip: &peer.stack.ip)
        for index in 0..<Self.sockets {
            let queue = libOS.core.queues.descriptor(of: try libOS.core.socket(.ipv4, .datagram))
            try libOS.core.bind(queue, to: Self.address(index))
            _ = try ProbePeer.taken(libOS, try libOS.core.connectToken(queue, to: address))
            queues.append(queue)
        }
        let segment = try peer.payload()
        defer { segment.release() }
        for index in queues.indices {
            let pop = try libOS.core.popToken(queues[index])
            try send(segment, to: index, libOS.core.readTime())
            for _ in 0..<8 { peer.exchange(libOS) }
            try ProbePeer.taken(libOS, pop).segments.releaseAll()
        }
    }

    private mutating func send(_ segment: Segment, to index: Int, _ now: UInt64) throws(DemikernelError) {
        guard let socket else { return }
        segment.retain()
        try peer.stack.udp.send(socket, .single(segment), to: Self.address(index), ip: &peer.stack.ip, now: now)
    }

    /// What has come to the peer is read.
    private mutating func readAll() {
        while peer.stack.events.popFirst() != nil {}
        guard let socket else { return }
        while let (segments, _) = peer.stack.udp.receive(socket) { segments.releaseAll() }
    }

    private func close(_ libOS: LibOS) throws(DemikernelError) {
        for queue in queues { try libOS.core.close(queue) }
    }

    mutating func datagramsIn(_ libOS: LibOS, _ repetitions: Int) throws(DemikernelError) -> [Double] {
        let segment = try peer.payload()
        defer { segment.release() }
        var samples: [Double] = []
        var pops: [QToken] = []
        for _ in 0..<repetitions {
            var spent: UInt64 = 0
            for _ in 0..<Self.burstsPerRound {
                for queue in queues {
                    pops.append(try libOS.core.popToken(queue))
                    libOS.core.calls = 0
                }
                let now = libOS.core.readTime()
                for index in queues.indices { try send(segment, to: index, now) }
                spent += try peer.deliver(libOS, now, expected: queues.count)
                for token in pops { try ProbePeer.taken(libOS, token).segments.releaseAll() }
                pops.removeAll(keepingCapacity: true)
            }
            samples.append(Double(spent) / Double(Self.sockets * Self.burstsPerRound))
        }
        try close(libOS)
        return samples
    }

    mutating func datagramsOut(_ libOS: LibOS, _ repetitions: Int) throws(DemikernelError) -> [Double] {
        let segment = try peer.payload()
        defer { segment.release() }
        var samples: [Double] = []
        var pushes: [UInt32] = []
        pushes.reserveCapacity(ProbePeer.pushes)
        let groups = queues.count / ProbePeer.pushes
        let untaken = try libOS.holdPushes()
        for _ in 0..<repetitions {
            var spent: UInt64 = 0
            for _ in 0..<Self.burstsPerRound {
                for group in 0..<groups {
                    libOS.core.calls = 0
                    let start = ProbeClock.now()
                    for index in group * ProbePeer.pushes..<(group + 1) * ProbePeer.pushes {
                        segment.retain()
                        pushes.append(try libOS.core.push(queues[index], .single(segment)))
                    }
                    spent += peer.clock.elapsed(since: start)
                    guard libOS.core.network.stack.ip.outgoing.count == ProbePeer.pushes else {
                        throw DemikernelError(.ioError, "the probe's datagrams were not sent at once")
                    }
                    for slot in pushes { _ = try ProbePeer.taken(libOS, libOS.core.operations.token(of: slot)) }
                    pushes.removeAll(keepingCapacity: true)
                    peer.exchange(libOS)
                }
                readAll()
            }
            samples.append(Double(spent) / Double(groups * ProbePeer.pushes * Self.burstsPerRound))
        }
        _ = try ProbePeer.taken(libOS, untaken)
        try close(libOS)
        return samples
    }
}
