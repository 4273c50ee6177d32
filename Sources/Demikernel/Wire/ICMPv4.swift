/// The header of an ICMP message. RFC 792.
package enum ICMPv4: BitwiseCopyable, Hashable, Sendable {
    /// RFC 792; RFC 1122, section 3.2.2.1. Others stay as they are.
    package struct UnreachableCode: RawRepresentable, BitwiseCopyable, Hashable, Sendable {
        package let rawValue: UInt8
        @inline(__always) package init(rawValue: UInt8) { self.rawValue = rawValue }
        package static var network: UnreachableCode { UnreachableCode(rawValue: 0) }
        package static var host: UnreachableCode { UnreachableCode(rawValue: 1) }
        package static var ipProtocol: UnreachableCode { UnreachableCode(rawValue: 2) }
        package static var port: UnreachableCode { UnreachableCode(rawValue: 3) }
        package static var fragmentationNeeded: UnreachableCode { UnreachableCode(rawValue: 4) }
        package static var sourceRouteFailed: UnreachableCode { UnreachableCode(rawValue: 5) }
        package static var administrativelyProhibited: UnreachableCode { UnreachableCode(rawValue: 13) }
    }

    case echoRequest(identifier: UInt16, sequenceNumber: UInt16)
    case echoReply(identifier: UInt16, sequenceNumber: UInt16)
    /// `nextHopMTU` is 0 but with `fragmentationNeeded`, and there too from routers older than RFC 1191.
    case destinationUnreachable(UnreachableCode, nextHopMTU: UInt16)
    /// Code 0: in transit; 1: in reassembly.
    case timeExceeded(code: UInt8)
    /// `pointer` counts from the start of the packet that the error is about; code 0 alone has one.
    case parameterProblem(code: UInt8, pointer: UInt8)
    /// What this stack does not speak.
    case other(type: UInt8, code: UInt8, rest: UInt32)

    package init(_ view: ICMPView) {
        let rest = view.rest
        let upper = UInt16(truncatingIfNeeded: rest &>> 16)
        let lower = UInt16(truncatingIfNeeded: rest)
        switch (view.type, view.code) {
        case (0, 0): self = .echoReply(identifier: upper, sequenceNumber: lower)
        case (3, let code): self = .destinationUnreachable(UnreachableCode(rawValue: code), nextHopMTU: code == 4 ? lower : 0)
        case (8, 0): self = .echoRequest(identifier: upper, sequenceNumber: lower)
        case (11, let code): self = .timeExceeded(code: code)
        case (12, let code): self = .parameterProblem(code: code, pointer: UInt8(truncatingIfNeeded: rest &>> 24))
        case (let type, let code): self = .other(type: type, code: code, rest: rest)
        }
    }

    /// 8: without the payload.
    @inline(__always) package static var byteCount: Int { 8 }
    @inline(__always) package var byteCount: Int { 8 }

    /// Whether nothing may be answered to it with an error. RFC 1122, section 3.2.2.
    package var isError: Bool {
        switch self {
        case .destinationUnreachable, .timeExceeded, .parameterProblem: true
        case .other(let type, _, _): type == 4 || type == 5  // source quench, redirect
        case .echoRequest, .echoReply: false
        }
    }

    private var fields: (type: UInt8, code: UInt8, rest: UInt32) {
        switch self {
        case .echoReply(let identifier, let sequenceNumber): (0, 0, UInt32(identifier) &<< 16 | UInt32(sequenceNumber))
        case .destinationUnreachable(let code, let nextHopMTU): (3, code.rawValue, code == .fragmentationNeeded ? UInt32(nextHopMTU) : 0)
        case .echoRequest(let identifier, let sequenceNumber): (8, 0, UInt32(identifier) &<< 16 | UInt32(sequenceNumber))
        case .timeExceeded(let code): (11, code, 0)
        case .parameterProblem(let code, let pointer): (12, code, UInt32(pointer) &<< 24)
        case .other(let type, let code, let rest): (type, code, rest)
        }
    }

    /// Writes the header to the start of `bytes`, which is the whole message with its payload in place, and its checksum.
    package func emit(into bytes: PacketBytes) {
        let (type, code, rest) = fields
        bytes.store32(UInt32(type) &<< 24 | UInt32(code) &<< 16, at: 0)
        bytes.store32(rest, at: 4)
        bytes.store16(InternetChecksum.fold(InternetChecksum.sum(bytes)), at: 2)
    }
}
