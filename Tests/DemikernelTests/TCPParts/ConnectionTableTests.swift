import Testing
@testable import Demikernel

@Suite struct ConnectionTableTests {
    /// Every slot that the table has for a hash, as the caller of `search` sees them.
    private static func slots(_ table: inout ConnectionTable, _ hash: UInt32) -> [UInt32] {
        var found: [UInt32] = []
        var search = table.search(hash)
        while let slot = search.slot {
            found.append(slot)
            table.advance(&search)
            if found.count > 100_000 { break }
        }
        return found
    }

    /// How hashes are spread: well, in a few values, all in one, all at the table's end (so that runs wrap).
    enum Spread: CaseIterable { case even, few, one, last }

    @Test(arguments: Spread.allCases, 1...4 as ClosedRange<UInt64>)
    func `a random history agrees with a dictionary`(spread: Spread, seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        let maximum = spread == .even ? 20_000 : 600
        var table = try ConnectionTable(maximum: maximum)
        var model: [UInt32: UInt32] = [:]
        var byHash: [UInt32: Set<UInt32>] = [:]
        var live: [UInt32] = []
        var nextSlot: UInt32 = 0
        let growing = Int.random(in: 5...8, using: &generator)
        for step in 0..<(spread == .even ? 60_000 : 6_000) {
            // Grows, shrinks, grows again.
            let insertion = Int.random(in: 0..<10, using: &generator) < (step % 20_000 < 14_000 ? growing : 10 - growing)
            if insertion || live.isEmpty {
                let hash: UInt32 =
                    switch spread {
                    case .even: UInt32.random(in: 0 ... .max, using: &generator)
                    case .few: UInt32.random(in: 0...2, using: &generator) << 30
                    case .one: 0x8000_0000
                    case .last: UInt32.random(in: 0xffff_ff00 ... .max, using: &generator)
                    }
                let inserted = table.insert(hash, slot: nextSlot)
                #expect(inserted == (model.count < maximum))
                guard inserted else { continue }
                model[nextSlot] = hash
                byHash[hash, default: []].insert(nextSlot)
                live.append(nextSlot)
                nextSlot += 1
            } else {
                let index = Int.random(in: live.indices, using: &generator)
                live.swapAt(index, live.count - 1)
                let slot = live.removeLast()
                let hash = try required(model.removeValue(forKey: slot))
                let removed = table.remove(hash, slot: slot)
                #expect(removed)
                let again = table.remove(hash, slot: slot)
                #expect(!again)
                byHash[hash]?.remove(slot)
                #expect(Set(Self.slots(&table, hash)) == byHash[hash])
            }
            #expect(table.count == model.count)
            if step % 16 == 0, let slot = live.randomElement(using: &generator), let hash = model[slot] {
                let found = Self.slots(&table, hash)
                #expect(found.count == byHash[hash]?.count)
                #expect(Set(found) == byHash[hash])
            }
        }
        for (hash, slots) in byHash { #expect(Set(Self.slots(&table, hash)) == slots) }
        for slot in live {
            let removed = table.remove(model[slot] ?? 0, slot: slot)
            #expect(removed)
        }
        #expect(table.count == 0)
    }

    @Test func `every connection is found at every moment of growth`() throws {
        var table = try ConnectionTable(maximum: 4_000)
        let keyed = KeyedHash(secret: (1, 2))
        for slot in 0..<1_700 as Range<UInt32> {
            let inserted = table.insert(UInt32(truncatingIfNeeded: keyed.hash(UInt64(slot), 7)), slot: slot)
            #expect(inserted)
            guard slot % 13 == 0 else { continue }
            for earlier in 0...slot {
                let found = Self.slots(&table, UInt32(truncatingIfNeeded: keyed.hash(UInt64(earlier), 7))).contains(earlier)
                guard found else {
                    Issue.record("slot \(earlier) is lost after \(slot)")
                    return
                }
            }
        }
    }

    @Test func `connections take at most 22 bytes each once the table has grown`() throws {
        var table = try ConnectionTable(maximum: 130_000)
        let keyed = KeyedHash(secret: (3, 4))
        for slot in 0..<130_000 as Range<UInt32> {
            let inserted = table.insert(UInt32(truncatingIfNeeded: keyed.hash(UInt64(slot), 7)), slot: slot)
            #expect(inserted)
        }
        #expect(table.byteCount <= 22 * 130_000)
        let refused = table.insert(0, slot: 130_000)
        #expect(!refused)
    }

    @Test(arguments: [0, -1, Int.max, 1 << 30 + 1])
    func `a size that cannot be is refused`(maximum: Int) {
        #expect(throws: DemikernelError(.invalidArgument, "")) { _ = try ConnectionTable(maximum: maximum) }
    }
}
