/// The control bits of a TCP header. RFC 9293, section 3.1; AE is RFC 9768's.
package struct TCPFlags: OptionSet, BitwiseCopyable, Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt16
    @inline(__always) package init(rawValue: UInt16) { self.rawValue = rawValue }

    @inline(__always) package static var fin: TCPFlags { TCPFlags(rawValue: 0x001) }
    @inline(__always) package static var syn: TCPFlags { TCPFlags(rawValue: 0x002) }
    @inline(__always) package static var rst: TCPFlags { TCPFlags(rawValue: 0x004) }
    @inline(__always) package static var psh: TCPFlags { TCPFlags(rawValue: 0x008) }
    @inline(__always) package static var ack: TCPFlags { TCPFlags(rawValue: 0x010) }
    @inline(__always) package static var urg: TCPFlags { TCPFlags(rawValue: 0x020) }
    /// ECN echo. RFC 3168, section 6.1.
    @inline(__always) package static var ece: TCPFlags { TCPFlags(rawValue: 0x040) }
    /// Congestion window reduced. RFC 3168, section 6.1.
    @inline(__always) package static var cwr: TCPFlags { TCPFlags(rawValue: 0x080) }
    /// Accurate ECN. RFC 9768.
    @inline(__always) package static var ae: TCPFlags { TCPFlags(rawValue: 0x100) }

    /// The bits that have a meaning.
    @inline(__always) static var mask: UInt16 { 0x1ff }

    package var description: String {
        var names: [String] = []
        for (bit, name) in ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE"].enumerated() where rawValue >> bit & 1 == 1 {
            names.append(name)
        }
        return names.joined(separator: "|")
    }
}

/// A TCP segment as it lies in a packet. RFC 9293, section 3.1.
package struct TCPHeaderView: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where the segment is shorter than the header that it announces, or announces less than 20 bytes. Takes all of the packet's
    /// payload, whose end is the segment's.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        guard bytes.count >= TCPHeader.byteCount else { return nil }
        let headerLength = Int(bytes.load8(12) &>> 4) &* 4
        guard headerLength >= TCPHeader.byteCount, headerLength <= bytes.count else { return nil }
        self.bytes = bytes
    }

    @inline(__always) package var sourcePort: UInt16 { bytes.load16(0) }
    @inline(__always) package var destinationPort: UInt16 { bytes.load16(2) }
    /// Both ports in one load: source in the upper half.
    @inline(__always) package var ports: UInt32 { bytes.load32(0) }
    @inline(__always) package var sequenceNumber: SequenceNumber { SequenceNumber(bytes.load32(4)) }
    @inline(__always) package var acknowledgmentNumber: SequenceNumber { SequenceNumber(bytes.load32(8)) }
    /// 20 ... 60: options included.
    @inline(__always) package var headerLength: Int { Int(bytes.load8(12) &>> 4) &* 4 }
    @inline(__always) package var flags: TCPFlags { TCPFlags(rawValue: bytes.load16(12) & TCPFlags.mask) }
    /// As it stands, not scaled.
    @inline(__always) package var window: UInt16 { bytes.load16(14) }
    @inline(__always) package var checksum: UInt16 { bytes.load16(16) }
    @inline(__always) package var urgentPointer: UInt16 { bytes.load16(18) }

    @inline(__always) package var options: PacketBytes { bytes.slice(TCPHeader.byteCount, headerLength &- TCPHeader.byteCount) }
    @inline(__always) package var payload: PacketBytes { bytes.slice(from: headerLength) }
    @inline(__always) package var payloadLength: Int { bytes.count &- headerLength }
    /// SEG.LEN: SYN and FIN count. RFC 9293, section 3.4.
    @inline(__always) package var segmentLength: Int {
        let bits = flags.rawValue
        return payloadLength &+ Int(bits & 1) &+ Int(bits &>> 1 & 1)
    }

    /// Whether the options are timestamps alone in the layout that RFC 7323, appendix A, recommends: then `fastTimestamps` has them.
    @inline(__always) package var hasOnlyTimestamps: Bool { bytes.load8(12) &>> 4 == 8 && bytes.load32(20) == TCPOptions.timestampsPrefix }
    /// The timestamps of a segment for which `hasOnlyTimestamps`.
    @inline(__always) package var fastTimestamps: TCPTimestamps { TCPTimestamps(value: bytes.load32(24), echo: bytes.load32(28)) }

    /// Whether the checksum agrees with the segment and the addresses. `pseudoHeader` is the one of `bytes.count` bytes.
    @inline(__always) package func checksumIsValid(pseudoHeader: UInt64) -> Bool {
        InternetChecksum.isValid(InternetChecksum.sum(bytes, initial: pseudoHeader))
    }
}

/// A TCP header but for its options.
package struct TCPHeader: BitwiseCopyable, Hashable, Sendable {
    package var sourcePort: UInt16
    package var destinationPort: UInt16
    package var sequenceNumber: SequenceNumber
    /// 0 without the ACK flag.
    package var acknowledgmentNumber: SequenceNumber
    package var flags: TCPFlags
    /// As it stands, not scaled.
    package var window: UInt16
    /// Means something with the URG flag alone.
    package var urgentPointer: UInt16

    @inline(__always)
    package init(
        sourcePort: UInt16, destinationPort: UInt16, sequenceNumber: SequenceNumber, acknowledgmentNumber: SequenceNumber = SequenceNumber(0),
        flags: TCPFlags, window: UInt16, urgentPointer: UInt16 = 0
    ) {
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        self.sequenceNumber = sequenceNumber
        self.acknowledgmentNumber = acknowledgmentNumber
        self.flags = flags
        self.window = window
        self.urgentPointer = urgentPointer
    }

    @inline(__always) package init(_ view: TCPHeaderView) {
        self.init(
            sourcePort: view.sourcePort, destinationPort: view.destinationPort, sequenceNumber: view.sequenceNumber,
            acknowledgmentNumber: view.acknowledgmentNumber, flags: view.flags, window: view.window, urgentPointer: view.urgentPointer)
    }

    /// 20: without options.
    @inline(__always) package static var byteCount: Int { 20 }
    /// Where the checksum stands in the header.
    @inline(__always) package static var checksumOffset: Int { 16 }
    /// A header with all the options there can be.
    @inline(__always) package static var byteCountMaximum: Int { 60 }

    /// Writes the 20 bytes to the start of `bytes`, announcing `optionsLength` bytes of options (a multiple of 4 up to 40) that the caller
    /// writes behind, and `checksum` as it is: see `storeChecksum`.
    @inline(__always) package func emit(into bytes: PacketBytes, optionsLength: Int, checksum: UInt16 = 0) {
        assert(optionsLength >= 0 && optionsLength <= 40 && optionsLength % 4 == 0)
        bytes.store32(UInt32(sourcePort) &<< 16 | UInt32(destinationPort), at: 0)
        bytes.store32(sequenceNumber.rawValue, at: 4)
        bytes.store32(acknowledgmentNumber.rawValue, at: 8)
        let offset = UInt32(truncatingIfNeeded: (Self.byteCount &+ optionsLength) &>> 2) &<< 28
        bytes.store32(offset | UInt32(flags.rawValue & TCPFlags.mask) &<< 16 | UInt32(window), at: 12)
        bytes.store32(UInt32(checksum) &<< 16 | UInt32(urgentPointer), at: 16)
    }

    /// Writes the header and its options to the start of `bytes` and answers how many bytes they are. The checksum is 0.
    @inline(__always) @discardableResult package func emit(into bytes: PacketBytes, options: TCPOptions) -> Int {
        let optionsLength = options.byteCount
        emit(into: bytes, optionsLength: optionsLength)
        options.emit(into: bytes.slice(from: Self.byteCount))
        return Self.byteCount &+ optionsLength
    }

    /// Writes the checksum into a header whose checksum field is 0. `header` is header and options; `sum` that of pseudo-header and payload.
    @inline(__always) package static func storeChecksum(in header: PacketBytes, sum: UInt64) {
        // With timestamps and nothing else, as nearly all headers are: words that were stored a moment ago, loaded as they were stored.
        let own = header.count == 32 ? InternetChecksum.sum32(header) : InternetChecksum.sum(header)
        header.store16(InternetChecksum.fold(sum &+ own), at: checksumOffset)
    }
}
