import SystemPackage
import Testing
@testable import Demikernel

/// Timers as operations, on a clock that moves by hand.
@Suite struct TimerOperationTests {
    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func `timers fire in the order of their deadlines and never early`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        let libOS = try smallLibOS(clock: .manual(start: 1_000_000))
        var now: UInt64 = 1_000_000
        var model: [(deadline: UInt64, token: QToken)] = []
        var cancelled: [QToken] = []
        for _ in 0..<2_000 {
            switch Int.random(in: 0..<8, using: &generator) {
            case 0...3 where model.count < 500:
                let after = UInt64.random(in: 0...(1 << UInt64.random(in: 0...30, using: &generator)), using: &generator)
                let token = try libOS.timer(after: .nanoseconds(Int64(after)))
                let place = model.firstIndex { $0.deadline > now + after } ?? model.count
                model.insert((now + after, token), at: place)
            case 4:
                guard let place = model.indices.randomElement(using: &generator) else { continue }
                let token = model.remove(at: place).token
                try libOS.cancel(token)
                cancelled.append(token)
            default:
                let step = UInt64.random(in: 0...(1 << UInt64.random(in: 0...28, using: &generator)), using: &generator)
                libOS.core.clock.advance(by: step)
                now += step
                var fired: [QToken] = []
                while let outcome = try? poll(libOS) {
                    if outcome.errno == nil { fired.append(outcome.token) }
                    #expect((outcome.errno != nil) == cancelled.contains(outcome.token))
                }
                cancelled = []
                let due = model.prefix { $0.deadline <= now }.map(\.token)
                // Those that one look finds due are woken together, and run in the order of their slots' words.
                #expect(Set(fired) == Set(due) && fired.count == due.count)
                model.removeFirst(due.count)
            }
        }
        #expect(libOS.core.timers.count == model.count)
    }

    private func poll(_ libOS: LibOS) throws -> Outcome {
        var outcome: Outcome?
        try libOS.waitNext(1, timeout: .zero) { outcome = Outcome($0) }
        return try #require(outcome)
    }

    @Test func `a timer fires at its deadline and not a nanosecond before`() throws {
        let libOS = try smallLibOS(clock: .manual(start: 0))
        let token = try libOS.timer(after: .seconds(3_600))
        libOS.core.clock.set(3_599_999_999_999)
        expectError(.timedOut) { _ = try libOS.wait(token, timeout: .zero) }
        libOS.core.clock.set(3_600_000_000_000)
        let outcome = Outcome(try libOS.wait(token, timeout: .zero))
        #expect(outcome.errno == nil)
    }

    @Test func `a cancelled timer completes once, as cancelled`() throws {
        let libOS = try smallLibOS(clock: .manual(start: 0))
        let token = try libOS.timer(after: .nanoseconds(100))
        try libOS.cancel(token)
        expectError(.alreadyInProcess) { try libOS.cancel(token) }
        libOS.core.clock.advance(by: 1_000)
        #expect(Outcome(try libOS.wait(token, timeout: .zero)).errno == Errno.canceled.rawValue)
        expectError(.timedOut) { try libOS.waitNext(1, timeout: .zero) { _ in } }
        #expect(libOS.core.timers.isEmpty == true)
    }

    @Test func `a timer that is longer than time itself never fires`() throws {
        let libOS = try smallLibOS(clock: .manual(start: .max - 10))
        let token = try libOS.timer(after: .seconds(Int64.max))
        libOS.core.clock.set(.max - 1)
        expectError(.timedOut) { _ = try libOS.wait(token, timeout: .zero) }
        try libOS.cancel(token)
        #expect(Outcome(try libOS.wait(token)).errno == Errno.canceled.rawValue)
    }

    @Test func `a negative duration fires at once`() throws {
        let libOS = try smallLibOS(clock: .manual(start: 5))
        #expect(Outcome(try libOS.wait(try libOS.timer(after: .seconds(-1)), timeout: .zero)).errno == nil)
    }

    /// A wake-up that is still in the ready set when its slot changes hands finds a timer that is not due.
    @Test func `a timer does not inherit the wake-up of its slot's last tenant`() throws {
        let libOS = try smallLibOS(clock: .manual(start: 0))
        let first = try libOS.timer(after: .nanoseconds(10))
        libOS.core.scheduler.application.wake(first.slot)
        try libOS.cancel(first)
        _ = Outcome(try libOS.wait(first))
        libOS.core.scheduler.application.wake(first.slot)
        let hour = try libOS.timer(after: .seconds(3_600))
        #expect(hour.slot == first.slot)
        for _ in 0..<10 { libOS.core.idleTurn() }
        #expect(libOS.core.operations[hour.slot].phase == .pending)
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50)), .forever])
    func `more timers than one turn polls all fire`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let tokens = try (0..<3_500).map { _ in try libOS.timer(after: .milliseconds(1)) }
        for token in tokens.reversed() { #expect(Outcome(try libOS.wait(token)).errno == nil) }
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50)), .forever])
    func `a timer that is due already fires however long a wait spins`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let tokens = try (0..<50).map { _ in try libOS.timer(after: .zero) }
        #expect(Outcome(try libOS.wait(tokens[0])).errno == nil)
        var count = 1
        try libOS.waitAll(Array(tokens.dropFirst())) { _ in count += 1 }
        #expect(count == 50)
        let next = try libOS.timer(after: .nanoseconds(1))
        #expect(Outcome(try libOS.waitAny([next])).token == next)
    }
}
