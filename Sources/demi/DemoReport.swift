/// What one round found, read from the client's JSON line.
struct DemoResult {
    let side: DemoSide
    private let line: String
    let p50, p99, p999, perSecond, errors, clientMinimum, clientMaximum: UInt64

    /// nil where the line is not that of a measurement.
    init?(_ side: DemoSide, _ line: String) {
        func number(_ key: String) -> UInt64? {
            let mark = "\"\(key)\":"
            guard let start = line.firstRange(of: mark)?.upperBound else { return nil }
            return UInt64(line[start...].prefix { $0.isASCII && $0.isNumber })
        }
        guard line.hasPrefix("{"), line.hasSuffix("}"), let p50 = number("p50"), let p99 = number("p99"), let p999 = number("p999"),
            let perSecond = number("perSecond"), let errors = number("errors"), let clientMinimum = number("clientMinimum"),
            let clientMaximum = number("clientMaximum")
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

    /// The client's line, with how it waited.
    func json(_ scenario: DemoScenario) -> String { line.dropLast() + ",\"waiting\":\"\(scenario.waiting)\"}" }
}

/// The tables that `demi demo` ends with.
struct DemoReport {
    private var latency = Table(["round trip in µs", "", "least p50", "p50", "p99", "p99.9", "round trips/s", "p50 to epoll's"], names: 2)
    private var throughput = Table(
        ["round trips per second", "", "most", "median", "slowest client", "fastest", "rate to epoll's"], names: 2)
    private var hasThroughput = false
    private(set) var errors: UInt64 = 0

    mutating func add(_ scenario: DemoScenario, _ results: [DemoResult]) {
        errors += results.reduce(0) { $0 + $1.errors }
        for side in [DemoSide.catnap, .epoll] {
            let own = results.filter { $0.side == side }
            guard !own.isEmpty else { continue }
            let epoll = results.filter { $0.side == .epoll }
            let hasRatio = side == .catnap && !epoll.isEmpty
            let name = side == .catnap ? scenario.name : ""
            if scenario.clients == 1 {
                let ratio = hasRatio ? ratioText(median(own.map(\.p50)), median(epoll.map(\.p50))) : ""
                let times = [own.map(\.p50).min() ?? 0, median(own.map(\.p50)), median(own.map(\.p99)), median(own.map(\.p999))]
                latency.add([name, side.rawValue] + times.map(microseconds) + [median(own.map(\.perSecond)).grouped, ratio])
            } else {
                hasThroughput = true
                let ratio = hasRatio ? ratioText(median(own.map(\.perSecond)), median(epoll.map(\.perSecond))) : ""
                throughput.add([
                    name, side.rawValue, (own.map(\.perSecond).max() ?? 0).grouped, median(own.map(\.perSecond)).grouped,
                    (own.map(\.clientMinimum).min() ?? 0).grouped, (own.map(\.clientMaximum).max() ?? 0).grouped, ratio,
                ])
            }
        }
    }

    var text: String { hasThroughput ? latency.text + "\n\n" + throughput.text : latency.text }

    private func median(_ values: [UInt64]) -> UInt64 {
        let sorted = values.sorted()
        return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
    }

    private func ratioText(_ ours: UInt64, _ theirs: UInt64) -> String {
        theirs == 0 ? "" : (Double(ours) / Double(theirs)).fixed(2)
    }
}
