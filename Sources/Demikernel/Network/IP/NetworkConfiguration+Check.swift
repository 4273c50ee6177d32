extension NetworkConfiguration {
    /// The interface's addresses, the link-local one included; EINVAL, with what is wrong, where the settings contradict each other or the
    /// device.
    func checked(_ device: NetworkDeviceCapabilities) throws(DemikernelError) -> [NetworkLayer.Address] {
        let macAddress = self.macAddress ?? MACAddress(device.address)
        guard macAddress.isUnicast else {
            throw DemikernelError(.invalidArgument, "the Ethernet address is zero or a group's: set one whose first byte is even, as 02:00:00:00:00:01")
        }
        let mtu = self.mtu ?? device.maximumTransmissionUnit
        guard mtu <= device.maximumTransmissionUnit else {
            throw DemikernelError(.invalidArgument, "the MTU is larger than the device's: lower it")
        }
        guard mtu >= 576, mtu <= 65_535 else {
            throw DemikernelError(.invalidArgument, "the MTU is not in 576 ... 65535: every IPv4 host takes packets of 576 bytes")
        }
        guard vlan.map({ 1...4094 ~= $0 }) ?? true else { throw DemikernelError(.invalidArgument, "a VLAN is in 1 ... 4094") }
        guard hopLimit > 0 else { throw DemikernelError(.invalidArgument, "the hop limit is 0: packets would not leave this host") }
        var checked: [NetworkLayer.Address] = []
        for entry in addresses { checked.append(try self.checked(entry, mtu: mtu, among: checked)) }
        if addsLinkLocalAddress, mtu >= IPv6Header.linkMTUMinimum, !addresses.contains(where: { !$0.address.isIPv4 && $0.address.isLinkLocal }),
            checked.count < Self.addressesMaximum
        {
            checked.append(
                NetworkLayer.Address(address: .linkLocal(macAddress), prefixLength: 64, broadcast: .ipv4Unspecified))
        }
        guard checked.count <= Self.addressesMaximum else {
            throw DemikernelError(.invalidArgument, "an interface has 8 addresses at most")
        }
        try checkGateway(gatewayIPv4, isIPv4: true, checked)
        try checkGateway(gatewayIPv6, isIPv4: false, checked)
        for neighbour in staticNeighbours {
            guard neighbour.macAddress.isUnicast, !neighbour.address.isMulticast, !neighbour.address.isUnspecified else {
                throw DemikernelError(.invalidArgument, "a static neighbour is one station with one address")
            }
        }
        guard staticNeighbours.count < neighbours.capacity else {
            throw DemikernelError(.invalidArgument, "there are more static neighbours than the neighbour table has places: enlarge it")
        }
        return checked
    }

    private func checked(_ entry: InterfaceAddress, mtu: Int, among others: [NetworkLayer.Address]) throws(DemikernelError) -> NetworkLayer.Address {
        let address = entry.address
        guard !address.isUnspecified, !address.isMulticast, !address.isLoopback, !address.isLimitedBroadcast else {
            throw DemikernelError(.invalidArgument, "an interface's address is a host's: not unspecified, multicast, loopback or broadcast")
        }
        guard 1...address.bitWidth ~= entry.prefixLength else {
            throw DemikernelError(.invalidArgument, "a prefix length is in 1 ... 32 for IPv4 and 1 ... 128 for IPv6")
        }
        guard address.isIPv4 || mtu >= IPv6Header.linkMTUMinimum else {
            throw DemikernelError(.invalidArgument, "the MTU is too small for IPv6, which needs 1280: enlarge it or remove the IPv6 addresses")
        }
        guard !others.contains(where: { $0.address == address }) else {
            throw DemikernelError(.invalidArgument, "an address is given twice")
        }
        guard address.isIPv4, entry.prefixLength < 31 else {
            return NetworkLayer.Address(address: address, prefixLength: entry.prefixLength, broadcast: .ipv4Unspecified)
        }
        let broadcast = address.directedBroadcast(prefixLength: entry.prefixLength)
        guard broadcast != address, address.ipv4 << UInt32(entry.prefixLength) != 0 else {
            throw DemikernelError(.invalidArgument, "an address is its network's own or broadcast address: choose one between them")
        }
        return NetworkLayer.Address(address: address, prefixLength: entry.prefixLength, broadcast: broadcast)
    }

    private func checkGateway(_ gateway: IPAddress?, isIPv4: Bool, _ addresses: [NetworkLayer.Address]) throws(DemikernelError) {
        guard let gateway else { return }
        guard gateway.isIPv4 == isIPv4, !gateway.isUnspecified, !gateway.isMulticast, !addresses.contains(where: { $0.address == gateway }) else {
            throw DemikernelError(.invalidArgument, "a gateway is another host's address of its family")
        }
        guard addresses.contains(where: { gateway.matches($0.address, prefixLength: $0.prefixLength) }) else {
            throw DemikernelError(.invalidArgument, "the gateway is on none of this interface's networks: check the address and the prefix length")
        }
    }
}
