/// What decides how a soak has ended: a function of what was counted, and of nothing else.
enum SoakJudge {
    /// What was wrong, in words; empty where every byte was right and nothing is left.
    ///
    /// - Parameters:
    ///   - before: what was held after the warm-up, with every connection at its end.
    ///   - after: the same after the soak.
    ///   - ours, kernels: what has come of the connections of either side.
    ///   - isDrained: whether all connections have come to their end, both times.
    static func problems(before: SoakGauges, after: SoakGauges, ours: SoakCounts, kernels: SoakCounts, isDrained: Bool) -> [String] {
        var problems = growth(from: before, to: after).map { "not flat: \($0)" }
        if !isDrained { problems.append("connections that do not end") }
        if ours.wrong > 0 { problems.append("\(ours.wrong) wrong on our side; first: \(ours.firstWrong)") }
        if kernels.wrong > 0 { problems.append("\(kernels.wrong) wrong on the kernel's side; first: \(kernels.firstWrong)") }
        if ours.opened == 0 || ours.served == 0 || kernels.opened == 0 || kernels.served == 0 { problems.append("one side opened no connection") }
        return problems
    }

    /// What is more than it was, in words; empty where everything is flat.
    static func growth(from before: SoakGauges, to after: SoakGauges) -> [String] {
        var found: [String] = []
        func compare(_ name: String, _ gauge: KeyPath<SoakGauges, Int>, room: Int = 0) {
            let (then, now) = (before[keyPath: gauge], after[keyPath: gauge])
            if now > then + room { found.append("\(name): \(then.grouped) before, \(now.grouped) after") }
        }
        compare("resident bytes beside the heap", \.residentBytesBesideHeap, room: residentRoom)
        compare("allocated bytes", \.allocatedBytes, room: allocatedRoom)
        compare("the heap's memory", \.heapMappedBytes, room: before.heapMappedBytes + heapRoom)
        compare("heap objects", \.heapObjects)
        compare("heap bytes", \.heapBytes)
        compare("descriptors", \.descriptors)
        compare("armed timers", \.timers)
        compare("queues", \.queues)
        compare("operations", \.operations)
        // None of these has a reason to be there at the end, whatever there was before.
        if after.connections > 0 { found.append("connections: \(after.connections.grouped) after") }
        if after.timeWaits > 0 { found.append("connections in TIME_WAIT: \(after.timeWaits.grouped) after") }
        return found
    }

    /// Pages that the kernel counts late or allocators keep. What grows without end is in one of the other figures first.
    private static var residentRoom: Int { 8 << 20 }
    /// Tables that grow to the most that was ever in use, and what threads keep for themselves: a leak of one small object by each of a soak's connections,
    /// ten thousand and more in five minutes, is more.
    private static var allocatedRoom: Int { 256 << 10 }
    /// The heap's memory follows the most that was in use at a time, which is not the same in two runs; twice that of the warm-up and this is a heap that
    /// does not find its free objects again.
    private static var heapRoom: Int { 16 << 20 }
}

extension SoakGauges {
    fileprivate var residentBytesBesideHeap: Int { residentBytes - heapMappedBytes }
}
