/// Something that links connect: a host, a switch, or a box of your own.
///
/// Nodes act only when the simulation calls them, and read its clock alone: then a run replays from its seed.
public protocol SimulatedNode: AnyObject {
    /// A link was connected: `port` sends into it. Ports are numbered from 0 in the order in which they were connected.
    func connected(_ port: SimulatedPort)

    /// A frame has arrived, from its Ethernet header on, without a frame check sequence.
    func receive(_ frame: [UInt8], from port: SimulatedPort)

    /// The time has come that the node asked for with ``Simulation/wake(_:at:)``. `ticket` is what that call answered.
    func wake(ticket: UInt64)
}

extension SimulatedNode {
    public func wake(ticket: UInt64) {}
}

/// A node's end of a link.
public struct SimulatedPort {
    /// Its number at its node.
    public let number: Int
    /// The link that it is an end of; nil when the simulation, which owns links and through them the nodes, is no more.
    public private(set) weak var link: SimulatedLink?
    private weak var outward: LinkDirection?

    init(number: Int, link: SimulatedLink, outward: LinkDirection) {
        self.number = number
        self.link = link
        self.outward = outward
    }

    /// Sends a frame into the link.
    public func transmit(_ frame: [UInt8]) { outward?.transmit(frame) }
}
