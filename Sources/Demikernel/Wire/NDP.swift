/// A message of IPv6's neighbour discovery. RFC 4861, section 4. That the hop limit is 255 is for the caller to check, as are the rules
/// about source and destination (section 6.1 and 7.1).
package enum NDPMessage: BitwiseCopyable, Sendable {
    case routerSolicitation(NDPOptions)
    case routerAdvertisement(RouterAdvertisement, NDPOptions)
    /// Who has `target`?
    case neighbourSolicitation(target: IPAddress, NDPOptions)
    case neighbourAdvertisement(NeighbourAdvertisement, NDPOptions)

    /// RFC 4861, section 4.2.
    package struct RouterAdvertisement: BitwiseCopyable, Hashable, Sendable {
        /// 0: no opinion.
        package var hopLimit: UInt8
        /// Addresses by DHCPv6 (M).
        package var isManaged: Bool
        /// Other settings by DHCPv6 (O).
        package var hasOtherConfiguration: Bool
        /// For how long the router is a default one, in seconds; 0: it is none.
        package var lifetimeSeconds: UInt16
        /// 0: no opinion.
        package var reachableTimeMilliseconds: UInt32
        /// Between solicitations; 0: no opinion.
        package var retransmissionMilliseconds: UInt32

        package init(
            hopLimit: UInt8 = 0, isManaged: Bool = false, hasOtherConfiguration: Bool = false, lifetimeSeconds: UInt16,
            reachableTimeMilliseconds: UInt32 = 0, retransmissionMilliseconds: UInt32 = 0
        ) {
            self.hopLimit = hopLimit
            self.isManaged = isManaged
            self.hasOtherConfiguration = hasOtherConfiguration
            self.lifetimeSeconds = lifetimeSeconds
            self.reachableTimeMilliseconds = reachableTimeMilliseconds
            self.retransmissionMilliseconds = retransmissionMilliseconds
        }
    }

    /// RFC 4861, section 4.4.
    package struct NeighbourAdvertisement: BitwiseCopyable, Hashable, Sendable {
        package var target: IPAddress
        /// The sender is a router (R).
        package var isRouter: Bool
        /// An answer to a solicitation (S).
        package var isSolicited: Bool
        /// To replace what is known (O).
        package var overrides: Bool

        package init(target: IPAddress, isRouter: Bool = false, isSolicited: Bool, overrides: Bool) {
            self.target = target
            self.isRouter = isRouter
            self.isSolicited = isSolicited
            self.overrides = overrides
        }
    }
}

// MARK: - Parsing

extension NDPMessage {
    private enum MessageType {
        static var routerSolicitation: UInt8 { 133 }
        static var routerAdvertisement: UInt8 { 134 }
        static var neighbourSolicitation: UInt8 { 135 }
        static var neighbourAdvertisement: UInt8 { 136 }
    }

    /// Fails where the message is none of these four, is too short, has another code than 0, a target that cannot be (a group, an
    /// IPv4-mapped address), or an option that is malformed: such messages are dropped. RFC 4861, sections 6.1 and 7.1.
    package init?(_ view: ICMPView) {
        let bytes = view.bytes
        guard view.code == 0 else { return nil }
        switch view.type {
        case MessageType.routerSolicitation:
            guard let options = NDPOptions(parsing: bytes.slice(from: 8)) else { return nil }
            self = .routerSolicitation(options)
        case MessageType.routerAdvertisement:
            guard bytes.count >= 16, let options = NDPOptions(parsing: bytes.slice(from: 16)) else { return nil }
            let flags = bytes.load8(5)
            let advertisement = RouterAdvertisement(
                hopLimit: bytes.load8(4), isManaged: flags & 0x80 != 0, hasOtherConfiguration: flags & 0x40 != 0,
                lifetimeSeconds: bytes.load16(6), reachableTimeMilliseconds: bytes.load32(8), retransmissionMilliseconds: bytes.load32(12))
            self = .routerAdvertisement(advertisement, options)
        case MessageType.neighbourSolicitation:
            guard let (target, options) = Self.targetAndOptions(bytes) else { return nil }
            self = .neighbourSolicitation(target: target, options)
        case MessageType.neighbourAdvertisement:
            guard let (target, options) = Self.targetAndOptions(bytes) else { return nil }
            let flags = bytes.load8(4)
            let advertisement = NeighbourAdvertisement(
                target: target, isRouter: flags & 0x80 != 0, isSolicited: flags & 0x40 != 0, overrides: flags & 0x20 != 0)
            self = .neighbourAdvertisement(advertisement, options)
        default: return nil
        }
    }

    private static func targetAndOptions(_ bytes: PacketBytes) -> (IPAddress, NDPOptions)? {
        guard bytes.count >= 24 else { return nil }
        let target = bytes.loadIPv6(8)
        guard !target.isIPv4, !target.isMulticast, let options = NDPOptions(parsing: bytes.slice(from: 24)) else { return nil }
        return (target, options)
    }
}

// MARK: - Emitting

extension NDPMessage {
    package var options: NDPOptions {
        switch self {
        case .routerSolicitation(let options), .routerAdvertisement(_, let options), .neighbourSolicitation(_, let options),
            .neighbourAdvertisement(_, let options):
            options
        }
    }

    private var byteCountBeforeOptions: Int {
        switch self {
        case .routerSolicitation: 8
        case .routerAdvertisement: 16
        case .neighbourSolicitation, .neighbourAdvertisement: 24
        }
    }

    /// The whole message, from the ICMPv6 header on.
    package var byteCount: Int { byteCountBeforeOptions + options.byteCount }

    /// Writes the message to the start of `bytes`, which holds at least `byteCount`, and its checksum.
    package func emit(into bytes: PacketBytes, source: IPAddress, destination: IPAddress) {
        let message = bytes.slice(0, byteCount)
        switch self {
        case .routerSolicitation:
            message.store64(UInt64(MessageType.routerSolicitation) << 56, at: 0)
        case .routerAdvertisement(let advertisement, _):
            message.store32(UInt32(MessageType.routerAdvertisement) << 24, at: 0)
            message.store8(advertisement.hopLimit, at: 4)
            message.store8((advertisement.isManaged ? 0x80 : 0) | (advertisement.hasOtherConfiguration ? 0x40 : 0), at: 5)
            message.store16(advertisement.lifetimeSeconds, at: 6)
            message.store32(advertisement.reachableTimeMilliseconds, at: 8)
            message.store32(advertisement.retransmissionMilliseconds, at: 12)
        case .neighbourSolicitation(let target, _):
            message.store64(UInt64(MessageType.neighbourSolicitation) << 56, at: 0)
            message.storeIPv6(target, at: 8)
        case .neighbourAdvertisement(let advertisement, _):
            message.store32(UInt32(MessageType.neighbourAdvertisement) << 24, at: 0)
            let flags: UInt32 =
                (advertisement.isRouter ? 0x8000_0000 : 0) | (advertisement.isSolicited ? 0x4000_0000 : 0)
                | (advertisement.overrides ? 0x2000_0000 : 0)
            message.store32(flags, at: 4)
            message.storeIPv6(advertisement.target, at: 8)
        }
        options.emit(into: message.slice(from: byteCountBeforeOptions))
        ICMPv6.storeChecksum(in: message, source: source, destination: destination)
    }
}

extension NDPMessage: Equatable {
    package static func == (left: NDPMessage, right: NDPMessage) -> Bool {
        switch (left, right) {
        case (.routerSolicitation(let a), .routerSolicitation(let b)): a == b
        case (.routerAdvertisement(let a, let c), .routerAdvertisement(let b, let d)): a == b && c == d
        case (.neighbourSolicitation(let a, let c), .neighbourSolicitation(let b, let d)): a == b && c == d
        case (.neighbourAdvertisement(let a, let c), .neighbourAdvertisement(let b, let d)): a == b && c == d
        default: false
        }
    }
}
