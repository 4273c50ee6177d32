/// A first-in first-out queue of plain values in heap memory: nothing until the first element comes, twice as large whenever it is full.
///
/// Plain data, 24 bytes, without automatic ownership: whoever holds a ring calls ``free()`` at its end. Appending and removing take constant
/// time; growing copies, so that appending does on average.
///
/// Invariant: `storage` is nil (then `mask` is 0 and `count` 0) or a heap object of at least `mask + 1` elements, a power of two, of which
/// `count` from `head` on are initialised.
@safe struct HeapRing<Element: BitwiseCopyable>: BitwiseCopyable {
    private var storage: UnsafeMutablePointer<Element>?
    private var head: UInt32 = 0
    private(set) var count: UInt32 = 0
    private var mask: UInt32 = 0

    @inline(__always) init() {}

    @inline(__always) var isEmpty: Bool { count == 0 }

    /// Elements that the first object holds: what a connection that exchanges messages needs.
    private static var firstCapacity: UInt32 { 4 }
    /// The heap memory held.
    var byteCount: Int { unsafe storage == nil ? 0 : Int(mask + 1) * MemoryLayout<Element>.stride }

    /// The element at `index`, below `count`, in place.
    @inline(__always)
    subscript(index: UInt32) -> Element {
        unsafeAddress {
            assert(index < count)
            return unsafe UnsafePointer(storage.unsafelyUnwrapped + Int((head &+ index) & mask))
        }
        nonmutating unsafeMutableAddress {
            assert(index < count)
            return unsafe storage.unsafelyUnwrapped + Int((head &+ index) & mask)
        }
    }

    /// Adds an element. False, and nothing changed, where `heap` is exhausted.
    @inline(__always)
    mutating func append(_ element: Element, in heap: HeapReference) -> Bool {
        if unsafe storage == nil || count > mask { guard grow(in: heap) else { return false } }
        unsafe (storage.unsafelyUnwrapped + Int((head &+ count) & mask)).initialize(to: element)
        count &+= 1
        return true
    }

    /// Takes the first element out. The ring is not empty.
    @inline(__always)
    @discardableResult mutating func removeFirst() -> Element {
        assert(!isEmpty)
        let element = unsafe storage.unsafelyUnwrapped[Int(head)]
        head = (head &+ 1) & mask
        count &-= 1
        return element
    }

    /// Takes the last element out. The ring is not empty.
    mutating func removeLast() -> Element {
        assert(!isEmpty)
        count &-= 1
        return unsafe storage.unsafelyUnwrapped[Int((head &+ count) & mask)]
    }

    /// Puts an element at `index`, 0...count; later ones move. False, and nothing changed, where `heap` is exhausted. Complexity: O(count).
    mutating func insert(_ element: Element, at index: UInt32, in heap: HeapReference) -> Bool {
        assert(index <= count)
        guard append(element, in: heap) else { return false }
        var position = count &- 1
        while position > index {
            self[position] = self[position &- 1]
            position &-= 1
        }
        self[index] = element
        return true
    }

    /// Gives a large object back once the ring is empty: an idle connection keeps four elements at most.
    @inline(__always)
    mutating func shrinkIfEmpty() {
        if count == 0, mask &+ 1 > Self.firstCapacity { free() }
    }

    /// Gives the memory back; the elements are forgotten.
    mutating func free() {
        guard let object = unsafe storage else { return }
        unsafe Segment(unchecked: UnsafeMutableRawPointer(object), offset: 0, count: 0).release()
        self = HeapRing()
    }

    @inline(never)
    private mutating func grow(in heap: HeapReference) -> Bool {
        let capacity = unsafe storage == nil ? Self.firstCapacity : (mask + 1) * 2
        guard let object = unsafe heap.take(Int(capacity) * MemoryLayout<Element>.stride, ReferenceUnit.libOS) else { return false }
        let fresh = unsafe object.bindMemory(to: Element.self, capacity: Int(capacity))
        for index in 0..<count { unsafe (fresh + Int(index)).initialize(to: self[index]) }
        let kept = count
        free()
        unsafe storage = fresh
        mask = capacity - 1
        count = kept
        return true
    }
}
