import Glibc

/// What a checked heap has beside an unchecked one: freed objects wait here, poisoned, before they may be reused.
struct CheckedHeap {
    static var poison: UInt8 { 0xdb }
    static var poisonWord: UInt64 { 0xdbdb_dbdb_dbdb_dbdb }
    static var quarantineCapacity: Int { 256 }

    struct Entry {
        var superblock: Superblock
        var index: Int
    }
    private var entries = InlineArray<256, Entry?>(repeating: nil)
    private var first = 0
    private(set) var count = 0

    mutating func append(_ superblock: Superblock, _ index: Int) {
        entries[(first + count) % CheckedHeap.quarantineCapacity] = Entry(superblock: superblock, index: index)
        count += 1
    }

    mutating func removeFirst() -> Entry? {
        guard count > 0, let entry = entries[first] else { return nil }
        entries[first] = nil
        first = (first + 1) % CheckedHeap.quarantineCapacity
        count -= 1
        return entry
    }

    static var now: UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

extension HeapState {
    /// Puts back an object whose references are gone.
    mutating func retire(_ superblock: Superblock, _ index: Int) {
        if isOrphan { orphanLiveCount -= 1 }
        guard isChecked else {
            if superblock.put(index) { superblockChangedPlace(superblock) }
            return
        }
        poison(superblock, index)
        unsafe superblock.header.pointee.stamps?[index] = CheckedHeap.now
        if check!.count == CheckedHeap.quarantineCapacity { releaseOldest() }
        check!.append(superblock, index)
        superblock.quarantined += 1
    }

    /// Empties the quarantine: before the heap gives up an allocation, and at its end.
    mutating func flushQuarantine() {
        guard isChecked else { return }
        while releaseOldest() {}
    }

    @discardableResult
    private mutating func releaseOldest() -> Bool {
        guard let entry = check!.removeFirst() else { return false }
        verifyPoison(entry.superblock, entry.index)
        entry.superblock.quarantined -= 1
        if entry.superblock.put(entry.index) { superblockChangedPlace(entry.superblock) }
        return true
    }

    /// An allocation in a checked heap: looks for writes since the object was freed, and remembers the time.
    @unsafe mutating func noteAllocation(_ object: UnsafeMutableRawPointer) {
        let superblock = unsafe Superblock(of: object)
        let index = unsafe superblock.index(of: object)
        if superblock.isSpan { poison(superblock, index) } else { verifyPoison(superblock, index) }
        unsafe superblock.header.pointee.stamps?[index] = CheckedHeap.now
    }

    mutating func poison(_ superblock: Superblock, _ index: Int) {
        unsafe memset(superblock.object(index), Int32(CheckedHeap.poison), superblock.objectByteCount)
    }

    mutating func verifyPoison(_ superblock: Superblock, _ index: Int) {
        let words = unsafe superblock.object(index).assumingMemoryBound(to: UInt64.self)
        for word in 0..<(superblock.objectByteCount / 8) where unsafe words[word] != CheckedHeap.poisonWord {
            note(.writeAfterFree, superblock, index)
            poison(superblock, index)
            return
        }
    }

    mutating func note(_ kind: HeapFault.Kind, _ superblock: Superblock, _ index: Int) {
        let stamp = unsafe superblock.header.pointee.stamps?[index]
        record(
            HeapFault(
                kind: kind, address: UInt(bitPattern: unsafe superblock.object(index)), objectByteCount: superblock.objectByteCount,
                age: stamp.map { CheckedHeap.now &- $0 }))
    }

    mutating func record(_ fault: HeapFault) {
        faults.append(fault)
        if isChecked { writeToStandardError("demikernel: \(fault)\n") }
    }
}

package func writeToStandardError(_ text: String) {
    var text = text
    text.withUTF8 { _ = unsafe write(2, $0.baseAddress, $0.count) }
}
