import Testing
import TestSupport

@testable import Demikernel

@Suite struct TCPStreamTests {
    @Test func `a connection opens, carries bytes both ways, and closes (RFC 9293, sections 3.5 and 3.6)`() throws {
        let world = try TCPWorld()
        let (client, server, listener) = try world.open()
        #expect(world.state(0, client) == .established)
        #expect(world.state(1, server) == .established)
        #expect(world.send(0, client, Array("request".utf8)) == .taken)
        world.run(for: 1_000_000_000)
        #expect(world.read(1, server) == .bytes(Array("request".utf8)))
        #expect(world.send(1, server, Array("answer".utf8)) == .taken)
        world.run(for: 1_000_000_000)
        #expect(world.read(0, client) == .bytes(Array("answer".utf8)))
        #expect(world.read(0, client) == .empty)
        world.shutdown(0, client)
        world.run(for: 1_000_000_000)
        #expect(world.state(0, client) == .finWait2)
        #expect(world.state(1, server) == .closeWait)
        #expect(world.read(1, server) == .end)
        world.shutdown(1, server)
        world.run(for: 1_000_000_000)
        #expect(world.state(0, client) == .timeWait)
        #expect(world.hosts[0].stack.tcp.timeWaitCount == 1)
        #expect(world.read(0, client) == .end)
        world.close(0, client)
        world.close(1, server)
        world.close(1, listener)
        world.pass(61_000_000_000)
        #expect(world.hosts[0].stack.tcp.timeWaitCount == 0)
        #expect(world.hosts[0].stack.tcp.connectionCount == 0)
        #expect(world.hosts[1].stack.tcp.connectionCount == 0)
        #expect(world.liveObjectsAfterEnd() == 0)
    }

    /// Sends `count` bytes one way through `world` and answers what came.
    private func stream(_ world: TCPWorld, _ client: TCPSocket, _ server: TCPSocket, count: Int, chunk: Int, limit: UInt64 = 3_600_000_000_000)
        -> Bool
    {
        var sent = 0
        var received = 0
        var isRight = true
        func byte(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: index &* 31 &+ index >> 8) }
        let end = world.now + limit
        while received < count, world.now < end {
            while sent < count {
                let bytes = (sent..<min(count, sent + chunk)).map(byte)
                guard world.send(0, client, bytes) == .taken else { break }
                sent += bytes.count
            }
            for value in world.readAll(1, server) {
                if value != byte(received) { isRight = false }
                received += 1
            }
            if received < count, !world.step(limit: end) { break }
        }
        return isRight && received == count
    }

    @Test func `a megabyte arrives as it was sent`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        #expect(stream(world, client, server, count: 1 << 20, chunk: 10_000))
        #expect(world.counters(0).retransmittedSegments == 0)
        world.close(0, client)
        world.close(1, server)
        world.run(for: 10_000_000_000)
        #expect(world.liveObjectsAfterEnd() == 0)
    }

    @Test(arguments: 1...12)
    func `bytes arrive through loss, duplication and reordering, whatever the seed`(seed: UInt64) throws {
        var settings = TCPConfiguration()
        settings.congestionControl = TCPCongestionControl.allCases[Int(seed % 3)]
        settings.selectiveAcknowledgement = seed % 4 != 0
        settings.timestamps = seed % 5 != 0
        settings.receiveBuffer = seed % 2 == 0 ? 65_536 : 1 << 20
        let world = try TCPWorld(settings, seed: seed)
        world.keepsLog = false
        var generator = SplitMix64(seed: seed)
        world.link = { _ in
            let chance = Int.random(in: 0..<100, using: &generator)
            let base = UInt64.random(in: 50_000..<(chance < 15 ? 2_000_000 : 100_000), using: &generator)
            if chance < 4 { return [] }
            if chance < 6 { return [base, base + 500_000] }
            return [base]
        }
        let (client, server, _) = try world.open()
        #expect(stream(world, client, server, count: 300_000, chunk: 3_000))
        world.close(0, client)
        world.close(1, server)
        world.run(for: 300_000_000_000)
        #expect(world.hosts[1].stack.tcp.connectionCount == 0)
        #expect(world.liveObjectsAfterEnd() == 0)
    }
}
