import Demikernel

/// A network in virtual time: hosts, links and switches in one process and one thread, in which nothing happens by accident.
///
/// **How to use it.** Make a simulation from a seed, add hosts, connect them by links (or to a ``SimulatedSwitch`` where they are more than
/// two), and run it for as much virtual time as you like; it takes only as much real time as there is work. A ``SimulatedHost`` runs a whole
/// libOS, so that a PDPIX program can be tested over loss, reordering, partitions and slow links without a network; see there for an echo.
/// Links can be changed at any moment, by ``schedule(after:_:)`` at a moment of the future:
///
///     let simulation = Simulation(seed: 7)
///     let link = simulation.connect(client, server, LinkConditions(delay: .milliseconds(5), loss: 0.01))
///     simulation.schedule(after: .seconds(3)) { link.isUp = false }     // a partition,
///     simulation.schedule(after: .seconds(9)) { link.isUp = true }      // and its end
///     simulation.run(for: .seconds(60))
///
/// **Replay.** Time and chance come from the simulation alone. The same program with the same seed does the same again, event by event;
/// ``hash`` is made of every frame that was delivered and the moment at which it was, so that equal hashes prove equal runs. A failure is
/// reported by its seed, and found by running that seed again, with ``SimulatedLink/capture(to:)`` if need be.
///
/// **Order.** Events of one moment happen in the order in which they were caused. Nodes take no time to think: a frame that is answered is
/// answered at the moment of its arrival.
///
/// **Ownership.** A simulation owns its links, and they the nodes that they connect. Nodes that outlive it send into nothing.
public final class Simulation {
    /// What everything by chance follows from.
    public let seed: UInt64
    /// The virtual time in nanoseconds since the simulation began.
    public private(set) var now: UInt64 = 0
    /// For the program's own chance.
    public var random: SimulationRandom
    /// Of all deliveries so far: which frame, where and when.
    public private(set) var hash: UInt64 = 0x6a09_e667_f3bc_c908
    /// Events so far.
    public private(set) var stepCount: UInt64 = 0
    /// In the order in which they were connected.
    public private(set) var links: [SimulatedLink] = []
    /// Called after every event: where tests check what must always hold.
    package var afterStep: (() -> Void)?

    private var events = EventQueue()
    private var tickets: UInt64 = 0
    private var hostCount: UInt64 = 0

    /// An empty network.
    public init(seed: UInt64) {
        self.seed = seed
        random = SimulationRandom(seed: seed, part: 0)
    }

    // MARK: - Building

    /// Connects two nodes by a link, the same in both directions to begin with. `name` is for captures and messages.
    @discardableResult
    public func connect(
        _ first: any SimulatedNode, _ second: any SimulatedNode, _ conditions: LinkConditions = LinkConditions(), name: String? = nil
    ) -> SimulatedLink {
        let link = SimulatedLink(self, number: links.count, name: name ?? "link\(links.count)", conditions, first, second)
        links.append(link)
        return link
    }

    /// Lets go of the links, the nodes, and all that was to happen.
    func end() {
        links = []
        events = EventQueue()
    }

    // MARK: - Running

    /// Lets the next event happen. False where there is none left.
    @discardableResult
    public func step() -> Bool {
        guard let entry = events.removeFirst() else { return false }
        now = max(now, entry.time)
        stepCount += 1
        switch entry.event {
        case .arrival(let direction, let frame): direction.deliver(frame, in: self)
        case .wake(let node, let ticket): node.wake(ticket: ticket)
        case .action(let body): body()
        }
        afterStep?()
        return true
    }

    /// Runs what happens up to and including `time`, which is the time then.
    public func run(until time: UInt64) {
        while let next = events.next, next <= time { step() }
        now = max(now, time)
    }

    /// Runs for that much virtual time.
    public func run(for duration: Duration) { run(until: now &+ duration.nanosecondsClamped) }

    /// Runs until `condition` holds, which is asked after each event; false where it does not by `time`, or where nothing happens any more.
    @discardableResult
    public func run(until time: UInt64, orWhile condition: () -> Bool) -> Bool {
        while condition() {
            guard let next = events.next, next <= time else {
                now = max(now, time)
                return false
            }
            step()
        }
        return true
    }

    /// When the next event happens; nil where there is none.
    public var nextEvent: UInt64? { events.next }

    // MARK: - The future

    /// Has `body` called at `time` (now where that is past).
    public func schedule(at time: UInt64, _ body: @escaping () -> Void) { events.insert(.action(body), at: max(time, now)) }

    /// Has `body` called after that much virtual time.
    public func schedule(after duration: Duration, _ body: @escaping () -> Void) {
        schedule(at: now &+ duration.nanosecondsClamped, body)
    }

    /// Has the node's `wake` called at `time` with the ticket that this answers. There is no cancelling: a node that has asked again since
    /// ignores the older ticket.
    public func wake(_ node: any SimulatedNode, at time: UInt64) -> UInt64 {
        tickets += 1
        events.insert(.wake(node, ticket: tickets), at: max(time, now))
        return tickets
    }

    /// 1, 2, …: for the hosts' Ethernet addresses.
    func nextHostNumber() -> UInt64 {
        hostCount += 1
        return hostCount
    }

    func arrive(_ frame: [UInt8], at time: UInt64, through direction: LinkDirection) {
        events.insert(.arrival(direction, frame), at: time)
    }

    /// Takes a delivery into the hash.
    func note(_ frame: [UInt8], by direction: Int) {
        var value = hash ^ now &* 0x9e37_79b9_7f4a_7c15 ^ UInt64(direction) << 48 ^ UInt64(frame.count)
        unsafe frame.withUnsafeBytes { bytes in
            var offset = 0
            while offset + 8 <= bytes.count {
                value = unsafe (value ^ bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) &* 0xff51_afd7_ed55_8ccd
                value ^= value >> 32
                offset += 8
            }
            while offset < bytes.count {
                value = unsafe (value ^ UInt64(bytes[offset])) &* 0xff51_afd7_ed55_8ccd
                offset += 1
            }
        }
        hash = SimulationRandom.mix(value)
    }
}
