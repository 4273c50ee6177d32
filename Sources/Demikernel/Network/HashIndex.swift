/// Which slot of somebody's table has which key: open addressing over slot numbers, which knows hashes and not keys.
///
/// The user walks the candidates of a hash and compares keys itself. Complexity: O(1) expected with a keyed hash, for any history: removal
/// shifts the followers back, so that no tombstones gather. Allocates its pages when they are first touched.
///
/// Invariant: at most half of the places are taken; `place.slot` is a slot number plus one, 0 for none; from the place of its hash to an
/// entry's own there is no empty one.
package struct HashIndex: ~Copyable {
    struct Place: BitwiseCopyable {
        var slot: UInt32
        var hash: UInt32
    }
    /// Where a walk is.
    package struct Walk: BitwiseCopyable {
        fileprivate var position: Int
        fileprivate let hash: UInt32
    }

    private var places: MappedMemory<Place>
    private let mask: Int
    private var count = 0
    private let limit: Int

    /// For tables of up to `capacity` slots. Throws ENOMEM.
    package init(capacity: Int) throws(DemikernelError) {
        var size = 4
        while size < capacity * 2 { size *= 2 }
        places = try MappedMemory(count: size)
        mask = size - 1
        limit = capacity
    }

    /// Begins to walk the slots that may have the key with this hash.
    @inline(__always) package func walk(_ hash: UInt64) -> Walk {
        Walk(position: Int(truncatingIfNeeded: hash) & mask, hash: UInt32(truncatingIfNeeded: hash))
    }

    /// The next slot whose key has this hash; nil where there is none.
    @inline(__always) package mutating func next(_ walk: inout Walk) -> UInt32? {
        while true {
            let place = places[walk.position]
            guard place.slot != 0 else { return nil }
            walk.position = (walk.position &+ 1) & mask
            if place.hash == walk.hash { return place.slot &- 1 }
        }
    }

    /// Adds a slot. Its key is not in the index. False where there are `capacity` already.
    package mutating func insert(_ hash: UInt64, slot: UInt32) -> Bool {
        guard count < limit else { return false }
        var position = Int(truncatingIfNeeded: hash) & mask
        while places[position].slot != 0 { position = (position &+ 1) & mask }
        places[position] = Place(slot: slot &+ 1, hash: UInt32(truncatingIfNeeded: hash))
        count += 1
        return true
    }

    /// Takes a slot out, if it is there.
    package mutating func remove(_ hash: UInt64, slot: UInt32) {
        var hole = Int(truncatingIfNeeded: hash) & mask
        while places[hole].slot != slot &+ 1 {
            guard places[hole].slot != 0 else { return }
            hole = (hole &+ 1) & mask
        }
        count -= 1
        var position = hole
        while true {
            position = (position &+ 1) & mask
            let place = places[position]
            guard place.slot != 0 else { break }
            // The low bits of the hash that is kept are all that positions depend on: tables have less than 2³¹ places.
            let home = Int(place.hash) & mask
            guard (position &- home) & mask >= (position &- hole) & mask else { continue }
            places[hole] = place
            hole = position
        }
        places[hole] = Place(slot: 0, hash: 0)
    }
}

extension MappedMemory {
    /// Element `index`, in place. `index` is in `0..<count` (asserted).
    @inline(__always) subscript(index: Int) -> Element {
        unsafeAddress {
            assert(index >= 0 && index < count, "outside of a table")
            return unsafe UnsafePointer(base + index)
        }
        unsafeMutableAddress {
            assert(index >= 0 && index < count, "outside of a table")
            return unsafe base + index
        }
    }
}
