import CDemikernelShims
import Glibc

// What a TCP segment costs between a device and an application, for `demi bench`: two stacks that know each other, and nothing between them.

extension LibOS {
    /// Nanoseconds for each TCP data segment of 64 bytes from the frame to the event and out of the socket's queue, in each of `repetitions`
    /// rounds; frames come one by one. `verifies`: with checksums in software.
    package func measureTCPIn(repetitions: Int, verifies: Bool = false) throws(DemikernelError) -> [Double] {
        var probe = try TCPProbe(heap: core.heap.reference, fillsChecksums: !verifies)
        return try probe.segmentsIn(repetitions)
    }

    /// Nanoseconds for each push of 64 bytes from the application's buffer to the frame in the transmit burst. `fills`: the device fills
    /// checksums in.
    package func measureTCPOut(repetitions: Int, fills: Bool = true) throws(DemikernelError) -> [Double] {
        var probe = try TCPProbe(heap: core.heap.reference, fillsChecksums: fills)
        return try probe.segmentsOut(repetitions)
    }

    /// Nanoseconds for each ping-pong of 64 bytes between two sockets of two stacks, in each of `repetitions` rounds of `count`.
    package func measureTCPLoop(repetitions: Int, count: Int, fills: Bool = false) throws(DemikernelError) -> [Double] {
        var probe = try TCPProbe(heap: core.heap.reference, fillsChecksums: fills)
        return try probe.roundTrips(repetitions, count)
    }
}

/// Two stacks, a connection, and its two ends.
private struct TCPProbe: ~Copyable {
    private static var burst: Int { 64 }
    private static var burstsPerRound: Int { 64 }

    private var left: NetworkStack
    private var right: NetworkStack
    private var frames: FrameBurst
    private let client: TCPSocket
    private let server: TCPSocket
    private let heap: HeapReference
    private var now: UInt64 = 1_000_000_000

    init(heap: HeapReference, fillsChecksums: Bool) throws(DemikernelError) {
        var left = try Self.stack(1, peer: 2, fillsChecksums, heap)
        var right = try Self.stack(2, peer: 1, fillsChecksums, heap)
        var frames = FrameBurst(capacity: 256, heap: heap)
        let options = TCPSocketOptions()
        let address = SocketAddress.ipv4(0x0a00_0002, port: 80)
        let listener = try right.tcp.listen(on: address, backlog: 1, options: options, tag: 1, ip: &right.ip)
        let opened = try left.tcp.connect(from: nil, to: address, options: options, tag: 2, ip: &left.ip, now: 1_000_000_000)
        for _ in 0..<4 {
            Self.carry(&left, &frames, &right, 1_000_000_000)
            Self.carry(&right, &frames, &left, 1_000_000_000)
        }
        guard let accepted = right.tcp.accept(listener, tag: 3) else { throw DemikernelError(.ioError, "the probe's connection did not open") }
        client = opened
        server = accepted
        self.left = left
        self.right = right
        self.frames = frames
        self.heap = heap
    }

    private static func stack(_ number: UInt32, peer: UInt32, _ fillsChecksums: Bool, _ heap: HeapReference) throws(DemikernelError) -> NetworkStack {
        var configuration = NetworkConfiguration(addresses: [.init(IPAddress(ipv4: 0x0a00_0000 + number), prefixLength: 24)])
        configuration.staticNeighbours = [.init(IPAddress(ipv4: 0x0a00_0000 + peer), MACAddress(0x0200_0000_0000 + UInt64(peer)))]
        configuration.announcesAddresses = false
        let device = NetworkDeviceCapabilities(address: 0x0200_0000_0000 + UInt64(number), fillsChecksums: fillsChecksums, name: "probe")
        return try NetworkStack(configuration, heap: heap, device: device, entropy: NetworkEntropy(seed: UInt64(number)), now: 0)
    }

    /// Everything that one stack has to send is received by the other.
    @inline(__always)
    private static func carry(_ from: inout NetworkStack, _ frames: inout FrameBurst, _ to: inout NetworkStack, _ now: UInt64) {
        while !from.ip.outgoing.isEmpty { frames.append(from.ip.outgoing.removeFirst()) }
        if !frames.isEmpty { to.receive(&frames, now: now) }
    }

    /// What has come to a socket, or null.
    @inline(__always)
    private static func take(_ stack: inout NetworkStack, _ socket: TCPSocket, _ now: UInt64) -> SegmentList {
        guard let event = stack.events.popFirst() else { return .empty }
        dk_black_box(UInt64(event.tag))
        if case .segments(let list) = stack.tcp.receive(socket, limit: 0, ip: &stack.ip, now: now) { return list }
        return .empty
    }

    private func payload() throws(DemikernelError) -> Segment {
        let segment = heap.allocateSegment(64)
        guard !segment.isNull else { throw DemikernelError(.noMemory, "the heap is exhausted") }
        segment.packet.clear(0, 64)
        return segment
    }

    mutating func segmentsIn(_ repetitions: Int) throws(DemikernelError) -> [Double] {
        let segment = try payload()
        defer { segment.release() }
        var samples: [Double] = []
        var single = FrameBurst(capacity: 1, heap: heap)
        for _ in 0..<repetitions {
            var spent: UInt64 = 0
            for _ in 0..<Self.burstsPerRound {
                now += 1_000
                for _ in 0..<Self.burst {
                    segment.retain()
                    _ = left.tcp.send(client, .single(segment), ip: &left.ip, now: now)
                }
                let start = Self.clock()
                while !left.ip.outgoing.isEmpty {
                    single.append(left.ip.outgoing.removeFirst())
                    right.receive(&single, now: now)
                    Self.take(&right, server, now).releaseAll()
                }
                spent += Self.clock() - start
                now += 20_000_000
                right.poll(now: now)
                Self.carry(&right, &frames, &left, now)
            }
            samples.append(Double(spent) / Double(Self.burst * Self.burstsPerRound))
        }
        guard right.tcp.counters.bytesReceived == UInt64(repetitions * Self.burst * Self.burstsPerRound * 64) else {
            throw DemikernelError(.ioError, "the probe's segments did not arrive")
        }
        return samples
    }

    mutating func segmentsOut(_ repetitions: Int) throws(DemikernelError) -> [Double] {
        let segment = try payload()
        defer { segment.release() }
        var samples: [Double] = []
        for _ in 0..<repetitions {
            var spent: UInt64 = 0
            for _ in 0..<Self.burstsPerRound {
                now += 1_000
                let start = Self.clock()
                for _ in 0..<Self.burst {
                    segment.retain()
                    _ = left.tcp.send(client, .single(segment), ip: &left.ip, now: now)
                }
                spent += Self.clock() - start
                Self.carry(&left, &frames, &right, now)
                while !right.events.isEmpty { Self.take(&right, server, now).releaseAll() }
                while case .segments(let list) = right.tcp.receive(server, limit: 0, ip: &right.ip, now: now) { list.releaseAll() }
                now += 20_000_000
                right.poll(now: now)
                Self.carry(&right, &frames, &left, now)
            }
            samples.append(Double(spent) / Double(Self.burst * Self.burstsPerRound))
        }
        guard left.tcp.counters.bytesSent == UInt64(repetitions * Self.burst * Self.burstsPerRound * 64) else {
            throw DemikernelError(.ioError, "the probe's segments were not sent at once")
        }
        return samples
    }

    mutating func roundTrips(_ repetitions: Int, _ count: Int) throws(DemikernelError) -> [Double] {
        var segments = SegmentList.single(try payload())
        var samples: [Double] = []
        for _ in 0..<repetitions {
            let start = Self.clock()
            for _ in 0..<count {
                now += 1_000
                _ = left.tcp.send(client, segments, ip: &left.ip, now: now)
                Self.carry(&left, &frames, &right, now)
                let request = Self.take(&right, server, now)
                _ = right.tcp.send(server, request, ip: &right.ip, now: now)
                now += 1_000
                Self.carry(&right, &frames, &left, now)
                segments = Self.take(&left, client, now)
                left.poll(now: now)
                right.poll(now: now)
            }
            samples.append(Double(Self.clock() - start) / Double(count))
        }
        segments.releaseAll()
        guard right.tcp.counters.bytesReceived == UInt64(repetitions * count * 64) else {
            throw DemikernelError(.ioError, "the probe's messages did not arrive")
        }
        return samples
    }

    private static func clock() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// The memory of a connection, for `demi bench`.
package enum TCPProbeSizes {
    /// Bytes of a connection's slot in its table.
    package static var connection: Int { MemoryLayout<TCPConnection>.stride }
}
