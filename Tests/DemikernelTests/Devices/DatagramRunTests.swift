import CDemikernelShims
import Glibc
import Testing
import TestSupport
@testable import Demikernel

/// Frames that stand for several datagrams, and the datagrams that come of them.
struct DatagramRunTests {
    /// What the datagrams of a run have in common.
    struct Shape {
        var isIPv6 = false
        var isTagged = false
        /// Bytes of IPv4's options or of a header of destination options.
        var optionBytes = 0
        var identification: UInt16 = 0xfffe
        var size = 1_000
        /// Of all datagrams together.
        var payload = 4_300

        var ip: Int { isTagged ? 18 : 14 }
        var transport: Int { ip + (isIPv6 ? 40 : 20) + optionBytes }
        var headers: Int { transport + 8 }
        var count: Int { max(1, (payload + size - 1) / size) }
        var virtio: dk_virtio_header {
            dk_virtio_header(
                flags: 1, segmentation: 5, header_length: UInt16(headers), segment_size: UInt16(size), checksum_start: UInt16(transport),
                checksum_offset: 6)
        }

        /// A frame with that payload; its number is counted on in IPv4's identification.
        func frame(_ number: Int, _ payload: ArraySlice<UInt8>) -> [UInt8] {
            let (source, destination) = isIPv6
                ? (IPAddress("fd00:117::1")!, IPAddress("fd00:117::2")!) : (IPAddress("10.117.0.1")!, IPAddress("10.117.0.2")!)
            return written(headers, filler: 0) { packet in
                EthernetHeader(
                    destination: MACAddress(0x0200_0000_0001), source: MACAddress(0x0200_0000_0002), etherType: isIPv6 ? .ipv6 : .ipv4,
                    tag: isTagged ? VLANTag(control: 0x6005) : nil
                ).emit(into: packet)
                let network = packet.slice(from: ip)
                let length = 8 + payload.count
                if isIPv6 {
                    IPv6Header(
                        source: source, destination: destination, nextHeader: optionBytes > 0 ? .destinationOptions : .udp,
                        payloadLength: optionBytes + length
                    ).emit(into: network)
                    if optionBytes > 0 {
                        network.store8(IPProtocol.udp.rawValue, at: 40)
                        network.store8(UInt8(optionBytes / 8 - 1), at: 41)
                    }
                } else {
                    IPv4Header(
                        source: source.ipv4, destination: destination.ipv4, ipProtocol: .udp, payloadLength: optionBytes + length,
                        identification: identification &+ UInt16(truncatingIfNeeded: number)
                    ).emit(into: network)
                    for offset in 0..<optionBytes { network.store8(1, at: 20 + offset) }
                    network.store8(UInt8(0x45 + optionBytes / 4), at: 0)
                    network.store16(0, at: 10)
                    network.store16(InternetChecksum.fold(InternetChecksum.sum(network.slice(0, 20 + optionBytes))), at: 10)
                }
                let sum = InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: .udp, length: length)
                UDPHeader(sourcePort: 7_000, destinationPort: 9, payloadLength: payload.count)
                    .emit(into: packet.slice(from: transport), checksum: ~InternetChecksum.fold(sum))
            } + payload
        }

        func contents() -> [UInt8] { DeviceBench.contents(payload, seed: size) }
        /// The frame that stands for all of them.
        func joined() -> [UInt8] { frame(0, contents()[...]) }
        /// The frames that it stands for.
        func frames() -> [[UInt8]] {
            let contents = contents()
            return (0..<count).map { frame($0, contents[min(payload, $0 * size)..<min(payload, ($0 + 1) * size)]) }
        }
    }

    private static func segment(_ bytes: [UInt8], _ bench: DeviceBench) -> Segment {
        let segment = bench.heap.allocateSegment(bytes.count)
        unsafe segment.bytes.copyBytes(from: bytes)
        return segment
    }

    private static func isRun(_ bytes: [UInt8], _ virtio: dk_virtio_header, _ bench: DeviceBench) -> Bool {
        let segment = segment(bytes, bench)
        guard var run = DatagramRun(segment, virtio) else {
            segment.release()
            return false
        }
        // Whatever is in it, it can be cut.
        var burst = bench.burst(capacity: 8)
        var statistics = NetworkDeviceStatistics()
        while !run.isEmpty {
            run.cut(into: &burst, &statistics)
            burst.removeAll()
        }
        return true
    }

    static let shapes: [Shape] = {
        var random = SplitMix64(seed: 4)
        var shapes = [Shape(), Shape(isIPv6: true), Shape(payload: 1_000), Shape(payload: 999), Shape(payload: 0), Shape(size: 1, payload: 128)]
        for _ in 0..<300 {
            var shape = Shape(isIPv6: .random(using: &random), isTagged: .random(using: &random))
            shape.optionBytes = .random(using: &random) ? 0 : shape.isIPv6 ? 8 * Int.random(in: 1...4, using: &random) : 4 * Int.random(in: 1...10, using: &random)
            shape.identification = random.value()
            shape.size = Int.random(in: 1...1_472, using: &random)
            shape.payload = Int.random(in: 1...min(65_400 - shape.headers, 128 * shape.size), using: &random)
            shapes.append(shape)
        }
        return shapes
    }()

    @Test func `datagrams that were joined come out as they were, however little room there is at a time`() throws {
        let bench = try DeviceBench()
        for (number, shape) in Self.shapes.enumerated() {
            var run = try #require(DatagramRun(Self.segment(shape.joined(), bench), shape.virtio))
            var burst = bench.burst(capacity: 1 << (number % 8))
            var statistics = NetworkDeviceStatistics()
            var cut: [[UInt8]] = []
            while !run.isEmpty {
                run.cut(into: &burst, &statistics)
                #expect(run.isEmpty || burst.isFull)
                // A full burst takes nothing more.
                if burst.isFull { run.cut(into: &burst, &statistics) }
                while !burst.isEmpty {
                    let frame = burst.removeFirst()
                    #expect(frame.offload == FrameOffload(flags: .partialChecksum, checksumStart: UInt16(shape.transport), checksumOffset: 6))
                    cut.append(bytes(of: frame))
                    frame.release()
                }
            }
            let frames = shape.frames()
            // Not by `#expect`, which would print them.
            let isSame = cut == frames
            #expect(isSame, "\(shape)")
            #expect(statistics.receivedFrames == UInt64(frames.count) && statistics.receiveDrops == 0)
            #expect(statistics.receivedBytes == UInt64(frames.reduce(0) { $0 + $1.count }))
        }
        #expect(bench.isEmpty)
    }

    @Test func `what the kernel has verified needs no look afterwards`() throws {
        let bench = try DeviceBench()
        let shape = Shape()
        var virtio = shape.virtio
        virtio.flags = 2
        var run = try #require(DatagramRun(Self.segment(shape.joined(), bench), virtio))
        var burst = bench.burst()
        var statistics = NetworkDeviceStatistics()
        run.cut(into: &burst, &statistics)
        #expect(burst.count == shape.count)
        while !burst.isEmpty {
            let frame = burst.removeFirst()
            #expect(frame.offload == FrameOffload(flags: .checksumIsValid))
            frame.release()
        }
        #expect(bench.isEmpty)
    }

    @Test func `what is no such frame, or says so of lengths that are not its own, is refused`() throws {
        let bench = try DeviceBench()
        for isIPv6 in [false, true] {
            let shape = Shape(isIPv6: isIPv6)
            let good = shape.joined()
            #expect(Self.isRun(good, shape.virtio, bench))
            for count in 0..<good.count { #expect(!Self.isRun(Array(good[..<count]), shape.virtio, bench), "cut to \(count) bytes") }
            #expect(Self.isRun(good + [1, 2, 3], shape.virtio, bench), "padding")
            let virtios: [(inout dk_virtio_header) -> Void] = [
                { $0.segment_size = 0 }, { $0.segmentation = 0 }, { $0.segmentation = 1 }, { $0.segmentation = 4 }, { $0.flags = 0 },
                { $0.checksum_start += 1 }, { $0.checksum_start = 0 }, { $0.checksum_start = 65_535 }, { $0.checksum_offset = 16 },
            ]
            for (number, damage) in virtios.enumerated() {
                var virtio = shape.virtio
                damage(&virtio)
                #expect(!Self.isRun(good, virtio, bench), "virtio \(number)")
            }
            let (network, udp) = (shape.ip, shape.transport)
            var damages: [(PacketBytes) -> Void] = [
                { $0.store16(EtherType.arp.rawValue, at: 12) }, { $0.store16(EtherType.vlan.rawValue, at: 12) },
                { $0.store8($0.load8(network) ^ 0x20, at: network) },
            ]
            for wrong in [0, 7, 8, shape.payload, shape.payload + 7, shape.payload + 9, 65_535] {
                damages.append { $0.store16(UInt16(wrong), at: udp + 4) }
            }
            let length = network + (isIPv6 ? 4 : 2)
            let right = shape.headers - network - (isIPv6 ? 40 : 0) + shape.payload
            for wrong in [0, 1, 19, 20, 27, right - 1, right + 1, 65_535] { damages.append { $0.store16(UInt16(wrong), at: length) } }
            if isIPv6 {
                for next in [IPProtocol.tcp, .fragment, .routing, .noNext] { damages.append { $0.store8(next.rawValue, at: network + 6) } }
            } else {
                damages += [
                    { $0.store8(0x44, at: network) }, { $0.store8(0x46, at: network) }, { $0.store8(0x4f, at: network) },
                    { $0.store16(0x2000, at: network + 6) }, { $0.store16(1, at: network + 6) }, { $0.store8(6, at: network + 9) },
                ]
            }
            for (number, damage) in damages.enumerated() {
                let bad = withPacket(good) { packet in
                    damage(packet)
                    return (0..<packet.count).map(packet.load8)
                }
                #expect(!Self.isRun(bad, shape.virtio, bench), "damage \(number), IPv6: \(isIPv6)")
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `frames of any bytes are refused or cut within their own`() throws {
        let bench = try DeviceBench()
        var random = SplitMix64(seed: 9)
        for round in 0..<20_000 {
            let shape = Shape(isIPv6: round % 2 == 0, isTagged: round % 3 == 0, optionBytes: round % 4 == 0 ? 8 : 0, size: 90, payload: 400)
            var frame = shape.joined()
            var virtio = shape.virtio
            for _ in 0..<Int.random(in: 1...4, using: &random) { frame[Int.random(in: 12..<shape.headers, using: &random)] = random.value() }
            if round % 5 == 0 { virtio.segment_size = random.value() }
            if round % 7 == 0 { virtio.checksum_start = random.value() }
            frame.removeLast(Int.random(in: 0...(round % 11 == 0 ? frame.count : 0), using: &random))
            _ = Self.isRun(frame, virtio, bench)
        }
        #expect(bench.isEmpty)
    }

    @Test func `datagrams without memory are dropped and counted, and what is not cut is given back`() throws {
        let bench = try DeviceBench()
        let shape = Shape(size: 1_000, payload: 20_000)
        var run = try #require(DatagramRun(Self.segment(shape.joined(), bench), shape.virtio))
        var given = try #require(DatagramRun(Self.segment(shape.joined(), bench), shape.virtio))
        var burst = bench.burst(capacity: 4)
        var statistics = NetworkDeviceStatistics()
        run.cut(into: &burst, &statistics)
        burst.removeAll()
        var all: [Segment] = []
        while case let segment = bench.heap.allocateSegment(shape.headers + shape.size), !segment.isNull { all.append(segment) }
        run.cut(into: &burst, &statistics)
        #expect(run.isEmpty && burst.isEmpty && statistics.receiveDrops == 16 && statistics.receivedFrames == 4)
        for segment in all { segment.release() }
        given.cut(into: &burst, &statistics)
        #expect(!given.isEmpty)
        given.release()
        burst.removeAll()
        #expect(given.isEmpty && bench.isEmpty)
    }
}
