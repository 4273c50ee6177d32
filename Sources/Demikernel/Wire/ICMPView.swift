/// An ICMP or ICMPv6 message as it lies in a packet: the two differ in the types' meaning (`ICMPv4`, `ICMPv6`, `NDPMessage`) and in what the checksum
/// covers. RFC 792; RFC 4443, section 2.1.
package struct ICMPView: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where there are less than 8 bytes. Takes all of the packet's payload.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        guard bytes.count >= ICMPv4.byteCount else { return nil }
        self.bytes = bytes
    }

    @inline(__always) package var type: UInt8 { bytes.load8(0) }
    @inline(__always) package var code: UInt8 { bytes.load8(1) }
    @inline(__always) package var checksum: UInt16 { bytes.load16(2) }
    /// The header's last four bytes, whose meaning is the type's.
    @inline(__always) package var rest: UInt32 { bytes.load32(4) }
    /// What follows the header: the echoed data, or the beginning of the packet that an error is about (`QuotedPacket`).
    @inline(__always) package var payload: PacketBytes { bytes.slice(from: ICMPv4.byteCount) }

    /// ICMP's: of the message alone.
    @inline(__always) package var checksumIsValid: Bool { InternetChecksum.isValid(InternetChecksum.sum(bytes)) }

    /// ICMPv6's, which covers the addresses. RFC 4443, section 2.3.
    @inline(__always) package func checksumIsValid(source: IPAddress, destination: IPAddress) -> Bool {
        let pseudo = InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: .icmpv6, length: bytes.count)
        return InternetChecksum.isValid(InternetChecksum.sum(bytes, initial: pseudo))
    }

    /// Of ICMPv6: whether `NDPMessage` reads on, types 133 ... 137.
    @inline(__always) package var isNeighbourDiscovery: Bool { type >= 133 && type <= 137 }
}
