import Glibc
import Testing
@testable import Demikernel

/// A clock that tests move.
private final class TestClock {
    var now: UInt64 = 1_000_000_000
    var clock: DeviceClock {
        unsafe DeviceClock({ context in unsafe Unmanaged<TestClock>.fromOpaque(context!).takeUnretainedValue().now },
            context: Unmanaged.passUnretained(self).toOpaque())
    }
}

@Suite struct FaultyDeviceTests {
    /// Sends `count` frames through a loop with faults and answers which came out, by seed, in order.
    private func pass(
        _ count: Int, _ seed: UInt64, inbound: FaultSettings = FaultSettings(), outbound: FaultSettings = FaultSettings(), step: UInt64 = 1000
    ) throws -> (arrived: [[UInt8]], inbound: FaultCounters, outbound: FaultCounters) {
        let bench = try DeviceBench()
        var arrived: [[UInt8]] = []
        var counters = (FaultCounters(), FaultCounters())
        do {
            let time = TestClock()
            var device = try FaultyDevice(
                RingDevice.loop(capacity: 4096, address: 1), inbound: inbound, outbound: outbound, seed: seed, clock: time.clock,
                heap: bench.heap.reference)
            var burst = bench.burst()
            for number in 0..<count {
                burst.append(bench.frame(60 + number % 1000, seed: number, parts: number % 3))
                device.transmit(&burst)
                let isTaken = burst.isEmpty
                #expect(isTaken)
                time.now += step
                device.receive(into: &burst)
                while let bytes = burst.takeBytes() { arrived.append(bytes) }
            }
            // What is still on its way comes when its time has come.
            while true {
                let next = device.maintain(now: time.now)
                if next != .max { time.now = max(time.now, next) }
                device.receive(into: &burst)
                while let bytes = burst.takeBytes() { arrived.append(bytes) }
                if next == .max { break }
            }
            counters = (device.inboundCounters, device.outboundCounters)
        }
        #expect(bench.isEmpty)
        return (arrived, counters.0, counters.1)
    }

    private func sent(_ count: Int) -> [[UInt8]] { (0..<count).map { DeviceBench.contents(60 + $0 % 1000, seed: $0) } }

    private func settings(_ change: (inout FaultSettings) -> Void) -> FaultSettings {
        var settings = FaultSettings()
        change(&settings)
        return settings
    }

    @Test func `without settings nothing goes wrong`() throws {
        let outcome = try pass(500, 1)
        #expect(outcome.arrived == sent(500) && outcome.inbound == FaultCounters() && outcome.outbound == FaultCounters())
    }

    @Test func `lost frames are missing, and counted`() throws {
        let outcome = try pass(2000, 2, inbound: settings { $0.loss = 0.1 }, outbound: settings { $0.loss = 0.2 })
        let lost = outcome.inbound.lost + outcome.outbound.lost
        #expect(outcome.arrived.count + Int(lost) == 2000)
        #expect((300...500).contains(outcome.outbound.lost) && (100...230).contains(outcome.inbound.lost))
        let sent = Set(sent(2000))
        #expect(outcome.arrived.allSatisfy(sent.contains))
        #expect(try pass(100, 2, inbound: settings { $0.loss = 1 }).arrived.isEmpty)
    }

    @Test func `doubled frames come twice`() throws {
        let outcome = try pass(1000, 3, outbound: settings { $0.duplicate = 0.25 })
        #expect((200...300).contains(outcome.outbound.duplicated))
        var copies: [[UInt8]: Int] = [:]
        for bytes in outcome.arrived { copies[bytes, default: 0] += 1 }
        #expect(copies.count == 1000 && copies.values.count { $0 == 2 } == Int(outcome.outbound.duplicated))
    }

    @Test func `damaged frames differ in one to three bits, and vouch for no checksum`() throws {
        let outcome = try pass(1000, 4, inbound: settings { $0.corrupt = 0.5 })
        #expect(outcome.arrived.count == 1000 && (400...600).contains(outcome.inbound.corrupted))
        var damaged = 0
        for (before, after) in zip(sent(1000), outcome.arrived) {
            let bits = zip(before, after).reduce(0) { $0 + ($1.0 ^ $1.1).nonzeroBitCount }
            #expect(before.count == after.count && bits <= 3)
            if bits > 0 { damaged += 1 }
        }
        #expect(damaged == Int(outcome.inbound.corrupted))
    }

    @Test func `a damaged frame's original is left as it was`() throws {
        let bench = try DeviceBench()
        do {
            var device = try FaultyDevice(
                RingDevice.loop(address: 1), faults: settings { $0.corrupt = 1 }, seed: 1, heap: bench.heap.reference)
            var burst = bench.burst()
            let frame = bench.frame(100, seed: 5, offload: FrameOffload(flags: .partialChecksum, checksumStart: 34, checksumOffset: 6))
            frame.head.retain()
            burst.append(frame)
            device.transmit(&burst)
            device.receive(into: &burst)
            let received = burst.removeFirst()
            #expect(bytes(of: received) != DeviceBench.contents(100, seed: 5) && received.offload == .none)
            #expect(bytes(of: Frame(frame.head)) == DeviceBench.contents(100, seed: 5))
            received.release()
            frame.head.release()
            #expect(!device.capabilities.isReliable)
        }
        #expect(bench.isEmpty)
    }

    @Test func `held frames are overtaken, and all of them arrive`() throws {
        let outcome = try pass(1000, 5, inbound: settings {
            $0.reorder = 0.1
            $0.reorderDelay = 5000
        })
        #expect((60...140).contains(outcome.inbound.reordered))
        #expect(outcome.arrived != sent(1000) && Set(outcome.arrived) == Set(sent(1000)))
    }

    @Test func `delay and jitter keep the order`() throws {
        let outcome = try pass(1000, 6, outbound: settings {
            $0.delay = 20_000
            $0.jitter = 50_000
        })
        #expect(outcome.arrived == sent(1000))
    }

    @Test func `a slow link sends at its rate, and loses what its queue has no room for`() throws {
        let bench = try DeviceBench()
        do {
            let time = TestClock()
            var device = try FaultyDevice(
                RingDevice.loop(address: 1), inbound: FaultSettings(), outbound: settings {
                    $0.bytesPerSecond = 1_000_000  // 1,000 bytes a millisecond
                    $0.queueLimit = 10
                    $0.delay = 500_000
                }, seed: 1, clock: time.clock, heap: bench.heap.reference)
            var burst = bench.burst()
            for seed in 0..<15 { burst.append(bench.frame(1000, seed: seed)) }
            let start = time.now
            device.transmit(&burst)
            let lost = device.outboundCounters.overflowed
            #expect(lost == 5)
            for number in 0..<10 {
                let due = start + UInt64(number + 1) * 1_000_000 + 500_000
                let next = device.maintain(now: time.now)
                #expect(next == due)
                time.now = due - 1
                device.receive(into: &burst)
                let isEarly = !burst.isEmpty
                time.now = due
                device.receive(into: &burst)
                let received = burst.takeBytes()
                #expect(!isEarly && received == DeviceBench.contents(1000, seed: number))
            }
        }
        #expect(bench.isEmpty)
    }

    @Test(arguments: 1...5) func `the same seed makes the same faults`(seed: UInt64) throws {
        let everything = settings {
            $0.loss = 0.05
            $0.duplicate = 0.05
            $0.corrupt = 0.05
            $0.reorder = 0.05
            $0.jitter = 3000
            $0.queueLimit = 20
        }
        let first = try pass(500, seed, inbound: everything, outbound: everything)
        let second = try pass(500, seed, inbound: everything, outbound: everything)
        let other = try pass(500, seed + 100, inbound: everything, outbound: everything)
        #expect(first.arrived == second.arrived && first.inbound == second.inbound && first.arrived != other.arrived)
    }

    @Test func `settings out of bounds are refused`() {
        for change in [
            { $0.loss = -0.1 }, { $0.loss = 1.1 }, { $0.corrupt = .nan }, { $0.queueLimit = 0 }, { $0.queueLimit = 65_537 }, { $0.delay = .max },
        ] as [(inout FaultSettings) -> Void] {
            #expect(throws: DemikernelError.self) { try settings(change).validate() }
        }
    }
}

@Suite struct CaptureDeviceTests {
    /// A capture's file, removed at the end.
    private final class CaptureFile {
        let path = "/tmp/demikernel-capture-\(getpid())-\(UInt32.random(in: 0 ... .max)).pcapng"
        deinit { unsafe _ = unlink(path) }

        func contents() -> [UInt8] {
            let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
            defer { close(file) }
            var bytes = [UInt8](repeating: 0, count: 1 << 20)
            let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(file, $0.baseAddress!, $0.count) }
            return Array(bytes[..<max(0, count)])
        }
    }

    private struct Block {
        let type: UInt32
        let body: [UInt8]

        func word(_ index: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(body[index * 4 + $1]) << UInt32($1 * 8) } }
    }

    /// The blocks of a capture, by the format's rules; nil where it breaks them.
    private func blocks(_ bytes: [UInt8]) -> [Block]? {
        func word(_ offset: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[offset + $1]) << ($1 * 8) } }
        var blocks: [Block] = []
        var offset = 0
        while offset < bytes.count {
            guard offset + 12 <= bytes.count else { return nil }
            let total = word(offset + 4)
            guard total >= 12, total % 4 == 0, offset + total <= bytes.count, word(offset + total - 4) == total else { return nil }
            blocks.append(Block(type: UInt32(word(offset)), body: Array(bytes[offset + 8..<offset + total - 4])))
            offset += total
        }
        return blocks
    }

    @Test func `a capture has every frame once, with direction and time`() throws {
        let bench = try DeviceBench()
        let file = CaptureFile()
        do {
            let time = TestClock()
            time.now = 1_700_000_000_123_456_789
            var device = CaptureDevice(
                try RingDevice.loop(capacity: 4, address: 1, name: "loop0"), writer: try PcapngWriter(path: file.path), clock: time.clock,
                snapLength: 100)
            var burst = bench.burst()
            // Six frames, of which the device has room for four at a time.
            for seed in 0..<6 { burst.append(bench.frame(98 + seed, seed: seed, parts: seed)) }
            device.transmit(&burst)
            let left = burst.count
            #expect(left == 2)
            time.now += 1
            var incoming = bench.burst()
            device.receive(into: &incoming)
            device.transmit(&burst)
            device.receive(into: &incoming)
            let count = incoming.count
            #expect(count == 6)
            let frames = device.writer.frames
            #expect(frames == 12)
        }
        #expect(bench.isEmpty)
        let contents = file.contents()
        let blocks = try #require(self.blocks(contents))
        #expect(blocks.map(\.type) == [0x0A0D_0D0A, 1] + [UInt32](repeating: 6, count: 12))
        #expect(blocks[0].word(0) == 0x1A2B_3C4D)
        #expect(blocks[1].word(0) == 1 && blocks[1].word(1) == 100)  // Ethernet, snap length
        #expect(String(decoding: blocks[1].body[12..<17], as: UTF8.self) == "loop0")
        var seeds: [UInt32: [Int]] = [:]
        for block in blocks.dropFirst(2) {
            let time = UInt64(block.word(1)) << 32 | UInt64(block.word(2))
            #expect(time == 1_700_000_000_123_456_789 || time == 1_700_000_000_123_456_790)
            let (kept, count) = (Int(block.word(3)), Int(block.word(4)))
            let seed = count - 98
            #expect(kept == min(count, 100) && Array(block.body[20..<20 + kept]) == Array(DeviceBench.contents(count, seed: seed)[..<kept]))
            let flags = block.word((20 + (kept + 3) / 4 * 4) / 4 + 1)
            seeds[flags, default: []].append(seed)
        }
        #expect(seeds == [2: Array(0..<6), 1: Array(0..<6)])
    }

    @Test func `a capture that cannot be written ends, and the device goes on`() throws {
        let bench = try DeviceBench()
        do {
            let full = unsafe open("/dev/full", O_WRONLY | O_CLOEXEC)
            try #require(full >= 0)
            var device = CaptureDevice(try RingDevice.loop(address: 1), writer: PcapngWriter(descriptor: full, ownsDescriptor: true))
            var burst = bench.burst()
            for seed in 0..<100 {
                burst.append(bench.frame(1500, seed: seed))
                device.transmit(&burst)
                device.receive(into: &burst)
                let received = burst.takeBytes()
                #expect(received == DeviceBench.contents(1500, seed: seed))
            }
            device.flush()
            let error = device.writer.error
            #expect(error == .noSpace)
        }
        #expect(bench.isEmpty)
        #expect(throws: DemikernelError.self) { _ = try PcapngWriter(path: "/nonexistent/capture.pcapng") }
    }

    @Test func `tshark reads what was captured`() throws {
        guard unsafe access("/usr/bin/tshark", X_OK) == 0 else { return print("not tested: there is no tshark") }
        let bench = try DeviceBench()
        let file = CaptureFile()
        do {
            let time = TestClock()
            var writer = try PcapngWriter(path: file.path)
            let interfaces = [writer.addInterface(name: "first"), writer.addInterface(name: "second")]
            for number in 0..<100 {
                time.now += 1_000_000
                let frame = bench.frame(60 + number * 20, seed: number, parts: number % 4)
                writer.put(frame, interface: interfaces[number % 2], direction: number % 3 == 0 ? .inbound : .outbound, time: time.now)
                frame.release()
            }
        }
        let output = try run("/usr/bin/tshark", [
            "-r", file.path, "-T", "fields", "-e", "frame.len", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction",
            "-e", "frame.time_epoch",
        ])
        let lines = output.split(separator: "\n").map { $0.split(separator: "\t").map(String.init) }
        try #require(lines.count == 100)
        for (number, line) in lines.enumerated() {
            #expect(line[0] == "\(60 + number * 20)" && line[1] == ["first", "second"][number % 2])
            #expect(line[2].hasSuffix(number % 3 == 0 ? "1" : "2"))
            let milliseconds = 1000 + number + 1
            #expect(line[3].contains("\(milliseconds / 1000).") && line[3].contains(String("\(milliseconds)".suffix(3)) + "000000"))
        }
    }

    /// What a program writes to its standard output.
    private func run(_ program: String, _ arguments: [String]) throws -> String {
        let command = ([program] + arguments).map { "'\($0)'" }.joined(separator: " ") + " 2>/dev/null"
        let stream = unsafe try #require(popen(command, "r"))
        var output: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = unsafe piece.withUnsafeMutableBytes { unsafe fread($0.baseAddress!, 1, $0.count, stream) }
            if count == 0 { break }
            output += piece[..<count]
        }
        unsafe _ = pclose(stream)
        return String(decoding: output, as: UTF8.self)
    }
}

@Suite struct TracingDeviceTests {
    private final class Log {
        var entries: [(count: Int, direction: UInt32, time: UInt64)] = []
    }

    @Test func `a function sees every frame once in each direction`() throws {
        let bench = try DeviceBench()
        let log = Log()
        do {
            let time = TestClock()
            let tracer = unsafe FrameTracer({ context, _, count, direction, time in
                unsafe Unmanaged<Log>.fromOpaque(context!).takeUnretainedValue().entries.append((count, direction, time))
            }, context: Unmanaged.passUnretained(log).toOpaque())
            var device = TracingDevice(AnyNetworkDevice(.holding(try RingDevice.loop(capacity: 2, address: 1))), tracer: tracer, clock: time.clock)
            var burst = bench.burst()
            for count in [60, 61, 62] { burst.append(bench.frame(count, seed: 0, parts: 2)) }
            device.transmit(&burst)
            var incoming = bench.burst()
            device.receive(into: &incoming)
            device.transmit(&burst)
            device.receive(into: &incoming)
            let received = incoming.count
            #expect(received == 3 && device.capabilities.name == "loop")
        }
        #expect(log.entries.filter { $0.direction == 2 }.map(\.count) == [60, 61, 62])
        #expect(log.entries.filter { $0.direction == 1 }.map(\.count) == [60, 61, 62])
        #expect(bench.isEmpty)
    }

    @Test func `a reader of lines gets one for each frame`() throws {
        let bench = try DeviceBench()
        var ends: [Int32] = [0, 0]
        unsafe _ = pipe(&ends)
        defer { for end in ends { close(end) } }
        try #require(ends[0] > 0)
        do {
            let time = TestClock()
            time.now = 12_000_345_678
            var device = TracingDevice(try RingDevice.loop(address: 1), tracer: FrameTracer(descriptor: ends[1]), clock: time.clock)
            var burst = bench.burst()
            burst.append(Frame(packet(bench)))
            device.transmit(&burst)
            device.receive(into: &burst)
        }
        var text = [UInt8](repeating: 0, count: 4096)
        let count = unsafe text.withUnsafeMutableBytes { unsafe read(ends[0], $0.baseAddress!, $0.count) }
        let line = "02:00:00:00:00:02 > 02:00:00:00:00:01, IPv4 10.0.0.2.4000 > 10.0.0.1.7, UDP 18, 60 bytes"
        #expect(String(decoding: text[..<count], as: UTF8.self) == "12.000345 > \(line)\n12.000345 < \(line)\n")
        #expect(bench.isEmpty)
    }

    private func packet(_ bench: DeviceBench) -> Segment {
        let segment = bench.heap.allocateSegment(60)
        let bytes = unsafe PacketBytes(start: segment.start, count: 60)
        for offset in 0..<60 { bytes.store8(0, at: offset) }
        EthernetHeader(destination: MACAddress(0x0200_0000_0001), source: MACAddress(0x0200_0000_0002), etherType: .ipv4).emit(into: bytes)
        bytes.store8(0x45, at: 14)
        bytes.store16(46, at: 16)
        bytes.store8(17, at: 23)
        bytes.store32(0x0a00_0002, at: 26)
        bytes.store32(0x0a00_0001, at: 30)
        bytes.store16(4000, at: 34)
        bytes.store16(7, at: 36)
        bytes.store16(26, at: 38)
        return segment
    }
}
