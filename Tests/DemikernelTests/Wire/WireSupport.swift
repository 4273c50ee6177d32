import TestSupport
@testable import Demikernel

/// Lends a room that holds these bytes for the duration of `body`.
func withPacket<Result>(_ bytes: [UInt8], _ body: (PacketBytes) throws -> Result) rethrows -> Result {
    var copy = bytes
    return try unsafe copy.withUnsafeMutableBytes { buffer in
        guard let start = buffer.baseAddress else { return try body(.empty) }
        return try body(unsafe PacketBytes(start: start, count: buffer.count))
    }
}

/// The bytes that `body` writes into a room of `count` bytes that were all `filler`.
func written(_ count: Int, filler: UInt8 = 0xa5, _ body: (PacketBytes) -> Void) -> [UInt8] {
    var bytes = [UInt8](repeating: filler, count: count)
    unsafe bytes.withUnsafeMutableBytes { buffer in
        body(unsafe PacketBytes(start: buffer.baseAddress ?? UnsafeMutableRawPointer(bitPattern: 1)!, count: count))
    }
    return bytes
}

/// Bytes from hexadecimal digits; white space is ignored.
func hex(_ text: String) -> [UInt8] {
    let digits = text.filter { !$0.isWhitespace }.map { UInt8($0.hexDigitValue!) }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

/// The checksum by the definition, one word after the other: RFC 1071, section 1.
func referenceChecksum(_ bytes: [UInt8]) -> UInt16 {
    var sum: UInt32 = 0
    for (index, byte) in bytes.enumerated() {
        sum += index % 2 == 0 ? UInt32(byte) << 8 : UInt32(byte)
        if sum > 0xffff { sum -= 0xffff }
    }
    return ~UInt16(sum)
}

extension SplitMix64 {
    mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8.random(in: 0...255, using: &self) } }
    mutating func value<T: FixedWidthInteger>(_ type: T.Type = T.self) -> T { T.random(in: .min ... .max, using: &self) }
    mutating func flag() -> Bool { Bool.random(using: &self) }
    mutating func mac() -> MACAddress { MACAddress(value()) }
    /// Any address but an IPv4-mapped one.
    mutating func ipv6() -> IPAddress { IPAddress(high: value() | 1 << 61, low: value()) }
    mutating func sequence() -> SequenceNumber { SequenceNumber(value()) }
}

/// The lengths below `limit` to which `bytes` can be cut without `isRefused` saying so: none, for a header of `limit` bytes.
func lengthsAccepted(of bytes: [UInt8], below limit: Int, _ isRefused: (PacketBytes) -> Bool) -> [Int] {
    // Each in an allocation of its own, so that a sanitizer sees what reads on.
    (0..<limit).filter { length in !withPacket(Array(bytes[..<length]), isRefused) }
}
