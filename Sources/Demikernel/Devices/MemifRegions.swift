import CDemikernelShims
import Glibc

/// The shared memory of one connection: the regions that the client made, mapped.
///
/// Only memory files that are sealed against shrinking are taken, so that no access within a region can fault: a peer that cut its file short
/// would end this process otherwise. Nothing in a region is believed: it may change while it is read.
///
/// Invariant: `table` has room for `MemifLimits.regionsMaximum` regions, of which `count` are mapped, each with its `byteCount` bytes, until
/// ``removeAll()``.
@safe struct MemifRegions: ~Copyable {
    @unsafe struct Region: BitwiseCopyable {
        let base: UnsafeMutableRawPointer
        let byteCount: UInt64
    }

    @unsafe let table: UnsafeMutablePointer<Region>
    private(set) var count = 0
    /// Bytes of all of them.
    private var total: UInt64 = 0

    init() { unsafe table = .allocate(capacity: MemifLimits.regionsMaximum) }

    deinit {
        for index in 0..<count { unsafe munmap(table[index].base, Int(table[index].byteCount)) }
        unsafe table.deallocate()
    }

    /// Maps a region that the peer announced as `byteCount` bytes. Answers why not.
    mutating func add(_ file: Int32, byteCount: UInt64) -> StaticString? {
        guard count < MemifLimits.regionsMaximum else { return "too many regions" }
        guard byteCount > 0, byteCount <= UInt64(MemifLimits.regionByteCountMaximum) &- total else { return "a region's size is out of bounds" }
        let size = dk_memory_file_fixed_size(file)
        guard size > 0 else { return "a region has to be a memfd with F_SEAL_SHRINK" }
        guard byteCount <= UInt64(size) else { return "a region is larger than its file" }
        guard map(file, Int(byteCount)) else { return "a region cannot be mapped" }
        return nil
    }

    /// Makes the one region of a client; answers its file, or nil where the system has no memory or descriptor for it.
    mutating func create(byteCount: Int) -> Int32? {
        let file = unsafe dk_memory_file_create("demikernel-memif", UInt64(byteCount))
        guard file >= 0 else { return nil }
        guard map(file, byteCount) else {
            close(file)
            return nil
        }
        return file
    }

    private mutating func map(_ file: Int32, _ byteCount: Int) -> Bool {
        // Page faults now, not one by one at the first frames; but a peer cannot have us fill the memory that way.
        let flags = MAP_SHARED | (total + UInt64(byteCount) <= 64 << 20 ? Int32(MAP_POPULATE) : 0)
        let memory = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, flags, file, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else { return false }
        unsafe (table + count).initialize(to: Region(base: memory, byteCount: UInt64(byteCount)))
        count += 1
        total += UInt64(byteCount)
        return true
    }

    mutating func removeAll() {
        for index in 0..<count { unsafe munmap(table[index].base, Int(table[index].byteCount)) }
        count = 0
        total = 0
    }

    /// Where a ring lies; nil unless it is inside of a region, and aligned so that its words can be accessed at once.
    func ring(region: Int, offset: Int, sizeLog2: Int) -> UnsafeMutableRawPointer? {
        guard region < count, sizeLog2 <= MemifLimits.ringSizeLog2Maximum, offset >= 0, offset & 7 == 0 else { return nil }
        let end = UInt64(offset + MemifRingLayout.descriptors + MemifRingLayout.descriptorByteCount << sizeLog2)
        guard unsafe end <= table[region].byteCount else { return nil }
        return unsafe table[region].base + offset
    }
}
