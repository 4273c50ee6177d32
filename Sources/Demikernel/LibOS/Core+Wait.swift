import SystemPackage

/// What `wait` and its kin answer when nothing completed.
extension DemikernelError {
    package static var unknownToken: DemikernelError { DemikernelError(.invalidArgument, "a token names no operation") }
    package static var timedOut: DemikernelError { DemikernelError(.timedOut, "nothing completed in time") }
    package static var noTokens: DemikernelError { DemikernelError(.invalidArgument, "there is no token to wait for") }
}

extension Core {
    /// How long a `wait` waits: for ever, or until a time of this libOS's clock.
    package struct Deadline {
        let time: UInt64
        static var never: Deadline { Deadline(time: .max) }
        /// Poll once.
        static var now: Deadline { Deadline(time: 0) }
    }

    /// The deadline of a relative timeout in nanoseconds; nil is for ever, zero or less polls once.
    package mutating func deadline(after nanoseconds: UInt64?) -> Deadline {
        guard let nanoseconds else { return .never }
        guard nanoseconds > 0 else { return .now }
        let (sum, overflow) = clock.now().addingReportingOverflow(nanoseconds)
        return Deadline(time: overflow ? .max : sum)
    }

    // MARK: - wait

    /// Waits until the operation that `token` names has completed, and takes it.
    ///
    /// Throws EINVAL for a token that names none, ETIMEDOUT. Complexity: O(1) once complete.
    @inline(__always)
    package mutating func wait(_ token: QToken, timeout: UInt64?) throws(DemikernelError) -> RawCompletion {
        runReady()
        network.transmit()
        guard operations.contains(token) else { throw .unknownToken }
        if operations[token.slot].phase != .complete { try waitSlowly(token, timeout: timeout) }
        return take(token)
    }

    @inline(never)
    private mutating func waitSlowly(_ token: QToken, timeout: UInt64?) throws(DemikernelError) {
        // Most of what is waited for comes with the first turn: deadlines and sleep are no question before it.
        var isFirst = true
        if network.isPresent, spin != 0 {
            idleTurnInline()
            if operations[token.slot].phase == .complete { return }
            isFirst = false
        }
        let deadline = deadline(after: timeout)
        if operations[token.slot].kind == .push { sendDeferred() }
        while operations[token.slot].phase != .complete {
            guard isFirst || !hasPassed(deadline) else { throw .timedOut }
            isFirst = false
            pause(until: deadline)
        }
    }

    /// Waits until all of the operations have completed; takes none of them. Throws EINVAL for a token that names none or is in the array
    /// twice, ETIMEDOUT. Complexity: O(`tokens.count`).
    package mutating func waitUntilAllComplete(_ tokens: Span<QToken>, timeout: UInt64?) throws(DemikernelError) {
        runReady()
        for position in tokens.indices {
            guard operations.contains(tokens[position]) else { throw .unknownToken }
            operations[tokens[position].slot].hint = UInt32(truncatingIfNeeded: position)
        }
        for position in tokens.indices where operations[tokens[position].slot].hint != UInt32(truncatingIfNeeded: position) {
            throw DemikernelError(.invalidArgument, "a token stands in the array twice")
        }
        let deadline = deadline(after: timeout)
        var isFirst = true
        sendDeferred()
        for position in tokens.indices {
            while operations[tokens[position].slot].phase != .complete {
                guard isFirst || !hasPassed(deadline) else { throw .timedOut }
                isFirst = false
                pause(until: deadline)
            }
        }
    }

    /// Waits until any operation has completed, and answers the slot of the one that completed first. Throws ETIMEDOUT.
    package mutating func waitNext(timeout: UInt64?) throws(DemikernelError) -> UInt32 {
        runReady()
        if let slot = completions.first { return slot }
        let deadline = deadline(after: timeout)
        var isFirst = true
        while true {
            guard isFirst || !hasPassed(deadline) else { throw .timedOut }
            isFirst = false
            pause(until: deadline)
            if let slot = completions.first { return slot }
        }
    }

    /// The slot of the oldest completion that nobody has waited for, without waiting.
    package var oldestCompletion: UInt32? { mutating get { completions.first } }

    // MARK: - waitAny

    /// Waits until one of the operations has completed and answers its offset in `tokens`; ``take(_:)`` then takes it.
    ///
    /// Completions are handed out in the order in which they came about, so that no token starves. Each operation remembers the offset at
    /// which its token was seen last, so a wait over an array of which one token was replaced, moved to the hole, or appended takes
    /// constant time whatever the array's length. Only a completion whose token has moved otherwise is searched for, once; and the array is
    /// checked for tokens that name no operation a piece at a time while nothing happens, also where the wait sleeps: a long array must not
    /// cost each wait that sleeps a look at all of it.
    ///
    /// Throws EINVAL where `tokens` is empty or a token names no operation; ETIMEDOUT.
    @inline(__always)
    package mutating func waitAny(_ tokens: Span<QToken>, timeout: UInt64?) throws(DemikernelError) -> Int {
        guard tokens.count > 0 else { throw .noTokens }
        guard operations.contains(tokens[0]) else { throw .unknownToken }
        noteOffset(lastOffset, in: tokens)
        if tokens.count != lastCount {
            lastCount = tokens.count
            noteOffset(tokens.count &- 1, in: tokens)
        }
        runReady()
        if completions.nextNew == nil, catnap.hasBufferedWork { takeBufferedEvents() }
        if completions.parkedCount == 0, let slot = completions.nextNew {
            let hint = Int(operations[slot].hint)
            if hint < tokens.count, tokens[hint] == operations.token(of: slot) {
                lastOffset = hint
                return hint
            }
        }
        return try waitAnySlowly(tokens, timeout: timeout)
    }

    /// Remembers where a token stands.
    @inline(__always)
    private func noteOffset(_ offset: Int, in tokens: Span<QToken>) {
        guard offset < tokens.count, operations.contains(tokens[offset]) else { return }
        operations[tokens[offset].slot].hint = UInt32(truncatingIfNeeded: offset)
    }

    /// How many tokens of the array one idle turn checks: few at first, for each is a cache line that nobody else wants, and an answer that is on
    /// its way would wait for them.
    private static var firstSweepLength: Int { 2 }
    private static var firstSweeps: Int { 64 }
    private static var sweepLength: Int { 64 }
    /// How long a wait sleeps, in nanoseconds, before it goes on checking; twice as many tokens each time, so that a million take 14 sleeps.
    private static var sweepInterval: UInt64 { 10_000_000 }
    /// Arrays up to this length are checked whole before a wait gives up.
    private static var sweepWholeLength: Int { 4096 }

    @inline(never)
    private mutating func waitAnySlowly(_ tokens: Span<QToken>, timeout: UInt64?) throws(DemikernelError) -> Int {
        network.transmit()
        let deadline = deadline(after: timeout)
        var swept = 0
        var sweepLength = Self.firstSweepLength
        var turns = 0
        // Completions that an earlier wait found to be elsewhere may stand in this array: each call looks a little further.
        if completions.parkedCount > 0, let offset = try sweep(tokens, length: 4) { return found(offset) }
        while true {
            let parkedBefore = completions.parkedCount
            if let offset = takeNew(tokens) { return found(offset) }
            if completions.parkedCount != parkedBefore { swept = 0 }
            let isLastChance = deadline.time == 0 || hasPassed(deadline)
            if swept < tokens.count {
                turns &+= 1
                if turns >= Self.firstSweeps || completions.parkedCount > 0 { sweepLength = max(sweepLength, Self.sweepLength) }
                let isWhole = completions.parkedCount > 0 || tokens.count <= Self.sweepWholeLength
                let length = isLastChance && isWhole ? tokens.count : sweepLength
                if let offset = try sweep(tokens, length: length) { return found(offset) }
                swept += length
            }
            if isLastChance {
                idleTurn()
                if let offset = takeNew(tokens) { return found(offset) }
                throw .timedOut
            }
            if swept >= tokens.count {
                pause(until: deadline)
            } else if completions.parkedCount > 0 || spin == .max {
                // What is parked may stand in the part of the array that has not been looked at.
                idleTurn()
            } else if pause(until: Deadline(time: min(deadline.time, turnTime &+ Self.sweepInterval))) {
                turns = Self.firstSweeps
                sweepLength = max(sweepLength, Self.sweepLength) &* 2
            }
        }
    }

    private mutating func found(_ offset: Int) -> Int {
        lastOffset = offset
        return offset
    }

    /// Looks at the completions that are new; answers the offset of the first that is in the array, and parks those that are not.
    private mutating func takeNew(_ tokens: Span<QToken>) -> Int? {
        while let slot = completions.nextNew {
            let token = operations.token(of: slot)
            let hint = Int(operations[slot].hint)
            if hint < tokens.count, tokens[hint] == token { return hint }
            for offset in tokens.indices where tokens[offset] == token { return offset }
            completions.parkNextNew(in: operations)
        }
        return nil
    }

    /// Checks the next `length` tokens, going round; answers the offset of one that has completed. Throws EINVAL for one that names no
    /// operation.
    private mutating func sweep(_ tokens: Span<QToken>, length: Int) throws(DemikernelError) -> Int? {
        sweptCount &+= UInt64(min(length, tokens.count))
        for _ in 0..<min(length, tokens.count) {
            if sweepCursor >= tokens.count { sweepCursor = 0 }
            let token = tokens[sweepCursor]
            guard operations.contains(token) else { throw .unknownToken }
            let offset = sweepCursor
            operations[token.slot].hint = UInt32(truncatingIfNeeded: offset)
            // Also past one that is found: the token that takes its place may have completed as well, again and again.
            sweepCursor += 1
            // What is new is handed out in its order, by `takeNew`.
            if operations[token.slot].flags.contains(.parked) { return offset }
        }
        return nil
    }

    // MARK: - Spinning and sleeping

    private mutating func hasPassed(_ deadline: Deadline) -> Bool {
        // The last turn's time will do: it is at most a few turns old.
        deadline.time != .max && turnTime >= deadline.time
    }

    /// Lets time pass until something may have completed: spins for as long as the configuration says since something last did, then sleeps
    /// on the devices' file descriptors. Answers whether it slept.
    @discardableResult
    mutating func pause(until deadline: Deadline) -> Bool {
        // A deadline of now polls once; a fast path that always spins never sleeps. While a background task beside the fast path is ready
        // there is work to do.
        guard deadline.time != 0, spin != .max, scheduler.backgroundReadyCount <= 1, hasSpunEnough(), network.canSleep else {
            idleTurn()
            return false
        }
        let before = completedCount
        runReady()
        guard completedCount == before else { return false }
        sleep(until: deadline.time)
        return true
    }

    /// Whether nothing has completed for as long as the configuration wants spinning.
    mutating func hasSpunEnough() -> Bool {
        guard spin != .max else { return false }
        return spin == 0 || turnTime &- lastProgress >= spin
    }
}
