import Glibc
import Testing
@testable import Demikernel

@Suite struct HeapCheckedTests {
    private func checkedHeap() throws -> Heap {
        let heap = try Heap(HeapConfiguration(limit: 4 << 20, lockPages: false, checked: true))
        heap.makeCurrent()
        return heap
    }

    @Test func `fresh and freed memory is poisoned`() throws {
        let heap = try checkedHeap()
        for byteCount in [64, 5000, 200_000] {
            let buffer = try heap.allocate(byteCount)
            #expect(buffer.copyToArray().allSatisfy { $0 == CheckedHeap.poison })
            let segment = buffer.segment
            _ = consume buffer
            #expect(unsafe segment.bytes.allSatisfy { $0 == CheckedHeap.poison })
        }
    }

    @Test func `a freed object is not reused at once`() throws {
        let heap = try checkedHeap()
        let first = heap.allocateSegment(64)
        first.release()
        let second = heap.allocateSegment(64)
        #expect(unsafe first.object != second.object)
        second.release()
    }

    @Test(arguments: [64, 2048, 65_536, 200_000])
    func `a write after free is reported with its size class and age`(byteCount: Int) throws {
        let heap = try checkedHeap()
        let segment = heap.allocateSegment(byteCount)
        segment.release()
        unsafe segment.bytes[13] = 1
        usleep(2000)
        let report = heap.shutdown()
        #expect(report.liveObjects == 0 && report.faultCount == 1)
        let fault = try #require(report.faults.first)
        #expect(fault.kind == .writeAfterFree && fault.objectByteCount >= byteCount)
        #expect(try #require(fault.age) >= 2_000_000)
        #expect(report.description.contains("write after free to the \(fault.objectByteCount)-byte object"))
    }

    @Test func `a write after free is found when the object is reused, and does no harm`() throws {
        let heap = try checkedHeap()
        let segment = heap.allocateSegment(64)
        segment.release()
        unsafe segment.bytes[0] = 1
        // Exhaustion empties the quarantine; then every object is taken again.
        var segments: [Segment] = []
        while true {
            let next = heap.allocateSegment(64)
            if next.isNull { break }
            segments.append(next)
        }
        #expect(heap.faults.map(\.kind) == [.writeAfterFree])
        #expect(segments.contains { unsafe $0.object == segment.object && $0.bytes[0] == CheckedHeap.poison })
        for segment in segments { segment.release() }
    }

    @Test func `a write after free is found at shutdown though the object has left the quarantine`() throws {
        let heap = try checkedHeap()
        let segment = heap.allocateSegment(2048)
        segment.release()
        for _ in 0..<1000 { heap.allocateSegment(64).release() }
        unsafe segment.bytes[2047] = 0
        let report = heap.shutdown()
        #expect(report.faults.map(\.kind) == [.writeAfterFree] && report.faults.first?.objectByteCount == 2048)
    }

    @Test func `leaks are reported with size class, references and age`() throws {
        let heap = try checkedHeap()
        let segment = heap.allocateSegment(1000)
        let buffer = try heap.allocate(100_000)
        let slice = try buffer.slice(0..<10)
        usleep(1000)
        let report = heap.shutdown()
        #expect(report.liveObjects == 2 && !report.isClean)
        let small = try #require(report.objects.first { $0.objectByteCount == 1024 })
        #expect(small.libOSReferences == 1 && small.applicationReferences == 0)
        #expect(try #require(small.age) >= 1_000_000)
        let large = try #require(report.objects.first { $0.objectByteCount > 100_000 })
        #expect(large.applicationReferences == 2)
        #expect(report.description.contains("leaked 1024-byte object"))
        #expect(report.description.contains("allocated"))
        segment.release()
        _ = consume buffer
        _ = consume slice
    }

    @Test func `a libOS reference that is dropped twice is reported, and the object is not lost`() throws {
        let heap = try checkedHeap()
        let segment = heap.allocateSegment(64)
        let raw = try unsafe #require(heap.allocateRaw(64))
        segment.release()
        segment.release()
        #expect(heap.faults.map(\.kind) == [.doubleFree])
        #expect(heap.faults[0].objectByteCount == 64 && heap.faults[0].age != nil)
        try unsafe heap.free(raw)
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test func `the log of faults is bounded, their number is not`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        heap.makeCurrent()
        var local = 0
        for _ in 0..<40 { #expect(throws: DemikernelError.self) { try unsafe heap.free(&local) } }
        #expect(heap.faults.count == 16 && heap.statistics.faults == 40)
    }
}
