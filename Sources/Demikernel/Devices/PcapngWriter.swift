import Glibc
package import SystemPackage

/// Writes captures that Wireshark, tshark and tcpdump read: pcapng (draft-ietf-opsawg-pcapng), little-endian, one section, an interface
/// description for each device, an enhanced packet for each frame, stamped in nanoseconds by whoever calls.
///
/// Blocks gather in a buffer of 64 KiB, which is written when it is full, with ``flush()`` and at the end. After an error of `write(2)` nothing
/// more is written (``error``); the datapath goes on.
///
/// Invariant: `buffer` has `bufferByteCount` bytes, of which the first `used` wait to be written.
@safe package struct PcapngWriter: ~Copyable {
    package enum Direction: UInt32, Sendable {
        case unknown = 0
        case inbound = 1
        case outbound = 2
    }

    /// The most bytes of a frame that are kept, unless less is asked for.
    package static var snapLengthMaximum: Int { 262_144 }
    private static var bufferByteCount: Int { 64 << 10 }

    private let descriptor: Int32
    private let ownsDescriptor: Bool
    private let buffer: UnsafeMutableRawPointer
    private var used = 0
    private var snapLengths: [Int] = []
    /// Why writing ended early.
    package private(set) var error: Errno?
    /// Frames that were put, and bytes of blocks.
    package private(set) var frames: UInt64 = 0
    package private(set) var bytes: UInt64 = 0

    /// Creates or truncates the file. Throws what `open(2)` says.
    package init(path: String) throws(DemikernelError) {
        let file = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw DemikernelError(Errno(rawValue: errno), "the capture file cannot be written") }
        self.init(descriptor: file, ownsDescriptor: true)
    }

    /// Writes to a file, pipe or socket; closes it at the end where it owns it.
    package init(descriptor: Int32, ownsDescriptor: Bool = false) {
        self.descriptor = descriptor
        self.ownsDescriptor = ownsDescriptor
        unsafe buffer = .allocate(byteCount: Self.bufferByteCount, alignment: 8)
        // Section header block: byte-order magic, version 1.0, length unknown.
        putBlock(type: 0x0A0D_0D0A, bodyByteCount: 16) { writer in
            writer.put32(0x1A2B_3C4D)
            writer.put32(1)
            writer.put32(.max)
            writer.put32(.max)
        }
    }

    deinit {
        // What is left; there is nobody to tell of an error any more.
        if used > 0, error == nil { unsafe _ = write(descriptor, buffer, used) }
        unsafe buffer.deallocate()
        if ownsDescriptor { close(descriptor) }
    }

    /// Describes an interface; answers its number. A `snapLength` of bytes of each frame is kept.
    package mutating func addInterface(name: String, snapLength: Int = snapLengthMaximum) -> Int {
        let name = Array(name.utf8.prefix(255))
        let padded = (name.count + 3) & ~3
        let snapLength = max(1, min(snapLength, Self.snapLengthMaximum))
        // Interface description block, link type 1 (Ethernet); options: if_name (2), if_tsresol (9): 10⁻⁹ s, end (0).
        putBlock(type: 1, bodyByteCount: 8 + 4 + padded + 8 + 4) { writer in
            writer.put32(1)
            writer.put32(UInt32(snapLength))
            writer.put32(2 | UInt32(name.count) << 16)
            for index in 0..<padded { writer.put8(index < name.count ? name[index] : 0) }
            writer.put32(9 | 1 << 16)
            writer.put32(9)
            writer.put32(0)
        }
        snapLengths.append(snapLength)
        return snapLengths.count - 1
    }

    /// Puts a frame that passed the interface at `time`, nanoseconds since 1970. An interface that there is not is ignored.
    package mutating func put(_ frame: Frame, interface: Int, direction: Direction, time: UInt64) {
        put(frame, interface: interface, direction: direction, time: time, originalByteCount: frame.byteCount)
    }

    private mutating func put(_ frame: Frame, interface: Int, direction: Direction, time: UInt64, originalByteCount count: Int) {
        guard error == nil, interface >= 0, interface < snapLengths.count else { return }
        let kept = min(frame.byteCount, snapLengths[interface])
        let padded = (kept + 3) & ~3
        // Enhanced packet block; options: epb_flags (2), end.
        let total = 12 + 20 + padded + 12
        guard reserve(total + 0) else { return }
        put32(6)
        put32(UInt32(total))
        put32(UInt32(interface))
        put32(UInt32(time >> 32))
        put32(UInt32(truncatingIfNeeded: time))
        put32(UInt32(kept))
        put32(UInt32(count))
        putBytes(of: frame, kept)
        for _ in kept..<padded { put8(0) }
        put32(2 | 4 << 16)
        put32(direction.rawValue)
        put32(0)
        put32(UInt32(total))
        frames &+= 1
        bytes &+= UInt64(total)
    }

    /// Puts a frame that lies in no heap: one of a simulation, or one of which `bytes` are what was kept of `originalByteCount`.
    package mutating func put(
        copying bytes: UnsafeRawBufferPointer, interface: Int, direction: Direction, time: UInt64, originalByteCount: Int? = nil
    ) {
        guard let start = bytes.baseAddress, bytes.count <= NetworkDeviceCapabilities.frameMaximum + 4 else { return }
        // Read from and never released, so that it need not be a heap object.
        let segment = unsafe Segment(unchecked: UnsafeMutableRawPointer(mutating: start), offset: 0, count: UInt32(bytes.count))
        put(Frame(segment), interface: interface, direction: direction, time: time, originalByteCount: max(originalByteCount ?? 0, bytes.count))
    }

    /// Puts an interface's numbers, at the end of a capture: frames that passed it, and those of them that are missing here.
    package mutating func putStatistics(interface: Int, time: UInt64, received: UInt64, dropped: UInt64) {
        guard interface >= 0, interface < snapLengths.count else { return }
        // Interface statistics block; options: isb_ifrecv (4), isb_ifdrop (5), end.
        putBlock(type: 5, bodyByteCount: 12 + 12 + 12 + 4) { writer in
            writer.put32(UInt32(interface))
            writer.put32(UInt32(time >> 32))
            writer.put32(UInt32(truncatingIfNeeded: time))
            for (option, value) in [(4, received), (5, dropped)] as [(UInt32, UInt64)] {
                writer.put32(option | 8 << 16)
                writer.put32(UInt32(truncatingIfNeeded: value))
                writer.put32(UInt32(value >> 32))
            }
            writer.put32(0)
        }
    }

    /// Writes what has gathered.
    package mutating func flush() {
        var done = 0
        while done < used, error == nil {
            let count = unsafe write(descriptor, buffer + done, used - done)
            if count >= 0 {
                done += count
            } else if errno != EINTR {
                error = Errno(rawValue: errno)
            }
        }
        used = 0
    }

    // MARK: Bytes

    private mutating func putBlock(type: UInt32, bodyByteCount: Int, _ body: (inout PcapngWriter) -> Void) {
        guard reserve(bodyByteCount + 12) else { return }
        put32(type)
        put32(UInt32(bodyByteCount + 12))
        body(&self)
        put32(UInt32(bodyByteCount + 12))
        bytes &+= UInt64(bodyByteCount + 12)
    }

    /// Makes room, so that a block is usually written whole; one larger than the buffer is written in pieces.
    private mutating func reserve(_ count: Int) -> Bool {
        if used + count > Self.bufferByteCount { flush() }
        return error == nil
    }

    private mutating func put8(_ value: UInt8) {
        if used == Self.bufferByteCount { flush() }
        unsafe buffer.storeBytes(of: value, toByteOffset: used, as: UInt8.self)
        used += 1
    }

    private mutating func put32(_ value: UInt32) {
        if used + 4 > Self.bufferByteCount { flush() }
        unsafe buffer.storeBytes(of: value.littleEndian, toByteOffset: used, as: UInt32.self)
        used += 4
    }

    private mutating func putBytes(of frame: Frame, _ count: Int) {
        var left = count
        var segment = frame.head
        var next = 0
        while left > 0 {
            if segment.byteCount == 0 {
                segment = frame.rest[next]
                next += 1
                continue
            }
            if used == Self.bufferByteCount { flush() }
            let length = min(left, segment.byteCount, Self.bufferByteCount - used)
            unsafe (buffer + used).copyMemory(from: segment.start, byteCount: length)
            used += length
            left -= length
            segment.trimFirst(length)
        }
    }
}
