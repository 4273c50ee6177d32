import Testing
@testable import Demikernel

@Suite struct CongestionControlTests {
    static let algorithms = CongestionControl.Algorithm.allCases
    private static let segment = 1_460
    private static let millisecond: UInt64 = 1_000_000

    /// A path without loss: windows are sent whole and acknowledged two segments at a time, one round trip later.
    private struct Path {
        var control: CongestionControl
        var una = SequenceNumber(.max - 50_000)
        var now: UInt64 = 1 << 40
        var roundTrip: UInt64
        /// How much of the window the application has data for.
        var demand = Int.max

        init(_ algorithm: CongestionControl.Algorithm, roundTrip: UInt64) {
            control = CongestionControl(algorithm)
            control.start(segmentSize: CongestionControlTests.segment)
            self.roundTrip = roundTrip
        }

        /// A round trip: `measured` answers the round trip of each acknowledgement, by its number.
        mutating func round(echoing: Bool = false, measured: (Int) -> UInt64) {
            let flight = min(demand, control.window) / CongestionControlTests.segment * CongestionControlTests.segment
            control.noteSent(inNetwork: UInt32(flight))
            now += roundTrip
            let next = una + flight
            var left = flight
            var number = 0
            while left > 0 {
                let bytes = min(left, 2 * CongestionControlTests.segment)
                una += bytes
                left -= bytes
                control.acknowledged(
                    CongestionSample(
                        acknowledged: UInt32(bytes), acknowledgement: una, next: next + (flight - left), roundTrip: measured(number),
                        smoothed: roundTrip, isEchoed: echoing, now: now),
                    isRecovering: false)
                control.noteSent(inNetwork: UInt32(min(demand, flight)))
                number += 1
            }
        }
        mutating func round() {
            let roundTrip = roundTrip
            round { _ in roundTrip }
        }

        mutating func lose() {
            control.lossDetected(flight: UInt32(control.window), now: now)
            control.recovered()
        }
    }

    @Test func `the initial window is ten segments, or what RFC 6928 says of large and small ones`() {
        for (segment, window) in [(1_460, 14_600), (536, 5_360), (4_000, 14_600), (8_960, 17_920), (20_000, 40_000)] {
            var control = CongestionControl(.newReno)
            control.start(segmentSize: segment)
            #expect(control.window == window)
            control.start(segmentSize: segment, hadTimeout: true)
            #expect(control.window == segment)
        }
        #expect(MemoryLayout<CongestionControl>.size <= 64)
    }

    @Test(arguments: algorithms)
    func `slow start doubles the window each round trip`(algorithm: CongestionControl.Algorithm) {
        var path = Path(algorithm, roundTrip: 10 * Self.millisecond)
        for _ in 0..<6 {
            let before = path.control.window
            path.round()
            #expect(path.control.window >= before * 2 - 2 * Self.segment && path.control.window <= before * 2)
        }
    }

    @Test(arguments: algorithms)
    func `an application that does not use the window does not make it grow`(algorithm: CongestionControl.Algorithm) {
        var path = Path(algorithm, roundTrip: 10 * Self.millisecond)
        path.demand = 4 * Self.segment
        path.round()
        path.round()
        let window = path.control.window
        for _ in 0..<50 { path.round() }
        #expect(path.control.window == window && window <= 30_000)
    }

    @Test(arguments: algorithms)
    func `silence brings the window back to the initial one`(algorithm: CongestionControl.Algorithm) {
        var path = Path(algorithm, roundTrip: 10 * Self.millisecond)
        for _ in 0..<5 { path.round() }
        let window = path.control.window
        path.control.afterIdle(now: path.now + 150 * Self.millisecond, timeout: 200 * Self.millisecond)
        #expect(path.control.window == window)
        path.control.afterIdle(now: path.now + 250 * Self.millisecond, timeout: 200 * Self.millisecond)
        #expect(path.control.window == 14_600)
    }

    @Test func `NewReno halves the flight, then adds a segment each round trip`() {
        var path = Path(.newReno, roundTrip: 10 * Self.millisecond)
        for _ in 0..<5 { path.round() }
        let before = path.control.window
        path.lose()
        #expect(path.control.window == before / 2 && path.control.slowStartThreshold == before / 2)
        for _ in 0..<20 {
            let window = path.control.window
            path.round()
            #expect(path.control.window == window || path.control.window == window + Self.segment)
        }
        #expect(abs(path.control.window - (before / 2 + 20 * Self.segment)) <= 2 * Self.segment)
    }

    @Test(arguments: algorithms)
    func `a timeout starts again from one segment, and only the first of several lowers the threshold`(algorithm: CongestionControl.Algorithm) {
        var path = Path(algorithm, roundTrip: 10 * Self.millisecond)
        for _ in 0..<5 { path.round() }
        let before = path.control.window
        path.control.timedOut(flight: UInt32(before), isFirst: true, now: path.now)
        #expect(path.control.window == Self.segment)
        let threshold = path.control.slowStartThreshold
        #expect(threshold == (algorithm == .cubic ? before * 7 / 10 : before / 2))
        path.control.timedOut(flight: UInt32(Self.segment), isFirst: false, now: path.now)
        #expect(path.control.slowStartThreshold == threshold && path.control.window == Self.segment)
        for _ in 0..<25 where path.control.isInSlowStart { path.round() }
        #expect(path.control.window >= threshold && path.control.window < threshold + 3 * Self.segment)
    }

    @Test(arguments: algorithms)
    func `the threshold is two segments at least, however little was out`(algorithm: CongestionControl.Algorithm) {
        var path = Path(algorithm, roundTrip: Self.millisecond)
        for _ in 0..<10 {
            path.control.timedOut(flight: 1, isFirst: true, now: path.now)
            #expect(path.control.slowStartThreshold == 2 * Self.segment)
            path.control.lossDetected(flight: 0, now: path.now)
            path.control.setWindow(0)
            #expect(path.control.window == Self.segment && path.control.slowStartThreshold == 2 * Self.segment)
        }
    }

    @Test(arguments: algorithms)
    func `a reduction that was for nothing is undone`(algorithm: CongestionControl.Algorithm) {
        var path = Path(algorithm, roundTrip: 10 * Self.millisecond)
        for _ in 0..<5 { path.round() }
        path.lose()
        for _ in 0..<30 { path.round() }
        let window = path.control.window
        let threshold = path.control.slowStartThreshold
        path.control.timedOut(flight: UInt32(window), isFirst: true, now: path.now)
        path.control.undo()
        #expect(path.control.window == window && path.control.slowStartThreshold == threshold)
        // Once.
        path.control.setWindow(5_000)
        path.control.undo()
        #expect(path.control.window == 5_000)
    }

    @Test(arguments: [CongestionControl.Algorithm.cubic, .newReno])
    func `marks reduce the window once a round trip`(algorithm: CongestionControl.Algorithm) {
        var path = Path(algorithm, roundTrip: 10 * Self.millisecond)
        for _ in 0..<5 { path.round() }
        let before = path.control.window
        let next = path.una + before
        var reduced = path.control.echoed(flight: UInt32(before), acknowledgement: path.una, next: next, now: path.now)
        #expect(reduced)
        let after = algorithm == .cubic ? before * 7 / 10 : before / 2
        #expect(path.control.window == after)
        reduced = path.control.echoed(flight: UInt32(before), acknowledgement: path.una + 10_000 as SequenceNumber, next: next, now: path.now)
        #expect(!reduced && path.control.window == after)
        // A loss in the same round trip is the same congestion.
        path.control.lossDetected(flight: UInt32(after), now: path.now)
        #expect(path.control.slowStartThreshold == after)
        path.control.acknowledged(
            CongestionSample(acknowledged: 1, acknowledgement: next, next: next, roundTrip: 0, smoothed: 1, isEchoed: true, now: path.now),
            isRecovering: false)
        reduced = path.control.echoed(flight: UInt32(after), acknowledgement: next, next: next + 1 as SequenceNumber, now: path.now)
        #expect(reduced && path.control.window < after)
    }

    // MARK: CUBIC

    /// RFC 9438, section 4, in floating point: a window in segments over time, from a loss at `maximum` segments on.
    private struct Reference {
        let maximum: Double
        let start: Double
        let roundTrip: Double
        var window: Double
        var estimate: Double
        let prior: Double
        let timeToMaximum: Double

        init(prior: Double, maximum: Double, roundTrip: Double) {
            self.maximum = maximum
            self.prior = prior
            self.roundTrip = roundTrip
            window = prior * 0.7
            start = window
            estimate = window
            timeToMaximum = Reference.root((maximum - window) / 0.4)
        }
        func curve(_ time: Double) -> Double {
            let distance = time - timeToMaximum
            return 0.4 * distance * distance * distance + maximum
        }
        static func root(_ number: Double) -> Double {
            var low = 0.0, high = 1_000.0
            for _ in 0..<80 { if (low + high) / 2 * ((low + high) / 2) * ((low + high) / 2) < number { low = (low + high) / 2 } else { high = (low + high) / 2 } }
            return low
        }
        mutating func acknowledge(_ segments: Double, time: Double) {
            estimate += (estimate < prior ? 9.0 / 17 : 1) * segments / window
            if curve(time) < estimate {
                window = max(window, estimate)
            } else {
                window += max(0, min(curve(time + roundTrip), 1.5 * window) - window) / window * segments
            }
        }
    }

    @Test(arguments: [(10, 100), (100, 40), (30, 1_000), (1, 200), (200, 2_000)])
    func `the window follows the RFC's formulas`(milliseconds: Int, segments: Int) {
        let roundTrip = UInt64(milliseconds) * Self.millisecond
        var path = Path(.cubic, roundTrip: roundTrip)
        path.control.setWindow(UInt32(segments * Self.segment))
        path.lose()
        let prior = Double(segments)
        var reference = Reference(prior: prior, maximum: prior, roundTrip: Double(milliseconds) / 1_000)
        let start = path.now + roundTrip
        let rounds = min(20_000 / milliseconds, 1_500)
        for _ in 0..<rounds {
            let before = path.control.window / Self.segment
            let time = Double(path.now + roundTrip - start) / 1e9
            path.round()
            for _ in 0..<before / 2 { reference.acknowledge(2, time: time) }
            if before % 2 == 1 { reference.acknowledge(1, time: time) }
            let difference = abs(Double(path.control.window) / Double(Self.segment) - reference.window)
            // Time in milliseconds, whole segments of W_est: two per cent, or two segments.
            guard difference < max(2, reference.window * 0.02) else {
                Issue.record("\(path.control.window / Self.segment) instead of \(reference.window) at \(time) s")
                return
            }
            if reference.window > 5_000 { break }
        }
        #expect(path.control.window > segments * Self.segment)
    }

    @Test func `a second loss below the first maximum leaves room for others`() {
        var path = Path(.cubic, roundTrip: 100 * Self.millisecond)
        path.control.setWindow(UInt32(1_000 * Self.segment))
        path.lose()
        #expect(path.control.window == 700 * Self.segment)
        path.lose()
        // W_max is 0.85 · 700 = 595 segments now; K is ((595 - 490) / 0.4)^(1/3) = 6.4 s. In 6.4 s it is reached, and hardly passed.
        for _ in 0..<64 { path.round() }
        #expect(abs(path.control.window - 595 * Self.segment) < 8 * Self.segment)
    }

    @Test func `the cube root is exact`() {
        var generator = SplitMix64(seed: 1)
        var numbers: [UInt64] = [0, 1, 7, 8, 9, 26, 27, .max, .max - 1, 1 << 63]
        for _ in 0..<2_000 { numbers.append(UInt64.random(in: 0...(.max >> UInt64.random(in: 0...60, using: &generator)), using: &generator)) }
        for number in numbers {
            let root = UInt64(Cubic.cubeRoot(number))
            #expect(root * root * root <= number)
            let next = (root + 1).multipliedReportingOverflow(by: (root + 1) * (root + 1))
            #expect(next.overflow || next.partialValue > number)
        }
    }

    @Test(arguments: algorithms)
    func `no input makes the window leave its bounds`(algorithm: CongestionControl.Algorithm) {
        var generator = SplitMix64(seed: 3)
        var control = CongestionControl(algorithm)
        control.start(segmentSize: 65_000, initialSegments: 200)
        var number = SequenceNumber(0)
        for _ in 0..<10_000 {
            let bytes = UInt32.random(in: 0...(.max >> UInt32.random(in: 1...31, using: &generator)), using: &generator)
            let now = generator.next() >> UInt64.random(in: 0...63, using: &generator)
            switch Int.random(in: 0..<12, using: &generator) {
            case 0: control.lossDetected(flight: bytes, now: now)
            case 1: control.timedOut(flight: bytes, isFirst: Bool.random(using: &generator), now: now)
            case 2: control.undo()
            case 3: control.afterIdle(now: now, timeout: now >> 3)
            case 4: _ = control.echoed(flight: bytes, acknowledgement: number, next: number + bytes / 2, now: now)
            case 5: control.recovered()
            case 6: control.setWindow(bytes)
            case 7: control.setSegmentSize(Int(bytes & 0x1ffff))
            default:
                control.noteSent(inNetwork: bytes)
                number += bytes / 4
                control.acknowledged(
                    CongestionSample(
                        acknowledged: bytes, acknowledgement: number, next: number + bytes / 2, roundTrip: now, smoothed: generator.next(),
                        isEchoed: Bool.random(using: &generator), now: now), isRecovering: Bool.random(using: &generator))
            }
            guard control.window >= 1, control.window <= 1 << 30, control.slowStartThreshold >= 2 else {
                Issue.record("window \(control.window), threshold \(control.slowStartThreshold)")
                return
            }
        }
    }

    // MARK: HyStart++

    @Test func `rising round trips end slow start by way of five careful rounds`() {
        var path = Path(.cubic, roundTrip: 40 * Self.millisecond)
        for _ in 0..<3 { path.round() }
        #expect(path.control.isInSlowStart)
        // 40 ms / 8 = 5 ms more: conservative slow start, a quarter of the growth.
        path.round { _ in 46 * Self.millisecond }
        var rounds = 0
        while path.control.isInSlowStart, rounds < 20 {
            let before = path.control.window
            path.round { _ in 46 * Self.millisecond }
            #expect(path.control.window <= before + before / 4 + Self.segment)
            rounds += 1
        }
        #expect(rounds == 5)
        #expect(path.control.slowStartThreshold == path.control.window || path.control.window > path.control.slowStartThreshold)
    }

    @Test func `jitter that passes lets slow start go on`() {
        var path = Path(.cubic, roundTrip: 40 * Self.millisecond)
        for _ in 0..<3 { path.round() }
        path.round { _ in 46 * Self.millisecond }
        path.round { _ in 40 * Self.millisecond }
        let before = path.control.window
        path.round { _ in 40 * Self.millisecond }
        #expect(path.control.window >= before * 2 - 2 * Self.segment && path.control.isInSlowStart)
    }

    @Test func `a rise of less than four milliseconds is no sign`() {
        var path = Path(.cubic, roundTrip: 8 * Self.millisecond)
        for round in 0..<7 as Range<UInt64> { path.round { _ in 8 * Self.millisecond + round * 500_000 } }
        #expect(path.control.isInSlowStart && path.control.window > 14_600 * 50)
    }

    // MARK: DCTCP

    @Test func `alpha follows the share of marked bytes, and the window shrinks by half of it`() throws {
        var path = Path(.dctcp, roundTrip: Self.millisecond)
        path.demand = 100 * Self.segment
        for _ in 0..<4 { path.round() }
        // 1 at first, less a sixteenth each window without marks.
        var alpha = 1.0
        for _ in 0..<4 { alpha -= alpha / 16 }
        for _ in 0..<60 {
            path.round()
            alpha -= alpha / 16
            let measured = Double(try #require(path.control.markedFraction)) / Double(1 << 20)
            #expect(abs(measured - alpha) < 0.07)
        }
        path.control.setWindow(UInt32(100 * Self.segment))
        let fraction = Double(try #require(path.control.markedFraction)) / Double(1 << 20)
        let next = path.una + path.control.window
        let reduced = path.control.echoed(flight: UInt32(path.control.window), acknowledgement: path.una, next: next, now: path.now)
        #expect(reduced)
        #expect(abs(Double(path.control.window) - Double(100 * Self.segment) * (1 - fraction / 2)) < 2)
        for _ in 0..<100 { path.round(echoing: true) { _ in Self.millisecond } }
        #expect(try #require(path.control.markedFraction) > 1_040_000)
        // A loss is answered as by everybody.
        path.control.setWindow(UInt32(100 * Self.segment))
        path.lose()
        #expect(path.control.window == 50 * Self.segment)
    }

    // MARK: Proportional rate reduction

    /// RFC 6937, section 4's first example: 20 segments out, the first lost, Reno.
    @Test func `half of what arrives goes out, and the window ends at the threshold`() {
        var reduction = ProportionalRateReduction()
        reduction.begin(flight: 20)
        var inNetwork: UInt32 = 19
        var sent: UInt32 = 0
        // Segments of one byte. The third duplicate began the recovery.
        for _ in 0..<19 {
            inNetwork -= 1
            let allowance = reduction.allowance(delivered: 1, inNetwork: inNetwork, threshold: 10, segmentSize: 1, isSafe: false)
            reduction.noteSent(allowance)
            inNetwork += allowance
            sent += allowance
        }
        #expect(inNetwork == 10 && sent == 10)
    }

    @Test func `after heavy losses it sends what arrives, or slow-starts where that is safe`() {
        for isSafe in [false, true] {
            var reduction = ProportionalRateReduction()
            reduction.begin(flight: 100_000)
            var inNetwork: UInt32 = 5_000
            for _ in 0..<3 {
                inNetwork -= 1_000
                let allowance = reduction.allowance(delivered: 1_000, inNetwork: inNetwork, threshold: 50_000, segmentSize: 1_000, isSafe: isSafe)
                #expect(allowance == (isSafe ? 2_000 : 1_000))
                reduction.noteSent(allowance)
                inNetwork += allowance
            }
        }
        // The first retransmission is sent in any case.
        var reduction = ProportionalRateReduction()
        reduction.begin(flight: 10_000)
        #expect(reduction.allowance(delivered: 0, inNetwork: 9_000, threshold: 5_000, segmentSize: 1_000, isSafe: false) == 1_000)
    }
}
