import CDemikernelShims
import Glibc

/// The part of a heap that other threads touch: three words, accessed atomically, on cache lines of their own.
///
/// Addresses instead of fields behind `&`: to the thread sanitizer that is an access to the whole structure.
///
/// Invariant: `words` is 128 bytes that begin a cache line, until ``deallocate()``.
@safe struct SharedHeapState {
    private let words: UnsafeMutablePointer<UInt64>

    init() {
        unsafe words = UnsafeMutableRawPointer.allocate(byteCount: 128, alignment: 64).bindMemory(to: UInt64.self, capacity: 16)
        unsafe words.initialize(repeating: 0, count: 16)
    }

    func deallocate() { unsafe words.deallocate() }

    /// The return queue, a stack: its first object's name plus 1, or 0. ``orphan`` once the heap was shut down with objects still out.
    @inline(__always) var returns: UnsafeMutablePointer<UInt64> { unsafe words }
    /// Held by whoever changes an orphan.
    var lock: UnsafeMutablePointer<UInt64> { unsafe words + 1 }
    /// The thread on which the heap is current, or 0.
    var thread: UnsafeMutablePointer<UInt64> { unsafe words + 2 }

    static var orphan: UInt64 { 1 << 63 }
}

/// What threads other than the owner took and dropped of one object's references, not yet settled: dropped − taken, of either kind.
///
/// Bit 63: the object is in the return queue, or a thread is about to put it there. An object whose word is not 0 is never reused; hence
/// whoever drops a reference may go on touching the record until it has cleared or handed on that bit.
struct PendingReturns {
    var rawValue: UInt64
    @inline(__always) init(rawValue: UInt64) { self.rawValue = rawValue }

    init(application: Int32, libOS: Int32, isQueued: Bool) {
        rawValue = UInt64(UInt32(bitPattern: application)) | UInt64(UInt32(bitPattern: libOS) & 0x7fff_ffff) << 32 | (isQueued ? 1 << 63 : 0)
    }

    var application: Int32 { Int32(truncatingIfNeeded: rawValue) }
    var libOS: Int32 { Int32(bitPattern: UInt32(truncatingIfNeeded: rawValue >> 32) << 1) >> 1 }
    var isQueued: Bool { rawValue >> 63 == 1 }
    static var queued: UInt64 { 1 << 63 }
}

/// References taken (positive) and dropped (negative) in one step.
struct ReferenceChange {
    var application: Int32
    var libOS: Int32

    static var none: ReferenceChange { ReferenceChange(application: 0, libOS: 0) }
    static var retainApplication: ReferenceChange { ReferenceChange(application: 1, libOS: 0) }
    static var releaseApplication: ReferenceChange { ReferenceChange(application: -1, libOS: 0) }
    static var retainLibOS: ReferenceChange { ReferenceChange(application: 0, libOS: 1) }
    static var releaseLibOS: ReferenceChange { ReferenceChange(application: 0, libOS: -1) }
    static var applicationToLibOS: ReferenceChange { ReferenceChange(application: -1, libOS: 1) }
    static var libOSToApplication: ReferenceChange { ReferenceChange(application: 1, libOS: -1) }

    /// Whether fewer references are left than before: only then may the object have become free.
    var drops: Bool { application + libOS < 0 }
}

// MARK: - The owner's side

extension HeapState {
    /// One load.
    @inline(__always) var returnsAreWaiting: Bool { unsafe dk_atomic_load_u64(shared.returns) != 0 }

    /// Settles what other threads dropped. Owner only.
    mutating func drainReturns() {
        guard returnsAreWaiting else { return }
        settle(unsafe dk_atomic_exchange_u64(shared.returns, 0))
    }

    /// Settles a list taken off the return queue.
    mutating func settle(_ first: UInt64) {
        var name = UInt32(truncatingIfNeeded: first)
        while name != 0 {
            let (superblock, index) = locate(name)
            let record = unsafe superblock.record(index)
            name = unsafe record.pointee.link  // before the exchange: after it another thread may queue the object anew
            let pending = PendingReturns(rawValue: unsafe dk_atomic_exchange_u64(record.pending, 0))
            remoteReturns &+= 1
            if unsafe apply(pending, to: record, superblock, index) { retire(superblock, index) }
        }
    }

    private mutating func locate(_ name: UInt32) -> (Superblock, Int) {
        let number = Int(name &- 1)
        let header = unsafe arena.superblock(number >> 12).assumingMemoryBound(to: SuperblockHeader.self)
        return unsafe (Superblock(header), number & 0xfff)
    }

    /// Subtracts `pending` from the references and answers whether none is left.
    @unsafe mutating func apply(
        _ pending: PendingReturns, to record: UnsafeMutablePointer<ObjectRecord>, _ superblock: Superblock, _ index: Int
    ) -> Bool {
        let change = ReferenceChange(application: 0 &- pending.application, libOS: 0 &- pending.libOS)
        if !(unsafe record.pointee.add(change)) { note(.doubleFree, superblock, index) }
        return unsafe record.pointee.references == 0
    }

    /// Changes an object's references on the owner's thread, or under the orphan's lock. False where that is not possible: see ``ReferenceChange``.
    @unsafe mutating func change(_ superblock: Superblock, _ index: Int, _ change: ReferenceChange) -> Bool {
        let record = unsafe superblock.record(index)
        // Other threads' changes first: what they took may be what is being dropped here.
        var word = unsafe dk_atomic_load_u64(record.pending)
        while PendingReturns(rawValue: word).application != 0 || PendingReturns(rawValue: word).libOS != 0 {
            if unsafe dk_atomic_compare_exchange_u64(record.pending, &word, word & PendingReturns.queued) != 0 {
                _ = unsafe apply(PendingReturns(rawValue: word), to: record, superblock, index)
                word = unsafe dk_atomic_load_u64(record.pending)
            }
        }
        guard unsafe record.pointee.references != 0, unsafe record.pointee.add(change) else {
            if change.drops { note(.doubleFree, superblock, index) }
            return false
        }
        // A queued object is freed when it comes out of the queue.
        if change.drops, unsafe record.pointee.references == 0, unsafe dk_atomic_load_u64(record.pending) == 0 {
            retire(superblock, index)
        }
        return true
    }
}

extension ObjectRecord {
    /// False, and nothing changed, where a count would go below zero or a taken reference would be the 65,535th. A stuck half stays stuck.
    mutating func add(_ change: ReferenceChange) -> Bool {
        let application = ObjectRecord.sum(references & 0xffff, change.application)
        let libOS = ObjectRecord.sum(references >> 16, change.libOS)
        guard let application, let libOS else { return false }
        references = application | libOS << 16
        return true
    }

    /// Whole batches (other threads' changes) that would overflow make the half stick: a leak is better than a reuse.
    private static func sum(_ count: UInt32, _ change: Int32) -> UInt32? {
        if count == ReferenceUnit.stuck { return count }
        let sum = Int64(count) + Int64(change)
        if sum < 0 { return nil }
        if sum >= Int64(ReferenceUnit.stuck) { return change == 1 ? nil : ReferenceUnit.stuck }
        return UInt32(sum)
    }
}

// MARK: - Any thread

extension Superblock {
    /// Everything that is not "the owner changes a count and something is left": other threads, last references, checked heaps, orphans.
    /// Answers whether the change was possible.
    @inline(never)
    func change(_ object: UnsafeMutableRawPointer, _ change: ReferenceChange) -> Bool {
        let heap = unsafe state
        let index = unsafe self.index(of: object)
        if unsafe UInt(bitPattern: dk_thread_heap_get()) == UInt(bitPattern: heap) {
            return unsafe heap.pointee.change(self, index, change)
        }
        // The caller holds a reference until its change is visible: neither heap nor object goes away before.
        let shared = unsafe heap.pointee.shared
        if unsafe dk_atomic_load_u64(shared.returns) & SharedHeapState.orphan != 0 {
            return unsafe changeOrphan(index, change, holdsQueuedBit: false)
        }
        let record = unsafe self.record(index)
        var word = unsafe dk_atomic_load_u64(record.pending)
        var queues = false
        while true {
            let pending = PendingReturns(rawValue: word)
            queues = change.drops && !pending.isQueued
            let sum = PendingReturns(
                application: pending.application &- change.application, libOS: pending.libOS &- change.libOS,
                isQueued: pending.isQueued || queues)
            if unsafe dk_atomic_compare_exchange_u64(record.pending, &word, sum.rawValue) != 0 { break }
        }
        if queues { unsafe enqueue(index, record, shared) }
        return true
    }

    @unsafe private func enqueue(_ index: Int, _ record: UnsafeMutablePointer<ObjectRecord>, _ shared: SharedHeapState) {
        let name = unsafe header.pointee.index << 12 | UInt32(index)
        var first = unsafe dk_atomic_load_u64(shared.returns)
        while true {
            if first & SharedHeapState.orphan != 0 {
                _ = unsafe changeOrphan(index, .none, holdsQueuedBit: true)
                return
            }
            unsafe record.pointee.link = UInt32(truncatingIfNeeded: first)
            // Once this succeeded the object, and with it the heap, may be gone.
            if unsafe dk_atomic_compare_exchange_u64(shared.returns, &first, UInt64(name) + 1) != 0 { return }
        }
    }

    /// Changes an object of a heap that was shut down. Whoever frees the last object gives the arena back.
    @unsafe private func changeOrphan(_ index: Int, _ change: ReferenceChange, holdsQueuedBit: Bool) -> Bool {
        let heap = unsafe state
        let shared = unsafe heap.pointee.shared
        unsafe SpinLock.lock(shared.lock)
        var done = true
        if holdsQueuedBit {
            let record = unsafe self.record(index)
            let pending = PendingReturns(rawValue: unsafe dk_atomic_exchange_u64(record.pending, 0))
            if unsafe heap.pointee.apply(pending, to: record, self, index) { unsafe heap.pointee.retire(self, index) }
        } else {
            done = unsafe heap.pointee.change(self, index, change)
        }
        let isLast = unsafe heap.pointee.orphanLiveCount == 0
        unsafe SpinLock.unlock(shared.lock)
        if isLast { unsafe HeapState.destroy(heap) }
        return done
    }
}

/// A lock in one word, which the caller provides: its last act is one store, after which another thread may free the word.
enum SpinLock {
    static func lock(_ word: UnsafeMutablePointer<UInt64>) {
        while unsafe dk_atomic_exchange_u64(word, 1) != 0 { sched_yield() }
    }

    static func unlock(_ word: UnsafeMutablePointer<UInt64>) { unsafe dk_atomic_store_u64(word, 0) }
}
