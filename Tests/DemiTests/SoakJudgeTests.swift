import Testing
@testable import demi

/// Whether a soak fails when something leaks: planted figures, one kind at a time.
struct SoakJudgeTests {
    private static let before = SoakGauges(
        residentBytes: 90 << 20, allocatedBytes: 3 << 20, heapMappedBytes: 40 << 20, heapObjects: 12, heapBytes: 12 * 2_048, descriptors: 9, timers: 3,
        queues: 2, operations: 1, connections: 0, timeWaits: 0)
    private static let counts: SoakCounts = {
        var counts = SoakCounts()
        (counts.opened, counts.served, counts.bytesSent, counts.bytesReceived, counts.resets) = (5_000, 5_000, 1 << 30, 1 << 30, 900)
        return counts
    }()

    private static func problems(
        after: SoakGauges = before, ours: SoakCounts = counts, kernels: SoakCounts = counts, isDrained: Bool = true
    ) -> [String] {
        SoakJudge.problems(before: before, after: after, ours: ours, kernels: kernels, isDrained: isDrained)
    }

    @Test func `a soak after which everything is as it was, or less, is good`() {
        #expect(Self.problems().isEmpty)
        var less = Self.before
        (less.heapObjects, less.heapBytes, less.descriptors, less.timers, less.queues, less.operations) = (0, 0, 0, 0, 0, 0)
        (less.residentBytes, less.allocatedBytes, less.heapMappedBytes) = (0, 0, 0)
        #expect(Self.problems(after: less).isEmpty)
    }

    /// Where one more is a leak.
    static let exact: [(gauge: WritableKeyPath<SoakGauges, Int> & Sendable, says: String)] = [
        (\.heapObjects, "not flat: heap objects: 12 before, 13 after"), (\.heapBytes, "not flat: heap bytes: 24,576 before, 24,577 after"),
        (\.descriptors, "not flat: descriptors: 9 before, 10 after"), (\.timers, "not flat: armed timers: 3 before, 4 after"),
        (\.queues, "not flat: queues: 2 before, 3 after"), (\.operations, "not flat: operations: 1 before, 2 after"),
        (\.connections, "not flat: connections: 1 after"), (\.timeWaits, "not flat: connections in TIME_WAIT: 1 after"),
    ]

    @Test(arguments: exact.indices) func `one more than before of what can be counted is told by its name`(_ index: Int) {
        let (gauge, says) = Self.exact[index]
        var after = Self.before
        after[keyPath: gauge] += 1
        #expect(Self.problems(after: after) == [says])
    }

    @Test func `connections that were there after the warm-up already are no excuse`() {
        var then = Self.before
        (then.connections, then.timeWaits) = (2, 3)
        #expect(SoakJudge.growth(from: then, to: then) == ["connections: 2 after", "connections in TIME_WAIT: 3 after"])
    }

    /// Where some is room for what is no leak: bytes by which it may have grown at most.
    static let bounded: [(gauge: WritableKeyPath<SoakGauges, Int> & Sendable, room: Int, name: String)] = [
        (\.residentBytes, 8 << 20, "resident bytes beside the heap"), (\.allocatedBytes, 256 << 10, "allocated bytes"),
        (\.heapMappedBytes, (40 + 16) << 20, "the heap's memory"),
    ]

    @Test(arguments: bounded.indices) func `memory may grow by its room and not by a byte more`(_ index: Int) throws {
        let (gauge, room, name) = Self.bounded[index]
        var after = Self.before
        after[keyPath: gauge] += room
        #expect(Self.problems(after: after).isEmpty)
        after[keyPath: gauge] += 1
        let said = Self.problems(after: after)
        #expect(said.count == 1 && said[0].hasPrefix("not flat: \(name): "))
    }

    @Test func `forty bytes left by each connection are found`() {
        var after = Self.before
        after.allocatedBytes += 40 * (Self.counts.opened + Self.counts.served)
        #expect(Self.problems(after: after).count == 1)
    }

    @Test func `a wrong byte, connections that do not end and a side without any are told`() {
        var wrong = Self.counts
        wrong.note("connection 7: a wrong byte, 99 from the start")
        wrong.note("connection 9: a wrong byte, 1 from the start")
        #expect(Self.problems(ours: wrong) == ["2 wrong on our side; first: connection 7: a wrong byte, 99 from the start"])
        #expect(Self.problems(kernels: wrong) == ["2 wrong on the kernel's side; first: connection 7: a wrong byte, 99 from the start"])
        #expect(Self.problems(isDrained: false) == ["connections that do not end"])
        for field in [\SoakCounts.opened, \.served] {
            var none = Self.counts
            none[keyPath: field] = 0
            #expect(Self.problems(ours: none) == ["one side opened no connection"])
            #expect(Self.problems(kernels: none) == ["one side opened no connection"])
        }
    }

    @Test func `the least of several looks is what is held`() {
        var other = Self.before
        other.timers = 1
        other.heapObjects = 99
        let least = Self.before.least(other)
        #expect(least.timers == 1 && least.heapObjects == 12 && least.allocatedBytes == Self.before.allocatedBytes)
    }

    @Test func `what the kernel's side counts comes over its line whole`() throws {
        var counts = Self.counts
        counts.note("connection 3: a wrong byte, 5 from the start")
        let read = try #require(SoakCounts(line: counts.line[...]))
        #expect(read.line == counts.line && read.wrong == 1 && read.firstWrong == counts.firstWrong)
        #expect(SoakCounts(line: "1 2 3") == nil && SoakCounts(line: "a b c d e f g") == nil)
    }
}
