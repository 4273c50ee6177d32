import Glibc
import Testing
import TestSupport
@testable import Demikernel

/// TCP segments that go to the kernel as one packet, and what the other end of a cable gets of them.
struct SegmentRunTests {
    /// A segment of the connections of these tests.
    struct Piece: Equatable, CustomTestStringConvertible {
        var sequence: UInt32
        var count: Int
        var flags: TCPFlags = [.ack]
        var port: UInt16 = 7_000
        var acknowledgment: UInt32 = 77
        var window: UInt16 = 500
        var isIPv6 = false
        var hasTimestamps = true
        /// Segments of heap memory in which the payload lies; with none it follows the headers.
        var parts = 1
        var testDescription: String { "\(count) bytes at \(sequence)" }
    }

    private static func headers(_ piece: Piece) -> (bytes: [UInt8], transport: Int) {
        let tcp = TCPHeader(
            sourcePort: piece.port, destinationPort: 9, sequenceNumber: SequenceNumber(piece.sequence),
            acknowledgmentNumber: SequenceNumber(piece.acknowledgment), flags: piece.flags, window: piece.window)
        let options = piece.hasTimestamps ? TCPOptions(timestamps: TCPTimestamps(value: 5, echo: 6)) : TCPOptions()
        let length = TCPHeader.byteCount + options.byteCount + piece.count
        let (source, destination) = piece.isIPv6
            ? (IPAddress("fd00:117::9")!, IPAddress("fd00:117::8")!) : (IPAddress("10.117.0.9")!, IPAddress("10.117.0.8")!)
        var bytes = [UInt8](repeating: 0, count: 200)
        let transport = piece.isIPv6 ? 54 : 34
        let count = unsafe bytes.withUnsafeMutableBytes { room in
            let packet = unsafe PacketBytes(start: room.baseAddress!, count: room.count)
            packet.store64(LinkEnds.others << 16, at: 0)
            packet.store64(LinkEnds.ours << 16, at: 6)
            packet.store16(piece.isIPv6 ? EtherType.ipv6.rawValue : EtherType.ipv4.rawValue, at: 12)
            if piece.isIPv6 {
                IPv6Header(source: source, destination: destination, nextHeader: .tcp, payloadLength: length).emit(into: packet.slice(from: 14))
            } else {
                IPv4Header(source: source.ipv4, destination: destination.ipv4, ipProtocol: .tcp, payloadLength: length).emit(into: packet.slice(from: 14))
            }
            let count = tcp.emit(into: packet.slice(from: transport), options: options)
            let sum = InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: .tcp, length: length)
            packet.store16(~InternetChecksum.fold(sum), at: transport + 16)
            return transport + count
        }
        return (Array(bytes[..<count]), transport)
    }

    private static func frame(_ piece: Piece, _ bench: DeviceBench) -> Frame {
        let (headers, transport) = headers(piece)
        let payload = DeviceBench.contents(piece.count, seed: Int(piece.sequence))
        let head = bench.heap.allocateSegment(headers.count + (piece.parts == 0 ? piece.count : 0))
        unsafe head.bytes.copyBytes(from: piece.parts == 0 ? headers + payload : headers)
        var rest = SegmentList.empty
        var done = 0
        for part in 0..<piece.parts {
            let end = part == piece.parts - 1 ? piece.count : done + piece.count / piece.parts
            let segment = bench.heap.allocateSegment(end - done)
            unsafe segment.bytes.copyBytes(from: payload[done..<end])
            precondition(bench.heap.reference.append(segment, to: &rest))
            done = end
        }
        return Frame(
            head, rest: rest, offload: FrameOffload(flags: .partialChecksum, checksumStart: UInt16(transport), checksumOffset: 16))
    }

    /// `count` segments that follow one another, of `size` bytes but for the last one's 300.
    private static func stream(_ count: Int, size: Int = 1_000, _ adjust: (inout Piece) -> Void = { _ in }) -> [Piece] {
        (0..<count).map { number in
            var piece = Piece(sequence: UInt32(number * size) &- 2_500, count: number == count - 1 ? 300 : size)
            adjust(&piece)
            return piece
        }
    }

    /// Segments, and how many from the first on may be put together.
    static let cases: [(name: String, pieces: [Piece], joined: Int)] = [
        ("one", stream(1), 1),
        ("all", stream(10), 10),
        ("IPv6", stream(10) { $0.isIPv6 = true }, 10),
        ("without options", stream(4) { $0.hasTimestamps = false }, 4),
        ("payload behind the headers", stream(4) { $0.parts = 0 }, 4),
        ("payload in many parts", stream(6) { $0.parts = 7 }, 6),
        ("too many parts", stream(6) { $0.parts = 60 }, 4),
        ("no longer than a packet", stream(64, size: 1_400), (65_535 - 52) / 1_400),
        ("PSH ends it", stream(5) { if $0.sequence == 500 { $0.flags = [.ack, .psh] } }, 4),
        ("FIN ends it", stream(3) { if $0.count == 300 { $0.flags = [.ack, .psh, .fin] } }, 3),
        ("no congestion window reduced", stream(3) { if $0.count == 300 { $0.flags = [.ack, .cwr] } }, 2),
        ("no reset", stream(3) { if $0.count == 300 { $0.flags = [.ack, .rst] } }, 2),
        ("a short one ends it", stream(4) { if $0.sequence == 4_294_965_796 { $0.count = 999 } }, 2),
        ("no longer one", stream(3) { if $0.sequence != 4_294_964_796 { $0.count = 1_001 } }, 1),
        ("no gap", stream(4) { if $0.sequence == 500 { $0.sequence = 501 } }, 3),
        ("no other connection", stream(3) { if $0.count == 300 { $0.port = 7_001 } }, 2),
        ("no other acknowledgment", stream(3) { if $0.count == 300 { $0.acknowledgment = 78 } }, 2),
        ("no other window", stream(3) { if $0.count == 300 { $0.window = 501 } }, 2),
        ("no other headers", stream(3) { if $0.count == 300 { $0.hasTimestamps = false } }, 2),
        ("no other family", stream(3) { if $0.count == 300 { $0.isIPv6 = true } }, 2),
        ("nothing without payload", stream(3) { $0.count = 0 }, 1),
    ]

    @Test(arguments: cases.indices) func `only what a kernel would have cut so is put together`(_ index: Int) throws {
        let (name, pieces, joined) = Self.cases[index]
        let bench = try DeviceBench()
        var burst = bench.burst()
        for piece in pieces { burst.append(Self.frame(piece, bench)) }
        let run = Joined(burst)
        #expect(run.count == joined, "\(name)")
        let bytes = pieces[..<joined].reduce(0) { $0 + Self.headers($1).bytes.count + $1.count }
        if joined > 1 { #expect(run.byteCount == bytes, "\(name)") }
        // Longer frames than the interface takes are somebody else's.
        #expect(Joined(burst, frameMaximum: 299).count == 1)
    }

    @Test func `frames that only look like it are left alone`() throws {
        let bench = try DeviceBench()
        // What is damaged, in each of two frames that would be put together otherwise.
        let damages: [(PacketBytes) -> Void] = [
            { $0.store16(0x8100, at: 12) }, { $0.store8(0x46, at: 14) }, { $0.store8(17, at: 23) }, { $0.store16(0x2000, at: 20) },
            { $0.store16(1_051, at: 16) }, { $0.store8(0x40, at: 34 + 12) }, { $0.store8(0xf0, at: 34 + 12) }, { $0.store8(0x12, at: 34 + 13) },
        ]
        for (number, damage) in damages.enumerated() {
            var burst = bench.burst()
            for piece in Self.stream(3)[..<2] {
                let frame = Self.frame(piece, bench)
                damage(unsafe PacketBytes(start: frame.head.start, count: frame.head.byteCount))
                burst.append(frame)
            }
            #expect(Joined(burst).count == 1, "damage \(number)")
        }
        for offload in [
            FrameOffload.none, FrameOffload(flags: .partialChecksum, checksumStart: 34, checksumOffset: 6),
            FrameOffload(flags: .partialChecksum, checksumStart: 38, checksumOffset: 16),
            FrameOffload(flags: .partialChecksum, checksumStart: 54, checksumOffset: 16),
        ] {
            var burst = bench.burst()
            for piece in Self.stream(2) {
                var frame = Self.frame(piece, bench)
                frame.offload = offload
                burst.append(frame)
            }
            #expect(Joined(burst).count == 1, "\(offload)")
        }
    }

    @Test(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2"), arguments: [false, true], [false, true])
    func `the kernel cuts the packet into the frames that it was made of`(_ isIPv6: Bool, _ bypassesQueueing: Bool) throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        try link.succeed("ethtool -K near0 tso off gso off tx off >/dev/null", in: link.near)
        try Self.checkCut(try Self.send(isIPv6, bypassesQueueing: bypassesQueueing, bench, link), isIPv6)
        #expect(bench.isEmpty)
    }

    @Test(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2"), arguments: [false, true])
    func `the kernel cuts packets that are longer than IP can say`(_ isIPv6: Bool) throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        try link.succeed("ethtool -K near0 tso off gso off tx off >/dev/null", in: link.near)
        try Self.checkCut(try Self.send(isIPv6, count: 150, bench, link), isIPv6)
        #expect(bench.isEmpty)
    }

    @Test(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2"))
    func `packets are long while the interface leaves the cutting to the kernel`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link)
        #expect(near.packetMaximum == SegmentRun.packetMaximum)
        var now: UInt64 = 1_000_000_000
        for (words, maximum) in [("off", SegmentRun.longPacketMaximum), ("on", SegmentRun.packetMaximum)] {
            try link.succeed("ethtool -K near0 tso \(words) >/dev/null", in: link.near)
            now += 1_000_000_000
            _ = near.maintain(now: now)
            #expect(near.packetMaximum == (Self.cutsLong ? maximum : SegmentRun.packetMaximum), "tso \(words)")
        }
        #expect(bench.isEmpty)
    }

    /// Linux 6.5 and later.
    private static let cutsLong: Bool = {
        var system = unsafe utsname()
        guard unsafe uname(&system) == 0 else { return false }
        let release = unsafe withUnsafeBytes(of: &system.release) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let numbers = release.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        return numbers.count == 2 && (numbers[0], numbers[1]) >= (6, 5)
    }()

    @Test func `a packet is as long as its kernel takes`() throws {
        let bench = try DeviceBench()
        var burst = bench.burst(capacity: 256)
        for piece in Self.stream(150, size: 1_400) { burst.append(Self.frame(piece, bench)) }
        #expect(Joined(burst).count == 65_483 / 1_400)
        #expect(Joined(burst, packetMaximum: SegmentRun.longPacketMaximum).count == 196_556 / 1_400)
    }

    @Test(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2"))
    func `a queueing discipline without room makes frames wait, and never spin`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        try link.succeed("ethtool -K near0 tso off gso off tx off >/dev/null", in: link.near)
        // Room for two frames, and none again for minutes.
        try link.succeed("tc qdisc replace dev near0 root tbf rate 80bit burst 1600 limit 3200", in: link.near)
        var near = try LinkEnds.near(link)
        var burst = bench.burst(capacity: 256)
        for port in 7_000..<7_005 as Range<UInt16> {
            for piece in Self.stream(40, { $0.port = port }) { burst.append(Self.frame(piece, bench)) }
        }
        for _ in 0..<20 { near.transmit(&burst) }
        // The first packets fill it; those behind are refused and stay.
        let left = burst.count
        #expect(left >= 80 && near.statistics.transmitStalls == 20)
        burst.removeAll()
        #expect(bench.isEmpty)
    }

    /// What comes is what was sent, with checksums.
    private static func checkCut(_ taken: (sent: [[UInt8]], frames: [[UInt8]], statistics: NetworkDeviceStatistics), _ isIPv6: Bool) throws {
        #expect(taken.frames.map { withoutIdentification($0, isIPv6) } == taken.sent.map { withoutIdentification($0, isIPv6) })
        for frame in taken.frames { #expect(checksumIsValid(frame, isIPv6)) }
        #expect(taken.statistics.transmittedFrames == UInt64(taken.sent.count) && taken.statistics.transmitDrops == 0)
        #expect(taken.statistics.transmittedBytes == UInt64(taken.sent.reduce(0) { $0 + $1.count }))
    }

    @Test(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2"), arguments: [false, true])
    func `an interface that cuts by itself gets it uncut`(_ isIPv6: Bool) throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        let taken = try Self.send(isIPv6, bench, link)
        // Two runs with a lone segment of another connection between them.
        #expect(taken.frames.count == 3)
        let headers = isIPv6 ? 86 : 66
        #expect(taken.frames.map(\.count) == [19_300 + headers, 300 + headers, 19_300 + headers])
        for (frame, first) in zip(taken.frames, [0, 20, 21]) {
            // Ports, sequence and acknowledgment number, and the payload as one.
            let transport = isIPv6 ? 54 : 34
            #expect(frame[transport..<transport + 12] == taken.sent[first][transport..<transport + 12])
        }
        #expect(Array(taken.frames[2][headers...]) == taken.sent[21...].flatMap { $0[headers...] })
    }

    /// Sends two streams of `count` segments with a segment of another connection between them, and receives until all their payload has come.
    private static func send(
        _ isIPv6: Bool, count: Int = 20, bypassesQueueing: Bool = false, _ bench: DeviceBench, _ link: VirtualLink
    ) throws -> (sent: [[UInt8]], frames: [[UInt8]], statistics: NetworkDeviceStatistics) {
        var near = try LinkEnds.near(link) { $0.bypassesQueueing = bypassesQueueing }
        var far = try LinkEnds.far(link)
        var burst = bench.burst(capacity: 512)
        var pieces = stream(count) { $0.isIPv6 = isIPv6 }
        pieces += [Piece(sequence: 1, count: 300, port: 7_001, isIPv6: isIPv6)]
        pieces += stream(count) { $0.isIPv6 = isIPv6; $0.port = 7_002; $0.parts = count > 80 ? 1 : 3 }
        let sent = pieces.map { piece in
            let frame = frame(piece, bench)
            burst.append(frame)
            return bytes(of: frame)
        }
        while !burst.isEmpty { near.transmit(&burst) }
        let headers = isIPv6 ? 86 : 66
        var frames: [[UInt8]] = []
        while frames.reduce(0, { $0 + $1.count - headers }) < 2 * (1_000 * count - 700) + 300 {
            far.receive(into: &burst)
            if burst.isEmpty { sched_yield() }
            while let content = burst.takeBytes() {
                // Kernels send something of themselves.
                if Array(content[6..<12]) == Array(sent[0][6..<12]) { frames.append(content) }
            }
        }
        let statistics = near.statistics
        return (sent, frames, statistics)
    }

    private static func checksumIsValid(_ frame: [UInt8], _ isIPv6: Bool) -> Bool {
        var frame = frame
        return unsafe frame.withUnsafeMutableBytes { room in
            let packet = unsafe PacketBytes(start: room.baseAddress!, count: room.count)
            let transport = packet.slice(from: isIPv6 ? 54 : 34)
            let sum: UInt64
            if isIPv6 {
                guard let view = IPv6HeaderView(packet.slice(from: 14)) else { return false }
                sum = InternetChecksum.pseudoHeader(source: view.source, destination: view.destination, ipProtocol: .tcp, length: transport.count)
            } else {
                guard let view = IPv4HeaderView(packet.slice(from: 14)), view.checksumIsValid else { return false }
                sum = InternetChecksum.pseudoHeader(source: view.source, destination: view.destination, ipProtocol: .tcp, length: transport.count)
            }
            return InternetChecksum.isValid(InternetChecksum.sum(transport, initial: sum))
        }
    }

    /// Without what a cutting kernel makes itself: IPv4's identification and checksum, and TCP's checksum.
    private static func withoutIdentification(_ frame: [UInt8], _ isIPv6: Bool) -> [UInt8] {
        var frame = frame
        let transport = isIPv6 ? 54 : 34
        for offset in (isIPv6 ? [] : [18, 19, 24, 25]) + [transport + 16, transport + 17] { frame[offset] = 0 }
        return frame
    }

    /// What a run makes of a burst.
    private struct Joined {
        let count: Int
        let byteCount: Int

        init(_ burst: borrowing FrameBurst, frameMaximum: Int = 1_518, packetMaximum: Int = SegmentRun.packetMaximum) {
            var run = SegmentRun()
            let isJoined = run.join(burst, frameMaximum: frameMaximum, packetMaximum: packetMaximum)
            count = isJoined ? run.frameCount : 1
            byteCount = run.byteCount
        }
    }
}
