import Testing
@testable import Demikernel

@Suite struct BufferTests {
    private func makeHeap() throws -> Heap {
        let heap = try Heap(HeapConfiguration(limit: 8 << 20, lockPages: false))
        heap.makeCurrent()
        return heap
    }

    @Test func `headroom becomes bytes in front, tailroom bytes behind`() throws {
        let heap = try makeHeap()
        var buffer = try heap.allocate(4, headroom: 10)
        try buffer.replaceContents(with: "data")
        #expect(buffer.headroom == 10 && buffer.tailroom == 64 - 14)
        try buffer.prepend(4)
        #expect(buffer.count == 8 && buffer.headroom == 6)
        var bytes = buffer.mutableBytes
        bytes.storeBytes(of: 0x2d2d_2d2d, toByteOffset: 0, as: UInt32.self)
        try buffer.append(contentsOf: " end")
        try buffer.append(contentsOf: [33])
        #expect(buffer.decodedAsUTF8() == "----data end!")
        #expect(throws: DemikernelError(.noBufferSpace, "")) { try buffer.prepend(7) }
        #expect(throws: DemikernelError(.noBufferSpace, "")) { try buffer.prepend(-1) }
        #expect(throws: DemikernelError(.noBufferSpace, "")) { try buffer.append(64) }
        #expect(throws: DemikernelError(.noBufferSpace, "")) { try buffer.append(.max) }
        #expect(throws: DemikernelError(.noBufferSpace, "")) { try buffer.append(contentsOf: [UInt8](repeating: 0, count: 64)) }
        #expect(throws: DemikernelError(.noBufferSpace, "")) { try buffer.replaceContents(with: [UInt8](repeating: 0, count: 64)) }
        #expect(buffer.decodedAsUTF8() == "----data end!")
    }

    @Test func `trimming stays inside`() throws {
        let heap = try makeHeap()
        var buffer = try heap.allocate(0)
        try buffer.append(contentsOf: "0123456789")
        try buffer.trimFirst(2)
        try buffer.trimLast(3)
        #expect(buffer.decodedAsUTF8() == "23456")
        for length in [6, -1, .max, .min] {
            #expect(throws: DemikernelError(.invalidArgument, "")) { try buffer.trimFirst(length) }
            #expect(throws: DemikernelError(.invalidArgument, "")) { try buffer.trimLast(length) }
        }
        try buffer.trimFirst(5)
        #expect(buffer.isEmpty && buffer.bytes.isEmpty)
    }

    @Test func `splits and slices refer to the same object, which goes with the last of them`() throws {
        let heap = try makeHeap()
        var front = try heap.allocate(0)
        try front.append(contentsOf: "front|back")
        let back = try front.split(at: 5)
        let bar = try back.slice(0..<1)
        #expect(front.decodedAsUTF8() == "front" && back.decodedAsUTF8() == "|back" && bar.decodedAsUTF8() == "|")
        #expect(heap.statistics.liveObjects == 1)
        let isEqual = back.contentsEqual("|back") && !back.contentsEqual("|bacK") && !back.contentsEqual("") && back.contentsEqual([124, 98, 97, 99, 107])
        #expect(isEqual)
        for index in [6, -1] { #expect(throws: DemikernelError(.invalidArgument, "")) { _ = try splitAndDrop(&front, index) } }
        #expect(throws: DemikernelError(.invalidArgument, "")) { try dropSlice(back, 3..<6) }
        #expect(throws: DemikernelError(.invalidArgument, "")) { try dropSlice(back, -1..<2) }
        _ = consume front
        _ = consume back
        #expect(heap.statistics.liveObjects == 1 && bar.count == 1)
        _ = consume bar
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test func `closures over the bytes pass results and typed errors`() throws {
        let heap = try makeHeap()
        var buffer = try heap.allocate(3)
        let written = unsafe buffer.withUnsafeMutableBytes { (bytes) -> Int in
            unsafe bytes.copyBytes(from: [1, 2, 3])
            return bytes.count
        }
        #expect(written == 3)
        let sum = unsafe buffer.withUnsafeBytes { unsafe $0.reduce(0) { $0 + Int($1) } }
        #expect(sum == 6)
        do throws(DemikernelError) {
            try unsafe buffer.withUnsafeBytes { (_) throws(DemikernelError) in throw DemikernelError(.invalidArgument, "no") }
        } catch { #expect(error.errno == .invalidArgument) }
    }

    @Test func `a buffer becomes the libOS's segment and comes back`() throws {
        let heap = try makeHeap()
        var buffer = try heap.allocate(5)
        try buffer.replaceContents(with: "there")
        let segment = buffer.intoSegment()
        #expect(heap.statistics.liveObjects == 1)
        let again = Buffer(adopting: segment)
        #expect(again.decodedAsUTF8() == "there")
        _ = consume again
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test func `segments slice and trim`() throws {
        let heap = try makeHeap()
        var segment = heap.allocateSegment(100)
        let part = segment.slice(90, count: 10)
        #expect(part.offset == 90 && part.byteCount == 10)
        for (start, count) in [(91, 10), (-1, 1), (0, -1), (101, 0), (.max, 1), (1, .max)] { #expect(segment.slice(start, count: count).isNull) }
        segment.trimFirst(30)
        segment.trimLast(-5)
        segment.trimLast(1000)
        #expect(segment.byteCount == 0 && segment.headroom == 30 && segment.tailroom == 98)
        #expect(segment.prepend(30) && !segment.prepend(1) && segment.append(98) && !segment.append(1))
        part.release()
        segment.release()
        Segment.null.release()
        Segment.null.retain()
        #expect(heap.statistics.liveObjects == 0 && Segment.null.capacity == 0)
        #expect(MemoryLayout<Segment>.size == 16 && MemoryLayout<SegmentList>.size == 32)
    }

    // MARK: Scatter-gather arrays

    @Test(arguments: [0, 1, 2, 16, 17, 1024])
    func `an array shows its buffers in order and lets go of them`(count: Int) throws {
        let heap = try makeHeap()
        var array = ScatterGatherArray()
        var expected: [UInt8] = []
        for index in 0..<count {
            var buffer = try heap.allocate(3)
            let bytes = [UInt8(truncatingIfNeeded: index), UInt8(index >> 8), 9]
            try buffer.replaceContents(with: bytes)
            expected += bytes
            let isTaken = array.append(buffer) == nil
            #expect(isTaken)
        }
        #expect(array.count == count && array.byteCount == 3 * count)
        #expect(array.copyToArray() == expected)
        for index in 0..<count {
            let first = try array.withSegment(at: index) { unsafe $0.unsafeLoad(as: UInt8.self) }
            #expect(first == UInt8(truncatingIfNeeded: index))
        }
        for index in [count, -1] {
            #expect(throws: DemikernelError(.invalidArgument, "")) { try array.withSegment(at: index) { _ in } }
        }
        let list = array.intoSegmentList()
        #expect(list.count == count && list[count].isNull && list[-1].isNull)
        var again = ScatterGatherArray(adopting: list)
        for index in 0..<(count / 2) {
            let first = again.removeFirst()?.copyToArray() ?? []
            #expect(first.first == UInt8(truncatingIfNeeded: index))
        }
        #expect(again.copyToArray() == [UInt8](expected.dropFirst(count / 2 * 3)))
        _ = consume again
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test func `an array that is used as a queue does not grow`() throws {
        let heap = try makeHeap()
        var array = ScatterGatherArray()
        for index in 0..<5000 {
            let isTaken = array.append(try heap.allocate(index % 7)) == nil
            #expect(isTaken)
            if index >= 20 { _ = array.removeFirst() }
        }
        #expect(array.count == 20 && heap.statistics.liveObjects == 21)
    }

    @Test func `a buffer that does not fit comes back`() throws {
        let heap = try makeHeap()
        var array = ScatterGatherArray()
        for _ in 0..<1024 { _ = array.append(try heap.allocate(1)) }
        var extra = try heap.allocate(5)
        try extra.replaceContents(with: "extra")
        let returned = array.append(extra)?.decodedAsUTF8()
        #expect(returned == "extra" && array.count == 1024)

        // Without a heap on this thread there is no place for the second buffer's record.
        var other = ScatterGatherArray(try heap.allocate(1))
        let second = try heap.allocate(2)
        heap.resign()
        let back = other.append(second)?.count
        #expect(back == 2 && other.count == 1)
        heap.makeCurrent()
    }

    @Test func `coalescing copies only where there is more than one buffer`() throws {
        let heap = try makeHeap()
        var buffer = try heap.allocate(0)
        try buffer.append(contentsOf: "alone")
        let address = unsafe UInt(bitPattern: buffer.segment.start)
        let alone = try ScatterGatherArray(buffer).coalesced(in: heap)
        #expect(unsafe UInt(bitPattern: alone.segment.start) == address)

        var array = ScatterGatherArray()
        for text in ["one ", "two ", "", "three"] {
            var part = try heap.allocate(0)
            try part.append(contentsOf: text)
            _ = array.append(part)
        }
        let whole = try array.coalesced(in: heap)
        #expect(whole.decodedAsUTF8() == "one two three")
        #expect(try ScatterGatherArray().coalesced(in: heap).isEmpty)
    }

    @Test func `coalescing in an exhausted heap changes nothing`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20, lockPages: false))
        heap.makeCurrent()
        var array = ScatterGatherArray(try heap.allocate(600_000))
        _ = array.append(try heap.allocate(600_000))
        #expect(throws: DemikernelError(.noMemory, "")) { try array.coalesce(in: heap) }
        #expect(array.count == 2 && array.byteCount == 1_200_000)
    }

    @Test func `a segment list forgets bytes from the front across segments`() throws {
        let heap = try makeHeap()
        var array = ScatterGatherArray()
        for text in ["abc", "", "defgh", "ij"] {
            var part = try heap.allocate(0)
            try part.append(contentsOf: text)
            _ = array.append(part)
        }
        var list = array.intoSegmentList()
        list.trimFirst(-1)
        list.trimFirst(1)
        #expect(list.count == 4 && list.byteCount == 9)
        list.trimFirst(4)
        #expect(list.count == 2 && list.byteCount == 5)
        list.trimFirst(100)
        #expect(list.isEmpty && list.byteCount == 0 && heap.statistics.liveObjects == 0)
    }
}

private func splitAndDrop(_ buffer: inout Buffer, _ index: Int) throws { _ = try buffer.split(at: index) }
private func dropSlice(_ buffer: borrowing Buffer, _ range: Range<Int>) throws { _ = try buffer.slice(range) }
