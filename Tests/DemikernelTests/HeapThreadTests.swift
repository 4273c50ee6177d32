import Glibc
import Testing
@testable import Demikernel

/// A POSIX thread: what a heap belongs to is a thread, which neither tests nor tasks are bound to.
struct PosixThread {
    private final class Body {
        let run: () -> Void
        init(_ run: @escaping () -> Void) { self.run = run }
    }
    private var handle = pthread_t()

    init(_ run: @escaping () -> Void) {
        unsafe pthread_create(&handle, nil, { unsafe Unmanaged<Body>.fromOpaque($0!).takeRetainedValue().run(); return nil },
            Unmanaged.passRetained(Body(run)).toOpaque())
    }

    func join() { pthread_join(handle, nil) }
}

/// Segments on their way to other threads. Each is used by one thread at a time.
final class Parcel: @unchecked Sendable {
    var segments: [Segment] = []
    var flag = false
}

@Suite struct HeapThreadTests {
    @Test func `what another thread releases comes back through the return queue`() throws {
        let heap = try Heap(HeapConfiguration(limit: 4 << 20))
        heap.makeCurrent()
        let parcel = Parcel()
        for byteCount in [64, 2048, 65_536, 300_000] { parcel.segments.append(try heap.allocate(byteCount).leak()) }
        PosixThread { for segment in parcel.segments { _ = Buffer(owning: segment) } }.join()
        #expect(heap.statistics.liveObjects == 4)
        heap.drainReturns()
        #expect(heap.statistics.liveObjects == 0 && heap.statistics.remoteReturns == 4)
    }

    @Test func `an allocation that misses takes back what other threads released`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        heap.makeCurrent()
        let parcel = Parcel()
        while true {
            let segment = heap.allocateSegment(1000)
            if segment.isNull { break }
            parcel.segments.append(segment)
        }
        let count = parcel.segments.count
        PosixThread { for segment in parcel.segments { segment.release() } }.join()
        parcel.segments = []
        for _ in 0..<count {
            let segment = heap.allocateSegment(1000)
            #expect(!segment.isNull)
            parcel.segments.append(segment)
        }
        for segment in parcel.segments { segment.release() }
    }

    @Test func `references that another thread takes keep the object when the owner drops its own`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        heap.makeCurrent()
        let parcel = Parcel()
        parcel.segments = [try heap.allocate(64).leak()]
        let kept = parcel.segments[0]
        PosixThread {
            let origin = Buffer(owning: parcel.segments[0])
            let slice = try! origin.slice(0..<10)
            parcel.segments = [slice.leak(), origin.leak()]
        }.join()
        // Both handles come home; the owner drops them. Neither drop may free the object early.
        _ = Buffer(owning: parcel.segments[0])
        #expect(heap.statistics.liveObjects == 1)
        #expect(unsafe heap.allocateSegment(64).object != kept.object)
        _ = Buffer(owning: parcel.segments[1])
        #expect(heap.statistics.liveObjects == 1)  // the segment of the line above the last
        #expect(heap.statistics.faults == 0)
    }

    @Test func `a libOS on another thread may take a foreign buffer over and release it`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        heap.makeCurrent()
        let parcel = Parcel()
        parcel.segments = [try heap.allocate(64).leak()]
        PosixThread {
            let segment = Buffer(owning: parcel.segments[0]).intoSegment()
            segment.retain()
            segment.release()
            segment.release()
        }.join()
        heap.drainReturns()
        #expect(heap.statistics.liveObjects == 0 && heap.statistics.faults == 0)
    }

    @Test func `a pointer is freed on a thread without a heap`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        heap.makeCurrent()
        let parcel = Parcel()
        parcel.segments = [unsafe Segment(unchecked: heap.allocateRaw(5000), offset: 0, count: 0)]
        PosixThread { parcel.flag = (try? unsafe Heap.freeOnAnyThread(parcel.segments[0].start)) != nil }.join()
        #expect(parcel.flag)
        heap.drainReturns()
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test(arguments: [false, true])
    func `two threads release slices of the same objects while the owner allocates`(checked: Bool) throws {
        let heap = try Heap(HeapConfiguration(limit: 8 << 20, checked: checked))
        heap.makeCurrent()
        for _ in 0..<20 {
            let first = Parcel()
            let second = Parcel()
            for _ in 0..<200 {
                var buffer = try heap.allocate(512)
                let part = try buffer.slice(0..<100)
                first.segments.append(try buffer.split(at: 256).leak())
                second.segments.append(part.leak())
            }
            let threads = [first, second].map { parcel in
                PosixThread {
                    for segment in parcel.segments {
                        var buffer = Buffer(owning: segment)
                        let half = try! buffer.split(at: 10)
                        buffer.intoSegment().release()
                        _ = consume half
                    }
                }
            }
            for _ in 0..<500 {
                let buffer = try heap.allocate(512)
                let copy = try buffer.slice(0..<1)
                heap.drainReturns()
                _ = consume copy
            }
            for thread in threads { thread.join() }
            heap.drainReturns()
            #expect(heap.statistics.liveObjects == 0)
        }
        #expect(heap.statistics.faults == 0)
    }

    @Test func `a heap is current on one thread at a time`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        #expect(heap.makeCurrent() && heap.makeCurrent())
        let other = try Heap(HeapConfiguration(limit: 2 << 20))
        #expect(other.makeCurrent() == true)
        let buffer = try heap.allocate(64)
        _ = consume buffer
        #expect(heap.statistics.liveObjects == 1)
        #expect(heap.makeCurrent() == true)
        heap.drainReturns()
        #expect(heap.statistics.liveObjects == 0)
        heap.resign()
        heap.resign()
        #expect(heap.makeCurrent() == true)
    }

    // MARK: Orphans

    @Test func `objects outlive their heap, and the last one takes the arena along`() throws {
        let heap = try Heap(HeapConfiguration(limit: 4 << 20))
        heap.makeCurrent()
        var buffer = try heap.allocate(100_000)
        try buffer.replaceContents(with: "still here")
        let small = try heap.allocate(64)
        let number = unsafe heap.state.pointee.number
        let report = heap.shutdown()
        #expect(report.liveObjects == 2)
        #expect(buffer.decodedAsUTF8() == "still here")
        _ = consume small
        let rest = try buffer.split(at: 5)
        _ = consume buffer
        #expect(rest.decodedAsUTF8() == " here")
        #expect(HeapRegistry.contains(number))
        _ = consume rest
        #expect(!HeapRegistry.contains(number))
    }

    @Test func `threads race to release the objects of a heap that is being shut down`() throws {
        for round in 0..<40 {
            let heap = try Heap(HeapConfiguration(limit: 4 << 20, lockPages: false, checked: round % 4 == 0))
            heap.makeCurrent()
            let parcels = [Parcel(), Parcel(), Parcel()]
            for index in 0..<300 {
                let buffer = try heap.allocate(100)
                parcels[(index + 1) % 3].segments.append(try buffer.slice(0..<1).leak())
                parcels[index % 3].segments.append(buffer.leak())
            }
            let number = unsafe heap.state.pointee.number
            let threads = parcels.map { parcel in
                PosixThread {
                    for segment in parcel.segments { _ = Buffer(owning: segment) }
                }
            }
            let report = heap.shutdown()
            #expect(report.faultCount == 0)
            for thread in threads { thread.join() }
            #expect(!HeapRegistry.contains(number))
        }
    }
}
