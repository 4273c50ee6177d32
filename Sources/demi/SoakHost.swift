import Demikernel
import DemikernelSimulator
import Glibc

/// The libOS's side of a soak: opens connections to the kernel's server, and serves those of the kernel's client.
///
/// Sendable unchecked: everything happens on the libOS's thread, on which all tasks of `LibOS.run` run.
final class SoakHost: @unchecked Sendable {
    private let libOS: LibOS
    private let seed: UInt64
    private(set) var counts = SoakCounts()
    private var pace: SoakPace
    private var nextNumber = 0
    /// Connections under way, by who opened them.
    private(set) var opening = 0
    private(set) var serving = 0
    /// Whether new connections are opened.
    var isOpening = false

    static var port: UInt16 { 7000 }

    init(_ libOS: LibOS, seed: UInt64, share: Double) {
        self.libOS = libOS
        self.seed = seed
        pace = SoakPace(share: share)
    }

    /// New connections are wanted from here on.
    func begin() {
        pace.restart()
        isOpening = true
    }

    /// Waits until there is processor time left, but not for ever: what the peer sends is not ours to pace. At the end nobody waits.
    private nonisolated(nonsending) func takeTurn() async throws(DemikernelError) {
        for _ in 0..<4 where isOpening {
            let wait = pace.wait()
            if wait == 0 { return }
            // Not all at once, when the time has come.
            try await libOS.sleep(for: .milliseconds(min(wait, 100) + Int.random(in: 0...20)))
        }
    }

    // MARK: - Opening and serving

    /// Opens one connection after the other, for as long as new ones are wanted.
    nonisolated(nonsending) func open() async {
        do throws(DemikernelError) {
            while isOpening {
                try await takeTurn()
                guard isOpening else { return }
                // The kernel's client takes the odd numbers.
                let plan = SoakPlan(seed: seed, number: nextNumber)
                nextNumber += 2
                opening += 1
                defer { opening -= 1 }
                let address = plan.isIPv4 ? SocketAddress.ipv4(0x0a75_0001, port: Self.port) : .ipv6(0xfd00_0117 << 32, 1, port: Self.port)
                do throws(DemikernelError) {
                    let connection = try await libOS.connection(to: address)
                    counts.opened += 1
                    await exchange(connection, plan, isClient: true)
                } catch {
                    counts.note("connection \(plan.number) is not opened: \(error)")
                }
            }
        } catch {
            counts.note("a wait failed: \(error)")
        }
    }

    /// Serves one connection.
    nonisolated(nonsending) func serve(_ connection: Connection) async {
        serving += 1
        defer { serving -= 1 }
        counts.served += 1
        do throws(DemikernelError) {
            try connection.set(.keepAlive, to: true)
            var name: [UInt8] = []
            while name.count < SoakPlan.nameByteCount {
                guard let buffer = try await connection.pop(limit: SoakPlan.nameByteCount - name.count) else { return }
                name += buffer.copyToArray()
            }
            guard let number = ScenarioPattern.connection(name), number % 2 == 1 else { return counts.note("a connection without a number") }
            counts.bytesReceived += UInt64(name.count)
            await exchange(connection, SoakPlan(seed: seed, number: number), isClient: false, received: name.count)
        } catch {
            // One that its client resets may end before its name has come.
            counts.resets += 1
        }
    }

    // MARK: - A connection

    private nonisolated(nonsending) func exchange(_ connection: Connection, _ plan: SoakPlan, isClient: Bool, received: Int = 0) async {
        try? connection.set(.keepAlive, to: true)
        let writing = await withTaskGroup(of: DemikernelError?.self) { group in
            group.addTask { [self] in
                do throws(DemikernelError) {
                    try await write(connection, plan, isClient: isClient)
                    return nil
                } catch {
                    return error
                }
            }
            let reading = await read(connection, plan, isClient: isClient, from: received)
            return (reading, await group.next() ?? nil)
        }
        try? connection.close()
        if plan.ending != .clean {
            counts.resets += 1
        } else if let error = writing.0 ?? writing.1 {
            counts.note("connection \(plan.number), \(isClient ? "opened" : "served") by the libOS: \(error)")
        }
    }

    private nonisolated(nonsending) func write(_ connection: Connection, _ plan: SoakPlan, isClient: Bool) async throws(DemikernelError) {
        let total = plan.sendTotal(isClient: isClient)
        let pattern = plan.pattern(sentByClient: isClient)
        let resetPoint = plan.resetPoint(isClient: isClient)
        var idlePoint = plan.idlePoint(isClient: isClient)
        var sent = 0
        while true {
            if let resetPoint, sent >= resetPoint {
                try connection.set(.linger, to: .some(.zero))
                return try connection.close()
            }
            if let point = idlePoint, sent >= point {
                idlePoint = nil
                try await libOS.sleep(for: .milliseconds(plan.idleMilliseconds))
            }
            guard sent < total else { break }
            try await takeTurn()
            let count = min(plan.chunk, total - sent)
            var buffer = try libOS.allocate(count)
            unsafe buffer.withUnsafeMutableBytes { unsafe pattern.fill($0, from: sent) }
            do throws(PushError) {
                try await connection.push(buffer)
            } catch {
                throw error.reason
            }
            sent += count
            counts.bytesSent += UInt64(count)
        }
        if plan.ending == .clientLeaves, isClient { return try connection.close() }
        try connection.shutdown(.send)
    }

    /// Reads to the end of the stream. Answers what went wrong.
    private nonisolated(nonsending) func read(_ connection: Connection, _ plan: SoakPlan, isClient: Bool, from start: Int) async -> DemikernelError? {
        let pattern = plan.pattern(sentByClient: !isClient)
        let total = plan.sendTotal(isClient: !isClient)
        var received = start
        do throws(DemikernelError) {
            while let buffer = try await connection.pop() {
                let place = unsafe buffer.withUnsafeBytes { unsafe pattern.mismatch($0, from: received) }
                if let place {
                    counts.note("connection \(plan.number): a wrong byte, \(received + place) from the start")
                    return nil
                }
                received += buffer.count
                counts.bytesReceived += UInt64(buffer.count)
            }
        } catch {
            return error
        }
        if received != total, plan.ending == .clean { counts.note("connection \(plan.number) ended after \(received) bytes of \(total)") }
        return nil
    }
}
