import CDemikernelShims

/// Looking at a heap: which object an address belongs to, what is live, what is left at the end.
extension HeapState {
    /// The object that contains `address`, live or not; nil where `address` belongs to none. Safe for every address.
    // Mutating, as are others that change nothing: a borrowed structure of this size would be copied to the stack.
    mutating func find(_ address: UnsafeRawPointer) -> (Superblock, Int)? {
        guard var number = unsafe arena.superblockIndex(of: address) else { return nil }
        let use = unsafe uses[number]
        if use == SuperblockUse.free { return nil }
        if use >= SuperblockUse.spanTail { number -= Int(use - SuperblockUse.spanTail) }
        let superblock = unsafe Superblock(arena.superblock(number).assumingMemoryBound(to: SuperblockHeader.self))
        let first = unsafe UInt(bitPattern: superblock.header) + UInt(superblock.header.pointee.firstObject)
        guard UInt(bitPattern: address) >= first else { return nil }
        let index = Int((UInt(bitPattern: address) - first) >> UInt(unsafe superblock.header.pointee.shift))
        guard unsafe index < Int(superblock.header.pointee.carved) else { return nil }
        return (superblock, index)
    }

    mutating func key(_ device: Int, _ address: UnsafeMutableRawPointer) -> UInt64 {
        guard device >= 0, device < deviceCount, let number = unsafe arena.superblockIndex(of: address) else { return 0 }
        return unsafe groupKeys[number / HeapGeometry.superblocksPerGroup * 8 + device]
    }

    mutating func removeDevice(_ device: Int) {
        guard device >= 0, device < deviceCount else { return }
        devices[device] = DeviceRegistration()
    }

    /// Every superblock and span in use.
    private func forEachSuperblock(_ body: (Superblock) -> Void) {
        for number in 0..<(arena.groupCount * HeapGeometry.superblocksPerGroup) {
            let use = unsafe uses[number]
            guard use == SuperblockUse.objects || use == SuperblockUse.spanHead else { continue }
            body(unsafe Superblock(arena.superblock(number).assumingMemoryBound(to: SuperblockHeader.self)))
        }
    }

    /// What is known without a walk over the superblocks.
    mutating func summary() -> HeapSummary {
        HeapSummary(
            limit: arena.byteCount, mappedBytes: arena.groupCount * HeapGeometry.groupByteCount,
            hugePageBytes: arena.hugeGroupCount * HeapGeometry.groupByteCount, usedBytes: usedBytes, peakUsedBytes: peakUsedBytes,
            failedAllocations: failedAllocations)
    }

    mutating func statistics() -> HeapStatistics {
        emptyHotSlots()
        var result = HeapStatistics()
        result.limit = arena.byteCount
        result.groups = arena.groupCount
        result.hugePageGroups = arena.hugeGroupCount
        result.lockedGroups = arena.lockedGroupCount
        result.freeSuperblocks = arena.freeCount
        result.usedBytes = usedBytes
        result.peakUsedBytes = peakUsedBytes
        result.failedAllocations = failedAllocations
        result.remoteReturns = remoteReturns
        result.faults = faults.count
        for number in 0..<HeapGeometry.classCount { result.classes[number].objectByteCount = 1 << (number + HeapGeometry.smallestShift) }
        forEachSuperblock { superblock in
            result.liveObjects += superblock.liveCount
            result.liveBytes += superblock.liveCount * superblock.objectByteCount
            if superblock.isSpan {
                result.spans += superblock.liveCount
            } else {
                let number = unsafe Int(superblock.header.pointee.shift) - HeapGeometry.smallestShift
                result.classes[number].superblocks += 1
                result.classes[number].liveObjects += superblock.liveCount
            }
        }
        return result
    }

    /// Looks for writes to objects that are free and carved (checked heaps).
    private mutating func verifyFreeObjects() {
        guard isChecked else { return }
        var superblocks: [Superblock] = []
        forEachSuperblock { if !$0.isSpan { superblocks.append($0) } }
        for superblock in superblocks {
            for index in 0..<(unsafe Int(superblock.header.pointee.carved)) {
                let record = unsafe superblock.record(index)
                // Nobody's, settled or not: what waits in the return queue of an orphan has not been poisoned yet.
                guard unsafe record.pointee.references == 0, unsafe dk_atomic_load_u64(record.pending) == 0 else { continue }
                verifyPoison(superblock, index)
            }
        }
    }

    /// The heap's end: settles what was returned, counts what is left, verifies what is free. Under the shared lock.
    mutating func becomeOrphan(settling returned: UInt64) -> LeakReport {
        settle(returned)
        emptyHotSlots()
        flushQuarantine()
        verifyFreeObjects()
        let now = CheckedHeap.now
        var objects: [LeakedObject] = []
        var bytes = 0
        var count = 0
        forEachSuperblock { superblock in
            guard superblock.liveCount > 0 else { return }
            count += superblock.liveCount
            bytes += superblock.liveCount * superblock.objectByteCount
            for index in 0..<(unsafe Int(superblock.header.pointee.carved)) where objects.count < 64 {
                let references = unsafe superblock.record(index).pointee.references
                // Nothing but returns that are about to be settled: not free yet, so it counts as live.
                guard references != 0 else { continue }
                objects.append(
                    LeakedObject(
                        address: UInt(bitPattern: unsafe superblock.object(index)), objectByteCount: superblock.objectByteCount,
                        applicationReferences: Int(references & 0xffff), libOSReferences: Int(references >> 16),
                        age: unsafe superblock.header.pointee.stamps.map { unsafe now &- $0[index] }))
            }
        }
        isOrphan = true
        orphanLiveCount = count
        let report = LeakReport(liveObjects: count, liveBytes: bytes, objects: objects, faultCount: faults.count, faults: faults.all)
        if isChecked, !report.isClean { writeToStandardError("demikernel: \(report)\n") }
        return report
    }
}
