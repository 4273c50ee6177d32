import Demikernel

/// What a stream carries: bytes that follow from the connection, the direction and the offset, so that each can be checked where it arrives.
package struct ScenarioPattern: Sendable {
    private let key: UInt64
    /// The first eight bytes of what a client sends: they say which connection it is.
    private let first: UInt64?

    private static var mark: UInt64 { 0x6465_6d69_7369_6d00 }

    package init(connection: Int, isClient: Bool) {
        key = SimulationRandom.mix(UInt64(connection) &* 2 &+ (isClient ? 1 : 0)) | 1
        first = isClient ? Self.mark ^ UInt64(connection) &<< 8 : nil
    }

    /// The connection that a client's first eight bytes name; nil where they are no such bytes.
    package static func connection(_ bytes: [UInt8]) -> Int? {
        let word = bytes.prefix(8).enumerated().reduce(UInt64(0)) { $0 | UInt64($1.element) << (8 * UInt64($1.offset)) }
        let number = word ^ mark
        return number & 0xff == 0 && number >> 8 < 1 << 32 ? Int(number >> 8) : nil
    }

    @inline(__always) private func word(_ index: Int) -> UInt64 {
        if index == 0, let first { return first }
        return SimulationRandom.mix(key &+ UInt64(truncatingIfNeeded: index) &* 0x9e37_79b9_7f4a_7c15)
    }

    /// Writes the bytes from `offset` on.
    package func fill(_ target: UnsafeMutableRawBufferPointer, from offset: Int) {
        var position = 0
        while position < target.count {
            let place = offset + position
            let word = word(place / 8)
            if place & 7 == 0, position + 8 <= target.count {
                unsafe target.storeBytes(of: word.littleEndian, toByteOffset: position, as: UInt64.self)
                position += 8
            } else {
                unsafe target[position] = UInt8(truncatingIfNeeded: word >> (8 * UInt64(place & 7)))
                position += 1
            }
        }
    }

    /// The first byte that is not what it should be; nil where all are.
    package func mismatch(_ bytes: UnsafeRawBufferPointer, from offset: Int) -> Int? {
        var position = 0
        while position < bytes.count {
            let place = offset + position
            let word = word(place / 8)
            if place & 7 == 0, position + 8 <= bytes.count, unsafe bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self) == word.littleEndian {
                position += 8
                continue
            }
            guard unsafe bytes[position] == UInt8(truncatingIfNeeded: word >> (8 * UInt64(place & 7))) else { return position }
            position += 1
        }
        return nil
    }
}
