import Testing
@testable import Demikernel

/// A sender's parts and a receiver's, over a path that loses, delays and reorders both ways: what one reports is what the other has, and
/// everything arrives.
@Suite struct LossyPathTests {
    private struct Packet {
        var at: UInt64
        var order: Int
        /// Data: start and length. An acknowledgement: its number and blocks.
        var range: SequenceRange?
        var acknowledgement = SequenceNumber(0)
        var options = TCPOptions()
    }

    private struct Sender: ~Copyable {
        let base: SequenceNumber
        let total: Int
        var una: SequenceNumber
        var next: SequenceNumber
        var board = SendScoreboard()
        var control: CongestionControl
        var reduction = ProportionalRateReduction()
        var roundTrip = RoundTripEstimator()
        var recoveryPoint: SequenceNumber?
        var isAfterTimeout = false
        var timer = UInt64.max
        var reordering = UInt64.max
        var backOffs = 0
        var timeouts = 0
        var recoveries = 0
        let limits = TimeoutLimits()

        init(_ algorithm: CongestionControl.Algorithm, base: SequenceNumber, total: Int) {
            self.base = base
            self.total = total
            una = base
            next = base
            control = CongestionControl(algorithm)
            control.start(segmentSize: 1_000)
        }

        var flight: UInt32 { next.distance(from: una) }
        var isDone: Bool { una == base + total }

        /// What goes out now.
        mutating func transmit(now: UInt64, _ heap: HeapReference) -> [SequenceRange] {
            var sent: [SequenceRange] = []
            while true {
                let pipe = board.inNetwork(flight)
                var range = board.nextLost(limit: 1_000)
                let isNew = range.isEmpty
                if isNew { range = SequenceRange(start: next, length: UInt32(min(1_000, total - Int(next.distance(from: base))))) }
                guard !range.isEmpty, pipe == 0 || Int(pipe + range.length) <= control.window, sent.count < 500 else { break }
                if isNew {
                    guard flight < 1 << 20, board.recordSent(next, range.length, now: now, in: heap) else { break }
                    next += range.length
                } else {
                    board.recordRetransmitted(range, now: now, in: heap)
                }
                if recoveryPoint != nil { reduction.noteSent(range.length) }
                control.noteSent(inNetwork: board.inNetwork(flight))
                sent.append(range)
            }
            if !sent.isEmpty || timer == .max { timer = flight == 0 ? .max : now + roundTrip.timeout(limits) }
            return sent
        }

        mutating func receive(_ packet: Packet, now: UInt64, _ heap: HeapReference) {
            guard packet.acknowledgement >= una, packet.acknowledgement <= next else { return }
            let flight = flight
            let newly = packet.acknowledgement.distance(from: una)
            var delivery = Delivery(acknowledgement: packet.acknowledgement, next: next, minimumRoundTrip: roundTrip.minimum)
            board.acknowledge(now: now, &delivery)
            #expect(delivery.acknowledged == newly)
            una = packet.acknowledgement
            if packet.options.sackCount > 0 { board.sack(packet.options, now: now, segmentSize: 1_000, in: heap, &delivery) }
            if delivery.roundTrip != 0 { roundTrip.sample(delivery.roundTrip, now: now) }
            if newly > 0 { timer = self.flight == 0 ? .max : now + roundTrip.timeout(limits) }
            if let point = recoveryPoint, una >= point {
                control.recovered()
                board.recoveryEnded()
                recoveryPoint = nil
            }
            if isAfterTimeout, newly > 0, board.lostBytes == 0 { isAfterTimeout = false }
            control.acknowledged(
                CongestionSample(
                    acknowledged: newly, acknowledgement: una, next: next, roundTrip: delivery.latestRoundTrip, smoothed: roundTrip.smoothed, now: now),
                isRecovering: recoveryPoint != nil)
            let lost = detect(now: now, flight: flight)
            if recoveryPoint != nil {
                let pipe = board.inNetwork(self.flight)
                let allowance = reduction.allowance(
                    delivered: delivery.delivered, inNetwork: pipe, threshold: UInt32(control.slowStartThreshold), segmentSize: 1_000,
                    isSafe: newly > 0 && lost == 0)
                control.setWindow(pipe + allowance)
            }
        }

        @discardableResult
        mutating func detect(now: UInt64, flight: UInt32) -> UInt32 {
            let found = board.detectLosses(now: now, roundTrip: roundTrip, isRecovering: recoveryPoint != nil || isAfterTimeout)
            reordering = found.deadline
            if found.lost > 0, recoveryPoint == nil, !isAfterTimeout {
                recoveries += 1
                recoveryPoint = next
                control.lossDetected(flight: flight, now: now)
                reduction.begin(flight: flight)
                control.setWindow(board.inNetwork(self.flight) + 1_000)
            }
            return found.lost
        }

        mutating func timeOut(now: UInt64) {
            timeouts += 1
            board.markLostOnTimeout(now: now, roundTrip: roundTrip)
            control.timedOut(flight: flight, isFirst: roundTrip.backOffs == 0, now: now)
            roundTrip.backOff()
            recoveryPoint = nil
            isAfterTimeout = true
            timer = now + roundTrip.timeout(limits)
        }
    }

    @Test(arguments: CongestionControl.Algorithm.allCases, 1...4 as ClosedRange<UInt64>)
    func `everything arrives, and reports are what is held`(algorithm: CongestionControl.Algorithm, seed: UInt64) throws {
        let heap = try SendScoreboardTests.heap()
        var generator = SplitMix64(seed: seed)
        let total = 200_000
        let base = SequenceNumber(.max - 70_000)
        var sender = Sender(algorithm, base: base, total: total)
        var queue = ReorderQueue()
        var receiveNext = base
        // One flag for a hundred bytes: segments are of a thousand.
        var held = [Bool](repeating: false, count: total / 100)
        var known = base
        var packets: [Packet] = []
        var order = 0
        var now: UInt64 = 1_000_000
        let loss = [0, 3, 10, 25][Int(seed - 1)]
        let jitter: UInt64 = seed % 2 == 0 ? 2_000_000 : 0
        func isLost() -> Bool { Int.random(in: 0..<100, using: &generator) < loss }
        func delay() -> UInt64 { 10_000_000 + (jitter == 0 ? 0 : UInt64.random(in: 0...jitter, using: &generator)) }
        func isHeld(_ left: SequenceNumber, _ right: SequenceNumber) -> Bool {
            held[Int(left.distance(from: base)) / 100..<Int(right.distance(from: base)) / 100].allSatisfy { $0 }
        }
        var steps = 0
        while !sender.isDone {
            steps += 1
            guard steps < 60_000 else {
                Issue.record("stalled at \(sender.una.distance(from: base)) of \(total)")
                break
            }
            for (index, range) in sender.transmit(now: now, heap.reference).enumerated() where !isLost() {
                packets.append(Packet(at: now + delay() + UInt64(index) * 1_000, order: order, range: range))
                order += 1
            }
            let earliest = packets.indices.min { (packets[$0].at, packets[$0].order) < (packets[$1].at, packets[$1].order) }
            let timer = min(sender.timer, sender.reordering)
            guard let earliest, packets[earliest].at <= timer else {
                guard timer != .max else {
                    Issue.record("nothing to wait for at \(sender.una.distance(from: base))")
                    break
                }
                now = max(now, timer)
                if sender.reordering <= now { sender.detect(now: now, flight: sender.flight) } else { sender.timeOut(now: now) }
                continue
            }
            let packet = packets.remove(at: earliest)
            now = max(now, packet.at)
            guard let range = packet.range else {
                sender.receive(packet, now: now, heap.reference)
                continue
            }
            // The receiver: in order or not, and an acknowledgement for each segment.
            var answer = TCPOptions()
            let offset = Int(range.start.distance(from: base))
            for index in offset / 100..<(offset + Int(range.length)) / 100 { held[index] = true }
            var duplicate = SACKBlock(left: base, right: base)
            if range.start == receiveNext {
                receiveNext += range.length
                while true {
                    let segment = queue.takeInOrder(next: receiveNext)
                    if segment.isNull { break }
                    receiveNext += segment.count
                    segment.release()
                }
            } else {
                let segment = heap.reference.allocateSegment(Int(range.length))
                duplicate = queue.insert(segment, at: range.start, next: receiveNext, limits: ReorderLimits(), heap: heap.reference).duplicate
            }
            queue.report(into: &answer, duplicate: duplicate)
            #expect(isHeld(known, receiveNext))
            known = receiveNext
            for index in 0..<answer.sackCount where index > 0 || duplicate.left == duplicate.right {
                let block = answer.sackBlocks[index]
                #expect(isHeld(block.left, block.right))
            }
            if !isLost() {
                packets.append(Packet(at: now + delay(), order: order, acknowledgement: receiveNext, options: answer))
                order += 1
            }
            // The sender never takes for delivered what has not arrived.
            for index in 0..<sender.board.count where sender.board[index].state.contains(.sacked) {
                let record = sender.board[index]
                #expect(isHeld(record.start, record.end))
            }
        }
        #expect(receiveNext == base + total && queue.isEmpty)
        if loss == 0 { #expect(sender.timeouts == 0 && sender.recoveries == 0) }
        if loss == 3 { #expect(sender.recoveries > 0) }
        sender.board.free()
        queue.releaseAll()
        #expect(heap.statistics.liveObjects == 0)
    }
}
