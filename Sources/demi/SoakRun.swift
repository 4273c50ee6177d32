import Demikernel

/// The course of a soak. Sendable unchecked: everything happens on the libOS's thread.
final class Soak: @unchecked Sendable {
    private let command: SoakCommand
    private let libOS: LibOS
    private let peer: SoakPeerProcess
    private let host: SoakHost
    private var isOver = false
    private var began: UInt64

    /// How long connections may take to their end when no new ones are opened: lost resets, timeouts, and an idle minute.
    private static var patience: UInt64 { 300_000_000_000 }

    init(_ command: SoakCommand, _ libOS: LibOS, _ peer: SoakPeerProcess) {
        self.command = command
        self.libOS = libOS
        self.peer = peer
        host = SoakHost(libOS, seed: command.seed, share: command.processor / 100)
        began = libOS.now
    }

    nonisolated(nonsending) func run() async throws -> SoakOutcome {
        let listeners = [try libOS.listener(on: .any(.ipv4, port: SoakHost.port), backlog: 1_024), try libOS.listener(on: .any(.ipv6, port: SoakHost.port), backlog: 1_024)]
        return try await withThrowingTaskGroup(of: SoakOutcome?.self) { group in
            for listener in listeners {
                group.addTask { [self] in
                    await withDiscardingTaskGroup { served in
                        for await connection in listener { served.addTask { [self] in await host.serve(connection) } }
                    }
                    return nil
                }
            }
            group.addTask { [self] in
                defer { for listener in listeners { try? listener.close() } }
                let outcome = try await phases()
                return outcome
            }
            var outcome: SoakOutcome?
            while let ended = try await group.next() { outcome = ended ?? outcome }
            guard let outcome else { throw Failure("the soak has ended before its time") }
            return outcome
        }
    }

    private nonisolated(nonsending) func phases() async throws -> SoakOutcome {
        try await stream(seconds: command.warmUpSeconds, "warm-up")
        var isDrained = try await drain()
        var before = SoakGauges(libOS)
        for _ in 0..<5 {
            try await libOS.sleep(for: .seconds(1))
            before = before.least(SoakGauges(libOS))
        }
        report("baseline: \(before.text)")
        try await stream(seconds: command.minutes * 60, "soak")
        isDrained = try await drain() && isDrained
        // What goes by itself, in its own time, is given that time.
        var after = SoakGauges(libOS)
        for _ in 0..<60 where !SoakJudge.growth(from: before, to: after).isEmpty {
            try await libOS.sleep(for: .seconds(1))
            after = after.least(SoakGauges(libOS))
        }
        report("end: \(after.text)")
        return SoakOutcome(
            command, libOS, before: before, after: after, ours: host.counts, kernels: try peer.ask().counts, isDrained: isDrained,
            seconds: Double(libOS.now &- began) / 1e9)
    }

    /// Has both sides open connections for so long, and says how it goes every ten seconds.
    private nonisolated(nonsending) func stream(seconds: Double, _ phase: String) async throws {
        host.begin()
        peer.tell("o")
        let end = libOS.now &+ UInt64(seconds * 1e9)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<command.connections { group.addTask { [self] in await host.open() } }
            group.addTask { [self] in
                var last = (time: libOS.now, counts: host.counts)
                while libOS.now < end {
                    try await libOS.sleep(for: .nanoseconds(Int64(min(10_000_000_000, end &- libOS.now))))
                    let counts = host.counts
                    let time = Double(libOS.now &- last.time) / 1e9
                    let opened = Double(counts.opened + counts.served - last.counts.opened - last.counts.served) / time
                    let bytes = Double(counts.bytesSent + counts.bytesReceived - last.counts.bytesSent - last.counts.bytesReceived) / time / 1e6
                    report("\(phase): \(opened.fixed(1)) connections/s, \(bytes.fixed(2)) MB/s, \(counts.wrong) wrong; \(SoakGauges(libOS).text)")
                    last = (libOS.now, counts)
                }
                host.isOpening = false
                peer.tell("d")
            }
            try await group.waitForAll()
        }
    }

    /// Waits until no connection is left; false where some do not end.
    private nonisolated(nonsending) func drain() async throws -> Bool {
        let limit = libOS.now &+ Self.patience
        while libOS.now < limit {
            let tcp = (libOS.core.network.stack.tcp.connectionCount, libOS.core.network.stack.tcp.timeWaitCount)
            if host.opening == 0, host.serving == 0, tcp == (0, 0), try peer.ask().streams == 0 {
                // What the last of them have left behind comes back with the next turns.
                try await libOS.sleep(for: .seconds(2))
                return true
            }
            try await libOS.sleep(for: .milliseconds(500))
        }
        return false
    }

    /// A line for whoever watches.
    private func report(_ text: String) {
        writeError("\((Double(libOS.now &- began) / 1e9).fixed(0).paddedLeft(to: 6)) s  \(text)\n")
    }
}

/// How a soak has ended.
struct SoakOutcome: Sendable {
    private let seed: UInt64
    private let seconds: Double
    private let before: SoakGauges
    private let after: SoakGauges
    private let ours: SoakCounts
    private let kernels: SoakCounts
    private let retransmissions: UInt64
    private let problems: [String]

    init(
        _ command: SoakCommand, _ libOS: LibOS, before: SoakGauges, after: SoakGauges, ours: SoakCounts, kernels: SoakCounts, isDrained: Bool,
        seconds: Double
    ) {
        seed = command.seed
        self.seconds = seconds
        self.before = before
        self.after = after
        self.ours = ours
        self.kernels = kernels
        retransmissions = libOS.core.network.stack.tcp.counters.retransmittedSegments
        problems = SoakJudge.problems(before: before, after: after, ours: ours, kernels: kernels, isDrained: isDrained)
    }

    /// Nil where all is well.
    var failure: String? { problems.isEmpty ? nil : "soak: seed \(seed): " + problems.joined(separator: "; ") }

    var text: String {
        "soak: \(seconds.fixed(0)) s, \(ours.opened.grouped) connections opened and \(ours.served.grouped) served, "
            + "\((ours.bytesSent >> 20).grouped) MiB sent and \((ours.bytesReceived >> 20).grouped) received, "
            + "\(retransmissions.grouped) segments retransmitted; " + (problems.isEmpty ? "every byte right, nothing left" : "\(problems.count) problems")
    }

    var json: String {
        var object = JSONObject()
        object.add("seed", seed)
        object.add("seconds", Int(seconds))
        for (name, counts) in [("libos", ours), ("kernel", kernels)] {
            var side = JSONObject()
            side.add("opened", counts.opened)
            side.add("served", counts.served)
            side.add("bytesSent", counts.bytesSent)
            side.add("bytesReceived", counts.bytesReceived)
            side.add("resets", counts.resets)
            side.add("wrong", counts.wrong)
            object.add(name, side)
        }
        object.add("retransmissions", retransmissions)
        object.add("before", before.object)
        object.add("after", after.object)
        object.add("problems", problems)
        return object.text
    }
}
