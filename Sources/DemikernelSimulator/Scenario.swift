import Demikernel

/// What a run of the standing scenario is asked to be.
public struct ScenarioSettings: Sendable {
    /// What everything follows from.
    public var seed: UInt64 = 1
    /// How long the network is impaired; what is unfinished then gets as long as it needs, within limits, over a network that is well.
    public var duration = Duration.seconds(60)
    /// The largest chance of a frame's loss; a seed draws its own up to that. 0 to 0.5.
    public var loss = 0.05
    /// Hosts, 2 to 64; nil lets the seed choose.
    public var hosts: Int?
    /// Whether one more station is on the network that attacks the hosts and their connections, in ways that the seed chooses; in some seeds the
    /// hosts' heaps are small as well.
    public var isAttacked = false
    /// For tests: these attacks and no others, with an ample heap.
    package var attacks: Set<Attack> = []

    public init() {}
}

/// The standing scenario: hosts that talk TCP and UDP over a network that loses, delays, repeats, reorders and damages frames, splits and heals.
///
/// Every stream carries bytes that follow from its connection and offset and are compared as they arrive; every connection has to end as was
/// planned: all bytes and the end of the stream on both sides, or a reset that somebody made. When the time is up the network is well again and
/// what is left has to finish; nothing may be stuck, lost, or left in the heap. What happens follows from the settings alone.
///
/// With an attacker (``ScenarioSettings/isAttacked``) the same holds: no byte that it made is ever read on another's connection, no connection is
/// reset by it, the memory that it makes the hosts use is bounded, and all of it comes back. Only where it poisons what the hosts know of their
/// neighbours may connections time out; only where the heap is exhausted may they fail in other ways.
public enum Scenario {
    /// Runs it once.
    ///
    /// - Parameters:
    ///   - capture: where every frame that a link delivers is written to.
    ///   - log: called with a line for what happens to each connection.
    ///   - isInterrupted: asked before each event.
    public static func run(
        _ settings: ScenarioSettings,
        capture: SimulationCapture? = nil,
        log: ((String) -> Void)? = nil,
        isInterrupted: () -> Bool = { false }
    ) -> ScenarioReport {
        do {
            let world = try ScenarioWorld(settings, log: log)
            if let capture { for link in world.simulation.links { link.capture(to: capture) } }
            return world.run(isInterrupted)
        } catch {
            var report = ScenarioReport()
            report.seed = settings.seed
            report.failure = ScenarioFailure(
                seed: settings.seed, time: 0, what: "the hosts do not start: \(error)", replay: ScenarioWorld.replay(settings))
            return report
        }
    }
}

/// Everything of one run.
final class ScenarioWorld {
    let simulation: Simulation
    let settings: ScenarioSettings
    let plan: ScenarioPlan
    private(set) var hosts: [ScenarioHost] = []
    private(set) var connections: [ScenarioConnection] = []
    /// Connections whose ends have not both finished.
    private(set) var unfinished: Set<Int> = []
    var report = ScenarioReport()
    /// The network is impaired and new connections are made.
    private(set) var isImpaired = true
    private var random: SimulationRandom
    /// One for each host.
    private let heaps: [SimulatedHeap]
    private let log: ((String) -> Void)?
    private(set) var attacker: ScenarioAttacker?
    /// Exchanges of datagrams that an attacker has to leave alone; none where there is no attacker.
    private(set) var pairs: [ScenarioPair] = []

    /// How much longer, in virtual time, everything may take when all is well.
    private static var patience: UInt64 { 600_000_000_000 }

    init(_ settings: ScenarioSettings, log: ((String) -> Void)?) throws {
        self.settings = settings
        self.log = log
        simulation = Simulation(seed: settings.seed)
        random = SimulationRandom(seed: settings.seed, part: 1 << 32)
        plan = ScenarioPlan(settings, &random)
        let heapLimit = plan.attack?.heapLimit ?? 256 << 20
        heaps = try plan.networks.map { _ in try SimulatedHeap(limit: heapLimit) }
        report.seed = settings.seed
        report.hosts = plan.hostCount
        for number in 0..<plan.hostCount {
            let entropy = NetworkEntropy(seed: random.next())
            let heap = heaps[number]
            heap.take()
            let stack = try StackHost(
                simulation, name: "host\(number)", plan.networks[number], device: plan.devices[number], heap: heap.reference, entropy: entropy)
            stack.heap = heap
            stack.transmitMaximum = plan.transmitMaxima[number]
            stack.reactionNanoseconds = plan.reactions[number]
            hosts.append(try ScenarioHost(self, number, stack, heap, SimulationRandom(seed: settings.seed, part: 2 << 32 + UInt64(number))))
        }
        if plan.hasSwitch {
            let middle = SimulatedSwitch()
            for host in hosts { simulation.connect(host.stack, middle, plan.impaired[host.number], name: host.stack.name) }
            if let attack = plan.attack {
                let attacker = ScenarioAttacker(self, attack, seed: settings.seed)
                simulation.connect(attacker, middle, LinkConditions(), name: "attacker")
                self.attacker = attacker
                for number in 0..<plan.hostCount { for isIPv4 in [true, false] { pairs.append(try ScenarioPair(self, number, isIPv4: isIPv4)) } }
            }
        } else {
            simulation.connect(hosts[0].stack, hosts[1].stack, plan.impaired[0], name: "wire")
        }
    }

    deinit {
        // The hosts' stacks give back to their heaps what they have, while these are there.
        pairs = []
        hosts = []
        simulation.end()
        for heap in heaps { heap.resign() }
    }

    static func replay(_ settings: ScenarioSettings) -> String {
        let seconds = Double(settings.duration.nanosecondsClamped) / 1e9
        return "demi simulate --seed \(settings.seed) --minutes \(seconds / 60) --loss \(settings.loss)"
            + (settings.hosts.map { " --hosts \($0)" } ?? "") + (settings.isAttacked ? " --attack" : "")
    }

    /// Notes the first thing that broke.
    func fail(_ what: String) {
        guard report.failure == nil else { return }
        report.failure = ScenarioFailure(seed: settings.seed, time: simulation.now, what: what, replay: Self.replay(settings))
        note("FAILED: " + what)
        for host in hosts {
            let counters = host.stack.ask { NetworkStatistics.list($0.ip.counters, "ip") + NetworkStatistics.list($0.tcp.counters, "tcp") }
            note("\(host.stack.name): " + counters.filter { $0.value != 0 }.map { "\($0.layer) \($0.name) \($0.value)" }.joined(separator: ", "))
        }
    }

    /// A line for whoever watches.
    func note(_ text: @autoclosure () -> String) {
        if let log { log("\(ScenarioFailure.seconds(simulation.now)) \(text())") }
    }

    // MARK: - The run

    func run(_ isInterrupted: () -> Bool) -> ScenarioReport {
        let end = settings.duration.nanosecondsClamped
        scheduleFaults(until: end)
        for host in hosts { host.start(until: end) }
        for pair in pairs { pair.start(until: end) }
        if let attacker {
            note("attacks: \(attacker.plan.kinds.map { "\($0)" }.joined(separator: ", "))" + (starves ? ", and small heaps" : ""))
            attacker.start(until: end)
        }
        let goesOn = {
            if isInterrupted() { self.report.wasInterrupted = true }
            return self.report.failure == nil && !self.report.wasInterrupted
        }
        if !simulation.run(until: end, orWhile: goesOn) { heal() }
        if report.failure == nil, !report.wasInterrupted { finish(goesOn) }
        summarize()
        return report
    }

    /// Partitions and changes of the links' MTU, at times that the seed says.
    private func scheduleFaults(until end: UInt64) {
        var time: UInt64 = 0
        while true {
            time += 200_000_000 + random.below(4_000_000_000)
            guard time < end else { return }
            // The attacker's own link, the last, is left alone.
            let link = simulation.links[random.number(in: 0...plan.calm.count - 1)]
            let length = random.below(1 << UInt64(random.number(in: 24...32)))
            if random.chance(0.6) {
                simulation.schedule(at: time) { [unowned self] in
                    link.isUp = false
                    report.partitions += 1
                    note("\(link.name) is down for \(length / 1_000_000) ms")
                }
                simulation.schedule(at: time + length) { link.isUp = true }
            } else {
                let size = random.number(in: 1280...1500)
                let answers = random.chance(0.7)
                simulation.schedule(at: time) { [unowned self] in
                    link.conditions.maximumTransmissionUnit = size
                    link.conditions.answersTooBig = answers
                    note("\(link.name) carries \(size) bytes" + (answers ? "" : " and does not say so"))
                }
                simulation.schedule(at: time + length) { link.conditions.maximumTransmissionUnit = 65_535 }
            }
        }
    }

    /// The network is well from here on, and nothing new begins.
    private func heal() {
        isImpaired = false
        for (link, conditions) in zip(simulation.links, plan.calm) { link.conditions = conditions }
        note("all is well; \(unfinished.count) connections are unfinished")
        for host in hosts { host.finish() }
    }

    private func finish(_ goesOn: () -> Bool) {
        let limit = simulation.now + Self.patience
        _ = simulation.run(until: limit) { goesOn() && self.isBusy }
        guard report.failure == nil, !report.wasInterrupted else { return }
        if isBusy { return fail("stuck: \(stuck)") }
        // A network that is well: everything that is new succeeds.
        for host in hosts { host.startLastConnection() }
        for pair in pairs { pair.startLastExchange() }
        _ = simulation.run(until: limit) { goesOn() && self.isBusy }
        guard report.failure == nil, !report.wasInterrupted else { return }
        if isBusy { return fail("stuck although nothing is lost: \(stuck)") }
        for pair in pairs { pair.close() }
        for host in hosts { host.close() }
        guard report.failure == nil else { return }
        // TIME_WAIT, and what the other timers still have to do: reassembly gives up after a minute.
        simulation.run(until: simulation.now + 90_000_000_000)
        for (number, heap) in heaps.enumerated() {
            heap.take()
            let statistics = heap.statistics
            if statistics.liveObjects != 0 {
                return fail("host\(number): \(statistics.liveObjects) buffers (\(statistics.liveBytes) bytes) were not returned")
            }
            if statistics.faults != 0 { return fail("host\(number): the heap found \(statistics.faults) faults: \(heap.faults)") }
        }
        if let attacker, report.failure == nil { checkDefence(attacker) }
    }

    /// Whether the hosts' heaps are so small that they may be exhausted.
    var starves: Bool { plan.attack?.heapLimit != nil }

    /// What an attacker may cost: memory within bounds; and what it did is to be seen in the counters.
    private func checkDefence(_ attacker: ScenarioAttacker) {
        for host in hosts {
            let (peak, bound) = (heaps[host.number].statistics.peakUsedBytes, plan.memoryBound(host.number))
            if peak > bound { return fail("host\(host.number) used \(peak) bytes of its heap, bounded by \(bound)") }
            report.defenceCounters.merge(host.stack.ask { ScenarioDefences.count($0) }) { $0 + $1 }
        }
        report.defences = report.defenceCounters.values.reduce(0, +)
        if attacker.sentFrames > 1000, report.defences == 0 { fail("\(attacker.sentFrames) hostile frames, and no counter has seen one") }
    }

    private var isBusy: Bool { !unfinished.isEmpty || hosts.contains { !$0.ends.isEmpty } || pairs.contains(where: \.isAwaited) }

    /// What has not ended, for the failure's line.
    private var stuck: String {
        if let number = unfinished.min() { return connections[number].state }
        if let pair = pairs.first(where: \.isAwaited) { return "the exchange of datagrams \(pair)" }
        guard let host = hosts.first(where: { !$0.ends.isEmpty }), let tag = host.ends.keys.min() else { return "nothing" }
        return "an end of host\(host.number) that nobody is connected to: \(host.describe(host.ends[tag]!))"
    }

    private func summarize() {
        report.hash = simulation.hash
        report.virtualNanoseconds = simulation.now
        report.steps = simulation.stepCount
        for link in simulation.links { report.links += link.statistics }
        for host in hosts { report.retransmissions += host.stack.ask { $0.tcp.counters.retransmittedSegments } }
        report.peakHeapBytes = heaps.map(\.statistics.peakUsedBytes).max() ?? 0
    }

    // MARK: - Connections

    func addConnection(_ plan: ScenarioConnectionPlan) -> ScenarioConnection {
        let connection = ScenarioConnection(connections.count, plan)
        connections.append(connection)
        unfinished.insert(connection.number)
        report.connections += 1
        return connection
    }

    func finished(_ connection: ScenarioConnection) { unfinished.remove(connection.number) }

    /// The exchange that has a socket of this tag on a host.
    func pair(of host: Int, tag: UInt32) -> ScenarioPair? {
        let index = ScenarioPair.index(host: host, tag: tag, hostCount: plan.hostCount)
        return pairs.indices.contains(index) ? pairs[index] : nil
    }
}
