import Glibc
import SystemPackage

/// A fixed-capacity pool of slots addressed by small integers, for state that many parties share by index instead of by reference.
///
/// Creation, lookup, insertion and removal take constant time and allocate nothing: the whole capacity is one reservation of address space,
/// of which the system commits the pages that are touched. Slots never used are handed out in order, freed ones last-in first-out, so that
/// the memory in use stays dense and warm.
///
/// A slot is addressed by a `Key` that carries the slot's generation, so a key that outlived its element is recognised instead of reaching
/// the slot's next tenant. (A key held while its slot is reused exactly 2³¹ times would be mistaken; nothing else is.)
///
/// Invariant: slots `0 ..< used` have been handed out at least once; slot `i` holds an initialised element exactly when `generations[i]` is
/// odd; a slot below `used` with an even generation is on the free list, and the first four bytes of its memory name the next one there.
@safe
package struct Slab<Element: ~Copyable>: ~Copyable {
    /// The address of one element: its slot, and which of the slot's tenants it is.
    package struct Key: Hashable, Sendable, BitwiseCopyable {
        /// The slot, below the slab's capacity.
        package let slot: UInt32
        /// Odd for a key that once named a live element.
        package let generation: UInt32

        @inline(__always)
        package init(slot: UInt32, generation: UInt32) {
            self.slot = slot
            self.generation = generation
        }
    }

    private let base: UnsafeMutableRawPointer
    private let generations: UnsafeMutablePointer<UInt32>
    private let mappedByteCount: Int
    private var firstFree: UInt32 = Self.none
    private var used: UInt32 = 0
    private let slotLimit: UInt32
    private var liveCount: UInt32 = 0

    /// The largest capacity that a slab can have.
    package static var capacityMax: Int { Int(UInt32.max) - 1 }

    private static var none: UInt32 { .max }
    /// A slot also has to hold a link of the free list.
    private static var stride: Int { max(MemoryLayout<Element>.stride, MemoryLayout<UInt32>.stride) }
    /// Keeps the generations off the last element's cache line.
    private static var cacheLine: Int { 64 }

    /// Reserves an empty slab of `capacity` slots.
    ///
    /// - Complexity: O(1); no page is touched.
    /// - Throws: EINVAL where `capacity` is not in `1 ... capacityMax`, ENOMEM where the address space does not suffice.
    package init(capacity: Int) throws(DemikernelError) {
        assert(MemoryLayout<Element>.alignment <= 4096, "a slab is aligned to pages")
        guard capacity > 0, capacity <= Self.capacityMax else {
            throw DemikernelError(.invalidArgument, "a slab needs between one and 2^32 - 2 slots")
        }
        // At most 2^32 slots, so only an element of 2 GiB could overflow; the system refuses the sum otherwise.
        let (elementBytes, overflow) = capacity.multipliedReportingOverflow(by: Self.stride)
        guard !overflow, elementBytes < Int.max / 2 else {
            throw DemikernelError(.noMemory, "a slab exceeds the address space")
        }
        let generationsOffset = (elementBytes + Self.cacheLine - 1) & ~(Self.cacheLine - 1)
        let byteCount = generationsOffset + capacity * MemoryLayout<UInt32>.stride
        let mapping = unsafe mmap(
            nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let mapping = unsafe mapping, unsafe mapping != MAP_FAILED else {
            throw DemikernelError(.noMemory, "no address space for a slab")
        }
        unsafe base = mapping
        // Fresh pages are zero, and zero is the generation of a slot that was never used.
        unsafe generations = (mapping + generationsOffset).assumingMemoryBound(to: UInt32.self)
        mappedByteCount = byteCount
        slotLimit = UInt32(capacity)
    }

    deinit {
        for slot in 0..<used where unsafe generations[Int(slot)] & 1 == 1 {
            unsafe address(slot).deinitialize(count: 1)
        }
        let status = unsafe munmap(base, mappedByteCount)
        assert(status == 0, "a slab unmaps what it mapped")
    }

    /// How many slots there are.
    package var capacity: Int { Int(slotLimit) }
    /// How many of them hold an element.
    package var count: Int { Int(liveCount) }
    /// Whether no slot holds an element.
    package var isEmpty: Bool { liveCount == 0 }
    /// Whether every slot holds an element.
    package var isFull: Bool { liveCount == slotLimit }

    /// Stores `element` and returns its key; nil where every slot is taken.
    ///
    /// `element` is consumed either way and therefore destroyed when the slab is full. Where it must survive that, use `insert(taking:)`.
    ///
    /// - Complexity: O(1).
    @inline(__always)
    package mutating func insert(_ element: consuming Element) -> Key? {
        let slot = takeSlot()
        guard slot != Self.none else { return nil }
        unsafe address(slot).initialize(to: element)
        return occupy(slot)
    }

    /// Moves the element out of `element` into the slab and returns its key; nil, with `element` untouched, where every slot is taken or
    /// there is no element.
    ///
    /// - Complexity: O(1).
    @inline(__always)
    package mutating func insert(taking element: inout Element?) -> Key? {
        guard !isFull, let taken = element.take() else { return nil }
        return insert(taken)
    }

    /// Takes the element out; nil where the key is stale.
    ///
    /// - Complexity: O(1).
    @inline(__always)
    package mutating func remove(_ key: Key) -> Element? {
        guard contains(key) else { return nil }
        return remove(unchecked: key.slot)
    }

    /// Takes the element out of a slot that the caller knows to be live (asserted in debug builds).
    ///
    /// - Complexity: O(1).
    @inline(__always)
    package mutating func remove(unchecked slot: UInt32) -> Element {
        assert(isLive(slot), "remove(unchecked:) of a free slot")
        let element = unsafe address(slot).move()
        unsafe generations[Int(slot)] &+= 1
        unsafe link(slot).storeBytes(of: firstFree, as: UInt32.self)
        firstFree = slot
        liveCount &-= 1
        return element
    }

    /// Whether the key's element is still there. Any bit pattern may be asked about.
    ///
    /// - Complexity: O(1).
    @inline(__always)
    package func contains(_ key: Key) -> Bool {
        // A free slot's generation is even, so a forged even generation must not match it.
        key.slot < slotLimit && key.generation & 1 == 1 && (unsafe generations[Int(key.slot)] == key.generation)
    }

    /// Whether the slot holds an element; false beyond the capacity.
    @inline(__always)
    package func isLive(_ slot: UInt32) -> Bool {
        slot < slotLimit && (unsafe generations[Int(slot)] & 1 == 1)
    }

    /// The key of the element that the slot holds now; nil where it holds none.
    @inline(__always)
    package func key(of slot: UInt32) -> Key? {
        isLive(slot) ? Key(slot: slot, generation: unsafe generations[Int(slot)]) : nil
    }

    /// The first live slot at or after `slot`; nil where there is none. For walking what is left at shutdown.
    ///
    /// - Complexity: O(slots ever used).
    package func firstLive(from slot: UInt32) -> UInt32? {
        var slot = slot
        while slot < used {
            if isLive(slot) { return slot }
            slot &+= 1
        }
        return nil
    }

    /// The element of a live key, in place.
    ///
    /// A stale key here is a programming error of the runtime and traps, in release builds too: there is no element to answer with. A key
    /// that comes from a caller is asked about with `contains` first.
    package subscript(_ key: Key) -> Element {
        @inline(__always) unsafeAddress {
            precondition(contains(key), "stale slab key")
            return unsafe UnsafePointer(address(key.slot))
        }
        @inline(__always) unsafeMutableAddress {
            precondition(contains(key), "stale slab key")
            return unsafe address(key.slot)
        }
    }

    /// The element of a slot that the caller knows to be live, in place (asserted in debug builds).
    package subscript(unchecked slot: UInt32) -> Element {
        @inline(__always) unsafeAddress {
            assert(isLive(slot), "unchecked access to a free slot")
            return unsafe UnsafePointer(address(slot))
        }
        @inline(__always) unsafeMutableAddress {
            assert(isLive(slot), "unchecked access to a free slot")
            return unsafe address(slot)
        }
    }

    @inline(__always)
    private func address(_ slot: UInt32) -> UnsafeMutablePointer<Element> {
        unsafe link(slot).assumingMemoryBound(to: Element.self)
    }

    @inline(__always)
    private func link(_ slot: UInt32) -> UnsafeMutableRawPointer {
        unsafe base + Int(slot) &* Self.stride
    }

    /// A free slot, off its list; `none` where there is none.
    @inline(__always)
    private mutating func takeSlot() -> UInt32 {
        let recycled = firstFree
        if recycled != Self.none {
            firstFree = unsafe link(recycled).load(as: UInt32.self)
            return recycled
        }
        guard used < slotLimit else { return Self.none }
        let fresh = used
        used &+= 1
        return fresh
    }

    @inline(__always)
    private mutating func occupy(_ slot: UInt32) -> Key {
        let generation = unsafe generations[Int(slot)] &+ 1
        assert(generation & 1 == 1, "a free slot's generation is even")
        unsafe generations[Int(slot)] = generation
        liveCount &+= 1
        return Key(slot: slot, generation: generation)
    }
}
