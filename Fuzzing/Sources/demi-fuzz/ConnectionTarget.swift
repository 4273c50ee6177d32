@testable import Demikernel
@testable import DemikernelSimulator

extension FuzzTarget {
    /// A connection whose frames are tampered with on their way.
    static let connection = FuzzTarget(
        name: "connection", summary: "a connection whose frames are lost, repeated, held back, damaged or forged on their way",
        lengthMaximum: 1024, runs: 2_000, seeds: ConnectionWorld.seeds, run: { try ConnectionWorld($0).run() })
}

/// Two hosts and a box between them. The input says what is sent, how the hosts are set up, and what the box does to each frame.
///
/// Either the box does what networks do (frames are lost, repeated, overtaken, and damaged in ways that checksums show without fail): then every
/// byte arrives, in order, and both ends finish. Or it forges headers with right checksums: then nothing is promised but that both hosts stay
/// whole, and give everything back.
private final class ConnectionWorld: SimulatedNode {
    private var input: FuzzInput
    private let simulation = Simulation(seed: 1)
    private let hosts: [StackHost]
    private var ports: [SimulatedPort] = []
    private var client: FuzzEnd?
    private var server: FuzzEnd?
    private var listener: TCPSocket?
    private let forges: Bool
    private let serverBytes: Int
    /// Frames that pass before the input is asked again.
    private var passing = 0
    /// Frames lost or damaged.
    private var harmed = 0
    private var recent: [(frame: [UInt8], port: Int)] = []
    private var held: (frame: [UInt8], port: Int)?

    init(_ bytes: [UInt8]) throws {
        input = FuzzInput(bytes)
        let flags = input.byte()
        let sizes = input.byte()
        let settings = input.byte()
        let manners = input.byte()
        forges = flags & 1 != 0
        let clientBytes = sizes & 15 == 0 ? 0 : 1 << Int(sizes & 15)
        serverBytes = sizes >> 4 == 0 ? 0 : 1 << Int(sizes >> 4)
        var networks = [FuzzHosts.network(SeedFrames.victim), FuzzHosts.network(SeedFrames.peer)]
        for index in networks.indices {
            networks[index].tcp.ecn = flags & 4 != 0
            networks[index].tcp.timestamps = flags & 8 == 0
            networks[index].tcp.selectiveAcknowledgement = flags & 16 == 0
            networks[index].tcp.windowScale = flags & 32 == 0
            networks[index].tcp.noDelay = flags & 64 == 0
            networks[index].tcp.congestionControl = [.cubic, .newReno, .dctcp, .cubic][Int(settings & 3)]
            networks[index].tcp.receiveBuffer = 4096 << Int(settings >> 2 & 3)
            networks[index].tcp.sendBuffer = 4096 << Int(settings >> 4 & 3)
        }
        let mtu = [1500, 1280, 9000, 1400][Int(settings >> 6)]
        hosts = [
            try FuzzHosts.host(simulation, "server", SeedFrames.victim, networks[0], mtu: mtu),
            try FuzzHosts.host(simulation, "client", SeedFrames.peer, networks[1], mtu: mtu),
        ]
        let wire = LinkConditions(delay: .microseconds(100))
        for host in hosts { simulation.connect(host, self, wire) }
        let isIPv4 = flags & 2 == 0
        listener = try hosts[0].use { stack throws(DemikernelError) in
            try stack.listen(on: .any(isIPv4 ? .ipv4 : .ipv6, port: 80), backlog: 4, tag: 0)
        }
        hosts[0].onEvent = { [unowned self] in serve($0) }
        let address = isIPv4 ? SocketAddress.ipv4(0x0a00_0001, port: 80) : .ipv6(0xfd00 << 48, 1, port: 80)
        var options = TCPSocketOptions()
        options.keepAlive = manners & 1 != 0
        let socket = try hosts[1].use { [now = simulation.now, options] stack throws(DemikernelError) in
            try stack.connect(to: address, options: options, tag: 16, now: now)
        }
        let end = FuzzEnd(hosts[1], socket, isClient: true, sendTotal: clientBytes, isStrict: !forges)
        client = end
        hosts[1].onEvent = { event in if event.tag == 16 { try? end.handle(event.kinds) } }
    }

    func connected(_ port: SimulatedPort) { ports.append(port) }

    private func serve(_ event: SocketEvent) {
        if event.tag == 16 {
            try? server?.handle(event.kinds)
        } else if event.tag == 0, server == nil, let listener, let socket = hosts[0].use({ $0.tcp.accept(listener, tag: 16) }) {
            let end = FuzzEnd(hosts[0], socket, isClient: false, sendTotal: serverBytes, isStrict: !forges)
            server = end
            try? end.advance()
        }
    }

    // MARK: - The run

    func run() throws {
        guard let client else { return }
        defer { end() }
        let isBusy = { !(client.isClosed && self.server?.isClosed ?? (client.error != 0)) }
        simulation.run(until: forges ? 60_000_000_000 : 1_000_000_000_000, orWhile: isBusy)
        let state = "\(client.state); \(server?.state ?? "no server"); \(harmed) frames were harmed"
        for host in hosts { require(!host.isSpinning, "\(host.name) spins: \(state)") }
        if !forges {
            // A connection may give up where so many frames in a row are lost.
            let mayFail = harmed >= 3
            if !mayFail {
                require(!isBusy(), "stuck: \(state)")
                require(client.error == 0 && server?.error == 0, "an error although little was lost: \(state)")
            }
            if client.error == 0, server?.error == 0, !isBusy() {
                require(client.received == server?.sendTotal && server?.received == client.sendTotal, "an end before all has come: \(state)")
            }
        }
        let now = simulation.now
        client.close(reset: true)
        server?.close(reset: true)
        if let listener { hosts[0].use { $0.close(listener, now: now) } }
        held = nil
        simulation.run(for: .seconds(200))
        try FuzzHosts.requireEmptyHeap(state)
    }

    /// Nodes, links and ends hold each other.
    private func end() {
        for host in hosts { host.onEvent = nil }
        simulation.end()
    }

    // MARK: - The box

    func receive(_ frame: [UInt8], from port: SimulatedPort) {
        let out = 1 - port.number
        recent.append((frame, out))
        if recent.count > 16 { recent.removeFirst() }
        defer {
            // What was held back follows whatever comes next.
            if let last = held, last.frame != frame {
                held = nil
                ports[last.port].transmit(last.frame)
            }
        }
        guard passing == 0, !input.isAtEnd else {
            passing = max(0, passing - 1)
            return ports[out].transmit(frame)
        }
        let action = input.byte()
        if action < 0x60 {
            passing = Int(action & 15)
            return ports[out].transmit(frame)
        }
        var changed = frame
        switch action & 7 {
        case 0: harmed += 1
        case 1:
            ports[out].transmit(frame)
            ports[out].transmit(frame)
        case 2: simulation.schedule(at: simulation.now + 1 << UInt64(input.byte() % 30)) { [self] in ports[out].transmit(frame) }
        case 3:
            harmed += 1
            // Nothing but the frame check sequence, which is not here, shows damage to what carries no checksum: it is lost instead.
            if changed.corrupt(UInt64(input.word32()) << 15 | UInt64(input.word())) { ports[out].transmit(changed) }
        case 4:
            ports[out].transmit(frame)
            let old = recent[Int(input.byte()) % recent.count]
            ports[old.port].transmit(old.frame)
        case 5 where held == nil: held = (frame, out)
        case 6 where forges:
            for _ in 0...Int(action >> 3 & 3) {
                let place = 12 + Int(input.byte()) % 90
                let value = input.byte()
                if place < changed.count { changed[place] ^= value }
            }
            FrameRepair.repair(&changed)
            ports[out].transmit(changed)
        case 7 where forges:
            changed.removeLast(min(Int(input.word() % 1500), max(0, changed.count - 14)))
            FrameRepair.repair(&changed)
            ports[out].transmit(changed)
        default: ports[out].transmit(frame)
        }
    }

    // MARK: - Seeds

    static let seeds: @Sendable () throws -> [[UInt8]] = {
        var seeds: [[UInt8]] = []
        for flags in [UInt8(0), 2, 4, 8, 16, 32, 64, 1, 3, 5] {
            let actions: [UInt8] = flags & 1 == 0
                ? [2, 0x60, 5, 0x61, 0x62, 20, 3, 0x63, 1, 2, 3, 4, 5, 6, 0x64, 2, 0x65, 1, 0x63, 9, 9, 9, 9, 9, 9]
                : [2, 0x66, 34, 1, 3, 0x6e, 26, 0x80, 40, 7, 0x64, 3, 0x67, 0, 9, 0x76, 33, 2, 48, 255, 47, 3]
            for sizes in [UInt8(0xbb), 0xe3, 0x0e] {
                seeds.append([flags, sizes, flags &* 37, 0] + actions)
            }
        }
        return seeds
    }
}
