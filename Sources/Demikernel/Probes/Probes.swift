import CDemikernelShims

// Loops that measure what no public call shows, for `demi bench`. They stand in this module because that is where the optimiser sees what
// they measure, as it sees it in use.

extension LibOS {
    /// Makes `count` tasks that yield each time they are polled.
    package func startYieldingTasks(_ count: Int) throws(DemikernelError) {
        for _ in 0..<count { core.scheduler.application.wake(try core.begin(.yield, on: 0)) }
    }

    /// Ends the tasks of ``startYieldingTasks(_:)``.
    package func endYieldingTasks() {
        for slot in 0..<core.operations.slotsUsed where core.operations[slot].phase == .pending && core.operations[slot].kind == .yield {
            core.complete(slot)
            _ = core.take(slot)
        }
        core.runReady()
    }

    /// Switches from one yielding task to the next, `count` times (a multiple of the scheduler's budget).
    package func switchTasks(_ count: Int) {
        var left = count
        while left > 0 {
            core.runReady()
            left -= Core.readyBudget
        }
    }

    /// Wakes and polls one blocked task after the other, going through `tokens`, as a device does that finds nothing new for it.
    package func wakeAndPoll(_ tokens: Span<QToken>, count: Int) {
        var position = 0
        for _ in 0..<count {
            core.scheduler.application.wake(tokens[position].slot)
            core.runReady()
            position = position &+ 1 == tokens.count ? 0 : position &+ 1
        }
    }

    /// Submits an operation that nothing completes but ``completeIdle(_:)``.
    package func submitIdle() throws(DemikernelError) -> QToken {
        core.operations.token(of: try core.begin(.timer, on: 0))
    }

    /// Completes an operation of ``submitIdle()``, as a device does.
    @inline(__always)
    package func completeIdle(_ token: QToken) { core.complete(token.slot) }

    /// `count` rounds of: an operation of `tokens` completes, `waitAny` over all hands it out, its place is armed anew. Complexity: O(`count`).
    package func completeWaitRearm(_ tokens: inout [QToken], count: Int, stride: Int) throws(DemikernelError) {
        var position = 0
        for _ in 0..<count {
            completeIdle(tokens[position])
            let completion = try waitAny(tokens.span)
            tokens[completion.offset] = try submitIdle()
            position = (position &+ stride) % tokens.count
        }
    }

    /// Allocates and frees an object of the heap, `count` times.
    package func allocateAndFree(_ byteCount: Int, count: Int) {
        for _ in 0..<count {
            let segment = core.heap.allocateSegment(byteCount)
            dk_black_box(UInt64(segment.address))
            segment.release()
        }
    }

    /// Sums `byteCount` bytes for their Internet checksum, `count` times.
    package func sumBytes(_ byteCount: Int, count: Int) throws(DemikernelError) {
        let segment = core.heap.allocateSegment(byteCount)
        guard !segment.isNull else { throw Heap.exhausted }
        unsafe segment.bytes.initializeMemory(as: UInt8.self, repeating: 0x5a)
        let packet = segment.packet
        for _ in 0..<count { dk_black_box(InternetChecksum.sum(packet)) }
        segment.release()
    }

    /// Puts a timer into the wheel and takes it out, `count` times.
    package func insertAndCancelTimer(count: Int) {
        let now = core.clock.now()
        for round in 0..<UInt64(count) {
            guard let key = core.timers.insert(deadline: now &+ 1_000 &+ (round & 1023) &* 977, payload: QToken(rawValue: 0)) else { return }
            _ = core.timers.cancel(key)
        }
    }
}
