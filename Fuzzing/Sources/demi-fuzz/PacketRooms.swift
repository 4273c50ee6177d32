@testable import Demikernel

/// Lends a room that holds these bytes.
func withPacket<Result>(_ bytes: [UInt8], _ body: (PacketBytes) -> Result) -> Result {
    var copy = bytes
    return unsafe copy.withUnsafeMutableBytes { buffer in
        guard let start = buffer.baseAddress else { return body(.empty) }
        return body(unsafe PacketBytes(start: start, count: buffer.count))
    }
}

/// The bytes that `body` writes into a room of `count` bytes: the room is no longer than that.
func written(_ count: Int, _ body: (PacketBytes) -> Void) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xa5, count: count)
    unsafe bytes.withUnsafeMutableBytes { buffer in
        body(unsafe PacketBytes(start: buffer.baseAddress ?? UnsafeMutableRawPointer(bitPattern: 1)!, count: count))
    }
    return bytes
}

/// The checksum by the definition, one word after the other: RFC 1071, section 1.
func referenceChecksum(_ bytes: some Sequence<UInt8>) -> UInt16 {
    var sum: UInt32 = 0
    for (index, byte) in bytes.enumerated() {
        sum += index % 2 == 0 ? UInt32(byte) << 8 : UInt32(byte)
        if sum > 0xffff { sum -= 0xffff }
    }
    return ~UInt16(sum)
}

extension PacketBytes {
    var array: [UInt8] { (0..<count).map { load8($0) } }
}
