// What a TCP segment costs between a device and an application, for `demi bench`.

extension LibOS {
    /// Nanoseconds for each TCP data segment of 64 bytes from the frame to the pop that waits and its completed qtoken, in each of `repetitions`
    /// rounds: each segment comes alone, on one of many connections, and acknowledges what that connection has sent. `verifies`: with checksums
    /// in software. For a libOS with a stack of its own and the address 10.117.0.1.
    package func measureTCPIn(repetitions: Int, verifies: Bool = false) throws(DemikernelError) -> [Double] {
        try withProbePeer(fillsChecksums: !verifies) { peer throws(DemikernelError) in
            var probe = TCPProbe(peer)
            try probe.connect(self)
            return try probe.exchangeMessages(self, repetitions).in
        }
    }

    /// Nanoseconds for each push of 64 bytes, on a connection that has nothing else under way, from the call to the frame in the transmit burst and the
    /// completed qtoken. `fills`: the device fills checksums in. As above.
    package func measureTCPOut(repetitions: Int, fills: Bool = true) throws(DemikernelError) -> [Double] {
        try withProbePeer(fillsChecksums: fills) { peer throws(DemikernelError) in
            var probe = TCPProbe(peer)
            try probe.connect(self)
            return try probe.exchangeMessages(self, repetitions).out
        }
    }
}

/// Connections between a libOS and its peer.
private struct TCPProbe: ~Copyable {
    /// Connections: few enough for the nearest cache.
    private static var connections: Int { 2 * ProbePeer.pushes }
    private static var burstsPerRound: Int { 256 }
    private static var port: UInt16 { 11 }

    private var peer: ProbePeer
    private var ends: [(queue: QueueDescriptor, peer: TCPSocket)] = []

    init(_ peer: consuming ProbePeer) { self.peer = peer }

    /// Addresses, handshakes, acceptance.
    mutating func connect(_ libOS: LibOS) throws(DemikernelError) {
        let address = SocketAddress.ipv4(ProbePeer.libOSAddress, port: Self.port)
        let listener = try libOS.core.listeningQueue(address)
        for _ in 0..<Self.connections {
            let socket = try peer.stack.tcp.connect(
                from: nil, to: address, options: TCPSocketOptions(), tag: 1, ip: &peer.stack.ip, now: libOS.core.readTime())
            let accept = try libOS.core.acceptToken(listener)
            for _ in 0..<8 { peer.exchange(libOS) }
            ends.append((queue: try ProbePeer.taken(libOS, accept).accepted, peer: socket))
        }
        try libOS.core.close(listener)
    }

    /// What has come to the peer is read.
    private mutating func readAll(_ now: UInt64) {
        while peer.stack.events.popFirst() != nil {}
        for end in ends {
            while case .segments(let list) = peer.stack.tcp.receive(end.peer, limit: 0, ip: &peer.stack.ip, now: now) { list.releaseAll() }
        }
    }

    /// Ends the connections, and leaves nothing behind: a peer that resets them costs no TIME_WAIT.
    private mutating func close(_ libOS: LibOS) throws(DemikernelError) {
        for end in ends {
            peer.stack.tcp.close(
                end.peer, lingerReset: true, ip: &peer.stack.ip, events: &peer.stack.events, now: libOS.core.readTime())
            peer.exchange(libOS)
            try libOS.core.close(end.queue)
        }
    }

    /// Messages there and back: each push finds nothing of its connection's under way, and its answer acknowledges it. Nanoseconds for each push and
    /// for each answer that comes, of each round.
    mutating func exchangeMessages(_ libOS: LibOS, _ repetitions: Int) throws(DemikernelError) -> (out: [Double], in: [Double]) {
        let segment = try peer.payload()
        defer { segment.release() }
        var samples: (out: [Double], in: [Double]) = ([], [])
        var pushes: [UInt32] = []
        var pops: [QToken] = []
        let untaken = try libOS.holdPushes()
        for _ in 0..<repetitions {
            var spent: (out: UInt64, in: UInt64) = (0, 0)
            for _ in 0..<Self.burstsPerRound {
                for first in stride(from: 0, to: Self.connections, by: ProbePeer.pushes) {
                    let group = first..<first + ProbePeer.pushes
                    for end in ends[group] { pops.append(try libOS.core.popToken(end.queue)) }
                    pushes.removeAll(keepingCapacity: true)
                    libOS.core.calls = 0
                    let start = ProbeClock.now()
                    for index in group {
                        segment.retain()
                        pushes.append(try libOS.core.push(ends[index].queue, .single(segment)))
                    }
                    spent.out += peer.clock.elapsed(since: start)
                    guard libOS.core.network.stack.ip.outgoing.count == ProbePeer.pushes else {
                        throw DemikernelError(.ioError, "the probe's segments were not sent at once")
                    }
                    for slot in pushes { _ = try ProbePeer.taken(libOS, libOS.core.operations.token(of: slot)) }
                    peer.exchange(libOS)
                }
                let now = libOS.core.readTime()
                readAll(now)
                for end in ends {
                    segment.retain()
                    _ = peer.stack.tcp.send(end.peer, .single(segment), ip: &peer.stack.ip, now: now)
                }
                spent.in += try peer.deliver(libOS, now, expected: Self.connections)
                for token in pops { try ProbePeer.taken(libOS, token).segments.releaseAll() }
                pops.removeAll(keepingCapacity: true)
                peer.exchange(libOS)
            }
            let count = Double(Self.connections * Self.burstsPerRound)
            samples.out.append(Double(spent.out) / count)
            samples.in.append(Double(spent.in) / count)
        }
        _ = try ProbePeer.taken(libOS, untaken)
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
