/// A UDP datagram as it lies in a packet. RFC 768.
package struct UDPHeaderView: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where there are less than 8 bytes, or the length field is less than 8 or more than what is there.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        guard bytes.count >= UDPHeader.byteCount else { return nil }
        let length = Int(bytes.load16(4))
        guard length >= UDPHeader.byteCount, length <= bytes.count else { return nil }
        self.bytes = bytes
    }

    @inline(__always) package var sourcePort: UInt16 { bytes.load16(0) }
    @inline(__always) package var destinationPort: UInt16 { bytes.load16(2) }
    /// Header and payload, in bytes.
    @inline(__always) package var length: Int { Int(bytes.load16(4)) }
    @inline(__always) package var checksum: UInt16 { bytes.load16(6) }
    /// Whether the sender computed a checksum. It may leave it out over IPv4; over IPv6 such a datagram is dropped (RFC 8200, section 8.1).
    @inline(__always) package var hasChecksum: Bool { checksum != 0 }

    @inline(__always) package var payloadLength: Int { length &- UDPHeader.byteCount }
    @inline(__always) package var payload: PacketBytes { bytes.slice(UDPHeader.byteCount, payloadLength) }

    /// Whether the checksum, which is there, agrees with the datagram and the addresses. `pseudoHeader` is the one of `length` bytes.
    @inline(__always) package func checksumIsValid(pseudoHeader: UInt64) -> Bool {
        InternetChecksum.isValid(InternetChecksum.sum(bytes.slice(0, length), initial: pseudoHeader))
    }
}

/// A UDP header.
package struct UDPHeader: BitwiseCopyable, Hashable, Sendable {
    package var sourcePort: UInt16
    package var destinationPort: UInt16
    private var payloadBytes: UInt16

    /// `payloadLength` is 0 ... 65,527.
    @inline(__always) package init(sourcePort: UInt16, destinationPort: UInt16, payloadLength: Int) {
        assert(payloadLength >= 0 && payloadLength <= 65_527)
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        payloadBytes = UInt16(truncatingIfNeeded: payloadLength)
    }

    @inline(__always) package init(_ view: UDPHeaderView) {
        self.init(sourcePort: view.sourcePort, destinationPort: view.destinationPort, payloadLength: view.payloadLength)
    }

    /// 8.
    @inline(__always) package static var byteCount: Int { 8 }
    @inline(__always) package var byteCount: Int { 8 }
    @inline(__always) package var payloadLength: Int { Int(payloadBytes) }
    /// Header and payload, in bytes.
    @inline(__always) package var length: Int { Int(payloadBytes) &+ Self.byteCount }

    /// Writes the 8 bytes to the start of `bytes`, with `checksum` as it is: 0 says that there is none. See `checksum(payloadSum:…)`.
    @inline(__always) package func emit(into bytes: PacketBytes, checksum: UInt16 = 0) {
        bytes.store16(sourcePort, at: 0)
        bytes.store16(destinationPort, at: 2)
        bytes.store16(UInt16(truncatingIfNeeded: length), at: 4)
        bytes.store16(checksum, at: 6)
    }

    /// The checksum over pseudo-header, this header and a payload whose sum is `payloadSum`. Never 0, which would mean none: RFC 768.
    @inline(__always) package func checksum(payloadSum: UInt64, pseudoHeader: UInt64) -> UInt16 {
        let header = UInt64(sourcePort.bigEndian) &+ UInt64(destinationPort.bigEndian)
            &+ UInt64(UInt16(truncatingIfNeeded: length).bigEndian)
        let checksum = InternetChecksum.fold(payloadSum &+ pseudoHeader &+ header)
        return checksum == 0 ? 0xffff : checksum
    }
}
