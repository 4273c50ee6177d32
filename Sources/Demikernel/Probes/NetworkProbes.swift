import CDemikernelShims
import Glibc

// What a datagram costs between a device and an application, for `demi bench`: frames are made and taken away outside of the measured time, as a
// device does it.

extension LibOS {
    /// Nanoseconds for each UDP datagram of 64 bytes from the frame to the event and out of the socket's queue, in each of `repetitions` rounds.
    /// `verifies`: with checksums in software.
    package func measureUDPIn(repetitions: Int, verifies: Bool = false) throws(DemikernelError) -> [Double] {
        var probe = try NetworkProbe(heap: core.heap.reference, fillsChecksums: true)
        return try probe.udpIn(repetitions, verifies: verifies)
    }

    /// Nanoseconds for each UDP datagram of 64 bytes from the application's buffer to the frame in the transmit burst. `fills`: the device fills
    /// checksums in.
    package func measureUDPOut(repetitions: Int, fills: Bool = true) throws(DemikernelError) -> [Double] {
        var probe = try NetworkProbe(heap: core.heap.reference, fillsChecksums: fills)
        return try probe.udpOut(repetitions)
    }
}

/// A stack with one neighbour and one socket.
private struct NetworkProbe: ~Copyable {
    private static var burst: Int { 64 }
    private static var burstsPerRound: Int { 64 }
    private static var payloadBytes: Int { 64 }

    private var stack: NetworkStack
    private var frames: FrameBurst
    private let socket: UDPSocket
    private let heap: HeapReference
    private let station = MACAddress(0x0200_0000_0001)
    private let neighbour = MACAddress(0x0200_0000_0002)
    private let address = IPAddress(ipv4: 0x0a00_0001)
    private let peer = IPAddress(ipv4: 0x0a00_0002)

    init(heap: HeapReference, fillsChecksums: Bool) throws(DemikernelError) {
        var configuration = NetworkConfiguration(addresses: [.init(address, prefixLength: 24)])
        configuration.staticNeighbours = [.init(peer, neighbour)]
        configuration.announcesAddresses = false
        let device = NetworkDeviceCapabilities(address: station.rawValue, fillsChecksums: fillsChecksums, name: "probe")
        var stack = try NetworkStack(configuration, heap: heap, device: device, entropy: NetworkEntropy(seed: 1), now: 0)
        socket = try stack.udp.bind(.any(.ipv4, port: 7), reuse: false, tag: 3, ip: &stack.ip)
        self.stack = stack
        self.heap = heap
        frames = FrameBurst(capacity: NetworkProbe.burst, heap: heap)
    }

    /// A datagram of the peer's, as a device brings it.
    private mutating func makeFrame(isValid: Bool) {
        let length = UDPHeader.byteCount + NetworkProbe.payloadBytes
        let segment = heap.allocateSegment(14 + 20 + length)
        guard !segment.isNull else { return }
        let bytes = segment.packet
        bytes.clear(0, bytes.count)
        EthernetHeader(destination: station, source: neighbour, etherType: .ipv4).emit(into: bytes)
        IPv4Header(source: peer.ipv4, destination: address.ipv4, ipProtocol: .udp, payloadLength: length).emit(into: bytes.slice(from: 14))
        let pseudo = InternetChecksum.pseudoHeader(source: peer, destination: address, ipProtocol: .udp, length: length)
        let header = UDPHeader(sourcePort: 9, destinationPort: 7, payloadLength: NetworkProbe.payloadBytes)
        header.emit(into: bytes.slice(from: 34), checksum: header.checksum(payloadSum: 0, pseudoHeader: pseudo))
        frames.append(Frame(segment, offload: FrameOffload(flags: isValid ? .checksumIsValid : [])))
    }

    mutating func udpIn(_ repetitions: Int, verifies: Bool) throws(DemikernelError) -> [Double] {
        var samples: [Double] = []
        for _ in 0..<repetitions {
            var spent: UInt64 = 0
            for _ in 0..<NetworkProbe.burstsPerRound {
                for _ in 0..<NetworkProbe.burst { makeFrame(isValid: !verifies) }
                let start = probeTime()
                stack.receive(&frames, now: 1_000)
                while let event = stack.events.popFirst() {
                    dk_black_box(UInt64(event.tag))
                    while let (segments, source) = stack.udp.receive(socket) {
                        dk_black_box(UInt64(source.port))
                        segments.releaseAll()
                    }
                }
                spent += probeTime() - start
            }
            samples.append(Double(spent) / Double(NetworkProbe.burst * NetworkProbe.burstsPerRound))
        }
        guard stack.udp.counters.datagramsReceived == UInt64(repetitions * NetworkProbe.burst * NetworkProbe.burstsPerRound) else {
            throw DemikernelError(.ioError, "the probe's datagrams did not arrive")
        }
        return samples
    }

    mutating func udpOut(_ repetitions: Int) throws(DemikernelError) -> [Double] {
        let payload = heap.allocateSegment(NetworkProbe.payloadBytes)
        guard !payload.isNull else { throw .heapExhausted }
        defer { payload.release() }
        payload.packet.clear(0, NetworkProbe.payloadBytes)
        let target = SocketAddress(peer, port: 9)
        var samples: [Double] = []
        for _ in 0..<repetitions {
            var spent: UInt64 = 0
            for _ in 0..<NetworkProbe.burstsPerRound {
                let start = probeTime()
                for _ in 0..<NetworkProbe.burst {
                    payload.retain()
                    try stack.udp.send(socket, .single(payload), to: target, ip: &stack.ip, now: 1_000)
                }
                spent += probeTime() - start
                while !stack.ip.outgoing.isEmpty { stack.ip.outgoing.removeFirst().release() }
            }
            samples.append(Double(spent) / Double(NetworkProbe.burst * NetworkProbe.burstsPerRound))
        }
        return samples
    }
}

/// Monotonic nanoseconds.
func probeTime() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
