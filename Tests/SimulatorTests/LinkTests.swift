import DemikernelSimulator
import Testing

/// Notes what arrives and when.
final class Recorder: SimulatedNode {
    unowned let simulation: Simulation
    var ports: [SimulatedPort] = []
    var arrivals: [(time: UInt64, frame: [UInt8])] = []

    init(_ simulation: Simulation) { self.simulation = simulation }
    func connected(_ port: SimulatedPort) { ports.append(port) }
    func receive(_ frame: [UInt8], from port: SimulatedPort) { arrivals.append((simulation.now, frame)) }
}

/// An IPv4 packet in a frame of `count` bytes, numbered, with a right header checksum.
func numberedFrame(_ number: Int, count: Int = 100, to: UInt8 = 2, from: UInt8 = 1) -> [UInt8] {
    var frame: [UInt8] = [2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0, 0x45, 2]
    frame += [UInt8](repeating: 0, count: count - 16)
    frame[16] = UInt8((count - 14) >> 8)
    frame[17] = UInt8((count - 14) & 255)
    frame[20] = 0x40
    frame[count - 2] = UInt8(number >> 8)
    frame[count - 1] = UInt8(number & 255)
    return frame
}

@Suite struct `Simulated links` {
    private func exchange(_ conditions: LinkConditions, frames: Int = 1000, seed: UInt64 = 1, every gap: UInt64 = 1000)
        -> (Recorder, SimulatedLink, Simulation)
    {
        let simulation = Simulation(seed: seed)
        let (a, b) = (Recorder(simulation), Recorder(simulation))
        let link = simulation.connect(a, b, conditions)
        for number in 0..<frames {
            simulation.schedule(at: UInt64(number) * gap) { a.ports[0].transmit(numberedFrame(number)) }
        }
        simulation.run(for: .seconds(100))
        return (b, link, simulation)
    }

    @Test func `a perfect wire delivers everything at once and in order`() {
        let (receiver, link, _) = exchange(LinkConditions())
        #expect(receiver.arrivals.map(\.frame) == (0..<1000).map { numberedFrame($0) })
        #expect(receiver.arrivals.map(\.time) == (0..<1000).map { UInt64($0) * 1000 })
        #expect(link.statistics.dropped == 0)
    }

    @Test func `delay and jitter move arrivals and do not change their order`() {
        var conditions = LinkConditions(delay: .microseconds(50))
        conditions.jitterNanoseconds = 20_000
        let (receiver, _, _) = exchange(conditions)
        #expect(receiver.arrivals.map(\.frame) == (0..<1000).map { numberedFrame($0) })
        #expect(receiver.arrivals.enumerated().allSatisfy { 50_000...70_000 ~= $1.time - UInt64($0) * 1000 })
    }

    @Test func `chances are kept to and counted`() {
        var conditions = LinkConditions(delay: .zero, loss: 0.1)
        conditions.burstLoss = .init(begin: 0.01, end: 0.2)
        conditions.duplicate = 0.05
        conditions.corrupt = 0.05
        conditions.reorder = 0.1
        let (receiver, link, _) = exchange(conditions, frames: 10_000)
        let counts = link.statistics
        #expect(800...1200 ~= counts.lost && 200...900 ~= counts.lostInBursts && 350...650 ~= counts.duplicated)
        #expect(350...650 ~= counts.corrupted && 700...1300 ~= counts.reordered)
        #expect(counts.deliveredFrames == counts.sentFrames - counts.dropped + counts.duplicated)
        #expect(UInt64(receiver.arrivals.count) == counts.deliveredFrames)
    }

    @Test func `a corrupted packet's checksum never comes out right`() {
        var conditions = LinkConditions()
        conditions.corrupt = 1
        let (receiver, _, _) = exchange(conditions)
        for (number, arrival) in receiver.arrivals.enumerated() {
            #expect(sum(arrival.frame[14...]) != sum(numberedFrame(number)[14...]))
            #expect(arrival.frame[..<14] == numberedFrame(number)[..<14])
        }
    }

    private func sum(_ bytes: ArraySlice<UInt8>) -> Int {
        let bytes = Array(bytes)
        return stride(from: 0, to: bytes.count, by: 2).reduce(0) { $0 + Int(bytes[$1]) << 8 + Int(bytes[$1 + 1]) } % 0xffff
    }

    @Test func `a slow wire spaces frames, lets some wait and drops the rest`() {
        var conditions = LinkConditions(delay: .milliseconds(1), bitsPerSecond: 8_000_000)  // 100 bytes in 100 µs
        conditions.queueBytes = 1000
        let (receiver, link, _) = exchange(conditions, frames: 50)
        // Ten wait (the first no longer than it takes); those that come 1 µs apart find the queue full.
        #expect(receiver.arrivals.count == 10)
        #expect(link.statistics.droppedByQueue == 40)
        #expect(receiver.arrivals.map(\.time) == (1...10).map { UInt64($0) * 100_000 + 1_000_000 })
    }

    @Test func `a congested wire marks what can be marked`() {
        var conditions = LinkConditions(delay: .zero, bitsPerSecond: 8_000_000)
        conditions.markBytes = 500
        let (receiver, link, _) = exchange(conditions, frames: 20)
        let marked = receiver.arrivals.filter { $0.frame[15] & 3 == 3 }
        #expect(UInt64(marked.count) == link.statistics.marked && !marked.isEmpty && marked.count < 20)
        for arrival in marked { #expect(sum(arrival.frame[14..<34]) == 0) }
    }

    @Test func `a partition loses what is under way, and heals`() {
        let simulation = Simulation(seed: 1)
        let (a, b) = (Recorder(simulation), Recorder(simulation))
        let link = simulation.connect(a, b, LinkConditions(delay: .milliseconds(1)))
        for (number, time) in [0, 500, 1400, 3000].enumerated() {
            simulation.schedule(after: .microseconds(time)) { a.ports[0].transmit(numberedFrame(number)) }
        }
        simulation.schedule(after: .microseconds(1200)) { link.isUp = false }
        simulation.schedule(after: .microseconds(2000)) { link.isUp = true }
        simulation.run(for: .seconds(1))
        #expect(b.arrivals.map(\.frame) == [numberedFrame(0), numberedFrame(3)])
        #expect(link.statistics.droppedByPartition == 2)
    }

    @Test func `a packet that is too large is answered by ICMP, or vanishes`() {
        let simulation = Simulation(seed: 1)
        let (a, b) = (Recorder(simulation), Recorder(simulation))
        let link = simulation.connect(a, b)
        link.conditions.maximumTransmissionUnit = 80
        a.ports[0].transmit(numberedFrame(0))
        link.conditions.answersTooBig = false
        a.ports[0].transmit(numberedFrame(1))
        simulation.run(for: .seconds(1))
        #expect(b.arrivals.isEmpty && link.statistics.droppedBySize == 2)
        #expect(a.arrivals.count == 1)
        let answer = a.arrivals[0].frame
        #expect(answer[23] == 1 && answer[34] == 3 && answer[35] == 4 && answer[41] == 80)
        #expect(sum(answer[14..<34]) == 0 && sum(answer[34...]) == 0)
    }

    @Test func `a run replays from its seed, and another seed gives another`() {
        var conditions = LinkConditions(delay: .milliseconds(1), loss: 0.1)
        conditions.jitterNanoseconds = 1000
        let hashes = [5, 5, 6].map { exchange(conditions, seed: $0).2.hash }
        #expect(hashes[0] == hashes[1] && hashes[0] != hashes[2])
    }

    @Test func `a switch learns where stations are`() {
        let simulation = Simulation(seed: 1)
        let middle = SimulatedSwitch()
        let hosts = (0..<4).map { _ in Recorder(simulation) }
        for host in hosts { simulation.connect(host, middle) }
        hosts[0].ports[0].transmit(numberedFrame(0, to: 2, from: 1))
        simulation.run(for: .seconds(1))
        #expect(hosts.map(\.arrivals.count) == [0, 1, 1, 1])
        hosts[1].ports[0].transmit(numberedFrame(1, to: 1, from: 2))
        hosts[0].ports[0].transmit(numberedFrame(2, to: 2, from: 1))
        simulation.run(for: .seconds(1))
        #expect(hosts.map(\.arrivals.count) == [1, 2, 1, 1])
        #expect(middle.floodedFrames == 1)
    }
}
