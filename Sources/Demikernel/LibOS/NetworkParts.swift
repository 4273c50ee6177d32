import Glibc
import SystemPackage

// From settings to a device and the settings of a stack: what stands between a libOS's name and its network.

/// What a libOS with a network stack of its own is made of: the device is opened already, the stack is not.
package struct NetworkParts {
    package private(set) var device: DeviceHandle
    package let configuration: NetworkConfiguration
    package let entropy: NetworkEntropy

    package init(device: DeviceHandle, configuration: NetworkConfiguration, entropy: NetworkEntropy) {
        self.device = device
        self.configuration = configuration
        self.entropy = entropy
    }

    /// Opens the device that the settings name; nil for Catnap, whose sockets are the kernel's. Throws what opening the device throws.
    /// `heap` is the libOS's, for a device that registers its memory.
    static func open(_ settings: Configuration, heap: HeapReference) throws -> NetworkParts? {
        let entropy = NetworkEntropy.system()
        switch settings.libOS {
        case "catnip":
            guard !settings.memif.socket.isEmpty else {
                throw ConfigurationError(key: "memif.socket", "expected the path of the Unix socket at which catnip meets its peer, found none")
            }
            let host = settings.memif.role == .server ? 1 : 2
            let address = settings.ethernetAddress(orHost: host)
            var device = try MemifDevice(MemifConfiguration(settings, address: address.rawValue))
            if settings.memif.role == .client { findServer(&device) }
            return NetworkParts(
                device: .holding(device), configuration: try NetworkConfiguration(settings, host: host), entropy: entropy)
        case "catloop":
            guard settings.catloop.pair.isEmpty else { return try pairEnd(settings, entropy) }
            let device = try RingDevice.loop(
                capacity: settings.catloop.ringSize, address: settings.ethernetAddress(orHost: 1).rawValue, mtu: settings.network.mtu)
            return NetworkParts(
                device: .holding(device), configuration: try NetworkConfiguration(settings, loop: true), entropy: entropy)
        case "catpowder": return try interfaceParts(settings, heap, entropy)
        default: return nil
        }
    }

    /// Waits a moment for a server that is there already, and longer for one that has begun to answer: frames that are sent before the link is up
    /// are lost. One that comes later is found while the libOS runs.
    private static func findServer(_ device: inout MemifDevice) {
        var clock = Clock(.system)
        let start = clock.now()
        var limit = start &+ MemifLimits.reconnectNanoseconds
        while clock.now() < limit {
            _ = device.maintain(now: clock.now())
            if device.isConnected { return }
            // Also where it has refused, because it has not yet noticed that the client before this one has gone.
            if device.phase == .handshake { limit = start &+ 2 * MemifLimits.handshakeNanoseconds }
            // The other process wants its turns, of which a handshake takes a few; nothing else runs yet in this one.
            usleep(50)
        }
    }

    /// Puts what the settings ask for around the device: faults next to it, so that a capture shows what the stack sees. Throws what opening
    /// the capture file throws.
    mutating func dress(_ settings: Configuration.Network, heap: HeapReference) throws(DemikernelError) {
        if !settings.faults.isEmpty {
            device = .holding(
                try FaultyDevice(AnyNetworkDevice(device), faults: FaultSettings(settings.faults), seed: UInt64(settings.faults.seed), heap: heap))
        }
        if !settings.capture.isEmpty {
            device = .holding(CaptureDevice(AnyNetworkDevice(device), writer: try PcapngWriter(path: settings.capture)))
        }
    }

    /// One end of a named pair: the first comer's is 1, the other's 2.
    private static func pairEnd(_ settings: Configuration, _ entropy: NetworkEntropy) throws -> NetworkParts {
        let (device, host) = try CatloopPairs.take(settings)
        return NetworkParts(
            device: device, configuration: try NetworkConfiguration(settings, host: host), entropy: entropy)
    }
}

/// The pairs of which one end waits for the other libOS, by name.
///
/// An end that waits has not been touched by any thread, and is taken out under the lock: it is only ever one thread's.
private enum CatloopPairs {
    /// Sendable unchecked for that reason: the compiler sees a class with a variable.
    private final class Waiting: @unchecked Sendable {
        var pair: RingPair
        init(_ pair: consuming RingPair) { self.pair = pair }
    }

    private static let waiting = Lock([String: Waiting]())

    /// The end that waits under the settings' name, or else the first of a new pair.
    static func take(_ settings: Configuration) throws(DemikernelError) -> (device: DeviceHandle, host: Int) {
        if let other = waiting.withLock({ $0.removeValue(forKey: settings.catloop.pair) }), let end = other.pair.takeSecond() {
            // Whoever made the pair may have gone.
            if end.isConnected { return (.holding(end), 2) }
        }
        let addresses = (settings.ethernetAddress(orHost: 1).rawValue, settings.ethernetAddress(orHost: 2).rawValue)
        let made = Waiting(try RingDevice.pair(capacity: settings.catloop.ringSize, addresses: addresses, mtu: settings.network.mtu))
        guard let end = made.pair.takeFirst() else { throw DemikernelError(.noSuchAddressOrDevice, "the pair has no end left") }
        waiting.withLock { $0[settings.catloop.pair] = made }
        return (.holding(end), 1)
    }
}

extension Configuration {
    /// The Ethernet address of the settings, or else one for a host's number on its link: locally administered (IEEE 802, section 8.2).
    fileprivate func ethernetAddress(orHost number: Int) -> MACAddress {
        MACAddress(network.mac) ?? MACAddress(0x0200_0000_0000 | UInt64(number))
    }
}

extension MemifConfiguration {
    fileprivate init(_ settings: Configuration, address: UInt64) {
        self.init(role: settings.memif.role == .server ? .server : .client, socketPath: settings.memif.socket, address: address)
        interfaceIdentifier = UInt32(settings.memif.id)
        secret = settings.memif.secret
        rings = settings.memif.rings
        ringSize = 1 << (Int.bitWidth - (settings.memif.ringSize - 1).leadingZeroBitCount)
        bufferSize = settings.memif.bufferSize
        mtu = settings.network.mtu
    }
}

extension NetworkConfiguration {
    /// The stack's settings. `host` is this host's number on its link where the settings give no address; `loop` says that the device is connected
    /// to itself. The settings were validated.
    init(_ settings: Configuration, host: Int = 1, loop isLoop: Bool = false) throws(ConfigurationError) {
        let network = settings.network
        var addresses = network.addresses.compactMap(ConfigurationGrammar.interfaceAddress).map { InterfaceAddress($0.address, prefixLength: $0.prefixLength) }
        if addresses.isEmpty {
            addresses = [InterfaceAddress(IPAddress(ipv4: 0x0a75_0000 | UInt32(host)), prefixLength: 24)]
            if network.mtu >= 1_280 { addresses.append(InterfaceAddress(IPAddress(high: 0xfd00_0117 << 32, low: UInt64(host)), prefixLength: 64)) }
        }
        self.init(addresses: addresses)
        macAddress = MACAddress(network.mac)
        let gateways = network.gateways.compactMap { ConfigurationGrammar.address($0[...]) }
        gatewayIPv4 = gateways.first { $0.isIPv4 }
        gatewayIPv6 = gateways.first { !$0.isIPv4 }
        mtu = network.mtu
        vlan = network.vlan == 0 ? nil : UInt16(network.vlan)
        checksumOffload = network.checksumOffload
        trustsReliableDevice = !network.verifyChecksums
        localDelivery = isLoop || network.localDelivery == .device ? .device : .stack
        staticNeighbours = network.neighbours.compactMap(ConfigurationGrammar.neighbour).map { StaticNeighbour($0.address, $0.ethernet) }
        udp.receiveBytes = network.datagramBuffer
        tcp = TCPConfiguration(network)
    }
}

extension FaultSettings {
    fileprivate init(_ faults: Configuration.Network.Faults) {
        self.init()
        loss = Double(faults.loss) / 1_000_000
        duplicate = Double(faults.duplicate) / 1_000_000
        reorder = Double(faults.reorder) / 1_000_000
        corrupt = Double(faults.corrupt) / 1_000_000
    }
}

extension TCPConfiguration {
    fileprivate init(_ network: Configuration.Network) {
        self.init()
        congestionControl = switch network.congestionControl {
        case .cubic: .cubic
        case .newreno: .newReno
        case .dctcp: .dctcp
        }
        ecn = network.ecn
        noDelay = network.noDelay
        sendBuffer = network.sendBuffer
        receiveBuffer = network.receiveBuffer
        maximumConnections = network.connections
        minimumRetransmissionTimeout = network.timers.minimumRTO.nanosecondsClamped
        initialRetransmissionTimeout = max(initialRetransmissionTimeout, minimumRetransmissionTimeout)
        delayedAcknowledgement = network.timers.delayedAck.nanosecondsClamped
        keepAliveIdle = network.timers.keepalive.nanosecondsClamped
        timeWait = network.timers.timeWait.nanosecondsClamped
    }
}
