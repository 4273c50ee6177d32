/// A wire between two nodes with conditions of its own in each direction, which may change at any moment.
public final class SimulatedLink {
    /// For captures and messages.
    public let name: String
    private let directions: (LinkDirection, LinkDirection)

    /// One direction of a link.
    public enum Direction: Sendable {
        /// From the node that was named first to the second.
        case forward
        case backward
    }

    init(
        _ simulation: Simulation, number: Int, name: String, _ conditions: LinkConditions, _ first: any SimulatedNode,
        _ second: any SimulatedNode
    ) {
        self.name = name
        directions = (
            LinkDirection(simulation, number: number * 2, conditions), LinkDirection(simulation, number: number * 2 + 1, conditions)
        )
        let ports = (
            SimulatedPort(number: directions.0.portNumber(at: first, of: simulation), link: self, outward: directions.0),
            SimulatedPort(number: directions.1.portNumber(at: second, of: simulation), link: self, outward: directions.1)
        )
        directions.0.attach(to: second, port: ports.1, reverse: directions.1)
        directions.1.attach(to: first, port: ports.0, reverse: directions.0)
        first.connected(ports.0)
        second.connected(ports.1)
    }

    /// The conditions in both directions; reading answers the forward ones.
    public var conditions: LinkConditions {
        get { directions.0.conditions }
        set {
            directions.0.conditions = newValue
            directions.1.conditions = newValue
        }
    }

    /// The conditions in one direction.
    public subscript(direction: Direction) -> LinkConditions {
        get { direction == .forward ? directions.0.conditions : directions.1.conditions }
        set { if direction == .forward { directions.0.conditions = newValue } else { directions.1.conditions = newValue } }
    }

    /// Whether frames pass; reading asks for both directions.
    public var isUp: Bool {
        get { directions.0.conditions.isUp && directions.1.conditions.isUp }
        set {
            directions.0.conditions.isUp = newValue
            directions.1.conditions.isUp = newValue
        }
    }

    /// Of both directions.
    public var statistics: LinkStatistics {
        var sum = directions.0.statistics
        sum += directions.1.statistics
        return sum
    }

    /// Of one direction.
    public func statistics(_ direction: Direction) -> LinkStatistics {
        direction == .forward ? directions.0.statistics : directions.1.statistics
    }

    /// Has `body` called with every frame that is delivered, before the node has it.
    package func observe(_ body: ((_ frame: [UInt8], _ time: UInt64, _ direction: Direction) -> Void)?) {
        directions.0.observer = body.map { body in { body($0, $1, .forward) } }
        directions.1.observer = body.map { body in { body($0, $1, .backward) } }
    }
}

/// One direction of a link: what happens to a frame between a node's port and the other's.
final class LinkDirection {
    var conditions: LinkConditions
    private(set) var statistics = LinkStatistics()
    var observer: ((_ frame: [UInt8], _ time: UInt64) -> Void)?

    private weak let simulation: Simulation?
    private let number: Int
    private var random: SimulationRandom
    private var target: (node: any SimulatedNode, port: SimulatedPort)?
    private weak var reverse: LinkDirection?
    private var isInBurst = false
    /// When the wire is free again, where its speed is limited.
    private var busyUntil: UInt64 = 0
    /// When the last frame that was not held back arrives: later ones do not overtake it.
    private var lastArrival: UInt64 = 0

    init(_ simulation: Simulation, number: Int, _ conditions: LinkConditions) {
        self.simulation = simulation
        self.number = number
        self.conditions = conditions
        random = SimulationRandom(seed: simulation.seed, part: UInt64(number) + 1)
    }

    func attach(to node: any SimulatedNode, port: SimulatedPort, reverse: LinkDirection) {
        target = (node, port)
        self.reverse = reverse
    }

    /// The number of the port that is about to be connected to `node`.
    func portNumber(at node: any SimulatedNode, of simulation: Simulation) -> Int {
        simulation.links.reduce(0) { $0 + $1.ends(at: node) }
    }

    fileprivate func leads(to node: any SimulatedNode) -> Bool { target?.node === node }

    func transmit(_ frame: [UInt8]) {
        guard let simulation else { return }
        statistics.sentFrames += 1
        statistics.sentBytes += UInt64(frame.count)
        // Every draw is made for every frame, so that a change of one condition leaves the others' history alone.
        let isLost = random.chance(conditions.loss)
        let isLostInBurst = drawBurst()
        let isHeldBack = random.chance(conditions.reorder)
        let isDuplicated = random.chance(conditions.duplicate)
        let isCorrupted = random.chance(conditions.corrupt)
        let draw = random.next()

        guard conditions.isUp else { return statistics.droppedByPartition += 1 }
        guard frame.packetByteCount <= conditions.maximumTransmissionUnit else {
            statistics.droppedBySize += 1
            if conditions.answersTooBig, let answer = frame.tooBigAnswer(mtu: conditions.maximumTransmissionUnit) {
                reverse?.arrive(answer, in: simulation)
            }
            return
        }
        guard !isLost else { return statistics.lost += 1 }
        guard !isLostInBurst else { return statistics.lostInBursts += 1 }
        var frame = frame
        guard let departure = depart(&frame, at: simulation.now) else { return statistics.droppedByQueue += 1 }
        if isCorrupted {
            statistics.corrupted += 1
            guard frame.corrupt(draw) else { return }
        }
        var arrival = departure &+ conditions.delayNanoseconds &+ SimulationRandom.mix(draw) % (conditions.jitterNanoseconds &+ 1)
        if isHeldBack {
            statistics.reordered += 1
            arrival &+= 1 &+ draw % max(1, conditions.reorderNanoseconds)
        } else {
            arrival = max(arrival, lastArrival)
            lastArrival = arrival
        }
        simulation.arrive(frame, at: arrival, through: self)
        if isDuplicated {
            statistics.duplicated += 1
            simulation.arrive(frame, at: arrival &+ draw >> 8 % max(1, conditions.reorderNanoseconds), through: self)
        }
    }

    private func drawBurst() -> Bool {
        guard let burst = conditions.burstLoss else { return false }
        isInBurst = random.chance(isInBurst ? 1 - burst.end : burst.begin)
        return isInBurst && random.chance(burst.loss)
    }

    /// Waits for the wire: answers when the frame's last bit has left; nil where there is no room to wait.
    private func depart(_ frame: inout [UInt8], at now: UInt64) -> UInt64? {
        guard let speed = conditions.bitsPerSecond, speed > 0 else { return now }
        let start = max(now, busyUntil)
        let waiting = Int(clamping: scaled(start - now, by: speed, over: 8_000_000_000))
        guard waiting + frame.count <= conditions.queueBytes else { return nil }
        if let mark = conditions.markBytes, waiting >= mark, frame.markCongestion() { statistics.marked += 1 }
        busyUntil = start &+ scaled(UInt64(frame.count), by: 8_000_000_000, over: speed)
        return busyUntil
    }

    /// The frame's arrival without conditions: for answers that the link itself gives.
    fileprivate func arrive(_ frame: [UInt8], in simulation: Simulation) {
        simulation.arrive(frame, at: simulation.now &+ conditions.delayNanoseconds, through: self)
    }

    func deliver(_ frame: [UInt8], in simulation: Simulation) {
        guard conditions.isUp else { return statistics.droppedByPartition += 1 }
        statistics.deliveredFrames += 1
        statistics.deliveredBytes += UInt64(frame.count)
        simulation.note(frame, by: number)
        observer?(frame, simulation.now)
        if let target { target.node.receive(frame, from: target.port) }
    }
}

extension SimulatedLink {
    fileprivate func ends(at node: any SimulatedNode) -> Int {
        (directions.0.leads(to: node) ? 1 : 0) + (directions.1.leads(to: node) ? 1 : 0)
    }
}

/// `value * factor / divisor`, as large as a UInt64 can be at most. The divisor is not 0.
private func scaled(_ value: UInt64, by factor: UInt64, over divisor: UInt64) -> UInt64 {
    let product = value.multipliedFullWidth(by: factor)
    return product.high >= divisor ? .max : divisor.dividingFullWidth(product).quotient
}
