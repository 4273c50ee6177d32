import CDemikernelShims

/// The sizes that the heap's layout is made of. Demikernel paper (SOSP 2021), section 5.3: superblocks of fixed-size objects, found by address.
enum HeapGeometry {
    static var superblockShift: Int { 18 }
    static var superblockByteCount: Int { 1 << superblockShift }
    static var superblocksPerGroup: Int { 8 }
    /// 2 MiB: one huge page, and what devices register at once.
    static var groupByteCount: Int { superblockByteCount * superblocksPerGroup }

    /// 64 B, a cache line.
    static var smallestShift: Int { 6 }
    /// 64 KiB.
    static var largestShift: Int { 16 }
    static var classCount: Int { largestShift - smallestShift + 1 }

    /// A span's object begins on the page after its header.
    static var spanHeaderByteCount: Int { 4096 }
    /// Offsets and counts within an object are 32 bits wide.
    static var largestObject: Int { Int(UInt32.max) }
    /// An object's name in the return queue has 32 bits: 20 for the superblock, 12 for the object.
    static var largestArena: Int { superblockByteCount << 20 }
    static var deviceCountMaximum: Int { 8 }

    /// The shift of the smallest size class that holds `byteCount`; above ``largestShift`` for spans, and for 0 and negative counts.
    @inline(__always) static func shift(for byteCount: Int) -> Int {
        Int.bitWidth &- ((byteCount &- 1) | 63).leadingZeroBitCount
    }
}

/// An object's references. It is reused only when `references` and `pending` are both zero.
///
/// True count = `references` − what `pending` holds. Only the owner touches `references`; every other thread leaves what it took and
/// dropped in `pending` (see ``PendingReturns``) and the owner settles it.
struct ObjectRecord {
    /// Low half: the application's references; high half: the libOS's. A half that is all ones is stuck: the object is never reused.
    var references: UInt32
    /// The next object of the return queue, while this one is in it.
    var link: UInt32
    /// Atomic.
    var pending: UInt64
}

extension UnsafeMutablePointer where Pointee == ObjectRecord {
    /// The address of `pending`, without an access to the record: the other half of it is the owner's alone.
    @inline(__always) var pending: UnsafeMutablePointer<UInt64> {
        unsafe (UnsafeMutableRawPointer(self) + 8).assumingMemoryBound(to: UInt64.self)
    }
}

/// One reference of each kind, as ``ObjectRecord/references`` counts it.
enum ReferenceUnit {
    static var application: UInt32 { 1 }
    static var libOS: UInt32 { 0x1_0000 }
    /// A half of the word that reached this stays there.
    static var stuck: UInt32 { 0xffff }
}

/// What lies at the start of each superblock; records, stamps (checked heaps only), free stack and objects follow, in this order.
@safe struct SuperblockHeader {
    // First cache line: all that allocating and freeing touch besides the object's record and its slot of the free stack.
    /// The heap's state; plus 1 in checked heaps, so that no thread ever finds itself the owner and the fast paths are never taken.
    var owner: UInt
    var stack: UnsafeMutablePointer<UInt16>
    /// Where the heap keeps the last freed object of the class; never empty for spans, which therefore do not go there.
    var hotSlot: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    /// Entries of the free stack.
    var top: UInt32
    /// The `top` at which a freed object changes the superblock's place: 1 while full, `capacity` while partial, never while active.
    var eventTop: UInt32
    /// Objects are `1 << shift` bytes; 63 in spans, so that every object there has index 0.
    var shift: UInt32
    var firstObject: UInt32
    var capacity: UInt32
    /// Objects that were handed to the free stack so far; the rest are untouched memory.
    var carved: UInt32
    /// Superblocks that belong to this header; more than 1 only in spans.
    var superblockCount: UInt32
    var index: UInt32
    /// Free objects that are in neither the free stack nor anybody's hands (checked heaps).
    var quarantined: UInt32 = 0
    /// The size class's list of partial superblocks.
    var next: UnsafeMutablePointer<SuperblockHeader>?
    // Second cache line.
    var deviceKeys: InlineArray<8, UInt64>
    // Third cache line.
    var previous: UnsafeMutablePointer<SuperblockHeader>?
    var stamps: UnsafeMutablePointer<UInt64>?

    static var byteCount: Int { 192 }
    static var never: UInt32 { .max }
    static var spanShift: UInt32 { 63 }
}

/// A superblock in use.
///
/// Invariant: `header` is the start of a committed superblock (or of the heap's stand-in for "none") whose header is initialised and whose
/// stack, records and objects lie inside it.
@safe struct Superblock {
    let header: UnsafeMutablePointer<SuperblockHeader>

    @inline(__always) init(_ header: UnsafeMutablePointer<SuperblockHeader>) { unsafe self.header = header }

    /// The superblock of an object, by address. `object` is an object's start: in a span only that lies in the head superblock.
    @inline(__always) init(of object: UnsafeMutableRawPointer) {
        let start = UInt(bitPattern: object) & ~UInt(HeapGeometry.superblockByteCount &- 1)
        unsafe header = UnsafeMutablePointer(bitPattern: start).unsafelyUnwrapped
    }

    @inline(__always) var isSpan: Bool { unsafe header.pointee.shift == SuperblockHeader.spanShift }
    @inline(__always) var isEmpty: Bool { unsafe header.pointee.top == header.pointee.carved }
    @inline(__always) var liveCount: Int { unsafe Int(header.pointee.carved) - Int(header.pointee.top) - Int(header.pointee.quarantined) }
    /// Whether the calling thread may take the fast paths.
    @inline(__always) var isOwnedByThisThread: Bool { unsafe header.pointee.owner == unsafeBitCast(dk_thread_heap_get(), to: UInt.self) }
    @inline(__always) var isChecked: Bool { unsafe header.pointee.owner & 1 == 1 }

    // Load and store, not `+=` on the header: the thread sanitizer takes that for an access to all of it, while others read `owner`.
    var quarantined: Int {
        get { unsafe Int(header.pointee.quarantined) }
        nonmutating set { unsafe header.pointee.quarantined = UInt32(newValue) }
    }

    @inline(__always) var state: UnsafeMutablePointer<HeapState> {
        unsafe UnsafeMutablePointer(bitPattern: header.pointee.owner & ~1).unsafelyUnwrapped
    }

    /// The bytes of one object.
    @inline(__always) var objectByteCount: Int {
        let shift = unsafe header.pointee.shift
        if shift != SuperblockHeader.spanShift { return 1 &<< Int(shift) }
        return unsafe Int(header.pointee.superblockCount) &* HeapGeometry.superblockByteCount &- Int(header.pointee.firstObject)
    }

    @inline(__always) func index(of object: UnsafeMutableRawPointer) -> Int {
        let offset = unsafe UInt(bitPattern: object) &- UInt(bitPattern: header) &- UInt(header.pointee.firstObject)
        return unsafe Int(bitPattern: offset &>> UInt(header.pointee.shift))
    }

    @inline(__always) func object(_ index: Int) -> UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(header) + (Int(header.pointee.firstObject) &+ index &<< Int(header.pointee.shift))
    }

    @inline(__always) func record(_ index: Int) -> UnsafeMutablePointer<ObjectRecord> {
        unsafe (UnsafeMutableRawPointer(header) + SuperblockHeader.byteCount).assumingMemoryBound(to: ObjectRecord.self) + index
    }

    /// Takes a free object; nil where the free stack is empty. Its record holds one reference of kind `unit`.
    @inline(__always) func take(_ unit: UInt32) -> UnsafeMutableRawPointer? {
        var top = unsafe header.pointee.top
        if top == 0 { return nil }
        top &-= 1
        unsafe header.pointee.top = top
        let index = unsafe Int(header.pointee.stack[Int(top)])
        unsafe record(index).pointee.references = unit
        return unsafe object(index)
    }

    /// Puts back an object whose references are gone: to its class's hot slot where that is empty, else to the free stack. Owner only.
    ///
    /// The slot halves the latency of allocating what was just freed: one store forwarded to one load, instead of two for `top` and one for
    /// the stack with index arithmetic between them.
    @inline(__always) func give(_ object: UnsafeMutableRawPointer, _ index: Int) {
        let slot = unsafe header.pointee.hotSlot
        if unsafe slot.pointee == nil {
            unsafe slot.pointee = object
            return
        }
        if put(index) { unsafe state.pointee.superblockChangedPlace(self) }
    }

    /// Puts back an object and answers whether the heap has to find the superblock another place.
    @inline(__always) func put(_ index: Int) -> Bool {
        var top = unsafe header.pointee.top
        unsafe header.pointee.stack[Int(top)] = UInt16(truncatingIfNeeded: index)
        top &+= 1
        unsafe header.pointee.top = top
        return unsafe top == header.pointee.eventTop
    }

    /// Moves up to `count` untouched objects to the free stack, lowest on top. Creating a superblock costs nothing per object this way.
    func carve(_ count: Int) {
        let first = unsafe Int(header.pointee.carved)
        let end = unsafe min(first + count, Int(header.pointee.capacity))
        var top = unsafe Int(header.pointee.top)
        for index in (first..<end).reversed() {
            unsafe record(index).initialize(to: ObjectRecord(references: 0, link: 0, pending: 0))
            unsafe header.pointee.stack[top] = UInt16(index)
            top += 1
        }
        unsafe header.pointee.top = UInt32(top)
        unsafe header.pointee.carved = UInt32(end)
    }
}

/// How a superblock of one size class is divided.
struct SuperblockLayout {
    var capacity: UInt32 = 0
    var firstObject: UInt32 = 0
    var stackOffset: UInt32 = 0

    /// Objects of 4 KiB and more begin on pages, smaller ones on multiples of their size: devices ask for that.
    init(shift: Int, checked: Bool) {
        let size = 1 << shift
        let perObject = MemoryLayout<ObjectRecord>.stride + 2 + (checked ? 8 : 0)
        let alignment = min(size, 4096)
        var count = (HeapGeometry.superblockByteCount - SuperblockHeader.byteCount) / (size + perObject)
        func first(_ count: Int) -> Int { (SuperblockHeader.byteCount + count * perObject + alignment - 1) & ~(alignment - 1) }
        while first(count) + count * size > HeapGeometry.superblockByteCount { count -= 1 }
        capacity = UInt32(count)
        firstObject = UInt32(first(count))
        stackOffset = UInt32(SuperblockHeader.byteCount + count * (perObject - 2))
    }

    init() {}
}
