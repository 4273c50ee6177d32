import CDemikernelShims
import Glibc
import SystemPackage

/// An AF_XDP socket: one receive queue of an interface with its four rings, of which a device's first also transmits.
///
/// Invariant: the rings are mappings of `descriptor`; slot `n` of `slots` has a libOS reference to what descriptor `n` transmits, or is null and then
/// in `freeSlots`, of which the first `freeCount` are meant.
@safe struct XDPQueue: ~Copyable {
    let descriptor: Int32
    private(set) var isZeroCopy = false
    /// Whether the kernel takes frames in several descriptors.
    private(set) var usesSegments = false
    /// Whether frames that a chunk would hold go so as well.
    private var sendsPieces = false
    /// A local peer's frames may come with their checksums left undone.
    private let hasLocalPeer: Bool
    private var fill: XDPRing
    private var completion: XDPRing
    private var receiveRing: XDPRing
    private var transmitRing: XDPRing
    private let slots: MappedMemory<Segment>
    private let freeSlots: MappedMemory<UInt16>
    private var freeCount: Int
    /// Descriptors are in the transmit ring that the kernel did not take with the last call.
    private(set) var isUnsent = false

    /// Frames up to which copying costs less than a fresh chunk, and keeps the heap from holding 2 KiB for each of them.
    private static var copyMaximum: Int { 256 }
    /// The most descriptors of a frame: what the kernel puts into one packet of its own (MAX_SKB_FRAGS and the first).
    private static var descriptorsMaximum: Int { 17 }

    /// Takes over a socket that has its memory, or is to share another's, and is not bound yet.
    init(_ descriptor: Int32, entries: Int, hasLocalPeer: Bool) throws(XDPFailure) {
        self.descriptor = descriptor
        self.hasLocalPeer = hasLocalPeer
        var offsets = xdp_mmap_offsets()
        let slotCount = min(entries, XDPMemory.slotsMaximum)
        let rings = [(XDP_RX_RING, entries), (XDP_TX_RING, slotCount), (XDP_UMEM_FILL_RING, entries), (XDP_UMEM_COMPLETION_RING, slotCount)]
        for (option, count) in rings {
            try XDPFailure.check(
                dk_socket_option(descriptor, dk_xdp_level, option, Int32(count)),
                "the kernel has no memory for the AF_XDP socket's rings: make catpowder.ring_size smaller")
        }
        try XDPFailure.check(unsafe dk_xdp_offsets(descriptor, &offsets), "this kernel's AF_XDP sockets do not say when to wake them (Linux 5.4 or later do)")
        let slots = try XDPFailure.wrapping { () throws(DemikernelError) in try MappedMemory<Segment>(count: slotCount) }
        let freeSlots = try XDPFailure.wrapping { () throws(DemikernelError) in try MappedMemory<UInt16>(count: slotCount) }
        let fill = try XDPRing(descriptor, dk_xdp_fill_ring, offsets.fr, count: entries, entryByteCount: 8)
        let completion = try XDPRing(descriptor, dk_xdp_completion_ring, offsets.cr, count: slotCount, entryByteCount: 8)
        let receiveRing = try XDPRing(descriptor, dk_xdp_receive_ring, offsets.rx, count: entries, entryByteCount: 16)
        transmitRing = try XDPRing(descriptor, dk_xdp_transmit_ring, offsets.tx, count: slotCount, entryByteCount: 16)
        for slot in 0..<slotCount { unsafe freeSlots.base[slot] = UInt16(slot) }
        self.slots = slots
        self.freeSlots = freeSlots
        freeCount = slotCount
        self.fill = fill
        self.completion = completion
        self.receiveRing = receiveRing
    }

    deinit {
        // First, so that nothing of the memory is read or written any more.
        _ = Glibc.close(descriptor)
        for ring in [fill, completion, receiveRing, transmitRing] { ring.unmap() }
        for slot in 0..<slots.count { unsafe slots.base[slot].release() }
    }

    /// What the kernel granted when it was bound.
    mutating func noteBound(segments: Bool, sendsPieces: Bool?) {
        isZeroCopy = dk_xdp_is_zero_copy(descriptor) != 0
        usesSegments = segments
        self.sendsPieces = segments && (sendsPieces ?? isZeroCopy)
    }

    /// Chunks for the kernel to fill; there is room.
    mutating func fill(_ address: UInt64) { fill.put(address) }
    mutating func publishFill() { if fill.publish() { dk_xdp_receive_kick(descriptor) } }

    var hasFrames: Bool { !receiveRing.isEmpty }

    // MARK: - Receiving

    /// Takes frames into `burst` until it is full or there are no more.
    mutating func receive(into burst: inout FrameBurst, _ memory: inout XDPMemory, _ statistics: inout NetworkDeviceStatistics) {
        var left = receiveRing.available()
        guard left > 0 else {
            if fill.needsWakeup { dk_xdp_receive_kick(descriptor) }
            return
        }
        while !burst.isFull, left > 0 {
            let descriptor = receiveRing.descriptor()
            if descriptor.continues {
                let count = takeSegments(left, into: &burst, &memory, &statistics)
                guard count > 0 else { break }
                left &-= count
                continue
            }
            left &-= 1
            receiveRing.skip()
            let chunk = memory.takeBack(descriptor.chunk)
            let count = descriptor.byteCount
            guard !chunk.isNull else {
                statistics.malformed &+= 1
                continue
            }
            guard count >= 14, descriptor.offset &+ count <= memory.chunkByteCount else {
                statistics.malformed &+= 1
                fill.put(memory.give(chunk))
                continue
            }
            // What takes the chunk's place: its copy goes to the application, or it to the kernel.
            var other = memory.heap.allocateSegment(count <= Self.copyMaximum ? count : memory.chunkByteCount)
            guard !other.isNull else {
                statistics.receiveDrops &+= 1
                fill.put(memory.give(chunk))
                continue
            }
            if count <= Self.copyMaximum || !memory.contains(other) {
                other.trimLast(other.byteCount &- count)
                unsafe dk_copy_frame(other.start, chunk.start + descriptor.offset, count)
                fill.put(memory.give(chunk))
                append(other, to: &burst, &statistics)
            } else {
                var frame = chunk
                frame.trimFirst(descriptor.offset)
                frame.trimLast(frame.byteCount &- count)
                fill.put(memory.give(other))
                append(frame, to: &burst, &statistics)
            }
        }
        receiveRing.giveBack()
        if fill.publish() { dk_xdp_receive_kick(self.descriptor) }
    }

    // Mutating like what follows, though they change nothing: a borrowed structure of this size would be copied for the call.
    @inline(__always)
    private mutating func append(_ segment: Segment, to burst: inout FrameBurst, _ statistics: inout NetworkDeviceStatistics) {
        statistics.receivedFrames &+= 1
        statistics.receivedBytes &+= UInt64(truncatingIfNeeded: segment.byteCount)
        burst.append(Frame(segment, offload: hasLocalPeer ? .leftUndone(in: segment) : .none))
    }

    /// A frame in several chunks, which is gathered into one segment. Answers how many descriptors it took; 0 where its end has not come.
    @inline(never)
    private mutating func takeSegments(
        _ left: UInt32, into burst: inout FrameBurst, _ memory: inout XDPMemory, _ statistics: inout NetworkDeviceStatistics
    ) -> UInt32 {
        var (number, total) = (0 as UInt32, 0)
        while true {
            guard number < left else { return 0 }
            let descriptor = receiveRing.descriptor(number)
            number &+= 1
            total &+= min(descriptor.byteCount, memory.chunkByteCount)
            if !descriptor.continues { break }
        }
        var isWhole = total >= 14 && total <= NetworkDeviceCapabilities.frameMaximum + 4
        let segment = isWhole ? memory.heap.allocateSegment(total) : .null
        if isWhole, segment.isNull { statistics.receiveDrops &+= 1 }
        var done = 0
        for _ in 0..<number {
            let descriptor = receiveRing.descriptor()
            receiveRing.skip()
            let chunk = memory.takeBack(descriptor.chunk)
            if chunk.isNull || descriptor.offset &+ descriptor.byteCount > memory.chunkByteCount {
                isWhole = false
            } else if !segment.isNull, isWhole {
                unsafe (segment.start + done).copyMemory(from: chunk.start + descriptor.offset, byteCount: descriptor.byteCount)
                done &+= descriptor.byteCount
            }
            if !chunk.isNull { fill.put(memory.give(chunk)) }
        }
        if !isWhole { statistics.malformed &+= 1 }
        if isWhole, !segment.isNull { append(segment, to: &burst, &statistics) } else { segment.release() }
        return number
    }

    // MARK: - Transmitting

    /// Takes back what has been sent.
    @inline(__always)
    private mutating func reap(_ memory: inout XDPMemory, _ statistics: inout NetworkDeviceStatistics) {
        let count = completion.available()
        guard count > 0 else { return }
        for _ in 0..<count {
            let slot = Int(truncatingIfNeeded: completion.address() &>> 48)
            completion.skip()
            guard slot < slots.count, case let segment = unsafe slots.base[slot], !segment.isNull else {
                statistics.malformed &+= 1
                continue
            }
            unsafe slots.base[slot] = .null
            unsafe freeSlots.base[freeCount] = UInt16(truncatingIfNeeded: slot)
            freeCount &+= 1
            memory.release(segment)
        }
        completion.giveBack()
    }

    /// Puts one descriptor for a segment, whose reference the slot takes over; there is a slot, and room.
    @inline(__always)
    private mutating func put(_ segment: Segment, continues: Bool, _ memory: borrowing XDPMemory) {
        freeCount &-= 1
        let slot = unsafe Int(freeSlots.base[freeCount])
        unsafe slots.base[slot] = segment
        transmitRing.put(memory.address(of: segment, slot: slot), byteCount: segment.byteCount, continues: continues)
    }

    /// Takes frames from `burst` until it is empty or there is no room, and has the kernel send them. Answers 0 or an errno.
    mutating func transmit(
        _ burst: inout FrameBurst, frameMaximum: Int, _ memory: inout XDPMemory, _ statistics: inout NetworkDeviceStatistics
    ) -> Int32 {
        reap(&memory, &statistics)
        while !burst.isEmpty {
            let count = burst.firstByteCount
            guard count >= 14, count <= frameMaximum else {
                statistics.transmitDrops &+= 1
                burst.removeFirst().release()
                continue
            }
            guard freeCount > 0, transmitRing.room() > 0 else { break }
            let frame = burst[0]
            if frame.rest.isEmpty, count <= memory.chunkByteCount, memory.contains(frame.head) {
                put(frame.head, continues: false, memory)
                _ = burst.removeFirst()
            } else {
                guard putOther(frame, count, &memory, &statistics) else { break }
                burst.removeFirst().release()
            }
            statistics.transmittedFrames &+= 1
            statistics.transmittedBytes &+= UInt64(truncatingIfNeeded: count)
        }
        return kick()
    }

    /// A frame in several segments, or that lies behind the registered part. False where there is no room for it now.
    @inline(never)
    private mutating func putOther(
        _ frame: Frame, _ count: Int, _ memory: inout XDPMemory, _ statistics: inout NetworkDeviceStatistics
    ) -> Bool {
        if sendsPieces || (usesSegments && count > memory.chunkByteCount) {
            let pieces = pieceCount(frame, memory)
            if pieces > 0 {
                guard freeCount >= pieces, transmitRing.room(UInt32(pieces)) >= UInt32(pieces) else { return false }
                putPieces(frame, pieces, memory)
                return true
            }
        }
        guard count <= memory.chunkByteCount else {
            // Longer than a chunk, in more pieces than the kernel takes, or partly in memory that it has not.
            return putCopies(frame, count, &memory, &statistics)
        }
        let staging = memory.takeStaging(count)
        guard !staging.isNull else { return false }
        unsafe _ = frame.copyBytes(to: staging.bytes)
        put(staging, continues: false, memory)
        return true
    }

    /// Bytes up to the next multiple of a chunk's size, which is also where a page may end.
    @inline(__always)
    private mutating func pieceLength(_ segment: Segment, at start: Int, _ memory: borrowing XDPMemory) -> Int {
        let address = Int(bitPattern: segment.address) &+ Int(segment.offset) &+ start
        return min(segment.byteCount &- start, memory.chunkByteCount &- address & (memory.chunkByteCount &- 1))
    }

    /// How many descriptors the frame takes where it lies; 0 where it cannot be sent from there.
    private mutating func pieceCount(_ frame: Frame, _ memory: borrowing XDPMemory) -> Int {
        var pieces = 0
        for number in 0...frame.rest.count {
            let segment = number == 0 ? frame.head : frame.rest[number &- 1]
            guard memory.contains(segment) else { return 0 }
            var start = 0
            while start < segment.byteCount {
                start &+= pieceLength(segment, at: start, memory)
                pieces &+= 1
                guard pieces <= Self.descriptorsMaximum else { return 0 }
            }
        }
        return pieces
    }

    private mutating func putPieces(_ frame: Frame, _ pieces: Int, _ memory: borrowing XDPMemory) {
        var left = pieces
        for number in 0...frame.rest.count {
            let segment = number == 0 ? frame.head : frame.rest[number &- 1]
            var start = 0
            while start < segment.byteCount {
                let count = pieceLength(segment, at: start, memory)
                left &-= 1
                put(segment.slice(start, count: count), continues: left > 0, memory)
                start &+= count
            }
        }
    }

    /// A frame longer than a chunk, copied to several. False where there are not enough.
    private mutating func putCopies(
        _ frame: Frame, _ count: Int, _ memory: inout XDPMemory, _ statistics: inout NetworkDeviceStatistics
    ) -> Bool {
        let pieces = (count &+ memory.chunkByteCount &- 1) / memory.chunkByteCount
        guard usesSegments, pieces <= Self.descriptorsMaximum else {
            statistics.transmitDrops &+= 1
            return true
        }
        guard freeCount >= pieces, transmitRing.room(UInt32(pieces)) >= UInt32(pieces) else { return false }
        let whole = memory.heap.allocateSegment(count)
        guard !whole.isNull else { return false }
        defer { whole.release() }
        unsafe _ = frame.copyBytes(to: whole.bytes)
        var copies = InlineArray<17, Segment>(repeating: .null)
        for piece in 0..<pieces {
            let start = piece &* memory.chunkByteCount
            copies[piece] = memory.takeStaging(min(memory.chunkByteCount, count &- start))
            guard !copies[piece].isNull else {
                for taken in 0..<piece { memory.release(copies[taken]) }
                return false
            }
            unsafe copies[piece].start.copyMemory(from: whole.start + start, byteCount: copies[piece].byteCount)
        }
        for piece in 0..<pieces { put(copies[piece], continues: piece &+ 1 < pieces, memory) }
        return true
    }

    /// Has the kernel send what is in the ring, where it wants to be told. Answers 0 or an errno; a passing shortage leaves ``isUnsent`` true.
    mutating func kick() -> Int32 {
        isUnsent = false
        guard transmitRing.publish() else { return 0 }
        var untaken = transmitRing.untaken
        while untaken > 0 {
            // One call sends no more than 32 frames.
            let result = dk_packet_kick(descriptor)
            let now = transmitRing.untaken
            if now == untaken {
                isUnsent = true
                return result < 0 && result != -Int(EAGAIN) && result != -Int(ENOBUFS) && result != -Int(EBUSY) ? Int32(-result) : 0
            }
            untaken = now
        }
        return 0
    }

    /// Takes back what has been sent, and has the rest sent, when nothing new is there to do it for.
    mutating func finish(_ memory: inout XDPMemory, _ statistics: inout NetworkDeviceStatistics) -> Int32 {
        reap(&memory, &statistics)
        return isUnsent ? kick() : 0
    }

    /// Whether frames are under way whose memory is not back yet.
    var isTransmitting: Bool { freeCount < slots.count }
}

extension FrameOffload {
    /// What a frame's transport checksum says that a local sender has left undone. AF_XDP does not tell, and a kernel peer over a virtual Ethernet does
    /// so: the field then holds the folded sum of the pseudo-header alone. A checksum that happens to be that number is taken for it: one in 65,536
    /// frames, of which each, had it been damaged, would be believed. Only for interfaces at whose other end is this machine.
    @inline(__always)
    static func leftUndone(in segment: Segment) -> FrameOffload {
        let bytes = unsafe PacketBytes(start: segment.start, count: segment.byteCount)
        guard let ethernet = EthernetHeaderView(bytes) else { return .none }
        var transport: PacketBytes
        let pseudo: UInt64
        let kind: IPProtocol
        switch ethernet.etherType {
        case .ipv4:
            guard let packet = IPv4HeaderView(ethernet.payload), !packet.isFragment else { return .none }
            (transport, kind) = (packet.payload, packet.ipProtocol)
            pseudo = InternetChecksum.pseudoHeader(source: packet.source, destination: packet.destination, ipProtocol: kind, length: transport.count)
        case .ipv6:
            guard let packet = IPv6HeaderView(ethernet.payload) else { return .none }
            (transport, kind) = (packet.payload, packet.nextHeader)
            pseudo = InternetChecksum.pseudoHeader(source: packet.source, destination: packet.destination, ipProtocol: kind, length: transport.count)
        default: return .none
        }
        let field = kind == .tcp ? 16 : kind == .udp ? 6 : Int.max &- 2
        guard transport.count >= field &+ 2, transport.load16(field) == ~InternetChecksum.fold(pseudo) else { return .none }
        let start = unsafe UInt(bitPattern: transport.start) &- UInt(bitPattern: bytes.start)
        return FrameOffload(flags: .partialChecksum, checksumStart: UInt16(truncatingIfNeeded: start), checksumOffset: UInt8(field))
    }
}
