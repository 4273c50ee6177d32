import CDemikernelShims
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
            if executor.isIdle { core.pauseForTasks() } else { core.idleTurn() }
        }
    }

    /// Waits, without blocking this thread's other tasks, until an operation has completed.
    ///
    /// When the task is cancelled the operation is cancelled too: it completes with ECANCELED, or with what the device did if it was too
    /// late; either way its memory comes back through the completion. Only a stream push of which a part has gone cannot be cancelled: it
    /// goes on without the task and releases its memory by itself, and this throws ECANCELED. Throws EINVAL for a token that names no operation, also where another
    /// task takes the completion first; EBUSY where another task awaits it.
    @inline(__always)
    public nonisolated(nonsending) func completion(of token: QToken) async throws(DemikernelError) -> Completion {
        if !hasCompleted(token) { try await waitForCompletion(of: token) }
        return takeCompleted(token)
    }

    @inline(__always)
    func hasCompleted(_ token: QToken) -> Bool {
        core.operations.contains(token) && core.operations[token.slot].phase == .complete
    }

    @inline(__always)
    func takeCompleted(_ token: QToken) -> Completion { Completion(core.take(token)) }

    /// Lets this thread's other tasks run for `duration`.
    public nonisolated(nonsending) func sleep(for duration: Duration) async throws(DemikernelError) {
        try await completion(of: try timer(after: duration)).get()
    }

    @inline(never)
    nonisolated(nonsending) func waitForCompletion(of token: QToken) async throws(DemikernelError) {
        guard core.operations.contains(token) else { throw .unknownToken }
        guard !core.operations[token.slot].flags.contains(.awaited) else {
            throw DemikernelError(.resourceBusy, "another task awaits the operation")
        }
        // Inline polling: as long as this is the only task with something to do.
        while executor.isIdle, !core.hasSpunEnough() {
            guard !Task.isCancelled else {
                try? core.cancel(token)
                break
            }
            core.idleTurn()
            if core.operations[token.slot].phase == .complete { return }
        }
        while core.operations.contains(token), core.operations[token.slot].phase != .complete {
            if Task.isCancelled, core.abandon(token) {
                throw DemikernelError(.canceled, "the task was cancelled; a part of the push has gone, so the rest follows without it")
            }
            await suspend(for: token)
        }
        // Another task may have waited for it by the same token.
        guard core.operations.contains(token) else { throw .unknownToken }
    }

    /// One real suspension. The cancellation handler is registered with the runtime directly: `withTaskCancellationHandler` allocates a
    /// closure and two frames for it.
    private nonisolated(nonsending) func suspend(for token: QToken) async {
        let handler = core.watchCancellation(token.slot)
        await unsafe withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            unsafe core.suspend(token.slot, continuation)
        }
        core.endWatch(handler)
    }
}

/// What the runtime calls when a task that awaits an operation is cancelled: on any thread, at any time until the watch has ended. The
/// libOS's own thread does the cancelling, where the operation still lives.
@c(dk_operation_cancelled)
func operationCancelled(_ context: UnsafeMutableRawPointer) {
    let operation = unsafe context.assumingMemoryBound(to: Operation.self)
    let mailbox = unsafe Unmanaged<Mailbox>.fromOpaque(UnsafeRawPointer(bitPattern: operation.pointee.mailbox)!)
    let slot = unsafe operation.pointee.slot
    let generation = unsafe operation.pointee.generation
    unsafe mailbox._withUnsafeGuaranteedRef { $0.cancel(QToken(slot: slot, generation: generation)) }
}

/// Where ``LibOS/run(_:)`` finds the result. Used on the libOS's thread alone.
private final class Outcome<Result>: @unchecked Sendable {
    let libOS: LibOS
    var result: Swift.Result<Result, any Error>?
    init(_ libOS: LibOS) { self.libOS = libOS }
}

/// A cancellation handler that is registered with the current task.
@safe
struct CancellationWatch {
    fileprivate let record: UnsafeMutableRawPointer
}

extension Core {
    /// Has the runtime cancel the operation when the current task is cancelled. The operation lives until the watch has ended: only the task
    /// that watches takes it.
    func watchCancellation(_ slot: UInt32) -> CancellationWatch {
        operations[slot].mailbox = unsafe UInt(bitPattern: Unmanaged.passUnretained(mailbox).toOpaque())
        operations[slot].slot = slot
        return unsafe CancellationWatch(record: dk_cancellation_handler_add(operations.address(of: slot)))
    }

    func endWatch(_ watch: CancellationWatch) { unsafe dk_cancellation_handler_remove(watch.record) }

    /// Has the operation resume a Swift task when it completes.
    func suspend(_ slot: UInt32, _ continuation: UnsafeContinuation<Void, Never>) {
        operations[slot].flags.insert(.awaited)
        operations[slot].continuation = unsafe unsafeBitCast(continuation, to: UInt.self)
        // A completion between the last look and here has nobody else to resume the task.
        if operations[slot].phase == .complete { resume(slot) }
    }

    /// Waits for something that may resume a task.
    mutating func pauseForTasks() {
        if mailbox.hasMail { return mailboxTurn() }
        pause(until: .never)
    }
}
