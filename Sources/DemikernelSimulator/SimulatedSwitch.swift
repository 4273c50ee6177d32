/// An Ethernet switch that learns: for more than two hosts, each connected to it by a link of its own.
///
/// It sends a frame out of the port at which its destination was last seen as a source, and out of all others while that is not known, or where
/// the destination is a group. It takes no time and loses nothing; the links do.
public final class SimulatedSwitch: SimulatedNode {
    private var ports: [SimulatedPort] = []
    private var places: [UInt64: Int] = [:]
    /// Frames that went out of more than one port.
    public private(set) var floodedFrames: UInt64 = 0
    /// Stations that it remembers at most; more are flooded to.
    public static var stationsMaximum: Int { 4096 }

    public init() {}

    public func connected(_ port: SimulatedPort) { ports.append(port) }

    public func receive(_ frame: [UInt8], from port: SimulatedPort) {
        guard frame.count >= 14 else { return }
        let source = frame.address(6)
        if !isGroup(source), places[source] != nil || places.count < Self.stationsMaximum { places[source] = port.number }
        let destination = frame.address(0)
        if !isGroup(destination), let place = places[destination] {
            if place != port.number { ports[place].transmit(frame) }
            return
        }
        floodedFrames += 1
        for other in ports where other.number != port.number { other.transmit(frame) }
    }

    private func isGroup(_ address: UInt64) -> Bool { address >> 40 & 1 == 1 }
}
