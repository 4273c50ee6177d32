import ArgumentParser
import Demikernel
import Glibc
import Histogram

struct FramesPingCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ping", abstract: "Measures round trips of a frame to a peer that sends frames back.",
        discussion: """
            One frame is under way at a time; every answer is compared with what was sent. A frame that is not answered in time counts as lost. \
            Waits for the peer first, for as long as an answer may take.

            Exit status: 0 all round trips were made, 1 frames were lost or answered wrongly, or there is no peer, 2 wrong usage, 130 interrupted.
            """)

    @OptionGroup var options: FramesOptions

    @Option(help: ArgumentHelp("Bytes of a frame, from the Ethernet header on.", valueName: "bytes"))
    var size = 64

    @Option(help: ArgumentHelp("Round trips that are measured.", valueName: "number"))
    var count: UInt64 = 100_000

    @Option(help: ArgumentHelp("Round trips before the first that is measured. Without it a tenth of the count.", valueName: "number"))
    var warmup: UInt64?

    @Option(help: ArgumentHelp("How long an answer may take, such as 200ms.", valueName: "time"))
    var timeout = TimeSpan(.seconds(1))

    @Flag(help: ArgumentHelp("Keep the link up until standard input ends, so that the peer's counters can be read.", visibility: .hidden))
    var hold = false

    mutating func validate() throws {
        guard FramesPing.sizeMinimum...65_549 ~= size, size <= options.mtu + 14 else {
            throw ValidationError("--size: expected \(FramesPing.sizeMinimum) bytes to the MTU and 14, found \(size)")
        }
        guard 1...1 << 40 ~= count else { throw ValidationError("--count: expected a number from 1, found \(count)") }
    }

    func run() throws {
        let loop = try FramesLoop(options.device(.client, address: 0x0200_0000_0002), sleeps: options.sleep)
        var ping = FramesPing(loop, size: size, timeout: timeout.nanoseconds)
        guard ping.waitForPeer() else { throw Failure("no peer at \(options.memif)") }
        ping.run(warmup ?? count / 10)
        ping.forget()
        ping.run(count)
        writeLine(ping.report(json: options.json))
        var byte: UInt8 = 0
        if hold { while unsafe read(STDIN_FILENO, &byte, 1) > 0 {} }
        if ping.loop.isStopped { throw Failure.quiet(ExitStatus.interrupted) }
        if ping.lost + ping.wrong > 0 { throw Failure("\(ping.lost) frames were lost, \(ping.wrong) answered wrongly") }
    }
}

struct FramesPing: ~Copyable {
    /// IEEE 802's number for local experiments.
    private static var etherType: UInt16 { 0x88b5 }
    /// Ethernet header and sequence number.
    static var sizeMinimum: Int { 22 }

    var loop: FramesLoop
    private let size: Int
    private let timeout: UInt64
    private var sequence: UInt64 = 0
    private(set) var lost: UInt64 = 0
    private(set) var wrong: UInt64 = 0
    private var elapsed: UInt64 = 0
    /// When the last frames came.
    private var arrival: UInt64 = 0
    private var histogram = Histogram<UInt64>(highestTrackableValue: 3_600_000_000_000, numberOfSignificantValueDigits: .three)

    init(_ loop: consuming FramesLoop, size: Int, timeout: UInt64) {
        self.loop = loop
        self.size = size
        self.timeout = timeout
    }

    mutating func waitForPeer() -> Bool {
        let deadline = loop.time() &+ timeout
        while !loop.device.isConnected, !loop.isStopped, loop.time() < deadline {
            loop.receive(until: deadline)
            loop.burst.removeAll()
        }
        return loop.device.isConnected
    }

    mutating func forget() {
        histogram.reset()
        elapsed = 0
    }

    mutating func run(_ count: UInt64) {
        let start = loop.time()
        for _ in 0..<count where !loop.isStopped {
            sequence += 1
            guard prepare() else {
                lost += 1
                continue
            }
            let began = loop.time()
            let deadline = began &+ timeout
            if send(deadline), receive(deadline) { histogram.record(arrival &- began) } else { lost += 1 }
        }
        elapsed += loop.time() &- start
    }

    /// Makes the frame, outside of what is measured.
    private mutating func prepare() -> Bool {
        let segment = loop.heap.allocateSegment(size)
        guard !segment.isNull else { return false }
        let bytes = unsafe PacketBytes(start: segment.start, count: size)
        bytes.storeMAC(MACAddress(0x0200_0000_0001), at: 0)
        bytes.storeMAC(MACAddress(loop.device.capabilities.address), at: 6)
        bytes.store16(Self.etherType, at: 12)
        bytes.store64(sequence, at: 14)
        for offset in Self.sizeMinimum..<max(size, Self.sizeMinimum) { bytes.store8(pattern(offset), at: offset) }
        loop.burst.append(Frame(segment))
        return true
    }

    private mutating func send(_ deadline: UInt64) -> Bool {
        loop.transmitAll(until: deadline)
        let isSent = loop.burst.isEmpty
        loop.burst.removeAll()
        return isSent
    }

    private func pattern(_ offset: Int) -> UInt8 { UInt8(truncatingIfNeeded: sequence &+ UInt64(offset)) }

    /// Waits for the answer; other frames are none of ours.
    private mutating func receive(_ deadline: UInt64) -> Bool {
        var isAnswered = false
        var turns = 0
        while !isAnswered {
            loop.receive(until: deadline)
            turns += 1
            if turns & 4095 == 0, loop.isStopped || loop.time() >= deadline { return false }
            if !loop.burst.isEmpty { arrival = loop.time() }
            while !loop.burst.isEmpty {
                let frame = loop.burst.removeFirst()
                if isAnswer(frame) { isAnswered = true }
                frame.release()
            }
        }
        return true
    }

    private mutating func isAnswer(_ frame: Frame) -> Bool {
        let bytes = unsafe PacketBytes(start: frame.head.start, count: frame.head.byteCount)
        guard bytes.count >= Self.sizeMinimum, bytes.load16(12) == Self.etherType, bytes.load64(14) == sequence else { return false }
        var isEqual = bytes.count == size
        if isEqual { for offset in Self.sizeMinimum..<max(size, Self.sizeMinimum) where bytes.load8(offset) != pattern(offset) { isEqual = false } }
        if !isEqual { wrong += 1 }
        return true
    }

    func report(json: Bool) -> String {
        let count = UInt64(histogram.totalCount)
        let perSecond = elapsed == 0 ? 0 : UInt64(Double(count) * 1e9 / Double(elapsed))
        func percentile(_ percent: Double) -> UInt64 { count == 0 ? 0 : histogram.valueAtPercentile(percent) }
        guard json else {
            var table = Table(["memif \(size) B", "least", "p50", "p99", "p99.9", "round trips/s"])
            let times = [count == 0 ? 0 : histogram.min, percentile(50), percentile(99), percentile(99.9)]
            table.add(["round trip in µs"] + times.map(microseconds) + [perSecond.grouped])
            return table.text + "\n\(count.grouped) round trips, \(lost.grouped) lost, \(wrong.grouped) answered wrongly"
        }
        var object = JSONObject()
        object.add("device", "memif")
        object.add("size", size)
        object.add("count", count)
        object.add("minimum", count == 0 ? 0 : histogram.min)
        object.add("p50", percentile(50))
        object.add("p99", percentile(99))
        object.add("p999", percentile(99.9))
        object.add("perSecond", perSecond)
        object.add("lost", lost)
        object.add("wrong", wrong)
        loop.addStatistics(to: &object)
        return object.text
    }
}
