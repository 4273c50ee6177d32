/// A heap that somebody else owns: what stacks, devices and bursts allocate from. Plain data; calls only on the heap's own thread.
///
/// Invariant: the heap lives for as long as the reference is used.
@safe package struct HeapReference: BitwiseCopyable {
    private let state: UnsafeMutablePointer<HeapState>

    @inline(__always) init(_ state: UnsafeMutablePointer<HeapState>) { unsafe self.state = state }

    /// A segment of `capacity` bytes with one libOS reference; null where the heap is exhausted. Contents are undefined.
    @inline(__always)
    package func allocateSegment(_ capacity: Int) -> Segment {
        guard let object = unsafe take(capacity, ReferenceUnit.libOS) else { return .null }
        return unsafe Segment(unchecked: object, offset: 0, count: UInt32(truncatingIfNeeded: capacity))
    }

    /// A segment of `count` bytes with `headroom` more before them; null where the heap is exhausted. Contents are undefined.
    @inline(__always)
    package func allocateSegment(_ count: Int, headroom: Int) -> Segment {
        guard let object = unsafe take(count &+ headroom, ReferenceUnit.libOS) else { return .null }
        return unsafe Segment(unchecked: object, offset: UInt32(truncatingIfNeeded: headroom), count: UInt32(truncatingIfNeeded: count))
    }

    /// Makes memory of the first `byteCount` bytes, or of the whole heap where that is smaller; answers where they are and how many. For a device
    /// that registers memory once: it stays where it is for as long as the heap, and small objects come from there first.
    @unsafe func commit(_ byteCount: Int) -> UnsafeMutableRawBufferPointer { unsafe state.pointee.commit(byteCount) }

    /// Adds `segment`, whose reference the list takes over. False, and nothing changed, beyond 1,024 segments or 4 GiB, and where the heap is
    /// exhausted. Complexity: amortised O(1).
    package func append(_ segment: Segment, to list: inout SegmentList) -> Bool { unsafe list.append(segment, in: state) }

    /// An object of at least `byteCount` bytes with one reference of kind `unit`; nil where the heap is exhausted.
    @inline(__always)
    @unsafe func take(_ byteCount: Int, _ unit: UInt32) -> UnsafeMutableRawPointer? {
        let shift = HeapGeometry.shift(for: byteCount)
        if shift <= HeapGeometry.largestShift {
            let number = shift &- HeapGeometry.smallestShift
            let slot = unsafe state.pointee.hot + number
            if let object = unsafe slot.pointee {
                unsafe slot.pointee = nil
                let superblock = unsafe Superblock(of: object)
                unsafe superblock.record(superblock.index(of: object)).pointee.references = unit
                return unsafe object
            }
            if let object = unsafe state.pointee.fast[unchecked: number].take(unit) { return unsafe object }
        }
        return unsafe state.pointee.allocateSlow(byteCount, unit)
    }
}
