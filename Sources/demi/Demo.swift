import ArgumentParser
import Demikernel
import Glibc
import Synchronization

struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo", abstract: "Measures the echo over Catnap beside the same echo on plain epoll in C.",
        discussion: """
            Server and client are processes of their own, on processors of their own where there are two. Both sides of a comparison take \
            turns in short rounds, so that a machine whose speed drifts treats them alike; the table shows the median round, and the least \
            p50 of all rounds. The baseline is Benchmarks/baseline/epoll-echo; build it with:

              make -C Benchmarks/baseline OUT=$PWD/.build/baseline

            JSON is one object for each round, with the key "waiting" (polling or sleeping) besides those of demi echo ping.

            Examples:
              demi demo
              demi demo --quick
              demi demo --json > figures.jsonl
            """)

    @Option(help: ArgumentHelp("The baseline's program. Without it: next to demi, or .build/baseline/epoll-echo.", valueName: "path"))
    var baseline: String?

    @Option(help: ArgumentHelp("Rounds of each measurement.", valueName: "number"))
    var rounds = 5

    @Flag(help: "One round with few messages: to see that it works.") var quick = false

    @Flag(help: "Print one JSON object for each round.") var json = false

    mutating func validate() throws {
        guard (1...1000).contains(rounds) else { throw ValidationError("--rounds: expected a number from 1 to 1000, found \(rounds)") }
    }

    func run() throws {
        let demi = try Self.ownPath()
        let baselinePath = try findBaseline(demi)
        let interrupted = InterruptionFlag()
        try Interruption.handle {
            interrupted.set()
            Child.stopAll()
        }
        let processors = Processors.allowed
        let runner = DemoRunner(demi: demi, baseline: baselinePath, processors: processors)
        if !json { introduce(baselinePath, processors) }
        var report = DemoReport()
        let rounds = quick ? 1 : rounds
        do {
            for (number, scenario) in DemoScenario.all.enumerated() {
                var results: [DemoResult] = []
                for round in 0..<rounds {
                    // A, B, then B, A: neither side is always the first.
                    let sides = baselinePath == nil ? [DemoSide.catnap] : round % 2 == 0 ? [.catnap, .epoll] : [.epoll, .catnap]
                    for side in sides {
                        show(number, round, rounds)
                        let result = try runner.measure(side, scenario, count: quick ? scenario.count / 50 : scenario.count)
                        if json { writeLine(result.json(scenario)) }
                        results.append(result)
                    }
                }
                report.add(scenario, results)
            }
        } catch {
            clear()
            guard interrupted.isSet else { throw error }
            if !json { writeLine(report.text) }
            throw Failure.quiet(ExitStatus.interrupted)
        }
        clear()
        if !json { writeLine(report.text) }
        if report.errors > 0 { throw Failure("\(report.errors.grouped) errors") }
    }

    // MARK: - What is compared

    private static func ownPath() throws -> String {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = unsafe bytes.withUnsafeMutableBytes { bytes in
            unsafe readlink("/proc/self/exe", bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        guard count > 0 else { throw Failure("cannot find this program's own file: \(errorText(errno))") }
        return String(decoding: bytes[..<count], as: UTF8.self)
    }

    private func findBaseline(_ demi: String) throws -> String? {
        func isProgram(_ path: String) -> Bool { unsafe access(path, X_OK) == 0 }
        if let baseline {
            guard isProgram(baseline) else { throw Failure("--baseline \(baseline): \(errorText(errno))") }
            return baseline
        }
        let folder = demi.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
        return ["\(folder)/epoll-echo", ".build/baseline/epoll-echo"].first(where: isProgram)
    }

    private func introduce(_ baseline: String?, _ processors: [Int]) {
        if Version.mode == "debug" { writeLine("This is a debug build: its times say nothing. Use swift run -c release demi demo.") }
        if processors.count < 2 { writeLine("There is one processor: server and client take turns on it, and times say little.") }
        if baseline == nil {
            writeLine("The comparison with epoll is left out, as the baseline is not built. To build it:")
            writeLine("  make -C Benchmarks/baseline OUT=$PWD/.build/baseline")
        }
    }

    // MARK: - Progress

    private func show(_ scenario: Int, _ round: Int, _ rounds: Int) {
        guard isatty(STDERR_FILENO) == 1 else { return }
        writeError("\rmeasuring: \(scenario + 1) of \(DemoScenario.all.count), round \(round + 1) of \(rounds)\u{1b}[K")
    }

    private func clear() {
        if isatty(STDERR_FILENO) == 1 { writeError("\r\u{1b}[K") }
    }
}

/// Whether a signal came.
private final class InterruptionFlag: Sendable {
    private let flag = Atomic<Bool>(false)
    var isSet: Bool { flag.load(ordering: .relaxed) }
    func set() { flag.store(true, ordering: .relaxed) }
}

enum DemoSide: String {
    case catnap
    case epoll
}

/// One line of the demonstration.
struct DemoScenario {
    let transport: Transport
    let size: Int
    let clients: Int
    let sleeps: Bool
    let count: Int

    var waiting: String { sleeps ? "sleeping" : "polling" }
    var name: String { "\(transport.rawValue) \(size) B, \(clients) client\(clients == 1 ? "" : "s"), \(waiting)" }

    static let all =
        [Transport.tcp, .udp].flatMap { transport in
            [64, 1024].map { DemoScenario(transport: transport, size: $0, clients: 1, sleeps: false, count: 20_000) }
        } + [
            DemoScenario(transport: .tcp, size: 64, clients: 32, sleeps: false, count: 100_000),
            DemoScenario(transport: .tcp, size: 64, clients: 1, sleeps: true, count: 10_000),
        ]
}

/// Runs one server and one client after the other.
struct DemoRunner {
    let demi: String
    let baseline: String?
    let processors: [Int]

    /// A round takes a second or two; one that takes this long has stalled.
    private static let roundSecondsMaximum: Int32 = 60

    /// One round.
    func measure(_ side: DemoSide, _ scenario: DemoScenario, count: Int) throws -> DemoResult {
        let server = try Child(program(side), arguments(side, "serve", scenario, address: "127.0.0.1:0", processor: 0))
        defer { server.stop() }
        guard let line = server.line(within: 10), line.hasPrefix("listening on ") else {
            throw Failure("the \(side.rawValue) server did not start")
        }
        let address = String(line.dropFirst("listening on ".count))
        let client = try Child(
            program(side),
            arguments(side, "ping", scenario, address: address, processor: 1) + [
                "--size", "\(scenario.size)", "--count", "\(count)", "--clients", "\(scenario.clients)",
                "--warmup", "\(max(count / 10, scenario.clients))", "--json",
            ])
        defer { client.stop() }
        let answer = client.line(within: Self.roundSecondsMaximum)
        client.stop()
        guard let answer, let result = DemoResult(side, answer) else { throw Failure("the \(side.rawValue) client did not finish") }
        return result
    }

    private func program(_ side: DemoSide) -> String { side == .catnap ? demi : baseline ?? demi }

    private func arguments(
        _ side: DemoSide, _ command: String, _ scenario: DemoScenario, address: String, processor: Int
    ) -> [String] {
        var arguments = side == .catnap ? ["echo", command, "--libos", "catnap", "--spin", scenario.sleeps ? "0" : "forever"]
            : [command, scenario.sleeps ? "--block" : "--poll"]
        arguments += ["--transport", scenario.transport.rawValue, "--address", address]
        if processors.count > 1 { arguments += ["--cpu", "\(processors[processor])"] }
        return arguments
    }
}
