import Glibc
import Testing
@testable import Demikernel

/// A heap that is current on this thread until the test ends, and frames made in it.
final class DeviceBench {
    let heap: Heap

    init() throws {
        heap = try Heap(HeapConfiguration(limit: 64 << 20))
        heap.makeCurrent()
    }

    deinit { heap.resign() }

    func burst(capacity: Int = 64) -> FrameBurst { FrameBurst(capacity: capacity, heap: heap.reference) }

    /// A frame of `count` bytes whose contents follow from `seed`, in one segment or with the rest in `parts` further ones.
    func frame(_ count: Int, seed: Int, parts: Int = 0, offload: FrameOffload = .none) -> Frame {
        let bytes = DeviceBench.contents(count, seed: seed)
        let headCount = parts == 0 ? count : min(count, 14)
        let head = segment(bytes[..<headCount])
        var rest = SegmentList.empty
        var done = headCount
        for part in 0..<parts {
            let end = part == parts - 1 ? count : min(count, done + (count - headCount) / parts)
            guard end > done else { continue }
            precondition(heap.reference.append(segment(bytes[done..<end]), to: &rest))
            done = end
        }
        return Frame(head, rest: rest, offload: offload)
    }

    private func segment(_ bytes: ArraySlice<UInt8>) -> Segment {
        let segment = heap.allocateSegment(bytes.count)
        unsafe segment.bytes.copyBytes(from: bytes)
        return segment
    }

    static func contents(_ count: Int, seed: Int) -> [UInt8] {
        let start = seed &* 31 & 4_095
        return Array(noise[start..<start + count])
    }

    /// Made once: byte by byte, a debug build would take longer than what it tests.
    private static let noise: [UInt8] = {
        var generator = SplitMix64(seed: 1)
        return (0..<131_072).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
    }()

    /// Nothing is left in the heap.
    var isEmpty: Bool {
        heap.drainReturns()
        return heap.statistics.liveObjects == 0
    }
}

/// The frame's bytes, gathered.
func bytes(of frame: Frame) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: frame.byteCount)
    let count = unsafe bytes.withUnsafeMutableBytes { unsafe frame.copyBytes(to: $0) }
    return Array(bytes[..<count])
}

extension FrameBurst {
    /// Takes the first frame out, as bytes; nil where there is none.
    mutating func takeBytes() -> [UInt8]? {
        guard !isEmpty else { return nil }
        let frame = removeFirst()
        defer { frame.release() }
        return bytes(of: frame)
    }
}

/// Whether a descriptor is readable now.
func isReadable(_ descriptor: Int32?) -> Bool {
    var poll = pollfd(fd: descriptor ?? -1, events: Int16(POLLIN), revents: 0)
    return unsafe Glibc.poll(&poll, 1, 0) == 1
}

/// Waits until a descriptor is readable.
func waitUntilReadable(_ descriptor: Int32?) {
    var poll = pollfd(fd: descriptor ?? -1, events: Int16(POLLIN), revents: 0)
    while unsafe Glibc.poll(&poll, 1, -1) < 0 {}
}

/// What is there, or a failure of the test: for values that cannot be copied.
func taken<Value: ~Copyable>(_ value: consuming Value?) throws -> Value {
    switch consume value {
    case .some(let value): return value
    case .none: throw Nothing()
    }
}

private struct Nothing: Error {}
