import Glibc

/// An IPv4 or IPv6 address with a port.
///
/// Addresses and ports are in host order; `write(to:)` and `init(reading:byteCount:)`, of this package alone, convert to and from
/// `struct sockaddr_in` and `sockaddr_in6`.
public struct SocketAddress: Hashable, Sendable, BitwiseCopyable {
    /// IPv4 or IPv6.
    public let family: AddressFamily
    /// The port, 0 for "any".
    public var port: UInt16
    /// IPv6 scope (`sin6_scope_id`), 0 for IPv4.
    public let scope: UInt32
    let high: UInt64
    let low: UInt64

    /// An IPv4 address in host order: `0x7f00_0001` is 127.0.0.1.
    public static func ipv4(_ address: UInt32, port: UInt16) -> SocketAddress {
        SocketAddress(family: .ipv4, port: port, scope: 0, high: 0, low: UInt64(address))
    }

    /// An IPv6 address as two halves in host order.
    public static func ipv6(_ high: UInt64, _ low: UInt64, port: UInt16, scope: UInt32 = 0) -> SocketAddress {
        SocketAddress(family: .ipv6, port: port, scope: scope, high: high, low: low)
    }

    /// `INADDR_ANY` or `in6addr_any`.
    public static func any(_ family: AddressFamily = .ipv4, port: UInt16) -> SocketAddress {
        SocketAddress(family: family, port: port, scope: 0, high: 0, low: 0)
    }

    /// 127.0.0.1 or ::1.
    public static func loopback(_ family: AddressFamily = .ipv4, port: UInt16) -> SocketAddress {
        family == .ipv4 ? .ipv4(0x7f00_0001, port: port) : .ipv6(0, 1, port: port)
    }

    /// Whether this is the wildcard address.
    public var isAny: Bool { high == 0 && low == 0 }
}

// MARK: - Text

extension SocketAddress: CustomStringConvertible, LosslessStringConvertible {
    /// Parses `192.0.2.1:80`, `[2001:db8::1]:80`, `:80` (the IPv4 wildcard) or an address alone (port 0). No names are looked up.
    public init?(_ text: String) {
        var host = Substring(text)
        var port: UInt16 = 0
        if host.first == "[" {
            guard let end = host.firstIndex(of: "]") else { return nil }
            let rest = host[host.index(after: end)...]
            host = host[host.index(after: host.startIndex)..<end]
            if !rest.isEmpty {
                guard rest.first == ":", let number = UInt16(rest.dropFirst()) else { return nil }
                port = number
            }
        } else if let colon = host.lastIndex(of: ":"), host.firstIndex(of: ":") == colon {
            guard let number = UInt16(host[host.index(after: colon)...]) else { return nil }
            port = number
            host = host[..<colon]
        }
        if host.isEmpty {
            self = .any(port: port)
            return
        }
        var v4 = in_addr()
        if unsafe inet_pton(AF_INET, String(host), &v4) == 1 {
            self = .ipv4(UInt32(bigEndian: v4.s_addr), port: port)
            return
        }
        var bytes: (UInt64, UInt64) = (0, 0)
        guard unsafe inet_pton(AF_INET6, String(host), &bytes) == 1 else { return nil }
        self = .ipv6(UInt64(bigEndian: bytes.0), UInt64(bigEndian: bytes.1), port: port)
    }

    public var description: String {
        switch family {
        case .ipv4:
            return "\(low >> 24).\(low >> 16 & 255).\(low >> 8 & 255).\(low & 255):\(port)"
        case .ipv6:
            var bytes = (high.bigEndian, low.bigEndian)
            let text = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(INET6_ADDRSTRLEN)) { storage in
                unsafe inet_ntop(AF_INET6, &bytes, storage.baseAddress!, socklen_t(storage.count))
                return unsafe String(cString: storage.baseAddress!)
            }
            return "[\(text)]:\(port)"
        }
    }
}

// MARK: - struct sockaddr

extension SocketAddress {
    /// The size of this address as a `struct sockaddr_in` (16) or `sockaddr_in6` (28).
    public var encodedByteCount: Int { family == .ipv4 ? 16 : 28 }
    /// The most that ``write(to:)`` writes.
    package static var encodedByteCountMaximum: Int { 28 }

    /// Writes this address as a `struct sockaddr_in` or `sockaddr_in6` and answers its size. `storage` holds at least 28 bytes.
    @unsafe @discardableResult
    package func write(to storage: UnsafeMutableRawPointer) -> Int {
        unsafe storage.storeBytes(of: family.rawValue, as: UInt16.self)
        unsafe storage.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
        switch family {
        case .ipv4:
            unsafe storage.storeBytes(of: UInt32(truncatingIfNeeded: low).bigEndian, toByteOffset: 4, as: UInt32.self)
            unsafe storage.storeBytes(of: 0, toByteOffset: 8, as: UInt64.self)
        case .ipv6:
            unsafe storage.storeBytes(of: 0, toByteOffset: 4, as: UInt32.self)
            unsafe storage.storeBytes(of: high.bigEndian, toByteOffset: 8, as: UInt64.self)
            unsafe storage.storeBytes(of: low.bigEndian, toByteOffset: 16, as: UInt64.self)
            unsafe storage.storeBytes(of: scope, toByteOffset: 24, as: UInt32.self)
        }
        return encodedByteCount
    }

    /// Reads a `struct sockaddr_in` or `sockaddr_in6`; nil where the family is another or `byteCount` is not that family's exact size.
    @unsafe
    package init?(reading storage: UnsafeRawPointer, byteCount: Int) {
        guard byteCount >= 2 else { return nil }
        switch (unsafe AddressFamily(rawValue: storage.loadUnaligned(as: UInt16.self)), byteCount) {
        case (.ipv4, 16):
            self = unsafe .ipv4(
                UInt32(bigEndian: storage.loadUnaligned(fromByteOffset: 4, as: UInt32.self)),
                port: UInt16(bigEndian: storage.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
        case (.ipv6, 28):
            self = unsafe .ipv6(
                UInt64(bigEndian: storage.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
                UInt64(bigEndian: storage.loadUnaligned(fromByteOffset: 16, as: UInt64.self)),
                port: UInt16(bigEndian: storage.loadUnaligned(fromByteOffset: 2, as: UInt16.self)),
                scope: storage.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
        default: return nil
        }
    }
}
