@testable import Demikernel
@testable import DemikernelSimulator

extension FuzzTarget {
    /// A host that is sent anything at all, while a connection of its own goes on.
    static let stack = FuzzTarget(
        name: "stack", summary: "a whole host that is sent any frames, beside a connection that has to live through them", lengthMaximum: 4096,
        runs: 1_500, seeds: StackWorld.seeds, run: { try StackWorld($0).run() })
}

/// A host that serves TCP and UDP, its well-behaved peer, and a stranger whom the input directs.
private final class StackWorld: SimulatedNode {
    private var input: FuzzInput
    private let simulation = Simulation(seed: 1)
    private let victim: StackHost
    private let peer: StackHost
    private var port: SimulatedPort?
    private var client: FuzzEnd?
    /// What the victim has accepted, by tag: it sends back what it gets.
    private var accepted: [UInt32: TCPSocket] = [:]
    private var nextTag: UInt32 = 16
    private var listeners: [TCPSocket] = []
    private var datagramSockets: [UDPSocket] = []
    /// What the stranger knows of its connections to the victim, by its port: the next numbers of both.
    private var known: [UInt16: (own: UInt32, victims: UInt32)] = [:]

    init(_ bytes: [UInt8]) throws {
        input = FuzzInput(bytes)
        var networks = [FuzzHosts.network(SeedFrames.victim), FuzzHosts.network(SeedFrames.peer)]
        for index in networks.indices {
            // Neighbours that are known: telling lies about them is a link's matter, not a stack's.
            for host in [SeedFrames.victim, SeedFrames.peer, SeedFrames.stranger] {
                for address in [host.ipv4, host.ipv6] {
                    networks[index].staticNeighbours.append(.init(FuzzHosts.address(address), MACAddress(host.station)))
                }
            }
        }
        victim = try FuzzHosts.host(simulation, "victim", SeedFrames.victim, networks[0])
        peer = try FuzzHosts.host(simulation, "peer", SeedFrames.peer, networks[1])
        let middle = SimulatedSwitch()
        let wire = LinkConditions(delay: .microseconds(50))
        simulation.connect(victim, middle, wire)
        simulation.connect(peer, middle, wire)
        simulation.connect(self, middle, wire)
        for (tag, family) in [(UInt32(0), AddressFamily.ipv4), (1, .ipv6)] {
            listeners.append(try victim.use { stack throws(DemikernelError) in try stack.listen(on: .any(family, port: 80), backlog: 16, tag: tag) })
            datagramSockets.append(try victim.use { stack throws(DemikernelError) in try stack.bindUDP(.any(family, port: 7), tag: tag + 2) })
        }
        victim.onEvent = { [unowned self] in serve($0) }
        let socket = try peer.use { [now = simulation.now] stack throws(DemikernelError) in
            try stack.connect(to: .ipv4(0x0a00_0001, port: 80), tag: 16, now: now)
        }
        let end = FuzzEnd(peer, socket, isClient: true, sendTotal: 4000, isStrict: false)
        end.limit = 100
        end.ends = false
        client = end
        peer.onEvent = { event in if event.tag == 16 { try? end.handle(event.kinds) } }
    }

    func connected(_ port: SimulatedPort) { self.port = port }

    // MARK: - The run

    func run() throws {
        guard let client else { return }
        defer { end() }
        simulation.run(for: .seconds(1))
        require(client.received == 100, "the connection does not come about: \(client.state)")
        while !input.isAtEnd { act() }
        simulation.run(for: .milliseconds(10))
        client.limit = client.sendTotal
        try client.advance()
        simulation.run(until: simulation.now + 120_000_000_000) { client.received < client.sendTotal && client.error == 0 }
        require(client.received == client.sendTotal, "the connection did not live through it: \(client.state)")
        require(!victim.isSpinning, "the victim spins")
        // The end: everything is given back, at the latest when the last timer has run.
        client.close(reset: false)
        simulation.run(for: .seconds(1))
        let now = simulation.now
        for socket in accepted.values { victim.use { $0.close(socket, lingerReset: true, now: now) } }
        for socket in listeners { victim.use { $0.close(socket, now: now) } }
        for socket in datagramSockets { victim.use { $0.closeUDP(socket) } }
        simulation.run(for: .seconds(200))
        try FuzzHosts.requireEmptyHeap("after \(simulation.stepCount) events")
    }

    /// Nodes, links and ends hold each other.
    private func end() {
        for host in [victim, peer] { host.onEvent = nil }
        simulation.end()
    }

    // MARK: - The victim's program

    private func serve(_ event: SocketEvent) {
        let now = simulation.now
        switch event.tag {
        case 0, 1:
            while nextTag < 256, let socket = victim.use({ [tag = nextTag] in $0.tcp.accept(listeners[Int(event.tag)], tag: tag) }) {
                accepted[nextTag] = socket
                echo(nextTag, socket, now)
                nextTag += 1
            }
        case 2, 3:
            let socket = datagramSockets[Int(event.tag) - 2]
            while let (list, source) = victim.use({ $0.udp.receive(socket) }) {
                do throws(DemikernelError) {
                    try victim.use { stack throws(DemikernelError) in try stack.sendUDP(socket, list, to: source, now: now) }
                } catch {
                    // An answer that is refused is the program's to give back.
                    list.releaseAll()
                }
            }
        default: if let socket = accepted[event.tag] { echo(event.tag, socket, now) }
        }
    }

    private func echo(_ tag: UInt32, _ socket: TCPSocket, _ now: UInt64) {
        while true {
            switch victim.use({ $0.receive(socket, limit: 65_536, now: now) }) {
            case .segments(let list): if victim.use({ $0.send(socket, list, now: now) }) != .taken { list.releaseAll() }
            case .empty: return
            case .endOfStream, .failed:
                victim.use { $0.close(socket, now: now) }
                accepted[tag] = nil
                return
            }
        }
    }

    // MARK: - The stranger

    /// What the victim sends to the stranger: it learns the numbers that it needs to go on.
    func receive(_ frame: [UInt8], from port: SimulatedPort) {
        guard frame.count >= 54, frame.address(0) == SeedFrames.stranger.station else { return }
        let start = frame.bigEndian16(12) == 0x0800 ? 34 : 54
        guard frame.count >= start + 20, frame[start == 34 ? 23 : 20] == 6 else { return }
        func number(_ offset: Int) -> UInt32 { UInt32(frame.bigEndian16(start + offset)) << 16 | UInt32(frame.bigEndian16(start + offset + 2)) }
        let payload = frame.count - start - Int(frame[start + 12] >> 4) * 4
        let flags = UInt32(frame[start + 13])
        let next = number(4) &+ UInt32(max(0, payload)) &+ (flags & 1) &+ (flags >> 1 & 1)
        known[frame.bigEndian16(start + 2)] = (number(8), next)
    }

    private func act() {
        switch input.byte() % 6 {
        case 0: send(input.take(Int(input.word() % 1600)))
        case 1:
            var frame = input.take(Int(input.word() % 1600))
            FrameRepair.repair(&frame)
            if frame.count >= 6 { frame.replaceSubrange(0..<6, with: AttackFrame.bytes(SeedFrames.victim.station, 6)) }
            send(frame)
        case 2: simulation.run(for: .nanoseconds(Int64(1) << Int64(input.byte() % 34)))
        case 3: sendSegment()
        case 4: sendPacket()
        default: simulation.run(for: .microseconds(200))
        }
    }

    /// A TCP segment whose numbers are near those of a connection of the stranger's.
    private func sendSegment() {
        let flags = input.byte()
        let choice = input.byte()
        let ownPort = 4000 + UInt16(choice & 7)
        let (source, destination) = choice & 8 == 0 ? (SeedFrames.stranger.ipv4, SeedFrames.victim.ipv4) : (SeedFrames.stranger.ipv6, SeedFrames.victim.ipv6)
        let numbers = known[ownPort] ?? (1000, 0)
        let options = input.take(Int(input.byte() % 11) * 4)
        let segment = AttackFrame.Segment(
            source: source, destination: destination, sourcePort: ownPort, destinationPort: choice & 16 == 0 ? 80 : 81,
            sequence: numbers.own &+ UInt32(bitPattern: Int32(Int16(bitPattern: input.word()))),
            acknowledgment: numbers.victims &+ UInt32(bitPattern: Int32(Int16(bitPattern: input.word()))), flags: flags,
            window: input.word(), options: options + [UInt8](repeating: 1, count: (4 - options.count % 4) % 4),
            payload: input.take(Int(input.byte())))
        send(AttackFrame.frame(to: SeedFrames.victim.station, from: SeedFrames.stranger.station, AttackFrame.tcp(segment)))
    }

    /// A packet of any protocol, whole or a fragment.
    private func sendPacket() {
        let choice = input.byte()
        let proto = [UInt8(17), 6, 1, 58, 44, 0, 43, 60][Int(choice & 7)]
        let (source, destination) = choice & 8 == 0 ? (SeedFrames.stranger.ipv4, SeedFrames.victim.ipv4) : (SeedFrames.stranger.ipv6, SeedFrames.victim.ipv6)
        var fragment: AttackFrame.Fragment?
        if choice & 16 != 0 {
            fragment = .init(identification: UInt32(input.byte()), offset: Int(input.word() & 0x1fff) * 8, more: choice & 32 != 0)
        }
        var payload = input.take(Int(input.word() % 1480))
        if choice & 64 != 0, proto == 17, payload.count >= 8 {
            payload = AttackFrame.udp(from: source, port: UInt16(payload[0]), to: destination, port: 7, Array(payload[8...]))
        } else if choice & 64 != 0, proto == 1 || proto == 58, payload.count >= 8 {
            let type = payload[0]
            let rest = UInt32(payload[4]) << 24 | UInt32(payload[5]) << 16 | UInt32(payload[6]) << 8 | UInt32(payload[7])
            let packet = AttackFrame.icmp(from: source, to: destination, type: type, code: payload[1], rest: rest, Array(payload[8...]), hopLimit: 255)
            return send(AttackFrame.frame(to: SeedFrames.victim.station, from: SeedFrames.stranger.station, packet))
        }
        let packet = AttackFrame.packet(from: source, to: destination, proto: proto, payload, fragment: fragment)
        send(AttackFrame.frame(to: SeedFrames.victim.station, from: SeedFrames.stranger.station, packet))
    }

    /// Hands the victim a frame, unless it says that it is the peer's: who can do that can end the peer's connections by rights.
    private func send(_ frame: [UInt8]) {
        guard let port, frame.count >= 14, !FrameRepair.claims(frame, SeedFrames.peer.ipv4, SeedFrames.peer.ipv6) else { return }
        victim.receive(frame, from: port)
        simulation.run(for: .microseconds(1))
    }

    // MARK: - Seeds

    static let seeds: @Sendable () throws -> [[UInt8]] = {
        var seeds = SeedFrames.all.map { [1] + AttackFrame.bytes(UInt64($0.count), 2) + $0 }
        func segment(_ flags: UInt8, port: UInt8 = 0, sequence: Int16 = 0, acknowledgment: Int16 = 0, options: [UInt8] = [], payload: [UInt8] = []) -> [UInt8] {
            [3, flags, port, UInt8(options.count / 4)] + options + AttackFrame.bytes(UInt64(UInt16(bitPattern: sequence)), 2)
                + AttackFrame.bytes(UInt64(UInt16(bitPattern: acknowledgment)), 2) + [0x20, 0, UInt8(payload.count)] + payload + [5]
        }
        let opening: [UInt8] = [2, 4, 5, 0xb4, 4, 2, 1, 1, 1, 3, 3, 7]
        for port in [UInt8(0), 9] {
            let open = segment(2, port: port, options: opening) + segment(0x10, port: port)
            seeds.append(open + segment(0x18, port: port, payload: Array("hello".utf8)) + segment(0x11, port: port) + segment(0x10, port: port))
            // Out of order, twice, and reset in the end.
            let later = segment(0x18, port: port, sequence: 10, payload: [UInt8](repeating: 7, count: 10))
            seeds.append(open + later + later + segment(0x18, port: port, payload: [UInt8](repeating: 6, count: 10)) + segment(4, port: port))
            let report: [UInt8] = [1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9]
            seeds.append(open + segment(0x18, port: port, payload: [1, 2, 3]) + segment(0x10, port: port, acknowledgment: -2, options: report) + [2, 31])
        }
        for family in [UInt8(0), 8] {
            seeds.append([4, 64 | family, 0, 12] + [9, 9, 0, 7, 0, 0, 0, 0, 1, 2, 3, 4] + [5])
            seeds.append([4, 16 | 32 | family, 1, 0, 0, 0, 8, 0, 9, 0, 7, 0, 16, 0, 0] + [4, 16 | family, 1, 0, 1, 0, 8] + [UInt8](repeating: 3, count: 8) + [2, 33, 2, 33])
        }
        return seeds
    }
}

/// What a frame that was changed needs to be looked at twice.
enum FrameRepair {
    /// Stores the checksums of IP, TCP, UDP and ICMP that the frame's bytes have now.
    static func repair(_ frame: inout [UInt8]) {
        guard frame.count >= 34 else { return }
        let start = frame.bigEndian16(12) == 0x8100 ? 18 : 14
        guard frame.count >= start + 20 else { return }
        var transport = start + 40
        var end = frame.count
        var proto = UInt8(0)
        var addresses: ArraySlice<UInt8> = []
        if frame[start] >> 4 == 4 {
            let header = Int(frame[start] & 15) * 4
            guard header >= 20, frame.count >= start + header else { return }
            frame.store16(0, at: start + 10)
            frame.store16(frame.checksum(start..<start + header), at: start + 10)
            transport = start + header
            end = min(end, start + Int(frame.bigEndian16(start + 2)))
            proto = frame[start + 9]
            addresses = frame[start + 12..<start + 20]
        } else if frame[start] >> 4 == 6, frame.count >= start + 40 {
            end = min(end, transport + Int(frame.bigEndian16(start + 4)))
            proto = frame[start + 6]
            addresses = frame[start + 8..<start + 40]
        } else {
            return
        }
        guard let place = [UInt8(6): 16, 17: 6, 1: 2, 58: 2][proto], transport + place + 2 <= end else { return }
        let sum = Array(addresses)
        let pseudo = proto == 1 ? 0 : UInt32(~sum.checksum(0..<sum.count)) + UInt32(end - transport) + UInt32(proto)
        frame.store16(0, at: transport + place)
        frame.store16(frame.checksum(transport..<end, adding: pseudo), at: transport + place)
    }

    /// Whether the frame says that it is from one of these addresses, as an IP packet or in ARP.
    static func claims(_ frame: [UInt8], _ ipv4: [UInt8], _ ipv6: [UInt8]) -> Bool {
        for start in [14, 18] {
            if frame.count >= start + 18, Array(frame[start + 14..<start + 18]) == ipv4 { return true }
            if frame.count >= start + 16, Array(frame[start + 12..<start + 16]) == ipv4 { return true }
            if frame.count >= start + 24, Array(frame[start + 8..<start + 24]) == ipv6 { return true }
        }
        return false
    }
}
