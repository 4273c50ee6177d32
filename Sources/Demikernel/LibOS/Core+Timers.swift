import SystemPackage

// Timers as operations, and what becomes of everything at the end.

extension Core {
    /// Submits an operation that completes after `nanoseconds`. Throws ENOMEM where too many are pending.
    package mutating func timer(after nanoseconds: UInt64) throws(DemikernelError) -> UInt32 {
        submissionTurn()
        // No queue: the operation is in no list until it completes.
        let slot = try begin(.timer, on: 0)
        let now = clock.now()
        let (deadline, overflow) = now.addingReportingOverflow(nanoseconds)
        guard let key = timers.insert(deadline: overflow ? .max : deadline, payload: operations.token(of: slot)) else {
            operations.remove(slot)
            throw DemikernelError(.noMemory, "too many timers are pending")
        }
        operations[slot].timer = key
        return slot
    }

    mutating func cancelTimer(_ slot: UInt32) {
        _ = timers.cancel(operations[slot].timer)
        complete(slot, errno: Errno.canceled.rawValue)
    }

    /// Closes every queue and releases what completions still carry. Only dropping the core may follow.
    package mutating func shutdown() {
        for index in 0..<queues.end where queues[index].kind != .free { try? close(queues.descriptor(of: index)) }
        while let slot = completions.first { take(slot).segments.releaseAll() }
        if network.isPresent { lingerNetwork() }
        heap.drainReturns()
    }

    /// Closes a queue whose last owner went away on another thread.
    mutating func closeAbandoned(_ queue: QueueIdentity) {
        guard queues[queue.index].kind != .free, queues[queue.index].generation == queue.generation else { return }
        try? close(queues.descriptor(of: queue.index))
    }

    // MARK: - Swift tasks

    /// Lets the Swift task that awaits an operation go on.
    func resume(_ slot: UInt32) {
        let continuation = unsafe unsafeBitCast(operations[slot].continuation, to: UnsafeContinuation<Void, Never>.self)
        operations[slot].flags.remove(.awaited)
        unsafe continuation.resume()
    }
}
