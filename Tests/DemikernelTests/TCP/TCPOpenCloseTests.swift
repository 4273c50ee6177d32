import Testing

@testable import Demikernel

private let second: UInt64 = 1_000_000_000

@Suite struct TCPOpenCloseTests {
    @Test func `both sides may open at once (RFC 9293, section 3.5, figure 8)`() throws {
        let world = try TCPWorld()
        let (left, leftTag) = try world.connect(0, port: 2_000, from: 1_000)
        let (right, rightTag) = try world.connect(1, port: 1_000, from: 2_000)
        world.run(for: 5 * second) { world.hosts[0].hasSeen(.connected, leftTag) && world.hosts[1].hasSeen(.connected, rightTag) }
        #expect(world.state(0, left) == .established)
        #expect(world.state(1, right) == .established)
        #expect(world.send(0, left, [1, 2, 3]) == .taken)
        world.run(for: second)
        #expect(world.read(1, right) == .bytes([1, 2, 3]))
    }

    @Test func `both sides may close at once (RFC 9293, section 3.6, figure 13)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.shutdown(0, client)
        world.shutdown(1, server)
        world.run(for: second)
        #expect(world.state(0, client) == .timeWait)
        #expect(world.state(1, server) == .timeWait)
        world.close(0, client)
        world.close(1, server)
        world.pass(61 * second)
        #expect(world.hosts[0].stack.tcp.timeWaitCount == 0)
    }

    @Test func `after the peer's FIN data goes the other way and is acknowledged (RFC 9293, section 3.6)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.shutdown(0, client)
        world.run(for: second)
        #expect(world.state(1, server) == .closeWait)
        #expect(world.send(1, server, [UInt8](repeating: 7, count: 5_000)) == .taken)
        world.run(for: second)
        #expect(world.readAll(0, client).count == 5_000)
        #expect(world.information(1, server).bytesInFlight == 0)
        #expect(world.send(0, client, [1]) == .failed(32))
    }

    @Test func `a SYN for nobody is answered by a reset that acknowledges it (RFC 9293, section 3.10.7.1)`() throws {
        let world = try TCPWorld()
        let (client, tag) = try world.connect(0, port: 81)
        world.run(for: second)
        #expect(world.hosts[0].events(tag).contains(.failed))
        #expect(world.read(0, client) == .failed(111))
        let syn = try required(world.frames(0).first)
        let reset = try required(world.frames(1).first)
        #expect(reset.flags == [.rst, .ack])
        #expect(reset.acknowledgment == syn.sequence + 1)
        world.close(0, client)
        #expect(world.liveObjectsAfterEnd() == 0)
    }

    @Test func `a listener never answers a reset, and an ACK gets one without ACK (RFC 9293, section 3.10.7.2)`() throws {
        let world = try TCPWorld()
        _ = try world.listen(1)
        world.put(world.forge(0, 999, 80, SequenceNumber(5), SequenceNumber(9), .rst))
        world.put(world.forge(0, 999, 80, SequenceNumber(5), SequenceNumber(9), [.rst, .ack]))
        world.run(for: second)
        #expect(world.frames(1).isEmpty)
        world.put(world.forge(0, 999, 80, SequenceNumber(5), SequenceNumber(9), .ack))
        world.run(for: second)
        let answer = try required(world.frames(1).first)
        #expect(answer.flags == .rst)
        #expect(answer.sequence == SequenceNumber(9))
    }

    @Test func `closing with linger zero, or with unread data, resets the peer (RFC 2525, section 2.17)`() throws {
        let world = try TCPWorld()
        let (client, server, listener) = try world.open()
        world.close(0, client, reset: true)
        world.run(for: second)
        #expect(world.read(1, server) == .failed(104))
        world.close(1, server)
        world.close(1, listener)
        let (second2, server2, _) = try world.open(port: 81)
        #expect(world.send(0, second2, [1]) == .taken)
        world.run(for: second)
        world.close(1, server2)
        world.run(for: second)
        #expect(world.read(0, second2) == .failed(104))
    }

    @Test func `a SYN that nobody answers is given up (RFC 9293, section 3.8.3)`() throws {
        var settings = TCPConfiguration()
        settings.synRetries = 3
        let world = try TCPWorld(settings)
        world.link = { _ in [] }
        let (client, tag) = try world.connect(0)
        world.run(for: 300 * second)
        #expect(world.frames(0).count == 4)
        #expect(world.hosts[0].events(tag).contains(.failed))
        #expect(world.read(0, client) == .failed(110))
    }

    @Test func `data that nobody acknowledges is given up, and a shorter user timeout ends it earlier (RFC 9293, section 3.8.3; RFC 5482)`() throws {
        for userTimeout in [0, 3 * second] {
            var settings = TCPConfiguration()
            settings.retries = 5
            settings.userTimeout = userTimeout
            let world = try TCPWorld(settings)
            let (client, _, _) = try world.open()
            world.link = { _ in [] }
            let start = world.now
            #expect(world.send(0, client, [1, 2, 3]) == .taken)
            world.run(for: 1_000 * second)
            #expect(world.read(0, client) == .failed(110))
            #expect(userTimeout == 0 || world.now - start < 8 * second)
            world.close(0, client)
        }
    }

    @Test func `the backlog bounds connections that wait, not those that live`() throws {
        let world = try TCPWorld()
        let (listener, _) = try world.listen(1, backlog: 2)
        var clients: [TCPSocket] = []
        for _ in 0..<3 { clients.append(try world.connect(0).0) }
        world.run(for: second / 2)
        #expect(world.counters(1).acceptQueueOverflows > 0)
        #expect(world.accept(1, listener) != nil)
        #expect(world.accept(1, listener) != nil)
        // The third has not finished its handshake, as far as the server is concerned.
        #expect(world.accept(1, listener) == nil)
        world.run(for: 10 * second)
        #expect(world.accept(1, listener) != nil)
        #expect(world.accept(1, listener) == nil)
        for _ in 0..<5 {
            _ = try world.connect(0)
            world.run(for: second / 10)
            #expect(world.accept(1, listener) != nil)
        }
    }

    @Test func `a full SYN queue is answered with cookies, and a returned cookie is a whole connection (RFC 4987, section 3.6)`() throws {
        var settings = TCPConfiguration()
        settings.synQueue = 4
        let world = try TCPWorld(settings)
        let (listener, _) = try world.listen(1)
        // The flood's senders do not exist: nobody resets what they asked for.
        world.link = { frame in frame.direction == 1 && (5_000..<5_020).contains(frame.destinationPort) ? [] : [50_000] }
        for port in 0..<20 {
            world.put(
                world.forge(
                    0, UInt16(5_000 + port), 80, SequenceNumber(77), SequenceNumber(0), .syn,
                    options: TCPOptions(maximumSegmentSize: 1_460, windowScale: 7, sackPermitted: true)))
        }
        world.run(for: second / 10)
        #expect(world.counters(1).synCookiesSent == 16)
        #expect(world.hosts[1].stack.tcp.connectionCount == 4)
        let (client, tag) = try world.connect(0)
        world.run(for: second / 10) { world.hosts[0].hasSeen(.connected, tag) }
        #expect(world.send(0, client, Array("through a flood".utf8)) == .taken)
        world.run(for: second / 10)
        let (server, _) = try required(world.accept(1, listener))
        #expect(world.read(1, server) == .bytes(Array("through a flood".utf8)))
        let information = world.information(1, server)
        #expect(information.hasTimestamps && information.hasSelectiveAcknowledgement && information.hasWindowScale)
        #expect(world.counters(1).synCookiesAccepted == 1)
        // The half-open ones go away by themselves.
        world.pass(200 * second)
        #expect(world.hosts[1].stack.tcp.connectionCount == 1)
    }

    @Test func `closing a listener resets those that wait`() throws {
        let world = try TCPWorld()
        let (listener, tag) = try world.listen(1)
        let (client, _) = try world.connect(0)
        world.run(for: second) { world.hosts[1].hasSeen(.acceptable, tag) }
        world.close(1, listener)
        world.run(for: second)
        #expect(world.read(0, client) == .failed(104))
        #expect(world.hosts[1].stack.tcp.connectionCount == 0)
        #expect(world.accept(1, listener) == nil)
        world.close(0, client)
        #expect(world.liveObjectsAfterEnd() == 0)
    }

    @Test func `TIME_WAIT answers a FIN sent again, and waits anew (RFC 9293, section 3.10.7.4)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.shutdown(0, client)
        world.run(for: second)
        world.shutdown(1, server)
        world.run(for: second)
        #expect(world.state(1, server) == .closed)
        let fin = try required(world.frames(1).last { $0.flags.contains(.fin) })
        world.pass(50 * second)
        world.clearLog()
        world.put(fin)
        world.run(for: second)
        let answer = try required(world.frames(0).first)
        #expect(answer.flags == .ack)
        #expect(answer.acknowledgment == fin.sequence + 1)
        world.pass(30 * second)
        #expect(world.hosts[0].stack.tcp.timeWaitCount == 1)
        world.pass(31 * second)
        #expect(world.hosts[0].stack.tcp.timeWaitCount == 0)
    }

    @Test func `a connection in TIME_WAIT makes room for a new one with greater timestamps (RFC 6191)`() throws {
        for closer in [0, 1] {
            let world = try TCPWorld()
            let (listener, _) = try world.listen(1)
            let (client, _) = try world.connect(0, from: 4_000)
            world.run(for: second)
            let (server, _) = try required(world.accept(1, listener))
            let (first, last) = closer == 0 ? (client, server) : (server, client)
            world.shutdown(closer, first)
            world.run(for: second)
            world.shutdown(1 - closer, last)
            world.run(for: second)
            world.close(0, client)
            world.close(1, server)
            #expect(world.hosts[closer].stack.tcp.timeWaitCount == 1)
            world.pass(second)
            let (again, tag) = try world.connect(0, from: 4_000)
            world.run(for: second) { world.hosts[0].hasSeen(.connected, tag) }
            #expect(world.state(0, again) == .established)
            #expect(world.hosts[closer].stack.tcp.timeWaitCount == 0)
        }
    }

    @Test func `FIN_WAIT_2 ends by itself only after close (RFC 1122, section 4.2.2.20)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.shutdown(0, client)
        world.pass(200 * second)
        #expect(world.state(0, client) == .finWait2)
        #expect(world.send(1, server, [9]) == .taken)
        world.run(for: second)
        #expect(world.read(0, client) == .bytes([9]))
        world.close(0, client)
        world.pass(61 * second)
        #expect(world.hosts[0].stack.tcp.connectionCount == 0)
    }

    @Test func `data for a closed handle is answered with a reset (RFC 1122, section 4.2.2.13)`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        world.close(0, client)
        world.run(for: second)
        #expect(world.send(1, server, [9]) == .taken)
        world.run(for: second)
        #expect(world.read(1, server) == .failed(104))
    }

    @Test func `ports: taken ones are refused, TIME_WAIT yields to reuse, zero chooses (RFC 6056)`() throws {
        let world = try TCPWorld()
        let (_, server, listener) = try world.open()
        #expect(throws: DemikernelError.self) { _ = try world.listen(1) }
        world.shutdown(1, server)
        world.close(1, server)
        world.close(1, listener)
        #expect(throws: DemikernelError.self) { _ = try world.listen(1) }
        var options = TCPSocketOptions()
        options.reuseAddress = true
        let (again, _) = try world.listen(1, options)
        #expect(world.hosts[1].stack.tcp.localAddress(again)?.port == 80)
        let any = try world.hosts[0].stack.reserve(.any(.ipv4, port: 0), reuse: false)
        #expect(any.port >= 32_768)
        #expect(throws: DemikernelError.self) { _ = try world.hosts[0].stack.reserve(.any(.ipv4, port: any.port), reuse: false) }
        world.hosts[0].stack.tcp.release(local: any)
        _ = try world.hosts[0].stack.reserve(.any(.ipv4, port: any.port), reuse: false)
        #expect(throws: DemikernelError.self) {
            _ = try world.hosts[0].stack.reserve(.ipv4(0x0a00_0063, port: 5), reuse: false)
        }
    }

    @Test func `connections beyond the settings are refused, and nothing is lost`() throws {
        var settings = TCPConfiguration()
        settings.maximumConnections = 3
        let world = try TCPWorld(settings)
        for _ in 0..<3 { _ = try world.connect(0, port: 80) }
        #expect(throws: DemikernelError.self) { _ = try world.connect(0, port: 80) }
        #expect(world.hosts[0].stack.tcp.connectionCount == 3)
    }

    @Test func `an unknown option is skipped (RFC 9293, section 3.1, MUST-6)`() throws {
        let world = try TCPWorld()
        let (listener, tag) = try world.listen(1)
        world.link = { frame in frame.direction == 1 ? [] : [50_000] }
        // Kind 200 of 6 bytes, then a segment size of 1,000.
        world.put(
            world.forge(
                0, 999, 80, SequenceNumber(5), SequenceNumber(0), .syn, rawOptions: [200, 6, 1, 2, 3, 4, 2, 4, 3, 232, 1, 1]))
        world.run(for: second / 10)
        let answer = try required(world.frames(1).first)
        #expect(answer.flags == [.syn, .ack])
        world.put(world.forge(0, 999, 80, SequenceNumber(6), answer.sequence + 1, .ack))
        world.run(for: second / 10) { world.hosts[1].hasSeen(.acceptable, tag) }
        let (server, _) = try required(world.accept(1, listener))
        #expect(world.information(1, server).maximumSegmentSize == 1_000)
    }

    @Test func `an idle connection takes a kibibyte at most`() throws {
        let world = try TCPWorld()
        let (client, server, _) = try world.open()
        for _ in 0..<3 {
            #expect(world.send(0, client, [1]) == .taken)
            world.run(for: second)
            _ = world.readAll(1, server)
        }
        let slab = MemoryLayout<TCPConnection>.stride + 4
        let rings = 64 + 128
        #expect(slab <= 700, "\(MemoryLayout<TCPConnection>.size) bytes")
        #expect(slab + rings + 21 + 36 <= 1_024)
    }
}
