import CDemikernelShims
import Glibc

/// The DMA-capable heap of one libOS: fixed-size objects in superblocks of one contiguous arena, with references and device keys beside them
/// instead of in them. Demikernel paper (SOSP 2021), section 5.3.
///
/// Belongs to the thread that called ``makeCurrent()``: only that thread allocates. Objects may be released on any thread; those released
/// elsewhere come back through the return queue (``drainReturns()``).
///
/// Invariant: `state` is this heap's, from creation until ``shutdown()``; afterwards what is still out keeps it alive.
@safe package struct Heap: ~Copyable {
    let state: UnsafeMutablePointer<HeapState>

    /// Reserves the arena's addresses; memory comes with the first allocation.
    /// Throws EINVAL for a limit that is not between 1 byte and 256 GiB, ENOMEM without address space.
    package init(_ configuration: HeapConfiguration = HeapConfiguration()) throws(DemikernelError) {
        unsafe state = try HeapState.create(configuration)
    }

    deinit { _ = unsafe Heap.shutDown(state) }

    // MARK: Allocation

    /// A buffer of `byteCount` bytes with `headroom` more before them; their contents are undefined. ENOMEM where the heap is exhausted.
    /// Complexity: O(1) up to 64 KiB; beyond, O(superblocks of the arena / 64).
    @inline(__always)
    package borrowing func allocate(_ byteCount: Int, headroom: Int = 0) throws(DemikernelError) -> Buffer {
        let (total, overflow) = byteCount.addingReportingOverflow(headroom)
        guard byteCount >= 0, headroom >= 0, !overflow else { throw Heap.negativeSize }
        guard let object = unsafe take(total, ReferenceUnit.application) else { throw Heap.exhausted }
        return unsafe Buffer(
            owning: Segment(
                unchecked: object, offset: UInt32(truncatingIfNeeded: headroom), count: UInt32(truncatingIfNeeded: byteCount)))
    }

    /// A segment of `capacity` bytes with one libOS reference; null where the heap is exhausted. Contents are undefined.
    @inline(__always)
    package borrowing func allocateSegment(_ capacity: Int) -> Segment {
        guard let object = unsafe take(capacity, ReferenceUnit.libOS) else { return .null }
        return unsafe Segment(unchecked: object, offset: 0, count: UInt32(truncatingIfNeeded: capacity))
    }

    /// An object of at least `byteCount` bytes with one application reference, for C (`demi_malloc`, `demi_sgaalloc`); nil where the heap is
    /// exhausted.
    package borrowing func allocateRaw(_ byteCount: Int) -> UnsafeMutableRawPointer? {
        unsafe take(byteCount, ReferenceUnit.application)
    }

    @inline(__always)
    private borrowing func take(_ byteCount: Int, _ unit: UInt32) -> UnsafeMutableRawPointer? { unsafe reference.take(byteCount, unit) }

    /// The heap, for what allocates from it and does not own it.
    @inline(__always) package var reference: HeapReference { unsafe HeapReference(state) }

    static var exhausted: DemikernelError { DemikernelError(.noMemory, "the heap is exhausted") }
    static var negativeSize: DemikernelError { DemikernelError(.invalidArgument, "a buffer's size is negative or too large") }

    // MARK: The C face

    /// Drops one application reference of the object that contains `raw`, wherever in the process it was allocated.
    /// Throws EINVAL, and records the fault, for a foreign pointer and for an object that the application no longer holds.
    package borrowing func free(_ raw: UnsafeMutableRawPointer) throws(DemikernelError) {
        guard let (superblock, index) = unsafe state.pointee.find(raw) else { return try unsafe Heap.freeElsewhere(raw, notedBy: state) }
        if superblock.dropApplicationReference(index) { return }
        try unsafe Heap.free(raw, in: state)
    }

    /// As ``free(_:)``, for threads that have no heap.
    package static func freeOnAnyThread(_ raw: UnsafeMutableRawPointer) throws(DemikernelError) {
        try unsafe freeElsewhere(raw, notedBy: nil)
    }

    private static func freeElsewhere(_ raw: UnsafeMutableRawPointer, notedBy state: UnsafeMutablePointer<HeapState>?) throws(DemikernelError) {
        guard let other = unsafe HeapRegistry.heap(of: raw), unsafe other.pointee.find(raw) != nil else {
            unsafe state?.pointee.record(HeapFault(kind: .foreignPointer, address: UInt(bitPattern: raw), objectByteCount: 0, age: nil))
            throw DemikernelError(.invalidArgument, "the pointer is not from a heap")
        }
        try unsafe free(raw, in: other)
    }

    private static func free(_ raw: UnsafeMutableRawPointer, in state: UnsafeMutablePointer<HeapState>) throws(DemikernelError) {
        guard let (superblock, index) = unsafe state.pointee.find(raw),
            unsafe superblock.change(superblock.object(index), .releaseApplication)
        else { throw DemikernelError(.invalidArgument, "the memory was freed before") }
    }

    /// `count` bytes at `pointer` as a segment with a libOS reference; null unless they lie inside one object of this heap that the
    /// application holds. Complexity: O(1).
    package borrowing func segment(containing pointer: UnsafeRawPointer, count: Int) -> Segment {
        guard count >= 0, let (superblock, index) = unsafe state.pointee.find(pointer) else { return .null }
        let object = unsafe superblock.object(index)
        let offset = unsafe pointer - UnsafeRawPointer(object)
        guard count <= superblock.objectByteCount - offset else { return .null }
        guard unsafe superblock.record(index).pointee.references & 0xffff != 0 else { return .null }
        guard unsafe superblock.addLibOSReference(index) || superblock.change(object, .retainLibOS) else { return .null }
        return unsafe Segment(unchecked: object, offset: UInt32(truncatingIfNeeded: offset), count: UInt32(truncatingIfNeeded: count))
    }

    // MARK: Threads

    /// Makes the calling thread this heap's owner. A heap is current on one thread at a time: false, and nothing changed, where it is current
    /// on another. Another heap that was current here is resigned.
    @discardableResult
    package borrowing func makeCurrent() -> Bool {
        let shared = unsafe state.pointee.shared
        var nobody: UInt64 = 0
        let this = UInt64(pthread_self())
        guard unsafe dk_atomic_compare_exchange_u64(shared.thread, &nobody, this) != 0 || nobody == this else { return false }
        if let other = unsafe dk_thread_heap_get(), unsafe other != UnsafeMutableRawPointer(state) {
            unsafe Heap.resign(other.assumingMemoryBound(to: HeapState.self))
        }
        unsafe dk_thread_heap_set(state)
        return true
    }

    /// The calling thread is the owner no longer; what is released from now on waits in the return queue.
    package borrowing func resign() { unsafe Heap.resign(state) }

    private static func resign(_ state: UnsafeMutablePointer<HeapState>) {
        guard unsafe dk_thread_heap_get() == UnsafeMutableRawPointer(state) else { return }
        dk_thread_heap_set(nil)
        unsafe dk_atomic_store_u64(state.pointee.shared.thread, 0)
    }

    /// Takes back what other threads released. One load where there is nothing. Owner only.
    @inline(__always) package borrowing func drainReturns() {
        if unsafe state.pointee.returnsAreWaiting { unsafe state.pointee.drainReturns() }
    }

    // MARK: Devices

    /// Calls `hook` for every superblock group there is and will be; answers the device's index (0...7).
    /// Throws what the hook answers, ENOSPC for a ninth device. A group that the hook refuses later is not used.
    package borrowing func registerDevice(_ hook: DeviceRegistrationHook, context: UnsafeMutableRawPointer?) throws(DemikernelError) -> Int {
        try unsafe state.pointee.addDevice(HeapState.DeviceRegistration(hook: hook, context: context))
    }

    /// The hook is not called any more; the index is not reused. For a device that goes before its heap.
    package borrowing func unregisterDevice(_ device: Int) { unsafe state.pointee.removeDevice(device) }

    /// The key that the device gave for the group in which `address` lies; 0 outside of the heap. See also ``Segment/deviceKey(_:)``.
    package borrowing func key(device: Int, of address: UnsafeMutableRawPointer) -> UInt64 {
        unsafe state.pointee.key(device, address)
    }

    // MARK: End

    /// Complexity: O(superblocks).
    package var statistics: HeapStatistics { unsafe state.pointee.statistics() }
    /// The cheap part of it: O(1).
    package var summary: HeapSummary { unsafe state.pointee.summary() }
    /// What went wrong so far: the first 16.
    package var faults: [HeapFault] { unsafe state.pointee.faults.all }

    /// Ends the heap, on its own thread or on any once it was resigned there. Objects that are still referenced stay valid; the arena goes when the last of them is released, on whatever thread.
    package consuming func shutdown() -> LeakReport {
        let state = unsafe self.state
        discard self
        return unsafe Heap.shutDown(state)
    }

    private static func shutDown(_ state: UnsafeMutablePointer<HeapState>) -> LeakReport {
        unsafe resign(state)
        let shared = unsafe state.pointee.shared
        unsafe SpinLock.lock(shared.lock)
        let returned = unsafe dk_atomic_exchange_u64(shared.returns, SharedHeapState.orphan)
        let report = unsafe state.pointee.becomeOrphan(settling: returned)
        let isDone = unsafe state.pointee.orphanLiveCount == 0
        unsafe SpinLock.unlock(shared.lock)
        if isDone { unsafe HeapState.destroy(state) }
        return report
    }
}
