import CDemikernelShims
import Glibc
import SystemPackage

/// One contiguous range of addresses, made usable group by group (2 MiB) and handed out superblock by superblock (256 KiB).
///
/// Groups become usable in order and stay so: devices know their addresses. Free superblocks are bits, so neighbours coalesce by themselves.
///
/// Invariant: `[base, base + groupLimit * 2 MiB)` is reserved; the first `groupCount` groups of it are readable and writable; bit `i` of
/// `free` is set exactly when superblock `i` lies in one of them and is in nobody's hands.
@safe struct Arena: ~Copyable {
    let base: UnsafeMutableRawPointer
    let byteCount: Int
    let groupLimit: Int
    private(set) var groupCount = 0
    private(set) var hugeGroupCount = 0
    private(set) var lockedGroupCount = 0
    private(set) var freeCount = 0

    private let free: UnsafeMutablePointer<UInt64>
    private let wordCount: Int
    /// No word below this one has a bit set.
    private var firstWord = 0
    private let hugePages: HugePagePolicy
    private var locking: Bool
    private var populates = true

    /// Reserves addresses; no memory yet.
    init(_ configuration: HeapConfiguration) throws(DemikernelError) {
        guard configuration.limit > 0, configuration.limit <= HeapGeometry.largestArena else {
            throw DemikernelError(.invalidArgument, "the heap's limit is not between 1 byte and 256 GiB")
        }
        let groups = (configuration.limit + HeapGeometry.groupByteCount - 1) / HeapGeometry.groupByteCount
        guard let start = unsafe Arena.reserve(groups * HeapGeometry.groupByteCount) else {
            throw DemikernelError(.noMemory, "no address space for the heap's arena")
        }
        groupLimit = groups
        byteCount = groups * HeapGeometry.groupByteCount
        hugePages = configuration.hugePages
        locking = configuration.lockPages
        unsafe base = start
        wordCount = (groupLimit * HeapGeometry.superblocksPerGroup + 63) / 64
        unsafe free = .allocate(capacity: wordCount)
        unsafe free.initialize(repeating: 0, count: wordCount)
    }

    deinit {
        unsafe munmap(base, byteCount)
        unsafe free.deallocate()
    }

    /// Addresses without memory, aligned to 2 MiB.
    private static func reserve(_ byteCount: Int) -> UnsafeMutableRawPointer? {
        let slack = HeapGeometry.groupByteCount
        let raw = unsafe mmap(nil, byteCount + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let raw = unsafe raw, unsafe raw != MAP_FAILED else { return nil }
        let start = unsafe UnsafeMutableRawPointer(bitPattern: (UInt(bitPattern: raw) + UInt(slack) - 1) & ~UInt(slack - 1))!
        let before = unsafe start - raw
        if before > 0 { unsafe munmap(raw, before) }
        if slack > before { unsafe munmap(start + byteCount, slack - before) }
        return unsafe start
    }

    /// Whether `address` lies in a superblock of this arena, and in which.
    func superblockIndex(of address: UnsafeRawPointer) -> Int? {
        let offset = unsafe UInt(bitPattern: address) &- UInt(bitPattern: base)
        guard offset < UInt(groupCount * HeapGeometry.groupByteCount) else { return nil }
        return Int(offset) >> HeapGeometry.superblockShift
    }

    func superblock(_ index: Int) -> UnsafeMutableRawPointer { unsafe base + index << HeapGeometry.superblockShift }
    func group(_ index: Int) -> UnsafeMutableRawPointer { unsafe base + index * HeapGeometry.groupByteCount }

    // MARK: Superblocks

    /// The first run of `count` free superblocks, now taken; nil where there is none among the usable groups.
    /// Complexity: O(words of the bitmap) for runs, constant in practice for single superblocks.
    mutating func takeRun(_ count: Int) -> Int? {
        guard count <= freeCount else { return nil }
        if count == 1 { return takeOne() }
        var run = 0
        var index = firstWord * 64
        let end = groupCount * HeapGeometry.superblocksPerGroup
        while index < end {
            let word = unsafe free[index >> 6]
            if index & 63 == 0 && word == 0 {
                run = 0
                index += 64
                continue
            }
            run = word >> UInt64(index & 63) & 1 == 1 ? run + 1 : 0
            index += 1
            if run == count {
                // The pointer apart: the thread sanitizer's code (6.3.1) takes changing it through `self` for a change at `base`, which others read.
                let words = unsafe free
                for taken in (index - count)..<index { unsafe words[taken >> 6] &= ~(1 << UInt64(taken & 63)) }
                freeCount -= count
                return index - count
            }
        }
        return nil
    }

    private mutating func takeOne() -> Int? {
        while firstWord < wordCount {
            let word = unsafe free[firstWord]
            if word != 0 {
                unsafe free[firstWord] = word & (word - 1)
                freeCount -= 1
                return firstWord * 64 + word.trailingZeroBitCount
            }
            firstWord += 1
        }
        return nil
    }

    mutating func giveRun(_ first: Int, count: Int) {
        let words = unsafe free
        for index in first..<(first + count) { unsafe words[index >> 6] |= 1 << UInt64(index & 63) }
        freeCount += count
        firstWord = min(firstWord, first >> 6)
    }

    /// Free superblocks at the end of the usable groups: a run may go on from there into the next group.
    var freeAtEnd: Int {
        var count = 0
        var index = groupCount * HeapGeometry.superblocksPerGroup - 1
        while index >= 0, unsafe free[index >> 6] >> UInt64(index & 63) & 1 == 1 {
            count += 1
            index -= 1
        }
        return count
    }

    // MARK: Groups

    /// Puts memory behind the next group's addresses; ``offerGroup()`` then makes its superblocks available.
    mutating func commitGroup() -> Bool {
        guard groupCount < groupLimit else { return false }
        let start = unsafe group(groupCount)
        if hugePages != .never, unsafe Arena.placeHugePage(at: start) {
            hugeGroupCount += 1
            lockedGroupCount += 1  // reserved huge pages are never swapped
            return true
        }
        guard hugePages != .require else { return false }
        guard unsafe mprotect(start, HeapGeometry.groupByteCount, PROT_READ | PROT_WRITE) == 0 else { return false }
        if hugePages == .prefer { unsafe madvise(start, HeapGeometry.groupByteCount, MADV_HUGEPAGE) }
        if locking {
            if unsafe mlock(start, HeapGeometry.groupByteCount) == 0 {
                lockedGroupCount += 1
                return true
            }
            locking = false
        }
        // Faults belong here, not on the datapath. Linux 5.14; older kernels fault on first use.
        if populates { populates = unsafe madvise(start, HeapGeometry.groupByteCount, Arena.populateWrite) == 0 }
        return true
    }

    mutating func offerGroup() {
        groupCount += 1
        giveRun((groupCount - 1) * HeapGeometry.superblocksPerGroup, count: HeapGeometry.superblocksPerGroup)
    }

    /// `MADV_POPULATE_WRITE`
    private static var populateWrite: Int32 { 23 }

    /// Maps a huge page elsewhere and moves it here: a failing `MAP_FIXED` would leave a hole in the arena for other threads' mappings.
    /// Without `MAP_NORESERVE` the page is ours once `mmap` succeeded. Moving huge pages needs Linux 5.16.
    private static func placeHugePage(at start: UnsafeMutableRawPointer) -> Bool {
        let size = HeapGeometry.groupByteCount
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | Int32(MAP_HUGETLB) | (21 << 26)  // MAP_HUGE_2MB: log2 of the size in bits 26...
        let page = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, flags, -1, 0)
        guard let page = unsafe page, unsafe page != MAP_FAILED else { return false }
        if unsafe dk_move_mapping(page, size, start) == 0 { return true }
        unsafe munmap(page, size)
        return false
    }
}
