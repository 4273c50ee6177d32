/// What the network stack and the device of a libOS have done since its start: ``LibOS/networkStatistics``.
public struct NetworkStatistics: Sendable {
    /// One number, counted up since the start.
    public struct Counter: Sendable, Equatable {
        /// `ip` (with Ethernet, ARP, NDP and ICMP), `udp` or `tcp`.
        public let layer: String
        /// What is counted, as `framesReceived`.
        public let name: String
        /// The count.
        public let value: UInt64
    }

    /// The device's numbers.
    public let device: NetworkDeviceStatistics
    /// Whether frames can be exchanged now.
    public let isConnected: Bool
    /// Every counter of the stack, layer by layer.
    public let counters: [Counter]

    /// One counter; nil where there is none of that name.
    public subscript(layer: String, name: String) -> UInt64? { counters.first { $0.layer == layer && $0.name == name }?.value }

    /// The numbers that `counters`, a structure of them, has, by their names.
    package static func list(_ counters: Any, _ layer: String) -> [Counter] {
        Mirror(reflecting: counters).children.compactMap { child in
            guard let name = child.label, let value = child.value as? UInt64 else { return nil }
            return Counter(layer: layer, name: name, value: value)
        }
    }
}

extension LibOS {
    /// What the network stack has done; nil for a libOS whose network is the kernel's. Complexity: O(counters), with allocations: not for hot
    /// loops.
    public var networkStatistics: NetworkStatistics? {
        guard core.network.isPresent else { return nil }
        let counters = NetworkStatistics.list(core.network.stack.ip.counters, "ip")
            + NetworkStatistics.list(core.network.stack.udp.counters, "udp") + NetworkStatistics.list(core.network.stack.tcp.counters, "tcp")
        return NetworkStatistics(device: core.network.deviceStatistics, isConnected: core.network.isConnected, counters: counters)
    }
}
