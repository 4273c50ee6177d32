import ArgumentParser
import CDemikernelShims
import Demikernel
import Glibc
import Synchronization

struct FramesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "frames", abstract: "Exchanges bare Ethernet frames over a device, without a network stack.",
        discussion: """
            What a device costs by itself, and whether it reaches its peer.

            Examples:
              demi frames serve --memif /tmp/memif.sock --cpu 0
              demi frames ping --memif /tmp/memif.sock --cpu 1
            """,
        subcommands: [FramesServeCommand.self, FramesPingCommand.self])
}

/// Which device, for both halves.
struct FramesOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The memif socket's path; a name in the abstract namespace where it begins with @.", valueName: "path"))
    var memif: String

    @Option(help: "Who listens on the socket: server or client. Without it serve is the server, and ping the client.")
    var role: MemifConfiguration.Role?

    @Option(help: ArgumentHelp("The memif interface's number.", valueName: "number"))
    var identifier: UInt32 = 0

    @Option(help: ArgumentHelp("The memif secret, up to 24 bytes.", valueName: "text"))
    var secret = ""

    @Option(help: ArgumentHelp("Rings in each direction.", valueName: "number"))
    var rings = 1

    @Option(help: ArgumentHelp("Descriptors of a ring, a power of two.", valueName: "number"))
    var ringSize = 1024

    @Option(help: ArgumentHelp("Bytes of a buffer in shared memory.", valueName: "bytes"))
    var bufferSize = 2048

    @Option(help: ArgumentHelp("The largest IP packet, in bytes.", valueName: "bytes"))
    var mtu = 1500

    @Option(help: ArgumentHelp("Run on this processor alone.", valueName: "number"))
    var cpu: Int?

    @Flag(help: "Sleep while there is nothing to do, instead of polling.") var sleep = false

    @Flag(help: "Print one JSON object at the end.") var json = false

    func device(_ role: MemifConfiguration.Role, address: UInt64) throws -> MemifDevice {
        var configuration = MemifConfiguration(role: self.role ?? role, socketPath: memif, address: address)
        configuration.interfaceIdentifier = identifier
        configuration.secret = secret
        configuration.rings = rings
        configuration.ringSize = ringSize
        configuration.bufferSize = bufferSize
        configuration.mtu = mtu
        if let cpu { try Processors.pin(to: cpu) }
        return try MemifDevice(configuration)
    }
}

extension MemifConfiguration.Role: ExpressibleByArgument {}

/// Polls a device, and looks after its link, until a signal comes.
struct FramesLoop: ~Copyable {
    private static let stop = Atomic<Bool>(false)
    /// Polls without a frame between two looks at the clock.
    private static var idleTurns: Int { 2048 }

    let heap: Heap
    var device: MemifDevice
    var burst: FrameBurst
    private var clock = Clock()
    private let sleeps: Bool
    private var turns = 0
    private(set) var now: UInt64 = 0

    init(_ device: consuming MemifDevice, sleeps: Bool) throws {
        try Interruption.handle { Self.stop.store(true, ordering: .relaxed) }
        let heap = try Heap(HeapConfiguration(limit: 256 << 20))
        heap.makeCurrent()
        burst = FrameBurst(heap: heap.reference)
        self.heap = heap
        self.device = device
        self.sleeps = sleeps
        now = clock.now()
    }

    var isStopped: Bool { Self.stop.load(ordering: .relaxed) }

    mutating func time() -> UInt64 {
        now = clock.now()
        return now
    }

    /// Takes what has come, into an empty burst. Looks after the link, and may sleep until `deadline`, where nothing has.
    @inline(__always)
    mutating func receive(until deadline: UInt64 = .max) {
        device.receive(into: &burst)
        if burst.isEmpty { idle(until: deadline) }
    }

    /// Transmits the burst. Looks after the link where the device has no room, as the peer may have gone: then the frames are dropped.
    @inline(__always)
    mutating func transmitAll(until deadline: UInt64 = .max) {
        device.transmit(&burst)
        if !burst.isEmpty { transmitSlowly(deadline) }
    }

    @inline(never)
    private mutating func transmitSlowly(_ deadline: UInt64) {
        while !burst.isEmpty, !isStopped {
            turns += 1
            if turns >= Self.idleTurns {
                turns = 0
                if time() >= deadline { return }
                _ = device.maintain(now: now)
            }
            device.transmit(&burst)
        }
    }

    @inline(__always)
    private mutating func idle(until deadline: UInt64) {
        turns += 1
        if sleeps || turns >= Self.idleTurns || !device.isConnected { lookAfter(until: deadline) }
    }

    @inline(never)
    private mutating func lookAfter(until deadline: UInt64) {
        turns = 0
        let wanted = device.maintain(now: time())
        guard sleeps || !device.isConnected, device.prepareToSleep() else { return }
        // Half a second at most: that signals are seen.
        let end = min(wanted, deadline, now &+ 500_000_000)
        var poll = pollfd(fd: device.eventDescriptor ?? -1, events: Int16(POLLIN), revents: 0)
        if end > now { unsafe _ = Glibc.poll(&poll, 1, Int32((end - now + 999_999) / 1_000_000)) }
        device.wake()
        _ = device.maintain(now: time())
    }

    func addStatistics(to object: inout JSONObject) {
        let statistics = device.statistics
        object.add("receivedFrames", statistics.receivedFrames)
        object.add("transmittedFrames", statistics.transmittedFrames)
        object.add("receiveDrops", statistics.receiveDrops)
        object.add("transmitDrops", statistics.transmitDrops)
        object.add("transmitStalls", statistics.transmitStalls)
        object.add("malformed", statistics.malformed)
        object.add("disconnections", statistics.disconnections)
        object.add("peer", device.peerName)
    }
}
