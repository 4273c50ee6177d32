import Demikernel

/// The program on one host of the scenario: a server on two ports, a client of the other hosts', and datagrams.
final class ScenarioHost {
    let number: Int
    let stack: StackHost
    /// Its ends of connections by their tags.
    private(set) var ends: [UInt32: ScenarioEnd] = [:]
    private unowned let world: ScenarioWorld
    private let ownHeap: SimulatedHeap
    private var random: SimulationRandom
    private var freeTags: [UInt32] = []
    private var nextTag: UInt32 = 16
    private var listeners: [TCPSocket] = []
    private var datagramSockets: [UDPSocket] = []
    private var nextDatagram = 0
    private var end: UInt64 = 0

    private static var port: UInt16 { 80 }
    private static var closedPort: UInt16 { 9 }
    private static var datagramPort: UInt16 { 5000 }
    static var connectionsMaximum: Int { 8 }
    /// What it sends to somebody whom it does not know, where there is an attacker.
    private static var baitBytes: Int { 16_384 }

    init(_ world: ScenarioWorld, _ number: Int, _ stack: StackHost, _ heap: SimulatedHeap, _ random: SimulationRandom) throws {
        self.world = world
        self.number = number
        self.stack = stack
        ownHeap = heap
        self.random = random
        for (tag, family) in [(UInt32(0), AddressFamily.ipv4), (1, .ipv6)] {
            listeners.append(try stack.use { stack throws(DemikernelError) in
                try stack.listen(on: .any(family, port: Self.port), backlog: 64, tag: tag)
            })
            datagramSockets.append(try stack.use { stack throws(DemikernelError) in
                try stack.bindUDP(.any(family, port: Self.datagramPort), tag: tag + 2)
            })
        }
        stack.onEvent = { [unowned self] in handle($0) }
    }

    private var simulation: Simulation { stack.simulation }
    /// Its heap, this thread's from here on.
    var heap: HeapReference {
        ownHeap.take()
        return ownHeap.reference
    }

    // MARK: - The course of things

    func start(until end: UInt64) {
        self.end = end
        scheduleConnection()
        scheduleDatagram()
    }

    private func scheduleConnection() {
        let time = simulation.now + random.below(world.plan.pause)
        guard time < end else { return }
        simulation.schedule(at: time) { [unowned self] in
            if ends.count < Self.connectionsMaximum { open(ScenarioConnectionPlan(world.plan, from: number, &random), isLast: false) }
            scheduleConnection()
        }
    }

    private func scheduleDatagram() {
        let time = simulation.now + random.below(world.plan.pause)
        guard time < end else { return }
        simulation.schedule(at: time) { [unowned self] in
            sendDatagram()
            scheduleDatagram()
        }
    }

    /// The network is well: what has waited for that goes on.
    func finish() {
        for tag in ends.keys.sorted() { if let end = ends[tag] { advance(end) } }
    }

    /// A connection that cannot fail any more.
    func startLastConnection() {
        var plan = ScenarioConnectionPlan(world.plan, from: number, &random)
        plan.ending = .clean
        open(plan, isLast: true)
    }

    /// Nothing more is expected.
    func close() {
        let now = simulation.now
        for listener in listeners { stack.use { $0.close(listener, now: now) } }
        for socket in datagramSockets { stack.use { $0.closeUDP(socket) } }
    }

    // MARK: - Connections

    private func takeTag() -> UInt32 {
        if freeTags.count > 1000 { return freeTags.removeFirst() }
        nextTag += 1
        return nextTag - 1
    }

    private func open(_ plan: ScenarioConnectionPlan, isLast: Bool) {
        let connection = world.addConnection(plan)
        connection.isLast = isLast
        let tag = takeTag()
        var options = TCPSocketOptions()
        options.keepAlive = true
        let port = plan.ending == .refused ? Self.closedPort : Self.port
        let remote = ScenarioPlan.address(plan.server, isIPv4: plan.isIPv4, port: port)
        let now = simulation.now
        do throws(DemikernelError) {
            let socket = try stack.use { stack throws(DemikernelError) in try stack.connect(to: remote, options: options, tag: tag, now: now) }
            let end = ScenarioEnd(self, isClient: true, socket, tag: tag)
            end.connection = connection
            connection.client = end
            ends[tag] = end
            world.note("\(connection.state) opens")
            if plan.ending == .reset {
                simulation.schedule(at: now + plan.resetAfter) { [unowned self] in if !end.isDone { finish(end, isReset: true) } }
            }
        } catch {
            guard world.starves, !isLast else { return world.fail("connect of connection \(connection.number) threw \(error)") }
            world.finished(connection)
        }
    }

    private func handle(_ event: SocketEvent) {
        switch event.tag {
        case 0, 1: accept(listeners[Int(event.tag)])
        case 2, 3: receiveDatagrams(datagramSockets[Int(event.tag) - 2])
        case 4..<16: world.pair(of: number, tag: event.tag)?.handle(event)
        default:
            // What happens to a socket that is closed concerns nobody.
            guard let end = ends[event.tag] else { return }
            if event.kinds.contains(.connected) { end.isConnected = true }
            if event.kinds.contains(.failed) { end.isReadPaused = false }
            advance(end)
        }
    }

    private func accept(_ listener: TCPSocket) {
        while true {
            let tag = takeTag()
            guard let socket = stack.use({ $0.tcp.accept(listener, tag: tag) }) else { return freeTags.append(tag) }
            let end = ScenarioEnd(self, isClient: false, socket, tag: tag)
            ends[tag] = end
            var options = TCPSocketOptions()
            options.keepAlive = true
            let now = simulation.now
            stack.use { $0.setOptions(socket, options, now: now) }
            advance(end)
        }
    }

    /// Does what there is to do on a connection: reads, writes, ends it.
    private func advance(_ end: ScenarioEnd) {
        guard !end.isDone, world.report.failure == nil else { return }
        // While it connects, reading is how an error is learnt.
        if !end.isReadPaused { read(end) }
        if end.isHostile { return bait(end) }
        guard !end.isDone, end.isConnected, let connection = end.connection else { return }
        check(end)
        guard connection.plan.ending != .idle || !world.isImpaired || !end.isClient else { return }
        if !end.isClient, connection.plan.isRequestResponse, !end.hasEnded, end.received < connection.plan.clientBytes { return }
        write(end)
        guard !end.isDone else { return }
        if end.sent == end.sendTotal, connection.plan.ending == .closeEarly, end.isClient { return finish(end) }
        if end.sent == end.sendTotal, end.hasEnded, end.hasShutDown { finish(end) }
    }

    private func read(_ end: ScenarioEnd) {
        let now = simulation.now
        while true {
            let limit = end.readPause > 0 ? random.number(in: 1...4096) : 0
            switch stack.use({ $0.receive(end.socket, limit: limit, now: now) }) {
            case .segments(let list):
                defer { list.releaseAll() }
                for index in 0..<list.count { take(list[index], end) }
                guard world.report.failure == nil else { return }
            case .empty: return
            case .endOfStream:
                end.hasEnded = true
                if end.connection == nil {
                    // A client that closed before it said who it was: it may have been reset in between.
                    return end.received == 0 || end.received < 8 ? finish(end) : ()
                }
                if end.received != end.receiveTotal {
                    world.fail("end of the stream after \(end.received) of \(end.receiveTotal) bytes of connection \(end.connection!.state)")
                }
                return
            case .failed(let error): return fail(end, error)
            }
            guard end.readPause > 0 else { continue }
            end.isReadPaused = true
            simulation.schedule(at: now + end.readPause) { [unowned self] in
                end.isReadPaused = false
                advance(end)
            }
            return
        }
    }

    /// Compares what has come with what was sent.
    private func take(_ segment: Segment, _ end: ScenarioEnd) {
        var bytes = unsafe UnsafeRawBufferPointer(segment.bytes)
        if end.connection == nil {
            let missing = min(8 - end.prefix.count, bytes.count)
            unsafe end.prefix += bytes.prefix(missing)
            unsafe bytes = UnsafeRawBufferPointer(rebasing: bytes.dropFirst(missing))
            end.received += missing
            guard end.prefix.count == 8 else { return }
            identify(end)
        }
        guard let connection = end.connection, unsafe !bytes.isEmpty else { return }
        if let place = unsafe connection.pattern(sentByClient: !end.isClient).mismatch(bytes, from: end.received) {
            return world.fail("wrong byte at offset \(end.received + place) of connection \(connection.state)")
        }
        end.received += bytes.count
        world.report.streamBytes += UInt64(bytes.count)
        if end.received > end.receiveTotal { world.fail("more bytes than were sent on connection \(connection.state)") }
    }

    private func identify(_ end: ScenarioEnd) {
        let number = ScenarioPattern.connection(end.prefix)
        let remote = stack.ask { $0.tcp.remoteAddress(end.socket) }
        let port = remote?.port ?? 0
        if world.attacker != nil, let remote, remote == ScenarioPlan.address(ScenarioAttacker.number, isIPv4: true, port: port) {
            end.isHostile = true
            return
        }
        guard let number, number < world.connections.count else { return world.fail("a stream that begins with bytes of none: \(end.prefix)") }
        let connection = world.connections[number]
        if connection.server != nil, world.attacker != nil || world.plan.networks[self.number].tcp.synQueue == 1 {
            // A late repetition of the first segments passes for the answer to a SYN cookie, of which nobody remembers that it was answered.
            return finish(end, isReset: true)
        }
        guard connection.plan.server == self.number, connection.server == nil,
            remote == ScenarioPlan.address(connection.plan.client, isIPv4: connection.plan.isIPv4, port: port)
        else { return world.fail("connection \(connection.state) arrived at host\(self.number) from \(remote.map { "\($0)" } ?? "nobody")") }
        end.connection = connection
        connection.server = end
        world.report.streamBytes += 8
    }

    private func write(_ end: ScenarioEnd) {
        guard let connection = end.connection, !end.hasShutDown, !end.isWritePaused else { return }
        let now = simulation.now
        let pattern = connection.pattern(sentByClient: end.isClient)
        while end.sent < end.sendTotal {
            let count = min(connection.plan.chunk, end.sendTotal - end.sent)
            let segment = heap.allocateSegment(count)
            guard !segment.isNull else { return pauseWriting(end) }
            unsafe pattern.fill(segment.bytes, from: end.sent)
            var list = SegmentList.single(segment)
            // Some pushes are of several buffers.
            if count > 16, random.chance(0.2) {
                let cut = random.number(in: 1...count - 1)
                var first = segment
                first.trimLast(count - cut)
                let rest = segment.slice(cut, count: count - cut)
                list = .single(first)
                guard heap.append(rest, to: &list) else {
                    list.releaseAll()
                    rest.release()
                    return pauseWriting(end)
                }
            }
            switch stack.use({ $0.send(end.socket, list, now: now) }) {
            case .taken: end.sent += count
            case .full: return list.releaseAll()
            case .failed(ScenarioError.noMemory) where world.starves:
                list.releaseAll()
                return pauseWriting(end)
            case .failed(let error):
                list.releaseAll()
                return fail(end, error)
            }
        }
        guard connection.plan.ending == .clean || connection.plan.ending == .idle || !end.isClient else { return }
        stack.use { $0.shutdownSend(end.socket, now: now) }
        end.hasShutDown = true
    }

    /// The heap is exhausted: again later.
    private func pauseWriting(_ end: ScenarioEnd) {
        end.isWritePaused = true
        simulation.schedule(at: simulation.now + 10_000_000) { [unowned self] in
            end.isWritePaused = false
            advance(end)
        }
    }

    /// Gives an attacker something to misbehave with, until nothing more is expected of it.
    private func bait(_ end: ScenarioEnd) {
        guard !end.isDone else { return }
        guard world.isImpaired else { return finish(end, isReset: true) }
        let now = simulation.now
        while end.sent < Self.baitBytes {
            let segment = heap.allocateSegment(1024)
            guard !segment.isNull else { return }
            _ = unsafe segment.bytes.initializeMemory(as: UInt8.self, repeating: 0)
            switch stack.use({ $0.send(end.socket, .single(segment), now: now) }) {
            case .taken: end.sent += 1024
            case .full: return segment.release()
            case .failed(let error):
                segment.release()
                return fail(end, error)
            }
        }
    }

    // MARK: - The end of a connection

    private func fail(_ end: ScenarioEnd, _ error: Int32) {
        end.error = error
        if let connection = end.connection {
            world.note("connection \(connection.number): error \(error) at the \(end.isClient ? "client" : "server")")
            guard connection.tolerates(error, at: end, world) else {
                return world.fail("error \(error) at the \(end.isClient ? "client" : "server") of connection \(connection.state)")
            }
            if error == ScenarioError.refused { world.report.refused += 1 }
            if error == ScenarioError.timedOut || error == ScenarioError.noRoute { world.report.timeouts += 1 }
        }
        finish(end)
    }

    private func finish(_ end: ScenarioEnd, isReset: Bool = false) {
        let now = simulation.now
        stack.use { $0.close(end.socket, lingerReset: isReset, now: now) }
        end.isDone = true
        ends[end.tag] = nil
        stack.use { $0.events.forget(tag: end.tag) }
        freeTags.append(end.tag)
        if isReset { world.report.resets += 1 }
        guard let connection = end.connection, connection.isFinished else { return }
        if connection.client?.error == 0, connection.server?.error ?? 0 == 0 { world.report.completed += 1 }
        world.note("connection \(connection.number) is finished")
        world.finished(connection)
    }

    /// What must hold of a connection at any time.
    private func check(_ end: ScenarioEnd) {
        let settings = world.plan.networks[number].tcp
        let information = stack.ask { $0.tcp.information(end.socket) }
        func require(_ holds: Bool, _ what: @autoclosure () -> String) {
            if !holds { world.fail("invariant of connection \(end.connection?.number ?? -1) broken: \(what()): \(information)") }
        }
        require(information.bytesInFlight >= 0 && information.bytesUnsent >= 0, "nothing is negative")
        require(information.bytesUnread >= 0 && information.bytesOutOfOrder >= 0 && information.receiveWindow >= 0, "nothing is negative")
        // A push is taken whole while the buffer is not over its limit.
        let push = end.connection?.plan.chunk ?? 0
        require(
            information.bytesInFlight + information.bytesUnsent <= settings.sendBuffer + push + 1, "more waits to be sent than the buffer holds")
        require(
            information.bytesUnread + information.bytesOutOfOrder <= 2 * settings.receiveBuffer + 65_536, "more has arrived than the buffer holds")
        require(information.congestionWindow > 0 && information.maximumSegmentSize > 0, "windows are positive")
        require(
            information.retransmissionTimeout <= settings.maximumRetransmissionTimeout, "the retransmission timeout has a maximum")
        require(!stack.isSpinning, "the stack does not spin")
    }

    func describe(_ end: ScenarioEnd) -> String {
        if end.isDone { return end.error == 0 ? "done" : "failed with \(end.error)" }
        let information = stack.ask { $0.tcp.information(end.socket) }
        return "\(information.state), sent \(end.sent), received \(end.received), in flight \(information.bytesInFlight),"
            + " unsent \(information.bytesUnsent), unread \(information.bytesUnread), window \(information.sendWindow)"
    }

    // MARK: - Datagrams

    private func sendDatagram() {
        let isIPv4 = random.chance(0.7)
        let other = random.number(in: 0...world.plan.hostCount - 2)
        let target = ScenarioPlan.address(other >= number ? other + 1 : other, isIPv4: isIPv4, port: Self.datagramPort)
        let count = random.chance(0.2) ? random.number(in: 8...9000) : random.number(in: 8...1400)
        let segment = heap.allocateSegment(count)
        guard !segment.isNull else { return }
        let header = Self.datagramHeader(host: number, sequence: nextDatagram, count: count)
        nextDatagram += 1
        unsafe ScenarioPattern(connection: Int(header & 0xffff_ffff), isClient: false).fill(segment.bytes, from: 0)
        unsafe segment.bytes.storeBytes(of: header.littleEndian, as: UInt64.self)
        let socket = datagramSockets[isIPv4 ? 0 : 1]
        let now = simulation.now
        do throws(DemikernelError) {
            try stack.use { stack throws(DemikernelError) in try stack.sendUDP(socket, .single(segment), to: target, now: now) }
            world.report.datagramsSent += 1
        } catch {
            // A queue that is full, or a neighbour that does not answer: datagrams may be refused.
            segment.release()
        }
    }

    private static func datagramHeader(host: Int, sequence: Int, count: Int) -> UInt64 {
        0xda7a << 48 | UInt64(count & 0xffff) << 32 | UInt64(host & 0xff) << 24 | UInt64(sequence & 0xff_ffff)
    }

    private func receiveDatagrams(_ socket: UDPSocket) {
        while true {
            let reading = stack.use { $0.udp.read(socket) }
            // RFC 1122, section 4.1.3.3: what has no peer is told nothing, since nobody could say whom it is about.
            guard reading.errno == 0 else { return world.fail("error \(reading.errno) at host\(number)'s socket of datagrams that has no peer") }
            guard !reading.segment.isNull else { return }
            let list = SegmentList.single(reading.segment)
            let source = SocketAddress(reading.source, port: reading.port)
            defer { list.releaseAll() }
            var bytes = [UInt8](repeating: 0, count: list.byteCount)
            _ = unsafe bytes.withUnsafeMutableBytes { unsafe list.copyBytes(to: $0) }
            let header = unsafe bytes.count < 8 ? 0 : bytes.withUnsafeBytes { unsafe UInt64(littleEndian: $0.loadUnaligned(as: UInt64.self)) }
            let host = Int(header >> 24 & 0xff)
            guard header == Self.datagramHeader(host: host, sequence: Int(header & 0xff_ffff), count: bytes.count) else {
                return world.fail("a datagram of \(bytes.count) bytes that nobody sent, from \(source)")
            }
            guard source == ScenarioPlan.address(host, isIPv4: source.family == .ipv4, port: Self.datagramPort) else {
                return world.fail("a datagram of host\(host) that says it is from \(source)")
            }
            let pattern = ScenarioPattern(connection: Int(header & 0xffff_ffff), isClient: false)
            if let place = unsafe bytes.withUnsafeBytes({ unsafe pattern.mismatch(UnsafeRawBufferPointer(rebasing: $0[8...]), from: 8) }) {
                return world.fail("wrong byte at offset \(place + 8) of a datagram of host\(host)")
            }
            world.report.datagramsReceived += 1
        }
    }
}
