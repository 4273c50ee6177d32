/// Many segments of one request: the libOS's side of a ``ScatterGatherArray``.
///
/// Plain data, 32 bytes, without automatic ownership: whoever holds a list holds one libOS reference for each segment and one for the object
/// with the records, and passes them on or calls ``releaseAll()`` exactly once. The first segment is inline; the others' records lie in a
/// heap object of their own.
///
/// Invariant: with `count > 1`, `rest` is a heap object that holds the records of segments 1..<count from number `restStart` on.
@safe package struct SegmentList: BitwiseCopyable {
    package var first: Segment
    private(set) var rest: UnsafeMutableRawPointer?
    /// The bytes of all segments in the upper half, `restStart` and `count` in the quarters below: a list is moved as four words.
    private var numbers: UInt64

    package static var maximumCount: Int { 1024 }
    /// No segments.
    @inline(__always) package static var empty: SegmentList { unsafe SegmentList(first: .null, rest: nil, numbers: 0) }

    /// One segment, whose reference the list takes over.
    @inline(__always) package static func single(_ segment: Segment) -> SegmentList {
        unsafe SegmentList(first: segment, rest: nil, numbers: UInt64(segment.count) &<< 32 | 1)
    }

    @inline(__always) package private(set) var count32: UInt16 {
        get { UInt16(truncatingIfNeeded: numbers) }
        set { numbers = numbers & ~0xffff | UInt64(newValue) }
    }
    @inline(__always) private var restStart: UInt16 {
        get { UInt16(truncatingIfNeeded: numbers &>> 16) }
        set { numbers = numbers & ~0xffff_0000 | UInt64(newValue) &<< 16 }
    }
    @inline(__always) private var totalBytes: UInt32 {
        get { UInt32(truncatingIfNeeded: numbers &>> 32) }
        set { numbers = numbers & 0xffff_ffff | UInt64(newValue) &<< 32 }
    }

    @inline(__always) package var count: Int { Int(count32) }
    @inline(__always) package var isEmpty: Bool { count32 == 0 }
    /// The bytes of all segments: less than 4 GiB.
    @inline(__always) package var byteCount: Int { Int(totalBytes) }

    @inline(__always) private var records: UnsafeMutablePointer<Segment> {
        unsafe rest.unsafelyUnwrapped.assumingMemoryBound(to: Segment.self) + Int(restStart)
    }

    /// Segment `index`, without a reference of its own; null outside of `0..<count`.
    @inline(__always) package subscript(index: Int) -> Segment {
        if index == 0 { return first }
        guard index > 0, index < count else { return .null }
        return unsafe records[index - 1]
    }

    /// Drops every reference. Complexity: O(count).
    @inline(__always) package func releaseAll() {
        first.release()
        if unsafe rest != nil { releaseRest() }
    }

    @inline(never) private func releaseRest() {
        for index in 1..<max(count, 1) { self[index].release() }
        unsafe Segment(unchecked: rest, offset: 0, count: 0).release()
    }

    // MARK: Changing

    /// Adds a segment, whose reference the list takes over. False, and nothing changed, beyond 1,024 segments or 4 GiB, and where
    /// `heap` is exhausted. Complexity: amortised O(1).
    mutating func append(_ segment: Segment, in heap: UnsafeMutablePointer<HeapState>?) -> Bool {
        guard count < SegmentList.maximumCount else { return false }
        let (total, overflow) = totalBytes.addingReportingOverflow(segment.count)
        guard !overflow else { return false }
        if isEmpty {
            first = segment
        } else {
            guard unsafe makeRoom(in: heap) else { return false }
            unsafe (records + (count - 1)).initialize(to: segment)
        }
        count32 += 1
        totalBytes = total
        return true
    }

    /// Room for one more record: in the object there is, or in one twice the size.
    private mutating func makeRoom(in heap: UnsafeMutablePointer<HeapState>?) -> Bool {
        let used = count - 1
        let capacity = unsafe rest == nil ? 0 : unsafe Superblock(of: rest.unsafelyUnwrapped).objectByteCount / MemoryLayout<Segment>.stride
        if used + Int(restStart) < capacity { return true }
        if used > 0, Int(restStart) >= used {
            // As many gaps in front as there are records: they move down.
            let source = unsafe records
            restStart = 0
            unsafe records.update(from: source, count: used)
            return true
        }
        guard let heap = unsafe heap,
            let room = unsafe heap.pointee.allocateSlow(max(16, used * 2) * MemoryLayout<Segment>.stride, ReferenceUnit.libOS)
        else { return false }
        let target = unsafe room.bindMemory(to: Segment.self, capacity: max(16, used * 2))
        if used > 0 { unsafe target.initialize(from: records, count: used) }
        unsafe Segment(unchecked: rest, offset: 0, count: 0).release()
        unsafe rest = room
        restStart = 0
        return true
    }

    /// Takes the first segment, and its reference, out; null where there is none. Complexity: O(1).
    package mutating func removeFirst() -> Segment {
        guard !isEmpty else { return .null }
        let segment = first
        count32 -= 1
        totalBytes -= segment.count
        if isEmpty {
            unsafe Segment(unchecked: rest, offset: 0, count: 0).release()
            self = .empty
        } else {
            first = unsafe records[0]
            restStart += 1
        }
        return segment
    }

    /// Forgets the first `length` bytes, all where there are fewer, and releases the segments that have none left. Complexity: O(segments).
    package mutating func trimFirst(_ length: Int) {
        var left = max(0, length)
        while !isEmpty, left >= first.byteCount, left > 0 || first.count == 0 {
            left -= first.byteCount
            removeFirst().release()
        }
        guard !isEmpty, left > 0 else { return }
        first.trimFirst(left)
        totalBytes -= UInt32(left)
    }

    /// Forgets the last `length` bytes, all where there are fewer, and releases the segments that have none left. Complexity: O(segments).
    package mutating func trimLast(_ length: Int) {
        var left = min(max(0, length), byteCount)
        totalBytes -= UInt32(left)
        while left > 0 {
            var last = self[count - 1]
            if last.byteCount > left {
                last.trimLast(left)
                if count == 1 { first = last } else { unsafe records[count - 2] = last }
                return
            }
            left -= last.byteCount
            if count == 1 {
                first.trimLast(first.byteCount)
                return
            }
            last.release()
            count32 -= 1
            if count == 1 {
                unsafe Segment(unchecked: rest, offset: 0, count: 0).release()
                unsafe rest = nil
                restStart = 0
            }
        }
    }

    /// `length` bytes from byte `start` on, which there are, with references of their own; nil where `heap` is exhausted. Complexity:
    /// O(segments).
    package func slice(from start: Int, count length: Int, in heap: HeapReference) -> SegmentList? {
        assert(start >= 0 && length >= 0 && length <= byteCount - start)
        var result = SegmentList.empty
        var (skip, left) = (start, length)
        for index in 0..<count where left > 0 {
            let segment = self[index]
            guard skip < segment.byteCount else {
                skip -= segment.byteCount
                continue
            }
            let part = segment.slice(skip, count: min(left, segment.byteCount - skip))
            guard heap.append(part, to: &result) else {
                part.release()
                result.releaseAll()
                return nil
            }
            left -= part.byteCount
            skip = 0
        }
        return result
    }

    /// Copies the bytes, one segment after the other, to `target`; answers how many fitted.
    @unsafe package func copyBytes(to target: UnsafeMutableRawBufferPointer) -> Int {
        var done = 0
        for index in 0..<count {
            let bytes = unsafe self[index].bytes
            let length = min(bytes.count, target.count - done)
            if length == 0 { continue }
            unsafe target.baseAddress!.advanced(by: done).copyMemory(from: bytes.baseAddress!, byteCount: length)
            done += length
        }
        return done
    }
}
