/// What broke in a run of the scenario, and how to see it again.
public struct ScenarioFailure: Error, Sendable, Equatable, CustomStringConvertible {
    public let seed: UInt64
    /// The virtual time, in nanoseconds.
    public let time: UInt64
    /// What diverged from what, in one line.
    public let what: String
    /// The command that shows it again.
    public let replay: String

    public var description: String { "seed \(seed), at \(Self.seconds(time)) s: \(what) (replay: \(replay))" }

    static func seconds(_ nanoseconds: UInt64) -> String {
        let micro = String(nanoseconds % 1_000_000_000 / 1000)
        return "\(nanoseconds / 1_000_000_000)." + String(repeating: "0", count: 6 - micro.count) + micro
    }
}

/// What a run of the scenario did.
public struct ScenarioReport: Sendable {
    public var seed: UInt64 = 0
    /// Of the run's deliveries: equal for equal runs.
    public var hash: UInt64 = 0
    public var virtualNanoseconds: UInt64 = 0
    public var steps: UInt64 = 0
    public var hosts = 0
    /// What the links did.
    public var links = LinkStatistics()
    /// Bytes of streams that arrived and were compared.
    public var streamBytes: UInt64 = 0
    public var connections: UInt64 = 0
    /// Connections that ended as they should have: with every byte of both sides delivered, or refused, or reset on purpose.
    public var completed: UInt64 = 0
    public var resets: UInt64 = 0
    public var refused: UInt64 = 0
    /// Connections that gave up while the network was impaired.
    public var timeouts: UInt64 = 0
    public var datagramsSent: UInt64 = 0
    public var datagramsReceived: UInt64 = 0
    public var retransmissions: UInt64 = 0
    public var partitions: UInt64 = 0
    public var peakHeapBytes = 0
    /// Frames that an attacker has sent, and what the hosts' stacks have counted as refused, dropped or limited.
    public var attackFrames: UInt64 = 0
    public var defences: UInt64 = 0
    /// The same by counter, as `tcp.notForUs`.
    package var defenceCounters: [String: UInt64] = [:]
    public var failure: ScenarioFailure?
    /// The run was interrupted.
    public var wasInterrupted = false

    public init() {}

    /// Adds another run's counts; the hashes are combined in order.
    public mutating func add(_ other: ScenarioReport) {
        hash = SimulationRandom.mix(hash ^ other.hash)
        virtualNanoseconds += other.virtualNanoseconds
        steps += other.steps
        hosts += other.hosts
        links += other.links
        streamBytes += other.streamBytes
        connections += other.connections
        completed += other.completed
        resets += other.resets
        refused += other.refused
        timeouts += other.timeouts
        datagramsSent += other.datagramsSent
        datagramsReceived += other.datagramsReceived
        retransmissions += other.retransmissions
        partitions += other.partitions
        peakHeapBytes = max(peakHeapBytes, other.peakHeapBytes)
        attackFrames += other.attackFrames
        defences += other.defences
        defenceCounters.merge(other.defenceCounters) { $0 + $1 }
    }
}
