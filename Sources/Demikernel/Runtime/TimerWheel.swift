/// One timer of a `TimerWheel`: stale once the timer has fired or was cancelled, and recognised as such.
package struct TimerKey: Hashable, Sendable, BitwiseCopyable {
    package let slot: UInt32
    package let generation: UInt32

    @inline(__always)
    package init(slot: UInt32, generation: UInt32) {
        self.slot = slot
        self.generation = generation
    }
}

/// Timers with nanosecond deadlines: a hierarchical timing wheel (Varghese and Lauck, SOSP 1987, scheme 7).
///
/// A deadline is a number of eleven digits to the base 64. A timer hangs in the bucket (level, digit) of the highest digit in which its
/// deadline differs from `reached`, the deadline that was processed last. All timers of a level lie before all of the next, and all of
/// a bucket before all of the next bucket, so the earliest timer hangs in the lowest occupied bucket of the lowest occupied level: two
/// trailing-zero counts, however far ahead it is. A bucket of level 0 holds one nanosecond. When a higher one comes due, `reached` moves to
/// its first deadline and its timers are distributed over the levels below it: a timer moves at most ten times in its life, and not at all
/// where it is alone in its bucket. Nothing happens merely because time passes.
///
/// - Timers fire in the order of their deadlines, those with equal deadlines in the order of insertion, and never before their deadline.
/// - A deadline before the last `now` counts as that `now`: it fires at the next call, after the timers that were already due.
/// - Insertion and cancellation take constant time; no operation allocates. The memory is committed as it is first touched.
/// - The wheel reads no clock: the caller says what time it is, in nanoseconds since any start.
///
/// Invariant: `links` of a bucket and its timers form a list in both directions whose ends carry the bucket's marker; a bucket's occupancy
/// bit is set exactly when its list is not empty, a level's exactly when one of its buckets is occupied; `buckets[b].earliest` is not later
/// than any deadline in an occupied bucket `b`; `earliest` is not later than any deadline.
@safe
package struct TimerWheel<Payload: BitwiseCopyable>: ~Copyable {
    /// 32 bytes with a payload of 16: two to a cache line.
    private struct Entry: BitwiseCopyable {
        var deadline: UInt64
        var payload: Payload
        /// The neighbours: a slot, or the bucket's marker at either end of the list.
        var next: UInt32
        var previous: UInt32
    }

    private struct Bucket: BitwiseCopyable {
        var first: UInt32
        var last: UInt32
        /// Exact until the earliest timer is cancelled, then a lower bound.
        var earliest: UInt64
    }

    private static var digitBits: UInt64 { 6 }
    private static var levelCount: Int { 11 }
    private static var bucketCount: Int { levelCount * 64 }
    /// Marks a link that names a bucket and not a slot.
    private static var marker: UInt32 { 1 << 31 }

    private var entries: Slab<Entry>
    private let buckets: UnsafeMutablePointer<Bucket>
    /// One word per level, one bit per bucket.
    private let occupancy: UnsafeMutablePointer<UInt64>
    /// One bit per level.
    private var occupiedLevels: UInt32 = 0
    private var reached: UInt64 = 0
    private var lastNow: UInt64 = 0
    /// What `popExpired` compares with, so that polling a wheel with nothing due is one comparison.
    private var earliest: UInt64 = .max

    /// The largest capacity that a wheel can have.
    package static var capacityMax: Int { Int(marker) - 1 }

    /// Creates an empty wheel for at most `capacity` timers at a time.
    ///
    /// - Throws: EINVAL where `capacity` is not in `1 ... capacityMax`, ENOMEM where the address space does not suffice.
    package init(capacity: Int) throws(DemikernelError) {
        guard capacity <= Self.capacityMax else {
            throw DemikernelError(.invalidArgument, "a timer wheel holds at most 2^31 - 1 timers")
        }
        entries = try Slab(capacity: capacity)
        unsafe buckets = .allocate(capacity: Self.bucketCount)
        unsafe occupancy = .allocate(capacity: Self.levelCount)
        unsafe occupancy.initialize(repeating: 0, count: Self.levelCount)
        for bucket in 0..<Self.bucketCount {
            let marked = UInt32(bucket) | Self.marker
            unsafe (buckets + bucket).initialize(to: Bucket(first: marked, last: marked, earliest: .max))
        }
    }

    deinit {
        unsafe buckets.deallocate()
        unsafe occupancy.deallocate()
    }

    /// How many timers wait.
    package var count: Int { entries.count }
    /// Whether none waits.
    package var isEmpty: Bool { entries.isEmpty }
    /// How many timers can wait at a time.
    package var capacity: Int { entries.capacity }

    /// Starts a timer that fires when `deadline` (nanoseconds) is reached; nil where the wheel is full.
    ///
    /// - Complexity: O(1).
    @inline(__always)
    package mutating func insert(deadline: UInt64, payload: Payload) -> TimerKey? {
        let deadline = max(deadline, lastNow)
        let entry = Entry(deadline: deadline, payload: payload, next: 0, previous: 0)
        guard let key = entries.insert(entry) else { return nil }
        append(key.slot, deadline: deadline)
        if deadline < earliest { earliest = deadline }
        return TimerKey(slot: key.slot, generation: key.generation)
    }

    /// Stops a timer; false where it has fired or was cancelled before.
    ///
    /// - Complexity: O(1).
    @inline(__always)
    package mutating func cancel(_ key: TimerKey) -> Bool {
        guard entries.contains(.init(slot: key.slot, generation: key.generation)) else { return false }
        unlink(key.slot)
        _ = entries.remove(unchecked: key.slot)
        return true
    }

    /// Whether the timer still waits.
    @inline(__always)
    package func contains(_ key: TimerKey) -> Bool {
        entries.contains(.init(slot: key.slot, generation: key.generation))
    }

    /// Removes the earliest timer whose deadline is not after `now` and answers its payload; nil where none is due. To be called until nil.
    ///
    /// Time does not run backwards: a `now` before the last one counts as the last one.
    ///
    /// - Complexity: amortised O(1), one comparison where nothing is due. A single call can distribute a whole bucket.
    @inline(__always)
    package mutating func popExpired(now: UInt64) -> Payload? {
        if now > lastNow { lastNow = now }
        guard lastNow >= earliest else { return nil }
        return popDue()
    }

    /// When to look at the wheel again, in nanoseconds; nil where no timer waits.
    ///
    /// Never later than the earliest deadline, and exactly that unless a timer was cancelled: then it can be earlier, because a bucket keeps
    /// the deadline of its first timer after that timer's cancellation. Waking at the answer and calling `popExpired` tightens it; after at
    /// most ten such wakes the timer itself is due.
    ///
    /// - Complexity: O(1).
    package func nextDeadline() -> UInt64? {
        guard let bucket = firstOccupied() else { return nil }
        return unsafe buckets[bucket].earliest
    }

    /// The slow half of `popExpired`: `earliest` has come, or what it stood for was cancelled.
    @inline(never)
    private mutating func popDue() -> Payload? {
        while let bucket = firstOccupied() {
            let due = unsafe buckets[bucket].earliest
            guard due <= lastNow else {
                earliest = due
                return nil
            }
            let slot = unsafe buckets[bucket].first
            let alone = unsafe slot == buckets[bucket].last
            let deadline = entries[unchecked: slot].deadline
            if bucket < 64 || (alone && deadline <= lastNow) {
                unlink(slot)
                reached = deadline
                return entries.remove(unchecked: slot).payload
            }
            if alone {
                unsafe buckets[bucket].earliest = deadline
            } else {
                distribute(bucket, from: due)
            }
        }
        earliest = .max
        return nil
    }

    /// Moves every timer of a bucket above level 0, the first occupied one, to the levels below.
    ///
    /// `moment` lies in the bucket's range and not after any of its timers, so each of them agrees with it in one digit more than before; all
    /// other timers differ from it in the digit in which they differed from `reached`.
    private mutating func distribute(_ bucket: Int, from moment: UInt64) {
        assert(bucket >= 64 && moment >= reached && moment <= lastNow)
        reached = moment
        var slot = unsafe buckets[bucket].first
        let marked = UInt32(truncatingIfNeeded: bucket) | Self.marker
        unsafe buckets[bucket].first = marked
        unsafe buckets[bucket].last = marked
        vacate(bucket)
        while slot & Self.marker == 0 {
            let next = entries[unchecked: slot].next
            append(slot, deadline: entries[unchecked: slot].deadline)
            slot = next
        }
    }

    /// Hangs a timer at the end of its bucket's list.
    @inline(__always)
    private mutating func append(_ slot: UInt32, deadline: UInt64) {
        assert(deadline >= reached)
        let bucket = bucket(of: deadline)
        let marked = UInt32(truncatingIfNeeded: bucket) | Self.marker
        let last = unsafe buckets[bucket].last
        entries[unchecked: slot].previous = last
        entries[unchecked: slot].next = marked
        unsafe buckets[bucket].last = slot
        if last & Self.marker != 0 {
            unsafe buckets[bucket].first = slot
            unsafe buckets[bucket].earliest = deadline
            unsafe occupancy[bucket &>> 6] |= 1 &<< UInt64(truncatingIfNeeded: bucket & 63)
            occupiedLevels |= 1 &<< UInt32(truncatingIfNeeded: bucket &>> 6)
        } else {
            entries[unchecked: last].next = slot
            if unsafe deadline < buckets[bucket].earliest { unsafe buckets[bucket].earliest = deadline }
        }
    }

    /// Takes a timer out of its bucket's list.
    @inline(__always)
    private mutating func unlink(_ slot: UInt32) {
        let next = entries[unchecked: slot].next
        let previous = entries[unchecked: slot].previous
        if previous & Self.marker != 0 {
            unsafe buckets[Int(previous ^ Self.marker)].first = next
        } else {
            entries[unchecked: previous].next = next
        }
        if next & Self.marker != 0 {
            unsafe buckets[Int(next ^ Self.marker)].last = previous
            if previous & Self.marker != 0 { vacate(Int(next ^ Self.marker)) }
        } else {
            entries[unchecked: next].previous = previous
        }
    }

    /// Clears the bits of a bucket whose list has become empty.
    @inline(__always)
    private mutating func vacate(_ bucket: Int) {
        let level = bucket &>> 6
        let left = unsafe occupancy[level] & ~(1 &<< UInt64(truncatingIfNeeded: bucket & 63))
        unsafe occupancy[level] = left
        if left == 0 { occupiedLevels &= ~(1 &<< UInt32(truncatingIfNeeded: level)) }
    }

    /// The bucket that holds the earliest timer.
    @inline(__always)
    private func firstOccupied() -> Int? {
        guard occupiedLevels != 0 else { return nil }
        let level = occupiedLevels.trailingZeroBitCount
        return unsafe level &* 64 &+ occupancy[level].trailingZeroBitCount
    }

    /// The highest digit in which the deadline differs from `reached`, and that digit.
    @inline(__always)
    private func bucket(of deadline: UInt64) -> Int {
        let highestBit = UInt64(63 &- ((deadline ^ reached) | 1).leadingZeroBitCount)
        let level = (highestBit &* 43) &>> 8  // a division by six, exact below 64
        let digit = (deadline &>> (level &* Self.digitBits)) & 63
        return Int(level &* 64 &+ digit)
    }
}
