/// What an IP packet carries: IPv4's protocol field, IPv6's next header field.
package struct IPProtocol: RawRepresentable, BitwiseCopyable, Hashable, Sendable {
    package let rawValue: UInt8
    @inline(__always) package init(rawValue: UInt8) { self.rawValue = rawValue }

    /// An IPv6 hop-by-hop options header.
    @inline(__always) package static var hopByHop: IPProtocol { IPProtocol(rawValue: 0) }
    @inline(__always) package static var icmp: IPProtocol { IPProtocol(rawValue: 1) }
    @inline(__always) package static var tcp: IPProtocol { IPProtocol(rawValue: 6) }
    @inline(__always) package static var udp: IPProtocol { IPProtocol(rawValue: 17) }
    /// An IPv6 routing header.
    @inline(__always) package static var routing: IPProtocol { IPProtocol(rawValue: 43) }
    /// An IPv6 fragment header.
    @inline(__always) package static var fragment: IPProtocol { IPProtocol(rawValue: 44) }
    @inline(__always) package static var icmpv6: IPProtocol { IPProtocol(rawValue: 58) }
    /// Nothing follows (IPv6).
    @inline(__always) package static var noNext: IPProtocol { IPProtocol(rawValue: 59) }
    /// An IPv6 destination options header.
    @inline(__always) package static var destinationOptions: IPProtocol { IPProtocol(rawValue: 60) }
}

/// The last two bits of IPv4's type of service and IPv6's traffic class. RFC 3168, section 5.
package enum ECN: UInt8, BitwiseCopyable, Sendable {
    case notCapable = 0
    /// ECT(1): RFC 9331.
    case capable1 = 1
    /// ECT(0), what RFC 3168 senders set.
    case capable0 = 2
    case congestionExperienced = 3

    @inline(__always) package init(lowBitsOf byte: UInt8) {
        switch byte & 3 {
        case 0: self = .notCapable
        case 1: self = .capable1
        case 2: self = .capable0
        default: self = .congestionExperienced
        }
    }
}
