import CDemikernelShims

/// The part of the heap that is registered with the kernel (the UMEM), and the chunks of it that are the kernel's to fill.
///
/// Registered is the heap's beginning, once: growing the registration would need another socket. Objects come from there first (the arena hands out its
/// lowest superblocks first), so that most frames are received and sent where they lie; what lies behind is copied. A chunk is an object of the heap of 2
/// or 4 KiB with a libOS reference that stands for the kernel. There are always as many: whoever takes one to the application puts a fresh one in its
/// place, or, where the heap's objects lie behind the registered part, copies.
///
/// Memory is registered with chunks that may begin anywhere, so that a buffer can be sent from wherever it begins, and an address has 16 bits for an
/// offset, in which the transmit ring carries a slot's number.
///
/// Invariant: `base` and `byteCount` are whole groups of the heap, committed; each bit of `held` stands for an object that begins there and for a libOS
/// reference to it; the first `spareCount` of `spares` are chunks with a libOS reference each.
@safe struct XDPMemory: ~Copyable {
    let heap: HeapReference
    let base: UnsafeMutableRawPointer
    let byteCount: Int
    /// Bytes of a chunk: the most that a descriptor covers.
    let chunkByteCount: Int
    /// Chunks that are the kernel's.
    private(set) var heldCount = 0
    private let held: MappedMemory<UInt64>
    /// Chunks for frames that lie elsewhere, where the heap has none to give.
    private let spares: MappedMemory<Segment>
    private var spareCount = 0

    /// What the kernel leaves free in front of a received frame.
    static var headroom: Int { 256 }
    /// The most slots that can be told apart: a slot's number is subtracted from addresses, see ``address(of:slot:)``, which therefore are not smaller.
    /// No object begins before (``SuperblockLayout``).
    static var slotsMaximum: Int { 4_096 }
    private static var chunkShift: Int { 11 }
    private static var chunksMinimum: Int { 16 }

    /// Takes a ring's chunks for each queue and some to spare, fewer where the memory is small.
    /// Throws ENOMEM for a heap that has not even a few.
    static func registered(_ configuration: XDPConfiguration, heap: HeapReference, chunk: Int) throws(XDPFailure) -> XDPMemory {
        let memory = try XDPFailure.wrapping { () throws(DemikernelError) in try XDPMemory(configuration, heap: heap, chunk: chunk) }
        guard memory.heldCount >= Self.chunksMinimum else {
            throw XDPFailure(.noMemory, "the heap is too small, or too full, for AF_XDP: make heap.limit or catpowder.xdp_memory larger")
        }
        return memory
    }

    private init(_ configuration: XDPConfiguration, heap: HeapReference, chunk: Int) throws(DemikernelError) {
        let range = unsafe heap.commit(configuration.memory)
        let held = try MappedMemory<UInt64>(count: range.count >> (Self.chunkShift + 6) + 1)
        let spares = try MappedMemory<Segment>(count: Self.sparesMaximum)
        self.heap = heap
        unsafe base = range.baseAddress.unsafelyUnwrapped
        byteCount = range.count
        chunkByteCount = chunk
        self.held = held
        self.spares = spares
        let wanted = min(configuration.ringEntries * configuration.queues, range.count / 4 / chunk)
        while heldCount < wanted, case let segment = heap.allocateSegment(chunk), keep(segment) {}
        while spareCount < min(Self.sparesMaximum, wanted / 4), case let segment = heap.allocateSegment(chunk), keepSpare(segment) {}
    }

    deinit {
        for index in 0..<spareCount { unsafe spares.base[index].release() }
        for word in 0..<held.count {
            var bits = unsafe held.base[word]
            while bits != 0 {
                let offset = (word << 6 + bits.trailingZeroBitCount) << Self.chunkShift
                unsafe Segment(unchecked: base + offset, offset: 0, count: 0).release()
                bits &= bits - 1
            }
        }
    }

    private static var sparesMaximum: Int { 64 }

    private mutating func keep(_ segment: Segment) -> Bool {
        guard contains(segment) else {
            segment.release()
            return false
        }
        _ = give(segment)
        return true
    }

    private mutating func keepSpare(_ segment: Segment) -> Bool {
        guard contains(segment) else {
            segment.release()
            return false
        }
        unsafe spares.base[spareCount] = segment
        spareCount += 1
        return true
    }

    /// Heap objects that the device has a reference to, other than for frames under way.
    var objectCount: Int { heldCount + spareCount }

    /// Whether a segment lies in the registered part; a null one does not.
    @inline(__always)
    func contains(_ segment: Segment) -> Bool {
        let start = unsafe segment.address &+ UInt(segment.offset) &- UInt(bitPattern: base)
        return start >= UInt(Self.slotsMaximum) && start &+ UInt(segment.count) <= UInt(byteCount)
    }

    // MARK: Chunks to receive into

    /// The kernel gets the chunk, and its reference; answers its address for a fill ring.
    @inline(__always)
    mutating func give(_ chunk: Segment) -> UInt64 {
        let place = unsafe chunk.address &- UInt(bitPattern: base)
        let index = Int(bitPattern: place) &>> Self.chunkShift
        unsafe held.base[index &>> 6] |= 1 &<< UInt64(truncatingIfNeeded: index & 63)
        heldCount &+= 1
        return UInt64(place)
    }

    /// Takes the chunk at an address, and its reference, back from the kernel; null where it has none there.
    @inline(__always)
    mutating func takeBack(_ address: UInt64) -> Segment {
        guard address < UInt64(byteCount), address & 0x7ff == 0 else { return .null }
        let index = Int(truncatingIfNeeded: address) &>> Self.chunkShift
        let bit: UInt64 = 1 &<< UInt64(truncatingIfNeeded: index & 63)
        guard unsafe held.base[index &>> 6] & bit != 0 else { return .null }
        unsafe held.base[index &>> 6] &= ~bit
        heldCount &-= 1
        return unsafe Segment(unchecked: base + Int(truncatingIfNeeded: address), offset: 0, count: UInt32(truncatingIfNeeded: chunkByteCount))
    }

    /// Calls `body` with the address of each chunk that is the kernel's.
    func forEachHeld(_ body: (UInt64) -> Void) {
        for word in 0..<held.count {
            var bits = unsafe held.base[word]
            while bits != 0 {
                body(UInt64(word << 6 + bits.trailingZeroBitCount) << UInt64(Self.chunkShift))
                bits &= bits - 1
            }
        }
    }

    // MARK: Memory to transmit from

    /// The address of bytes that lie in the registered part, for a transmit ring: the slot's number is in the offset's place, and subtracted from the
    /// rest, so that both together are the address; it comes back with the completion as it was.
    @inline(__always)
    func address(of segment: Segment, slot: Int) -> UInt64 {
        let place = unsafe UInt64(segment.address &+ UInt(segment.offset) &- UInt(bitPattern: base))
        return place &- UInt64(truncatingIfNeeded: slot) | UInt64(truncatingIfNeeded: slot) &<< 48
    }

    /// A chunk to copy a frame of `count` bytes to, at most a chunk's; null where neither the heap nor the spares have one.
    @inline(__always)
    mutating func takeStaging(_ count: Int) -> Segment {
        let segment = heap.allocateSegment(count)
        if contains(segment) { return segment }
        return takeSpare(segment, count)
    }

    @inline(never)
    private mutating func takeSpare(_ useless: Segment, _ count: Int) -> Segment {
        useless.release()
        guard spareCount > 0 else { return .null }
        spareCount &-= 1
        var segment = unsafe spares.base[spareCount]
        segment.trimLast(segment.byteCount &- count)
        return segment
    }

    /// Takes over the reference to a segment that was sent: a chunk that nobody else has becomes a spare where some are missing.
    @inline(__always)
    mutating func release(_ segment: Segment) {
        if spareCount < Self.sparesMaximum { return releaseOrKeep(segment) }
        segment.release()
    }

    @inline(never)
    private mutating func releaseOrKeep(_ segment: Segment) {
        guard segment.isSoleReference, segment.capacity == chunkByteCount else { return segment.release() }
        let whole = unsafe Segment(unchecked: segment.object, offset: 0, count: UInt32(truncatingIfNeeded: chunkByteCount))
        guard contains(whole) else { return segment.release() }
        unsafe spares.base[spareCount] = whole
        spareCount &+= 1
    }
}
