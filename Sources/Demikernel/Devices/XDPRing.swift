import CDemikernelShims
import Glibc

/// One ring of an AF_XDP socket, in memory that the kernel shares: positions that count for ever, and entries of 8 or 16 bytes between them.
///
/// The kernel's Documentation/networking/af_xdp.rst. One end writes one position, and both are loaded and stored atomically; `mine` and `theirs` are our
/// own copies, so that what lies in shared memory is looked at once for a burst.
///
/// Invariant: `base` is a mapping of `byteCount` bytes, in which the positions, the flags and `mask + 1` entries lie, until ``unmap()``.
@safe struct XDPRing: BitwiseCopyable {
    private let base: UnsafeMutableRawPointer
    private let byteCount: Int
    private let producer: UnsafeMutablePointer<UInt32>
    private let consumer: UnsafeMutablePointer<UInt32>
    private let flags: UnsafeMutablePointer<UInt32>
    private let entries: UnsafeMutableRawPointer
    private let mask: UInt32
    /// What we have done, which the kernel knows only after ``publish()`` or ``giveBack()``.
    private var mine: UInt32
    /// What the kernel was last seen to have done.
    private var theirs: UInt32

    /// Maps a ring of `count` entries, a power of two. Throws what mapping it throws.
    init(_ socket: Int32, _ which: UInt64, _ offsets: xdp_ring_offset, count: Int, entryByteCount: Int) throws(XDPFailure) {
        byteCount = Int(offsets.desc) + count * entryByteCount
        guard let base = unsafe dk_xdp_map(socket, byteCount, which) else { throw XDPFailure(.init(rawValue: errno), "a ring of the AF_XDP socket cannot be mapped") }
        unsafe self.base = base
        unsafe producer = (base + Int(offsets.producer)).assumingMemoryBound(to: UInt32.self)
        unsafe consumer = (base + Int(offsets.consumer)).assumingMemoryBound(to: UInt32.self)
        unsafe flags = (base + Int(offsets.flags)).assumingMemoryBound(to: UInt32.self)
        unsafe entries = base + Int(offsets.desc)
        mask = UInt32(count - 1)
        mine = 0
        theirs = 0
    }

    func unmap() { unsafe munmap(base, byteCount) }

    /// Whether the kernel wants to be told before it goes on.
    @inline(__always) var needsWakeup: Bool { unsafe dk_xdp_load(flags) & 1 != 0 }

    // MARK: Where we produce: fill and transmit

    /// Entries that can be put; looks again where it seems fewer than `wanted`.
    @inline(__always)
    mutating func room(_ wanted: UInt32 = 1) -> UInt32 {
        var room = mask &+ 1 &- (mine &- theirs)
        if room < wanted {
            unsafe theirs = dk_xdp_load(consumer)
            room = mask &+ 1 &- min(mask &+ 1, mine &- theirs)
        }
        return room
    }

    /// Puts a descriptor; there is room.
    @inline(__always)
    mutating func put(_ address: UInt64, byteCount: Int, continues: Bool) {
        let entry = unsafe entries + Int(mine & mask) &* 16
        unsafe entry.storeBytes(of: address, as: UInt64.self)
        unsafe entry.storeBytes(of: UInt64(truncatingIfNeeded: byteCount) | (continues ? 1 &<< 32 : 0), toByteOffset: 8, as: UInt64.self)
        mine &+= 1
    }

    /// Puts the address of a chunk; there is room.
    @inline(__always)
    mutating func put(_ address: UInt64) {
        unsafe (entries + Int(mine & mask) &* 8).storeBytes(of: address, as: UInt64.self)
        mine &+= 1
    }

    /// Lets the kernel have what was put; answers whether it wants to be told.
    @inline(__always)
    func publish() -> Bool { unsafe dk_xdp_publish(producer, mine, flags) != 0 }

    /// Entries that the kernel has not taken yet.
    var untaken: UInt32 { unsafe mine &- dk_xdp_load(consumer) }

    // MARK: Where we consume: receive and completion

    /// Entries that are there.
    @inline(__always)
    mutating func available() -> UInt32 {
        if theirs == mine { unsafe theirs = dk_xdp_load(producer) }
        return min(mask &+ 1, theirs &- mine)
    }

    /// Whether there is an entry, without taking note of it.
    var isEmpty: Bool { unsafe dk_xdp_load(producer) == mine }

    /// The descriptor `distance` after the first; there is one.
    @inline(__always)
    func descriptor(_ distance: UInt32 = 0) -> XDPDescriptor {
        let entry = unsafe entries + Int((mine &+ distance) & mask) &* 16
        return unsafe XDPDescriptor(
            address: entry.load(as: UInt64.self), rest: entry.load(fromByteOffset: 8, as: UInt64.self))
    }

    /// The first completed address; there is one.
    @inline(__always)
    func address() -> UInt64 { unsafe (entries + Int(mine & mask) &* 8).load(as: UInt64.self) }

    /// Is done with the first `count` entries.
    @inline(__always)
    mutating func skip(_ count: UInt32 = 1) { mine &+= count }

    /// Lets the kernel reuse what we are done with.
    @inline(__always)
    func giveBack() { unsafe dk_xdp_store(consumer, mine) }
}

/// An entry of a receive ring.
struct XDPDescriptor: BitwiseCopyable {
    let address: UInt64
    /// Length and options.
    let rest: UInt64

    /// The chunk's place in the registered memory.
    @inline(__always) var chunk: UInt64 { address & 0xffff_ffff_ffff }
    /// Where the frame begins in the chunk.
    @inline(__always) var offset: Int { Int(truncatingIfNeeded: address &>> 48) }
    @inline(__always) var byteCount: Int { Int(rest & 0xffff_ffff) }
    @inline(__always) var continues: Bool { rest &>> 32 & 1 != 0 }
}
