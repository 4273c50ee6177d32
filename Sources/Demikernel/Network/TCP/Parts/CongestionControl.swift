/// What an acknowledgement of new data tells congestion control. Times are in ns.
package struct CongestionSample: BitwiseCopyable, Sendable {
    /// Bytes by which SND.UNA moved, or that were delivered.
    package var acknowledged: UInt32
    /// SND.UNA, moved already, and SND.NXT.
    package var acknowledgement: SequenceNumber
    package var next: SequenceNumber
    /// The latest round trip that this acknowledgement measured; 0 for none.
    package var roundTrip: UInt64
    /// SRTT.
    package var smoothed: UInt64
    /// ECE was set.
    package var isEchoed: Bool
    package var now: UInt64

    @inline(__always)
    package init(
        acknowledged: UInt32, acknowledgement: SequenceNumber, next: SequenceNumber, roundTrip: UInt64, smoothed: UInt64, isEchoed: Bool = false,
        now: UInt64
    ) {
        self.acknowledged = acknowledged
        self.acknowledgement = acknowledgement
        self.next = next
        self.roundTrip = roundTrip
        self.smoothed = smoothed
        self.isEchoed = isEchoed
        self.now = now
    }
}

/// The congestion window of a connection and what moves it: slow start, window validation, one reduction per round trip and its undoing are
/// here; how the window grows beyond slow start, and by how much it shrinks, is the algorithm's (``CongestionAlgorithm``).
///
/// 64 bytes, plain data. An idle or application-limited connection's window neither grows nor stays for ever: RFC 5681, section 4.1; RFC 7661
/// in its rule that only a window which was used may grow.
///
/// | it happens | call |
/// |---|---|
/// | the handshake is over | ``start(segmentSize:initialSegments:hadTimeout:)`` |
/// | something was sent | ``noteSent(inNetwork:)`` |
/// | new data is acknowledged, outside of recovery too | ``acknowledged(_:isRecovering:)`` |
/// | ECE is set | ``echoed(flight:acknowledgement:next:now:)`` |
/// | a loss begins a recovery | ``lossDetected(flight:now:)``, then the window is PRR's, ``setWindow(_:)``; at the end ``recovered()`` |
/// | the retransmission timer goes off | ``timedOut(flight:isFirst:now:)`` |
/// | that was for nothing | ``undo()`` |
/// | something is to be sent after silence | ``afterIdle(now:timeout:)`` |
package struct CongestionControl: BitwiseCopyable, Sendable {
    /// Which algorithm a connection uses.
    package enum Algorithm: UInt8, BitwiseCopyable, Sendable, CaseIterable {
        /// RFC 9438.
        case cubic
        /// RFC 5681, RFC 6582.
        case newReno
        /// RFC 8257: for data centres whose switches mark early; negotiates ECN.
        case dctcp
    }

    private enum Variant: BitwiseCopyable, Sendable {
        case cubic(Cubic)
        case newReno(NewReno)
        case dctcp(DCTCP)
    }

    /// What is only needed before the first reduction, or only after one.
    private enum Phase: BitwiseCopyable, Sendable {
        case initial(HyStart)
        case reduced(CongestionSnapshot)
        case settled
    }

    private struct Flags: OptionSet, BitwiseCopyable, Sendable {
        let rawValue: UInt8
        /// The window was used up in the round trip that runs, or in the one before.
        static var limited: Flags { Flags(rawValue: 1) }
        static var limitedBefore: Flags { Flags(rawValue: 2) }
        /// Reduced for a mark in the round trip that runs: not again. RFC 3168, section 6.1.2.
        static var hasReduced: Flags { Flags(rawValue: 4) }
        /// Slow start after a timeout: one segment for one acknowledged. RFC 3465, section 2.3.
        static var afterTimeout: Flags { Flags(rawValue: 8) }
        /// Every acknowledgement counts, for marks are: DCTCP.
        static var countsMarks: Flags { Flags(rawValue: 32) }
        /// `roundEnd` means something.
        static var hasRound: Flags { Flags(rawValue: 16) }
    }

    private var common = CongestionWindow()
    private var initialSegments: UInt8 = 10
    private var flags: Flags = []
    private var roundEnd = SequenceNumber(0)
    /// When the last acknowledgement came, in units of 2²⁰ ns.
    private var lastActivity: UInt32 = 0
    private var phase = Phase.initial(HyStart())
    private var variant: Variant

    /// Windows are at most this: RFC 7323, section 2.3.
    static var windowMaximum: UInt32 { 1 << 30 }

    package init(_ algorithm: Algorithm) {
        switch algorithm {
        case .cubic: variant = .cubic(Cubic())
        case .newReno: variant = .newReno(NewReno())
        case .dctcp:
            variant = .dctcp(DCTCP())
            flags = .countsMarks
        }
    }

    // MARK: Looking

    /// cwnd in bytes.
    @inline(__always) package var window: Int { Int(common.window) }
    /// ssthresh in bytes; very large before the first reduction.
    @inline(__always) package var slowStartThreshold: Int { Int(common.threshold) }
    @inline(__always) package var isInSlowStart: Bool { common.window < common.threshold }
    package var algorithm: Algorithm {
        switch variant {
        case .cubic: .cubic
        case .newReno: .newReno
        case .dctcp: .dctcp
        }
    }
    /// DCTCP.Alpha as a fraction of 2²⁰; nil with other algorithms.
    package var markedFraction: UInt32? { if case .dctcp(let state) = variant { state.alpha } else { nil } }

    // MARK: Beginning, and beginning again

    /// IW: `min (10·MSS, max (2·MSS, 14,600))` for ten segments (RFC 6928, section 2), one segment where the SYN was lost (RFC 5681, section 3.1).
    package mutating func start(segmentSize: Int, initialSegments: Int = 10, hadTimeout: Bool = false) {
        common.segmentSize = UInt16(clamping: max(1, segmentSize))
        self.initialSegments = UInt8(clamping: max(1, initialSegments))
        common.window = hadTimeout ? common.segment : initialWindow
    }

    private var initialWindow: UInt32 {
        let segments = UInt32(initialSegments)
        return min(segments &* common.segment, max(2 &* common.segment, segments &* 1_460))
    }

    /// The path's segment size has changed: what is counted in segments is so from now on. RFC 8201, section 5.3 leaves the window as it is.
    package mutating func setSegmentSize(_ segmentSize: Int) {
        common.segmentSize = UInt16(clamping: max(1, segmentSize))
        common.window = max(common.window, common.segment)
    }

    /// Whether ``afterIdle(now:timeout:)`` has nothing to do: within 2 ms nothing is silent, whatever the timeout comes to.
    @inline(__always) package func isActive(_ now: UInt64) -> Bool { UInt32(truncatingIfNeeded: now &>> 20) &- lastActivity <= 1 }

    /// Data is to be sent while nothing is out: after more than a timeout of silence the window is a new connection's at most. RFC 5681,
    /// section 4.1.
    @inline(__always)
    package mutating func afterIdle(now: UInt64, timeout: @autoclosure () -> UInt64) {
        if isActive(now) { return }
        let silence = UInt32(truncatingIfNeeded: now &>> 20) &- lastActivity
        if UInt64(silence) > timeout() &>> 20 { restart(silence) }
    }

    @inline(never)
    private mutating func restart(_ silence: UInt32) {
        common.window = min(common.window, initialWindow)
        lastActivity &+= silence
        switch variant {
        case .cubic(var state):
            state.passed(idle: silence)
            variant = .cubic(state)
        case .newReno, .dctcp: break
        }
    }

    // MARK: Sending

    /// Notes how much is in the network after sending, for only a window that is used may grow. RFC 7661, section 4.1; RFC 5681, section 3.1.
    @inline(__always)
    package mutating func noteSent(inNetwork: UInt32) {
        // In slow start half of the window is enough, since it doubles meanwhile.
        let used = isInSlowStart ? inNetwork &* 2 : inNetwork &+ 2 &* common.segment
        if used >= common.window { flags.insert(.limited) }
    }

    // MARK: Acknowledgements

    /// New data is acknowledged outside of recovery, without ECE: true where that was all there is to note, because the window is not used up and
    /// so does not grow. False, and nothing noted: call ``acknowledged(_:isRecovering:)``.
    @inline(__always)
    package mutating func acknowledgedUnlimited(now: UInt64) -> Bool {
        guard flags.isDisjoint(with: [.limited, .limitedBefore, .hasRound, .countsMarks]) else { return endUnlimitedRound(now) }
        return UInt32(truncatingIfNeeded: now &>> 20) == lastActivity
    }

    /// The round trip in which the window was last used up is not watched to its end: the next one begins with the next limit.
    @inline(never)
    private mutating func endUnlimitedRound(_ now: UInt64) -> Bool {
        guard flags.isDisjoint(with: [.limited, .limitedBefore, .hasReduced, .countsMarks]), UInt32(truncatingIfNeeded: now &>> 20) == lastActivity
        else { return false }
        if case .initial(let start) = phase {
            if start.isConservative { return false }
            // Round trips of rounds in which the window did not grow are no measure of the rounds in which it does.
            phase = .initial(HyStart())
        }
        flags.remove(.hasRound)
        return true
    }

    /// New data is acknowledged: the window grows, unless it was not used or `isRecovering` (fast recovery, where PRR has it).
    @inline(__always)
    package mutating func acknowledged(_ sample: CongestionSample, isRecovering: Bool) {
        let clock = UInt32(truncatingIfNeeded: sample.now &>> 20)
        if case .dctcp(var state) = variant {
            state.count(sample)
            variant = .dctcp(state)
        }
        let roundHasEnded = !flags.contains(.hasRound) || sample.acknowledgement >= roundEnd
        if roundHasEnded { beginRound(sample) }
        var divisor: UInt32 = 1
        if case .initial(let start) = phase { divisor = watch(start, sample, roundHasEnded) }
        // RFC 3168, section 6.1.2: no growth with an acknowledgement that echoes a mark.
        if isRecovering || sample.acknowledged == 0 || sample.isEchoed {
            lastActivity = clock
        } else if flags.isDisjoint(with: [.limited, .limitedBefore]) {
            if case .cubic(var state) = variant {
                state.passed(idle: clock &- lastActivity)
                variant = .cubic(state)
            }
            lastActivity = clock
        } else {
            lastActivity = clock
            grow(sample, divisor)
        }
    }

    private mutating func beginRound(_ sample: CongestionSample) {
        roundEnd = sample.next
        let limited = flags.contains(.limited)
        flags.remove([.limited, .limitedBefore, .hasReduced])
        flags.insert(.hasRound)
        if limited { flags.insert(.limitedBefore) }
        if case .dctcp(var state) = variant {
            state.endWindow()
            variant = .dctcp(state)
        }
    }

    /// HyStart++ sees every acknowledgement of the first slow start; answers what growth is divided by.
    private mutating func watch(_ start: HyStart, _ sample: CongestionSample, _ roundHasEnded: Bool) -> UInt32 {
        if case .dctcp = variant { return 1 }
        var start = start
        let divisor = start.acknowledged(roundTrip: sample.roundTrip, roundHasEnded: roundHasEnded)
        phase = start.isOver ? .settled : .initial(start)
        if start.isOver { common.threshold = common.window }
        return divisor
    }

    private mutating func grow(_ sample: CongestionSample, _ divisor: UInt32) {
        var sample = sample
        if common.window < common.threshold {
            // Appropriate byte counting: RFC 3465, section 2.2; its limit is RFC 9406's, section 4.3, and one after a timeout.
            let limit = flags.contains(.afterTimeout) ? common.segment : limitOfGrowth
            let growth = min(sample.acknowledged, limit) / divisor
            let room = common.threshold &- common.window
            if growth < room {
                common.grow(by: max(growth, 1))
                return
            }
            common.window = common.threshold
            flags.remove(.afterTimeout)
            sample.acknowledged = growth &- room
            if sample.acknowledged == 0 { return }
        }
        avoid(sample)
    }

    /// L: what one acknowledgement adds at most in slow start.
    private var limitOfGrowth: UInt32 {
        if case .newReno = variant { return 2 &* common.segment }
        return 8 &* common.segment
    }

    private mutating func avoid(_ sample: CongestionSample) {
        switch variant {
        case .cubic(var state):
            state.avoid(sample, &common, snapshot)
            variant = .cubic(state)
        case .newReno(var state):
            state.avoid(sample, &common, snapshot)
            variant = .newReno(state)
        case .dctcp(var state):
            state.avoid(sample, &common, snapshot)
            variant = .dctcp(state)
        }
    }

    // MARK: Congestion

    private var snapshot: CongestionSnapshot? { if case .reduced(let snapshot) = phase { snapshot } else { nil } }

    /// Remembers the state for ``undo()`` and has the algorithm set the threshold.
    private mutating func reduce(_ cause: CongestionCause, flight: UInt32, _ now: UInt64) {
        let window = common.window
        let threshold = common.threshold
        var maximum: UInt32 = 0
        switch variant {
        case .cubic(var state):
            maximum = state.maximum
            common.threshold = state.reduce(cause, flight: flight, common, now: now)
            variant = .cubic(state)
        case .newReno(var state):
            common.threshold = state.reduce(cause, flight: flight, common, now: now)
            variant = .newReno(state)
        case .dctcp(var state):
            common.threshold = state.reduce(cause, flight: flight, common, now: now)
            variant = .dctcp(state)
        }
        // RFC 5681, equation 4.
        common.threshold = min(max(common.threshold, 2 &* common.segment), Self.windowMaximum)
        phase = .reduced(CongestionSnapshot(window: window, threshold: threshold, maximum: maximum))
    }

    /// A loss begins a recovery: sets the threshold. The window is PRR's from now on. `flight` is SND.NXT - SND.UNA. The acknowledgement that
    /// told of the loss has gone to ``acknowledged(_:isRecovering:)`` before.
    package mutating func lossDetected(flight: UInt32, now: UInt64) {
        // A mark in the same round trip was the same congestion. RFC 3168, section 6.1.2.
        if flags.contains(.hasReduced) { return }
        reduce(.loss, flight: flight, now)
    }

    /// An acknowledgement with ECE, outside of recovery: true where the window was reduced, so that CWR is to be sent. At most once a round
    /// trip: RFC 3168, section 6.1.2; RFC 8257, section 3.3. Called after ``acknowledged(_:isRecovering:)``, whose window does not grow then.
    package mutating func echoed(flight: UInt32, acknowledgement: SequenceNumber, next: SequenceNumber, now: UInt64) -> Bool {
        if flags.contains(.hasReduced), acknowledgement < roundEnd { return false }
        reduce(.mark, flight: flight, now)
        common.window = min(common.window, common.threshold)
        flags.insert(.hasReduced)
        // RFC 8257's window goes on: its marks are to be counted.
        if case .dctcp = variant { return true }
        roundEnd = next
        flags.insert(.hasRound)
        return true
    }

    /// The retransmission timer has gone off: one segment. `isFirst` is false where it is a repeated timeout of the same data, which leaves
    /// the threshold as it is. RFC 5681, section 3.1.
    package mutating func timedOut(flight: UInt32, isFirst: Bool, now: UInt64) {
        if isFirst { reduce(.timeout, flight: flight, now) }
        common.window = common.segment
        flags.insert([.afterTimeout, .limited])
    }

    /// The window in fast recovery: what PRR lets be in the network.
    @inline(__always) package mutating func setWindow(_ window: UInt32) {
        common.window = min(max(window, common.segment), Self.windowMaximum)
    }

    /// Fast recovery is over: RFC 6937; RFC 6582, section 3.2, step 3. The window stays where it is if the reduction was undone meanwhile.
    package mutating func recovered() {
        if case .reduced = phase { common.window = max(common.threshold, common.segment) }
    }

    /// The last reduction was for nothing (a D-SACK or a timestamp says so): RFC 3522, RFC 4015, RFC 5682; RFC 9438, section 4.9.
    package mutating func undo() {
        guard case .reduced(let before) = phase else { return }
        common.window = max(common.window, before.window)
        common.threshold = max(common.threshold, before.threshold)
        flags.remove([.afterTimeout, .hasReduced])
        if case .cubic(var state) = variant {
            state.undo(before)
            variant = .cubic(state)
        }
        phase = .settled
    }
}
