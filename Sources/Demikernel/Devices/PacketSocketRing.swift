import CDemikernelShims
import Glibc
import SystemPackage

/// A packet socket with its rings in memory that the kernel shares (TPACKET_V2): one to receive from and, of a device's first socket, one to
/// transmit from. The kernel's Documentation/networking/packet_mmap.rst.
///
/// A slot's first word says whose it is; that word is loaded and stored atomically, the rest only while the slot is ours. virtio's header comes
/// before each frame and carries what was done about its checksum: a kernel peer of the same machine leaves it undone, and so may we.
///
/// Invariant: `base` is a mapping of `descriptor` with the receive ring, and after it the transmit ring where `transmits`, both of `layout`, until
/// ``close()``; both positions are within their ring.
@safe struct PacketSocketRing: BitwiseCopyable {
    let descriptor: Int32
    private let base: UnsafeMutableRawPointer
    private let layout: PacketRingLayout
    private let transmits: Bool
    private var received = 0
    private var transmitted = 0
    /// Frames are in the transmit ring that the kernel has not taken yet.
    private(set) var isUnsent = false
    /// What a full burst had no room for of a frame that stands for several datagrams.
    private var run = DatagramRun.none

    init(descriptor: Int32, base: UnsafeMutableRawPointer, layout: PacketRingLayout, transmits: Bool) {
        self.descriptor = descriptor
        unsafe self.base = base
        self.layout = layout
        self.transmits = transmits
    }

    mutating func close() {
        run.release()
        unsafe munmap(base, layout.byteCount * (transmits ? 2 : 1))
        _ = Glibc.close(descriptor)
    }

    // MARK: - Receiving

    /// Offsets of struct tpacket2_hdr.
    private enum Header {
        static var length: Int { 4 }
        static var captured: Int { 8 }
        static var frame: Int { 12 }
        static var tag: Int { 24 }
        static var tagType: Int { 26 }
        static var byteCount: Int { 32 }
    }

    /// The bits of a slot's status that are looked at; for a slot to be transmitted they mean something else.
    private enum Status {
        static var ours: UInt32 { 1 }
        static var copied: UInt32 { 2 }
        static var tagged: UInt32 { 1 << 4 }
        static var hasTagType: UInt32 { 1 << 6 }
        static var unsent: UInt32 { 1 | 2 }
        static var wrong: UInt32 { 4 }
    }

    /// virtio's header.
    static var virtioByteCount: Int { MemoryLayout<dk_virtio_header>.size }

    private var receiveSlot: UnsafeMutableRawPointer {
        @inline(__always) get { unsafe base + received &* layout.frameSize } }
    private var transmitSlot: UnsafeMutableRawPointer {
        @inline(__always) get { unsafe base + (layout.byteCount &+ transmitted &* layout.frameSize) }
    }

    /// Whether a frame has come.
    var hasFrames: Bool { unsafe !run.isEmpty || dk_packet_status_load(receiveSlot) & Status.ours != 0 }

    /// Takes frames into `burst` until it is full or there are no more.
    mutating func receive(into burst: inout FrameBurst, _ statistics: inout NetworkDeviceStatistics) {
        run.cut(into: &burst, &statistics)
        while !burst.isFull {
            let slot = unsafe receiveSlot
            let status = unsafe dk_packet_status_load(slot)
            guard status & Status.ours != 0 else { return }
            let length = unsafe Int(slot.load(fromByteOffset: Header.length, as: UInt32.self))
            let captured = unsafe Int(slot.load(fromByteOffset: Header.captured, as: UInt32.self))
            let start = unsafe Int(slot.load(fromByteOffset: Header.frame, as: UInt16.self))
            if captured == length, status & Status.tagged == 0, length >= 14, start >= Self.virtioByteCount, start &+ length <= layout.frameSize {
                let segment = burst.heap.allocateSegment(length)
                if segment.isNull {
                    statistics.receiveDrops &+= 1
                } else {
                    unsafe dk_copy_frame(segment.start, slot + start, length)
                    let virtio = unsafe (slot + start - Self.virtioByteCount).loadUnaligned(as: dk_virtio_header.self)
                    take(segment, virtio, into: &burst, &statistics)
                }
            } else {
                unsafe takeOther(slot, status, into: &burst, &statistics)
            }
            unsafe dk_packet_status_store(slot, 0)
            received = (received &+ 1) & (layout.frames &- 1)
        }
    }

    /// A frame that is longer than a slot, or whose VLAN tag lies beside it.
    @unsafe @inline(never)
    private mutating func takeOther(
        _ slot: UnsafeMutableRawPointer, _ status: UInt32, into burst: inout FrameBurst, _ statistics: inout NetworkDeviceStatistics
    ) {
        let length = unsafe Int(slot.load(fromByteOffset: Header.length, as: UInt32.self))
        let captured = unsafe Int(slot.load(fromByteOffset: Header.captured, as: UInt32.self))
        let start = unsafe Int(slot.load(fromByteOffset: Header.frame, as: UInt16.self))
        let isWhole = captured == length && start >= Self.virtioByteCount && start + length <= layout.frameSize
        let tagBytes = status & Status.tagged != 0 ? 4 : 0
        var segment = Segment.null
        if length >= 14, length + tagBytes <= NetworkDeviceCapabilities.frameMaximum + 4, isWhole || status & Status.copied != 0 {
            segment = burst.heap.allocateSegment(length + tagBytes)
        }
        var virtio = dk_virtio_header()
        if status & Status.copied != 0 {
            // Also where there is no memory for it: it has to leave the socket's queue, or each later one would be taken for its predecessor.
            let room = segment.isNull ? 0 : length
            let target = segment.isNull ? nil : unsafe segment.start + tagBytes
            let count = unsafe Self.takeQueued(descriptor, &virtio, target, room)
            if !segment.isNull, count != length + Self.virtioByteCount {
                segment.release()
                segment = .null
            }
        } else if !segment.isNull {
            unsafe (segment.start + tagBytes).copyMemory(from: slot + start, byteCount: length)
            unsafe virtio = (slot + start - Self.virtioByteCount).loadUnaligned(as: dk_virtio_header.self)
        }
        guard !segment.isNull else {
            statistics.receiveDrops &+= 1
            return
        }
        if tagBytes > 0 {
            // IEEE 802.1Q, section 9.3: type and tag between the addresses and the frame's own type.
            unsafe memmove(segment.start, segment.start + 4, 12)
            let tag = unsafe UInt32(slot.load(fromByteOffset: Header.tag, as: UInt16.self))
            let type = status & Status.hasTagType != 0 ? unsafe UInt32(slot.load(fromByteOffset: Header.tagType, as: UInt16.self)) : 0x8100
            unsafe segment.bytes.storeBytes(of: (type &<< 16 | tag).bigEndian, toByteOffset: 12, as: UInt32.self)
            virtio.checksum_start &+= 4
        }
        take(segment, virtio, into: &burst, &statistics)
    }

    /// A received frame goes into the burst, which has room, or as many frames as it stands for do.
    @inline(__always)
    private mutating func take(
        _ segment: Segment, _ virtio: dk_virtio_header, into burst: inout FrameBurst, _ statistics: inout NetworkDeviceStatistics
    ) {
        if !virtio.standsForDatagrams { return virtio.append(segment, to: &burst, &statistics) }
        take(datagrams: segment, virtio, into: &burst, &statistics)
    }

    @inline(never)
    private mutating func take(
        datagrams segment: Segment, _ virtio: dk_virtio_header, into burst: inout FrameBurst, _ statistics: inout NetworkDeviceStatistics
    ) {
        guard let run = DatagramRun(segment, virtio) else {
            statistics.malformed &+= 1
            return segment.release()
        }
        self.run = run
        self.run.cut(into: &burst, &statistics)
    }

    /// The most errors that a socket is taken to have before a frame.
    private static var errorsMaximum: Int { 4 }

    /// Takes the first frame of the socket's queue, where frames lie that have no room in a slot: its bytes with virtio's header before, or a negative
    /// number.
    @unsafe
    private static func takeQueued(
        _ descriptor: Int32, _ virtio: inout dk_virtio_header, _ target: UnsafeMutableRawPointer?, _ count: Int
    ) -> Int {
        unsafe withUnsafeMutableBytes(of: &virtio) { header in
            var parts = unsafe (
                iovec(iov_base: header.baseAddress, iov_len: header.count), iovec(iov_base: target, iov_len: count)
            )
            return unsafe withUnsafeBytes(of: &parts) { parts in
                var result = -1
                // What happened to the interface meanwhile (ENETDOWN) is told first, and once: the frame is behind it, and were it left there, each
                // later one would be taken for its successor.
                for _ in 0..<errorsMaximum {
                    result = unsafe readv(descriptor, parts.baseAddress!.assumingMemoryBound(to: iovec.self), 2)
                    if result >= 0 || errno == EAGAIN { break }
                }
                return result
            }
        }
    }

    // MARK: - Transmitting

    /// The longest frame that the kernel is to copy whole into memory of its own, so that the slot is free at once and nothing refers to it.
    private static var copyMaximum: Int { 4_096 }

    /// Puts a frame into the transmit ring. False where it is full.
    @inline(__always)
    mutating func put(_ frame: Frame, count: Int, _ statistics: inout NetworkDeviceStatistics) -> Bool {
        let slot = unsafe transmitSlot
        let status = unsafe dk_packet_status_load(slot)
        guard status & Status.unsent == 0 else { return false }
        if status & Status.wrong != 0 { statistics.transmitDrops &+= 1 }
        var virtio = dk_virtio_header(frame.offload)
        virtio.header_length = UInt16(count <= Self.copyMaximum ? count : 256)
        let start = Header.byteCount
        unsafe (slot + start).copyMemory(from: &virtio, byteCount: Self.virtioByteCount)
        let target = unsafe slot + (start + Self.virtioByteCount)
        if frame.rest.isEmpty {
            unsafe dk_copy_frame(target, frame.head.start, count)
        } else {
            unsafe _ = frame.copyBytes(to: UnsafeMutableRawBufferPointer(start: target, count: count))
        }
        unsafe slot.storeBytes(of: UInt32(count &+ Self.virtioByteCount), toByteOffset: Header.length, as: UInt32.self)
        unsafe dk_packet_status_store(slot, Status.ours)
        transmitted = (transmitted &+ 1) & (layout.frames &- 1)
        isUnsent = true
        statistics.transmittedFrames &+= 1
        statistics.transmittedBytes &+= UInt64(truncatingIfNeeded: count)
        return true
    }

    /// The most bytes of a frame that a slot has room for.
    var roomForFrame: Int { layout.frameSize - Header.byteCount - Self.virtioByteCount }

    /// Has the kernel send what is in the ring. Answers 0 or an errno; that of a passing shortage (EAGAIN, ENOBUFS) leaves ``isUnsent`` true.
    mutating func kick() -> Int32 {
        let result = dk_packet_kick(descriptor)
        let last = unsafe base + layout.byteCount + ((transmitted &- 1) & (layout.frames &- 1)) * layout.frameSize
        isUnsent = unsafe dk_packet_status_load(last) & Status.ours != 0
        return result < 0 ? Int32(-result) : 0
    }
}

extension dk_virtio_header {
    /// What the kernel is still to do for a frame that we send.
    @inline(__always)
    init(_ offload: FrameOffload) {
        self.init()
        guard offload.flags.contains(.partialChecksum) else { return }
        flags = 1
        checksum_start = offload.checksumStart
        checksum_offset = UInt16(offload.checksumOffset)
    }

    /// A received frame goes into the burst, which has room, with what the header says of its checksum. One that stands for several datagrams (see
    /// ``DatagramRun``; a TAP is not sent any) would be taken for one: it is dropped.
    @inline(__always)
    func append(_ segment: Segment, to burst: inout FrameBurst, _ statistics: inout NetworkDeviceStatistics) {
        guard !standsForDatagrams, checksum_offset <= 255 else {
            statistics.receiveDrops &+= 1
            return segment.release()
        }
        var offload = FrameOffload.none
        if flags & 1 != 0 {
            offload = FrameOffload(
                flags: .partialChecksum, checksumStart: checksum_start, checksumOffset: UInt8(truncatingIfNeeded: checksum_offset))
        } else if flags & 2 != 0 {
            offload.flags = .checksumIsValid
        }
        statistics.receivedFrames &+= 1
        statistics.receivedBytes &+= UInt64(truncatingIfNeeded: segment.byteCount)
        burst.append(Frame(segment, offload: offload))
    }
}
