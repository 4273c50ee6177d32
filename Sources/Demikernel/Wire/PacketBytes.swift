/// A room of bytes in which a packet lies or is built: pointer and length, without ownership.
///
/// Loads and stores are big-endian (the network's order), need no alignment and are checked in debug builds alone: a view checks the length
/// once, after which its accessors are plain loads. Offsets are in bytes from the room's start.
///
/// Invariant: `start` points to `count` bytes that are readable, and writable where anybody stores, for as long as the value is used. Hence
/// a room, and any view of one, is passed down and never kept; whoever makes it (`init(start:count:)`, unsafe) vouches for that. Offsets
/// passed in are within `0 ... count`: every caller has compared with `count` before.
@safe package struct PacketBytes: BitwiseCopyable {
    /// The first byte.
    @unsafe package let start: UnsafeMutableRawPointer
    /// The length in bytes.
    package let count: Int

    /// Names `count` bytes at `start`, which the caller keeps alive and unmoved.
    @unsafe @inline(__always) package init(start: UnsafeMutableRawPointer, count: Int) {
        assert(count >= 0)
        unsafe self.start = start
        self.count = count
    }

    /// No bytes at all.
    @inline(__always) package static var empty: PacketBytes {
        unsafe PacketBytes(start: UnsafeMutableRawPointer(bitPattern: 1).unsafelyUnwrapped, count: 0)
    }

    @inline(__always) package var isEmpty: Bool { count == 0 }

    /// The bytes for code that wants bounds checks. Not to outlive the memory, as the room itself.
    @inline(__always) package var span: RawSpan {
        @_lifetime(borrow self) get {
            let span = unsafe RawSpan(_unsafeStart: UnsafeRawPointer(start), byteCount: count)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }

    @inline(__always) private func check(_ offset: Int, _ length: Int) {
        assert(offset >= 0 && length >= 0 && offset <= count && length <= count - offset, "outside of the packet")
    }
}

// MARK: - Loads

extension PacketBytes {
    @inline(__always) package func load8(_ offset: Int) -> UInt8 {
        check(offset, 1)
        return unsafe start.load(fromByteOffset: offset, as: UInt8.self)
    }

    @inline(__always) package func load16(_ offset: Int) -> UInt16 {
        check(offset, 2)
        return unsafe UInt16(bigEndian: start.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }

    @inline(__always) package func load32(_ offset: Int) -> UInt32 {
        check(offset, 4)
        return unsafe UInt32(bigEndian: start.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }

    @inline(__always) package func load64(_ offset: Int) -> UInt64 {
        check(offset, 8)
        return unsafe UInt64(bigEndian: start.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
}

// MARK: - Stores

extension PacketBytes {
    @inline(__always) package func store8(_ value: UInt8, at offset: Int) {
        check(offset, 1)
        unsafe start.storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }

    @inline(__always) package func store16(_ value: UInt16, at offset: Int) {
        check(offset, 2)
        unsafe start.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }

    @inline(__always) package func store32(_ value: UInt32, at offset: Int) {
        check(offset, 4)
        unsafe start.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }

    @inline(__always) package func store64(_ value: UInt64, at offset: Int) {
        check(offset, 8)
        unsafe start.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt64.self)
    }
}

// MARK: - Parts

extension PacketBytes {
    /// `length` bytes from `offset` on.
    @inline(__always) package func slice(_ offset: Int, _ length: Int) -> PacketBytes {
        check(offset, length)
        return unsafe PacketBytes(start: start + offset, count: length)
    }

    /// What follows the first `offset` bytes.
    @inline(__always) package func slice(from offset: Int) -> PacketBytes {
        check(offset, 0)
        return unsafe PacketBytes(start: start + offset, count: count &- offset)
    }

    /// Copies all of `source` to `offset`. The two may overlap.
    @inline(__always) package func copy(from source: PacketBytes, at offset: Int) {
        check(offset, source.count)
        unsafe (start + offset).copyMemory(from: source.start, byteCount: source.count)
    }

    /// Zeroes `length` bytes from `offset` on.
    @inline(__always) package func clear(_ offset: Int, _ length: Int) {
        check(offset, length)
        unsafe _ = (start + offset).initializeMemory(as: UInt8.self, repeating: 0, count: length)
    }
}
