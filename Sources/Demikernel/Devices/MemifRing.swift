import CDemikernelShims

/// Where things are in a ring (memif 2.0): three cache lines' worth of words, of which the client writes the first, and the server the second
/// (except `flags`, which the receiver writes); then the descriptors.
enum MemifRingLayout {
    static var cookieValue: UInt32 { 0x3E31_F20 }
    static var cookie: Int { 0 }
    static var flags: Int { 4 }
    /// The client's position: buffers that it has filled, or offered to be filled.
    static var head: Int { 6 }
    /// The server's position: buffers that it has emptied, or filled.
    static var tail: Int { 64 }
    static var descriptors: Int { 128 }
    static var descriptorByteCount: Int { 16 }
    /// In `flags`: the receiver polls and wants no interrupts.
    static var maskInterrupts: UInt16 { 1 }
    /// In a descriptor's flags: the frame goes on in the next.
    static var next: UInt64 { 1 }
}

/// Limits and counters that a ring needs with every burst.
struct MemifTraffic {
    var frameMaximum: Int
    var statistics = NetworkDeviceStatistics()
}

/// One memif ring as this end sees it: sender or receiver, client (who owns the buffers) or server (who finds them in descriptors).
///
/// A descriptor is 16 bytes: flags (16 bits), region (16), length (32), offset (32), metadata (32). Each is loaded once and checked before use,
/// and positions of our own are never read back: the peer can write all of the memory at any time, and is not believed.
///
/// Invariant: `base` is a ring of `size` descriptors inside of a mapped region; for a client, `buffers` begins as many buffers of
/// `bufferSize` bytes, `stride` bytes apart, in region 0 from `buffersOffset` on. `regions` outlives the ring.
@safe struct MemifRing: BitwiseCopyable {
    private let base: UnsafeMutableRawPointer
    let regions: UnsafeMutablePointer<MemifRegions.Region>
    let regionCount: Int
    let isClient: Bool
    let size: UInt16
    private let ownIndex: UnsafeMutableRawPointer
    private let peerIndex: UnsafeMutableRawPointer
    private let buffers: UnsafeMutableRawPointer?
    private let buffersOffset: UInt32
    private let stride: UInt32
    let bufferSize: UInt32
    /// What wakes the receiver, and us where that is us.
    let interrupt: Int32
    /// The next descriptor to fill or to empty.
    var position: UInt16 = 0
    /// The peer's position as last seen.
    var seen: UInt16 = 0
    /// A receiving client's: up to where buffers were offered.
    private(set) var offered: UInt16 = 0

    /// A server's ring, in the peer's memory.
    init(_ base: UnsafeMutableRawPointer, sizeLog2: Int, regions: borrowing MemifRegions, interrupt: Int32) {
        unsafe self.base = base
        unsafe self.regions = regions.table
        regionCount = regions.count
        isClient = false
        size = 1 << UInt16(sizeLog2)
        unsafe ownIndex = base + MemifRingLayout.tail
        unsafe peerIndex = base + MemifRingLayout.head
        unsafe buffers = nil
        buffersOffset = 0
        stride = 0
        bufferSize = 0
        self.interrupt = interrupt
    }

    /// A client's ring, in its own region 0.
    init(_ layout: MemifLayout, _ index: Int, toServer: Bool, regions: borrowing MemifRegions, interrupt: Int32) {
        let memory = unsafe regions.table[0].base
        unsafe base = memory + layout.ringOffset(index, toServer: toServer)
        unsafe self.regions = regions.table
        regionCount = 1
        isClient = true
        size = UInt16(layout.ringSize)
        unsafe ownIndex = base + MemifRingLayout.head
        unsafe peerIndex = base + MemifRingLayout.tail
        buffersOffset = UInt32(layout.bufferOffset(index, toServer: toServer))
        unsafe buffers = memory + Int(buffersOffset)
        stride = UInt32(layout.stride)
        bufferSize = UInt32(layout.bufferSize)
        self.interrupt = interrupt
    }

    // MARK: Words

    @inline(__always) var mask: UInt16 { size &- 1 }

    var hasCookie: Bool { unsafe base.load(fromByteOffset: MemifRingLayout.cookie, as: UInt32.self) == MemifRingLayout.cookieValue }

    /// Prepares a client's ring for the peer: no frames, no buffers offered, interrupts masked.
    func format() {
        unsafe base.storeBytes(of: MemifRingLayout.cookieValue, toByteOffset: MemifRingLayout.cookie, as: UInt32.self)
        unsafe dk_shared_store_u16(base + MemifRingLayout.flags, MemifRingLayout.maskInterrupts)
        unsafe dk_shared_store_u16(ownIndex, 0)
        unsafe dk_shared_store_u16(peerIndex, 0)
        for slot in 0..<size {
            unsafe dk_shared_store_once_u64(descriptor(slot), UInt64(bufferSize) << 32)
            unsafe dk_shared_store_once_u64(descriptor(slot) + 8, UInt64(buffersOffset &+ UInt32(slot) &* stride))
        }
    }

    @inline(__always) func loadPeer() -> UInt16 { unsafe dk_shared_load_u16(peerIndex) }
    @inline(__always) func publish() { unsafe dk_shared_store_u16(ownIndex, position) }

    /// For the receiver: whether the sender is to interrupt. Takes effect before anything is looked at afterwards.
    func maskInterrupts(_ masks: Bool) {
        unsafe dk_shared_publish_u16(base + MemifRingLayout.flags, masks ? MemifRingLayout.maskInterrupts : 0)
    }

    /// For the sender: publishes what it has sent, then wakes the receiver unless that polls.
    @inline(__always) func publishAndInterrupt() {
        unsafe dk_shared_publish_u16(ownIndex, position)
        if unsafe dk_shared_load_u16(base + MemifRingLayout.flags) & MemifRingLayout.maskInterrupts == 0 { dk_event_signal(interrupt) }
    }

    /// The first eight bytes of a descriptor: flags, region, length.
    @inline(__always) private func descriptor(_ position: UInt16) -> UnsafeMutableRawPointer {
        unsafe base + (MemifRingLayout.descriptors &+ Int(position & mask) &* MemifRingLayout.descriptorByteCount)
    }

    @inline(__always) func loadDescriptor(_ position: UInt16) -> UInt64 { unsafe dk_shared_load_once_u64(descriptor(position)) }
    @inline(__always) func storeDescriptor(_ position: UInt16, _ word: UInt64) { unsafe dk_shared_store_once_u64(descriptor(position), word) }

    /// The `length` bytes of the buffer at `position`; nil where they are not all inside of a region. A client knows its own buffers and
    /// does not look into the descriptor, which the server may have written.
    @inline(__always) func buffer(_ position: UInt16, _ word: UInt64, _ length: Int) -> UnsafeMutableRawPointer? {
        if let buffers = unsafe buffers {
            return length <= Int(bufferSize) ? unsafe buffers + Int(position & mask) &* Int(stride) : nil
        }
        let region = Int(word &>> 16 & 0xffff)
        guard region < regionCount else { return nil }
        let offset = unsafe dk_shared_load_once_u64(descriptor(position) + 8) & 0xffff_ffff
        guard unsafe offset &+ UInt64(length) <= regions[region].byteCount else { return nil }
        return unsafe regions[region].base + Int(offset)
    }

    // MARK: Prefetching

    /// Bytes of a frame from which on the next one's buffer is fetched while it is copied: its cache lines are in the other processor's cache,
    /// and neither the hardware's prefetcher, which stops at the end of a buffer, nor the store buffer reaches that far ahead.
    @inline(__always) static var prefetchMinimum: Int { 512 }

    /// Fetches the buffer behind the one at `position`, to be written by a frame as long as this one. What the descriptor says is checked like
    /// any other, and is no more than a hint here.
    @inline(__always) func prefetchTarget(_ count: Int) {
        let next = position &+ 1
        if let target = unsafe buffer(next, isClient ? 0 : loadDescriptor(next), count) { unsafe dk_prefetch_target(target, count) }
    }

    /// Fetches the buffer at `position`, which has come, to be read; likewise.
    @inline(__always) func prefetchSource(_ count: Int) {
        if let source = unsafe buffer(position, isClient ? 0 : loadDescriptor(position), count) { unsafe dk_prefetch_source(source, count) }
    }

    // MARK: Receiving

    /// Descriptors that have come and were not taken; nil where the peer claims more than there can be.
    @inline(__always) mutating func arrived() -> UInt16? {
        seen = loadPeer()
        let count = seen &- position
        return count <= (isClient ? offered &- position : size) ? count : nil
    }

    /// A receiving client offers the buffers that it has emptied; `atLeast` a few at once, as each cache line of descriptors is the server's.
    @inline(__always) mutating func offerBuffers(atLeast: UInt16) {
        let free = size &- (offered &- position)
        if free >= atLeast { offer(free) }
    }

    /// Begins where the ring's words say, which is where both ends begin; a receiving client offers its buffers.
    mutating func start(isReceiver: Bool) {
        position = unsafe isClient ? 0 : dk_shared_load_u16(ownIndex)
        seen = position
        offered = position
        guard isReceiver else { return }
        maskInterrupts(true)
        if isClient { offer(size) }
    }

    private mutating func offer(_ count: UInt16) {
        for _ in 0..<count {
            storeDescriptor(offered, UInt64(bufferSize) << 32)
            offered &+= 1
        }
        unsafe dk_shared_store_u16(ownIndex, offered)
    }
}
