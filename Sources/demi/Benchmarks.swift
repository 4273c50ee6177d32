import CDemikernelBench
import CDemikernelShims
import Demikernel
import Glibc

/// One benchmark: what a round does, how many operations that is, and the figure to reach.
struct Benchmark: Sendable {
    let name: String
    /// The libOS that it runs on.
    var libOS = "catnap"
    var unit = "ns"
    /// What the minimum is to reach, or nil where it is there for comparison.
    var reach: Double?
    /// What to reach, where that is no number.
    var note: String?
    /// Measures `repetitions` rounds; answers the cost per operation of each.
    let measure: @Sendable (_ libOS: LibOS, _ repetitions: Int) throws -> [Double]

    func measure(_ libOS: LibOS, repetitions: Int) throws -> [Double] { try measure(libOS, repetitions) }

    static let all: [Benchmark] = runtime + network

    private static let runtime: [Benchmark] = [
        Benchmark(name: "task.switch", unit: "cycles", reach: 12, measure: taskSwitch),
        Benchmark(name: "task.wake-poll-10k", reach: 15, measure: taskWakePoll),
        Benchmark(name: "wait-any.10k", reach: 25, measure: waitAny10k),
        Benchmark(name: "heap.64", reach: 6) { rounds(64, $0, $1) },
        Benchmark(name: "heap.2048", reach: 6) { rounds(2048, $0, $1) },
        Benchmark(name: "malloc.64") { _, repetitions in mallocRounds(64, repetitions) },
        Benchmark(name: "malloc.2048") { _, repetitions in mallocRounds(2048, repetitions) },
        Benchmark(name: "queue.push-pop", reach: 60, measure: queuePushPop),
        Benchmark(name: "timer.insert-cancel", reach: 20) { libOS, repetitions in
            repeated(repetitions, operations: 20_000) { libOS.insertAndCancelTimer(count: 20_000) }
        },
        Benchmark(name: "checksum.64") { libOS, repetitions in
            try repeated(repetitions, operations: 20_000) { try libOS.sumBytes(64, count: 20_000) }
        },
        Benchmark(name: "checksum.1460", reach: 68) { libOS, repetitions in
            try repeated(repetitions, operations: 20_000) { try libOS.sumBytes(1_460, count: 20_000) }
        },
        Benchmark(name: "async.ready", reach: 30, measure: asyncReady),
        Benchmark(name: "async.suspend", reach: 250, measure: asyncSuspend),
        Benchmark(name: "c.wait-any-invalid-1", measure: calls { dk_bench_wait_any_invalid(1, $0) }),
        Benchmark(
            name: "c.wait-any-invalid", note: "<= one token's",
            measure: calls { dk_bench_wait_any_invalid(Int32(DK_BENCH_TOKENS), $0) }),
        Benchmark(name: "c.sgaalloc-sgafree.64", measure: calls { dk_bench_allocate_free(64, $0) }),
        Benchmark(name: "c.push-pop", measure: calls { dk_bench_queue_push_pop(64, $0) }),
    ]
}

/// Monotonic nanoseconds.
func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// The nanoseconds per operation of each of `repetitions` rounds, after one that warms up.
func repeated(_ repetitions: Int, operations: Int, _ round: () throws -> Void) rethrows -> [Double] {
    try round()
    var samples: [Double] = []
    for _ in 0..<repetitions {
        let start = monotonicNanoseconds()
        try round()
        samples.append(Double(monotonicNanoseconds() - start) / Double(operations))
    }
    return samples
}

// MARK: - Tasks and waiting

/// An empty task that yields, to the next: in ticks of the time-stamp counter.
private func taskSwitch(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    try libOS.startYieldingTasks(64)
    defer { libOS.endYieldingTasks() }
    let count = 1024 * 32
    libOS.switchTasks(count)
    var samples: [Double] = []
    for _ in 0..<repetitions {
        let start = dk_timestamp_counter()
        libOS.switchTasks(count)
        samples.append(Double(dk_timestamp_counter() - start) / Double(count))
    }
    return samples
}

private func taskWakePoll(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    let queue = try libOS.queue()
    var tokens: [QToken] = []
    for _ in 0..<10_000 { tokens.append(try libOS.pop(queue)) }
    let samples = repeated(repetitions, operations: 10_000) { libOS.wakeAndPoll(tokens.span, count: 10_000) }
    try libOS.close(queue)
    for token in tokens { _ = try libOS.wait(token) }
    return samples
}

private func waitAny10k(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    var tokens: [QToken] = []
    for _ in 0..<10_000 { tokens.append(try libOS.submitIdle()) }
    let samples = try repeated(repetitions, operations: 10_000) {
        try libOS.completeWaitRearm(&tokens, count: 10_000, stride: 1)
    }
    for token in tokens {
        libOS.completeIdle(token)
        _ = try libOS.wait(token)
    }
    return samples
}

// MARK: - Memory and queues

private func rounds(_ byteCount: Int, _ libOS: LibOS, _ repetitions: Int) -> [Double] {
    repeated(repetitions, operations: 20_000) { libOS.allocateAndFree(byteCount, count: 20_000) }
}

private func mallocRounds(_ byteCount: Int, _ repetitions: Int) -> [Double] {
    repeated(repetitions, operations: 20_000) {
        for _ in 0..<20_000 {
            let memory = unsafe malloc(byteCount)
            dk_black_box(UInt64(UInt(bitPattern: memory)))
            unsafe free(memory)
        }
    }
}

/// push + wait + pop + wait, the same buffer going round.
private func pushPopRound(_ libOS: LibOS, _ queue: QueueDescriptor, count: Int) throws {
    var held: ScatterGatherArray? = ScatterGatherArray(try libOS.allocate(64))
    for _ in 0..<count {
        try libOS.wait(try libOS.push(queue, held.take()!)).get()
        held = try libOS.wait(try libOS.pop(queue)).popped()
    }
}

private func queuePushPop(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    let queue = try libOS.queue()
    defer { try? libOS.close(queue) }
    return try repeated(repetitions, operations: 20_000) { try pushPopRound(libOS, queue, count: 20_000) }
}

// MARK: - The C ABI

/// Rounds of `body`, which is C and makes the given number of calls on this thread's libOS, the same one that the others measure; it answers
/// an errno.
private func calls(_ body: @escaping @Sendable (_ repetitions: Int32) -> Int32) -> @Sendable (LibOS, Int) throws -> [Double] {
    { _, repetitions in
        try repeated(repetitions, operations: 20_000) {
            let error = body(20_000)
            guard error == 0 else { throw Failure("the C ABI failed: \(errorText(error))") }
        }
    }
}

// MARK: - Swift tasks

/// A push and a pop through the async surface, neither of which has anything to wait for.
private func asyncPushPop(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    let rounds = try libOS.run { libOS in
        let queue = try libOS.memoryQueue()
        var samples: [Double] = []
        for _ in 0...repetitions {
            var held: ScatterGatherArray? = ScatterGatherArray(try libOS.allocate(64))
            let start = monotonicNanoseconds()
            for _ in 0..<20_000 {
                try await queue.push(held.take()!)
                held = try await queue.pop()
            }
            samples.append(Double(monotonicNanoseconds() - start) / 20_000)
        }
        return samples
    }
    return Array(rounds.dropFirst())
}

/// What an await costs when there is nothing to wait for, above the plain call: half of the difference over a push and a pop.
private func asyncReady(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    let plain = try queuePushPop(libOS, repetitions).min() ?? 0
    return try asyncPushPop(libOS, repetitions).map { max(0, $0 - plain) / 2 }
}

/// What one real suspension costs: two tasks pass a buffer to and fro through two memory queues, and each pop suspends its task until the
/// other's push resumes it. The cost of a hand-over, less that of a push and a pop that have nothing to wait for.
private func asyncSuspend(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    let count = 5_000
    let ready = try asyncPushPop(libOS, repetitions).min() ?? 0
    return try libOS.run { libOS in
        let there = try libOS.memoryQueue()
        let back = try libOS.memoryQueue()
        let rounds = (repetitions + 1) * count
        return try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                for _ in 0..<rounds { try await back.push(try await there.pop()) }
            }
            var samples: [Double] = []
            for _ in 0...repetitions {
                var held: ScatterGatherArray? = ScatterGatherArray(try libOS.allocate(64))
                let start = monotonicNanoseconds()
                for _ in 0..<count {
                    try await there.push(held.take()!)
                    held = try await back.pop()
                }
                samples.append(Double(monotonicNanoseconds() - start) / Double(2 * count))
            }
            try await group.waitForAll()
            return samples.dropFirst().map { max(0, $0 - ready) }
        }
    }
}
