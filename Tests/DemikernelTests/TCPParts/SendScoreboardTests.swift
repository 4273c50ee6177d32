import Testing
@testable import Demikernel

/// One flag set per byte: what the scoreboard must know, in the plainest form.
private struct ByteModel {
    struct Byte {
        var sentAt: UInt64
        var sacked = false
        var lost = false
        var retransmitted = false
    }
    let base: SequenceNumber
    /// From SND.UNA on; offsets count from `base`.
    var bytes: [Byte] = []
    var una = 0
    var next: Int { una + bytes.count }

    var latest: (sentAt: UInt64, end: Int, roundTrip: UInt64)?

    subscript(offset: Int) -> Byte {
        get { bytes[offset - una] }
        set { bytes[offset - una] = newValue }
    }
    var sacked: Int { bytes.count(where: \.sacked) }
    var lost: Int { bytes.count(where: \.lost) }

    mutating func deliver(_ offset: Int, now: UInt64, minimum: UInt64) {
        let byte = self[offset]
        let roundTrip = now - byte.sentAt
        if byte.retransmitted, roundTrip < minimum { return }
        if let latest, byte.sentAt < latest.sentAt || byte.sentAt == latest.sentAt && offset + 1 <= latest.end { return }
        latest = (byte.sentAt, offset + 1, roundTrip)
    }

    /// What is to be sent again first.
    var firstLost: Int? { bytes.firstIndex(where: \.lost).map { $0 + una } }
}

@Suite struct SendScoreboardTests {
    static func heap() throws -> Heap {
        let heap = try Heap(HeapConfiguration(limit: 64 << 20, hugePages: .never, lockPages: false, checked: true))
        heap.makeCurrent()
        return heap
    }

    private static func estimator(_ roundTrip: UInt64) -> RoundTripEstimator {
        var estimator = RoundTripEstimator()
        estimator.sample(roundTrip, now: 0)
        return estimator
    }

    private static func options(_ blocks: [(Int, Int)], _ base: SequenceNumber) -> TCPOptions {
        var options = TCPOptions()
        for (left, right) in blocks { options.appendSACK(SACKBlock(left: base + left, right: base + right)) }
        return options
    }

    /// Whether the scoreboard's records say of each byte what the model does.
    private static func agree(_ board: inout SendScoreboard, _ model: ByteModel) -> Bool {
        guard Int(board.sackedBytes) == model.sacked, Int(board.lostBytes) == model.lost else { return false }
        guard board.isEmpty == model.bytes.isEmpty else { return false }
        var offset = model.una
        for index in 0..<board.count {
            let record = board[index]
            guard record.length > 0, record.start == model.base + offset else { return false }
            for _ in 0..<record.length {
                guard offset < model.next else { return false }
                let byte = model[offset]
                guard record.state.contains(.sacked) == byte.sacked, record.state.contains(.lost) == byte.lost else { return false }
                if !byte.sacked {
                    guard record.sentAt == byte.sentAt, record.state.contains(.retransmitted) == byte.retransmitted else { return false }
                }
                offset += 1
            }
            // A run's length is never more than there is.
            if record.state.contains(.sacked) {
                guard index + Int(record.skip) <= board.count else { return false }
                for later in index..<index + Int(record.skip) where !board[later].state.contains(.sacked) { return false }
            }
        }
        return offset == model.next
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `a random history agrees with one flag per byte`(seed: UInt64) throws {
        let heap = try Self.heap()
        var generator = SplitMix64(seed: seed)
        let base = SequenceNumber(UInt32(truncatingIfNeeded: 0xffff_fc00 &+ seed * 40))
        var board = SendScoreboard()
        var model = ByteModel(base: base)
        var now: UInt64 = 1_000
        let minimum: UInt64 = 200
        let estimator = Self.estimator(400)
        for step in 0..<900 {
            if Bool.random(using: &generator) { now += UInt64.random(in: 1...150, using: &generator) }
            switch Int.random(in: 0..<12, using: &generator) {
            case 0...4 where model.bytes.count < 600:
                let length = Int.random(in: 1...20, using: &generator)
                let taken = board.recordSent(base + model.next, UInt32(length), now: now, in: heap.reference)
                #expect(taken)
                model.bytes += Array(repeating: .init(sentAt: now), count: length)
            case 5, 6, 7:
                // An acknowledgement, often with blocks, sometimes with nonsense.
                let cumulative = Int.random(in: 0..<3, using: &generator) == 0 ? model.una + Int.random(in: 0...model.bytes.count, using: &generator) / 2 : model.una
                var blocks: [(Int, Int)] = []
                for _ in 0..<Int.random(in: 0...4, using: &generator) {
                    let left = Int.random(in: cumulative - 30...model.next + 10, using: &generator)
                    blocks.append((left, left + Int.random(in: -5...60, using: &generator)))
                }
                // The receiver never reports its next byte; an older or a contained first block is a D-SACK.
                Self.acknowledge(&board, &model, cumulative, blocks, now: now, minimum: minimum, heap)
                let found = board.detectLosses(now: now, roundTrip: estimator, isRecovering: false)
                Self.detect(&model, found, board, now: now, estimator: estimator)
            case 8:
                let range = board.nextLost(limit: UInt32.random(in: 1...40, using: &generator))
                #expect(range.isEmpty == (model.lost == 0))
                guard let first = model.firstLost, !range.isEmpty else { continue }
                #expect(range.start == base + first)
                for offset in first..<first + Int(range.length) { #expect(model[offset].lost) }
                board.recordRetransmitted(range, now: now, in: heap.reference)
                for offset in first..<first + Int(range.length) { model[offset] = .init(sentAt: now, retransmitted: true) }
            case 9 where step % 4 == 0:
                let patience = (model.latest?.roundTrip ?? 0) + board.reorderingWindow(estimator, isRecovering: true)
                if model.bytes.first?.sacked == true {
                    for offset in model.una..<model.next { model[offset].sacked = false }
                }
                board.markLostOnTimeout(now: now, roundTrip: estimator)
                // The first record is lost whole; its extent is the scoreboard's.
                let first = board.isEmpty ? 0 : Int(board[0].length)
                for offset in model.una..<model.next where !model[offset].sacked && (offset < model.una + first || model[offset].sentAt + patience <= now) {
                    model[offset].lost = true
                }
            case 10 where step % 3 == 0:
                let range = board.lastOutstanding(limit: 15)
                guard !range.isEmpty else { continue }
                let start = Int(range.start.distance(from: base))
                #expect(model.bytes.lastIndex(where: { !$0.sacked }).map { $0 + model.una } == start + Int(range.length) - 1)
                board.recordRetransmitted(range, now: now, in: heap.reference)
                for offset in start..<start + Int(range.length) { model[offset] = .init(sentAt: now, retransmitted: true) }
            case 11 where step % 40 == 0:
                board.unmarkLost()
                for offset in model.una..<model.next { model[offset].lost = false }
            default: break
            }
            guard Self.agree(&board, model) else {
                Issue.record("step \(step) of seed \(seed)")
                return
            }
            #expect(board.inNetwork(UInt32(model.bytes.count)) == UInt32(model.bytes.count - model.sacked - model.lost))
            #expect(board.hasLost == (model.lost > 0) && board.hasHoles == (model.lost + model.sacked > 0))
        }
        board.free()
        #expect(heap.statistics.liveObjects == 0 && heap.statistics.faults == 0)
    }

    /// The same acknowledgement to both, and what it says compared.
    private static func acknowledge(
        _ board: inout SendScoreboard, _ model: inout ByteModel, _ cumulative: Int, _ blocks: [(Int, Int)], now: UInt64, minimum: UInt64, _ heap: borrowing Heap
    ) {
        let base = model.base
        var delivery = Delivery(acknowledgement: base + cumulative, next: base + model.next, minimumRoundTrip: minimum)
        board.acknowledge(now: now, &delivery)
        var delivered = 0
        var sacked = 0
        var oldest: UInt64 = 0
        var original = false
        while model.una < cumulative {
            let byte = model[model.una]
            if !byte.sacked {
                delivered += 1
                if !byte.retransmitted {
                    if oldest == 0 { oldest = max(1, now - byte.sentAt) }
                    original = true
                }
                model.deliver(model.una, now: now, minimum: minimum)
            }
            model.bytes.removeFirst()
            model.una += 1
        }
        if !blocks.isEmpty {
            board.sack(options(blocks, base), now: now, segmentSize: 10, in: heap.reference, &delivery)
            for (index, block) in blocks.enumerated() {
                let (left, right) = block
                guard left < right else { continue }
                if index == 0, right <= cumulative || blocks.count > 1 && blocks[1].0 <= left && right <= blocks[1].1 {
                    #expect(delivery.duplicate == SACKBlock(left: base + left, right: base + right))
                    continue
                }
                guard left > cumulative, right <= model.next else { continue }
                for offset in left..<right where !model[offset].sacked {
                    if !model[offset].retransmitted {
                        if oldest == 0 { oldest = max(1, now - model[offset].sentAt) }
                        original = true
                    }
                    model.deliver(offset, now: now, minimum: minimum)
                    model[offset].sacked = true
                    model[offset].lost = false
                    delivered += 1
                    sacked += 1
                }
            }
        }
        #expect(delivery.delivered == UInt32(delivered))
        #expect(delivery.sacked == UInt32(sacked))
        #expect(delivery.roundTrip == oldest)
        #expect(delivery.includesOriginal == original)
        if let latest = model.latest {
            #expect(board.latestSentAt == latest.sentAt && board.latestEnd == base + latest.end && board.latestRoundTrip == latest.roundTrip)
        }
    }

    /// RACK_detect_loss, byte by byte. The order of transmissions sent at the same time is that of the records' ends.
    private static func detect(
        _ model: inout ByteModel, _ found: LossDetection, _ board: SendScoreboard, now: UInt64, estimator: RoundTripEstimator
    ) {
        guard let latest = model.latest else {
            #expect(found.lost == 0)
            return
        }
        let patience = latest.roundTrip + board.reorderingWindow(estimator, isRecovering: false)
        var ends: [Int] = []
        for index in 0..<board.count { ends += Array(repeating: Int(board[index].end.distance(from: model.base)), count: Int(board[index].length)) }
        var lost = 0
        var deadline = UInt64.max
        for offset in model.una..<model.next where !model[offset].sacked && !model[offset].lost {
            let byte = model[offset]
            guard byte.sentAt < latest.sentAt || byte.sentAt == latest.sentAt && ends[offset - model.una] < latest.end else { continue }
            if byte.sentAt + patience <= now {
                model[offset].lost = true
                lost += 1
            } else {
                deadline = deadline == .max ? byte.sentAt + patience : max(deadline, byte.sentAt + patience)
            }
        }
        #expect(found.lost == UInt32(lost))
        #expect(found.deadline == deadline)
    }

    @Test func `blocks that are nonsense change nothing that they should not`() throws {
        let heap = try Self.heap()
        var generator = SplitMix64(seed: 11)
        for _ in 0..<200 {
            let base = SequenceNumber(UInt32.random(in: 0 ... .max, using: &generator))
            var board = SendScoreboard()
            let count = Int.random(in: 1...20, using: &generator)
            for index in 0..<count { _ = board.recordSent(base + index * 100, 100, now: UInt64(index), in: heap.reference) }
            for now in 100..<140 as Range<UInt64> {
                var options = TCPOptions()
                for _ in 0..<4 {
                    // Anywhere, or near.
                    let bits = UInt32.random(in: 0...31, using: &generator)
                    let left = base + (UInt32.random(in: 0 ... .max, using: &generator) >> bits)
                    options.appendSACK(SACKBlock(left: left, right: left + (UInt32.random(in: 0 ... .max, using: &generator) >> bits)))
                }
                var delivery = Delivery(acknowledgement: base, next: base + count * 100, minimumRoundTrip: 0)
                board.sack(options, now: now, segmentSize: 100, in: heap.reference, &delivery)
                _ = board.detectLosses(now: now, roundTrip: Self.estimator(50), isRecovering: false)
                var total: UInt32 = 0
                var sacked: UInt32 = 0
                for index in 0..<board.count {
                    guard board[index].start == base + total else {
                        Issue.record("a gap between records")
                        return
                    }
                    total += board[index].length
                    if board[index].state.contains(.sacked) { sacked += board[index].length }
                }
                #expect(total == UInt32(count * 100) && sacked == board.sackedBytes && sacked + board.lostBytes <= total)
            }
            board.free()
        }
        #expect(heap.statistics.liveObjects == 0 && heap.statistics.faults == 0)
    }

    @Test func `one segment at a time takes no memory`() throws {
        let heap = try Self.heap()
        var board = SendScoreboard()
        var number = SequenceNumber(.max - 2_000)
        for step in 1...10 as ClosedRange<UInt64> {
            let taken = board.recordSent(number, 1_000, now: step * 100, in: heap.reference)
            #expect(taken)
            // A burst at the same moment is one record still.
            let more = board.recordSent(number + 1_000 as SequenceNumber, 500, now: step * 100, in: heap.reference)
            #expect(more && board.count == 1)
            number += 1_500
            var delivery = Delivery(acknowledgement: number, next: number, minimumRoundTrip: 0)
            board.acknowledge(now: step * 100 + 70, &delivery)
            #expect(delivery.acknowledged == 1_500 && delivery.delivered == 1_500 && delivery.roundTrip == 70 && delivery.latestRoundTrip == 70)
            #expect(board.isEmpty)
        }
        #expect(heap.statistics.liveObjects == 0)
        #expect(MemoryLayout<SendScoreboard>.size <= 96)
    }

    /// Sends `count` segments of 1,000 bytes a microsecond apart, from `base` at time `start` on.
    private static func send(_ board: inout SendScoreboard, _ count: Int, from base: SequenceNumber, at start: UInt64, _ heap: borrowing Heap) {
        for index in 0..<count { _ = board.recordSent(base + index * 1_000, 1_000, now: start + UInt64(index) * 1_000, in: heap.reference) }
    }

    private static func sack(
        _ board: inout SendScoreboard, _ acknowledged: Int, _ blocks: [(Int, Int)], next: Int, now: UInt64, base: SequenceNumber, _ heap: borrowing Heap
    ) -> Delivery {
        var delivery = Delivery(acknowledgement: base + acknowledged, next: base + next, minimumRoundTrip: 0)
        board.acknowledge(now: now, &delivery)
        board.sack(options(blocks, base), now: now, segmentSize: 1_000, in: heap.reference, &delivery)
        return delivery
    }

    /// RFC 8985, section 3.4 and 6.2: without reordering seen, three segments sacked are enough; before that the window is min_RTT / 4.
    @Test func `a hole is lost after a quarter of a round trip, or at once after three segments`() throws {
        let heap = try Self.heap()
        let base = SequenceNumber(.max - 3_000)
        var board = SendScoreboard()
        Self.send(&board, 8, from: base, at: 0, heap)
        let estimator = Self.estimator(100_000)
        _ = Self.sack(&board, 0, [(1_000, 2_000)], next: 8_000, now: 101_000, base: base, heap)
        var found = board.detectLosses(now: 101_000, roundTrip: estimator, isRecovering: false)
        // Sent at 0, round trip 100 µs, window 25 µs.
        #expect(found.lost == 0 && found.deadline == 125_000)
        _ = Self.sack(&board, 0, [(1_000, 4_000)], next: 8_000, now: 103_000, base: base, heap)
        found = board.detectLosses(now: 103_000, roundTrip: estimator, isRecovering: false)
        #expect(found.lost == 1_000 && found.deadline == .max)
        let range = board.nextLost(limit: 1_460)
        #expect(range == SequenceRange(start: base, length: 1_000))
        #expect(board.inNetwork(8_000) == 4_000)
        board.recordRetransmitted(range, now: 104_000, in: heap.reference)
        #expect(!board.hasLost && board.inNetwork(8_000) == 5_000)
        // The retransmission is lost as well: what was sent after it arrives.
        _ = board.recordSent(base + 8_000, 1_000, now: 105_000, in: heap.reference)
        _ = Self.sack(&board, 0, [(1_000, 9_000)], next: 9_000, now: 205_000, base: base, heap)
        found = board.detectLosses(now: 205_000, roundTrip: estimator, isRecovering: true)
        #expect(found.lost == 1_000)
        board.free()
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test func `reordering that was seen makes the window stay, and duplicates make it grow`() throws {
        let heap = try Self.heap()
        let base = SequenceNumber(77)
        var board = SendScoreboard()
        let estimator = Self.estimator(100_000)
        Self.send(&board, 4, from: base, at: 0, heap)
        _ = Self.sack(&board, 0, [(1_000, 4_000)], next: 4_000, now: 103_000, base: base, heap)
        let delivery = Self.sack(&board, 4_000, [], next: 4_000, now: 103_500, base: base, heap)
        #expect(delivery.isReordered && board.seesReordering && board.isEmpty)
        #expect(board.reorderingWindow(estimator, isRecovering: true) == 25_000)
        // D-SACKs: one more quarter a round trip, SRTT at most.
        var next = 4_000
        for round in 1...6 {
            Self.send(&board, 2, from: base + next, at: 1_000_000 * UInt64(round), heap)
            next += 2_000
            for _ in 0..<2 {
                _ = Self.sack(&board, next - 1_000, [(next - 2_000, next - 1_000)], next: next, now: 1_000_000 * UInt64(round) + 100_000, base: base, heap)
            }
            #expect(board.reorderingWindow(estimator, isRecovering: true) == min(100_000, 25_000 * UInt64(round + 1)))
        }
        // Sixteen recoveries without one, and it is a quarter again.
        for _ in 0..<16 { board.recoveryEnded() }
        #expect(board.reorderingWindow(estimator, isRecovering: true) == 25_000)
        board.free()
    }

    @Test func `a reneging receiver's reports are forgotten at the timeout`() throws {
        let heap = try Self.heap()
        let base = SequenceNumber(.max)
        var board = SendScoreboard()
        Self.send(&board, 4, from: base, at: 0, heap)
        _ = Self.sack(&board, 0, [(1_000, 4_000)], next: 4_000, now: 100_000, base: base, heap)
        var delivery = Delivery(acknowledgement: base + 1_000, next: base + 4_000, minimumRoundTrip: 0)
        board.acknowledge(now: 150_000, &delivery)
        #expect(board.sackedBytes == 3_000)
        board.markLostOnTimeout(now: 1_000_000_000, roundTrip: Self.estimator(100_000))
        #expect(board.sackedBytes == 0 && board.lostBytes == 3_000)
        #expect(board.nextLost(limit: 10_000) == SequenceRange(start: base + 1_000, length: 3_000))
        board.free()
    }

    @Test func `without selective acknowledgements the first segment alone is taken for lost`() throws {
        let heap = try Self.heap()
        let base = SequenceNumber(5)
        var board = SendScoreboard()
        let taken = board.recordSent(base, 5_000, now: 0, in: heap.reference)
        #expect(taken)
        board.markFirstLost(1_000, in: heap.reference)
        #expect(board.nextLost(limit: 9_999) == SequenceRange(start: base, length: 1_000))
        board.recordRetransmitted(SequenceRange(start: base, length: 1_000), now: 10, in: heap.reference)
        #expect(!board.hasLost)
        // A partial acknowledgement: RFC 6582, section 3.2, step 3.
        var delivery = Delivery(acknowledgement: base + 1_000, next: base + 5_000, minimumRoundTrip: 0)
        board.acknowledge(now: 20, &delivery)
        #expect(delivery.roundTrip == 0 && !delivery.includesOriginal)
        board.markFirstLost(1_000, in: heap.reference)
        #expect(board.nextLost(limit: 9_999) == SequenceRange(start: base + 1_000, length: 1_000))
        board.free()
    }

    /// Karn, and RFC 8985's refinement: an acknowledgement too early for the retransmission is for the original.
    @Test func `what was sent twice gives a sample only by its timestamp, and an early answer none to RACK`() throws {
        let heap = try Self.heap()
        let base = SequenceNumber(1)
        var board = SendScoreboard()
        _ = board.recordSent(base, 1_000, now: 1_000, in: heap.reference)
        board.recordRetransmitted(SequenceRange(start: base, length: 1_000), now: 90_000, in: heap.reference)
        var delivery = Delivery(acknowledgement: base + 1_000, next: base + 1_000, minimumRoundTrip: 50_000)
        var copy = board
        copy.acknowledge(now: 91_000, &delivery)
        #expect(delivery.roundTrip == 0 && delivery.acknowledged == 1_000 && !copy.hasDelivery)
        delivery = Delivery(acknowledgement: base + 1_000, next: base + 1_000, minimumRoundTrip: 500, notSentAfter: 80_000)
        copy = board
        copy.acknowledge(now: 91_000, &delivery)
        #expect(!copy.hasDelivery)
        delivery = Delivery(acknowledgement: base + 1_000, next: base + 1_000, minimumRoundTrip: 500, notSentAfter: 90_500)
        board.acknowledge(now: 91_000, &delivery)
        // RFC 7323, section 4.1: the timestamp says which one was answered.
        #expect(delivery.roundTrip == 1_000 && board.hasDelivery && board.latestRoundTrip == 1_000)
    }

    @Test(arguments: [3, 100])
    func `more records than there is room for are joined, and nothing is lost count of`(period: Int) throws {
        let heap = try Self.heap()
        let base = SequenceNumber(.max - 100_000)
        var board = SendScoreboard()
        var sent = 0
        for index in 0..<20_000 {
            // Holes without end have no room for more; the connection waits then.
            guard board.recordSent(base + index * 10, 10, now: UInt64(index), in: heap.reference) else { break }
            sent += 10
            guard index % period == period - 1 else { continue }
            var delivery = Delivery(acknowledgement: base, next: base + sent, minimumRoundTrip: 0)
            board.sack(Self.options([(sent - 10, sent)], base), now: UInt64(index) + 1, segmentSize: 10, in: heap.reference, &delivery)
        }
        #expect(board.count <= 2_730 && sent >= (period == 3 ? 30_000 : 200_000))
        var total = 0
        var sacked: UInt32 = 0
        for index in 0..<board.count {
            #expect(board[index].start == base + total)
            total += Int(board[index].length)
            if board[index].state.contains(.sacked) { sacked += board[index].length }
        }
        #expect(total == sent && sacked == board.sackedBytes && sacked > 1_000)
        board.markAllLost()
        #expect(Int(board.lostBytes + board.sackedBytes) == total)
        var delivery = Delivery(acknowledgement: base + total, next: base + total, minimumRoundTrip: 0)
        board.acknowledge(now: 1 << 30, &delivery)
        #expect(Int(delivery.acknowledged) == total && board.isEmpty && !board.hasHoles)
        #expect(heap.statistics.liveObjects == 0)
    }

    @Test func `an exhausted heap joins transmissions instead of refusing them`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20, hugePages: .never, lockPages: false))
        heap.makeCurrent()
        var hoard: [Segment] = []
        while true {
            let segment = heap.allocateSegment(512)
            if segment.isNull { break }
            hoard.append(segment)
        }
        var board = SendScoreboard()
        let base = SequenceNumber(0)
        for index in 0..<5 {
            let taken = board.recordSent(base + index * 100, 100, now: UInt64(index), in: heap.reference)
            #expect(taken)
        }
        #expect(board.count == 1 && board[0].length == 500 && board[0].sentAt == 4)
        var delivery = Delivery(acknowledgement: base, next: base + 500, minimumRoundTrip: 0)
        board.sack(Self.options([(100, 200)], base), now: 9, segmentSize: 100, in: heap.reference, &delivery)
        // No memory to split: the report is not taken in.
        #expect(delivery.sacked == 0 && board.sackedBytes == 0)
        board.markLostOnTimeout(now: 100, roundTrip: RoundTripEstimator())
        #expect(board.nextLost(limit: 100) == SequenceRange(start: base, length: 100))
        let refused = board.recordSent(base + 500, 100, now: 200, in: heap.reference)
        #expect(!refused)
        for segment in hoard { segment.release() }
        board.free()
    }
}
