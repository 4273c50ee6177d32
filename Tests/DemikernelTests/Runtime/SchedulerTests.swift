import Testing
@testable import Demikernel

@Suite struct SchedulerTests {
    /// What the scheduler promises of its background tasks, by arrays.
    private struct Model {
        /// Each task's waker; nil once it has ended.
        var live: [Int: Waker] = [:]
        var ready: [Int] = []

        mutating func wake(_ task: Int) {
            if live[task] != nil, !ready.contains(task) { ready.append(task) }
        }
    }

    /// A background task that does nothing by itself; the model says what it answers.
    private static var idle: BackgroundTask {
        unsafe .foreign(ForeignTask(poll: { _, _ in PollResult.blocked.rawValue }, context: nil))
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `a random history agrees with a queue of ready tasks`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var scheduler = try Scheduler(applicationCapacity: 64)
        var model = Model()
        var dead: [Waker] = []
        var names: [Int: Int] = [:]
        for step in 0..<4_000 {
            switch Int.random(in: 0..<10, using: &generator) {
            case 0 where model.live.count < 30:
                model.live[step] = try required(scheduler.spawn(Self.idle))
                model.wake(step)
                names[step] = step
            case 1:
                guard let task = model.live.keys.sorted().randomElement(using: &generator), let waker = model.live[task] else { continue }
                scheduler.end(waker)
                model.live[task] = nil
                model.ready.removeAll { $0 == task }
                dead.append(waker)
            case 2...5:
                guard let task = model.live.keys.sorted().randomElement(using: &generator), let waker = model.live[task] else { continue }
                scheduler.wake(background: waker)
                model.wake(task)
            case 6:
                // Whoever holds the waker of a task that has ended wakes nobody, also not the slot's next tenant.
                guard let waker = dead.randomElement(using: &generator) else { continue }
                if Bool.random(using: &generator) { scheduler.wake(background: waker) } else { scheduler.end(waker) }
            default:
                guard let waker = scheduler.nextBackground() else {
                    #expect(model.ready.isEmpty)
                    continue
                }
                // A task in the slot of one that ended while it was ready takes over its place: earlier than its own, never later.
                let task = try #require(model.live.first { $0.value == waker }?.key)
                #expect(model.ready.contains(task))
                model.ready.removeAll { $0 == task }
                switch Int.random(in: 0..<3, using: &generator) {
                case 0: scheduler.polled(waker, .blocked)
                case 1:
                    scheduler.polled(waker, .ready)
                    model.wake(task)
                default:
                    scheduler.polled(waker, .finished)
                    model.live[task] = nil
                    dead.append(waker)
                }
            }
            #expect(scheduler.backgroundReadyCount >= model.ready.count)
            #expect(scheduler.backgroundReadyCount <= Scheduler.backgroundCapacity)
        }
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func `tasks that live on run in the order in which they became ready`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var scheduler = try Scheduler(applicationCapacity: 64)
        var model = Model()
        for task in 0..<50 {
            model.live[task] = try required(scheduler.spawn(Self.idle))
            model.wake(task)
        }
        for _ in 0..<5_000 {
            if Bool.random(using: &generator) {
                let task = Int.random(in: 0..<50, using: &generator)
                scheduler.wake(background: try #require(model.live[task]))
                model.wake(task)
            } else {
                let waker = scheduler.nextBackground()
                #expect(waker == model.ready.first.flatMap { model.live[$0] })
                guard let waker else { continue }
                let task = model.ready.removeFirst()
                let again = Bool.random(using: &generator)
                scheduler.polled(waker, again ? .ready : .blocked)
                if again { model.wake(task) }
            }
            #expect(scheduler.backgroundReadyCount == model.ready.count)
        }
    }

    @Test func `one task more than there is room for is refused, and a place that becomes free is taken`() throws {
        var scheduler = try Scheduler(applicationCapacity: 64)
        var wakers: [Waker] = []
        for _ in 0..<Scheduler.backgroundCapacity { wakers.append(try required(scheduler.spawn(Self.idle))) }
        #expect(scheduler.spawn(Self.idle) == nil)
        #expect(scheduler.backgroundReadyCount == Scheduler.backgroundCapacity)
        // Tasks that end while they are ready, and others in their slots, do not make the ring grow.
        for round in 0..<3 {
            for position in wakers.indices where position % 3 == round {
                scheduler.end(wakers[position])
                wakers[position] = try required(scheduler.spawn(Self.idle))
                scheduler.wake(background: wakers[position])
            }
            #expect(scheduler.backgroundReadyCount == Scheduler.backgroundCapacity)
        }
        var seen = 0
        while scheduler.nextBackground() != nil { seen += 1 }
        #expect(seen == Scheduler.backgroundCapacity)
    }

    @Test func `the ended do nothing`() throws {
        var scheduler = try Scheduler(applicationCapacity: 64)
        let first = try required(scheduler.spawn(Self.idle))
        #expect(scheduler.nextBackground() == first)
        scheduler.polled(first, .finished)
        scheduler.wake(background: first)
        scheduler.end(first)
        #expect(scheduler.nextBackground() == nil)
        let second = try required(scheduler.spawn(Self.idle))
        #expect(second != first)
        #expect(scheduler.nextBackground() == second)
        scheduler.wake(background: first)
        scheduler.end(first)
        #expect(scheduler.nextBackground() == nil)
        scheduler.wake(background: second)
        #expect(scheduler.nextBackground() == second)
    }
}

/// Foreign tasks as the core polls them.
@Suite struct ForeignTaskTests {
    /// What a foreign task sees and answers.
    ///
    /// Invariant: `address` is this object's own memory, for as long as it lives.
    private final class Probe {
        var polls: [UInt64] = []
        var answers: [UInt8]
        init(_ answers: [PollResult]) { self.answers = answers.map(\.rawValue) }
        init(raw answers: [UInt8]) { self.answers = answers }

        var task: BackgroundTask {
            unsafe .foreign(
                ForeignTask(
                    poll: { context, now in
                        guard let context = unsafe context else { return 255 }
                        let probe = unsafe Unmanaged<Probe>.fromOpaque(context).takeUnretainedValue()
                        probe.polls.append(now)
                        return probe.answers.isEmpty ? PollResult.blocked.rawValue : probe.answers.removeFirst()
                    },
                    context: Unmanaged.passUnretained(self).toOpaque()))
        }
    }

    @Test func `a foreign task is polled with its context and the time until it blocks`() throws {
        let libOS = try smallLibOS(clock: .manual(start: 1_000))
        let probe = Probe([.ready, .ready, .blocked, .ready])
        let waker = try required(libOS.core.scheduler.spawn(probe.task))
        for _ in 0..<10 {
            libOS.core.idleTurn()
            libOS.core.clock.advance(by: 1)
        }
        #expect(probe.polls.count == 3)
        #expect(probe.polls == probe.polls.sorted())
        #expect(probe.polls.first == 1_001)
        libOS.core.scheduler.wake(background: waker)
        for _ in 0..<4 { libOS.core.idleTurn() }
        #expect(probe.polls.count == 5)
    }

    @Test func `a foreign task that finishes is not polled again`() throws {
        let libOS = try smallLibOS()
        let probe = Probe([.finished])
        let waker = try required(libOS.core.scheduler.spawn(probe.task))
        for _ in 0..<6 { libOS.core.idleTurn() }
        libOS.core.scheduler.wake(background: waker)
        for _ in 0..<6 { libOS.core.idleTurn() }
        #expect(probe.polls.count == 1)
    }

    @Test func `an answer that is none ends the task`() throws {
        let libOS = try smallLibOS()
        let probe = Probe(raw: [0xee])
        let waker = try required(libOS.core.scheduler.spawn(probe.task))
        for _ in 0..<4 { libOS.core.idleTurn() }
        libOS.core.scheduler.wake(background: waker)
        for _ in 0..<4 { libOS.core.idleTurn() }
        #expect(probe.polls.count == 1)
    }

    @Test func `the fast path and the background tasks take turns`() throws {
        let libOS = try smallLibOS()
        let probes = (0..<3).map { _ in Probe(Array(repeating: .ready, count: 100)) }
        for probe in probes { _ = try required(libOS.core.scheduler.spawn(probe.task)) }
        for _ in 0..<40 { libOS.core.idleTurn() }
        #expect(probes.map(\.polls.count) == [10, 10, 10])
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(20)), .forever])
    func `a wait polls a task that is ready however long it spins`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let probe = Probe(Array(repeating: .ready, count: 500))
        _ = try required(libOS.core.scheduler.spawn(probe.task))
        let token = try libOS.timer(after: .milliseconds(20))
        expectError(.timedOut) { _ = try libOS.wait(token, timeout: .milliseconds(1)) }
        #expect(probe.polls.count > 0)
        #expect(Outcome(try libOS.wait(token)).token == token)
    }
}
