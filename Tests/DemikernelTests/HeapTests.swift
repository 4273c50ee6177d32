import CDemikernelShims
import Glibc
import Testing
@testable import Demikernel

@Suite struct HeapTests {
    @Test(arguments: [0, 1, 64, 65, 2048, 65_536, 65_537, 1 << 20, 5 << 20])
    func `a buffer has the size that was asked for`(byteCount: Int) throws {
        let heap = try Heap(HeapConfiguration(limit: 16 << 20))
        heap.makeCurrent()
        var buffer = try heap.allocate(byteCount, headroom: 32)
        #expect(buffer.count == byteCount && buffer.headroom == 32)
        try buffer.replaceContents(with: [UInt8](repeating: 7, count: byteCount))
        #expect(buffer.copyToArray() == [UInt8](repeating: 7, count: byteCount))
        #expect(heap.statistics.liveObjects == 1)
        _ = consume buffer
        #expect(heap.statistics.liveObjects == 0)
        let report = heap.shutdown()
        #expect(report.isClean)
    }

    @Test func `sizes that make no sense are errors`() throws {
        let heap = try Heap(HeapConfiguration(limit: 4 << 20))
        heap.makeCurrent()
        for (count, headroom) in [(-1, 0), (0, -1), (.max, 1), (.min, 0), (.min, .min)] {
            #expect(throws: DemikernelError(.invalidArgument, "")) { try allocateAndDrop(heap, count, headroom) }
        }
        #expect(throws: DemikernelError(.noMemory, "")) { try allocateAndDrop(heap, .max, 0) }
        #expect(heap.allocateSegment(-1).isNull && heap.allocateSegment(.max).isNull && heap.allocateSegment(.min).isNull)
        #expect(unsafe heap.allocateRaw(.max) == nil)
        for limit in [0, -1, .max] {
            #expect(throws: DemikernelError(.invalidArgument, "")) { _ = try Heap(HeapConfiguration(limit: limit)).statistics }
        }
    }

    @Test(arguments: 6...16)
    func `objects of a class are aligned, apart, and as many as the layout says`(shift: Int) throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        heap.makeCurrent()
        var segments: [Segment] = []
        while true {
            let segment = heap.allocateSegment(1 << shift)
            if segment.isNull { break }
            segments.append(segment)
        }
        // DEMI_HEAP_CHECKED may be set: then there are fewer.
        let isChecked = unsafe heap.state.pointee.check != nil
        #expect(segments.count == 8 * Int(SuperblockLayout(shift: shift, checked: isChecked).capacity))
        let addresses = segments.map { unsafe UInt(bitPattern: $0.start) }.sorted()
        #expect(addresses.allSatisfy { $0 % UInt(min(1 << shift, 4096)) == 0 })
        #expect(zip(addresses, addresses.dropFirst()).allSatisfy { $1 - $0 >= UInt(1 << shift) })
        for segment in segments { segment.release() }
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test(arguments: [64, 2048, 65_536, 100_000, 700_000])
    func `exhaustion is ENOMEM and passes when something is released`(byteCount: Int) throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        heap.makeCurrent()
        for _ in 0..<3 {
            var segments: [Segment] = []
            while true {
                let segment = heap.allocateSegment(byteCount)
                if segment.isNull { break }
                segments.append(segment)
            }
            #expect(!segments.isEmpty)
            #expect(throws: DemikernelError(.noMemory, "")) { try allocateAndDrop(heap, byteCount, 0) }
            segments.removeLast().release()
            try allocateAndDrop(heap, byteCount, 0)
            for segment in segments { segment.release() }
        }
        // And what one class had, another gets.
        try allocateAndDrop(heap, (2 << 20) - HeapGeometry.spanHeaderByteCount, 0)
        #expect(heap.statistics.failedAllocations >= 3)
    }

    @Test func `memory pushed and then freed is reused only when both references are gone`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        heap.makeCurrent()
        let raw = try unsafe #require(heap.allocateRaw(100))
        let segment = unsafe heap.segment(containing: raw + 10, count: 90)
        #expect(!segment.isNull)
        try unsafe heap.free(raw)
        let other = heap.allocateSegment(100)
        #expect(unsafe other.object != segment.object)
        segment.release()
        let third = heap.allocateSegment(100)
        let isChecked = unsafe heap.state.pointee.check != nil
        #expect(isChecked || (unsafe third.object == UnsafeMutableRawPointer(raw)))
        third.release()
        other.release()
    }

    @Test func `a segment is made only of bytes inside one object that the application holds`() throws {
        let heap = try Heap(HeapConfiguration(limit: 8 << 20))
        heap.makeCurrent()
        let small = try unsafe #require(heap.allocateRaw(64))
        let large = try unsafe #require(heap.allocateRaw(1 << 20))
        var local = 0
        #expect(unsafe heap.segment(containing: small, count: 65).isNull)
        #expect(unsafe heap.segment(containing: small + 63, count: 2).isNull)
        #expect(unsafe heap.segment(containing: small, count: -1).isNull)
        #expect(unsafe heap.segment(containing: small, count: .max).isNull)
        #expect(unsafe heap.segment(containing: small - 1, count: 1).isNull)
        #expect(unsafe heap.segment(containing: &local, count: 1).isNull)
        let middle = unsafe heap.segment(containing: large + 700_000, count: 100_000)
        #expect(unsafe middle.object == large && middle.offset == 700_000)
        middle.release()
        try unsafe heap.free(small)
        #expect(unsafe heap.segment(containing: small, count: 1).isNull)
        try unsafe heap.free(large + 900_000)
        #expect(unsafe heap.segment(containing: large, count: 1).isNull)
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test(arguments: [false, true])
    func `double frees and foreign pointers are EINVAL`(checked: Bool) throws {
        let heap = try Heap(HeapConfiguration(limit: 8 << 20, checked: checked))
        let other = try Heap(HeapConfiguration(limit: 8 << 20))
        heap.makeCurrent()
        var local = 0
        for byteCount in [64, 4096, 300_000] {
            let raw = try unsafe #require(heap.allocateRaw(byteCount))
            let keeper = try unsafe #require(heap.allocateRaw(byteCount))
            try unsafe heap.free(raw)
            #expect(throws: DemikernelError(.invalidArgument, "")) { try unsafe heap.free(raw) }
            try unsafe heap.free(keeper)
        }
        #expect(throws: DemikernelError(.invalidArgument, "")) { try unsafe heap.free(&local) }
        #expect(throws: DemikernelError(.invalidArgument, "")) { try unsafe Heap.freeOnAnyThread(&local) }
        let header = unsafe UnsafeMutableRawPointer(bitPattern: UInt(bitPattern: heap.state.pointee.arena.base) + 8)!
        #expect(throws: DemikernelError(.invalidArgument, "")) { try unsafe heap.free(header) }
        let end = unsafe heap.state.pointee.arena.base + heap.state.pointee.arena.byteCount
        #expect(throws: DemikernelError(.invalidArgument, "")) { try unsafe heap.free(end - 1) }
        // A pointer of another heap is freed there.
        let raw = try unsafe #require(other.allocateRaw(64))
        try unsafe heap.free(raw)
        other.drainReturns()
        #expect(other.statistics.liveObjects == 0)
        #expect(heap.statistics.liveObjects == 0)
        #expect(heap.faults.contains { $0.kind == .foreignPointer })
    }

    @Test func `the 65,535th reference is refused, and nothing is corrupted`() throws {
        let heap = try Heap(HeapConfiguration(limit: 4 << 20))
        heap.makeCurrent()
        let buffer = try heap.allocate(64)
        var slices: [Segment] = []
        for _ in 0..<65_533 { slices.append(try buffer.slice(0..<1).leak()) }
        #expect(throws: DemikernelError(.overflow, "")) { try sliceAndDrop(buffer) }
        for slice in slices { _ = Buffer(owning: slice) }
        try sliceAndDrop(buffer)
        _ = consume buffer
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test func `a libOS count that is full sticks and the object is never reused`() throws {
        let heap = try Heap(HeapConfiguration(limit: 4 << 20))
        heap.makeCurrent()
        let segment = heap.allocateSegment(64)
        for _ in 0..<70_000 { segment.retain() }
        for _ in 0...70_000 { segment.release() }
        #expect(heap.statistics.liveObjects == 1 && heap.statistics.faults == 0)
    }

    @Test func `huge pages that the system lacks are replaced by ordinary ones, or refused where required`() throws {
        let preferring = try Heap(HeapConfiguration(limit: 2 << 20, hugePages: .prefer))
        preferring.allocateSegment(64).release()
        #expect(preferring.statistics.groups == 1)
        let never = try Heap(HeapConfiguration(limit: 2 << 20, hugePages: .never))
        never.allocateSegment(64).release()
        #expect(never.statistics.groups == 1 && never.statistics.hugePageGroups == 0)
        let requiring = try Heap(HeapConfiguration(limit: 2 << 20, hugePages: .require))
        let segment = requiring.allocateSegment(64)
        #expect(segment.isNull == (requiring.statistics.hugePageGroups == 0))
        segment.release()
    }

    @Test func `a heap that may not lock goes on unlocked and says so`() throws {
        let heap = try Heap(HeapConfiguration(limit: 4 << 20, hugePages: .never, lockPages: false))
        heap.allocateSegment(64).release()
        #expect(heap.statistics.lockedGroups == 0 && heap.statistics.groups == 1)
    }
}

func allocateAndDrop(_ heap: borrowing Heap, _ byteCount: Int, _ headroom: Int) throws { _ = try heap.allocate(byteCount, headroom: headroom) }
func sliceAndDrop(_ buffer: borrowing Buffer) throws { _ = try buffer.slice(0..<1) }
