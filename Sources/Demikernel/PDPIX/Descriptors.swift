/// A queue descriptor (qd): what PDPIX has in place of a file descriptor.
///
/// Descriptors start at ``first``, the lowest free one first, so that they never collide with small file descriptors.
@frozen public struct QueueDescriptor: RawRepresentable, Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    public let rawValue: Int32
    @inlinable public init(rawValue: Int32) { self.rawValue = rawValue }

    /// The lowest queue descriptor.
    public static var first: QueueDescriptor { QueueDescriptor(rawValue: 500) }
    public var description: String { "qd \(rawValue)" }
}

/// A qtoken: names one submitted operation until `wait` has handed out its completion.
///
/// Shape: the operation's slot in the low 32 bits, the slot's generation, which is odd while the operation lives, in the high ones; hence
/// never 0 and never all ones, and a token that outlived its operation is recognised.
@frozen public struct QToken: RawRepresentable, Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    public let rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }

    @inlinable init(slot: UInt32, generation: UInt32) { rawValue = UInt64(generation) &<< 32 | UInt64(slot) }
    @inlinable var slot: UInt32 { UInt32(truncatingIfNeeded: rawValue) }
    @inlinable var generation: UInt32 { UInt32(truncatingIfNeeded: rawValue &>> 32) }

    public var description: String { "qtoken \(rawValue &>> 32)/\(slot)" }
}

/// `domain` of `socket(2)`.
@frozen public enum AddressFamily: UInt16, Sendable, BitwiseCopyable {
    /// `AF_INET`
    case ipv4 = 2
    /// `AF_INET6`
    case ipv6 = 10
}

/// `type` of `socket(2)`.
public enum SocketType: Int32, Sendable {
    /// `SOCK_STREAM`: TCP.
    case stream = 1
    /// `SOCK_DGRAM`: UDP.
    case datagram = 2
}

/// `how` of `shutdown(2)`.
public enum ShutdownDirection: Int32, Sendable {
    case receive = 0
    case send = 1
    case both = 2
}
