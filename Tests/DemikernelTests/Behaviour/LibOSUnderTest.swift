import Glibc
import Testing
@testable import Demikernel

/// The PDPIX behaviour suite: what every libOS has to do, whatever device is behind it. A new libOS is one more row in ``LibOSUnderTest/all``.
///
/// Serialised, so that a failure says something about the libOS and not about its neighbours, and because some tests need thousands of
/// descriptors. The tests of one subject are in one file, as a suite in an extension.
@Suite(.serialized) struct PDPIXBehaviour {}

/// One libOS in one configuration, and what the suite has to know about it.
struct LibOSUnderTest: Sendable, CustomTestStringConvertible {
    /// What not every libOS has; a test that needs it is skipped for one that has not.
    struct Capabilities: OptionSet, Sendable {
        let rawValue: Int
        /// IPv6 sockets.
        static let ipv6 = Capabilities(rawValue: 1)
        /// Files as queues.
        static let files = Capabilities(rawValue: 2)
        /// A datagram to a closed port makes a later operation of a connected socket fail (ICMP port unreachable).
        static let datagramRefusal = Capabilities(rawValue: 4)
        /// A listener whose accept queue is full lets the next connection wait, as Linux does.
        static let fullBacklogStalls = Capabilities(rawValue: 8)
        /// Plain kernel sockets of this machine reach it.
        static let kernelPeer = Capabilities(rawValue: 16)
        /// What is under way lies in the kernel's memory: the heap has what the application has, and nothing else, and a pop allocates.
        static let kernelBuffers = Capabilities(rawValue: 32)
        /// libOSes on several threads, started alike, are in one network.
        static let sharedNetwork = Capabilities(rawValue: 64)
        /// Several TCP sockets share a port where all have SO_REUSEPORT.
        static let sharedPorts = Capabilities(rawValue: 128)
    }

    let name: String
    let configuration: Configuration
    let capabilities: Capabilities
    var testDescription: String { name }

    /// The address families that the libOS has.
    var families: [AddressFamily] { capabilities.contains(.ipv6) ? [.ipv4, .ipv6] : [.ipv4] }
    /// An address of this libOS; port 0 lets the system choose.
    func address(_ family: AddressFamily = .ipv4, port: UInt16 = 0) -> SocketAddress {
        guard !capabilities.contains(.kernelPeer) else { return .loopback(family, port: port) }
        return family == .ipv4 ? .ipv4(0x0a75_0001, port: port) : .ipv6(0xfd00_0117_0000_0000, 1, port: port)
    }
    /// An address that is nobody's here (RFC 5737, RFC 3849).
    func foreignAddress(_ family: AddressFamily = .ipv4) -> SocketAddress {
        family == .ipv4 ? .ipv4(0xc000_0201, port: 7) : .ipv6(0x2001_0db8_0000_0000, 1, port: 7)
    }

    /// Starts the libOS on a thread of its own, runs `body` there and sees that nothing is left behind: no queue, no operation, no memory, and no more
    /// faults of the heap than were expected.
    func run(
        at location: SourceLocation = #_sourceLocation, adjusting: (@Sendable (inout Configuration) -> Void)? = nil, faults expectedFaults: Int = 0,
        _ body: @escaping @Sendable (LibOS) throws -> Void
    ) async throws {
        var configuration = configuration
        adjusting?(&configuration)
        let settings = configuration
        try await onOwnThread {
            let libOS = try LibOS(settings)
            try body(libOS)
            try libOS.expectNothingLeft(faults: expectedFaults, at: location)
        }
    }
}

extension LibOSUnderTest {
    static let catnapCapabilities: Capabilities = [
        .ipv6, .files, .datagramRefusal, .fullBacklogStalls, .kernelPeer, .kernelBuffers, .sharedNetwork, .sharedPorts,
    ]
    static let stackCapabilities: Capabilities = [.ipv6, .files, .datagramRefusal, .fullBacklogStalls]

    /// Catnap in a configuration.
    private static func catnap(_ name: String, _ adjust: (inout Configuration) -> Void) -> LibOSUnderTest {
        libOS("catnap", name, catnapCapabilities, adjust)
    }

    /// A libOS in a configuration. Tables are small, so that starting one is cheap.
    private static func libOS(
        _ libOS: String, _ name: String, _ capabilities: Capabilities, _ adjust: (inout Configuration) -> Void
    ) -> LibOSUnderTest {
        var configuration = Configuration()
        configuration.libOS = libOS
        configuration.heap.limit = 256 << 20
        configuration.heap.lockPages = false
        configuration.operations.capacity = 8_192
        configuration.descriptors.capacity = 4_096
        adjust(&configuration)
        return LibOSUnderTest(name: "\(libOS), \(name)", configuration: configuration, capabilities: capabilities)
    }

    /// A network stack over a ring that brings back what is sent.
    private static func catloop(_ name: String, _ adjust: (inout Configuration) -> Void) -> LibOSUnderTest {
        libOS("catloop", name, stackCapabilities, adjust)
    }

    /// A network stack over memif, with a reflector at the other end.
    private static func catnip(_ name: String, _ adjust: (inout Configuration) -> Void) -> LibOSUnderTest {
        libOS("catnip", name, stackCapabilities) {
            $0.memif.socket = Reflector.socket
            $0.network.addresses = ["10.117.0.1/24", "fd00:117::1/64"]
            $0.network.localDelivery = .device
            adjust(&$0)
        }
    }

    /// A network stack over one end of a virtual Ethernet, with a reflector at the other. No rows where this machine or this user cannot have one.
    private static func catpowder(_ name: String, _ adjust: (inout Configuration) -> Void) -> [LibOSUnderTest] {
        guard let link = Reflector.link else { return [] }
        return [libOS("catpowder", name, stackCapabilities) {
            $0.catpowder.interface = "near0"
            $0.catpowder.namespace = link.near
            $0.network.addresses = ["10.117.0.1/24", "fd00:117::1/64"]
            $0.network.localDelivery = .device
            adjust(&$0)
        }]
    }

    /// Every libOS in every way in which it learns what its device has; with DEMI_TEST_ROWS=brief (Scripts/sanitize: under a sanitizer each row
    /// takes several times as long) each of them in some.
    static let all: [LibOSUnderTest] = {
        guard let rows = unsafe getenv("DEMI_TEST_ROWS"), unsafe String(cString: rows) == "brief" else { return everyRow }
        let brief = [
            "catnap, polling", "catnap, sleeping", "catnap, checked heap", "catloop, sleeping", "catnip, polling", "catpowder, sleeping",
        ]
        return everyRow.filter { row in brief.contains { row.name.hasPrefix($0) } }
    }()

    private static let everyRow: [LibOSUnderTest] = [
        catnap("polling its sockets") {
            $0.catnap.directPollLimit = 1_024
            $0.wait.spin = .forever
        },
        catnap("polling epoll") {
            $0.catnap.directPollLimit = 0
            $0.wait.spin = .forever
        },
        catnap("sleeping") { $0.wait.spin = .atMost(.zero) },
        catnap("checked heap") { $0.heap.checked = true },
        catloop("polling") { $0.wait.spin = .forever },
        catloop("sleeping") { $0.wait.spin = .atMost(.zero) },
        catloop("checked heap, software checksums") {
            $0.heap.checked = true
            $0.network.checksumOffload = false
        },
        catnip("polling") { $0.wait.spin = .forever },
        catnip("sleeping, checked heap") {
            $0.wait.spin = .atMost(.zero)
            $0.heap.checked = true
        },
    ] + catpowder("polling") { $0.wait.spin = .forever }
        + catpowder("sleeping, checked heap, software checksums") {
            $0.wait.spin = .atMost(.zero)
            $0.heap.checked = true
            $0.network.checksumOffload = false
        }
        + catpowder("AF_XDP, polling") {
            $0.catpowder.device = .xdp
            $0.catpowder.xdpMemory = 8 << 20
            $0.catpowder.ringSize = 256
            $0.wait.spin = .forever
        }

    /// The libOSes that have files, by each way to the device.
    static let withFiles: [LibOSUnderTest] = [
        catnap("files by io_uring") { $0.catnap.files.ioUring = .prefer },
        catnap("files by io_uring, sleeping, checked heap") {
            $0.catnap.files.ioUring = .prefer
            $0.wait.spin = .atMost(.zero)
            $0.heap.checked = true
        },
        catnap("files by a thread") { $0.catnap.files.ioUring = .never },
        catnap("files by a thread, sleeping, checked heap") {
            $0.catnap.files.ioUring = .never
            $0.wait.spin = .atMost(.zero)
            $0.heap.checked = true
        },
    ]
}

// MARK: - Threads

/// Runs `body` on a thread made for it. The thread is the executor of a task of the test, so that expectations know which test they are of.
func onOwnThread<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
    try await Task(executorPreference: OwnThread()) { try body() }.value
}

/// Runs each job on a new thread. A task that never suspends is one job.
private final class OwnThread: TaskExecutor {
    private final class Work: Sendable {
        let job: UnownedJob
        let executor: OwnThread
        init(_ job: UnownedJob, _ executor: OwnThread) {
            self.job = job
            self.executor = executor
        }
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let work = unsafe Unmanaged.passRetained(Work(UnownedJob(job), self)).toOpaque()
        var thread = pthread_t()
        let status = unsafe pthread_create(&thread, nil, { context in
            let work = unsafe Unmanaged<Work>.fromOpaque(context!).takeRetainedValue()
            unsafe work.job.runSynchronously(on: work.executor.asUnownedTaskExecutor())
            return nil
        }, work)
        precondition(status == 0, "the system has no thread for a test")
        pthread_detach(thread)
    }
}

/// Runs `body` with a buffer on a plain thread, which is no libOS's, and waits for its end.
func onPlainThread(carrying buffer: consuming Buffer, _ body: @escaping @Sendable (borrowing Buffer) -> Void) throws {
    let cargo = Cargo(buffer, body)
    let context = unsafe Unmanaged.passRetained(cargo).toOpaque()
    var thread = pthread_t()
    let status = unsafe pthread_create(&thread, nil, { context in
        unsafe Unmanaged<Cargo>.fromOpaque(context!).takeRetainedValue().deliver()
        return nil
    }, context)
    precondition(status == 0, "the system has no thread for a test")
    pthread_join(thread, nil)
}

private final class Cargo: Sendable {
    private let buffer: Lock<Buffer?>
    private let body: @Sendable (borrowing Buffer) -> Void

    init(_ buffer: consuming Buffer, _ body: @escaping @Sendable (borrowing Buffer) -> Void) {
        self.buffer = Lock(.some(buffer))
        self.body = body
    }

    func deliver() {
        let buffer: Buffer? = buffer.withLock { $0.take() }
        if let buffer { body(buffer) }
    }
}

// MARK: - Nothing left behind

extension LibOS {
    /// Closes what is open, waits for what that cancels, and expects the libOS to be as empty as at its start.
    func expectNothingLeft(faults expectedFaults: Int = 0, at location: SourceLocation = #_sourceLocation) throws {
        for index in 0..<core.queues.end where core.queues[index].kind != .free { try close(core.queues.descriptor(of: index)) }
        while core.operations.count > 0 { try waitNext(.max, timeout: .patience) { _ = $0 } }
        core.heap.drainReturns()
        settle()
        let statistics = core.heap.statistics
        let faults = core.heap.faults
        let counts = (queues: core.queues.count, blocked: core.catnap.blocked.count, unregistered: core.catnap.blocked.unregistered)
        #expect(counts.queues == 0, sourceLocation: location)
        #expect(counts.blocked == 0 && counts.unregistered == 0, sourceLocation: location)
        #expect(liveObjects == 0, "memory leaked: \(statistics.liveBytes) bytes", sourceLocation: location)
        #expect(faults.count == expectedFaults, "\(faults)", sourceLocation: location)
    }

    /// Turns until nothing of what connections held is under way any more: acknowledgements, and what goes round in the device. For libOSes
    /// whose network is in the kernel there is nothing to wait for.
    func settle(to counts: ClosedRange<Int> = 0...0) {
        guard core.network.isPresent else { return }
        let deadline = core.clock.now() + Duration.patience.nanosecondsClamped
        while !counts.contains(liveObjects), core.clock.now() < deadline { core.idleTurn() }
    }

    /// Expects so many objects to be referenced once what is under way has come to its end. A connection of a network stack in the libOS may keep
    /// two more for its queues, for as long as it is open.
    func expectLiveObjects(_ count: Int, at location: SourceLocation = #_sourceLocation) {
        var most = count
        for index in 0..<core.queues.end where core.queues[index].kind == .networkStream { most += 2 }
        settle(to: count...most)
        #expect(liveObjects >= count && liveObjects <= most, sourceLocation: location)
    }

    /// Heap objects that are referenced, by the application or by the libOS, without those that a device has for frames to come.
    var liveObjects: Int { core.heap.statistics.liveObjects - (networkStatistics?.device.heldBuffers ?? 0) }
    var liveBytes: Int { core.heap.statistics.liveBytes }
}

extension Duration {
    /// How long the suite waits for what has to come. Never a pass condition: only a libOS that hangs reaches it.
    static let patience = Duration.seconds(60)
}
