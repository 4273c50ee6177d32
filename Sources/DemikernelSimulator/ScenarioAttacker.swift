import Demikernel

/// A station on the scenario's switch that means harm. It knows the hosts' addresses and the ports of their connections; what it cannot know
/// (RFC 6528, RFC 5961) are sequence numbers. It is told them all the same, so that its guesses come close, and never hits what is to be unguessable.
final class ScenarioAttacker: SimulatedNode {
    let plan: AttackPlan
    unowned let world: ScenarioWorld
    var random: SimulationRandom
    /// Connections of its own, by their local port.
    var peers: [UInt16: HostilePeer] = [:]
    var nextPeerPort: UInt16 = 20_000
    /// A connected UDP socket about which it has forged an error.
    struct Quoted: Hashable {
        let host: Int
        let port: UInt16
        let isIPv4: Bool
    }
    var quoted: Set<Quoted> = []
    /// Frames that came its way, the last of them.
    private(set) var seen: [[UInt8]] = []
    private(set) var sentFrames = 0
    private var port: SimulatedPort?
    private var end: UInt64 = 0

    static var station: UInt64 { 0x0200_0000_0a77 }
    /// Its host number, beyond those of the scenario.
    static var number: Int { 199 }
    private static var seenMaximum: Int { 64 }

    init(_ world: ScenarioWorld, _ plan: AttackPlan, seed: UInt64) {
        self.world = world
        self.plan = plan
        random = SimulationRandom(seed: seed, part: 4 << 32)
    }

    func connected(_ port: SimulatedPort) { self.port = port }

    func receive(_ frame: [UInt8], from port: SimulatedPort) {
        if seen.count < Self.seenMaximum { seen.append(frame) } else { seen[random.number(in: 0...Self.seenMaximum - 1)] = frame }
        answer(frame)
    }

    func send(_ frame: [UInt8]) {
        guard sentFrames < AttackPlan.framesMaximum else { return }
        sentFrames += 1
        world.report.attackFrames += 1
        port?.transmit(frame)
    }

    /// Attacks until `end`; then it is silent, and whoever talks to it finds out.
    func start(until end: UInt64) {
        self.end = end
        schedule()
    }

    var isActive: Bool { world.simulation.now < end }

    private func schedule() {
        let time = world.simulation.now + 1 + random.below(plan.pause)
        guard time < end, sentFrames < AttackPlan.framesMaximum else { return }
        world.simulation.schedule(at: time) { [unowned self] in
            let kind = plan.kinds[random.number(in: 0...plan.kinds.count - 1)]
            let victim = random.number(in: 0...world.plan.hostCount - 1)
            for _ in 0..<random.number(in: 1...plan.burst) { attack(kind, victim) }
            schedule()
        }
    }

    private func attack(_ kind: Attack, _ victim: Int) {
        switch kind {
        case .synFlood: floodSYN(victim)
        case .blindSegments: injectSegment()
        case .fragmentFlood: floodFragment(victim)
        case .neighbourStorm: stormNeighbours(victim)
        case .poisoning: poison(victim)
        case .forgedErrors: random.chance(0.6) ? forgeError() : forgeDatagramError(victim)
        case .optionGarbage: sendGarbageOptions(victim)
        case .mutations: mutate(victim)
        case .hostilePeers: connectHostile(victim)
        case .reflection: reflect(victim)
        }
    }

    // MARK: - What it knows

    func station(of host: Int) -> UInt64 { 0x0200_0000_0001 + UInt64(host) }

    /// The bytes of a host's address.
    func address(_ host: Int, isIPv4: Bool) -> [UInt8] {
        isIPv4
            ? AttackFrame.bytes(UInt64(ScenarioPlan.prefixes.ipv4) + UInt64(host) + 1, 4)
            : AttackFrame.bytes(ScenarioPlan.prefixes.ipv6, 8) + AttackFrame.bytes(UInt64(host) + 1, 8)
    }

    /// An address to hide behind: another host's, one of the link that nobody has, or one from far away.
    func spoofed(isIPv4: Bool, notAs victim: Int) -> [UInt8] {
        switch random.number(in: 0...2) {
        case 0: return address((victim + 1 + random.number(in: 0...world.plan.hostCount - 2)) % world.plan.hostCount, isIPv4: isIPv4)
        case 1: return address(random.number(in: 64...190), isIPv4: isIPv4)
        default: return isIPv4 ? AttackFrame.bytes(0xc633_6400 + random.below(256), 4) : AttackFrame.bytes(0x2001_0db8 << 32, 8) + garbage(8)
        }
    }

    func garbage(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) } }

    func number() -> UInt32 { UInt32(truncatingIfNeeded: random.next()) }

    /// Sends a packet to a host.
    func send(to host: Int, _ packet: [UInt8]) { send(AttackFrame.frame(to: station(of: host), from: Self.station, packet)) }

    /// One direction of a connection that is alive, as its receiver sees it.
    struct Direction {
        /// The receiver's host, and whether that is the client.
        let victim: Int
        let peer: Int
        let isIPv4: Bool
        let numbers: TCPSequences
        /// More than the receiver can yet take, and than it can yet send, FIN included.
        let incoming: UInt32
        let outgoing: UInt32
    }

    func liveDirection() -> Direction? {
        let alive = world.unfinished.sorted()
        guard !alive.isEmpty else { return nil }
        let connection = world.connections[alive[random.number(in: 0...alive.count - 1)]]
        let plan = connection.plan
        let attacksClient = random.chance(0.5)
        guard let end = attacksClient ? connection.client : connection.server, !end.isDone,
            let numbers = end.host.stack.ask({ $0.tcp.sequences(of: end.socket) })
        else { return nil }
        return Direction(
            victim: attacksClient ? plan.client : plan.server, peer: attacksClient ? plan.server : plan.client, isIPv4: plan.isIPv4,
            numbers: numbers, incoming: UInt32(end.receiveTotal + 2), outgoing: UInt32(end.sendTotal + 2))
    }
}
