/// The application's data that waits to be sent or acknowledged, in the application's own buffers.
///
/// Plain data, like its ring: ``free()`` releases everything. Appending, releasing what was acknowledged and finding what is sent next take
/// constant time; finding a retransmission's bytes O(log n).
///
/// Invariant: entries are not empty and follow each other without gaps; `cursor` is at most the number of entries.
struct SendQueue: BitwiseCopyable {
    struct Entry: BitwiseCopyable {
        var segment: Segment
        /// The sequence number of the segment's first byte.
        var start: SequenceNumber

        var end: SequenceNumber { start + segment.byteCount }
    }

    private var entries = HeapRing<Entry>()
    /// The entry in which SND.NXT lies, as far as the queue knows: where a search begins.
    private var cursor: UInt32 = 0

    init() {}

    @inline(__always) var isEmpty: Bool { entries.isEmpty }
    var byteCount: Int { entries.byteCount }

    /// Takes over the segment's reference; it is not empty, and `start` is the queue's end. False, and nothing changed, where the heap is
    /// exhausted.
    @inline(__always)
    mutating func append(_ segment: Segment, at start: SequenceNumber, in heap: HeapReference) -> Bool {
        entries.append(Entry(segment: segment, start: start), in: heap)
    }

    /// Takes the last segment out again, without releasing it.
    mutating func removeLast() -> Segment {
        let segment = entries.removeLast().segment
        cursor = min(cursor, entries.count)
        return segment
    }

    /// Releases the segments whose last byte is before `acknowledged`.
    @inline(__always)
    mutating func release(upTo acknowledged: SequenceNumber) {
        while !entries.isEmpty, entries[0].end <= acknowledged {
            entries.removeFirst().segment.release()
            cursor = cursor == 0 ? 0 : cursor &- 1
        }
        entries.shrinkIfEmpty()
    }

    /// Releases everything.
    mutating func free() {
        while !entries.isEmpty { entries.removeFirst().segment.release() }
        entries.free()
        cursor = 0
    }

    /// The entry that holds `sequence`, which is in the queue.
    @inline(__always)
    private mutating func index(of sequence: SequenceNumber) -> UInt32 {
        if cursor < entries.count {
            if entries[cursor].start <= sequence, sequence < entries[cursor].end { return cursor }
            let next = cursor &+ 1
            if next < entries.count, entries[next].start == sequence {
                cursor = next
                return next
            }
        }
        return search(sequence)
    }

    @inline(never)
    private mutating func search(_ sequence: SequenceNumber) -> UInt32 {
        var low: UInt32 = 0
        var high = entries.count
        while high - low > 1 {
            let middle = (low + high) / 2
            if entries[middle].start <= sequence { low = middle } else { high = middle }
        }
        cursor = low
        return low
    }

    /// Whether all `length` bytes from `sequence` on lie in the queue.
    func holds(_ sequence: SequenceNumber, _ length: Int) -> Bool {
        guard !entries.isEmpty else { return false }
        return entries[0].start <= sequence && sequence + length <= entries[entries.count - 1].end
    }

    /// Copies `length` bytes from `sequence` on to the start of `target`, and answers their sum where `sums`, 0 elsewhere.
    @inline(__always)
    mutating func copy(_ sequence: SequenceNumber, _ length: Int, to target: PacketBytes, sums: Bool) -> UInt64 {
        let index = index(of: sequence)
        let offset = Int(sequence.distance(from: entries[index].start))
        let segment = entries[index].segment
        if segment.byteCount &- offset >= length {
            let source = segment.packet.slice(offset, length)
            if sums { return InternetChecksum.copyAndSum(from: source, to: target) }
            target.copy(from: source, at: 0)
            return 0
        }
        copyPieces(index, offset, length, to: target)
        return sums ? InternetChecksum.sum(target.slice(0, length)) : 0
    }

    @inline(never)
    private func copyPieces(_ first: UInt32, _ firstOffset: Int, _ length: Int, to target: PacketBytes) {
        var index = first
        var offset = firstOffset
        var done = 0
        while done < length {
            let segment = entries[index].segment
            let count = min(segment.byteCount - offset, length - done)
            target.copy(from: segment.packet.slice(offset, count), at: done)
            done += count
            offset = 0
            index += 1
        }
    }

    /// Whether `length` bytes from `sequence` on lie in more than 16 pieces: they are cheaper to copy then than to gather, and a list holds 1,024
    /// pieces at most. Complexity: O(16).
    @inline(__always)
    mutating func isScattered(_ sequence: SequenceNumber, _ length: Int) -> Bool {
        let first = index(of: sequence)
        if entries[first].end >= sequence + length { return false }
        let last = first &+ 16
        return last < entries.count && entries[last].start < sequence + length
    }

    /// `length` bytes from `sequence` on as slices with references of their own; empty where the heap is exhausted. `sum` gets theirs added
    /// where `sums`.
    mutating func slices(_ sequence: SequenceNumber, _ length: Int, sums: Bool, sum: inout UInt64, in heap: HeapReference) -> SegmentList {
        var index = index(of: sequence)
        var offset = Int(sequence.distance(from: entries[index].start))
        var left = length
        var list = SegmentList.empty
        var accumulator = InternetChecksum.Accumulator(initial: sum)
        while left > 0 {
            let count = min(entries[index].segment.byteCount - offset, left)
            let slice = entries[index].segment.slice(offset, count: count)
            if sums { accumulator.add(slice.packet) }
            if list.isEmpty {
                list = .single(slice)
            } else if !heap.append(slice, to: &list) {
                slice.release()
                list.releaseAll()
                return .empty
            }
            left -= count
            offset = 0
            index += 1
        }
        if sums { sum = accumulator.sum }
        return list
    }
}
