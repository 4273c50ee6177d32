import ArgumentParser
import Demikernel
import Glibc
import Synchronization

struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Measures the echo over our own network stack, beside the kernel's sockets and plain epoll in C.",
        discussion: """
            catnip is our own TCP and UDP over memif, which is memory that two processes share; memif frames is the same device without a \
            stack, the least that can be had; catnap is our interface over the kernel's sockets; epoll is plain C over them, which polls or \
            sleeps. Server and client are processes of their own, on processors of their own where there are two. All sides of a comparison \
            take turns in short rounds, so that a machine whose speed drifts treats them alike; the tables show the median round and the \
            best of all rounds, and ratios of the best. The baseline is Benchmarks/baseline/epoll-echo; build it with:

              make -C Benchmarks/baseline OUT=$PWD/.build/baseline

            Then follow a stream one way, connections opened and closed, and round trips beside 10,000 idle connections.

            JSON is one object for each round, with the key "waiting" (polling or sleeping) besides those of demi echo ping, demi stream \
            send and demi churn.

            Examples:
              demi demo
              demi demo --quick
              demi demo --libos catnip
              demi demo --json > figures.jsonl
            """)

    @Option(help: ArgumentHelp("The baseline's program. Without it: next to demi, or .build/baseline/epoll-echo.", valueName: "path"))
    var baseline: String?

    @Option(help: ArgumentHelp("Measure this alone, catnip or catnap, and no baselines.", valueName: "name"))
    var libos: String?

    @Option(help: ArgumentHelp("Rounds of each measurement.", valueName: "number"))
    var rounds = 3

    @Flag(help: "One round with few messages: to see that it works.") var quick = false

    @Flag(help: "Print one JSON object for each round.") var json = false

    mutating func validate() throws {
        guard (1...1000).contains(rounds) else { throw ValidationError("--rounds: expected a number from 1 to 1000, found \(rounds)") }
        if let libos, !["catnip", "catnap"].contains(libos) {
            throw ValidationError("--libos: expected catnip or catnap, found \(libos.quotedForMessage)")
        }
    }

    func run() throws {
        let demi = try Child.ownPath()
        let baselinePath = try findBaseline(demi)
        let interrupted = InterruptionFlag()
        try Interruption.handle {
            interrupted.set()
            Child.stopAll()
        }
        let processors = Processors.allowed
        let folder = try TemporaryFolder()
        defer { folder.remove() }
        let runner = DemoRunner(demi: demi, baseline: baselinePath, processors: processors, socket: folder.socket)
        if !json { introduce(baselinePath, processors) }
        var report = DemoReport()
        do {
            try measureEchoes(runner, &report, interrupted)
            try measureMore(runner, &report, interrupted)
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

    private func isWanted(_ side: DemoSide, _ runner: DemoRunner) -> Bool {
        if let libos { return side.rawValue == libos }
        return !side.isBaseline || runner.baseline != nil
    }

    private func measureEchoes(_ runner: DemoRunner, _ report: inout DemoReport, _ interrupted: InterruptionFlag) throws {
        let rounds = quick ? 1 : rounds
        for (number, scenario) in DemoScenario.all.enumerated() {
            let sides = scenario.sides.filter { isWanted($0, runner) }
            var results: [DemoResult] = []
            for round in 0..<rounds {
                // A, B, C, then C, B, A: nobody is always the first.
                for side in round % 2 == 0 ? sides : sides.reversed() {
                    guard !interrupted.isSet else { throw Failure.quiet(ExitStatus.interrupted) }
                    show("\(scenario.name), \(side.rawValue)", number, round, rounds)
                    let result = try runner.measure(side, scenario, count: quick ? scenario.count / 50 : scenario.count)
                    if json { writeLine(result.json(scenario.waiting(side))) }
                    results.append(result)
                }
            }
            report.add(scenario, results)
        }
    }

    private func measureMore(_ runner: DemoRunner, _ report: inout DemoReport, _ interrupted: InterruptionFlag) throws {
        let rounds = quick ? 1 : rounds
        for (number, measurement) in DemoMeasurement.allCases.enumerated() {
            for side in [DemoSide.catnip, .catnap] where measurement.sides.contains(side) && isWanted(side, runner) {
                var lines: [String] = []
                for round in 0..<rounds {
                    guard !interrupted.isSet else { throw Failure.quiet(ExitStatus.interrupted) }
                    show("\(measurement.rawValue), \(side.rawValue)", DemoScenario.all.count + number, round, rounds)
                    let line = try runner.measure(measurement, side, isQuick: quick)
                    if json { writeLine(line.dropLast() + ",\"waiting\":\"polling\"}") }
                    lines.append(line)
                }
                report.add(measurement, side, lines)
            }
        }
    }

    // MARK: - What is compared

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

    private func show(_ what: String, _ number: Int, _ round: Int, _ rounds: Int) {
        guard isatty(STDERR_FILENO) == 1 else { return }
        let count = DemoScenario.all.count + DemoMeasurement.allCases.count
        writeError("\rmeasuring \(number + 1) of \(count), round \(round + 1) of \(rounds): \(what)\u{1b}[K")
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

