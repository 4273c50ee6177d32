/// What ``SendScoreboard/detectLosses(now:roundTrip:isRecovering:)`` found.
package struct LossDetection: BitwiseCopyable, Sendable {
    /// Bytes newly taken for lost.
    package var lost: UInt32 = 0
    /// When to ask again, ns: something may only be late. `.max` where nothing is in doubt.
    package var deadline: UInt64 = .max
}

// RACK: RFC 8985, section 6.2. A segment is lost once something that was sent later has arrived, and as long ago as the network may reorder.
extension SendScoreboard {
    /// The reordering window, ns. RFC 8985, section 6.2, step 4.
    package func reorderingWindow(_ roundTrip: RoundTripEstimator, isRecovering: Bool) -> UInt64 {
        if !seesReordering, isRecovering || sackedSegments >= Self.duplicateThreshold { return 0 }
        return min(UInt64(windowMultiple) &* roundTrip.minimum / 4, roundTrip.smoothed)
    }

    /// DupThresh: RFC 5681.
    private static var duplicateThreshold: UInt8 { 3 }

    /// Marks what must be lost by now. Called after each acknowledgement and when the reordering timer goes off. `isRecovering` is true in fast
    /// recovery and after a timeout. Complexity: O(1) in order; in recovery O(records from SND.UNA to the last sent of the delivered), runs
    /// that are sacked counting as one.
    package mutating func detectLosses(now: UInt64, roundTrip: RoundTripEstimator, isRecovering: Bool) -> LossDetection {
        var result = LossDetection()
        guard hasDelivery, !isEmpty else { return result }
        if isInDuplicateRound, self[0].start >= duplicateRoundEnd { isInDuplicateRound = false }
        let patience = latestRoundTrip &+ reorderingWindow(roundTrip, isRecovering: isRecovering)
        let count = self.count
        var index = 0
        while index < count {
            let record = self[index]
            if record.state.contains(.sacked) {
                index = joinRun(index)
                continue
            }
            if !record.state.contains(.lost) {
                if Self.isAfter(latestSentAt, latestEnd, record.sentAt, record.end) {
                    let due = record.sentAt &+ patience
                    if due <= now {
                        markLost(index)
                        result.lost &+= record.length
                    } else {
                        result.deadline = result.deadline == .max ? due : max(result.deadline, due)
                    }
                } else if !record.state.contains(.retransmitted) {
                    // What follows was sent later still.
                    break
                }
            }
            index += 1
        }
        return result
    }

    /// Past a run of sacked records, of which the first learns how long it is.
    private mutating func joinRun(_ index: Int) -> Int {
        let before = self[index].skip
        var skip = before
        while index + Int(skip) < count, self[index + Int(skip)].state.contains(.sacked) { skip &+= self[index + Int(skip)].skip }
        if skip != before { self[index].skip = skip }
        return index + Int(skip)
    }

    private mutating func markLost(_ index: Int) {
        var record = self[index]
        guard record.state.isDisjoint(with: [.sacked, .lost]) else { return }
        record.state.insert(.lost)
        self[index] = record
        lostBytes &+= record.length
        noteLost(from: record.start)
    }

    /// Without SACK: a third duplicate acknowledgement, or a partial one, says that the first segment is lost. RFC 6582, section 3.2.
    package mutating func markFirstLost(_ length: UInt32, in heap: HeapReference) {
        guard !isEmpty else { return }
        _ = splitIfInside(0, at: self[0].start + length, heap)
        markLost(0)
    }

    /// The retransmission timer has gone off: the first segment is lost, and all that was sent long enough ago. RFC 8985, section 6.3. A first
    /// segment that the peer had reported shows that it threw it away, so that no report counts any more: RFC 2018, section 8.
    package mutating func markLostOnTimeout(now: UInt64, roundTrip: RoundTripEstimator) {
        guard !isEmpty else { return }
        if self[0].state.contains(.sacked) { forgetSACK() }
        let patience = latestRoundTrip &+ reorderingWindow(roundTrip, isRecovering: true)
        for index in 0..<count where index == 0 || self[index].sentAt &+ patience <= now { markLost(index) }
    }

    /// Takes everything that is out and not sacked for lost: the path has changed, say, and segments have to be cut anew.
    package mutating func markAllLost() {
        for index in 0..<count { markLost(index) }
    }

    /// Takes the marks back: the timeout was spurious, and what is out is out. RFC 5682, RFC 3522.
    package mutating func unmarkLost() {
        for index in 0..<count { self[index].state.remove(.lost) }
        lostBytes = 0
    }

    /// The first bytes to be sent again, `limit` at most; empty where nothing is lost. Complexity: O(log n) mostly.
    package mutating func nextLost(limit: UInt32) -> SequenceRange {
        guard lostBytes != 0, !isEmpty else { return SequenceRange(start: SequenceNumber(0), length: 0) }
        let count = self.count
        var index = 0
        if hasStorage { index = unsafe self.index(of: SequenceNumber.later(header.pointee.lostFrom, self[0].start)) }
        while index < count {
            let record = self[index]
            if record.state.contains(.lost) { break }
            index = record.state.contains(.sacked) ? joinRun(index) : index + 1
        }
        guard index < count else { return SequenceRange(start: SequenceNumber(0), length: 0) }
        let start = self[index].start
        setLostFrom(start)
        var length: UInt32 = 0
        // Small segments that were sent apart may go together.
        while index < count, length < limit, self[index].state.contains(.lost) {
            length &+= self[index].length
            index += 1
        }
        return SequenceRange(start: start, length: min(length, limit))
    }

    /// The last `limit` bytes or less that are out and not known to have arrived: what a tail loss probe repeats. RFC 8985, section 7.3.
    package func lastOutstanding(limit: UInt32) -> SequenceRange {
        var index = count - 1
        while index >= 0, self[index].state.contains(.sacked) { index -= 1 }
        guard index >= 0 else { return SequenceRange(start: SequenceNumber(0), length: 0) }
        let length = min(limit, self[index].length)
        return SequenceRange(start: self[index].end - length, length: length)
    }

    /// The recovery, or the slow start after a timeout, is over. RFC 8985, section 6.2, step 4.
    package mutating func recoveryEnded() {
        if windowPersistence > 0 { windowPersistence -= 1 }
        if windowPersistence == 0 { windowMultiple = 1 }
    }

    /// The reordering window grows once per round trip in which a retransmission was for nothing.
    mutating func noteDuplicates(_ delivery: Delivery) {
        if isInDuplicateRound, delivery.acknowledgement >= duplicateRoundEnd { isInDuplicateRound = false }
        guard delivery.hasDuplicate, !isInDuplicateRound else { return }
        isInDuplicateRound = true
        duplicateRoundEnd = delivery.next
        if windowMultiple < .max { windowMultiple += 1 }
        windowPersistence = 16
    }

    private mutating func forgetSACK() {
        for index in 0..<count {
            var record = self[index]
            record.state.remove(.sacked)
            record.skip = 1
            self[index] = record
        }
        sackedBytes = 0
        sackedSegments = 0
    }

    private mutating func noteLost(from number: SequenceNumber) {
        guard hasStorage else { return }
        unsafe header.pointee.lostFrom = SequenceNumber.earlier(header.pointee.lostFrom, number)
    }

    private mutating func setLostFrom(_ number: SequenceNumber) {
        if hasStorage { unsafe header.pointee.lostFrom = number }
    }
}
