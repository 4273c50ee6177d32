import CDemikernelShims

/// Frames on their way from one thread to another (or to the same), first in, first out, without a lock: one producer, one consumer.
///
/// Plain data that both ends copy; positions count frames for ever, and each end keeps its own besides. Complexity: O(1) for each frame.
///
/// Invariant: `words` is 256 bytes that begin a cache line, `slots` holds `mask + 1` frames, both until ``deallocate()``. The frames from the
/// consumer's position to the producer's are initialised and theirs.
///
/// Sendable unchecked, because the compiler does not see that its two ends, which may be on two threads, share `words` by atomic operations alone,
/// and a slot only after one end has published it to the other.
@safe struct FrameRing: BitwiseCopyable, @unchecked Sendable {
    private let words: UnsafeMutablePointer<UInt64>
    private let slots: UnsafeMutablePointer<Frame>
    private let mask: UInt64

    init(capacity: Int) {
        var size = 1
        while size < capacity { size *= 2 }
        unsafe words = UnsafeMutableRawPointer.allocate(byteCount: 256, alignment: 64).bindMemory(to: UInt64.self, capacity: 32)
        unsafe words.initialize(repeating: 0, count: 32)
        unsafe slots = UnsafeMutableRawPointer.allocate(byteCount: size * MemoryLayout<Frame>.stride, alignment: 64)
            .bindMemory(to: Frame.self, capacity: size)
        mask = UInt64(size - 1)
    }

    /// Releases the frames that nobody has taken. Both ends are done with the ring.
    func deallocate() {
        var position = unsafe words[0]
        while unsafe position != words[8] {
            unsafe slots[Int(position & mask)].release()
            position &+= 1
        }
        unsafe words.deallocate()
        unsafe slots.deallocate()
    }

    var capacity: UInt64 { mask &+ 1 }

    // Each end's word has a cache line of its own, so that the ends meet only where they must.
    /// How many frames were ever taken.
    @inline(__always) private var taken: UnsafeMutablePointer<UInt64> { unsafe words }
    /// How many frames were ever put.
    @inline(__always) private var put: UnsafeMutablePointer<UInt64> { unsafe words + 8 }
    private var consumerSleeps: UnsafeMutablePointer<UInt64> { unsafe words + 16 }
    private var endsGone: UnsafeMutablePointer<UInt64> { unsafe words + 24 }

    /// Where the frame of a position lies: the producer's to initialise before it has put it, the consumer's to move out before it has taken it.
    @unsafe @inline(__always) func slot(_ position: UInt64) -> UnsafeMutablePointer<Frame> {
        unsafe slots + Int(truncatingIfNeeded: position & mask)
    }

    @inline(__always) func loadTaken() -> UInt64 { unsafe dk_atomic_load_u64(taken) }
    @inline(__always) func loadPut() -> UInt64 { unsafe dk_atomic_load_u64(put) }
    @inline(__always) func storeTaken(_ position: UInt64) { unsafe dk_atomic_store_u64(taken, position) }
    @inline(__always) func storePut(_ position: UInt64) { unsafe dk_atomic_store_u64(put, position) }

    /// Stores the producer's position and answers whether the consumer sleeps, in that order for both ends: either the consumer, about to
    /// sleep, sees the frames, or this sees that it sleeps.
    @inline(__always) func publish(_ position: UInt64) -> Bool {
        unsafe dk_shared_publish_u64(put, position)
        return unsafe dk_atomic_load_u64(consumerSleeps) != 0
    }

    /// Says that the consumer is about to sleep; before it looks for the last time.
    func announceSleep(_ sleeps: Bool) { unsafe dk_shared_publish_u64(consumerSleeps, sleeps ? 1 : 0) }
    /// An end goes: nobody puts any more, or nobody takes any more.
    func announceEnd() { unsafe dk_atomic_store_u64(endsGone, 1) }
    @inline(__always) var isEnded: Bool { unsafe dk_atomic_load_u64(endsGone) != 0 }
}
