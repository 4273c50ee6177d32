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

    package init(_ view: ICMPView) {
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
