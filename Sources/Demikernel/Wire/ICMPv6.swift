/// An ICMPv6 message as it lies in a packet. RFC 4443, section 2.1.
package struct ICMPv6View: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where there are less than 8 bytes. Takes all of the upper layer's bytes.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        guard bytes.count >= ICMPv6.byteCount else { return nil }
        self.bytes = bytes
    }

    @inline(__always) package var type: UInt8 { bytes.load8(0) }
    @inline(__always) package var code: UInt8 { bytes.load8(1) }
    @inline(__always) package var checksum: UInt16 { bytes.load16(2) }
    /// The header's last four bytes, whose meaning is the type's.
    @inline(__always) package var rest: UInt32 { bytes.load32(4) }
    /// What follows the header: the echoed data, or the beginning of the packet that an error is about (`QuotedPacket`).
    @inline(__always) package var payload: PacketBytes { bytes.slice(from: ICMPv6.byteCount) }
    /// Whether `NDPMessage` reads on: types 133 ... 137.
    @inline(__always) package var isNeighbourDiscovery: Bool { type >= 133 && type <= 137 }

    /// The checksum covers the addresses. RFC 4443, section 2.3.
    @inline(__always) package func checksumIsValid(source: IPAddress, destination: IPAddress) -> Bool {
        let pseudo = InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: .icmpv6, length: bytes.count)
        return InternetChecksum.isValid(InternetChecksum.sum(bytes, initial: pseudo))
    }
}

/// The header of an ICMPv6 message. RFC 4443. Neighbour discovery is `NDPMessage`'s, and `other` here.
package enum ICMPv6: BitwiseCopyable, Hashable, Sendable {
    /// RFC 4443, section 3.1. Others stay as they are.
    package struct UnreachableCode: RawRepresentable, BitwiseCopyable, Hashable, Sendable {
        package let rawValue: UInt8
        @inline(__always) package init(rawValue: UInt8) { self.rawValue = rawValue }
        package static var noRoute: UnreachableCode { UnreachableCode(rawValue: 0) }
        package static var administrativelyProhibited: UnreachableCode { UnreachableCode(rawValue: 1) }
        package static var beyondScope: UnreachableCode { UnreachableCode(rawValue: 2) }
        package static var address: UnreachableCode { UnreachableCode(rawValue: 3) }
        package static var port: UnreachableCode { UnreachableCode(rawValue: 4) }
    }

    /// RFC 4443, section 3.4. Others stay as they are.
    package struct ParameterProblemCode: RawRepresentable, BitwiseCopyable, Hashable, Sendable {
        package let rawValue: UInt8
        @inline(__always) package init(rawValue: UInt8) { self.rawValue = rawValue }
        package static var erroneousHeaderField: ParameterProblemCode { ParameterProblemCode(rawValue: 0) }
        package static var unrecognisedNextHeader: ParameterProblemCode { ParameterProblemCode(rawValue: 1) }
        package static var unrecognisedOption: ParameterProblemCode { ParameterProblemCode(rawValue: 2) }
        /// RFC 7112: the first fragment ends before the upper layer's header.
        package static var incompleteHeaderChain: ParameterProblemCode { ParameterProblemCode(rawValue: 3) }
    }

    case echoRequest(identifier: UInt16, sequenceNumber: UInt16)
    case echoReply(identifier: UInt16, sequenceNumber: UInt16)
    case destinationUnreachable(UnreachableCode)
    case packetTooBig(mtu: UInt32)
    /// Code 0: in transit; 1: in reassembly.
    case timeExceeded(code: UInt8)
    /// `pointer` counts from the start of the packet that the error is about.
    case parameterProblem(ParameterProblemCode, pointer: UInt32)
    /// What is not told apart here. Types below 128 are errors, which are passed on to the upper layer; the others are dropped where they
    /// are unknown. RFC 4443, section 2.4.
    case other(type: UInt8, code: UInt8, rest: UInt32)

    package init(_ view: ICMPv6View) {
        let rest = view.rest
        let upper = UInt16(truncatingIfNeeded: rest &>> 16)
        let lower = UInt16(truncatingIfNeeded: rest)
        switch (view.type, view.code) {
        case (1, let code): self = .destinationUnreachable(UnreachableCode(rawValue: code))
        case (2, _): self = .packetTooBig(mtu: rest)
        case (3, let code): self = .timeExceeded(code: code)
        case (4, let code): self = .parameterProblem(ParameterProblemCode(rawValue: code), pointer: rest)
        case (128, 0): self = .echoRequest(identifier: upper, sequenceNumber: lower)
        case (129, 0): self = .echoReply(identifier: upper, sequenceNumber: lower)
        case (let type, let code): self = .other(type: type, code: code, rest: rest)
        }
    }

    /// 8: without the payload.
    @inline(__always) package static var byteCount: Int { 8 }
    @inline(__always) package var byteCount: Int { 8 }

    /// Whether nothing may be answered to it with an error. RFC 4443, section 2.4(e).
    package var isError: Bool { fields.type < 128 }

    private var fields: (type: UInt8, code: UInt8, rest: UInt32) {
        switch self {
        case .destinationUnreachable(let code): (1, code.rawValue, 0)
        case .packetTooBig(let mtu): (2, 0, mtu)
        case .timeExceeded(let code): (3, code, 0)
        case .parameterProblem(let code, let pointer): (4, code.rawValue, pointer)
        case .echoRequest(let identifier, let sequenceNumber): (128, 0, UInt32(identifier) &<< 16 | UInt32(sequenceNumber))
        case .echoReply(let identifier, let sequenceNumber): (129, 0, UInt32(identifier) &<< 16 | UInt32(sequenceNumber))
        case .other(let type, let code, let rest): (type, code, rest)
        }
    }

    /// Writes the header to the start of `bytes`, which is the whole message with its payload in place, and its checksum.
    package func emit(into bytes: PacketBytes, source: IPAddress, destination: IPAddress) {
        let (type, code, rest) = fields
        bytes.store32(UInt32(type) &<< 24 | UInt32(code) &<< 16, at: 0)
        bytes.store32(rest, at: 4)
        ICMPv6.storeChecksum(in: bytes, source: source, destination: destination)
    }

    /// Writes the checksum of a whole message whose checksum field is 0.
    static func storeChecksum(in bytes: PacketBytes, source: IPAddress, destination: IPAddress) {
        let pseudo = InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: .icmpv6, length: bytes.count)
        bytes.store16(InternetChecksum.fold(InternetChecksum.sum(bytes, initial: pseudo)), at: 2)
    }
}
