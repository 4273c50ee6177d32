import CDemikernelShims

/// The bytes of one push or one pop: up to 1,024 buffers in a row, sent as if they were one.
///
/// Noncopyable, as ``Buffer`` is, and under the same rules between threads. One buffer costs no allocation.
///
/// Invariant: `list` holds one reference for each of its segments. They are counted as the libOS's; this changes nothing for the
/// application, whose way to them is this value alone.
@safe public struct ScatterGatherArray: ~Copyable, @unchecked Sendable {
    private(set) var list: SegmentList

    /// No buffers.
    public init() { list = .empty }

    /// One buffer.
    @inline(__always) public init(_ buffer: consuming Buffer) { list = .single(buffer.intoSegment()) }

    /// Takes over a libOS-side list.
    @inline(__always) package init(adopting list: SegmentList) { self.list = list }

    /// Gives the references to the libOS.
    @inline(__always) package consuming func intoSegmentList() -> SegmentList {
        let list = self.list
        discard self
        return list
    }

    deinit { list.releaseAll() }

    /// The buffers in it.
    public var count: Int { list.count }
    public var isEmpty: Bool { list.isEmpty }
    /// The bytes of all buffers: less than 4 GiB.
    public var byteCount: Int { list.byteCount }

    /// Adds a buffer at the end. Gives it back, and changes nothing, beyond 1,024 buffers or 4 GiB, and where the calling thread's heap has no
    /// room for its record. Complexity: amortised O(1).
    @discardableResult
    public mutating func append(_ buffer: consuming Buffer) -> Buffer? {
        let segment = buffer.intoSegment()
        let heap = unsafe dk_thread_heap_get()?.assumingMemoryBound(to: HeapState.self)
        if unsafe list.append(segment, in: heap) { return nil }
        return Buffer(adopting: segment)
    }

    /// Takes the first buffer out; nil where there is none. Complexity: O(1).
    public mutating func removeFirst() -> Buffer? {
        if list.isEmpty { return nil }
        return Buffer(adopting: list.removeFirst())
    }

    /// Calls `body` with the bytes of buffer `index`. EINVAL outside of `0..<count`.
    public borrowing func withSegment<Result: ~Copyable>(at index: Int, _ body: (RawSpan) -> Result) throws(DemikernelError) -> Result {
        guard index >= 0, index < count else { throw DemikernelError(.invalidArgument, "the scatter-gather array has no such buffer") }
        let bytes = unsafe UnsafeRawBufferPointer(list[index].bytes)
        return unsafe body(bytes.bytes)
    }

    /// Makes it one buffer: nothing to do where it is one, otherwise a copy. ENOMEM, and nothing changed, where the heap is exhausted.
    /// Complexity: O(bytes).
    package mutating func coalesce(in heap: borrowing Heap) throws(DemikernelError) {
        if count == 1 { return }
        let whole = heap.allocateSegment(byteCount)
        guard !whole.isNull else { throw Heap.exhausted }
        _ = unsafe list.copyBytes(to: whole.bytes)
        list.releaseAll()
        list = .single(whole)
    }

    /// The bytes as one buffer: without a copy where there is one. ENOMEM where the heap is exhausted; the array is gone then, so use
    /// ``coalesce(in:)`` to keep it. Complexity: O(bytes).
    package consuming func coalesced(in heap: borrowing Heap) throws(DemikernelError) -> Buffer {
        try coalesce(in: heap)
        return Buffer(adopting: list.removeFirst())
    }

    /// Whether the bytes, one buffer after the other, are those. Complexity: O(n).
    public borrowing func contentsEqual(_ other: [UInt8]) -> Bool { copyToArray() == other }

    /// A copy of the bytes, one buffer after the other.
    public borrowing func copyToArray() -> [UInt8] {
        // Made without a byte, an array writes its count of 0 to the empty storage that all threads share (a race, to the thread sanitizer).
        guard byteCount > 0 else { return [] }
        return unsafe [UInt8](unsafeUninitializedCapacity: byteCount) { storage, used in
            used = unsafe list.copyBytes(to: UnsafeMutableRawBufferPointer(storage))
        }
    }
}
