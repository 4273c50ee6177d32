import Glibc
import Testing
@testable import Demikernel

@Suite struct ClockTests {
    private func monotonic() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return Demikernel.Clock.nanoseconds(time)
    }

    @Test(arguments: [Demikernel.Clock.Policy.preferTimestampCounter, .system])
    func `time does not run backwards in a million reads`(policy: Demikernel.Clock.Policy) {
        var clock = Demikernel.Clock(policy)
        var last = clock.now()
        var steps = 0
        for _ in 0..<1_000_000 {
            let now = clock.now()
            if now < last { steps += 1 }
            last = now
        }
        #expect(steps == 0)
    }

    @Test(arguments: [Demikernel.Clock.Policy.preferTimestampCounter, .system])
    func `the clock keeps to CLOCK_MONOTONIC`(policy: Demikernel.Clock.Policy) {
        var clock = Demikernel.Clock(policy)
        let start = monotonic()
        // The first stretches; the bound is on the tightest of many looks, so that an interruption between the two reads does not count.
        while monotonic() - start < 50_000_000 { _ = clock.now() }
        var least = UInt64.max
        for _ in 0..<100 {
            let before = monotonic()
            let now = clock.now()
            let after = monotonic()
            least = min(least, now < before ? before - now : now > after ? now - after : 0)
        }
        // 50 ppm of 50 ms is 2.5 µs; a loaded machine is allowed the rest.
        #expect(least < 50_000)
    }

    @Test func `the system's clock is the source where it is asked for`() {
        #expect(Demikernel.Clock(.system).source == .system)
        #expect(Demikernel.Clock(.manual(start: 0)).source == .manual)
        #expect(Demikernel.Clock().source != .manual)
    }

    @Test func `a manual clock moves by hand, forwards`() {
        var clock = Demikernel.Clock(.manual(start: 100))
        #expect(clock.now() == 100)
        clock.advance(by: 50)
        #expect(clock.now() == 150)
        clock.set(120)
        #expect(clock.now() == 150)
        clock.set(1_000)
        #expect(clock.now() == 1_000)
        clock.advance(by: .max)
        #expect(clock.now() == .max)
    }

    @Test func `other clocks are not moved by hand`() {
        var clock = Demikernel.Clock(.system)
        clock.advance(by: 1 << 60)
        clock.set(.max)
        #expect(clock.now() < 1 << 60)
    }

    @Test func `spans become nanoseconds, negative ones none, huge ones for ever`() {
        #expect(Demikernel.Clock.nanoseconds(timespec(tv_sec: 2, tv_nsec: 5)) == 2_000_000_005)
        #expect(Demikernel.Clock.nanoseconds(timespec(tv_sec: -1, tv_nsec: 5)) == 0)
        #expect(Demikernel.Clock.nanoseconds(timespec(tv_sec: 0, tv_nsec: -5)) == 0)
        #expect(Demikernel.Clock.nanoseconds(timespec(tv_sec: 1, tv_nsec: -1)) == 999_999_999)
        #expect(Demikernel.Clock.nanoseconds(timespec(tv_sec: .max, tv_nsec: .max)) == .max)
        #expect(Demikernel.Clock.nanoseconds(timespec(tv_sec: .min, tv_nsec: .min)) == 0)
        #expect(Demikernel.Clock.nanoseconds(timespec(tv_sec: 18_446_744_073, tv_nsec: 709_551_615)) == .max)
        #expect(Demikernel.Clock.nanoseconds(timespec(tv_sec: 18_446_744_073, tv_nsec: 709_551_614)) == UInt64.max - 1)
        #expect(Demikernel.Clock.nanoseconds(Duration.microseconds(1_500)) == 1_500_000)
        #expect(Demikernel.Clock.nanoseconds(Duration.zero) == 0)
        #expect(Demikernel.Clock.nanoseconds(Duration(secondsComponent: 0, attosecondsComponent: 999_999_999)) == 0)
        #expect(Demikernel.Clock.nanoseconds(Duration.seconds(-3)) == 0)
        #expect(Demikernel.Clock.nanoseconds(Duration.seconds(Int64.max)) == .max)
        #expect(Demikernel.Clock.nanoseconds(Duration.seconds(Int64.min)) == 0)
        #expect(Demikernel.Clock.deadline(after: 5, from: 10) == 15)
        #expect(Demikernel.Clock.deadline(after: .max, from: 10) == .max)
    }
}

/// The arithmetic alone, with counters that no test machine has.
@Suite struct CounterScaleTests {
    /// A counter of `hertz` beside a CLOCK_MONOTONIC that is read with an error of up to `jitter` nanoseconds.
    private struct World {
        var nanoseconds: Double = 5e12
        var ticks: Double = 7e13
        var hertz: Double
        var jitter: Double
        var generator: SplitMix64

        mutating func pass(_ span: Double) {
            nanoseconds += span
            ticks += span * hertz / 1e9
        }
        mutating func reading() -> CounterScale.Reading {
            let error = jitter == 0 ? 0 : Double.random(in: -jitter...jitter, using: &generator)
            return .init(ticks: UInt64(ticks), monotonic: UInt64(nanoseconds + error))
        }
    }

    private func calibrated(_ world: inout World) -> CounterScale {
        let first = world.reading()
        world.pass(200_000)
        return CounterScale(from: first, to: world.reading())
    }

    @Test(arguments: [24e6, 1e9, 2.5e9, 5e9], [0, 50] as [Double])
    func `time follows CLOCK_MONOTONIC for an hour and never turns`(hertz: Double, jitter: Double) {
        var world = World(hertz: hertz, jitter: jitter, generator: SplitMix64(seed: 3))
        var scale = calibrated(&world)
        var last: UInt64 = 0
        var worst: Double = 0
        var measurements = 0
        let start = world.nanoseconds
        while world.nanoseconds - start < 3600e9 {
            // Busy and idle turns, up to one that sleeps across several measurements.
            world.pass(Double(1 << UInt64.random(in: 4...32, using: &world.generator)))
            // The counter is off by 20 ppm more after half an hour: it grew warm.
            if world.nanoseconds - start > 1800e9 { world.hertz = hertz * 1.00002 }
            var now = scale.time(at: UInt64(world.ticks))
            if now == nil {
                now = scale.measure(world.reading())
                measurements += 1
            }
            #expect(now! >= last)
            last = now!
            if world.nanoseconds - start > 1e9 { worst = max(worst, abs(Double(now!) - world.nanoseconds)) }
        }
        // 50 ppm of a second-long stretch.
        #expect(worst < 50_000)
        #expect(measurements < 3700)
    }

    @Test func `a bad first measurement is mended`() {
        var world = World(hertz: 2.5e9, jitter: 0, generator: SplitMix64(seed: 3))
        let first = world.reading()
        world.pass(200_000)
        world.ticks += 25_000  // the counter ran on while we were held up between the two reads
        var scale = CounterScale(from: first, to: world.reading())
        var last: UInt64 = 0
        for _ in 0..<4_000 {
            world.pass(1_000_000)
            let now = scale.time(at: UInt64(world.ticks)) ?? scale.measure(world.reading())
            #expect(now >= last)
            last = now
        }
        #expect(abs(Double(last) - world.nanoseconds) < 50_000)
    }

    @Test(arguments: [3_600e9, -1_000e9])
    func `a suspension or a reset of the counter does not derail it`(jump: Double) {
        var world = World(hertz: 2.5e9, jitter: 20, generator: SplitMix64(seed: 4))
        var scale = calibrated(&world)
        var last: UInt64 = 0
        for turn in 0..<4_000 {
            world.pass(1_000_000)
            if turn == 2_000 { world.ticks += jump }
            let now = scale.time(at: UInt64(world.ticks)) ?? scale.measure(world.reading())
            #expect(now >= last)
            last = now
            // The first read after a suspension may run ahead by what was left of the stretch; nothing lags.
            #expect(Double(now) - world.nanoseconds > -1_000_000)
        }
        #expect(abs(Double(last) - world.nanoseconds) < 600_000_000)
        for _ in 0..<6_000 {
            world.pass(1_000_000)
            last = scale.time(at: UInt64(world.ticks)) ?? scale.measure(world.reading())
        }
        #expect(abs(Double(last) - world.nanoseconds) < 50_000)
    }

    @Test func `a counter that stands still is measured at every read`() {
        let stuck = CounterScale.Reading(ticks: 5, monotonic: 100)
        var scale = CounterScale(from: stuck, to: .init(ticks: 5, monotonic: 900))
        #expect(scale.time(at: 5) == nil)
        #expect(scale.measure(.init(ticks: 5, monotonic: 1_000)) == 1_000)
        #expect(scale.time(at: 5) == nil)
        #expect(scale.measure(.init(ticks: 5, monotonic: 2_000)) == 2_000)
    }
}
