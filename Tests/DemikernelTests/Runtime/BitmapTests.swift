import Testing
@testable import Demikernel

@Suite struct BitmapTests {
    /// The edges of words (64), of groups (64²) and of the whole (64³), and what lies beside them.
    private static let capacities = [1, 2, 63, 64, 65, 100, 4_095, 4_096, 4_097, 10_000, 262_080, 262_143, 262_144]

    /// Members that crowd where a level's bits begin and end.
    private static func member(below capacity: Int, using generator: inout SplitMix64) -> UInt32 {
        switch Int.random(in: 0..<4, using: &generator) {
        case 0: return UInt32(capacity - 1 - Int.random(in: 0..<min(3, capacity), using: &generator))
        case 1: return UInt32(Int.random(in: 0..<capacity, using: &generator) / 64 * 64)
        case 2: return UInt32(min(capacity - 1, Int.random(in: 0..<capacity, using: &generator) / 4_096 * 4_096 + 4_095))
        default: return UInt32.random(in: 0..<UInt32(capacity), using: &generator)
        }
    }

    @Test(arguments: capacities)
    func `a random history agrees with a set`(capacity: Int) {
        for seed in 1...4 as ClosedRange<UInt64> {
            var generator = SplitMix64(seed: seed)
            var bitmap = Bitmap(capacity: capacity)
            var model: Set<UInt32> = []
            for _ in 0..<800 {
                let member = Self.member(below: capacity, using: &generator)
                switch Int.random(in: 0..<5, using: &generator) {
                case 0, 1:
                    bitmap.insert(member)
                    model.insert(member)
                case 2:
                    bitmap.remove(member)
                    model.remove(member)
                case 3:
                    guard let first = model.min() else { break }
                    #expect(bitmap.first == first)
                    bitmap.remove(first)
                    model.remove(first)
                default:
                    #expect(bitmap.contains(member) == model.contains(member))
                }
                #expect(bitmap.isEmpty == model.isEmpty)
            }
            #expect(bitmap.first == model.min())
            while let first = bitmap.first {
                #expect(model.remove(first) != nil)
                bitmap.remove(first)
            }
            #expect(model.isEmpty)
        }
    }

    @Test(arguments: capacities)
    func `every member of a full set is there, and nothing beyond`(capacity: Int) {
        var bitmap = Bitmap(capacity: capacity)
        for member in 0..<UInt32(capacity) { bitmap.insert(member) }
        var found = 0
        while let first = bitmap.first {
            if Int(first) != found { Issue.record("\(first) in the place of \(found)") }
            bitmap.remove(first)
            found += 1
        }
        #expect(found == capacity)
        for beyond in [UInt32(capacity), UInt32(capacity) + 63, 1 << 20, .max] {
            #expect(bitmap.contains(beyond) == false)
            bitmap.remove(beyond)
        }
        #expect(bitmap.isEmpty == true)
    }
}

@Suite struct ReadySetTests {
    @Test(arguments: [1, 64, 65, 200, 4_096, 4_097, 262_144])
    func `nobody is lost or invented, and nobody is overtaken more than twice`(capacity: Int) {
        for seed in 1...6 as ClosedRange<UInt64> {
            var generator = SplitMix64(seed: seed)
            var set = ReadySet(capacity: capacity)
            // For each ready task, who has run since it became ready, and how often.
            var overtakers: [UInt32: [UInt32: Int]] = [:]
            // Wakes of a task that is ready in the present batch may make it run once more than it was ready.
            var wakes: [UInt32: Int] = [:]
            let population = min(capacity, 40)
            for _ in 0..<2_000 {
                if Bool.random(using: &generator) {
                    let index = Int.random(in: 0..<population, using: &generator)
                    let task = UInt32(index * (capacity / population))
                    set.wake(task)
                    wakes[task, default: 0] += 1
                    if overtakers[task] == nil { overtakers[task] = [:] }
                } else if let task = set.next() {
                    #expect(wakes[task, default: 0] > 0, "\(task) ran without having been woken")
                    wakes[task]? -= 1
                    if overtakers.removeValue(forKey: task) != nil { wakes[task] = min(wakes[task]!, 1) }
                    for waiting in overtakers.keys where waiting != task {
                        overtakers[waiting]![task, default: 0] += 1
                        // Once in the round in which the other became ready, once in the next.
                        #expect(overtakers[waiting]![task]! <= 2, "\(task) ran again and again while \(waiting) was ready (seed \(seed))")
                    }
                } else {
                    #expect(overtakers.isEmpty, "the set lost \(overtakers.keys)")
                    #expect(set.isEmpty == true)
                    wakes = [:]
                }
            }
            while let task = set.next() { overtakers[task] = nil }
            #expect(overtakers.isEmpty)
        }
    }

    @Test func `a task that wakes itself waits for the others`() {
        var set = ReadySet(capacity: 1_000)
        for task in [0, 1, 63, 64, 500, 999] as [UInt32] { set.wake(task) }
        var rounds: [[UInt32]] = []
        for _ in 0..<5 {
            var round: [UInt32] = []
            for _ in 0..<6 {
                guard let task = set.next() else { break }
                round.append(task)
                set.wake(task)
            }
            rounds.append(round.sorted())
        }
        #expect(rounds == Array(repeating: [0, 1, 63, 64, 500, 999], count: 5))
    }

    @Test(arguments: [1, 63, 64, 65, 4_097, 262_144])
    func `all tasks of a full set run in one round`(capacity: Int) {
        var set = ReadySet(capacity: capacity)
        for round in 0..<2 {
            for task in 0..<UInt32(capacity) { set.wake(task) }
            var ran = [Bool](repeating: false, count: capacity)
            var count = 0
            while let task = set.next() {
                if ran[Int(task)] { Issue.record("\(task) ran twice in round \(round)") }
                ran[Int(task)] = true
                count += 1
            }
            #expect(count == capacity)
        }
    }

    @Test func `an empty set stays empty`() {
        var set = ReadySet(capacity: 64)
        #expect(set.next() == nil)
        #expect(set.isEmpty == true)
        set.wake(63)
        #expect(set.isEmpty == false)
        #expect(set.next() == 63)
        #expect(set.next() == nil)
    }
}
