import CDemikernelShims
import Glibc

/// Monotonic time in nanoseconds, cheap enough to be read once per turn of the scheduler.
///
/// Counts from the start of CLOCK_MONOTONIC, so that the clocks of two threads and the kernel's own agree to within microseconds. A read of the
/// time-stamp counter costs one multiplication more than the counter itself; the counter's rate is measured against CLOCK_MONOTONIC at
/// creation and again at growing intervals, up to a second. A difference found then is made up for by running slightly faster or slower
/// until the next measurement, so time neither jumps nor runs backwards.
package struct Clock: ~Copyable {
    /// Where the time is to come from.
    package enum Policy: Sendable, Equatable {
        /// The time-stamp counter where it can be trusted, CLOCK_MONOTONIC elsewhere.
        case preferTimestampCounter
        /// CLOCK_MONOTONIC by a (vDSO) call for every read.
        case system
        /// A time that moves only by `advance(by:)` and `set(_:)`, for tests. Starts at the given nanoseconds.
        case manual(start: UInt64)
    }

    /// Where the time does come from.
    package enum Source: Sendable, Equatable {
        case timestampCounter
        case system
        case manual
    }

    package let source: Source
    private var scale: CounterScale
    /// Moves by hand only.
    private var manualTime: UInt64 = 0

    /// How long the counter is first measured; the start-up time of the library bounds it.
    private static var calibrationNanoseconds: UInt64 { 200_000 }

    /// Creates a clock. Takes about a fifth of a millisecond where the time-stamp counter is to be measured.
    package init(_ policy: Policy = .preferTimestampCounter) {
        var scale = CounterScale()
        switch policy {
        case .manual(let start):
            source = .manual
            manualTime = start
        case .preferTimestampCounter where Self.canTrustTimestampCounter():
            source = .timestampCounter
            let first = Self.read()
            while Self.monotonic() &- first.monotonic < Self.calibrationNanoseconds { dk_pause() }
            scale = CounterScale(from: first, to: Self.read())
        case .preferTimestampCounter, .system:
            source = .system
        }
        self.scale = scale
    }

    /// The time in nanoseconds; never less than the last answer.
    ///
    /// - Complexity: O(1). No system call for the time-stamp counter, except a vDSO measurement at most once a second.
    @inline(__always)
    package mutating func now() -> UInt64 {
        guard source == .timestampCounter else { return slowNow() }
        return scale.time(at: dk_timestamp_counter()) ?? measure()
    }

    /// Moves a manual clock on, to `UInt64.max` at most. Other clocks ignore it.
    package mutating func advance(by nanoseconds: UInt64) {
        set(Self.deadline(after: nanoseconds, from: manualTime))
    }

    /// Sets a manual clock. A time before the present one is ignored, as time does not run backwards; other clocks ignore any.
    package mutating func set(_ nanoseconds: UInt64) {
        guard source == .manual else { return }
        manualTime = max(manualTime, nanoseconds)
    }

    @inline(never)
    private func slowNow() -> UInt64 { source == .manual ? manualTime : Self.monotonic() }

    @inline(never)
    private mutating func measure() -> UInt64 { scale.measure(Self.read()) }

    /// Reads CLOCK_MONOTONIC between two readings of the counter, a few times, and keeps the tightest, so that an interruption in between
    /// is outvoted.
    private static func read() -> CounterScale.Reading {
        var best = CounterScale.Reading(ticks: 0, monotonic: 0)
        var bestWidth = UInt64.max
        for _ in 0..<5 {
            let before = dk_timestamp_counter()
            let monotonic = Self.monotonic()
            let width = dk_timestamp_counter() &- before
            if width < bestWidth {
                bestWidth = width
                best = CounterScale.Reading(ticks: before &+ width / 2, monotonic: monotonic)
            }
        }
        return best
    }

    /// CLOCK_MONOTONIC; it cannot fail, as the clock exists and the address is good.
    private static func monotonic() -> UInt64 {
        var time = timespec()
        let status = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        assert(status == 0)
        return UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: time.tv_nsec)
    }

    /// Whether the counter runs at one rate, on all cores alike: the processor promises the first, the kernel watches over the second.
    private static func canTrustTimestampCounter() -> Bool {
        guard dk_timestamp_counter_is_invariant() != 0 else { return false }
        let file = unsafe open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return false }
        defer { _ = close(file) }
        var name: (UInt8, UInt8, UInt8, UInt8) = (0, 0, 0, 0)
        guard unsafe Glibc.read(file, &name, 4) == 4 else { return false }
        #if arch(arm64)
            return name == (0x61, 0x72, 0x63, 0x68)  // "arch_sys_counter"
        #else
            return name == (0x74, 0x73, 0x63, 0x0A)  // "tsc", whole
        #endif
    }
}

/// What a time-stamp counter's ticks are worth: a straight line from the last measurement, corrected at each.
///
/// Pure: the readings come from outside, so that tests can drive it with any counter.
package struct CounterScale: BitwiseCopyable {
    /// The counter and CLOCK_MONOTONIC at one moment.
    package struct Reading: BitwiseCopyable {
        package var ticks: UInt64
        package var monotonic: UInt64

        package init(ticks: UInt64, monotonic: UInt64) {
            self.ticks = ticks
            self.monotonic = monotonic
        }
    }

    /// The last measurement, and what we answered at that moment.
    private var anchor = Reading(ticks: 0, monotonic: 0)
    private var anchorTime: UInt64 = 0
    /// Nanoseconds per tick, times 2³²: as measured, and as we run to make up for a difference.
    private var measuredRate: UInt64 = 0
    private var rate: UInt64 = 0
    /// When the next measurement is due, counted from the anchor.
    private var horizonTicks: UInt64 = 0
    private var horizonNanoseconds: UInt64 = 0

    private static var firstHorizonNanoseconds: UInt64 { 2_000_000 }
    /// Twice this many nanoseconds times 2³² still fit into 64 bits.
    private static var lastHorizonNanoseconds: UInt64 { 1_000_000_000 }
    /// We lag by more only where the machine stood still; that is not made up for slowly.
    private static var stepNanoseconds: UInt64 { 1_000_000 }

    /// A scale that needs a measurement at once.
    package init() {}

    /// A scale measured between two readings.
    package init(from first: Reading, to second: Reading) {
        measuredRate = Self.rate(from: first, to: second) ?? 0
        begin(at: second, time: second.monotonic, horizon: Self.firstHorizonNanoseconds)
    }

    /// The time at a reading of the counter; nil where a measurement is due.
    @inline(__always)
    package func time(at ticks: UInt64) -> UInt64? {
        let elapsed = ticks &- anchor.ticks
        return elapsed < horizonTicks ? anchorTime &+ (elapsed &* rate) &>> 32 : nil
    }

    /// Takes a measurement and answers the time at it: not before any answer given so far, and CLOCK_MONOTONIC's to within what the next
    /// stretch makes up for.
    package mutating func measure(_ moment: Reading) -> UInt64 {
        // A counter that was reset shows as a huge number.
        let elapsed = moment.ticks &- anchor.ticks
        let isPrompt = elapsed < 2 &* horizonTicks
        // Across a long silence the counter may have run where CLOCK_MONOTONIC stood still (suspension), or have been reset.
        if let fresh = Self.rate(from: anchor, to: moment), isPrompt || measuredRate == 0 || Self.agree(fresh, measuredRate) {
            measuredRate = fresh
        }
        // No answer was later than the end of the stretch, or than this line where it was prompt.
        var time = anchorTime &+ ((isPrompt ? elapsed : horizonTicks) &* rate) &>> 32
        if moment.monotonic > time, !isPrompt || moment.monotonic &- time > Self.stepNanoseconds { time = moment.monotonic }
        begin(at: moment, time: time, horizon: min(max(horizonNanoseconds &* 4, Self.firstHorizonNanoseconds), Self.lastHorizonNanoseconds))
        return time
    }

    /// Starts a stretch at whose end we meet CLOCK_MONOTONIC.
    private mutating func begin(at moment: Reading, time: UInt64, horizon: UInt64) {
        anchor = moment
        anchorTime = time
        horizonNanoseconds = horizon
        // At most half of the stretch is made up for, so that time keeps moving.
        let limit = Int64(horizon / 2)
        let difference = max(-limit, min(limit, Int64(truncatingIfNeeded: moment.monotonic &- time)))
        rate = UInt64(Double(measuredRate) * (1 + Double(difference) / Double(horizon)))
        // Without a rate every read measures.
        horizonTicks = measuredRate == 0 ? 0 : UInt64(Double(horizon) * 0x1p32 / Double(measuredRate))
    }

    /// Nanoseconds per tick times 2³²; nil where a clock did not move, or the quotient does not fit the arithmetic of `time(at:)`.
    private static func rate(from first: Reading, to second: Reading) -> UInt64? {
        guard second.ticks > first.ticks, second.monotonic > first.monotonic else { return nil }
        let rate = Double(second.monotonic &- first.monotonic) / Double(second.ticks &- first.ticks) * 0x1p32
        // From 2²⁰ GHz down to 1 MHz: no counter is outside.
        return rate >= 0x1p12 && rate < 0x1p42 ? UInt64(rate) : nil
    }

    /// Whether two rates are within a thousandth of each other.
    private static func agree(_ left: UInt64, _ right: UInt64) -> Bool {
        max(left, right) &- min(left, right) <= right / 1000
    }
}

// MARK: - Spans of time from outside

extension Clock {
    /// The nanoseconds of a span: none for a negative one, `UInt64.max` (five centuries: for ever) for one that does not fit.
    static func nanoseconds(_ span: timespec) -> UInt64 {
        nanoseconds(seconds: Int64(span.tv_sec), rest: Int64(span.tv_nsec))
    }

    /// The nanoseconds of a span, rounded down: none for a negative one, `UInt64.max` for one that does not fit.
    package static func nanoseconds(_ span: Duration) -> UInt64 {
        let (seconds, attoseconds) = span.components
        return nanoseconds(seconds: seconds, rest: attoseconds / 1_000_000_000)
    }

    /// The time `nanoseconds` after `now`; `UInt64.max` (for ever) where that does not fit.
    @inline(__always)
    package static func deadline(after nanoseconds: UInt64, from now: UInt64) -> UInt64 {
        let (sum, overflow) = now.addingReportingOverflow(nanoseconds)
        return overflow ? .max : sum
    }

    /// `rest` may be any number, also one of the other sign or above a second.
    private static func nanoseconds(seconds: Int64, rest: Int64) -> UInt64 {
        // The widest sum is 2^63 seconds, which 128 bits hold.
        let total = Int128(seconds) * 1_000_000_000 + Int128(rest)
        return UInt64(clamping: total)
    }
}
