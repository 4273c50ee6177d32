import Testing
@testable import Demikernel

@Suite struct ReorderQueueTests {
    /// The byte that the stream has at a number: a function of the number alone, so that overlapping segments agree.
    private static func byte(_ number: UInt32) -> UInt8 { UInt8(truncatingIfNeeded: (number &* 0x9e37_79b1) >> 24) }

    private static func segment(_ heap: HeapReference, _ start: SequenceNumber, _ count: Int) -> Segment {
        let segment = heap.allocateSegment(count)
        for offset in 0..<count { unsafe segment.bytes[offset] = byte(start.rawValue &+ UInt32(offset)) }
        return segment
    }

    private static func blocks(_ queue: ReorderQueue, duplicate: SACKBlock? = nil) -> [SACKBlock] {
        var options = TCPOptions()
        if let duplicate { queue.report(into: &options, duplicate: duplicate) } else { queue.report(into: &options) }
        return (0..<options.sackCount).map { options.sackBlocks[$0] }
    }

    private static func block(_ left: UInt32, _ right: UInt32) -> SACKBlock { SACKBlock(left: SequenceNumber(left), right: SequenceNumber(right)) }

    @Test(arguments: [1, 2, 3, 4, 5, 6, 7, 8, 9, 163] as [UInt64])
    func `a random history agrees with one flag per byte`(seed: UInt64) throws {
        let heap = try Heap(HeapConfiguration(limit: 64 << 20, hugePages: .never, lockPages: false, checked: true))
        heap.makeCurrent()
        var generator = SplitMix64(seed: seed)
        var queue = ReorderQueue()
        // Near the end of the sequence space, so that it wraps.
        let base = SequenceNumber(UInt32(truncatingIfNeeded: 0xffff_f000 &+ seed * 300))
        let window = 3_000
        var held = [Bool](repeating: false, count: 16_000)
        var next = 0
        let limits = ReorderLimits(segments: seed % 3 == 0 ? 12 : 1024, bytes: seed % 4 == 0 ? 1_500 : 1 << 20)
        for _ in 0..<800 where next < held.count - window {
            let start = max(0, next + Int.random(in: -150..<window - 200, using: &generator))
            let count = Int.random(in: 0...200, using: &generator)
            let room = queue.count < limits.segments && queue.byteCount + count <= limits.bytes
            let fresh = (start..<start + count).filter { $0 >= next && !held[$0] }
            let stale = (start..<start + count).first { $0 < next || held[$0] }
            let before = queue.byteCount
            let result = queue.insert(
                Self.segment(heap.reference, base + start, count), at: base + start, next: base + next, limits: limits, heap: heap.reference)
            if fresh.isEmpty {
                #expect(result.outcome == .duplicate)
                #expect(queue.byteCount == before)
            } else if room, queue.byteCount - before == fresh.count {
                #expect(result.outcome == .stored)
                for offset in fresh { held[offset] = true }
            } else {
                // Refused, or taken in part: the prefix of what is new.
                #expect(!room || queue.count == limits.segments || queue.byteCount + count > limits.bytes)
                for offset in fresh.prefix(queue.byteCount - before) { held[offset] = true }
            }
            if let stale, result.outcome != .refused || stale == start {
                #expect(result.duplicate.left == base + stale)
                var end = stale
                while end < start + count, end < next || held[end], !fresh.contains(end) { end += 1 }
                #expect(result.duplicate.right > result.duplicate.left && result.duplicate.right <= base + end)
            } else if stale == nil {
                #expect(result.duplicate.left == result.duplicate.right)
            }
            #expect(queue.byteCount == held[max(0, next - 10)..<min(held.count, next + window + 10)].count(where: { $0 }))
            #expect(queue.isEmpty == (queue.byteCount == 0))

            let blocks = Self.blocks(queue)
            for block in blocks {
                // Exact runs: every byte is held, the ones at either side are not.
                let left = Int(block.left.distance(from: base)), right = Int(block.right.distance(from: base))
                #expect(left < right && right < held.count)
                guard left < right, right < held.count else { break }
                #expect(held[left..<right].allSatisfy { $0 })
                #expect(!held[right] && (left == 0 || left <= next || !held[left - 1]))
            }
            for (index, block) in blocks.enumerated() {
                for other in blocks[(index + 1)...] { #expect(block.right <= other.left || other.right <= block.left) }
            }
            if result.outcome == .stored, let last = fresh.first(where: { held[$0] }), queue.byteCount - before == fresh.count, let block = blocks.first {
                let number = base + (fresh.last ?? last)
                #expect(block.left <= number && number < block.right)
            }
            // What was reported and is still there is not forgotten while there are no more than four.
            let runs = (next..<min(held.count, next + window + 10)).count(where: { held[$0] && ($0 == 0 || !held[$0 - 1]) })
            if runs <= 4 { #expect(blocks.count == runs) }

            // Sometimes the gap closes, some bytes late or early.
            if Int.random(in: 0..<3, using: &generator) == 0 {
                let advance = held[next...].firstIndex(of: true).map { $0 - next } ?? 0
                next += Int.random(in: 0..<4, using: &generator) == 0 ? Int.random(in: 0..<400, using: &generator) : advance
                for offset in max(0, next - window)..<next { held[offset] = false }
                // Bytes below next leave the queue as it is asked.
                while true {
                    let segment = queue.takeInOrder(next: base + next)
                    if segment.isNull { break }
                    for offset in 0..<segment.byteCount {
                        #expect(held[next + offset])
                        #expect(unsafe segment.bytes[offset] == Self.byte((base + next + offset).rawValue))
                        held[next + offset] = false
                    }
                    next += segment.byteCount
                    segment.release()
                }
                #expect(!held[next])
                #expect(queue.byteCount == held[max(0, next - 10)..<min(held.count, next + window + 10)].count(where: { $0 }))
            }
        }
        queue.releaseAll()
        #expect(queue.isEmpty)
        #expect(heap.statistics.liveObjects == 0 && heap.statistics.faults == 0)
    }

    /// RFC 2018, section 4, case 2: the first of eight segments of 500 bytes is lost.
    @Test func `one gap makes one block that grows`() throws {
        let heap = try Heap(HeapConfiguration(limit: 64 << 20, hugePages: .never, lockPages: false))
        heap.makeCurrent()
        var queue = ReorderQueue()
        for index in 1..<8 as Range<UInt32> {
            let start = SequenceNumber(5_000 + index * 500)
            let result = queue.insert(
                Self.segment(heap.reference, start, 500), at: start, next: SequenceNumber(5_000), limits: ReorderLimits(), heap: heap.reference)
            #expect(result.outcome == .stored)
            #expect(Self.blocks(queue) == [Self.block(5_500, 5_500 + index * 500)])
        }
        queue.releaseAll()
    }

    /// RFC 2018, section 4, case 3: the first, third, fifth and seventh are lost.
    @Test func `several gaps are reported with the newest first`() throws {
        let heap = try Heap(HeapConfiguration(limit: 64 << 20, hugePages: .never, lockPages: false))
        heap.makeCurrent()
        var queue = ReorderQueue()
        func arrive(_ number: UInt32) {
            let start = SequenceNumber(number)
            _ = queue.insert(
                Self.segment(heap.reference, start, 500), at: start, next: SequenceNumber(5_500), limits: ReorderLimits(), heap: heap.reference)
        }
        arrive(6_000)
        #expect(Self.blocks(queue) == [Self.block(6_000, 6_500)])
        arrive(7_000)
        #expect(Self.blocks(queue) == [Self.block(7_000, 7_500), Self.block(6_000, 6_500)])
        arrive(8_000)
        #expect(Self.blocks(queue) == [Self.block(8_000, 8_500), Self.block(7_000, 7_500), Self.block(6_000, 6_500)])
        // The fourth packet is received: it joins two blocks.
        arrive(6_500)
        #expect(Self.blocks(queue) == [Self.block(6_000, 7_500), Self.block(8_000, 8_500)])
        // RFC 2883, section 4.2.2: a duplicate within a block is followed by the block.
        let start = SequenceNumber(8_100)
        let result = queue.insert(
            Self.segment(heap.reference, start, 200), at: start, next: SequenceNumber(5_500), limits: ReorderLimits(), heap: heap.reference)
        #expect(result.outcome == .duplicate && result.duplicate == Self.block(8_100, 8_300))
        #expect(Self.blocks(queue, duplicate: result.duplicate) == [Self.block(8_100, 8_300), Self.block(8_000, 8_500), Self.block(6_000, 7_500)])
        queue.releaseAll()
    }

    @Test func `data before the next expected number is a duplicate and takes no memory`() throws {
        let heap = try Heap(HeapConfiguration(limit: 64 << 20, hugePages: .never, lockPages: false))
        heap.makeCurrent()
        var queue = ReorderQueue()
        let result = queue.insert(
            Self.segment(heap.reference, SequenceNumber(1_000), 500), at: SequenceNumber(1_000), next: SequenceNumber(1_500),
            limits: ReorderLimits(), heap: heap.reference)
        #expect(result.outcome == .duplicate && result.duplicate == Self.block(1_000, 1_500))
        #expect(queue.isEmpty)
        #expect(Self.blocks(queue, duplicate: result.duplicate) == [Self.block(1_000, 1_500)])
        #expect(heap.statistics.liveObjects == 0)
        #expect(MemoryLayout<ReorderQueue>.size <= 16)
    }

    @Test func `an exhausted heap refuses and leaks nothing`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20, hugePages: .never, lockPages: false))
        heap.makeCurrent()
        var queue = ReorderQueue()
        var kept = 0
        for index in 0..<100_000 as Range<UInt32> {
            let segment = heap.allocateSegment(64)
            if segment.isNull { break }
            let start = SequenceNumber(index &* 100)
            let result = queue.insert(
                segment, at: start, next: SequenceNumber(.max - 5), limits: ReorderLimits(segments: 65_536, bytes: .max), heap: heap.reference)
            if result.outcome == .stored { kept += 1 } else { break }
        }
        #expect(kept > 100 && queue.count == kept && queue.byteCount == kept * 64)
        queue.releaseAll()
        #expect(heap.statistics.liveObjects == 0)
    }
}
