import ArgumentParser
import Demikernel
import DemikernelSimulator
import Glibc
import Synchronization

/// `demi simulate`: the standing scenario over a network in virtual time, seed after seed.
struct SimulateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulate", abstract: "Try the network stack in a simulated network, seed after seed.",
        discussion: """
            Hosts with the network stack talk TCP and UDP over links that lose, delay, repeat, reorder and damage frames, that break and \
            heal, all in virtual time and by chance that follows from the seed. Every byte is compared where it arrives, every connection has \
            to end as was planned, and every buffer has to come back. A seed that fails fails again, at the same moment, when it is run again \
            with the same options.

            Examples:
              demi simulate                             one seed, a virtual minute
              demi simulate --seed 100 --seeds 2000 --minutes 0.05 --json
              demi simulate --seed 42 --loss 0.1 --verbose
              demi simulate --seeds 500 --minutes 0.04 --attack
              demi simulate --seed 42 --capture seed-42.pcapng

            Exit status: 0 every seed did as it should, 1 one did not (which one, and how to see it again, is said), 2 wrong usage, \
            130 interrupted.
            """)

    @Option(help: ArgumentHelp("The first seed.", valueName: "number"))
    var seed: UInt64 = 1

    @Option(help: ArgumentHelp("How many seeds are run, one after the other.", valueName: "number"))
    var seeds = 1

    @Option(help: ArgumentHelp("Virtual minutes for each seed, fractions allowed; what is unfinished then may finish.", valueName: "number"))
    var minutes = 1.0

    @Option(help: ArgumentHelp("The largest chance of a frame's loss, 0 to 0.5; each seed draws its own up to that.", valueName: "chance"))
    var loss = 0.05

    @Option(help: ArgumentHelp("Hosts, 2 to 64. Without it each seed chooses.", valueName: "number"))
    var hosts: Int?

    @Flag(help: "Put a station on the network that attacks the hosts and their connections, in ways that each seed chooses.")
    var attack = false

    @Option(help: ArgumentHelp("Write every delivered frame to this file, as pcapng with virtual times. For one seed.", valueName: "file"))
    var capture: String?

    @Flag(help: "Print one JSON object instead of a summary.")
    var json = false

    @Flag(help: "Say what happens to each connection.")
    var verbose = false

    func validate() throws {
        guard (1...1_000_000_000).contains(seeds) else { throw ValidationError("--seeds: expected a number from 1 to 1000000000, found \(seeds)") }
        guard seed.addingReportingOverflow(UInt64(seeds)).overflow == false else { throw ValidationError("--seed and --seeds: beyond the last seed") }
        guard minutes > 0, minutes <= 100_000 else { throw ValidationError("--minutes: expected a number above 0, at most 100000") }
        guard (0...0.5).contains(loss) else { throw ValidationError("--loss: expected a chance from 0 to 0.5, found \(loss)") }
        if let hosts, !(2...64).contains(hosts) { throw ValidationError("--hosts: expected a number from 2 to 64, found \(hosts)") }
        if capture != nil, seeds != 1 { throw ValidationError("--capture is for one seed") }
    }

    func run() throws {
        let wish = Wish()
        try Interruption.handle { wish.interrupt() }
        var outcome = SimulateOutcome()
        let progress = SimulateProgress(seeds: seeds)
        for number in 0..<seeds where !wish.isInterrupted.load(ordering: .relaxed) {
            var settings = ScenarioSettings()
            settings.seed = seed + UInt64(number)
            settings.duration = .nanoseconds(Int64((minutes * 60e9).rounded()))
            settings.loss = loss
            settings.hosts = hosts
            settings.isAttacked = attack
            wish.seed.store(settings.seed, ordering: .relaxed)
            let report = try runScenario(settings, wish)
            outcome.add(report)
            if report.failure != nil || report.wasInterrupted { break }
            progress.show(outcome)
        }
        progress.clear()
        writeLine(json ? outcome.json : outcome.text)
        if let failure = outcome.failure { throw Failure("\(failure)") }
        if outcome.total.wasInterrupted || outcome.seeds < seeds { throw Failure.quiet(ExitStatus.interrupted) }
    }

    private func runScenario(_ settings: ScenarioSettings, _ wish: Wish) throws -> ScenarioReport {
        let log: ((String) -> Void)? = verbose ? { writeError($0 + "\n") } : nil
        let file = try capture.map { try SimulationCapture(path: $0) }
        defer { file?.close() }
        return Scenario.run(settings, capture: file, log: log) { wish.isInterrupted.load(ordering: .relaxed) }
    }

    /// Whether SIGINT or SIGTERM has come, and which seed runs.
    private final class Wish: Sendable {
        let isInterrupted = Atomic(false)
        let seed = Atomic(UInt64(0))

        /// Seconds that an event of the simulation may take until it is taken for one that never ends.
        private static var patience: UInt32 { 2 }

        /// On the thread of the signals. The run asks before each event; one that hangs within an event is ended from here.
        func interrupt() {
            isInterrupted.store(true, ordering: .relaxed)
            sleep(Self.patience)
            // Whoever reads standard error may be what it hangs on.
            var descriptor = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
            if unsafe poll(&descriptor, 1, 0) == 1 { writeError("demi: seed \(seed.load(ordering: .relaxed)) hangs within an event\n") }
            _exit(ExitStatus.interrupted)
        }
    }
}

/// What all seeds together did.
struct SimulateOutcome {
    private(set) var total = ScenarioReport()
    private(set) var seeds = 0
    private(set) var failure: ScenarioFailure?

    mutating func add(_ report: ScenarioReport) {
        total.add(report)
        total.wasInterrupted = report.wasInterrupted
        failure = failure ?? report.failure
        if !report.wasInterrupted { seeds += 1 }
    }

    private var hash: String {
        let digits = String(total.hash, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    private var drops: [(name: String, count: UInt64)] {
        [
            ("lost", total.links.lost), ("lostInBursts", total.links.lostInBursts), ("queue", total.links.droppedByQueue),
            ("size", total.links.droppedBySize), ("partition", total.links.droppedByPartition),
        ]
    }

    var json: String {
        var object = JSONObject()
        object.add("seeds", seeds)
        object.add("virtualSeconds", total.virtualNanoseconds / 1_000_000_000)
        object.add("frames", total.links.sentFrames)
        object.add("frameBytes", total.links.sentBytes)
        object.add("streamBytes", total.streamBytes)
        object.add("connections", total.connections)
        object.add("completed", total.completed)
        object.add("resets", total.resets)
        object.add("refused", total.refused)
        object.add("timeouts", total.timeouts)
        object.add("datagramsSent", total.datagramsSent)
        object.add("datagramsReceived", total.datagramsReceived)
        object.add("retransmissions", total.retransmissions)
        object.add("partitions", total.partitions)
        for drop in drops { object.add("drops." + drop.name, drop.count) }
        object.add("corrupted", total.links.corrupted)
        object.add("duplicated", total.links.duplicated)
        object.add("reordered", total.links.reordered)
        object.add("peakHeapBytes", total.peakHeapBytes)
        object.add("attackFrames", total.attackFrames)
        object.add("defences", total.defences)
        object.add("hash", hash)
        object.add("interrupted", total.wasInterrupted)
        object.add("failures", failure.map { failure in
            var object = JSONObject()
            object.add("seed", failure.seed)
            object.add("nanoseconds", failure.time)
            object.add("what", failure.what)
            object.add("replay", failure.replay)
            return [object]
        } ?? [])
        return object.text
    }

    var text: String {
        let links = total.links
        var lines = [
            "\(seeds.grouped) seeds, \((total.virtualNanoseconds / 1_000_000_000).grouped) virtual seconds, hash \(hash)",
            "connections  \(total.connections.grouped): \(total.completed.grouped) complete, \(total.resets.grouped) reset,"
                + " \(total.refused.grouped) refused, \(total.timeouts.grouped) ends gave up",
            "streams      \(total.streamBytes.grouped) bytes compared, \(total.retransmissions.grouped) segments sent again",
            "datagrams    \(total.datagramsSent.grouped) sent, \(total.datagramsReceived.grouped) arrived",
            "frames       \(links.sentFrames.grouped) sent, \(links.dropped.grouped) lost ("
                + drops.map { "\($0.name) \($0.count.grouped)" }.joined(separator: ", ") + ")",
            "             \(links.corrupted.grouped) damaged, \(links.duplicated.grouped) repeated, \(links.reordered.grouped) reordered,"
                + " \(total.partitions.grouped) partitions",
        ]
        if total.attackFrames > 0 {
            lines.append("attackers    \(total.attackFrames.grouped) frames, \(total.defences.grouped) times refused, limited or taken for what they were")
        }
        if failure == nil, !total.wasInterrupted { lines.append("no divergence") }
        return lines.joined(separator: "\n")
    }
}

/// How far it is, on a terminal, in one line that is written over.
struct SimulateProgress {
    private let seeds: Int
    private let isShown: Bool

    init(seeds: Int) {
        self.seeds = seeds
        isShown = seeds > 1 && isatty(STDERR_FILENO) == 1
    }

    func show(_ outcome: SimulateOutcome) {
        guard isShown else { return }
        writeError("\r\(outcome.seeds.grouped) of \(seeds.grouped) seeds, \(outcome.total.connections.grouped) connections\u{1b}[K")
    }

    func clear() { if isShown { writeError("\r\u{1b}[K") } }
}
