import Glibc

/// What a word of a setting is: checked when it is read, so that the error can name its place.
package enum ConfigurationGrammar: Sendable, Equatable {
    /// An address with its link's prefix: `10.0.0.1/24`.
    case interfaceAddress
    case address
    case ethernetAddress
    /// An address and an Ethernet address.
    case neighbour
    /// A path of up to so many bytes.
    case path(Int)
    /// Printable characters without a comma, up to so many bytes.
    case word(Int)

    /// One of them, for messages and manuals.
    var expectation: String {
        switch self {
        case .interfaceAddress: "an address with its prefix length, as 10.0.0.1/24 or fd00::1/64"
        case .address: "an IPv4 or IPv6 address"
        case .ethernetAddress: "an Ethernet address of one station, as 02:00:00:00:00:01"
        case .neighbour: "a neighbour, as 10.0.0.2=02:00:00:00:00:02"
        case .path(let length): "a path of at most \(length) bytes"
        case .word(let length): "a word of at most \(length) bytes"
        }
    }

    /// Several of them.
    var listExpectation: String {
        switch self {
        case .interfaceAddress: "addresses with their prefix lengths, as 10.0.0.1/24 and fd00::1/64"
        case .address: "IPv4 or IPv6 addresses"
        case .ethernetAddress: "Ethernet addresses, as 02:00:00:00:00:01"
        case .neighbour: "neighbours, as 10.0.0.2=02:00:00:00:00:02"
        case .path: "paths"
        case .word: "words"
        }
    }

    func matches(_ text: String) -> Bool {
        switch self {
        case .interfaceAddress: Self.interfaceAddress(text) != nil
        case .address: Self.address(text[...]) != nil
        case .ethernetAddress: MACAddress(text)?.isUnicast ?? false
        case .neighbour: Self.neighbour(text) != nil
        case .path(let length): !text.isEmpty && text.utf8.count <= length && !text.utf8.contains { $0 < 0x20 || $0 == 0x7f }
        case .word(let length): !text.isEmpty && text.utf8.count <= length && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f && $0 != 0x2c }
        }
    }

    /// An IPv4 or IPv6 address as numbers; nil for any other text.
    package static func address(_ text: Substring) -> IPAddress? {
        let text = String(text)
        guard !text.utf8.contains(0) else { return nil }
        var v4 = in_addr()
        if unsafe inet_pton(AF_INET, text, &v4) == 1 { return IPAddress(ipv4: UInt32(bigEndian: v4.s_addr)) }
        var halves: (UInt64, UInt64) = (0, 0)
        guard unsafe inet_pton(AF_INET6, text, &halves) == 1 else { return nil }
        let address = IPAddress(high: UInt64(bigEndian: halves.0), low: UInt64(bigEndian: halves.1))
        // What would pass for an IPv4 address.
        return address.isIPv4 ? nil : address
    }

    /// A host's address and its link's prefix length.
    package static func interfaceAddress(_ text: String) -> (address: IPAddress, prefixLength: Int)? {
        guard let slash = text.firstIndex(of: "/"), let address = address(text[..<slash]) else { return nil }
        let digits = text[text.index(after: slash)...]
        guard 1...3 ~= digits.utf8.count, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let length = Int(digits) else { return nil }
        guard 1...address.bitWidth ~= length else { return nil }
        guard !address.isUnspecified, !address.isMulticast, !address.isLoopback, !address.isLimitedBroadcast else { return nil }
        // The first and the last address of a network are nobody's (RFC 919; RFC 3021 for a /31).
        if address.isIPv4, length < 31 {
            let isNetwork = address.ipv4 << UInt32(length) == 0
            guard !isNetwork, address.directedBroadcast(prefixLength: length) != address else { return nil }
        }
        return (address, length)
    }

    package static func neighbour(_ text: String) -> (address: IPAddress, ethernet: MACAddress)? {
        guard let equals = text.firstIndex(of: "="), let address = address(text[..<equals]), !address.isMulticast, !address.isUnspecified,
            let ethernet = MACAddress(String(text[text.index(after: equals)...])), ethernet.isUnicast
        else { return nil }
        return (address, ethernet)
    }
}
