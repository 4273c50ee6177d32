/// How much a ``ReorderQueue`` may hold.
package struct ReorderLimits: BitwiseCopyable, Sendable {
    /// Segments, each of which keeps a whole receive buffer alive however little is in it. At most 65,536.
    package var segments: UInt32
    /// Payload bytes: the receive window's size is the natural limit.
    package var bytes: UInt32

    package init(segments: UInt32 = 1024, bytes: UInt32 = 16 << 20) {
        self.segments = min(segments, 65_536)
        self.bytes = bytes
    }
}

/// What became of data that came out of order.
package struct ReorderResult: BitwiseCopyable, Sendable {
    package enum Outcome: BitwiseCopyable, Sendable {
        /// Some of it was new and is kept.
        case stored
        /// All of it had come before.
        case duplicate
        /// The limits are reached or the heap is exhausted: it counts as lost.
        case refused
    }
    package var outcome: Outcome
    /// The first bytes that had come before, for a D-SACK (RFC 2883, section 4); empty (`left == right`) where there were none.
    package var duplicate: SACKBlock
}

/// Data that has arrived ahead of a gap, in the order of its sequence numbers and without overlap, and the SACK blocks that tell of it:
/// RFC 9293, section 3.10.7.4; RFC 2018; RFC 2883.
///
/// 16 bytes where there is none, and those are all; otherwise its records are in one heap object, which doubles as they grow. Nothing that
/// was accepted is thrown away again (no reneging), so that it may be reported at once.
///
/// Not owned automatically: ``releaseAll()`` is called exactly once when the connection goes.
///
/// Invariant: `storage` is null, or a heap object with a `Header` and room for `capacity` records, of which `first ..< first + count`
/// are initialised, sorted by `start`, disjoint, none empty; each holds one libOS reference of its segment.
@safe package struct ReorderQueue: BitwiseCopyable {
    private var storage: Segment

    /// A run is bytes without a gap. Its first record knows where the run ends, its last one where it begins, so that runs grow together in
    /// constant time; what records between them say means nothing.
    private struct Record: BitwiseCopyable {
        var segment: Segment
        var start: SequenceNumber
        /// Of a run's last record: where the run starts; too early after its first records were taken out.
        /// Of a run's first record, its only one among them: where the run ends.
        var runLimit: SequenceNumber

        @inline(__always) var end: SequenceNumber { start + segment.count }
    }

    private struct Header: BitwiseCopyable {
        var first: UInt32 = 0
        var count: UInt32 = 0
        var capacity: UInt32
        var bytes: UInt32 = 0
        /// Runs, most recently changed first. RFC 2018, section 4.
        var recentCount = 0
        var recent = InlineArray<8, SACKBlock>(repeating: SACKBlock(left: SequenceNumber(0), right: SequenceNumber(0)))
    }

    @inline(__always) package init() { storage = .null }

    @inline(__always) package var isEmpty: Bool { storage.isNull }
    /// Records, and payload bytes in them.
    package var count: Int { isEmpty ? 0 : unsafe Int(header.pointee.count) }
    package var byteCount: Int { isEmpty ? 0 : unsafe Int(header.pointee.bytes) }

    @inline(__always) private var header: UnsafeMutablePointer<Header> { unsafe storage.start.assumingMemoryBound(to: Header.self) }
    @inline(__always) private var records: UnsafeMutablePointer<Record> {
        unsafe (storage.start + MemoryLayout<Header>.stride).assumingMemoryBound(to: Record.self)
    }

    // MARK: Taking in

    /// Keeps what is new of `segment`, whose first byte has the number `start`; takes its reference in every case. `next` is RCV.NXT, and
    /// `segment` ends within the window. Complexity: O(log n) at the end of the queue, O(n) moves of 24 bytes elsewhere.
    @inline(never)
    package mutating func insert(
        _ segment: Segment, at start: SequenceNumber, next: SequenceNumber, limits: ReorderLimits, heap: HeapReference
    ) -> ReorderResult {
        let end = start + segment.count
        var result = ReorderResult(outcome: .duplicate, duplicate: SACKBlock(left: start, right: start))
        var cursor = start
        if start < next {
            cursor = SequenceNumber.earlier(next, end)
            result.duplicate.right = cursor
        }
        while cursor < end {
            let index = position(after: cursor)
            let known = index > 0 ? unsafe records[first + index - 1].end : cursor
            if known > cursor {
                let right = SequenceNumber.earlier(known, end)
                if result.duplicate.left == result.duplicate.right { result.duplicate = SACKBlock(left: cursor, right: right) }
                // Reported again as the block that contains the duplicate. RFC 2883, section 4.
                if result.outcome == .duplicate { touchRun(at: index - 1) }
                cursor = right
                continue
            }
            let right = index < count ? unsafe SequenceNumber.earlier(records[first + index].start, end) : end
            let piece = segment.slice(Int(cursor.distance(from: start)), count: Int(right.distance(from: cursor)))
            guard makeRoom(for: piece.count, limits, heap) else {
                piece.release()
                if result.outcome == .duplicate { result.outcome = .refused }
                break
            }
            place(piece, at: index, start: cursor)
            result.outcome = .stored
            cursor = right
        }
        segment.release()
        return result
    }

    /// Index of the first record that starts behind `number`. Complexity: O(log n), O(1) behind the last.
    private func position(after number: SequenceNumber) -> Int {
        var low = 0
        var high = count
        guard high > 0 else { return 0 }
        if unsafe records[first + high - 1].start <= number { return high }
        while low < high {
            let middle = (low + high) / 2
            if unsafe records[first + middle].start <= number { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Room for one more record, and the right to keep `bytes` more.
    private mutating func makeRoom(for bytes: UInt32, _ limits: ReorderLimits, _ heap: HeapReference) -> Bool {
        guard !isEmpty else {
            guard limits.segments > 0, bytes <= limits.bytes else { return false }
            return enlarge(to: Self.initialByteCount, heap)
        }
        let header = unsafe header
        guard unsafe header.pointee.count < limits.segments, bytes <= limits.bytes,
            unsafe header.pointee.bytes <= limits.bytes - bytes
        else { return false }
        if unsafe header.pointee.first + header.pointee.count < header.pointee.capacity { return true }
        if unsafe header.pointee.first > header.pointee.capacity / 4 {
            slideToFront()
            return true
        }
        return enlarge(to: storage.byteCount * 2, heap)
    }

    private static var initialByteCount: Int { 512 }

    private mutating func slideToFront() {
        unsafe records.update(from: records + first, count: count)
        unsafe header.pointee.first = 0
    }

    private mutating func enlarge(to byteCount: Int, _ heap: HeapReference) -> Bool {
        let larger = heap.allocateSegment(byteCount)
        guard !larger.isNull else {
            // The front's free records will do where there are some.
            guard !isEmpty, first > 0 else { return false }
            slideToFront()
            return true
        }
        let capacity = UInt32((byteCount - MemoryLayout<Header>.stride) / MemoryLayout<Record>.stride)
        let old = self
        storage = larger
        if old.isEmpty {
            unsafe header.initialize(to: Header(capacity: capacity))
        } else {
            unsafe header.initialize(to: old.header.pointee)
            unsafe header.pointee.first = 0
            unsafe header.pointee.capacity = capacity
            unsafe records.initialize(from: old.records + old.first, count: old.count)
            old.storage.release()
        }
        return true
    }

    /// Puts a record at its place (there is room) and joins it with the runs that it touches.
    private mutating func place(_ segment: Segment, at index: Int, start: SequenceNumber) {
        let first = self.first
        let count = self.count
        let end = start + segment.count
        assert(unsafe first + count < Int(header.pointee.capacity), "there is room for one more")
        let at = unsafe records + (first + index)
        if index < count { unsafe (at + 1).update(from: at, count: count - index) }
        var run = SACKBlock(left: start, right: end)
        if index > 0, unsafe (at - 1).pointee.end == start { run.left = runStart(endingAt: index - 1) }
        if index < count, unsafe (at + 1).pointee.start == end { run.right = unsafe (at + 1).pointee.runLimit }
        unsafe at.initialize(to: Record(segment: segment, start: start, runLimit: run.right))
        unsafe header.pointee.count += 1
        unsafe header.pointee.bytes += segment.count
        label(run, around: index)
    }

    /// Where the run begins whose last record is `index`. The first record of the queue is the first of its run.
    private func runStart(endingAt index: Int) -> SequenceNumber {
        let last = unsafe records[first + index]
        let front = unsafe records[first].start
        if index == 0 { return front }
        // Of a run's only record `runLimit` is the end.
        return last.runLimit == last.end ? last.start : SequenceNumber.later(last.runLimit, front)
    }

    /// Writes the limits of a run into its first and last record, and makes it the most recent. One of the two is at `index` or next to it
    /// in nearly all cases; a gap that closes costs a search each.
    private mutating func label(_ run: SACKBlock, around index: Int) {
        let leftIndex = unsafe records[first + index].start == run.left ? index : position(after: run.left) - 1
        let rightIndex = unsafe records[first + index].end == run.right ? index : position(after: run.right - 1) - 1
        unsafe records[first + rightIndex].runLimit = run.left
        unsafe records[first + leftIndex].runLimit = run.right
        makeRecent(run)
    }

    // MARK: Taking out

    /// The next data in order: what begins at `next` or, partly known by now, before it. Null where there is a gap. The reference passes to
    /// the caller, for whom `next` moves on by `count`. Complexity: O(1).
    @inline(__always)
    package mutating func takeInOrder(next: SequenceNumber) -> Segment { isEmpty ? .null : takeFirst(next) }

    @inline(never)
    private mutating func takeFirst(_ next: SequenceNumber) -> Segment {
        while !isEmpty {
            let record = unsafe records[first]
            guard record.start <= next else { return .null }
            removeFirst(record)
            var segment = record.segment
            let known = next.distance(from: record.start)
            if known < segment.count {
                segment.trimFirst(Int(known))
                return segment
            }
            segment.release()
        }
        return .null
    }

    private mutating func removeFirst(_ record: Record) {
        let header = unsafe header
        unsafe header.pointee.first += 1
        unsafe header.pointee.count -= 1
        unsafe header.pointee.bytes -= record.segment.count
        guard unsafe header.pointee.count > 0 else {
            storage.release()
            storage = .null
            return
        }
        // The next record of the run, where there is one, is its first now.
        let end = record.end
        if unsafe records[first].start == end { unsafe records[first].runLimit = record.runLimit }
        var kept = 0
        for index in unsafe 0..<header.pointee.recentCount {
            var run = unsafe header.pointee.recent[index]
            if run.left < end { run.left = end }
            guard run.left < run.right else { continue }
            unsafe header.pointee.recent[kept] = run
            kept += 1
        }
        unsafe header.pointee.recentCount = kept
    }

    /// Drops everything.
    package mutating func releaseAll() {
        guard !isEmpty else { return }
        for index in 0..<count { unsafe records[first + index].segment.release() }
        storage.release()
        storage = .null
    }

    // MARK: Telling

    /// Adds the blocks for an acknowledgement to `options`: the duplicate, where it is not empty, and then the runs, most recently changed
    /// first, as many as there is room for (4). RFC 2018, section 4; RFC 2883, section 4.
    package func report(into options: inout TCPOptions, duplicate: SACKBlock = SACKBlock(left: SequenceNumber(0), right: SequenceNumber(0))) {
        if duplicate.left != duplicate.right { options.appendSACK(duplicate) }
        guard !isEmpty else { return }
        for index in unsafe 0..<header.pointee.recentCount where !(unsafe options.appendSACK(header.pointee.recent[index])) { return }
        if unsafe header.pointee.recentCount < 4 { reportForgotten(into: &options) }
    }

    /// Of more than eight runs, those changed longest ago are not remembered: where few of the others are left, they have their turn.
    private func reportForgotten(into options: inout TCPOptions) {
        var index = 0
        // Each turn passes one of the three that are remembered at most, or fills one of four places.
        while index < count {
            let run = unsafe SACKBlock(left: records[first + index].start, right: records[first + index].runLimit)
            var isKnown = false
            for position in unsafe 0..<header.pointee.recentCount where unsafe header.pointee.recent[position] == run { isKnown = true }
            if !isKnown, !options.appendSACK(run) { return }
            index = position(after: run.right - 1)
        }
    }

    private var first: Int { unsafe Int(header.pointee.first) }

    private mutating func touchRun(at index: Int) {
        let header = unsafe header
        let number = unsafe records[first + index].start
        for position in unsafe 0..<header.pointee.recentCount {
            let run = unsafe header.pointee.recent[position]
            if run.left <= number, number < run.right { return makeRecent(run) }
        }
    }

    /// Puts a run in front of the list; those within it have become part of it.
    private mutating func makeRecent(_ run: SACKBlock) {
        let header = unsafe header
        var list = unsafe header.pointee.recent
        list[0] = run
        var kept = 1
        for index in unsafe 0..<header.pointee.recentCount {
            let other = unsafe header.pointee.recent[index]
            if kept == 8 { break }
            if run.left <= other.left, other.right <= run.right { continue }
            list[kept] = other
            kept += 1
        }
        unsafe header.pointee.recent = list
        unsafe header.pointee.recentCount = kept
    }
}
