/// What is out and not acknowledged: when each part was last sent, and what is known of it. SACK's scoreboard (RFC 6675) and RACK's
/// transmission records (RFC 8985) in one.
///
/// One record stands for neighbouring bytes that were sent at the same time and fared alike, so a burst is one record however many segments it
/// has, and splits where selective acknowledgements do. The first record is inline: a request that is answered before the next one is sent costs
/// no memory. More are in one heap object, given back when everything is acknowledged.
///
/// Not owned automatically: ``free()`` is called exactly once when the connection goes, or the peer is known to have everything.
///
/// Invariant: `storage` is nil, and `single` the only record (none where its length is 0), or it is a heap object with a `Header` and
/// initialised records `first ..< first + count`, which follow each other without gaps, none empty. `sackedBytes` and `lostBytes` are the
/// lengths of the records that say so; no record says both.
@safe package struct SendScoreboard: BitwiseCopyable {
    struct Record: BitwiseCopyable {
        /// When it was last sent, ns.
        var sentAt: UInt64 = 0
        var start = SequenceNumber(0)
        var length: UInt32 = 0
        /// For a record that is sacked: as many from here on are, at least.
        var skip: UInt32 = 1
        var state: State = []

        @inline(__always) var end: SequenceNumber { start + length }
    }

    struct State: OptionSet, BitwiseCopyable {
        let rawValue: UInt8
        static var sacked: State { State(rawValue: 1) }
        /// Taken for lost, and not sent again since.
        static var lost: State { State(rawValue: 2) }
        /// Sent more than once.
        static var retransmitted: State { State(rawValue: 4) }
    }

    struct Header: BitwiseCopyable {
        var first: UInt32 = 0
        var count: UInt32 = 0
        var capacity: UInt32
        /// No record before this number is lost.
        var lostFrom: SequenceNumber
    }

    private var storage: UnsafeMutableRawPointer?
    private var single = Record()
    package internal(set) var sackedBytes: UInt32 = 0
    package internal(set) var lostBytes: UInt32 = 0

    // RACK, RFC 8985, section 5.3: of the last sent among the delivered segments, its time and end and its round trip.
    var latestSentAt: UInt64 = 0
    var latestRoundTrip: UInt64 = 0
    var latestEnd = SequenceNumber(0)
    /// RACK.fack: the highest number delivered.
    var highestDelivered = SequenceNumber(0)
    /// RACK.dsack_round.
    var duplicateRoundEnd = SequenceNumber(0)
    /// RACK.segs_sacked, about.
    var sackedSegments: UInt8 = 0
    /// RACK.reo_wnd_mult and RACK.reo_wnd_persist.
    var windowMultiple: UInt8 = 1
    var windowPersistence: UInt8 = 16
    /// RACK.reordering_seen.
    package internal(set) var seesReordering = false
    /// `duplicateRoundEnd` means something.
    var isInDuplicateRound = false
    /// Something has been delivered: `latestSentAt` and the rest mean something.
    private(set) var hasDelivery = false

    private static var initialByteCount: Int { 512 }
    /// The heap's largest object short of a span: 2,730 records.
    private static var byteCountMaximum: Int { 65_536 }

    @inline(__always) package init() {}

    // MARK: What is out

    @inline(__always) package var isEmpty: Bool { unsafe storage == nil && single.length == 0 }
    /// Something is to be sent again.
    @inline(__always) package var hasLost: Bool { lostBytes != 0 }
    /// Something behind what is missing has arrived, or something is missing.
    @inline(__always) package var hasHoles: Bool { sackedBytes | lostBytes != 0 }
    /// Of `flight` bytes (SND.NXT - SND.UNA), those that are in the network as far as is known: RFC 6675's pipe, with what was lost counted
    /// again once it is sent again.
    @inline(__always) package func inNetwork(_ flight: UInt32) -> UInt32 {
        let gone = sackedBytes &+ lostBytes
        return flight > gone ? flight &- gone : 0
    }

    // MARK: Sending

    /// Notes new data, which begins where the last ended. False, and nothing changed, where the heap is exhausted and the last record cannot
    /// stand for this as well. Complexity: O(1) amortised; no memory while everything out was sent at the same time.
    @inline(__always)
    package mutating func recordSent(_ start: SequenceNumber, _ length: UInt32, now: UInt64, in heap: HeapReference) -> Bool {
        if unsafe storage == nil {
            if single.length == 0 {
                single = Record(sentAt: now, start: start, length: length)
                return true
            }
            if single.sentAt == now, single.state == [] {
                single.length &+= length
                return true
            }
        }
        return append(Record(sentAt: now, start: start, length: length), heap)
    }

    @inline(never)
    private mutating func append(_ new: Record, _ heap: HeapReference) -> Bool {
        var last = self[count - 1]
        assert(last.end == new.start, "what is sent next follows what was sent last")
        if last.state == [], last.sentAt == new.sentAt {
            last.length &+= new.length
            self[count - 1] = last
            return true
        }
        joinIfNearlyFull(heap)
        if makeRoom(heap) {
            let index = count
            unsafe header.pointee.count &+= 1
            self[index] = new
            return true
        }
        last = self[count - 1]
        guard last.state == [] else { return false }
        // One record for both; as if the first had been sent with the second, so that neither is taken for lost early.
        last.length &+= new.length
        last.sentAt = new.sentAt
        self[count - 1] = last
        return true
    }

    /// Notes that `range`, or as much of it as is out, is sent again. Complexity: O(log n), and a move of the records behind where it splits one.
    package mutating func recordRetransmitted(_ range: SequenceRange, now: UInt64, in heap: HeapReference) {
        guard !isEmpty, !range.isEmpty else { return }
        joinIfNearlyFull(heap)
        var index = index(of: SequenceNumber.later(range.start, self[0].start))
        index = splitIfInside(index, at: range.start, heap)
        while index < count, self[index].start < range.end {
            if self[index].end > range.end { _ = splitIfInside(index, at: range.end, heap) }
            var record = self[index]
            if !record.state.contains(.sacked) {
                if record.state.contains(.lost) { lostBytes &-= record.length }
                record.state = .retransmitted
                record.sentAt = now
                self[index] = record
            }
            index += 1
        }
    }

    // MARK: Acknowledgements

    /// Everything before `delivery.acknowledgement` has arrived. Complexity: O(records acknowledged); a few ns for the one that was sent at once.
    @inline(__always)
    package mutating func acknowledge(now: UInt64, _ delivery: inout Delivery) {
        if unsafe storage == nil {
            guard single.length != 0, delivery.acknowledgement > single.start else { return }
            let length = min(single.length, delivery.acknowledgement.distance(from: single.start))
            take(single, length, now: now, &delivery)
            single.start += length
            single.length &-= length
            if sackedBytes == 0 { sackedSegments = 0 }
        } else {
            acknowledgeMany(now: now, &delivery)
        }
    }

    /// The same where the one record there is was sent once and delivered in order, with nothing more to tell than its round trip: the answer,
    /// at least 1. 0, and nothing changed, in every other case.
    @inline(__always)
    package mutating func acknowledgeSingle(_ acknowledgement: SequenceNumber, now: UInt64) -> UInt64 {
        guard unsafe storage == nil, single.length != 0, single.state == [], hasDelivery, sackedBytes == 0 else { return 0 }
        let length = acknowledgement.distance(from: single.start)
        guard length &- 1 < single.length, acknowledgement > highestDelivered else { return 0 }
        let roundTrip = now &- single.sentAt
        highestDelivered = acknowledgement
        if Self.isAfter(single.sentAt, acknowledgement, latestSentAt, latestEnd) {
            latestSentAt = single.sentAt
            latestEnd = acknowledgement
            latestRoundTrip = roundTrip
        }
        single.start = acknowledgement
        single.length &-= length
        sackedSegments = 0
        return max(1, roundTrip)
    }

    @inline(never)
    private mutating func acknowledgeMany(now: UInt64, _ delivery: inout Delivery) {
        let to = delivery.acknowledgement
        var first = unsafe header.pointee.first
        var left = unsafe header.pointee.count
        while left > 0 {
            let record = unsafe records[Int(first)]
            guard record.start < to else { break }
            let length = min(record.length, to.distance(from: record.start))
            take(record, length, now: now, &delivery)
            if length < record.length {
                unsafe records[Int(first)].start += length
                unsafe records[Int(first)].length &-= length
                break
            }
            first &+= 1
            left &-= 1
        }
        unsafe header.pointee.first = first
        unsafe header.pointee.count = left
        // Kept near the rest: numbers further apart than 2³¹ do not compare.
        unsafe header.pointee.lostFrom = SequenceNumber.later(header.pointee.lostFrom, to)
        if sackedBytes == 0 { sackedSegments = 0 }
        if left == 0 { free() }
    }

    /// The first `length` bytes of the first record are acknowledged.
    @inline(__always)
    private mutating func take(_ record: Record, _ length: UInt32, now: UInt64, _ delivery: inout Delivery) {
        delivery.acknowledged &+= length
        if record.state.contains(.sacked) {
            sackedBytes &-= length
            return
        }
        if record.state.contains(.lost) { lostBytes &-= length }
        deliver(record, end: record.start + length, now: now, highestBefore: hasDelivery ? highestDelivered : nil, &delivery)
        delivery.delivered &+= length
    }

    /// A record, or its part before `end`, is newly delivered: samples and RACK's state. RFC 8985, section 6.2, steps 1 to 3.
    @inline(__always)
    private mutating func deliver(
        _ record: Record, end: SequenceNumber, now: UInt64, highestBefore: SequenceNumber?, _ delivery: inout Delivery
    ) {
        let roundTrip = now &- record.sentAt
        if !record.state.contains(.retransmitted) {
            if delivery.roundTrip == 0 { delivery.roundTrip = max(1, roundTrip) }
            delivery.latestRoundTrip = max(1, roundTrip)
            delivery.includesOriginal = true
            if let highestBefore, end < highestBefore {
                delivery.isReordered = true
                seesReordering = true
            }
        } else if roundTrip < delivery.minimumRoundTrip || record.sentAt > delivery.notSentAfter {
            // The answer to an earlier transmission.
            return
        } else if delivery.roundTrip == 0, delivery.notSentAfter != .max {
            // The timestamp says which transmission is answered: RFC 7323, section 4.1.
            delivery.roundTrip = max(1, roundTrip)
        }
        if !hasDelivery {
            hasDelivery = true
            highestDelivered = end
            latestSentAt = record.sentAt
            latestEnd = end
            latestRoundTrip = roundTrip
            return
        }
        if end > highestDelivered { highestDelivered = end }
        if Self.isAfter(record.sentAt, end, latestSentAt, latestEnd) {
            latestSentAt = record.sentAt
            latestEnd = end
            latestRoundTrip = roundTrip
        }
    }

    /// RACK_sent_after.
    @inline(__always)
    static func isAfter(_ time: UInt64, _ end: SequenceNumber, _ otherTime: UInt64, _ otherEnd: SequenceNumber) -> Bool {
        time == otherTime ? end > otherEnd : time > otherTime
    }

    /// Gives back what memory there is: nothing is out any more, or nobody will ask.
    package mutating func free() {
        unsafe Segment(unchecked: storage, offset: 0, count: 0).release()
        unsafe storage = nil
        single.length = 0
        sackedBytes = 0
        lostBytes = 0
        sackedSegments = 0
    }

    // MARK: Selective acknowledgements

    /// Takes in the blocks of an acknowledgement, after ``acknowledge(now:_:)``. Blocks that are not within SND.UNA ..< SND.NXT say nothing,
    /// unless the first is a D-SACK (RFC 2883, section 5). Complexity: O(log n + records newly covered) a block, and a move of the records
    /// behind where it splits one.
    @inline(never)
    package mutating func sack(_ options: TCPOptions, now: UInt64, segmentSize: UInt32, in heap: HeapReference, _ delivery: inout Delivery) {
        if !isEmpty { joinIfNearlyFull(heap) }
        // Reordering is judged by what earlier acknowledgements told: within this one there is no order.
        let before = hasDelivery ? highestDelivered : nil
        for index in 0..<options.sackCount {
            let block = options.sackBlocks[index]
            guard block.left < block.right else { continue }
            if index == 0, isDuplicate(options, delivery.acknowledgement) {
                delivery.duplicate = block
                continue
            }
            guard block.left > delivery.acknowledgement, block.right <= delivery.next, !isEmpty else { continue }
            mark(block, now: now, highestBefore: before, heap, &delivery)
        }
        if delivery.sacked > 0 {
            let segments = (delivery.sacked &+ segmentSize &- 1) / max(1, segmentSize)
            sackedSegments = UInt8(min(255, UInt32(sackedSegments) &+ segments))
        }
        noteDuplicates(delivery)
    }

    /// Whether the first block tells of a duplicate: it lies below the acknowledgement or within the second block.
    private func isDuplicate(_ options: TCPOptions, _ acknowledgement: SequenceNumber) -> Bool {
        let first = options.sackBlocks[0]
        if first.right <= acknowledgement { return true }
        guard options.sackCount > 1 else { return false }
        let second = options.sackBlocks[1]
        return second.left <= first.left && first.right <= second.right
    }

    private mutating func mark(
        _ block: SACKBlock, now: UInt64, highestBefore: SequenceNumber?, _ heap: HeapReference, _ delivery: inout Delivery
    ) {
        guard block.right > self[0].start, block.left < self[count - 1].end else { return }
        var index = index(of: SequenceNumber.later(block.left, self[0].start))
        // Without memory to split, what is covered in part counts as not covered: the next acknowledgement says it again.
        if self[index].start < block.left, !self[index].state.contains(.sacked) {
            index = splitIfInside(index, at: block.left, heap)
            if self[index].start < block.left { index += 1 }
        }
        var run = -1
        while index < count, self[index].start < block.right {
            var record = self[index]
            if !record.state.contains(.sacked) {
                if record.end > block.right {
                    guard splitIfInside(index, at: block.right, heap) > index else { return }
                    record = self[index]
                }
                deliver(record, end: record.end, now: now, highestBefore: highestBefore, &delivery)
                delivery.delivered &+= record.length
                delivery.sacked &+= record.length
                sackedBytes &+= record.length
                if record.state.contains(.lost) { lostBytes &-= record.length }
                record.state.remove(.lost)
                record.state.insert(.sacked)
                record.skip = 1
                self[index] = record
            }
            if run >= 0 {
                self[run].skip &+= record.skip
            } else {
                run = index
            }
            index += Int(record.skip)
        }
    }

    // MARK: Records

    @inline(__always) var count: Int { unsafe storage == nil ? (single.length == 0 ? 0 : 1) : Int(header.pointee.count) }

    @inline(__always) var header: UnsafeMutablePointer<Header> {
        unsafe storage.unsafelyUnwrapped.assumingMemoryBound(to: Header.self)
    }
    @inline(__always) var hasStorage: Bool { unsafe storage != nil }
    @inline(__always) private var records: UnsafeMutablePointer<Record> {
        unsafe (storage.unsafelyUnwrapped + MemoryLayout<Header>.stride).assumingMemoryBound(to: Record.self)
    }

    /// Record `index`, in the order of sequence numbers; it is one of `count`.
    subscript(index: Int) -> Record {
        @inline(__always) get {
            assert(index >= 0 && index < count)
            return unsafe storage == nil ? single : records[Int(header.pointee.first) &+ index]
        }
        @inline(__always) set {
            assert(index >= 0 && index < count)
            if unsafe storage == nil { single = newValue } else { unsafe records[Int(header.pointee.first) &+ index] = newValue }
        }
    }

    /// The record that holds `number`; the last where none does. There is one, and `number` is not before the first.
    func index(of number: SequenceNumber) -> Int {
        var low = 0
        var high = count
        while high - low > 1 {
            let middle = (low + high) / 2
            if self[middle].start <= number { low = middle } else { high = middle }
        }
        return low
    }

    /// Splits record `index` at `number` where that lies inside, and answers the index of the record that begins there: `index` itself where
    /// nothing was to be split, or nothing could be for want of memory.
    mutating func splitIfInside(_ index: Int, at number: SequenceNumber, _ heap: HeapReference) -> Int {
        var record = self[index]
        guard record.start < number, number < record.end, makeRoom(heap) else { return index }
        let first = unsafe Int(header.pointee.first)
        let count = self.count
        assert(unsafe first + count < Int(header.pointee.capacity), "there is room for one more")
        let at = unsafe records + (first + index)
        unsafe (at + 1).update(from: at, count: count - index)
        unsafe header.pointee.count &+= 1
        let length = number.distance(from: record.start)
        unsafe (at + 1).pointee.start = number
        unsafe (at + 1).pointee.length = record.length &- length
        record.length = length
        unsafe at.pointee = record
        return index + 1
    }

    /// Room for one more record at the end.
    private mutating func makeRoom(_ heap: HeapReference) -> Bool {
        let old = unsafe storage
        if unsafe old != nil {
            let header = unsafe header
            if unsafe header.pointee.first &+ header.pointee.count < header.pointee.capacity { return true }
            if unsafe header.pointee.first > header.pointee.capacity / 4 { return slideToFront() }
            guard unsafe header.pointee.capacity < Self.capacity(Self.byteCountMaximum) else { return slideToFront() }
        }
        let byteCount = unsafe old == nil ? Self.initialByteCount : MemoryLayout<Header>.stride + Int(header.pointee.capacity) * 2 * MemoryLayout<Record>.stride
        let larger = heap.allocateSegment(min(Self.byteCountMaximum, byteCount))
        guard !larger.isNull else { return unsafe old == nil ? false : slideToFront() }
        let capacity = Self.capacity(larger.byteCount)
        if unsafe old == nil {
            let start = single.start
            unsafe storage = larger.start
            unsafe header.initialize(to: Header(count: 1, capacity: capacity, lostFrom: start))
            unsafe records.initialize(to: single)
        } else {
            let from = unsafe records + Int(header.pointee.first)
            let count = unsafe header.pointee.count
            let lostFrom = unsafe header.pointee.lostFrom
            unsafe storage = larger.start
            unsafe header.initialize(to: Header(count: count, capacity: capacity, lostFrom: lostFrom))
            unsafe records.initialize(from: from, count: Int(count))
            unsafe Segment(unchecked: old, offset: 0, count: 0).release()
        }
        return true
    }

    /// With the largest storage nearly full, joins records: neighbours that are sacked, then neighbours that fared alike, which count as sent
    /// when the later one was. What an operation splits needs eight records at most.
    @inline(__always)
    private mutating func joinIfNearlyFull(_ heap: HeapReference) {
        guard unsafe storage != nil, unsafe header.pointee.count &+ 8 > Self.capacity(Self.byteCountMaximum) else { return }
        join { left, right in left.state.contains(.sacked) || left.sentAt == right.sentAt }
        if unsafe header.pointee.count > Self.capacity(Self.byteCountMaximum) / 4 * 3 { join { _, _ in true } }
    }

    /// Joins records of the same state in pairs and, where they are sacked, in whole runs.
    @inline(never)
    private mutating func join(where condition: (Record, Record) -> Bool) {
        let count = self.count
        var kept = 0
        var wasJoined = false
        for index in 1..<max(count, 1) {
            var record = self[index]
            var last = self[kept]
            let isSacked = record.state.contains(.sacked)
            if last.state == record.state || isSacked && last.state.contains(.sacked), isSacked || !wasJoined, condition(last, record) {
                last.length &+= record.length
                last.sentAt = max(last.sentAt, record.sentAt)
                last.skip = 1
                self[kept] = last
                wasJoined = true
            } else {
                kept += 1
                record.skip = 1
                self[kept] = record
                wasJoined = false
            }
        }
        self[0].skip = 1
        unsafe header.pointee.count = UInt32(kept + 1)
    }

    private static func capacity(_ byteCount: Int) -> UInt32 {
        UInt32((byteCount - MemoryLayout<Header>.stride) / MemoryLayout<Record>.stride)
    }

    /// Moves the records to the front; whether there is room behind them then.
    private mutating func slideToFront() -> Bool {
        guard unsafe header.pointee.first > 0 else { return false }
        unsafe records.update(from: records + Int(header.pointee.first), count: Int(header.pointee.count))
        unsafe header.pointee.first = 0
        return true
    }
}
