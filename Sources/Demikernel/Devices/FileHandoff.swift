import Synchronization

/// A bounded ring between two threads: one appends, the other takes.
///
/// Constant time, no lock, no allocation. An element and all that was written before its `append` is seen by the thread that takes it.
///
/// Invariant: the elements between `head` and `tail` are the taker's to read, all others the appender's to write; `tail - head` never exceeds
/// the capacity; only the appender moves `tail`, only the taker `head`.
@safe
struct FileHandoff<Element: BitwiseCopyable>: ~Copyable {
    private let elements: UnsafeMutablePointer<Element>
    private let mask: UInt32
    private let head = Atomic<UInt32>(0)
    private let tail = Atomic<UInt32>(0)

    /// An empty ring for at least `capacity` elements.
    init(capacity: Int) {
        precondition(capacity > 0 && capacity <= 1 << 30)
        var size: UInt32 = 1
        while size < UInt32(capacity) { size *= 2 }
        unsafe elements = .allocate(capacity: Int(size))
        mask = size - 1
    }

    deinit { unsafe elements.deallocate() }

    /// Appends where there is room; the engine never has more requests in flight than the ring holds, so that there is.
    func append(_ element: Element) {
        let end = tail.load(ordering: .relaxed)
        precondition(end &- head.load(ordering: .acquiring) <= mask, "more elements than the ring was made for")
        unsafe (elements + Int(end & mask)).initialize(to: element)
        tail.store(end &+ 1, ordering: .releasing)
    }

    func take() -> Element? {
        let start = head.load(ordering: .relaxed)
        guard start != tail.load(ordering: .acquiring) else { return nil }
        let element = unsafe elements[Int(start & mask)]
        head.store(start &+ 1, ordering: .releasing)
        return element
    }

    var isEmpty: Bool { head.load(ordering: .acquiring) == tail.load(ordering: .acquiring) }
}
