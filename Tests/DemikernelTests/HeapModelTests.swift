import Glibc
import Testing
@testable import Demikernel

/// splitmix64: the same operations for the same seed, everywhere.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    init(_ seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
        return word ^ (word >> 31)
    }
}

/// A heap under random operations beside a model that knows, for every handle, which bytes it must show.
///
/// Handles are either application references (raw pointers here, as buffers cannot lie in arrays) or libOS segments. Every object is filled
/// with its own pattern when it is made; a handle whose bytes differ from the pattern shows that objects overlap or were reused early.
struct HeapModel: ~Copyable {
    struct Handle {
        var segment: Segment
        var isApplication: Bool
        var seed: UInt64
    }
    let heap: Heap
    var handles: [Handle] = []
    var generator: SeededGenerator
    var failures = 0

    init(seed: UInt64, _ configuration: HeapConfiguration) throws {
        heap = try Heap(configuration)
        heap.makeCurrent()
        generator = SeededGenerator(seed)
    }

    /// Constant over 512 bytes, so that filling is fast in debug builds too.
    static func pattern(_ seed: UInt64, _ offset: Int) -> UInt8 { UInt8(truncatingIfNeeded: (seed &+ UInt64(offset >> 9)) &* 0x9e37_79b9 >> 7) }

    func isIntact(_ handle: Handle) -> Bool {
        let bytes = unsafe handle.segment.bytes
        // Ends and some of the middle: whole spans would take the test's time.
        let step = max(1, bytes.count / 61)
        for offset in Array(stride(from: 0, to: bytes.count, by: step)) + [bytes.count - 1] where offset >= 0 {
            let expected = HeapModel.pattern(handle.seed, Int(handle.segment.offset) + offset)
            guard unsafe bytes[offset] == expected else { return false }
        }
        return true
    }

    mutating func allocate() {
        let sizes = [0, 1, 63, 64, 65, 200, 512, 1000, 2048, 4000, 9000, 20_000, 40_000, 65_536, 65_537, 300_000, 1_000_000, 2_500_000]
        let size = sizes[Int.random(in: 0..<sizes.count, using: &generator)]
        let seed = generator.next()
        let segment: Segment
        let isApplication = Bool.random(using: &generator)
        if isApplication {
            guard let buffer = try? heap.allocate(size) else {
                failures += 1
                return
            }
            segment = buffer.leak()
        } else {
            segment = heap.allocateSegment(size)
            if segment.isNull {
                failures += 1
                return
            }
        }
        for offset in stride(from: 0, to: size, by: 512) {
            unsafe memset(segment.start + offset, Int32(HeapModel.pattern(seed, offset)), min(512, size - offset))
        }
        handles.append(Handle(segment: segment, isApplication: isApplication, seed: seed))
    }

    mutating func release(_ index: Int) {
        let handle = handles.remove(at: index)
        #expect(isIntact(handle))
        if handle.isApplication { _ = Buffer(owning: handle.segment) } else { handle.segment.release() }
    }

    /// Slice, split, trim or change of kind.
    mutating func derive(_ index: Int) throws {
        var handle = handles[index]
        let count = handle.segment.byteCount
        let start = Int.random(in: 0...count, using: &generator)
        let end = Int.random(in: start...count, using: &generator)
        if handle.isApplication {
            var buffer = Buffer(owning: handle.segment)
            switch Int.random(in: 0..<4, using: &generator) {
            case 0: handles.append(Handle(segment: try buffer.slice(start..<end).leak(), isApplication: true, seed: handle.seed))
            case 1: handles.append(Handle(segment: try buffer.split(at: start).leak(), isApplication: true, seed: handle.seed))
            case 2: try buffer.trimFirst(start)
            default:
                handle.segment = buffer.intoSegment()
                handle.isApplication = false
                handles[index] = handle
                return
            }
            handle.segment = buffer.leak()
        } else {
            switch Int.random(in: 0..<4, using: &generator) {
            case 0: handles.append(Handle(segment: handle.segment.slice(start, count: end - start), isApplication: false, seed: handle.seed))
            case 1: handle.segment.trimLast(start)
            case 2:
                let address = unsafe UnsafeRawPointer(handle.segment.start)
                let again = unsafe heap.segment(containing: address, count: count)
                let held = handles.contains { $0.isApplication && (unsafe $0.segment.object == handle.segment.object) }
                #expect(again.isNull == !held || count == 0)
                if !again.isNull { again.release() }
            default:
                handle.segment = Buffer(adopting: handle.segment).leak()
                handle.isApplication = true
            }
        }
        handles[index] = handle
    }

    mutating func run(_ steps: Int, handlesMaximum: Int) throws {
        for step in 0..<steps {
            let choice = Int.random(in: 0..<10, using: &generator)
            if handles.isEmpty || (choice < 4 && handles.count < handlesMaximum) {
                allocate()
            } else if choice < 7 {
                try derive(Int.random(in: 0..<handles.count, using: &generator))
            } else {
                release(Int.random(in: 0..<handles.count, using: &generator))
            }
            if step % 64 == 0 {
                let objects = Set(handles.map { unsafe UInt(bitPattern: $0.segment.object) })
                #expect(heap.statistics.liveObjects == objects.count)
            }
        }
    }

    consuming func finish() throws {
        while !handles.isEmpty { release(handles.count - 1) }
        let statistics = heap.statistics
        #expect(statistics.liveObjects == 0 && statistics.liveBytes == 0 && statistics.faults == 0)
        #expect(heap.faults.isEmpty)
        // Nothing is lost: the whole arena is one run again, but for what a span's header takes.
        let all = try heap.allocate(statistics.limit - HeapGeometry.spanHeaderByteCount)
        #expect(all.count > 0)
    }
}

@Suite struct HeapModelTests {
    @Test(arguments: 1...12)
    func `random operations keep every object's bytes`(seed: UInt64) throws {
        var model = try HeapModel(seed: seed, HeapConfiguration(limit: 32 << 20, lockPages: false))
        try model.run(1500, handlesMaximum: 40)
        try model.finish()
    }

    @Test(arguments: 1...6)
    func `random operations keep every object's bytes in an exhausted heap`(seed: UInt64) throws {
        var model = try HeapModel(seed: seed, HeapConfiguration(limit: 4 << 20, lockPages: false))
        try model.run(1500, handlesMaximum: 200)
        #expect(model.failures > 0)
        try model.finish()
    }

    @Test(arguments: 1...4)
    func `random operations keep every object's bytes in a checked heap`(seed: UInt64) throws {
        var model = try HeapModel(seed: seed, HeapConfiguration(limit: 16 << 20, lockPages: false, checked: true))
        try model.run(600, handlesMaximum: 40)
        try model.finish()
    }
}
