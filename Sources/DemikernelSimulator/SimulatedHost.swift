public import Demikernel

/// A host of a simulation that runs a whole libOS, with a PDPIX program on it.
///
/// The program is a step function: it is called when the host starts, when an operation has completed, and when a time has come that it asked
/// for with ``wake(after:)``. It submits operations and takes what has completed (``completion(of:)``); it never waits, as no time passes while
/// it runs. An echo server and a client that greets it:
///
///     let simulation = Simulation(seed: 7)
///     let server = try SimulatedHost(simulation, name: "server", address: "10.0.0.1/24")
///     let client = try SimulatedHost(simulation, name: "client", address: "10.0.0.2/24")
///     simulation.connect(server, client, LinkConditions(delay: .milliseconds(2), loss: 0.05))
///
///     let listener = try server.libOS.socket()
///     try server.libOS.bind(listener, to: .any(port: 7))
///     try server.libOS.listen(listener)
///     var accepting: QToken? = try server.libOS.accept(listener)
///     var popping: QToken?, connection: QueueDescriptor?
///     server.program = { host in
///         if let token = accepting, let completion = try host.completion(of: token) {
///             accepting = nil
///             connection = try completion.accepted()
///             popping = try host.libOS.pop(connection!)
///         }
///         if let token = popping, let completion = try host.completion(of: token) {
///             popping = nil
///             let message = try completion.popped()
///             guard !message.isEmpty else { return try host.libOS.close(connection!) }
///             _ = try host.libOS.push(connection!, message)
///             popping = try host.libOS.pop(connection!)
///         }
///     }
///     simulation.run(for: .seconds(10))
///
/// All hosts of a simulation share the simulation's thread. Between turns, calls of ``libOS`` go through ``use(_:)``, which makes the host's
/// heap the thread's.
public final class SimulatedHost: SimulatedNode {
    public let name: String
    /// The program's step. What it throws ends the program, and stands in ``failure``.
    public var program: ((SimulatedHost) throws -> Void)?
    /// Why the program ended.
    public private(set) var failure: (any Error)?

    private weak let simulation: Simulation?
    private let system: LibOS
    private let mailbox: SimulatedDevice.Mailbox
    private var port: SimulatedPort?
    private var wakeTime: UInt64?
    private var ticket: UInt64 = 0
    private var isInTurn = false

    /// A host with one address (`10.0.0.1/24`, `fd00::1/64`) on its link. Further settings of the libOS and its stack are in `configuration`.
    ///
    /// Throws EINVAL for an address that is none, and what starting a libOS throws.
    public init(
        _ simulation: Simulation, name: String, address: String, configuration: Configuration = Configuration()
    ) throws {
        let parts = address.split(separator: "/")
        guard parts.count == 2, let own = IPAddress(String(parts[0])), let length = Int(parts[1]) else {
            throw DemikernelError(.invalidArgument, "a simulated host's address is written as 10.0.0.1/24")
        }
        self.simulation = simulation
        self.name = name
        mailbox = SimulatedDevice.Mailbox()
        // An Ethernet address of its own: locally administered, from the order in which hosts are made.
        let hardware = 0x0200_0000_0000 + simulation.nextHostNumber()
        let device = SimulatedDevice(mailbox, NetworkDeviceCapabilities(address: hardware, name: name))
        let network = NetworkConfiguration(addresses: [.init(own, prefixLength: length)])
        system = try LibOS.simulated(
            configuration, device: .holding(device), network: network,
            entropy: NetworkEntropy(seed: SimulationRandom.mix(simulation.seed ^ hardware << 16)), now: simulation.now)
        schedule()
    }

    /// The host's libOS, for the program. Elsewhere see ``use(_:)``.
    public var libOS: LibOS {
        if !isInTurn { system.makeCurrent() }
        return system
    }

    /// Calls `body` with the libOS, from outside of the program; the host takes a turn afterwards.
    public func use<Result>(_ body: (LibOS) throws -> Result) rethrows -> Result {
        system.makeCurrent()
        defer { schedule() }
        return try body(system)
    }

    /// What an operation has become; nil while it is pending. Never waits. Throws EINVAL for a token that names no operation.
    public func completion(of token: QToken) throws -> Completion? {
        do throws(DemikernelError) {
            return try system.wait(token, timeout: .zero)
        } catch {
            if error.errno == .timedOut { return nil }
            throw error
        }
    }

    /// Has the program called again after that much virtual time, at the latest.
    public func wake(after duration: Duration) {
        simulation?.schedule(after: duration) { [weak self] in self?.turn(isForced: true) }
    }

    // MARK: - As a node

    public func connected(_ port: SimulatedPort) { self.port = port }

    public func receive(_ frame: [UInt8], from port: SimulatedPort) {
        mailbox.arrived.append(frame)
        schedule()
    }

    public func wake(ticket: UInt64) {
        guard ticket == self.ticket else { return }
        wakeTime = nil
        turn(isForced: false)
    }

    /// Has a turn taken at `time`, or now.
    private func schedule(at time: UInt64? = nil) {
        guard let simulation else { return }
        let time = max(time ?? 0, simulation.now)
        if let wakeTime, wakeTime <= time { return }
        wakeTime = time
        ticket = simulation.wake(self, at: time)
    }

    private var hasStarted = false

    private func turn(isForced: Bool) {
        guard let simulation else { return }
        isInTurn = true
        let hasCompleted = system.turn(now: simulation.now)
        if hasCompleted || isForced || !hasStarted, failure == nil, let program {
            hasStarted = true
            do { try program(self) } catch { failure = error }
            // What it has submitted may go out, or complete, at once.
            schedule()
        }
        system.transmit()
        isInTurn = false
        for frame in mailbox.sent { port?.transmit(frame) }
        mailbox.sent.removeAll(keepingCapacity: true)
        if let deadline = system.nextDeadline { schedule(at: deadline) }
    }
}

/// What a simulated host's libOS takes for a network device: two lists of frames.
struct SimulatedDevice: NetworkDevice, ~Copyable {
    final class Mailbox {
        var arrived: [[UInt8]] = []
        var sent: [[UInt8]] = []
    }

    let capabilities: NetworkDeviceCapabilities
    private(set) var statistics = NetworkDeviceStatistics()
    private let mailbox: Mailbox

    init(_ mailbox: Mailbox, _ capabilities: NetworkDeviceCapabilities) {
        self.mailbox = mailbox
        self.capabilities = capabilities
    }

    mutating func receive(into burst: inout FrameBurst) {
        // Apart: with the thread sanitizer the compiler (6.3.1) cannot make code for changing it through `self`.
        let mailbox = mailbox
        var taken = 0
        while taken < mailbox.arrived.count, !burst.isFull {
            let frame = mailbox.arrived[taken]
            taken += 1
            if unsafe burst.append(byteCount: frame.count, fill: { target in unsafe target.copyBytes(from: frame) }) {
                statistics.receivedFrames += 1
                statistics.receivedBytes += UInt64(frame.count)
            } else {
                statistics.receiveDrops += 1
            }
        }
        mailbox.arrived.removeFirst(taken)
    }

    mutating func transmit(_ burst: inout FrameBurst) {
        let mailbox = mailbox
        while !burst.isEmpty {
            var bytes = [UInt8](repeating: 0, count: burst.firstByteCount)
            _ = unsafe bytes.withUnsafeMutableBytes { unsafe burst.removeFirst(copyingTo: $0) }
            statistics.transmittedFrames += 1
            statistics.transmittedBytes += UInt64(bytes.count)
            mailbox.sent.append(bytes)
        }
    }
}
