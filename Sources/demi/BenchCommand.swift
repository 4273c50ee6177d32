import ArgumentParser
import CDemikernelShims
import Demikernel
import Glibc

/// `demi bench`: what the parts of the hot path cost, each beside the figure that it has to reach.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure the parts of the hot path.",
        discussion: """
            Each benchmark runs many short rounds on one thread and prints the minimum and the median of a round's cost per operation. On a
            shared machine the minimum is the one to compare. With --json, one object a line: name, unit, minimum, median, repetitions.

            EXAMPLES
              demi bench
              demi bench --cpu 1 --only heap --json
              demi bench --list
            """)

    @Flag(help: "Print one JSON object a line instead of a table.")
    var json = false

    @Option(help: "Run only the benchmarks whose name contains this.")
    var only: String?

    @Option(help: "Rounds of each benchmark.")
    var repetitions = 51

    @Option(help: "Pin the thread to this CPU.")
    var cpu: Int?

    @Flag(help: "Print the names and leave.")
    var list = false

    func validate() throws {
        guard repetitions >= 1 else { throw ValidationError("--repetitions is below 1") }
        if let cpu, !(0..<1024).contains(cpu) { throw ValidationError("--cpu is out of range") }
    }

    func run() throws {
        let chosen = Benchmark.all.filter { only == nil || $0.name.contains(only!) }
        guard !chosen.isEmpty else { throw ValidationError("no benchmark's name contains \"\(only!)\"; see demi bench --list") }
        if list {
            for benchmark in chosen { print(benchmark.name) }
            return
        }
        if let cpu { try pinThread(to: cpu) }
        if !json {
            print(column("benchmark", 22) + column("unit", 8) + column("minimum", -10) + column("median", -10) + column("reach", -16))
        }
        // One libOS after the other: a thread has one at a time.
        for name in Registry.entries.map(\.name) {
            let benchmarks = chosen.filter { $0.libOS == name }
            guard !benchmarks.isEmpty else { continue }
            var configuration = Registry.trial(of: name)
            configuration.wait.spin = .forever
            // As on a device that leaves everything to software.
            configuration.network.checksumOffload = false
            let libOS = try LibOS(configuration)
            for benchmark in benchmarks { report(benchmark, try benchmark.measure(libOS, repetitions: repetitions).sorted()) }
        }
    }

    private func report(_ benchmark: Benchmark, _ samples: [Double]) {
        let minimum = samples[0]
        let median = samples[samples.count / 2]
        if json {
            print(
                "{\"name\":\"\(benchmark.name)\",\"unit\":\"\(benchmark.unit)\",\"minimum\":\(decimal(minimum)),"
                    + "\"median\":\(decimal(median)),\"repetitions\":\(samples.count)}")
        } else {
            print(
                column(benchmark.name, 22) + column(benchmark.unit, 8) + column(decimal(minimum), -10) + column(decimal(median), -10)
                    + column(benchmark.reach.map { "<= \(decimal($0))" } ?? benchmark.note ?? "", -16))
        }
        fflush(nil)
    }
}

/// Pins the calling thread to a CPU: `sched_setaffinity(2)`.
func pinThread(to cpu: Int) throws {
    guard dk_pin_thread(Int32(cpu)) == 0 else {
        throw ValidationError("cannot pin to CPU \(cpu): \(unsafe String(cString: strerror(errno)))")
    }
}

/// Two decimals, rounded; without Foundation's formatting.
func decimal(_ value: Double) -> String {
    let hundredths = Int((value * 100).rounded())
    let rest = abs(hundredths % 100)
    return "\(hundredths / 100).\(rest < 10 ? "0" : "")\(rest)"
}

/// Text in a column of `width`, to the right where it is negative.
func column(_ text: String, _ width: Int) -> String {
    let padding = String(repeating: " ", count: max(1, abs(width) - text.count))
    return width < 0 ? padding + text : text + padding
}
