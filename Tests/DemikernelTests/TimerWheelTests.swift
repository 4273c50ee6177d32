import Testing
@testable import Demikernel

@Suite struct TimerWheelTests {
    private struct Timer {
        let deadline: UInt64
        let identity: Int
        let key: TimerKey
    }

    /// What the wheel must do, by sorting.
    private struct Model {
        private(set) var timers: [Timer] = []

        mutating func insert(_ timer: Timer) {
            let index = timers.firstIndex { $0.deadline > timer.deadline } ?? timers.count
            timers.insert(timer, at: index)
        }
        mutating func remove(at index: Int) -> Timer { timers.remove(at: index) }
        mutating func popExpired(now: UInt64) -> Int? {
            guard let first = timers.first, first.deadline <= now else { return nil }
            return timers.removeFirst().identity
        }
    }

    /// From nanoseconds to hours, every order of magnitude alike.
    private static func span(using generator: inout SplitMix64) -> UInt64 {
        let bits = UInt64.random(in: 0...44, using: &generator)
        return UInt64.random(in: 0...(1 << bits), using: &generator)
    }

    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `a random history agrees with a sorted array`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var wheel = try TimerWheel<Int>(capacity: 64)
        var model = Model()
        var stale: [TimerKey] = []
        var now: UInt64 = seed == 8 ? .max - (1 << 47) : 0
        var lastPolled: UInt64 = 0
        for identity in 0..<6_000 {
            switch Int.random(in: 0..<10, using: &generator) {
            case 0...4:
                let past = Int.random(in: 0..<20, using: &generator) == 0
                let span = Self.span(using: &generator)
                let deadline = past ? now &- min(now, span) : now.addingReportingOverflow(span).overflow ? .max : now + span
                let key = wheel.insert(deadline: deadline, payload: identity)
                #expect((key == nil) == (model.timers.count == 64))
                if let key { model.insert(Timer(deadline: max(deadline, lastPolled), identity: identity, key: key)) }
            case 5, 6:
                guard let index = model.timers.indices.randomElement(using: &generator) else { continue }
                let timer = model.remove(at: index)
                #expect(wheel.contains(timer.key) == true)
                #expect(wheel.cancel(timer.key) == true)
                #expect(wheel.cancel(timer.key) == false)
                stale.append(timer.key)
            default:
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: now = wheel.nextDeadline().map { max($0, now) } ?? now
                case 1: now = model.timers.first.map { max($0.deadline, now) } ?? now
                default:
                    let (sum, overflow) = now.addingReportingOverflow(Self.span(using: &generator) >> 2)
                    now = overflow ? .max : sum
                }
                lastPolled = now
                while let expected = model.popExpired(now: now) { #expect(wheel.popExpired(now: now) == expected) }
                #expect(wheel.popExpired(now: now) == nil)
            }
            #expect(wheel.count == model.timers.count)
            #expect(wheel.isEmpty == model.timers.isEmpty)
            if let first = model.timers.first {
                #expect(try required(wheel.nextDeadline()) <= first.deadline)
            } else {
                #expect(wheel.nextDeadline() == nil)
            }
        }
        for key in stale { #expect(wheel.contains(key) == false) }
        while let expected = model.popExpired(now: .max) { #expect(wheel.popExpired(now: .max) == expected) }
        #expect(wheel.popExpired(now: .max) == nil)
        #expect(wheel.isEmpty == true)
    }

    @Test func `a timer fires at its deadline and not a nanosecond before`() throws {
        for deadline in [1, 63, 64, 65, 4095, 4096, 1_000_000, 3_600_000_000_000, UInt64.max] as [UInt64] {
            var wheel = try TimerWheel<UInt64>(capacity: 4)
            _ = wheel.insert(deadline: deadline, payload: deadline)
            #expect(wheel.nextDeadline() == deadline)
            #expect(wheel.popExpired(now: deadline - 1) == nil)
            #expect(wheel.popExpired(now: deadline) == deadline)
            #expect(wheel.popExpired(now: .max) == nil)
        }
    }

    @Test func `a deadline in the past fires at the next call`() throws {
        var wheel = try TimerWheel<Int>(capacity: 4)
        _ = wheel.insert(deadline: 1_000, payload: 1)
        #expect(wheel.popExpired(now: 5_000) == 1)
        #expect(wheel.popExpired(now: 5_000) == nil)
        _ = wheel.insert(deadline: 3_000, payload: 2)
        _ = wheel.insert(deadline: 0, payload: 3)
        #expect(wheel.nextDeadline() == 5_000)
        #expect(wheel.popExpired(now: 5_000) == 2)
        #expect(wheel.popExpired(now: 5_000) == 3)
    }

    @Test func `time does not run backwards`() throws {
        var wheel = try TimerWheel<Int>(capacity: 4)
        #expect(wheel.popExpired(now: 10_000) == nil)
        _ = wheel.insert(deadline: 9_000, payload: 1)
        #expect(wheel.popExpired(now: 100) == 1)
    }

    @Test func `a wake before the deadlines leaves room for an earlier timer`() throws {
        var wheel = try TimerWheel<Int>(capacity: 4)
        let first = try required(wheel.insert(deadline: 1_000_000, payload: 1))
        _ = wheel.insert(deadline: 1_000_900, payload: 2)
        #expect(wheel.cancel(first) == true)
        #expect(wheel.popExpired(now: 1_000_100) == nil)
        #expect(wheel.nextDeadline() == 1_000_900)
        _ = wheel.insert(deadline: 1_000_500, payload: 3)
        #expect(wheel.popExpired(now: 1_000_499) == nil)
        #expect(wheel.popExpired(now: 1_000_500) == 3)
        #expect(wheel.popExpired(now: 1_000_899) == nil)
        #expect(wheel.popExpired(now: 1_000_900) == 2)
    }

    @Test func `equal deadlines fire in the order of insertion, however far they were when inserted`() throws {
        var wheel = try TimerWheel<Int>(capacity: 1_000)
        let deadline: UInt64 = 10_000_000_000
        for index in 0..<100 {
            _ = wheel.insert(deadline: deadline, payload: index)
            // Fires in between, so that the same deadline is hung at a lower level every time.
            let now = deadline - deadline >> UInt64(index / 3)
            _ = wheel.insert(deadline: now, payload: -1)
            _ = wheel.insert(deadline: now, payload: -1)
            #expect(wheel.popExpired(now: now) == -1)
            #expect(wheel.popExpired(now: now) == -1)
        }
        for index in 0..<100 { #expect(wheel.popExpired(now: deadline) == index) }
    }

    @Test(arguments: [true, false])
    func `timers are cancelled in any order`(forwards: Bool) throws {
        var generator = SplitMix64(seed: forwards ? 1 : 2)
        var wheel = try TimerWheel<Int>(capacity: 500)
        var keys = try (0..<500).map { index in
            try required(wheel.insert(deadline: UInt64(index % 7) * 1_000_000 + UInt64(index % 3), payload: index))
        }
        if !forwards { keys.reverse() }
        for key in keys.prefix(100) { #expect(wheel.cancel(key) == true) }
        for key in keys.dropFirst(100).shuffled(using: &generator) { #expect(wheel.cancel(key) == true) }
        #expect(wheel.isEmpty == true)
        #expect(wheel.nextDeadline() == nil)
        #expect(wheel.popExpired(now: .max) == nil)
        for key in keys { #expect(wheel.cancel(key) == false) }
    }

    @Test func `a full wheel refuses and recovers`() throws {
        var wheel = try TimerWheel<Int>(capacity: 2)
        let first = try required(wheel.insert(deadline: 5, payload: 1))
        _ = wheel.insert(deadline: 6, payload: 2)
        #expect(wheel.insert(deadline: 1, payload: 3) == nil)
        #expect(wheel.nextDeadline() == 5)
        #expect(wheel.cancel(first) == true)
        #expect(wheel.insert(deadline: 7, payload: 4) != nil)
        #expect(wheel.popExpired(now: 7) == 2)
        #expect(wheel.popExpired(now: 7) == 4)
    }

    @Test func `the key of a timer that fired is stale, also when its slot is taken again`() throws {
        var wheel = try TimerWheel<Int>(capacity: 1)
        let first = try required(wheel.insert(deadline: 5, payload: 1))
        #expect(wheel.popExpired(now: 5) == 1)
        #expect(wheel.contains(first) == false)
        let second = try required(wheel.insert(deadline: 9, payload: 2))
        #expect(wheel.cancel(first) == false)
        #expect(wheel.contains(second) == true)
        #expect(wheel.cancel(TimerKey(slot: 77, generation: 1)) == false)
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `waking at the next deadline reaches the timer within eleven wakes`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var wheel = try TimerWheel<UInt64>(capacity: 4_096)
        var keys: [TimerKey] = []
        let survivor = UInt64.random(in: (1 << 40)...(1 << 45), using: &generator)
        // Cancelled timers on the way leave early bounds behind in the buckets that the survivor hangs in.
        for bits in 0..<45 as Range<UInt64> {
            for _ in 0..<20 {
                let before = UInt64.random(in: 0...(1 << bits), using: &generator)
                guard before <= survivor, let key = wheel.insert(deadline: survivor - before, payload: 0) else { continue }
                keys.append(key)
            }
        }
        _ = wheel.insert(deadline: survivor, payload: survivor)
        for key in keys { #expect(wheel.cancel(key) == true) }
        var wakes = 0
        var fired: UInt64?
        while fired == nil, let now = wheel.nextDeadline() {
            #expect(now <= survivor)
            fired = wheel.popExpired(now: now)
            wakes += 1
        }
        #expect(fired == survivor)
        #expect(wakes <= 11)
    }

    @Test(arguments: [0, -1, Int(UInt32.max)])
    func `a capacity out of range is refused`(capacity: Int) {
        #expect(throws: DemikernelError(.invalidArgument, "")) { _ = try TimerWheel<Int>(capacity: capacity) }
    }
}
