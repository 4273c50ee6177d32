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
}
