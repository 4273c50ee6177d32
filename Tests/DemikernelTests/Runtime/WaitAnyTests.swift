import SystemPackage
import Testing
@testable import Demikernel

/// `waitAny` against a model: which operations have completed, in which order, and whether a wait has looked past them.
///
/// The operations are pops of an empty memory queue; cancelling one completes it, so that any can complete at any time.
@Suite struct WaitAnyTests {
    private struct Model {
        /// Completed and not taken, oldest first.
        var complete: [QToken] = []
        /// Those of them that a wait has seen and that were not in its array.
        var parked: Set<QToken> = []

        /// Checks the answer of a wait that polled once, and does to the model what the wait did.
        mutating func waited(_ array: [QToken], _ offset: Int?) {
            let members = Set(array)
            if let offset {
                let token = array[offset]
                #expect(complete.contains(token), "only what has completed is handed out")
                if parked.isEmpty { #expect(token == complete.first { members.contains($0) }, "the oldest goes first") }
                if !parked.contains(token) {
                    // Those that were looked at on the way and were not in the array.
                    for other in complete.prefix(while: { $0 != token }) where !members.contains(other) { parked.insert(other) }
                }
                complete.removeAll { $0 == token }
                parked.remove(token)
            } else {
                #expect(!complete.contains { members.contains($0) }, "a wait gives up only where nothing has completed")
                parked.formUnion(complete)
            }
        }
    }

    /// Waits without waiting; nil where nothing has completed.
    private func poll(_ libOS: LibOS, _ array: [QToken]) throws -> Outcome? {
        do {
            return Outcome(try libOS.waitAny(array, timeout: .zero))
        } catch where error.errno == .timedOut {
            return nil
        }
    }

    @Test(arguments: [1, 2, 3, 10, 64, 65, 300], 1...6 as ClosedRange<UInt64>)
    func `a random history agrees with the model`(length: Int, seed: UInt64) throws {
        var generator = SplitMix64(seed: seed &* 1_000 &+ UInt64(length))
        let libOS = try smallLibOS()
        let queue = try libOS.queue()
        var array = try (0..<length).map { _ in try libOS.pop(queue) }
        // Pending or complete, and not in the array.
        var outside: [QToken] = []
        var pending = Set(array)
        var model = Model()
        for _ in 0..<600 {
            switch Int.random(in: 0..<12, using: &generator) {
            case 0...4:
                guard let token = pending.sorted(by: { $0.rawValue < $1.rawValue }).randomElement(using: &generator) else { continue }
                try libOS.cancel(token)
                pending.remove(token)
                model.complete.append(token)
            case 5:
                array.shuffle(using: &generator)
            case 6 where array.count > 1:
                let count = Int.random(in: 1...array.count, using: &generator)
                outside += array[count...]
                array.removeSubrange(count...)
            case 7 where !outside.isEmpty:
                array.append(outside.remove(at: Int.random(in: outside.indices, using: &generator)))
            case 8 where array.count < length:
                let token = try libOS.pop(queue)
                pending.insert(token)
                array.append(token)
            default:
                let outcome = try poll(libOS, array)
                model.waited(array, outcome?.offset)
                guard let outcome else { continue }
                #expect(outcome.token == array[outcome.offset])
                #expect(outcome.errno == Errno.canceled.rawValue)
                if array.count > 1, Bool.random(using: &generator) {
                    // Swap-remove, as a server does with a connection that ends.
                    array.swapAt(outcome.offset, array.count - 1)
                    array.removeLast()
                } else {
                    let token = try libOS.pop(queue)
                    pending.insert(token)
                    array[outcome.offset] = token
                }
            }
        }
        // Whatever has completed is handed out in the end, each once.
        array += outside
        while let outcome = try poll(libOS, array) {
            model.waited(array, outcome.offset)
            array.remove(at: outcome.offset)
            if array.isEmpty { break }
        }
        #expect(model.complete.isEmpty)
        #expect(Set(array) == pending)
        #expect(libOS.core.operations.count == pending.count)
    }

    @Test(arguments: [100, 4_096, 4_097, 10_000])
    func `completions come in the order in which they came about`(length: Int) throws {
        var generator = SplitMix64(seed: UInt64(length))
        let libOS = try smallLibOS(operations: 16_384)
        let queue = try libOS.queue()
        var array = try (0..<length).map { _ in try libOS.pop(queue) }
        for _ in 0..<3 {
            let chosen = array.indices.shuffled(using: &generator).prefix(400)
            let order = chosen.map { array[$0] }
            for token in order { try libOS.cancel(token) }
            for token in order {
                let outcome = Outcome(try libOS.waitAny(array))
                #expect(outcome.token == token)
                array[outcome.offset] = try libOS.pop(queue)
            }
        }
        #expect(try poll(libOS, array) == nil)
    }

    @Test(arguments: [2, 3, 16, 500, 6_000])
    func `no token starves behind one that completes again and again`(length: Int) throws {
        for busy in Set([0, 1, length / 2, length - 1]) {
            let libOS = try smallLibOS(operations: 16_384)
            let idle = try libOS.queue()
            let stream = try libOS.queue()
            for number in 0..<8 as Range<UInt32> { _ = Outcome(try libOS.wait(try libOS.push(stream, try libOS.numbered(number)))) }
            // Completes while a wait looks elsewhere, so that it is parked before it stands in the array.
            let late = try libOS.pop(idle)
            let other = try libOS.pop(idle)
            try libOS.cancel(late)
            #expect(try poll(libOS, [other]) == nil)
            var array = try (0..<length).map { _ in try libOS.pop(idle) }
            let place = busy == length - 1 ? 0 : length - 1
            array[place] = late
            array[busy] = try libOS.pop(stream)
            var calls = 0
            while calls <= length + 8 {
                calls += 1
                let outcome = Outcome(try libOS.waitAny(array))
                if outcome.token == late { break }
                #expect(outcome.offset == busy)
                _ = Outcome(try libOS.wait(try libOS.push(stream, try libOS.numbered(1))))
                array[busy] = try libOS.pop(stream)
            }
            #expect(calls <= length + 8, "the token at \(place) starved behind the one at \(busy)")
        }
    }

    @Test func `a completion that nobody waited for is found when its token joins the array`() throws {
        let libOS = try smallLibOS()
        let queue = try libOS.queue()
        let tokens = try (0..<200).map { _ in try libOS.pop(queue) }
        for token in tokens.dropFirst() { try libOS.cancel(token) }
        #expect(try poll(libOS, [tokens[0]]) == nil)
        var array = [tokens[0]]
        for token in tokens.dropFirst() {
            array.append(token)
            #expect(try poll(libOS, array) != nil)
            array = [tokens[0]]
        }
        #expect(libOS.core.operations.count == 1)
        #expect(libOS.core.completions.parkedCount == 0)
    }

    @Test(arguments: [1, 2, 63, 64, 65, 129, 1_000, 4_096])
    func `a token that names nothing is reported wherever it stands`(length: Int) throws {
        let libOS = try smallLibOS(operations: 8_192)
        let queue = try libOS.queue()
        let stale = try libOS.pop(queue)
        try libOS.cancel(stale)
        _ = Outcome(try libOS.wait(stale))
        let array = try (0..<length).map { _ in try libOS.pop(queue) }
        for position in Set([0, 1, length / 2, length - 2, length - 1]) where array.indices.contains(position) {
            for bad in [stale, QToken(rawValue: 0), QToken(rawValue: .max), QToken(rawValue: 77)] {
                var broken = array
                broken[position] = bad
                expectError(.invalidArgument) { _ = try libOS.waitAny(broken, timeout: .zero) }
                expectError(.invalidArgument) { _ = try libOS.waitAny(broken, timeout: .microseconds(50)) }
                expectError(.invalidArgument) { _ = try libOS.waitAny(broken) }
            }
        }
        #expect(libOS.core.operations.count == length)
    }

    @Test func `a token that names nothing is reported in a long array too, though the wait sleeps`() throws {
        let libOS = try smallLibOS(operations: 16_384, spin: .atMost(.zero))
        let queue = try libOS.queue()
        var array = try (0..<10_000).map { _ in try libOS.pop(queue) }
        array[9_000] = QToken(rawValue: 1)
        expectError(.invalidArgument) { _ = try libOS.waitAny(array) }
    }

    @Test func `a first token that names nothing is reported although another has completed`() throws {
        let libOS = try smallLibOS()
        let queue = try libOS.queue()
        let token = try libOS.pop(queue)
        try libOS.cancel(token)
        expectError(.invalidArgument) { _ = try libOS.waitAny([QToken(rawValue: 5), token]) }
        expectError(.invalidArgument) { _ = try libOS.waitAny([]) }
        #expect(Outcome(try libOS.waitAny([token, QToken(rawValue: 5)])).token == token)
    }

    @Test(arguments: [10, 4_096, 9_000])
    func `a zero timeout sees everything that has completed`(length: Int) throws {
        var generator = SplitMix64(seed: 5)
        let libOS = try smallLibOS(operations: 16_384)
        let queue = try libOS.queue()
        var array = try (0..<length).map { _ in try libOS.pop(queue) }
        let other = try libOS.pop(queue)
        for _ in 0..<8 {
            let token = try #require(array.randomElement(using: &generator))
            try libOS.cancel(token)
            // Looked at and not found: it is new no longer.
            if Bool.random(using: &generator) { #expect(try poll(libOS, [other]) == nil) }
            array.shuffle(using: &generator)
            let outcome = try #require(try poll(libOS, array))
            #expect(outcome.token == token)
            #expect(try poll(libOS, array.filter { $0 != token }) == nil)
            array[outcome.offset] = try libOS.pop(queue)
        }
    }
}
