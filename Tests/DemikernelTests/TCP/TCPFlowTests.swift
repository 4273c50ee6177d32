import Testing

@testable import Demikernel

private let second: UInt64 = 1_000_000_000
private let millisecond: UInt64 = 1_000_000

@Suite struct TCPFlowTests {
    private func bytes(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) } }

    @Test func `a closed window is probed, for as long as the peer answers, and data flows when it opens (RFC 9293, section 3.8.6.1)`() throws {
        var settings = TCPConfiguration()
        settings.receiveBuffer = 8_192
        settings.retries = 4
        let world = try TCPWorld(settings)
        let (client, server, _) = try world.open()
        let data = bytes(30_000)
        #expect(world.send(0, client, data) == .taken)
        world.pass(1_200 * second)
        #expect(world.state(0, client) == .established)
        #expect(world.counters(0).windowProbes > 4)
        #expect(world.information(1, server).bytesUnread <= 8_192 + 1_460)
        #expect(world.read(data.count, 1, server, within: 600 * second) == data)
    }

    @Test func `the byte that probed a closed window follows at once when it opens`() throws {
        var settings = TCPConfiguration()
        settings.receiveBuffer = 8_192
        // Without it there is no tail loss probe, which would do the same after two round trips.
        settings.selectiveAcknowledgement = false
        let world = try TCPWorld(settings)
        let (client, server, _) = try world.open()
        let data = bytes(8_192 + 1)
        #expect(world.send(0, client, data) == .taken)
        world.pass(100 * second)
        #expect(world.information(0, client).bytesInFlight == 1)
        let timeouts = world.counters(0).retransmissionTimeouts
        #expect(world.read(data.count, 1, server, within: 10 * millisecond) == data)
        #expect(world.counters(0).retransmissionTimeouts == timeouts)
    }

    @Test func `a full connection whose reader does not read holds no more as time passes`() throws {
        let world = try TCPWorld(mtu: 1_500)
        world.keepsLog = false
        let (client, _, _) = try world.open()
        let data = bytes(1 << 20)
        while world.send(0, client, data) == .taken { world.pass(10 * millisecond) }
        world.pass(10 * second)
        let held = world.heap.statistics.liveBytes
        world.pass(1_200 * second)
        #expect(world.counters(0).windowProbes > 10)
        #expect(world.heap.statistics.liveBytes == held)
    }

    @Test func `what waits for room in the device asks for no poll before there is some`() throws {
        let world = try TCPWorld(mtu: 576)
        let (client, server, _) = try world.open()
        let data = bytes(900_000)
        // A few times, so that the congestion window is larger than what the frame queue holds.
        for _ in 0..<4 {
            #expect(world.send(0, client, data) == .taken)
            #expect(world.read(data.count, 1, server, within: 10 * second) == data)
        }
        let before = world.counters(0).backPressure
        // No frame leaves the stack meanwhile.
        #expect(world.send(0, client, data) == .taken)
        world.hosts[0].stack.poll(now: world.now)
        #expect(world.counters(0).backPressure > before && world.hosts[0].stack.ip.outgoing.isFull)
        #expect(world.hosts[0].stack.nextDeadline() ?? .max > world.now)
        #expect(world.read(data.count, 1, server, within: 10 * second) == data)
    }

    @Test func `a closed window of a peer that is gone is given up (RFC 1122, section 4.2.2.17)`() throws {
        var settings = TCPConfiguration()
        settings.receiveBuffer = 4_096
        settings.retries = 4
        let world = try TCPWorld(settings)
        let (client, _, _) = try world.open()
        #expect(world.send(0, client, bytes(20_000)) == .taken)
        world.pass(5 * second)
        world.link = { _ in [] }
        world.pass(600 * second)
        #expect(world.read(0, client) == .failed(110))
    }

    @Test func `the right edge of the window never moves left (RFC 9293, section 3.8.6)`() throws {
        var settings = TCPConfiguration()
        settings.receiveBuffer = 1 << 20
        let world = try TCPWorld(settings)
        let (client, server, _) = try world.open()
        #expect(world.send(0, client, bytes(500_000)) == .taken)
        world.run(for: 5 * second) { world.readAll(1, server).isEmpty && world.information(0, client).bytesInFlight == 0 }
        var edge = SequenceNumber(0)
        for (index, frame) in world.frames(1).enumerated() where frame.flags.contains(.ack) && !frame.flags.contains(.syn) {
            let next = frame.acknowledgment + (frame.window << 5)
            if index > 1 { #expect(next >= edge) }
            edge = next
        }
    }

    @Test func `small segments are acknowledged late, two full ones at once, and pure acknowledgements never (RFC 9293, section 3.8.6.3)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.pass(second)
        world.clearLog()
        let start = world.now
        #expect(world.send(0, client, [1]) == .taken)
        world.run(for: second)
        #expect(world.frames(1).count == 1)
        let answer = try required(world.log.first { $0.frame.direction == 1 })
        #expect(answer.time >= start + 10 * millisecond && answer.time < start + 41 * millisecond)
        _ = world.readAll(1, server)
        world.clearLog()
        #expect(world.send(0, client, bytes(2 * 1_448)) == .taken)
        let again = world.now
        world.run(for: second)
        let first = try required(world.log.first { $0.frame.direction == 1 })
        #expect(first.time < again + millisecond)
        world.clearLog()
        world.pass(second)
        #expect(world.log.isEmpty)
    }

    @Test func `an answer carries the acknowledgement along`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.pass(second)
        world.clearLog()
        for _ in 0..<10 {
            #expect(world.send(0, client, [1]) == .taken)
            world.run(for: second) { world.read(1, server) == .bytes([1]) }
            #expect(world.send(1, server, [2]) == .taken)
            world.run(for: second) { world.read(0, client) == .bytes([2]) }
        }
        #expect(world.frames(0).count == 10)
        #expect(world.frames(1).count == 10, "\(world.log.map { ($0.time, $0.frame.direction, $0.frame.flags, $0.frame.payloadLength) })")
    }

    @Test func `Nagle: with data out a small segment waits, unless NODELAY (RFC 9293, section 3.7.4)`() throws {
        for noDelay in [true, false] {
            let world = try TCPWorld()
            var options = TCPSocketOptions()
            options.noDelay = noDelay
            let (client, _, _) = try world.open(options)
            world.pass(second)
            world.clearLog()
            #expect(world.send(0, client, [1]) == .taken)
            #expect(world.send(0, client, [2]) == .taken)
            #expect(world.send(0, client, [3]) == .taken)
            world.collectFrames()
            #expect(world.frames(0).count == (noDelay ? 3 : 1))
            world.run(for: second)
            #expect(world.frames(0).count == (noDelay ? 3 : 2))
        }
    }

    @Test func `windows beyond 64 KiB need the option on both sides (RFC 7323, section 2)`() throws {
        for scales in [true, false] {
            var settings = TCPConfiguration()
            settings.windowScale = scales
            settings.receiveBuffer = 1 << 20
            let world = try TCPWorld(settings, TCPConfiguration())
            let (client, server, _) = try world.open()
            world.pass(second)
            #expect(world.send(1, server, [1]) == .taken)
            world.pass(second)
            #expect((world.information(1, server).sendWindow > 65_535) == scales)
            #expect((world.information(0, client).sendWindow > 65_535) == scales)
        }
    }

    @Test func `a full send buffer refuses, and says when there is room`() throws {
        var settings = TCPConfiguration()
        settings.sendBuffer = 10_000
        settings.receiveBuffer = 4_096
        let world = try TCPWorld(settings)
        let (client, server, _) = try world.open()
        var tag: UInt32 = 0
        for candidate in 1..<10 where world.hosts[0].hasSeen(.connected, UInt32(candidate)) { tag = UInt32(candidate) }
        _ = world.hosts[0].events(tag)
        #expect(world.send(0, client, bytes(9_000)) == .taken)
        #expect(world.send(0, client, bytes(9_000)) == .taken)
        #expect(world.send(0, client, bytes(9_000)) == .full)
        var got = 0
        world.run(for: 60 * second) {
            got += world.readAll(1, server).count
            return got == 18_000
        }
        #expect(got == 18_000)
        world.run(for: second)
        #expect(world.hosts[0].events(tag).contains(.writable))
        #expect(world.send(0, client, [1]) == .taken)
    }

    @Test func `reading by limits splits segments and loses nothing`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        let data = bytes(10_000)
        #expect(world.send(0, client, data) == .taken)
        world.run(for: second)
        var got: [UInt8] = []
        for limit in 1..<200 { if case .bytes(let part) = world.read(1, server, limit: limit) { #expect(part.count <= limit); got += part } }
        #expect(got == data)
        world.close(0, client)
        world.close(1, server)
        world.run(for: second)
        #expect(world.liveObjectsAfterEnd() == 0)
    }

    @Test func `small payloads in large buffers do not keep memory without bound`() throws {
        var settings = TCPConfiguration()
        settings.receiveBuffer = 65_536
        let world = try TCPWorld(settings)
        let (client, server, _) = try world.open()
        let before = world.heap.statistics.liveBytes
        var sent = 0
        for _ in 0..<200 {
            for _ in 0..<20 where world.send(0, client, [UInt8](repeating: UInt8(truncatingIfNeeded: sent), count: 10)) == .taken { sent += 10 }
            world.pass(millisecond)
        }
        world.pass(second)
        #expect(world.heap.statistics.liveBytes - before < 4 * 65_536)
        var got = 0
        world.run(for: 60 * second) {
            got += world.readAll(1, server).count
            return got == sent
        }
        #expect(got == sent)
    }

    @Test func `keep-alives find a dead peer, and leave a living one alone (RFC 9293, section 3.8.4)`() throws {
        var options = TCPSocketOptions()
        options.keepAlive = true
        options.keepAliveIdle = 10 * second
        options.keepAliveInterval = second
        options.keepAliveProbes = 3
        let world = try TCPWorld()
        let (client, _, _) = try world.open(options)
        world.pass(100 * second)
        #expect(world.state(0, client) == .established)
        #expect(world.counters(0).keepAliveProbes >= 5)
        world.link = { _ in [] }
        world.pass(30 * second)
        #expect(world.read(0, client) == .failed(110))
    }

    @Test func `IPv6 carries it as well`() throws {
        let world = try TCPWorld(ipv6: true)
        let (client, server, _) = try world.open()
        let data = bytes(50_000)
        #expect(world.send(0, client, data) == .taken)
        #expect(world.read(data.count, 1, server, within: 10 * second) == data)
        #expect(world.information(0, client).maximumSegmentSize == 1_500 - 60 - 12)
    }
}
