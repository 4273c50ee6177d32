import SystemPackage
import Testing
@testable import Demikernel

@Suite struct WaitModelTests {
    @Test func `waiting for what has been taken is an error, also when its slot is taken again`() throws {
        let libOS = try smallLibOS()
        let queue = try libOS.queue()
        let first = try libOS.pop(queue)
        try libOS.cancel(first)
        #expect(Outcome(try libOS.wait(first)).errno == Errno.canceled.rawValue)
        for _ in 0..<2 {
            expectError(.invalidArgument) { _ = try libOS.wait(first) }
            expectError(.invalidArgument) { _ = try libOS.wait(first, timeout: .zero) }
            expectError(.invalidArgument) { _ = try libOS.waitAny([first]) }
            expectError(.invalidArgument) { try libOS.waitAll([first]) { _ in } }
            expectError(.invalidArgument) { try libOS.cancel(first) }
            let second = try libOS.pop(queue)
            #expect(second != first && second.slot == first.slot)
            expectError(.timedOut) { _ = try libOS.wait(second, timeout: .zero) }
            try libOS.cancel(second)
            _ = Outcome(try libOS.wait(second))
        }
    }

    @Test func `no token is given out twice`() throws {
        let libOS = try smallLibOS(operations: 64)
        let queue = try libOS.queue()
        var seen: Set<QToken> = []
        for _ in 0..<5_000 {
            let token = try libOS.pop(queue)
            #expect(seen.insert(token).inserted)
            try libOS.cancel(token)
            _ = Outcome(try libOS.wait(token))
        }
    }

    @Test func `waitAll hands out in the order of the tokens, whatever completed first`() throws {
        var generator = SplitMix64(seed: 3)
        let libOS = try smallLibOS()
        let queue = try libOS.queue()
        for _ in 0..<20 {
            let tokens = try (0..<100).map { _ in try libOS.pop(queue) }.shuffled(using: &generator)
            for token in tokens.shuffled(using: &generator) { try libOS.cancel(token) }
            var outcomes: [Outcome] = []
            try libOS.waitAll(tokens) { outcomes.append(Outcome($0)) }
            #expect(outcomes.map(\.token) == tokens)
            #expect(outcomes.map(\.offset) == Array(tokens.indices))
        }
        #expect(libOS.core.operations.count == 0)
    }

    @Test func `waitAll that fails takes nothing`() throws {
        let libOS = try smallLibOS()
        let queue = try libOS.queue()
        let tokens = try (0..<10).map { _ in try libOS.pop(queue) }
        for token in tokens.dropLast() { try libOS.cancel(token) }
        let taken: (consuming Completion) -> Void = { _ in Issue.record("a completion was taken") }
        expectError(.timedOut) { try libOS.waitAll(tokens, timeout: .zero, taken) }
        expectError(.timedOut) { try libOS.waitAll(tokens, timeout: .microseconds(10), taken) }
        expectError(.invalidArgument) { try libOS.waitAll(tokens + [tokens[3]], taken) }
        expectError(.invalidArgument) { try libOS.waitAll([tokens[3], tokens[3]], taken) }
        expectError(.invalidArgument) { try libOS.waitAll(tokens + [QToken(rawValue: 0)], taken) }
        expectError(.invalidArgument) { try libOS.waitAll([QToken(rawValue: .max)] + tokens, taken) }
        try libOS.cancel(tokens[9])
        var count = 0
        try libOS.waitAll(tokens) { _ in count += 1 }
        #expect(count == 10)
        try libOS.waitAll([], taken)
    }

    @Test func `waitNext hands out in the order of completion`() throws {
        var generator = SplitMix64(seed: 4)
        let libOS = try smallLibOS()
        let queue = try libOS.queue()
        let tokens = try (0..<300).map { _ in try libOS.pop(queue) }
        let order = tokens.shuffled(using: &generator)
        for token in order { try libOS.cancel(token) }
        var seen: [QToken] = []
        // A wait that looks past them does not change the order.
        expectError(.timedOut) { _ = try libOS.waitAny([try libOS.pop(queue)], timeout: .zero) }
        while seen.count < 300 {
            let wanted = Int.random(in: 1...40, using: &generator)
            let before = seen.count
            let count = try libOS.waitNext(wanted) { seen.append(Outcome($0).token) }
            #expect(count == min(wanted, 300 - before))
        }
        #expect(seen == order)
        expectError(.timedOut) { try libOS.waitNext(1, timeout: .zero) { _ in } }
        expectError(.invalidArgument) { try libOS.waitNext(0) { _ in } }
        expectError(.invalidArgument) { try libOS.waitNext(-1) { _ in } }
    }

    @Test func `one operation too many is refused, and all come back`() throws {
        let capacity = 262_144
        let libOS = try smallLibOS(operations: capacity)
        let queue = try libOS.queue()
        let other = try libOS.queue()
        for round in 0..<2 {
            var tokens: [QToken] = []
            tokens.reserveCapacity(capacity)
            for _ in 0..<capacity { tokens.append(try libOS.pop(queue)) }
            expectError(.noMemory) { _ = try libOS.pop(queue) }
            expectError(.noMemory) { _ = try libOS.timer(after: .seconds(1)) }
            do {
                _ = try libOS.push(other, try libOS.numbered(7))
                Issue.record("a push was accepted")
            } catch let error as PushError {
                #expect(error.reason.errno == .noMemory)
                #expect(error.takeBuffers()?.byteCount == 4)
            }
            #expect(Set(tokens).count == capacity)
            // Room for one is enough for one.
            try libOS.cancel(tokens[capacity / 2])
            _ = Outcome(try libOS.wait(tokens[capacity / 2]))
            tokens[capacity / 2] = try libOS.pop(queue)
            expectError(.noMemory) { _ = try libOS.pop(queue) }
            if round == 0 {
                for token in tokens { try libOS.cancel(token) }
            } else {
                try libOS.close(queue)
            }
            var taken = 0
            while taken < capacity { taken += try libOS.waitNext(1_000, timeout: .zero) { _ in } }
            #expect(libOS.core.operations.count == 0)
        }
        #expect(libOS.core.heap.statistics.liveObjects == 0)
    }
}
