import TestSupport
import Testing

@testable import Demikernel

private let second: UInt64 = 1_000_000_000

@Suite struct TCPAttackTests {
    /// A connection without timestamps, and the numbers that a stranger would have to know.
    private func victim() throws -> (world: TCPWorld, client: TCPSocket, server: TCPSocket, port: UInt16, next: SequenceNumber, acknowledgment: SequenceNumber) {
        var settings = TCPConfiguration()
        settings.timestamps = false
        let world = try TCPWorld(settings)
        let (client, server, _) = try world.open()
        #expect(world.send(0, client, [1, 2, 3]) == .taken)
        world.run(for: second)
        let last = try required(world.frames(0).last)
        let next = try required(world.frames(1).last).acknowledgment
        let acknowledgment = try required(world.frames(0).last { $0.flags.contains(.ack) }).acknowledgment
        world.clearLog()
        return (world, client, server, last.sourcePort, next, acknowledgment)
    }

    @Test func `only the exact sequence number resets; another in the window is challenged (RFC 5961, section 3)`() throws {
        let (world, _, server, port, next, _) = try victim()
        world.put(world.forge(0, port, 80, next + 100, SequenceNumber(0), .rst))
        world.run(for: second)
        #expect(world.state(1, server) == .established)
        #expect(world.counters(1).challengeAcknowledgements == 1)
        #expect(world.frames(1).first?.flags == .ack)
        world.put(world.forge(0, port, 80, next - 5, SequenceNumber(0), .rst))
        world.put(world.forge(0, port, 80, next + 10_000_000, SequenceNumber(0), .rst))
        world.run(for: second)
        #expect(world.state(1, server) == .established)
        world.put(world.forge(0, port, 80, next, SequenceNumber(0), .rst))
        world.run(for: second)
        #expect(world.read(1, server) == .bytes([1, 2, 3]))
        #expect(world.read(1, server) == .failed(104))
    }

    @Test func `a SYN on a connection is challenged (RFC 5961, section 4)`() throws {
        let (world, client, server, port, next, _) = try victim()
        for offset in [0, 500] { world.put(world.forge(0, port, 80, next + offset, SequenceNumber(0), .syn)) }
        world.run(for: second)
        #expect(world.counters(1).challengeAcknowledgements == 2)
        #expect(world.state(1, server) == .established && world.state(0, client) == .established)
    }

    @Test func `acknowledgements of what was never sent, or of long ago, are answered and ignored (RFC 5961, section 5)`() throws {
        let (world, _, server, port, next, acknowledgment) = try victim()
        world.put(world.forge(0, port, 80, next, acknowledgment + 5_000, .ack, payload: [9]))
        world.put(world.forge(0, port, 80, next, acknowledgment - 200_000_000, .ack, payload: [9]))
        world.run(for: second)
        #expect(world.counters(1).unacceptableAcknowledgements == 2)
        #expect(world.read(1, server) == .bytes([1, 2, 3]))
        #expect(world.read(1, server) == .empty)
        #expect(world.information(1, server).bytesInFlight == 0)
    }

    @Test func `answers to strangers are limited (RFC 5961, section 7)`() throws {
        var settings = TCPConfiguration()
        settings.answersPerSecond = 50
        let world = try TCPWorld(settings)
        for index in 0..<500 { world.put(world.forge(0, UInt16(1_000 + index), 4_444, SequenceNumber(1), SequenceNumber(0), .syn)) }
        world.run(for: second / 2)
        #expect(world.frames(1).count <= 80)
        #expect(world.counters(1).answersSuppressed >= 420)
    }

    @Test func `segments of an earlier incarnation are recognised by their timestamps (RFC 7323, section 5)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        #expect(world.send(0, client, [1]) == .taken)
        world.run(for: second)
        let old = try required(world.frames(0).last)
        let stamp = try required(old.options.timestamps)
        let next = try required(world.frames(1).last).acknowledgment
        #expect(world.readAll(1, server) == [1])
        let forged = TCPOptions(timestamps: TCPTimestamps(value: stamp.value &- 5_000, echo: stamp.echo))
        world.put(world.forge(0, old.sourcePort, 80, next, old.acknowledgment, .ack, options: forged, payload: [6]))
        world.run(for: second)
        #expect(world.read(1, server) == .empty)
        #expect(world.counters(1).oldTimestamps == 1)
    }

    @Test func `initial sequence numbers differ, and not by a step that one could learn (RFC 6528)`() throws {
        let world = try TCPWorld()
        for _ in 0..<20 { _ = try world.connect(0) }
        world.collectFrames()
        let numbers = world.frames(0).map(\.sequence.rawValue)
        let steps = Set(zip(numbers.dropFirst(), numbers).map { $0 &- $1 })
        #expect(Set(numbers).count == 20)
        #expect(steps.count == 19)
    }

    @Test func `garbage of any kind harms nobody and is returned to the heap`() throws {
        let world = try TCPWorld()
        world.keepsLog = false
        let (client, server, _) = try world.open()
        var generator = SplitMix64(seed: 99)
        let frame = world.forge(0, 4_444, 80, SequenceNumber(1), SequenceNumber(1), .ack)
        for _ in 0..<3_000 {
            let length = Int.random(in: 0..<60, using: &generator)
            let flags = TCPFlags(rawValue: UInt16.random(in: 0..<512, using: &generator))
            var options = (0..<(Int.random(in: 0...10, using: &generator) * 4)).map { _ in UInt8.random(in: 0...255, using: &generator) }
            if Bool.random(using: &generator) { options = [] }
            let source = Bool.random(using: &generator) ? frame.sourcePort : UInt16.random(in: 0...65_535, using: &generator)
            world.put(
                world.forge(
                    0, source, 80, SequenceNumber(UInt32.random(in: 0 ... .max, using: &generator)),
                    SequenceNumber(UInt32.random(in: 0 ... .max, using: &generator)), flags,
                    payload: [UInt8](repeating: 1, count: length), rawOptions: options))
            if Int.random(in: 0..<20, using: &generator) == 0 { world.pass(1_000_000) }
        }
        world.pass(second)
        #expect(world.send(0, client, [5]) == .taken)
        world.pass(second)
        #expect(world.readAll(1, server) == [5])
        #expect(world.liveObjectsAfterEnd() == 0)
    }

    @Test func `data out of order is bounded`() throws {
        let (world, _, server, port, next, acknowledgment) = try victim()
        for index in 0..<3_000 {
            world.put(world.forge(0, port, 80, next + 10 + index * 20, acknowledgment, .ack, payload: [UInt8](repeating: 1, count: 10)))
        }
        world.pass(second)
        #expect(world.information(1, server).bytesOutOfOrder <= 1_024 * 10)
        #expect(world.counters(1).outOfOrderDrops > 0)
        world.close(1, server)
        world.pass(second)
    }
}
