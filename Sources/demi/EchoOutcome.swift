import Glibc

/// What a measurement found. Times in nanoseconds.
struct EchoOutcome {
    let count: UInt64
    let p50, p99, p999: UInt64
    let minimum, maximum: UInt64
    let perSecond: UInt64
    /// Datagrams that were not answered in time.
    let lost: UInt64
    /// Clients that were given up.
    let failures: Int
    /// Why the last of them was.
    let failure: String?
    /// Round trips of the client that made the fewest, and the most.
    let clientMinimum, clientMaximum: UInt64
    let wasInterrupted: Bool

    /// `alone` is what was measured before there were idle connections.
    func json(_ plan: EchoClient.Plan, _ libOS: String, idle: Int, alone: EchoOutcome?) -> String {
        var object = JSONObject()
        object.add("libos", libOS)
        object.add("transport", plan.transport.rawValue)
        object.add("size", plan.size)
        object.add("clients", plan.clients)
        object.add("count", count)
        object.add("p50", p50)
        object.add("p99", p99)
        object.add("p999", p999)
        object.add("perSecond", perSecond)
        object.add("errors", lost + UInt64(failures))
        object.add("lost", lost)
        object.add("clientMinimum", clientMinimum)
        object.add("clientMaximum", clientMaximum)
        if let alone {
            object.add("idle", idle)
            object.add("p50Alone", alone.p50)
            object.add("perSecondAlone", alone.perSecond)
        }
        return object.text
    }

    func text(_ plan: EchoClient.Plan, _ libOS: String, idle: Int, alone: EchoOutcome?) -> String {
        var table = Table([
            "\(libOS) \(plan.transport.rawValue) \(plan.size) B", "least", "p50", "p99", "p99.9", "most", "round trips/s",
        ])
        table.add(
            ["round trip in µs"] + [minimum, p50, p99, p999, maximum].map(microseconds) + [perSecond.grouped])
        var text = table.text + "\n\(count.grouped) round trips"
        if plan.clients > 1 {
            text += ", \(plan.clients) clients, of which the slowest made \(clientMinimum.grouped), the fastest \(clientMaximum.grouped)"
        }
        if lost > 0 { text += ", \(lost.grouped) datagrams lost" }
        if failures > 0 { text += ", \(failures.grouped) clients failed" }
        if let alone {
            text += "; beside \(idle.grouped) idle connections, without which p50 is \(microseconds(alone.p50)) µs and "
                + "\(alone.perSecond.grouped) round trips are made a second"
        }
        return text + (wasInterrupted ? ", interrupted" : "")
    }
}

/// How far a measurement is, on a terminal, at most ten times a second.
struct Progress {
    private static let interval: UInt64 = 100_000_000
    private let isShown: Bool
    private let warmup: UInt64
    private let count: UInt64
    private var last: UInt64 = 0
    private var lastCompleted: UInt64 = 0

    init(_ plan: EchoClient.Plan) {
        isShown = plan.showsProgress
        warmup = plan.warmup
        count = plan.count
    }

    @inline(__always)
    mutating func show(_ completed: UInt64, _ isMeasuring: Bool, _ now: UInt64) {
        guard isShown, now &- last >= Self.interval else { return }
        draw(completed, isMeasuring, now)
    }

    @inline(never)
    private mutating func draw(_ completed: UInt64, _ isMeasuring: Bool, _ now: UInt64) {
        let rate = last == 0 || completed < lastCompleted ? 0 : (completed - lastCompleted) * 1_000_000_000 / (now &- last)
        let (goal, phase) = isMeasuring ? (count, "measuring") : (warmup, "warming up")
        let percent = goal == 0 ? 100 : completed * 100 / goal
        writeError("\r\(phase): \(percent) %, \(completed.grouped) of \(goal.grouped) round trips, \(rate.grouped)/s\u{1b}[K")
        last = now
        lastCompleted = completed
    }

    func clear() {
        if isShown && last != 0 { writeError("\r\u{1b}[K") }
    }
}
