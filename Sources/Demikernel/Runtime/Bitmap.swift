/// A set of small integers as a three-level bitmap: 64³ members at most, each operation in constant time.
///
/// The lowest level has one bit a member; each bit of a level above says whether the 64-bit word below it has any. A search therefore
/// looks at three words however many members there are (paper, section 5.4, which walks one level by trailing-zero count).
///
/// Invariant: a bit of `summary` (of `top`) is set exactly when its word of `words` (of `summary`) is not zero; both arrays hold
/// `wordCount` and 64 initialised words.
@safe
package struct Bitmap: ~Copyable {
    /// The most members that three levels hold.
    package static var capacityMaximum: Int { 64 * 64 * 64 }

    private let words: UnsafeMutablePointer<UInt64>
    private let summary: UnsafeMutablePointer<UInt64>
    private var top: UInt64 = 0
    package let capacity: Int

    /// An empty set of members below `capacity`. Complexity: O(`capacity` / 64).
    package init(capacity: Int) {
        precondition(capacity > 0 && capacity <= Self.capacityMaximum)
        self.capacity = capacity
        let wordCount = (capacity + 63) / 64
        unsafe words = .allocate(capacity: wordCount)
        unsafe words.initialize(repeating: 0, count: wordCount)
        unsafe summary = .allocate(capacity: 64)
        unsafe summary.initialize(repeating: 0, count: 64)
    }

    deinit {
        unsafe words.deallocate()
        unsafe summary.deallocate()
    }

    package var isEmpty: Bool { @inline(__always) get { top == 0 } }

    package func contains(_ member: UInt32) -> Bool {
        Int(member) < capacity && (unsafe words[Int(member &>> 6)] &>> UInt64(member & 63)) & 1 == 1
    }

    @inline(__always)
    package mutating func insert(_ member: UInt32) {
        assert(Int(member) < capacity)
        let word = Int(member &>> 6)
        let old = unsafe words[word]
        unsafe words[word] = old | 1 &<< UInt64(member & 63)
        if old == 0 {
            unsafe summary[word &>> 6] |= 1 &<< UInt64(word & 63)
            top |= 1 &<< UInt64(word &>> 6)
        }
    }

    package mutating func remove(_ member: UInt32) {
        guard contains(member) else { return }
        let word = Int(member &>> 6)
        unsafe words[word] &= ~(1 &<< UInt64(member & 63))
        if unsafe words[word] == 0 { emptied(word) }
    }

    /// The lowest member.
    package var first: UInt32? {
        guard top != 0 else { return nil }
        let group = top.trailingZeroBitCount
        let word = unsafe group &<< 6 | summary[group].trailingZeroBitCount
        return unsafe UInt32(truncatingIfNeeded: word &<< 6 | words[word].trailingZeroBitCount)
    }

    /// Takes out all members that share a word: the first non-empty word at or after `start`, wrapping round. `top` is not zero.
    @inline(__always)
    fileprivate mutating func takeWord(from start: Int) -> (word: Int, bits: UInt64) {
        let word = nextWord(from: start)
        let bits = unsafe words[word]
        unsafe words[word] = 0
        emptied(word)
        return (word, bits)
    }

    @inline(__always)
    private func nextWord(from start: Int) -> Int {
        let group = start &>> 6
        let here = unsafe group < 64 ? summary[group] & (UInt64.max &<< UInt64(start & 63)) : 0
        if here != 0 { return group &<< 6 | here.trailingZeroBitCount }
        let above = group < 63 ? top & (UInt64.max &<< UInt64(group &+ 1)) : 0
        let next = (above != 0 ? above : top).trailingZeroBitCount
        return unsafe next &<< 6 | summary[next].trailingZeroBitCount
    }

    @inline(__always)
    private mutating func emptied(_ word: Int) {
        unsafe summary[word &>> 6] &= ~(1 &<< UInt64(word & 63))
        if unsafe summary[word &>> 6] == 0 { top &= ~(1 &<< UInt64(word &>> 6)) }
    }
}

/// The ready tasks of one priority, walked in rounds: in each, every task that was ready when it began runs before any runs twice.
///
/// A word's tasks are taken out together and handed out one by one; a task that is woken meanwhile, itself included, waits for the next
/// round. So no task runs more than twice while another is ready.
package struct ReadySet: ~Copyable {
    private var bitmap: Bitmap
    private var batch: UInt64 = 0
    private var batchWord = 0

    package init(capacity: Int) { bitmap = Bitmap(capacity: capacity) }

    package var isEmpty: Bool { @inline(__always) get { batch == 0 && bitmap.isEmpty } }

    /// Marks a task as ready. Waking a ready task changes nothing, unless it is among those taken out: it is then polled once more.
    @inline(__always)
    package mutating func wake(_ task: UInt32) { bitmap.insert(task) }

    /// Takes the next ready task.
    @inline(__always)
    package mutating func next() -> UInt32? {
        if batch == 0 {
            guard !bitmap.isEmpty else { return nil }
            (batchWord, batch) = bitmap.takeWord(from: batchWord &+ 1)
        }
        let task = UInt32(truncatingIfNeeded: batchWord &<< 6 | batch.trailingZeroBitCount)
        batch &= batch &- 1
        return task
    }
}
