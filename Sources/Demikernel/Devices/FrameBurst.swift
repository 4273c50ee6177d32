/// Frames on their way between a device and a stack, first in, first out: what one poll brings, or what is to be transmitted.
///
/// The burst owns its frames' references. It is bounded: a producer looks at ``isFull`` first, and a frame that does not fit is refused, never
/// lost silently. Adding and removing take constant time and allocate nothing.
///
/// Invariant: `storage` holds `mask + 1` frames, a power of two, of which `count` from `head` on are the burst's.
@safe public struct FrameBurst: ~Copyable {
    private let storage: UnsafeMutablePointer<Frame>
    private let mask: Int
    private var head = 0
    /// How many frames are in the burst.
    public private(set) var count = 0
    /// Where received frames get their memory.
    package let heap: HeapReference

    /// Room for `capacity` frames, rounded up to a power of two.
    package init(capacity: Int = 64, heap: HeapReference) {
        var size = 1
        while size < capacity { size *= 2 }
        mask = size - 1
        unsafe storage = .allocate(capacity: size)
        self.heap = heap
    }

    deinit {
        for index in 0..<count { unsafe storage[(head &+ index) & mask].release() }
        unsafe storage.deallocate()
    }

    /// The most frames that the burst holds.
    public var capacity: Int { mask + 1 }
    @inline(__always) public var isEmpty: Bool { count == 0 }
    @inline(__always) public var isFull: Bool { count > mask }
    @inline(__always) package var room: Int { mask &+ 1 &- count }

    /// Takes over the frame's references. The burst is not full.
    @inline(__always)
    package mutating func append(_ frame: Frame) {
        assert(!isFull)
        unsafe (storage + ((head &+ count) & mask)).initialize(to: frame)
        count &+= 1
    }

    /// Takes the first frame, and its references, out. The burst is not empty.
    @inline(__always)
    package mutating func removeFirst() -> Frame {
        assert(!isEmpty)
        let frame = unsafe storage[head]
        head = (head &+ 1) & mask
        count &-= 1
        return frame
    }

    /// Moves a frame in, and its references: as ``append(_:)``, in a few wide moves.
    @unsafe @inline(__always)
    package mutating func append(moving frame: UnsafeMutablePointer<Frame>) {
        assert(!isFull)
        unsafe (storage + ((head &+ count) & mask)).moveInitialize(from: frame, count: 1)
        count &+= 1
    }

    /// Moves the first frame, and its references, to uninitialised memory: as ``removeFirst()``, likewise.
    @unsafe @inline(__always)
    package mutating func removeFirst(movingTo target: UnsafeMutablePointer<Frame>) {
        assert(!isEmpty)
        unsafe target.moveInitialize(from: storage + head, count: 1)
        head = (head &+ 1) & mask
        count &-= 1
    }

    /// The frame at `index`, `0..<count`, without references of its own.
    @inline(__always)
    package subscript(index: Int) -> Frame {
        assert(index >= 0 && index < count)
        return unsafe storage[(head &+ index) & mask]
    }

    /// Releases every frame.
    package mutating func removeAll() {
        while !isEmpty { removeFirst().release() }
    }
}

// MARK: - For devices outside of this module

extension FrameBurst {
    /// Adds a received frame of `byteCount` bytes, which `fill` writes from the Ethernet header on, without a frame check sequence.
    ///
    /// `checksumIsValid` says that the device has verified the transport checksum. False, and nothing added, where the burst is full, the heap
    /// exhausted, or `byteCount` not in `14...65_549`.
    public mutating func append(byteCount: Int, checksumIsValid: Bool = false, fill: (UnsafeMutableRawBufferPointer) -> Void) -> Bool {
        guard !isFull, byteCount >= 14, byteCount <= NetworkDeviceCapabilities.frameMaximum else { return false }
        let segment = heap.allocateSegment(byteCount)
        guard !segment.isNull else { return false }
        unsafe fill(segment.bytes)
        append(Frame(segment, offload: FrameOffload(flags: checksumIsValid ? .checksumIsValid : [])))
        return true
    }

    /// The bytes of the first frame, from the Ethernet header on; 0 where there is none.
    public var firstByteCount: Int { isEmpty ? 0 : self[0].byteCount }

    /// Copies the first frame to `target` and takes it out; answers its bytes, or nil, with nothing changed, where there is no frame or it does
    /// not fit.
    public mutating func removeFirst(copyingTo target: UnsafeMutableRawBufferPointer) -> Int? {
        guard !isEmpty, self[0].byteCount <= target.count else { return nil }
        let frame = removeFirst()
        let count = unsafe frame.copyBytes(to: target)
        frame.release()
        return count
    }
}
