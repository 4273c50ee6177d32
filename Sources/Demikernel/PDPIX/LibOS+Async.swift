import SystemPackage

// Swift concurrency on the libOS's own thread. An await first looks whether its operation is complete, then polls the libOS inline while no
// other task has something to run, and only then suspends.

extension LibOS {
    /// Runs an async program on this thread, the libOS's, until it has ended; answers what it answers.
    ///
    /// The tasks that it starts with task groups and `async let` run on this thread too. Throws what `body` throws; EDEADLK when called
    /// from within such a program.
    public func run<Result: Sendable>(_ body: @escaping @Sendable (LibOS) async throws -> Result) throws -> Result {
        guard !core.isRunningTasks else { throw DemikernelError(.deadlock, "run is running already on this libOS") }
        core.isRunningTasks = true
        defer { core.isRunningTasks = false }
        let outcome = Outcome<Result>(self)
        Task(executorPreference: executor) {
            do {
                outcome.result = .success(try await body(outcome.libOS))
            } catch {
                outcome.result = .failure(error)
            }
        }
        while true {
            executor.runJobs()
            if let result = outcome.result { return try result.get() }
            if executor.isIdle { core.pauseForTasks() } else { core.taskTurn() }
        }
    }

    /// Waits, without blocking this thread's other tasks, until an operation has completed.
    ///
    /// When the task is cancelled the operation is cancelled too: it completes with ECANCELED, or with what the device did if it was too
    /// late; either way its memory comes back through the completion. Throws EINVAL for a token that names no operation, also where another
    /// task takes the completion first; EBUSY where another task awaits it.
    @inline(__always)
    public nonisolated(nonsending) func completion(of token: QToken) async throws(DemikernelError) -> Completion {
        guard core.operations.contains(token) else { throw .unknownToken }
        if core.operations[token.slot].phase != .complete {
            guard core.operations[token.slot].continuation == 0 else {
                throw DemikernelError(.resourceBusy, "another task awaits the operation")
            }
            await waitForCompletion(of: token)
            // Another task may have taken it meanwhile, with `waitNext` or by the same token.
            guard core.operations.contains(token) else { throw .unknownToken }
        }
        return Completion(core.take(token.slot))
    }

    /// Lets this thread's other tasks run for `duration`.
    public nonisolated(nonsending) func sleep(for duration: Duration) async throws(DemikernelError) {
        try await completion(of: try timer(after: duration)).get()
    }

    @inline(never)
    private nonisolated(nonsending) func waitForCompletion(of token: QToken) async {
        // Inline polling: as long as this is the only task with something to do.
        while executor.isIdle, !core.shouldSleep() {
            guard !Task.isCancelled else {
                try? core.cancel(token)
                break
            }
            core.idleTurn()
            if core.operations[token.slot].phase == .complete { return }
        }
        while core.operations.contains(token), core.operations[token.slot].phase != .complete { await suspend(for: token) }
    }

    /// One real suspension.
    private nonisolated(nonsending) func suspend(for token: QToken) async {
        let mailbox = core.mailbox
        await withTaskCancellationHandler {
            await unsafe withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
                unsafe core.suspend(token.slot, continuation)
            }
        } onCancel: {
            // From any thread, at any time: the libOS's own thread does it, where the operation still lives.
            mailbox.cancel(token)
        }
    }
}

/// Where ``LibOS/run(_:)`` finds the result. Used on the libOS's thread alone.
private final class Outcome<Result>: @unchecked Sendable {
    let libOS: LibOS
    var result: Swift.Result<Result, any Error>?
    init(_ libOS: LibOS) { self.libOS = libOS }
}

extension Core {
    /// Has the operation resume a Swift task when it completes.
    func suspend(_ slot: UInt32, _ continuation: UnsafeContinuation<Void, Never>) {
        operations[slot].continuation = unsafe unsafeBitCast(continuation, to: UInt.self)
        // A completion between the last look and here has nobody else to resume the task.
        if operations[slot].phase == .complete { resume(slot) }
    }

    /// Whether spinning has gone on for as long as the configuration says.
    mutating func shouldSleep() -> Bool {
        spin != .max && (spin == 0 || clock.now() &- lastProgress >= spin)
    }

    /// A turn between jobs: devices and timers, without waiting.
    mutating func taskTurn() { idleTurn() }

    /// Waits for something that may resume a task.
    mutating func pauseForTasks() {
        if mailbox.hasMail { return mailboxTurn() }
        pause(until: .never)
    }
}
