/// How one stack is set up. Times are in nanoseconds.
package struct NetworkConfiguration: Sendable {
    /// An address of this host with the prefix of its link.
    package struct InterfaceAddress: Sendable, Equatable {
        package var address: IPAddress
        /// 0 ... 32 or 128.
        package var prefixLength: Int

        package init(_ address: IPAddress, prefixLength: Int) {
            self.address = address
            self.prefixLength = prefixLength
        }
    }

    /// A neighbour that is known in advance and never asked for.
    package struct StaticNeighbour: Sendable, Equatable {
        package var address: IPAddress
        package var macAddress: MACAddress

        package init(_ address: IPAddress, _ macAddress: MACAddress) {
            self.address = address
            self.macAddress = macAddress
        }
    }

    /// Where packets for one's own addresses go.
    package enum LocalDelivery: Sendable {
        /// Back into this stack, without a device.
        case stack
        /// To the device, under this station's own Ethernet address: for a device that is connected to itself.
        case device
    }

    /// The most addresses that one interface has, its link-local one included.
    package static var addressesMaximum: Int { 8 }

    /// nil: the device's.
    package var macAddress: MACAddress?
    package var addresses: [InterfaceAddress]
    package var gatewayIPv4: IPAddress?
    package var gatewayIPv6: IPAddress?
    /// Adds the link-local IPv6 address made of the Ethernet address (RFC 4291, appendix A), where none is among `addresses` and the MTU allows
    /// IPv6.
    package var addsLinkLocalAddress = true
    /// The largest IP packet; nil: the device's.
    package var mtu: Int?
    /// The 802.1Q VLAN, 1 ... 4,094, whose tag every frame carries.
    package var vlan: UInt16?
    /// Checksums are left to a device that computes them.
    package var checksumOffload = true
    /// Checksums of what comes from a device that cannot damage frames (``NetworkDeviceCapabilities/isReliable``) are not verified.
    package var trustsReliableDevice = false
    package var localDelivery = LocalDelivery.stack
    /// Of what is sent. RFC 1700: 64.
    package var hopLimit: UInt8 = 64
    /// Announces the addresses when the stack starts (RFC 5227, section 2.3; RFC 4862, section 5.4).
    package var announcesAddresses = true

    package var neighbours = NeighbourConfiguration()
    package var staticNeighbours: [StaticNeighbour] = []
    package var reassembly = ReassemblyConfiguration()
    package var icmp = ICMPConfiguration()
    package var udp = UDPConfiguration()
    package var tcp = TCPConfiguration()
    /// Entries of the path MTU table: destinations with a smaller MTU than the link's.
    package var pathMTUCapacity = 1024
    /// How long a path MTU is believed: ten minutes, RFC 1191, section 6.3.
    package var pathMTULifetime: UInt64 = 600_000_000_000
    /// The most sockets, whose tags are below it.
    package var tagsMaximum = 1 << 20

    package init(addresses: [InterfaceAddress] = []) { self.addresses = addresses }
}

/// Limits and times of the neighbour table. RFC 4861, section 10; the same for ARP.
package struct NeighbourConfiguration: Sendable {
    package var capacity = 1024
    /// Frames that wait for a neighbour's address, 1...255; the oldest goes first. A program that opens many connections at once begins with as
    /// many SYNs, each of which is missed for a second where it is dropped.
    package var pendingMaximum = 128
    /// As many of them wait whatever waits for others.
    package var pendingShare = 4
    /// Beyond their shares, frames wait while there are fewer than this for all neighbours together.
    package var pendingTotalMaximum = 1024
    /// REACHABLE_TIME, randomised between its half and one and a half of it.
    package var reachableTime: UInt64 = 30_000_000_000
    /// RETRANS_TIMER.
    package var retransmitTime: UInt64 = 1_000_000_000
    /// DELAY_FIRST_PROBE_TIME.
    package var delayTime: UInt64 = 5_000_000_000
    /// MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT.
    package var attemptsMaximum = 3

    package init() {}
}

/// Limits of reassembly.
package struct ReassemblyConfiguration: Sendable {
    /// Datagrams that are incomplete at one time.
    package var datagramsMaximum = 64
    /// Fragments kept, of all datagrams.
    package var fragmentsMaximum = 1024
    /// Fragments of one datagram.
    package var fragmentsPerDatagram = 128
    /// Heap memory held by fragments.
    package var bytesMaximum = 4 << 20
    package var timeoutIPv4: UInt64 = 30_000_000_000
    /// RFC 8200, section 4.5.
    package var timeoutIPv6: UInt64 = 60_000_000_000

    package init() {}
}

/// How much this host says by ICMP and ICMPv6. RFC 4443, section 2.4(f).
package struct ICMPConfiguration: Sendable {
    package var errorsPerSecond: UInt64 = 1000
    package var errorBurst: UInt64 = 50
    package var echoRepliesPerSecond: UInt64 = 100_000
    package var echoReplyBurst: UInt64 = 1000

    package init() {}
}

/// Limits of UDP.
package struct UDPConfiguration: Sendable {
    package var socketsMaximum = 65_536
    /// Datagrams that wait in all sockets.
    package var datagramsMaximum = 65_536
    /// Datagrams that wait in one socket.
    package var receiveDatagrams = 1024
    /// Heap memory held by what waits in one socket.
    package var receiveBytes = 4 << 20

    package init() {}
}
