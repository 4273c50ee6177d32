import Testing

@testable import Demikernel

private let second: UInt64 = 1_000_000_000
private let millisecond: UInt64 = 1_000_000

@Suite struct TCPRecoveryTests {
    private func bytes(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) } }

    /// Sends `count` bytes while `drop` chooses data segments to lose once, by number; answers the world.
    private func transfer(_ settings: TCPConfiguration, _ count: Int, losing: Set<Int>) throws -> (world: TCPWorld, client: TCPSocket) {
        let world = try TCPWorld(settings)
        world.delay = 5 * millisecond
        let (client, server, _) = try world.open()
        world.clearLog()
        var number = 0
        world.link = { frame in
            if frame.direction == 0, frame.payloadLength > 0 {
                number += 1
                if losing.contains(number) { return [] }
            }
            return [5 * millisecond]
        }
        #expect(world.send(0, client, bytes(count)) == .taken)
        var got: [UInt8] = []
        world.run(for: 60 * second) {
            got += world.readAll(1, server)
            return got.count == count
        }
        #expect(got == bytes(count))
        world.run(for: second)
        return (world, client)
    }

    @Test func `one lost segment is sent again once, without a timeout (RFC 2018; RFC 8985, section 6)`() throws {
        let (world, _) = try transfer(TCPConfiguration(), 14_480, losing: [3])
        #expect(world.counters(0).retransmittedSegments == 1)
        #expect(world.counters(0).fastRecoveries == 1)
        #expect(world.counters(0).retransmissionTimeouts == 0)
        let blocks = world.frames(1).filter { $0.options.sackCount > 0 }
        #expect(!blocks.isEmpty)
    }

    @Test func `several lost segments of one window are repaired in about a round trip`() throws {
        let (world, _) = try transfer(TCPConfiguration(), 14_480, losing: [2, 4, 6])
        #expect(world.counters(0).retransmittedSegments == 3)
        #expect(world.counters(0).retransmissionTimeouts == 0)
    }

    @Test func `a lost tail is found by a probe, before the timeout (RFC 8985, section 7)`() throws {
        let (world, _) = try transfer(TCPConfiguration(), 14_480, losing: [10])
        #expect(world.counters(0).tailLossProbes >= 1)
        #expect(world.counters(0).retransmissionTimeouts == 0)
    }

    @Test func `a retransmission that is lost is sent again`() throws {
        let (world, _) = try transfer(TCPConfiguration(), 28_960, losing: [3, 11])
        #expect(world.counters(0).retransmittedSegments >= 2)
    }

    @Test func `without SACK three duplicates begin a recovery (RFC 5681, section 3.2; RFC 6582)`() throws {
        var settings = TCPConfiguration()
        settings.selectiveAcknowledgement = false
        let (world, _) = try transfer(settings, 14_480, losing: [2, 5])
        #expect(world.counters(0).fastRecoveries == 1)
        #expect(world.counters(0).retransmissionTimeouts == 0)
        #expect(world.counters(0).retransmittedSegments == 2)
    }

    @Test func `everything lost: the timer, with back-off, begins with one segment (RFC 6298, section 5)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.clearLog()
        var isDead = true
        world.link = { _ in isDead ? [] : [50_000] }
        #expect(world.send(0, client, bytes(5_000)) == .taken)
        world.run(for: 3 * second)
        let times = world.log.filter { $0.frame.direction == 0 }.map(\.time)
        // Four segments at once, a probe, then the timeouts, each twice as late as the one before.
        #expect(world.counters(0).retransmissionTimeouts >= 3)
        let gaps = zip(times.dropFirst(), times).map { $0 - $1 }.suffix(2)
        #expect(gaps.last! >= gaps.first! * 2 - millisecond)
        #expect(world.information(0, client).congestionWindow == world.information(0, client).maximumSegmentSize)
        isDead = false
        var got: [UInt8] = []
        world.run(for: 20 * second) {
            got += world.readAll(1, server)
            return got.count == 5_000
        }
        #expect(got == bytes(5_000))
        #expect(world.information(0, client).backOff == 0)
    }

    @Test func `what is sent after a pause of the application, under an old time, has its whole timeout yet (RFC 6298, section 5)`() throws {
        let world = try TCPWorld()
        let (client, _, _) = try world.open()
        world.link = { _ in [] }
        #expect(world.send(0, client, bytes(100)) == .taken)
        world.collectFrames()
        let began = world.now
        let timeout = world.information(0, client).retransmissionTimeout
        // The clock was last read when the pause began; the segment went out at its end.
        world.now += 10 * timeout
        world.hosts[0].stack.tcp.notePause(from: began, to: world.now)
        let ended = world.now
        world.clearLog()
        world.pass(timeout / 8)
        #expect(world.log.isEmpty)
        world.run(for: 2 * timeout) { world.counters(0).retransmissionTimeouts > 0 }
        #expect(world.counters(0).retransmissionTimeouts == 1)
        #expect(world.now >= ended + timeout)
    }

    @Test func `a timeout that was for nothing is undone (RFC 3522, RFC 4015)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.pass(second)
        let before = world.information(0, client).congestionWindow
        // A pause of the path, longer than the timeout.
        world.link = { frame in [frame.direction == 0 ? 400 * millisecond : 50_000] }
        #expect(world.send(0, client, bytes(1_000)) == .taken)
        world.run(for: 3 * second)
        #expect(world.counters(0).retransmissionTimeouts == 1)
        #expect(world.counters(0).spuriousTimeouts == 1)
        #expect(world.information(0, client).congestionWindow >= before)
        #expect(world.readAll(1, server) == bytes(1_000))
    }

    @Test func `timeouts that were for nothing say nothing about the size of packets (RFC 8899, section 4.3)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        for _ in 0..<3 {
            let timeout = world.information(0, client).retransmissionTimeout
            world.link = { frame in [frame.direction == 0 ? 2 * timeout : 50_000] }
            #expect(world.send(0, client, bytes(3_000)) == .taken)
            world.run(for: 4 * timeout)
            #expect(world.readAll(1, server) == bytes(3_000))
        }
        #expect(world.counters(0).spuriousTimeouts == 3)
        #expect(world.counters(0).pathMTUReductions == 0)
    }

    @Test func `reordering alone causes few retransmissions once it is known (RFC 8985, section 6.2)`() throws {
        let world = try TCPWorld()
        world.delay = 5 * millisecond
        let (client, server, _) = try world.open()
        var number = 0
        world.link = { frame in
            guard frame.direction == 0, frame.payloadLength > 0 else { return [5 * millisecond] }
            number += 1
            return [number % 4 == 0 ? 6 * millisecond : 5 * millisecond]
        }
        let data = bytes(200_000)
        #expect(world.send(0, client, data) == .taken)
        #expect(world.read(data.count, 1, server, within: 20 * second) == data)
        #expect(world.counters(0).retransmittedSegments < 20)
    }

    @Test func `what came twice is reported (RFC 2883)`() throws {
        let world = try TCPWorld()
        let (client, _, _) = try world.open()
        world.clearLog()
        world.link = { frame in frame.direction == 0 && frame.payloadLength > 0 ? [50_000, 90_000] : [50_000] }
        #expect(world.send(0, client, bytes(100)) == .taken)
        world.run(for: second)
        let report = try required(world.frames(1).first { $0.options.sackCount > 0 })
        let block = report.options.sackBlocks[0]
        #expect(block.right == report.acknowledgment)
        #expect(block.right - block.left == 100)
    }

    @Test func `marks of the network are echoed and answered once (RFC 3168, section 6.1)`() throws {
        for algorithm in [TCPCongestionControl.cubic, .dctcp] {
            var settings = TCPConfiguration()
            settings.ecn = true
            settings.congestionControl = algorithm
            let world = try TCPWorld(settings)
            let (client, server, _) = try world.open()
            #expect(world.information(0, client).hasECN && world.information(1, server).hasECN)
            world.clearLog()
            var number = 0
            world.link = { frame in
                if frame.direction == 0, frame.payloadLength > 0 {
                    number += 1
                    #expect(frame.bytes[15] & 3 == 2)
                }
                return [50_000]
            }
            #expect(world.send(0, client, bytes(30_000)) == .taken)
            world.run(for: second)
            let before = world.information(0, client).congestionWindow
            // What follows is marked on its way.
            world.link = { [unowned world] frame in
                guard frame.direction == 0, frame.payloadLength > 0, frame.bytes[15] & 3 == 2 else { return [50_000] }
                var marked = frame
                marked.bytes[15] |= 3
                let sum = UInt16(marked.bytes[24]) << 8 | UInt16(marked.bytes[25])
                let fixed = InternetChecksum.update(sum, from: UInt16(0x4502), to: UInt16(0x4503))
                marked.bytes[24] = UInt8(fixed >> 8)
                marked.bytes[25] = UInt8(truncatingIfNeeded: fixed)
                world.link = nil
                world.put(marked)
                return []
            }
            #expect(world.send(0, client, bytes(30_000)) == .taken)
            world.run(for: second)
            #expect(world.counters(1).congestionMarks == 1)
            #expect(world.frames(1).contains { $0.flags.contains(.ece) })
            #expect(world.frames(0).count { $0.flags.contains(.cwr) } == 1)
            #expect(world.information(0, client).slowStartThreshold <= before)
            _ = world.readAll(1, server)
        }
    }

    @Test func `a smaller path, told by ICMP, is used at once (RFC 1191)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        let data = bytes(20_000)
        world.link = { [unowned world] frame in
            guard frame.direction == 0, frame.bytes.count > 14 + 1_000 else { return [50_000] }
            // The router's error, in short: the quoted header.
            let quoted = Array(frame.bytes[34..<42])
            world.tooBig(quoted, mtu: 1_000)
            return []
        }
        #expect(world.send(0, client, data) == .taken)
        #expect(world.read(data.count, 1, server, within: 20 * second) == data)
        #expect(world.information(0, client).maximumSegmentSize == 1_000 - 52)
        #expect(world.counters(0).retransmissionTimeouts == 0)
    }

    @Test func `a path that swallows large packets in silence is found out (RFC 8899, section 4.3)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.link = { frame in frame.bytes.count > 14 + 1_280 ? [] : [50_000] }
        let data = bytes(20_000)
        #expect(world.send(0, client, data) == .taken)
        #expect(world.read(data.count, 1, server, within: 200 * second) == data)
        #expect(world.counters(0).pathMTUReductions > 0)
    }
}

extension TCPWorld {
    /// An ICMP error about a segment of host 0's, which begins with these 8 bytes.
    func tooBig(_ quoted: [UInt8], mtu: UInt16) { hosts[0].pendingErrors.append((quoted, mtu)) }
}

extension NetworkStack {
    mutating func reportTooBig(_ quoted: [UInt8], source: IPAddress, destination: IPAddress, mtu: UInt16, now: UInt64) {
        var quoted = quoted
        unsafe quoted.withUnsafeMutableBytes { buffer in
            guard let start = buffer.baseAddress else { return }
            tcp.receiveError(
                source: source, destination: destination, quotedTransport: unsafe PacketBytes(start: start, count: 8),
                error: .packetTooBig(mtu: mtu), ip: &ip, events: &events, now: now)
        }
    }
}
