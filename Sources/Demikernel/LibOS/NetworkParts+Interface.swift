import SystemPackage

// From settings to a device over one of the kernel's network interfaces: Catpowder.

extension NetworkParts {
    /// This host's number on its link where the settings give no address: the kernel, or whoever is at the other end, is the first.
    private static var host: Int { 2 }

    /// Opens the interface that the settings name. Throws what opening it throws, as an error of the setting `catpowder.interface`.
    static func interfaceParts(_ settings: Configuration, _ heap: HeapReference, _ entropy: NetworkEntropy) throws -> NetworkParts {
        guard !settings.catpowder.interface.isEmpty else {
            throw ConfigurationError(
                key: "catpowder.interface", "expected the network interface that catpowder is to use, found none; ip link lists them")
        }
        var configuration = try NetworkConfiguration(settings, host: host)
        let address = configuration.macAddress ?? .belonging(to: configuration.addresses.map(\.address))
        let device: DeviceHandle
        do {
            device = try interface(settings, heap, address: address.rawValue)
        } catch let error as XDPFailure {
            throw ConfigurationError(error.errno, key: "catpowder.interface", "\(settings.catpowder.interface): \(error)")
        } catch let error as DemikernelError {
            throw ConfigurationError(error.errno, key: "catpowder.interface", "\(settings.catpowder.interface): \(error.reason)")
        }
        configuration.mtu = min(settings.network.mtu, device.capabilities.maximumTransmissionUnit)
        return NetworkParts(device: device, configuration: configuration, entropy: entropy)
    }

    private static func interface(_ settings: Configuration, _ heap: HeapReference, address: UInt64) throws -> DeviceHandle {
        switch settings.catpowder.device {
        case .packetSocket: return .holding(try PacketSocketDevice(PacketSocketConfiguration(settings, address: address)))
        case .tap: return .holding(try TapInterfaceDevice(TapInterfaceConfiguration(settings, address: address)))
        case .xdp: return .holding(try XDPDevice(XDPConfiguration(settings, address: address), heap: heap))
        }
    }
}

extension MACAddress {
    /// The Ethernet address of the host with these addresses: the same each time it starts, so that neighbours that remember it are right, and
    /// another one than that of any other host, because addresses are nobody else's either. Locally administered (IEEE 802, section 8.2).
    static func belonging(to addresses: [IPAddress]) -> MACAddress {
        guard let first = addresses.first(where: \.isIPv4) ?? addresses.first else { return MACAddress(0x0200_0000_0002) }
        if first.isIPv4 { return MACAddress(0x0264_0000_0000 | UInt64(first.ipv4)) }
        let mixed = (first.high ^ first.low &* 0x9E37_79B9_7F4A_7C15) &* 0xBF58_476D_1CE4_E5B9
        return MACAddress(0x0266_0000_0000 | mixed &>> 32)
    }
}

extension PacketSocketConfiguration {
    fileprivate init(_ settings: Configuration, address: UInt64) {
        self.init(interface: settings.catpowder.interface)
        namespace = settings.catpowder.namespace
        self.address = address
        mtu = settings.network.mtu
        rings = settings.catpowder.queues
        ringSize = settings.catpowder.ringSize
        bypassesQueueing = settings.catpowder.bypassQueueing
        joinsSegments = settings.catpowder.segmentationOffload
    }
}

extension XDPConfiguration {
    fileprivate init(_ settings: Configuration, address: UInt64) {
        self.init(interface: settings.catpowder.interface)
        namespace = settings.catpowder.namespace
        self.address = address
        mtu = settings.network.mtu
        mode = settings.catpowder.xdpMode
        queues = settings.catpowder.queues
        ringSize = settings.catpowder.ringSize
        memory = settings.catpowder.xdpMemory
    }
}

extension TapInterfaceConfiguration {
    fileprivate init(_ settings: Configuration, address: UInt64) {
        self.init(interface: settings.catpowder.interface, address: address)
        namespace = settings.catpowder.namespace
        mtu = settings.network.mtu
        queues = settings.catpowder.queues
        joinsSegments = settings.catpowder.segmentationOffload
    }
}
