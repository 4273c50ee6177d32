import Glibc
package import SystemPackage

/// What the network, or this host, says about a packet that was sent: ICMP and ICMPv6 in one form.
package enum ICMPError: BitwiseCopyable, Equatable {
    case unreachable(Unreachable)
    /// The packet did not fit; the next hop takes packets of `mtu` bytes, already noted in the path MTU table. RFC 1191, RFC 8201.
    case packetTooBig(mtu: UInt16)
    /// The hop limit ran out, or reassembly took too long.
    case timeExceeded
    /// The receiver did not understand the header.
    case parameterProblem

    package enum Unreachable: UInt8, BitwiseCopyable {
        case network, host, `protocol`, port, administratively
    }

    /// The errno that a socket reports. RFC 1122, section 4.2.3.9 says which of them end a TCP connection: protocol and port alone.
    package var errno: Errno {
        switch self {
        case .unreachable(.port): .connectionRefused
        case .unreachable(.protocol): Errno(rawValue: ENOPROTOOPT)
        case .unreachable(.network): .networkUnreachable
        case .unreachable(.host), .unreachable(.administratively), .timeExceeded: .noRouteToHost
        case .packetTooBig: .messageTooLong
        case .parameterProblem: .protocolError
        }
    }

    /// RFC 1122, section 4.2.3.9: hard errors end a connection that is being opened or used, the others are hints.
    package var isHard: Bool { self == .unreachable(.port) || self == .unreachable(.protocol) }
}
