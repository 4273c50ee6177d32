import CDemikernelShims

/// Bytes of one heap object: what the libOS keeps in its tables and rings.
///
/// Plain data, 16 bytes, without automatic ownership: whoever holds a segment holds one *libOS reference* to its object by convention, and
/// passes it on or calls ``release()`` exactly once. ``Buffer`` is the application's side, where the compiler does this.
///
/// Invariant: `object` is nil (then offset and count are 0) or the start of a live heap object of at least `offset + count` bytes.
@safe package struct Segment: BitwiseCopyable {
    /// The object's start.
    package private(set) var object: UnsafeMutableRawPointer?
    /// The offset in the lower half, the count in the upper: a segment is moved as two words, and never taken apart for it.
    private var extent: UInt64

    @inline(__always) init(unchecked object: UnsafeMutableRawPointer?, offset: UInt32, count: UInt32) {
        unsafe self.object = object
        extent = UInt64(count) &<< 32 | UInt64(offset)
    }

    @inline(__always) package var offset: UInt32 { UInt32(truncatingIfNeeded: extent) }
    @inline(__always) package var count: UInt32 { UInt32(truncatingIfNeeded: extent &>> 32) }

    @inline(__always) package static var null: Segment { unsafe Segment(unchecked: nil, offset: 0, count: 0) }
    @inline(__always) package var isNull: Bool { unsafe object == nil }

    /// The first byte. The segment is not null.
    @inline(__always) package var start: UnsafeMutableRawPointer { unsafe object.unsafelyUnwrapped + Int(offset) }
    /// The object's address, or 0: to compare, not to load from.
    @inline(__always) package var address: UInt { unsafe UInt(bitPattern: object) }
    @inline(__always) package var byteCount: Int { Int(count) }
    @inline(__always) package var bytes: UnsafeMutableRawBufferPointer {
        guard !isNull else { return unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0) }
        return unsafe UnsafeMutableRawBufferPointer(start: start, count: Int(count))
    }

    /// The bytes of the whole object.
    package var capacity: Int { isNull ? 0 : unsafe Superblock(of: object.unsafelyUnwrapped).objectByteCount }
    /// Bytes of the object before and after the segment. They may belong to other segments of the same object.
    package var headroom: Int { Int(offset) }
    package var tailroom: Int { capacity - Int(offset) - Int(count) }

    /// The key that a device gave for the segment's memory. One load for objects up to 64 KiB. A larger object may cross superblock groups
    /// (2 MiB), whose keys differ: ask for a slice that begins in each. The segment is not null.
    @inline(__always) package func deviceKey(_ device: Int) -> UInt64 {
        let superblock = unsafe Superblock(of: object.unsafelyUnwrapped)
        if superblock.isSpan { return unsafe superblock.state.pointee.key(device, start) }
        return unsafe superblock.header.pointee.deviceKeys[device]
    }

    // MARK: References

    /// Takes another libOS reference. At 65,535 the count sticks and the object is never reused.
    @inline(__always) package func retain() {
        guard let object = unsafe object else { return }
        let superblock = unsafe Superblock(of: object)
        if superblock.isOwnedByThisThread {
            let record = unsafe superblock.record(superblock.index(of: object))
            let references = unsafe record.pointee.references
            if references < ReferenceUnit.stuck &<< 16 &- ReferenceUnit.libOS {
                unsafe record.pointee.references = references &+ ReferenceUnit.libOS
                return
            }
        }
        if !(unsafe superblock.change(object, .retainLibOS)) { unsafe superblock.stick(object, ReferenceUnit.libOS) }
    }

    /// Drops the libOS reference. The bytes may be anybody's afterwards.
    @inline(__always) package func release() {
        guard let object = unsafe object else { return }
        unsafe Superblock(of: object).release(object, ReferenceUnit.libOS)
    }

    /// Whether this segment's reference is the only one to its object, of either kind and on any thread: then all of the object's bytes are its
    /// holder's. May be false where that is so.
    @inline(__always) package var isSoleReference: Bool {
        guard let object = unsafe object else { return false }
        let superblock = unsafe Superblock(of: object)
        guard superblock.isOwnedByThisThread else { return false }
        let record = unsafe superblock.record(superblock.index(of: object))
        return unsafe record.pointee.references == ReferenceUnit.libOS && dk_atomic_load_u64(record.pending) == 0
    }

    // MARK: Parts

    /// A part of this segment, with a reference of its own; null where `range` is not inside. Complexity: O(1).
    @inline(__always) package func slice(_ start: Int, count length: Int) -> Segment {
        guard start >= 0, length >= 0, start <= Int(count), length <= Int(count) &- start else { return .null }
        retain()
        return unsafe Segment(unchecked: object, offset: offset &+ UInt32(truncatingIfNeeded: start), count: UInt32(truncatingIfNeeded: length))
    }

    /// Forgets the first `length` bytes, all of them where there are fewer.
    @inline(__always) package mutating func trimFirst(_ length: Int) {
        let taken = UInt64(truncatingIfNeeded: max(0, min(length, Int(count))))
        // Neither half overflows: the offset ends where the count did.
        extent = extent &+ taken &- taken &<< 32
    }

    /// Forgets the last `length` bytes, all of them where there are fewer.
    @inline(__always) package mutating func trimLast(_ length: Int) {
        extent &-= UInt64(truncatingIfNeeded: max(0, min(length, Int(count)))) &<< 32
    }

    /// Makes the segment begin `length` bytes earlier. False, and nothing changed, where there is no such room.
    @inline(__always) package mutating func prepend(_ length: Int) -> Bool {
        guard length >= 0, length <= Int(offset) else { return false }
        let given = UInt64(truncatingIfNeeded: length)
        extent = extent &- given &+ given &<< 32
        return true
    }

    /// Makes the segment end `length` bytes later. False, and nothing changed, where there is no such room.
    @inline(__always) package mutating func append(_ length: Int) -> Bool {
        guard length >= 0, length <= tailroom else { return false }
        extent &+= UInt64(truncatingIfNeeded: length) &<< 32
        return true
    }
}

extension Superblock {
    /// Drops one reference of kind `unit`; gives the object back where it was the last and the thread is the owner.
    @inline(__always) func release(_ object: UnsafeMutableRawPointer, _ unit: UInt32) {
        if isOwnedByThisThread {
            let index = unsafe self.index(of: object)
            let record = unsafe self.record(index)
            if unsafe record.pointee.references == unit, unsafe dk_atomic_load_u64(record.pending) == 0 {
                unsafe record.pointee.references = 0
                return unsafe give(object, index)
            }
        }
        unsafe releaseShared(object, unit)
    }

    /// The same where others hold the object as well, as they do each push of which a segment is a part.
    @inline(never) @unsafe private func releaseShared(_ object: UnsafeMutableRawPointer, _ unit: UInt32) {
        if isOwnedByThisThread {
            let record = unsafe self.record(index(of: object))
            let references = unsafe record.pointee.references
            let count = unit == ReferenceUnit.application ? references & 0xffff : references &>> 16
            if count != 0, count != ReferenceUnit.stuck, references != unit, unsafe dk_atomic_load_u64(record.pending) == 0 {
                unsafe record.pointee.references = references &- unit
                return
            }
        }
        _ = unsafe change(object, unit == ReferenceUnit.application ? .releaseApplication : .releaseLibOS)
    }

    /// Drops one application reference of an object, live or not, where that is plain: on the owner's thread, with nothing pending, from a
    /// count that is neither zero nor stuck. False, and nothing changed, elsewhere.
    @inline(__always) func dropApplicationReference(_ index: Int) -> Bool {
        guard isOwnedByThisThread else { return false }
        let record = unsafe self.record(index)
        let references = unsafe record.pointee.references
        let count = references & 0xffff
        guard count != 0, count != ReferenceUnit.stuck, unsafe dk_atomic_load_u64(record.pending) == 0 else { return false }
        unsafe record.pointee.references = references &- ReferenceUnit.application
        if references == ReferenceUnit.application { unsafe give(object(index), index) }
        return true
    }

    /// Takes a libOS reference of an object that the application holds, where that is plain; likewise.
    @inline(__always) func addLibOSReference(_ index: Int) -> Bool {
        guard isOwnedByThisThread else { return false }
        let record = unsafe self.record(index)
        let references = unsafe record.pointee.references
        guard references &>> 16 < ReferenceUnit.stuck &- 1, unsafe dk_atomic_load_u64(record.pending) == 0 else { return false }
        unsafe record.pointee.references = references &+ ReferenceUnit.libOS
        return true
    }

    /// One application reference becomes one of the libOS, or the other way round. A full count sticks.
    @inline(__always) func convert(_ object: UnsafeMutableRawPointer, toLibOS: Bool) {
        if isOwnedByThisThread {
            let record = unsafe self.record(index(of: object))
            let references = unsafe record.pointee.references
            let from = toLibOS ? references & 0xffff : references &>> 16
            let to = toLibOS ? references &>> 16 : references & 0xffff
            if from != 0, from != ReferenceUnit.stuck, to < ReferenceUnit.stuck &- 1 {
                let change = ReferenceUnit.libOS &- ReferenceUnit.application
                unsafe record.pointee.references = toLibOS ? references &+ change : references &- change
                return
            }
        }
        unsafe convertSlow(object, toLibOS: toLibOS)
    }

    @inline(never) @unsafe private func convertSlow(_ object: UnsafeMutableRawPointer, toLibOS: Bool) {
        if unsafe change(object, toLibOS ? .applicationToLibOS : .libOSToApplication) { return }
        unsafe stick(object, toLibOS ? ReferenceUnit.libOS : ReferenceUnit.application)
        _ = unsafe change(object, toLibOS ? .releaseApplication : .releaseLibOS)
    }

    /// Makes a count that is full stick: the object is never reused.
    @inline(never) func stick(_ object: UnsafeMutableRawPointer, _ unit: UInt32) {
        unsafe record(index(of: object)).pointee.references |= ReferenceUnit.stuck &* unit
    }
}
