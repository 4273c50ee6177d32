/// A 48-bit Ethernet address.
public struct MACAddress: BitwiseCopyable, Hashable, Sendable {
    /// The address in the low 48 bits, its first byte on the wire the most significant; the high 16 bits are 0.
    public let rawValue: UInt64

    /// The address in the low 48 bits of `rawValue`; the others are ignored.
    @inline(__always) public init(_ rawValue: UInt64) { self.rawValue = rawValue & 0xffff_ffff_ffff }

    /// ff:ff:ff:ff:ff:ff.
    @inline(__always) public static var broadcast: MACAddress { MACAddress(0xffff_ffff_ffff) }
    /// 00:00:00:00:00:00, which ARP writes for "not known".
    @inline(__always) public static var zero: MACAddress { MACAddress(0) }

    /// Whether this is the broadcast address.
    @inline(__always) public var isBroadcast: Bool { rawValue == 0xffff_ffff_ffff }
    /// Whether a group is meant (the broadcast address is one): the I/G bit, the lowest of the first byte.
    @inline(__always) public var isMulticast: Bool { rawValue & 0x0100_0000_0000 != 0 }
    /// Whether the address was assigned locally, not by a manufacturer: the U/L bit.
    @inline(__always) public var isLocallyAdministered: Bool { rawValue & 0x0200_0000_0000 != 0 }
    /// Whether this can be one station's address: neither a group's nor zero.
    @inline(__always) public var isUnicast: Bool { !isMulticast && rawValue != 0 }

    /// Where frames for an IPv4 multicast group go: 01:00:5e and the group's low 23 bits. RFC 1112, section 6.4.
    @inline(__always) package static func ipv4Multicast(_ group: UInt32) -> MACAddress {
        MACAddress(0x0100_5e00_0000 | UInt64(group & 0x7f_ffff))
    }

    /// Where frames for an IPv6 multicast group go: 33:33 and the group's low 32 bits. RFC 2464, section 7.
    @inline(__always) package static func ipv6Multicast(_ group: IPAddress) -> MACAddress {
        MACAddress(0x3333_0000_0000 | group.low & 0xffff_ffff)
    }
}

extension MACAddress: CustomStringConvertible, LosslessStringConvertible {
    /// Parses six pairs of hexadecimal digits between colons (or dashes), as `02:00:00:00:00:01`.
    public init?(_ text: String) {
        var value: UInt64 = 0
        var position = 0
        for character in text.utf8 {
            if position % 3 == 2 {
                guard character == UInt8(ascii: ":") || character == UInt8(ascii: "-") else { return nil }
            } else {
                switch character {
                case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt64(character - UInt8(ascii: "0"))
                case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt64(character - UInt8(ascii: "a") + 10)
                case UInt8(ascii: "A")...UInt8(ascii: "F"): value = value << 4 | UInt64(character - UInt8(ascii: "A") + 10)
                default: return nil
                }
            }
            position += 1
            guard position <= 17 else { return nil }
        }
        guard position == 17 else { return nil }
        self.init(value)
    }

    public var description: String {
        let digits = String(rawValue | 1 << 48, radix: 16).utf8.dropFirst()
        var text: [UInt8] = []
        for (index, digit) in digits.enumerated() {
            if index > 0 && index % 2 == 0 { text.append(UInt8(ascii: ":")) }
            text.append(digit)
        }
        return String(decoding: text, as: UTF8.self)
    }
}
