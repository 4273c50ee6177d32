/// The way through a packet's extension headers. RFC 8200, section 4.
package enum IPv6ExtensionHeaders {
    /// What the headers lead to.
    ///
    /// An `offset` counts from the bytes that were walked. A *pointer* counts from the start of the packet's IPv6 header, as an ICMPv6
    /// parameter problem wants it (RFC 4443, section 3.4).
    package enum Outcome: BitwiseCopyable, Sendable {
        /// The upper layer's header, or nothing (`.noNext`), begins at `offset`. Where nobody speaks the protocol, the answer is a parameter
        /// problem, code 1, with `nextHeaderPointer`.
        case upperLayer(IPProtocol, offset: Int, nextHeaderPointer: Int)
        /// A piece of the fragmentable part begins at `offset`.
        case fragment(IPv6FragmentHeader, offset: Int)
        /// Drop, and answer with a parameter problem, code 0 (erroneous header field).
        case malformed(pointer: Int)
        /// Drop, and answer with a parameter problem: code 1 (unrecognised next header), or 2 (unrecognised option), to a multicast packet
        /// only where `answersMulticast`. RFC 8200, section 4.2.
        case unrecognised(pointer: Int, code: UInt8, answersMulticast: Bool)
        /// Drop, and say nothing.
        case discard
    }

    /// Headers in one packet, an end against hostile chains: each kind once but for destination options (RFC 8200, section 4.1), and room.
    package static var headerCountMaximum: Int { 8 }

    private enum OptionsOutcome {
        case good
        case bad(Outcome)
    }

    /// Walks `bytes`, an IPv6 packet's payload, whose first header is a `nextHeader`.
    ///
    /// For a reassembled payload `isReassembled` is set: a hop-by-hop header is unknown there, as anywhere but at the start.
    ///
    /// - Complexity: O(bytes of the extension headers).
    @inline(__always)
    package static func walk(_ bytes: PacketBytes, nextHeader: IPProtocol, isReassembled: Bool = false) -> Outcome {
        switch nextHeader {
        case .hopByHop, .routing, .fragment, .destinationOptions: walkAll(bytes, nextHeader, isReassembled)
        default: .upperLayer(nextHeader, offset: 0, nextHeaderPointer: 6)
        }
    }

    private static func walkAll(_ bytes: PacketBytes, _ first: IPProtocol, _ isReassembled: Bool) -> Outcome {
        let base = IPv6Header.byteCount
        var next = first
        var nextPointer = 6
        var offset = 0
        var headers = 0
        while true {
            switch next {
            case .hopByHop:
                guard headers == 0, !isReassembled else { return .unrecognised(pointer: nextPointer, code: 1, answersMulticast: false) }
            case .routing, .fragment, .destinationOptions: break
            default: return .upperLayer(next, offset: offset, nextHeaderPointer: nextPointer)
            }
            guard headers < headerCountMaximum else { return .malformed(pointer: nextPointer) }
            headers &+= 1
            // Every extension header is 8 bytes at least, and has the next one's type at its start.
            guard bytes.count &- offset >= 8 else { return .malformed(pointer: nextPointer) }
            if next == .fragment, let view = IPv6FragmentHeaderView(bytes.slice(from: offset)) {
                return .fragment(IPv6FragmentHeader(view), offset: offset &+ IPv6FragmentHeader.byteCount)
            }
            let length = Int(bytes.load8(offset &+ 1)) &* 8 &+ 8
            guard length <= bytes.count &- offset else { return .malformed(pointer: base &+ offset &+ 1) }
            if next == .routing {
                // No routing type is spoken, type 0 least of all (RFC 5095): without segments left it is passed over.
                guard bytes.load8(offset &+ 3) == 0 else { return .malformed(pointer: base &+ offset &+ 2) }
            } else if case .bad(let outcome) = checkOptions(bytes.slice(offset &+ 2, length &- 2), pointer: base &+ offset &+ 2) {
                return outcome
            }
            next = IPProtocol(rawValue: bytes.load8(offset))
            nextPointer = base &+ offset
            offset &+= length
        }
    }

    /// RFC 8200, section 4.2: none but the paddings is known; the type's two high bits say what to do with the others.
    private static func checkOptions(_ options: PacketBytes, pointer: Int) -> OptionsOutcome {
        var offset = 0
        while offset < options.count {
            let type = options.load8(offset)
            if type == 0 {
                offset &+= 1
                continue
            }
            guard offset &+ 1 < options.count else { return .bad(.malformed(pointer: pointer &+ offset)) }
            let length = Int(options.load8(offset &+ 1))
            guard length <= options.count &- offset &- 2 else { return .bad(.malformed(pointer: pointer &+ offset &+ 1)) }
            switch type &>> 6 {
            case 0: break
            case 1: return .bad(.discard)
            case 2: return .bad(.unrecognised(pointer: pointer &+ offset, code: 2, answersMulticast: true))
            default: return .bad(.unrecognised(pointer: pointer &+ offset, code: 2, answersMulticast: false))
            }
            offset &+= 2 &+ length
        }
        return .good
    }
}
