import CDemikernelShims
import Glibc
import SystemPackage

/// Called once per superblock group: registers `byteCount` bytes at `base` with a device, stores the device's key for them in `outKey` and
/// answers 0 or an errno.
package typealias DeviceRegistrationHook = @convention(c) (
    _ context: UnsafeMutableRawPointer?, _ base: UnsafeMutableRawPointer, _ byteCount: Int, _ outKey: UnsafeMutablePointer<UInt64>
) -> Int32

/// What superblock of the arena belongs to which object.
enum SuperblockUse {
    static var free: UInt32 { 0 }
    static var objects: UInt32 { 1 }
    static var spanHead: UInt32 { 2 }
    /// Plus the distance to the head, in superblocks.
    static var spanTail: UInt32 { 1 << 31 }
}

/// All of a heap. Lives outside of the arena until the heap is shut down and the last object is back.
///
/// Invariants: `active[c]` is `none` (which is always empty and full) or a superblock of class `c` whose `eventTop` is `never`; every other
/// superblock of the class is in the class's list with `0 < top < capacity` and `eventTop == capacity`, or full with `eventTop == 1`.
/// `uses[i]` says what superblock `i` is.
@safe struct HeapState: ~Copyable {
    // First cache lines: what allocating touches.
    /// `active` in unchecked heaps, `none` in checked ones, which always take the slow path.
    var fast: InlineArray<11, Superblock>
    var active: InlineArray<11, Superblock>
    var partial: InlineArray<11, UnsafeMutablePointer<SuperblockHeader>?>
    /// What other threads touch; on cache lines of its own.
    let shared: SharedHeapState

    var arena: Arena
    let none: Superblock
    /// The object of each size class that was freed last, without references; and one slot that is never empty.
    let hot: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    let uses: UnsafeMutablePointer<UInt32>
    let layouts: InlineArray<11, SuperblockLayout>
    /// In the registry.
    var number = 0
    /// What goes to `SuperblockHeader.owner`.
    var ownerMark: UInt = 0

    var devices = InlineArray<8, DeviceRegistration>(repeating: DeviceRegistration())
    var deviceCount = 0
    /// 8 keys per group.
    let groupKeys: UnsafeMutablePointer<UInt64>
    /// How far the next group got: memory first, then one device after the other.
    var nextGroupHasMemory = false
    var nextGroupDevices = 0

    var usedBytes = 0
    var peakUsedBytes = 0
    var failedAllocations: UInt64 = 0
    var remoteReturns: UInt64 = 0

    /// Shut down with this many objects still out; from then on everything happens under the shared lock.
    var isOrphan = false
    var orphanLiveCount = 0

    var check: CheckedHeap?
    /// Whether there is a `check`; comparing that with nil would copy it, all 6 KiB.
    let isChecked: Bool
    /// What went wrong so far: the first few, and how many.
    var faults = HeapFaultLog()

    @safe struct DeviceRegistration {
        var hook: DeviceRegistrationHook?
        var context: UnsafeMutableRawPointer?
    }

    static func create(_ configuration: HeapConfiguration) throws(DemikernelError) -> UnsafeMutablePointer<HeapState> {
        let state = UnsafeMutablePointer<HeapState>.allocate(capacity: 1)
        do {
            unsafe state.initialize(to: try HeapState(configuration))
        } catch {
            unsafe state.deallocate()
            throw error
        }
        unsafe state.pointee.ownerMark = UInt(bitPattern: state) | (state.pointee.isChecked ? 1 : 0)
        unsafe state.pointee.number = HeapRegistry.add(state)
        return unsafe state
    }

    /// Gives everything back to the system. No object may be left.
    @unsafe static func destroy(_ state: UnsafeMutablePointer<HeapState>) {
        unsafe HeapRegistry.remove(state.pointee.number)
        unsafe state.deinitialize(count: 1)
        unsafe state.deallocate()
    }

    private init(_ configuration: HeapConfiguration) throws(DemikernelError) {
        arena = try Arena(configuration)
        let header = UnsafeMutablePointer<SuperblockHeader>.allocate(capacity: 1)
        unsafe hot = .allocate(capacity: HeapGeometry.classCount + 1)
        unsafe hot.initialize(repeating: nil, count: HeapGeometry.classCount)
        unsafe (hot + HeapGeometry.classCount).initialize(to: UnsafeMutableRawPointer(header))
        unsafe header.initialize(
            to: SuperblockHeader(
                owner: 0, stack: UnsafeMutableRawPointer(header).assumingMemoryBound(to: UInt16.self), hotSlot: hot, top: 0, eventTop: SuperblockHeader.never,
                shift: 0, firstObject: 0, capacity: 0, carved: 0, superblockCount: 0, index: 0, next: nil,
                deviceKeys: InlineArray(repeating: 0), previous: nil, stamps: nil))
        let none = unsafe Superblock(header)
        self.none = none
        active = InlineArray(repeating: none)
        fast = InlineArray(repeating: none)
        unsafe partial = InlineArray(repeating: nil)
        let checked = configuration.checked || HeapState.environmentAsksForChecks
        layouts = InlineArray { SuperblockLayout(shift: $0 + HeapGeometry.smallestShift, checked: checked) }
        let superblocks = arena.groupLimit * HeapGeometry.superblocksPerGroup
        // calloc: pages of these tables that are never used cost nothing.
        unsafe uses = calloc(superblocks, 4)!.bindMemory(to: UInt32.self, capacity: superblocks)
        unsafe groupKeys = calloc(superblocks, 8)!.bindMemory(to: UInt64.self, capacity: superblocks)
        shared = SharedHeapState()
        check = checked ? CheckedHeap() : nil
        isChecked = checked
    }

    deinit {
        unsafe none.header.deallocate()
        unsafe hot.deallocate()
        shared.deallocate()
        unsafe Glibc.free(uses)
        unsafe Glibc.free(groupKeys)
    }

    private static var environmentAsksForChecks: Bool {
        guard let value = unsafe getenv("DEMI_HEAP_CHECKED") else { return false }
        return unsafe value[0] == UInt8(ascii: "1") && value[1] == 0
    }

    // MARK: Objects

    /// Everything beyond "the class's active superblock has an object": spans, other superblocks, returned objects, new groups.
    @inline(never)
    mutating func allocateSlow(_ byteCount: Int, _ unit: UInt32) -> UnsafeMutableRawPointer? {
        guard byteCount >= 0, byteCount <= HeapGeometry.largestObject else {
            failedAllocations &+= 1
            return nil
        }
        let shift = HeapGeometry.shift(for: max(byteCount, 1))
        var object = unsafe shift > HeapGeometry.largestShift ? allocateSpan(byteCount, unit) : allocateObject(shift, unit)
        if unsafe object == nil {
            // The last resorts: what the checked mode holds back, and empty superblocks that other classes keep.
            drainReturns()
            flushQuarantine()
            emptyHotSlots()
            releaseIdleSuperblocks()
            unsafe object = shift > HeapGeometry.largestShift ? allocateSpan(byteCount, unit) : allocateObject(shift, unit)
        }
        guard let object = unsafe object else {
            failedAllocations &+= 1
            return nil
        }
        if isChecked { unsafe noteAllocation(object) }
        return unsafe object
    }

    private mutating func allocateObject(_ shift: Int, _ unit: UInt32) -> UnsafeMutableRawPointer? {
        let number = shift - HeapGeometry.smallestShift
        if let object = unsafe take(number, unit) { return unsafe object }
        if returnsAreWaiting {
            drainReturns()
            if let object = unsafe take(number, unit) { return unsafe object }
        }
        let fresh: Superblock
        if let header = unsafe partial[number] {
            fresh = unsafe Superblock(header)
            unlink(fresh, number)
        } else if let made = makeSuperblock(number, shift) {
            fresh = made
        } else {
            return nil
        }
        let spent = active[number]
        if unsafe spent.header != none.header { unsafe spent.header.pointee.eventTop = 1 }
        unsafe fresh.header.pointee.eventTop = SuperblockHeader.never
        active[number] = fresh
        if !isChecked { fast[number] = fresh }
        return unsafe take(number, unit)
    }

    private mutating func take(_ number: Int, _ unit: UInt32) -> UnsafeMutableRawPointer? {
        let superblock = active[number]
        if unsafe superblock.header.pointee.top == 0 {
            let carved = unsafe superblock.header.pointee.carved
            guard unsafe carved < superblock.header.pointee.capacity else { return nil }
            superblock.carve(32)
            if isChecked { for index in unsafe Int(carved)..<Int(superblock.header.pointee.carved) { poison(superblock, index) } }
        }
        return unsafe superblock.take(unit)
    }

    private mutating func makeSuperblock(_ number: Int, _ shift: Int) -> Superblock? {
        guard let index = takeRun(1) else { return nil }
        let layout = layouts[number]
        return initialize(index, count: 1, shift: UInt32(shift), layout, SuperblockUse.objects)
    }

    private mutating func allocateSpan(_ byteCount: Int, _ unit: UInt32) -> UnsafeMutableRawPointer? {
        let count = (byteCount + HeapGeometry.spanHeaderByteCount + HeapGeometry.superblockByteCount - 1) >> HeapGeometry.superblockShift
        guard let index = takeRun(count) else { return nil }
        var layout = SuperblockLayout()
        layout.capacity = 1
        layout.firstObject = UInt32(HeapGeometry.spanHeaderByteCount)
        layout.stackOffset = UInt32(SuperblockHeader.byteCount + MemoryLayout<ObjectRecord>.stride + 8)
        let span = initialize(index, count: count, shift: SuperblockHeader.spanShift, layout, SuperblockUse.spanHead)
        for distance in stride(from: 1, to: count, by: 1) { unsafe uses[index + distance] = SuperblockUse.spanTail + UInt32(distance) }
        span.carve(1)
        unsafe span.header.pointee.eventTop = 1
        return unsafe span.take(unit)
    }

    private mutating func initialize(_ index: Int, count: Int, shift: UInt32, _ layout: SuperblockLayout, _ use: UInt32) -> Superblock {
        let start = unsafe arena.superblock(index)
        let header = unsafe start.bindMemory(to: SuperblockHeader.self, capacity: 1)
        var keys = InlineArray<8, UInt64>(repeating: 0)
        for device in 0..<deviceCount { keys[device] = unsafe groupKeys[index / HeapGeometry.superblocksPerGroup * 8 + device] }
        let records = unsafe start + SuperblockHeader.byteCount
        let stamps = unsafe records + Int(layout.capacity) * MemoryLayout<ObjectRecord>.stride
        unsafe header.initialize(
            to: SuperblockHeader(
                owner: ownerMark, stack: (start + Int(layout.stackOffset)).bindMemory(to: UInt16.self, capacity: Int(layout.capacity)),
                hotSlot: hot + min(Int(shift) - HeapGeometry.smallestShift, HeapGeometry.classCount), top: 0,
                eventTop: SuperblockHeader.never, shift: shift, firstObject: layout.firstObject, capacity: layout.capacity, carved: 0,
                superblockCount: UInt32(count), index: UInt32(index), next: nil, deviceKeys: keys, previous: nil,
                stamps: !isChecked ? nil : stamps.bindMemory(to: UInt64.self, capacity: Int(layout.capacity))))
        unsafe uses[index] = use
        usedBytes += count << HeapGeometry.superblockShift
        peakUsedBytes = max(peakUsedBytes, usedBytes)
        return unsafe Superblock(header)
    }

    // MARK: Superblocks

    /// A freed object made a full superblock partial, a partial one empty, or a span free.
    @inline(never)
    mutating func superblockChangedPlace(_ superblock: Superblock) {
        if superblock.isSpan { return release(superblock) }
        let number = unsafe Int(superblock.header.pointee.shift) - HeapGeometry.smallestShift
        if unsafe superblock.header.pointee.eventTop == 1 {
            unsafe superblock.header.pointee.eventTop = superblock.header.pointee.capacity
            unsafe superblock.header.pointee.previous = nil
            unsafe superblock.header.pointee.next = partial[number]
            if let head = unsafe partial[number] { unsafe head.pointee.previous = superblock.header }
            unsafe partial[number] = superblock.header
        } else {
            unlink(superblock, number)
            release(superblock)
        }
    }

    private mutating func unlink(_ superblock: Superblock, _ number: Int) {
        let next = unsafe superblock.header.pointee.next
        let previous = unsafe superblock.header.pointee.previous
        if let next = unsafe next { unsafe next.pointee.previous = previous }
        if let previous = unsafe previous { unsafe previous.pointee.next = next } else { unsafe partial[number] = next }
        unsafe superblock.header.pointee.next = nil
        unsafe superblock.header.pointee.previous = nil
    }

    private mutating func release(_ superblock: Superblock) {
        let first = unsafe Int(superblock.header.pointee.index)
        let count = unsafe Int(superblock.header.pointee.superblockCount)
        for index in first..<(first + count) { unsafe uses[index] = SuperblockUse.free }
        arena.giveRun(first, count: count)
        usedBytes -= count << HeapGeometry.superblockShift
    }

    /// Active superblocks stay when they are empty, so that a class at rest costs nothing; under pressure they go.
    private mutating func releaseIdleSuperblocks() {
        for number in 0..<HeapGeometry.classCount {
            let superblock = active[number]
            guard unsafe superblock.header != none.header, superblock.isEmpty else { continue }
            active[number] = none
            fast[number] = none
            release(superblock)
        }
    }

    /// Puts the hot objects back into their superblocks.
    mutating func emptyHotSlots() {
        for number in 0..<HeapGeometry.classCount {
            guard let object = unsafe hot[number] else { continue }
            unsafe hot[number] = nil
            let superblock = unsafe Superblock(of: object)
            if unsafe superblock.put(superblock.index(of: object)) { superblockChangedPlace(superblock) }
        }
    }

    // MARK: Groups

    private mutating func takeRun(_ count: Int) -> Int? {
        if let index = arena.takeRun(count) { return index }
        let wanted = count - arena.freeAtEnd
        guard wanted <= (arena.groupLimit - arena.groupCount) * HeapGeometry.superblocksPerGroup else { return nil }
        var left = wanted
        while left > 0 {
            guard addGroup() else { return nil }
            left -= HeapGeometry.superblocksPerGroup
        }
        return arena.takeRun(count)
    }

    /// Memory, then each device's key, then its superblocks are free. What failed half-way goes on from there at the next attempt.
    private mutating func addGroup() -> Bool {
        if !nextGroupHasMemory {
            guard arena.commitGroup() else { return false }
            nextGroupHasMemory = true
        }
        let group = arena.groupCount
        while nextGroupDevices < deviceCount {
            guard register(group, with: nextGroupDevices) == 0 else { return false }
            nextGroupDevices += 1
        }
        nextGroupHasMemory = false
        nextGroupDevices = 0
        arena.offerGroup()
        return true
    }

    /// Adds groups until the first `byteCount` bytes of the arena are usable; answers those that are, whole groups.
    mutating func commit(_ byteCount: Int) -> UnsafeMutableRawBufferPointer {
        let wanted = min(arena.groupLimit, (byteCount + HeapGeometry.groupByteCount - 1) / HeapGeometry.groupByteCount)
        while arena.groupCount < wanted, addGroup() {}
        return unsafe UnsafeMutableRawBufferPointer(start: arena.base, count: min(wanted, arena.groupCount) * HeapGeometry.groupByteCount)
    }

    private mutating func register(_ group: Int, with device: Int) -> Int32 {
        guard let hook = unsafe devices[device].hook else { return 0 }
        var key: UInt64 = 0
        let failure = unsafe hook(devices[device].context, arena.group(group), HeapGeometry.groupByteCount, &key)
        if failure == 0 { unsafe groupKeys[group * 8 + device] = key }
        return failure
    }

    /// Registers every group there is with one more device; answers its index.
    mutating func addDevice(_ registration: DeviceRegistration) throws(DemikernelError) -> Int {
        guard deviceCount < HeapGeometry.deviceCountMaximum else {
            throw DemikernelError(.noSpace, "a heap serves at most 8 devices")
        }
        let device = deviceCount
        devices[device] = registration
        for group in 0..<arena.groupCount {
            let failure = register(group, with: device)
            guard failure == 0 else {
                devices[device] = DeviceRegistration()
                throw DemikernelError(Errno(rawValue: failure), "the device refused a superblock group")
            }
        }
        deviceCount += 1
        for index in 0..<(arena.groupCount * HeapGeometry.superblocksPerGroup) {
            let use = unsafe uses[index]
            guard use == SuperblockUse.objects || use == SuperblockUse.spanHead else { continue }
            let header = unsafe arena.superblock(index).assumingMemoryBound(to: SuperblockHeader.self)
            unsafe header.pointee.deviceKeys[device] = groupKeys[index / HeapGeometry.superblocksPerGroup * 8 + device]
        }
        return device
    }
}
