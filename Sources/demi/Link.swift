import ArgumentParser
import Demikernel
import Glibc
import Synchronization

struct LinkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "link", abstract: "Joins two network interfaces to a bad network.",
        discussion: """
            What comes from either goes out of the other, late, or not at all, as the options say, each direction by its own chance that follows \
            from the seed: for machines without netem, and for stacks that are not ours. Neither interface should have an address, or its kernel \
            answers as well; offloads have to be off where the frames are made (ethtool -K NAME tx off tso off gso off gro off). Takes \
            CAP_NET_RAW. Prints "linking NAME and NAME" once it does, and on SIGINT or SIGTERM what became of the frames.

            Examples:
              demi link left0 right0 --loss 0.01 --delay 5ms
            """)

    @Argument(help: ArgumentHelp("The one interface.", valueName: "name")) var left: String
    @Argument(help: ArgumentHelp("The other.", valueName: "name")) var right: String

    @Option(help: ArgumentHelp("The chance that a frame is lost, 0 to 1.", valueName: "chance")) var loss = 0.0
    @Option(help: ArgumentHelp("The chance that a frame is held back for a fifth of the delay and overtaken.", valueName: "chance")) var reorder = 0.0
    @Option(help: ArgumentHelp("The chance that a frame comes twice.", valueName: "chance")) var duplicate = 0.0
    @Option(help: ArgumentHelp("How long each frame takes, in either direction.", valueName: "time")) var delay: TimeSpan?
    @Option(help: ArgumentHelp("Where chance begins.", valueName: "number")) var seed: UInt64 = 1
    @Option(help: ArgumentHelp("Run on this processor alone.", valueName: "number")) var cpu: Int?

    mutating func validate() throws {
        for (name, chance) in [("loss", loss), ("reorder", reorder), ("duplicate", duplicate)] where !(0...1).contains(chance) {
            throw ValidationError("--\(name): expected a chance from 0 to 1, found \(chance)")
        }
        guard left != right else { throw ValidationError("expected two interfaces, found \(left.quotedForMessage) twice") }
    }

    func run() throws {
        if let cpu { try Processors.pin(to: cpu) }
        try Interruption.handle { Self.stop.store(true, ordering: .relaxed) }
        let heap = try Heap(HeapConfiguration(limit: 1 << 30))
        heap.makeCurrent()
        var near = try end(left, seed: seed, heap)
        var far = try end(right, seed: seed &+ 1, heap)
        var burst = FrameBurst(heap: heap.reference)
        writeLine("linking \(left) and \(right)")
        while !Self.stop.load(ordering: .relaxed) {
            near.receive(into: &burst)
            var isIdle = burst.isEmpty
            far.transmit(&burst)
            far.receive(into: &burst)
            isIdle = isIdle && burst.isEmpty
            near.transmit(&burst)
            if isIdle { rest(&near, &far) }
        }
        report(left, right, far.outboundCounters, far.statistics)
        report(right, left, near.outboundCounters, near.statistics)
    }

    private static let stop = Atomic<Bool>(false)
    /// What the delay keeps on its way: at 10 Gbit/s and with frames of 1,500 bytes, that of 60 ms.
    private static var queueLimit: Int { 65_536 }

    private func end(_ name: String, seed: UInt64, _ heap: borrowing Heap) throws -> FaultyDevice<PacketSocketDevice> {
        var configuration = PacketSocketConfiguration(interface: name)
        configuration.takesAll = true
        configuration.mtu = 9_000
        configuration.ringSize = 4_096
        var faults = FaultSettings()
        faults.loss = loss
        faults.reorder = reorder
        faults.duplicate = duplicate
        if let delay { faults.delay = delay.nanoseconds }
        faults.reorderDelay = max(100_000, faults.delay / 5)
        faults.queueLimit = Self.queueLimit
        do throws(DemikernelError) {
            return try FaultyDevice(PacketSocketDevice(configuration), inbound: FaultSettings(), outbound: faults, seed: seed, heap: heap.reference)
        } catch {
            throw Failure("\(name): \(error)")
        }
    }

    /// Sleeps until a frame comes or one is due.
    private func rest(_ near: inout FaultyDevice<PacketSocketDevice>, _ far: inout FaultyDevice<PacketSocketDevice>) {
        let now = DeviceClock.monotonic.now()
        // Half a second at most: that signals are seen.
        let end = min(near.maintain(now: now), far.maintain(now: now), now &+ 500_000_000)
        guard end > now, near.prepareToSleep(), far.prepareToSleep() else { return }
        var files: InlineArray<2, pollfd> = [
            pollfd(fd: near.eventDescriptor ?? -1, events: Int16(POLLIN), revents: 0), pollfd(fd: far.eventDescriptor ?? -1, events: Int16(POLLIN), revents: 0),
        ]
        var span = files.mutableSpan
        _ = unsafe span.withUnsafeMutableBufferPointer { files in unsafe poll(files.baseAddress, 2, Int32((end - now) / 1_000_000)) }
        // What is left of a millisecond, which poll cannot wait for: a frame that comes meanwhile is late by 50 µs at most.
        if end - now < 1_000_000 { usleep(UInt32(min(50, (end - now) / 1_000))) }
        near.wake()
        far.wake()
    }

    private func report(_ from: String, _ to: String, _ counters: FaultCounters, _ statistics: NetworkDeviceStatistics) {
        writeLine(
            "\(from) to \(to): \(statistics.transmittedFrames.grouped) frames, \(counters.lost.grouped) lost, \(counters.reordered.grouped) overtaken, "
                + "\(counters.duplicated.grouped) twice, \((counters.overflowed + statistics.transmitDrops).grouped) too many")
    }
}
