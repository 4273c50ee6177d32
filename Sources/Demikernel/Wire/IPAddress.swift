import Glibc

/// An IPv4 or IPv6 address, in one form for tables that hold both.
///
/// IPv4 addresses are IPv4-mapped ones (`::ffff:a.b.c.d`, RFC 4291, section 2.5.5.2), which never appear on the wire: the IPv6 and NDP views
/// refuse packets that carry them, so that nobody passes for an IPv4 neighbour that way.
package struct IPAddress: BitwiseCopyable, Hashable, Sendable {
    /// The first 64 bits, in host order.
    package let high: UInt64
    /// The last 64 bits, in host order.
    package let low: UInt64

    @inline(__always) package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// An IPv4 address in host order: `0x7f00_0001` is 127.0.0.1.
    @inline(__always) package init(ipv4 address: UInt32) { self.init(high: 0, low: 0xffff_0000_0000 | UInt64(address)) }

    /// 0.0.0.0.
    @inline(__always) package static var ipv4Unspecified: IPAddress { IPAddress(ipv4: 0) }
    /// ::.
    @inline(__always) package static var ipv6Unspecified: IPAddress { IPAddress(high: 0, low: 0) }
    /// 255.255.255.255, this link's stations. RFC 919.
    @inline(__always) package static var limitedBroadcast: IPAddress { IPAddress(ipv4: .max) }
    /// ff02::1, this link's nodes.
    @inline(__always) package static var allNodes: IPAddress { IPAddress(high: 0xff02 << 48, low: 1) }
    /// ff02::2, this link's routers.
    @inline(__always) package static var allRouters: IPAddress { IPAddress(high: 0xff02 << 48, low: 2) }

    @inline(__always) package var isIPv4: Bool { high == 0 && low &>> 32 == 0xffff }
    /// The address where it is an IPv4 one, the last 32 bits in any case.
    @inline(__always) package var ipv4: UInt32 { UInt32(truncatingIfNeeded: low) }

    /// 0.0.0.0 or ::.
    @inline(__always) package var isUnspecified: Bool { high == 0 && (low == 0 || low == 0xffff_0000_0000) }
    /// 224.0.0.0/4 or ff00::/8.
    @inline(__always) package var isMulticast: Bool { isIPv4 ? ipv4 &>> 28 == 0xe : high &>> 56 == 0xff }
    /// 169.254.0.0/16 or fe80::/10.
    @inline(__always) package var isLinkLocal: Bool { isIPv4 ? ipv4 &>> 16 == 0xa9fe : high &>> 54 == 0x3fa }
    /// 127.0.0.0/8 or ::1.
    @inline(__always) package var isLoopback: Bool { isIPv4 ? ipv4 &>> 24 == 127 : high == 0 && low == 1 }
    /// 255.255.255.255.
    @inline(__always) package var isLimitedBroadcast: Bool { high == 0 && low == 0xffff_ffff_ffff }

    /// ff02::1:ffXX:XXXX, the group in which this (IPv6) address's owner listens for solicitations. RFC 4291, section 2.7.1.
    @inline(__always) package var solicitedNodeMulticast: IPAddress {
        IPAddress(high: 0xff02 << 48, low: 0x0000_0001_ff00_0000 | low & 0xff_ffff)
    }

    /// The Ethernet address of a multicast group. The address is one.
    @inline(__always) package var multicastMACAddress: MACAddress { isIPv4 ? .ipv4Multicast(ipv4) : .ipv6Multicast(self) }

    /// The link-local address that an interface makes of its Ethernet address (modified EUI-64). RFC 4291, appendix A.
    package static func linkLocal(_ address: MACAddress) -> IPAddress {
        let identifier = (address.rawValue >> 24) << 40 | 0xff_fe00_0000 | address.rawValue & 0xff_ffff
        return IPAddress(high: 0xfe80 << 48, low: identifier ^ 0x0200_0000_0000_0000)
    }

    /// Bits that an address of this family has: 32 or 128.
    @inline(__always) package var bitWidth: Int { isIPv4 ? 32 : 128 }

    /// Whether this address begins with the first `prefixLength` bits of `network`, counted in the family's own bits (0 ... 32 or 128; more
    /// are as many). False where the families differ.
    @inline(__always) package func matches(_ network: IPAddress, prefixLength: Int) -> Bool {
        guard isIPv4 == network.isIPv4 else { return false }
        let length = isIPv4 ? min(max(prefixLength, 0), 32) + 96 : min(max(prefixLength, 0), 128)
        let highMask: UInt64 = length >= 64 ? .max : ~(UInt64.max >> UInt64(length))
        let lowMask: UInt64 = length <= 64 ? 0 : ~(UInt64.max >> UInt64(length - 64))
        return (high ^ network.high) & highMask | (low ^ network.low) & lowMask == 0
    }

    /// The last address of an IPv4 network, which addresses all of its stations. RFC 919. Self for IPv6, which has none.
    @inline(__always) package func directedBroadcast(prefixLength: Int) -> IPAddress {
        guard isIPv4 else { return self }
        return IPAddress(ipv4: ipv4 | UInt32(truncatingIfNeeded: UInt64(UInt32.max) >> UInt64(min(max(prefixLength, 0), 32))))
    }
}

extension IPAddress: CustomStringConvertible, LosslessStringConvertible {
    /// Parses `192.0.2.1` or `2001:db8::1`. No names, no zones.
    package init?(_ text: String) {
        var v4 = in_addr()
        if unsafe inet_pton(AF_INET, text, &v4) == 1 {
            self.init(ipv4: UInt32(bigEndian: v4.s_addr))
            return
        }
        var halves: (UInt64, UInt64) = (0, 0)
        guard unsafe inet_pton(AF_INET6, text, &halves) == 1 else { return nil }
        self.init(high: UInt64(bigEndian: halves.0), low: UInt64(bigEndian: halves.1))
    }

    package var description: String {
        if isIPv4 { return "\(ipv4 >> 24).\(ipv4 >> 16 & 255).\(ipv4 >> 8 & 255).\(ipv4 & 255)" }
        var halves = (high.bigEndian, low.bigEndian)
        return unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(INET6_ADDRSTRLEN)) { storage in
            unsafe inet_ntop(AF_INET6, &halves, storage.baseAddress!, socklen_t(storage.count))
            return unsafe String(cString: storage.baseAddress!)
        }
    }
}

extension PacketBytes {
    /// An IPv6 address at `offset`.
    @inline(__always) package func loadIPv6(_ offset: Int) -> IPAddress { IPAddress(high: load64(offset), low: load64(offset &+ 8)) }

    /// Writes all 128 bits.
    @inline(__always) package func storeIPv6(_ address: IPAddress, at offset: Int) {
        store64(address.high, at: offset)
        store64(address.low, at: offset &+ 8)
    }

    /// An Ethernet address at `offset`.
    @inline(__always) package func loadMAC(_ offset: Int) -> MACAddress {
        MACAddress(UInt64(load32(offset)) &<< 16 | UInt64(load16(offset &+ 4)))
    }

    @inline(__always) package func storeMAC(_ address: MACAddress, at offset: Int) {
        store32(UInt32(truncatingIfNeeded: address.rawValue &>> 16), at: offset)
        store16(UInt16(truncatingIfNeeded: address.rawValue), at: offset &+ 4)
    }
}
