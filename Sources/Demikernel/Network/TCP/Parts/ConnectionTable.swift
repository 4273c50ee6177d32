/// From the hash of a connection's tuple to its slot.
///
/// The table holds 32 bits of hash and the slot, 8 bytes an entry; whether a candidate is the connection in question is the caller's to see,
/// by its tuple:
///
///     var search = table.search(hash)
///     while let slot = search.slot {
///         if connections[slot].tuple == tuple { return slot }
///         table.advance(&search)
///     }
///
/// Open addressing, linear probing, entries of a run in the order of their homes (Robin Hood: Celis, Larson and Munro, 1985), so that a
/// search for what is not there ends early; removal shifts back and leaves no tombstones. At most three quarters are taken: 11 to 21 bytes a
/// connection, a search reads one cache line in four cases of five. A full table doubles, and its entries move a few with each insertion, so
/// that none takes long; a table does not shrink.
///
/// Invariant: `entries` has `mask + 1`, a power of two, of which `count` are not zero. While `previous` is there, the rest of the
/// connections are in it, at `previousBase`; those of its positions below `moved` are empty.
@safe package struct ConnectionTable: ~Copyable {
    private var entries: MappedMemory<UInt64>
    private var mask: UInt32
    /// A home is the hash's first bits: the hash shifted by this.
    private var shift: UInt32
    private var entryCount: UInt32 = 0
    private var previous: MappedMemory<UInt64>?
    /// The same memory's address: an optional of a noncopyable type gives it only by being consumed.
    private var previousBase: UnsafeMutablePointer<UInt64>?
    private var previousMask: UInt32 = 0
    private var previousShift: UInt32 = 0
    private var previousCount: UInt32 = 0
    private var moved: UInt32 = 0
    private let maximum: UInt32

    /// Where a search stands. Meaningless once the table has changed.
    package struct Search: BitwiseCopyable {
        /// The slot of a connection with this hash; nil at the end.
        package fileprivate(set) var slot: UInt32?
        fileprivate let hash: UInt32
        fileprivate var position: UInt32 = 0
        fileprivate var distance: UInt32 = 0
        fileprivate var isInPrevious = false
    }

    /// One page.
    private static var initialCount: UInt32 { 512 }
    /// Steps that an insertion takes through the old table, each one position or one entry further. The old one has 1.75 times as many as
    /// there are insertions before the new one is full.
    private static var movesPerInsertion: UInt32 { 8 }

    /// An empty table that will take `maximum` connections (1 ... 2³⁰) and no more. Throws ENOMEM where there is no address space.
    package init(maximum: Int) throws(DemikernelError) {
        guard maximum > 0, maximum <= 1 << 30 else {
            throw DemikernelError(.invalidArgument, "a connection table takes between one and 2^30 connections")
        }
        entries = try MappedMemory(count: Int(Self.initialCount))
        mask = Self.initialCount &- 1
        shift = 32 &- UInt32(Self.initialCount.trailingZeroBitCount)
        self.maximum = UInt32(maximum)
    }

    /// Connections in the table.
    package var count: Int { Int(entryCount &+ previousCount) }
    /// Bytes of address space.
    package var byteCount: Int { (Int(mask) + 1 + (previousMask == 0 ? 0 : Int(previousMask) + 1)) * 8 }

    // MARK: Searching

    /// The first connection with these 32 bits. Complexity: O(1) expected, for hashes that a stranger cannot choose.
    @inline(__always) package mutating func search(_ hash: UInt32) -> Search {
        var search = Search(slot: nil, hash: hash)
        search.position = hash &>> shift
        unsafe Self.find(&search, entries.base, mask, shift)
        if search.slot == nil, previousCount != 0 { searchPrevious(&search) }
        return search
    }

    /// On to the next connection with the same 32 bits.
    @inline(__always) package mutating func advance(_ search: inout Search) {
        guard search.slot != nil else { return }
        search.slot = nil
        search.distance &+= 1
        if !search.isInPrevious {
            search.position = (search.position &+ 1) & mask
            unsafe Self.find(&search, entries.base, mask, shift)
            if search.slot == nil, previousCount != 0 { searchPrevious(&search) }
        } else if previousCount != 0 {
            search.position = (search.position &+ 1) & previousMask
            unsafe Self.find(&search, previousBase.unsafelyUnwrapped, previousMask, previousShift)
        }
    }

    @inline(never) private mutating func searchPrevious(_ search: inout Search) {
        search.isInPrevious = true
        search.position = search.hash &>> previousShift
        search.distance = 0
        unsafe Self.find(&search, previousBase.unsafelyUnwrapped, previousMask, previousShift)
    }

    /// The slot that is at a hash's own position, where most are; nil where that is another's, wherever this one's may be.
    @inline(__always) package func slotAtHome(_ hash: UInt32) -> UInt32? {
        let entry = unsafe entries.base[Int(hash &>> shift)]
        return UInt32(truncatingIfNeeded: entry &>> 32) == hash && entry != 0 ? UInt32(truncatingIfNeeded: entry) &- 1 : nil
    }

    /// From the search's position on: to an entry with its hash, or to one that is nearer to its home than the wanted one would be here.
    @inline(__always) @unsafe
    private static func find(_ search: inout Search, _ base: UnsafeMutablePointer<UInt64>, _ mask: UInt32, _ shift: UInt32) {
        while true {
            let entry = unsafe base[Int(search.position)]
            if entry == 0 { return }
            let hash = UInt32(truncatingIfNeeded: entry &>> 32)
            if hash == search.hash {
                search.slot = UInt32(truncatingIfNeeded: entry) &- 1
                return
            }
            if (search.position &- hash &>> shift) & mask < search.distance { return }
            search.position = (search.position &+ 1) & mask
            search.distance &+= 1
        }
    }

    // MARK: Changing

    /// Adds a connection; false where there are `maximum`, or no memory for a larger table. The slot is not 2³² - 1.
    /// Complexity: O(1) expected.
    package mutating func insert(_ hash: UInt32, slot: UInt32) -> Bool {
        assert(slot != .max, "a slot below 2^32 - 1")
        guard entryCount &+ previousCount < maximum else { return false }
        if previousMask != 0 { movePrevious(Self.movesPerInsertion) }
        let limit = (mask &+ 1) / 4 &* 3
        if entryCount &+ previousCount >= limit {
            if previousMask != 0 { movePrevious(.max) }
            // One position is always free, so that searches end.
            if !grow(), entryCount >= mask { return false }
        }
        unsafe Self.place(UInt64(hash) &<< 32 | UInt64(slot &+ 1), entries.base, mask, shift)
        entryCount &+= 1
        return true
    }

    /// Takes out the connection with this hash and slot; false where there is none. Complexity: O(1) expected.
    package mutating func remove(_ hash: UInt32, slot: UInt32) -> Bool {
        var search = search(hash)
        while let candidate = search.slot {
            if candidate == slot {
                if search.isInPrevious {
                    unsafe Self.close(search.position, previousBase.unsafelyUnwrapped, previousMask, previousShift)
                    previousCount &-= 1
                } else {
                    unsafe Self.close(search.position, entries.base, mask, shift)
                    entryCount &-= 1
                }
                return true
            }
            advance(&search)
        }
        return false
    }

    /// Puts an entry where it belongs; those that are nearer to their homes move on by one.
    @unsafe private static func place(_ entry: UInt64, _ base: UnsafeMutablePointer<UInt64>, _ mask: UInt32, _ shift: UInt32) {
        var entry = entry
        var position = UInt32(truncatingIfNeeded: entry &>> 32) &>> shift
        var distance: UInt32 = 0
        while true {
            let there = unsafe base[Int(position)]
            if there == 0 {
                unsafe base[Int(position)] = entry
                return
            }
            let theirs = (position &- UInt32(truncatingIfNeeded: there &>> 32) &>> shift) & mask
            if theirs < distance {
                unsafe base[Int(position)] = entry
                entry = there
                distance = theirs
            }
            position = (position &+ 1) & mask
            distance &+= 1
        }
    }

    /// Empties a position: what follows and is not at home moves back by one.
    @unsafe private static func close(_ position: UInt32, _ base: UnsafeMutablePointer<UInt64>, _ mask: UInt32, _ shift: UInt32) {
        var hole = position
        while true {
            let next = (hole &+ 1) & mask
            let entry = unsafe base[Int(next)]
            if entry == 0 || UInt32(truncatingIfNeeded: entry &>> 32) &>> shift == next {
                unsafe base[Int(hole)] = 0
                return
            }
            unsafe base[Int(hole)] = entry
            hole = next
        }
    }

    // MARK: Growing

    private mutating func grow() -> Bool {
        guard shift > 1, var larger = try? MappedMemory<UInt64>(count: Int(mask &+ 1) * 2) else { return false }
        swap(&larger, &entries)
        unsafe previousBase = larger.base
        previous = consume larger
        previousMask = mask
        previousShift = shift
        previousCount = entryCount
        moved = 0
        entryCount = 0
        mask = mask &* 2 &+ 1
        shift &-= 1
        return true
    }

    /// Takes up to `limit` steps through the old table, and gives its memory back with the last entry.
    private mutating func movePrevious(_ limit: UInt32) {
        var left = limit
        while left > 0, previousCount > 0 {
            left &-= 1
            let entry = unsafe previousBase.unsafelyUnwrapped[Int(moved)]
            if entry == 0 {
                moved &+= 1
                continue
            }
            // Closing may pull the next entry to this position: the loop comes by again.
            unsafe Self.close(moved, previousBase.unsafelyUnwrapped, previousMask, previousShift)
            previousCount &-= 1
            unsafe Self.place(entry, entries.base, mask, shift)
            entryCount &+= 1
        }
        guard previousCount == 0 else { return }
        previous = nil
        unsafe previousBase = nil
        previousMask = 0
    }
}
