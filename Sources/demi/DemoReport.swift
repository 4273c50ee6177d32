/// What one round found, read from the client's JSON line.
struct DemoResult {
    let side: DemoSide
    private let line: String
    let p50, p99, p999, perSecond, errors, clientMinimum, clientMaximum: UInt64

    /// The number of a key in a JSON line.
    static func number(_ key: String, in line: String) -> UInt64? {
        let mark = "\"\(key)\":"
        guard let start = line.firstRange(of: mark)?.upperBound else { return nil }
        return UInt64(line[start...].prefix { $0.isASCII && $0.isNumber })
    }

    /// nil where the line is not that of a measurement.
    init?(_ side: DemoSide, _ line: String) {
        func number(_ key: String) -> UInt64? { Self.number(key, in: line) }
        guard let p50 = number("p50"), let p99 = number("p99"), let p999 = number("p999"), let perSecond = number("perSecond"),
            let errors = number("errors"), let clientMinimum = number("clientMinimum"), let clientMaximum = number("clientMaximum")
        else { return nil }
        self.side = side
        self.line = line
        self.p50 = p50
        self.p99 = p99
        self.p999 = p999
        self.perSecond = perSecond
        self.errors = errors
        self.clientMinimum = clientMinimum
        self.clientMaximum = clientMaximum
    }

    /// From the line of `demi frames ping`, which knows of no transport and no clients.
    init?(frames line: String, _ scenario: DemoScenario) {
        func number(_ key: String) -> UInt64 { Self.number(key, in: line) ?? 0 }
        var object = JSONObject()
        object.add("libos", DemoSide.frames.rawValue)
        object.add("transport", scenario.transport.rawValue)
        object.add("size", scenario.size)
        object.add("clients", 1)
        for key in ["count", "p50", "p99", "p999", "perSecond"] { object.add(key, number(key)) }
        object.add("errors", number("lost") + number("wrong"))
        object.add("clientMinimum", number("count"))
        object.add("clientMaximum", number("count"))
        object.add("frameSize", scenario.frameByteCount)
        self.init(.frames, object.text)
    }

    /// The client's line, with how it waited.
    func json(_ waiting: String) -> String { line.dropLast() + ",\"waiting\":\"\(waiting)\"}" }
}

/// The tables that `demi demo` ends with.
struct DemoReport {
    private var latency = Table(
        ["round trip in µs", "", "least p50", "p50", "p99", "p99.9", "round trips/s", "to frames", "to epoll", "to epoll sleeping"], names: 2)
    private var throughput = Table(
        ["round trips per second", "", "most", "median", "slowest client", "fastest", "to epoll"], names: 2)
    private var more = Table(["over TCP", "", "best", "median", ""], names: 2)
    private var hasThroughput = false
    private var hasMore = false
    private(set) var errors: UInt64 = 0

    mutating func add(_ scenario: DemoScenario, _ results: [DemoResult]) {
        errors += results.reduce(0) { $0 + $1.errors }
        var name = scenario.name
        for side in scenario.sides {
            let own = results.filter { $0.side == side }
            guard !own.isEmpty else { continue }
            if scenario.clients == 1 {
                let least = own.map(\.p50).min() ?? 0
                let times = [least, median(own.map(\.p50)), median(own.map(\.p99)), median(own.map(\.p999))]
                let ratios = [DemoSide.frames, .epoll, .sleepingEpoll].map { other in
                    side == other || side.isBaseline ? "" : ratioText(least, results.filter { $0.side == other }.map(\.p50).min())
                }
                latency.add([name, side.rawValue] + times.map(microseconds) + [median(own.map(\.perSecond)).grouped] + ratios)
            } else {
                hasThroughput = true
                let most = own.map(\.perSecond).max() ?? 0
                let ratio = side.isBaseline ? "" : ratioText(most, results.filter { $0.side == .epoll }.map(\.perSecond).max())
                throughput.add([
                    name, side.rawValue, most.grouped, median(own.map(\.perSecond)).grouped,
                    (own.map(\.clientMinimum).min() ?? 0).grouped, (own.map(\.clientMaximum).max() ?? 0).grouped, ratio,
                ])
            }
            name = ""
        }
    }

    /// Lines of clients' JSON.
    mutating func add(_ measurement: DemoMeasurement, _ side: DemoSide, _ lines: [String]) {
        hasMore = true
        func numbers(_ key: String) -> [UInt64] { lines.map { DemoResult.number(key, in: $0) ?? 0 } }
        errors += numbers("errors").reduce(0, +)
        let name = side == .catnip ? measurement.title : ""
        switch measurement {
        case .stream:
            let rates = numbers("bitsPerSecond")
            func text(_ rate: UInt64) -> String { (Double(rate) / 1e9).fixed(2) }
            more.add([name, side.rawValue, text(rates.max() ?? 0), text(median(rates)), "Gbit/s"])
        case .churn:
            let rates = numbers("perSecond")
            more.add([name, side.rawValue, (rates.max() ?? 0).grouped, median(rates).grouped, "a second"])
        case .idle:
            // Of the best rounds, as the machine's speed may change between the two halves of one.
            func added(_ beside: UInt64?, _ alone: UInt64?) -> String { (Double(beside ?? 0) / Double(max(alone ?? 0, 1)) * 100 - 100).fixed(1) }
            let (beside, alone) = (numbers("p50"), numbers("p50Alone"))
            more.add([name, side.rawValue, added(beside.min(), alone.min()), added(median(beside), median(alone)), "% on p50"])
        }
    }

    var text: String {
        [latency.text, hasThroughput ? throughput.text : "", hasMore ? more.text : ""].filter { !$0.isEmpty }.joined(separator: "\n\n")
    }

    private func median(_ values: [UInt64]) -> UInt64 {
        let sorted = values.sorted()
        return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
    }

    private func ratioText(_ ours: UInt64, _ theirs: UInt64?) -> String {
        guard let theirs, theirs > 0 else { return "" }
        return (Double(ours) / Double(theirs)).fixed(2)
    }
}

extension DemoMeasurement {
    fileprivate var title: String {
        switch self {
        case .stream: "stream one way, pushes of 64 KiB"
        case .churn: "connections opened and closed, 32 at a time"
        case .idle: "added by idle connections (10,000; quick: 500)"
        }
    }
}
