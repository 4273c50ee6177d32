import Demikernel
import Glibc

/// getsockopt(2) and setsockopt(2): 0 or a negative errno.
extension PacketdrillWorld {
    /// The options that have a number.
    private enum Name {
        static let ownProtocol: Int32 = 38
        static let domain: Int32 = 39
        static let onlyIPv6: Int32 = 26
        static let noDelay: Int32 = 1
        static let maximumSegment: Int32 = 2
        static let keepIdle: Int32 = 4
        static let keepInterval: Int32 = 5
        static let keepCount: Int32 = 6
        static let information: Int32 = 11
        static let congestion: Int32 = 13
        static let userTimeout: Int32 = 18
    }

    func setOption(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: UnsafeRawBufferPointer) -> Int {
        enter { world, stack in
            guard var socket = world.descriptors[descriptor] else { return -Int(EBADF) }
            let result = unsafe Self.apply(level, name, value, to: &socket)
            guard result == 0 else { return result }
            world.descriptors[descriptor] = socket
            if let datagram = socket.datagram { stack.udp.setReuse(datagram, socket.options.reuseAddress) }
            if let handle = socket.handle { stack.setOptions(handle, socket.options, now: world.now) }
            return 0
        }
    }

    private static func apply(_ level: Int32, _ name: Int32, _ value: UnsafeRawBufferPointer, to socket: inout PacketdrillDescriptors.Socket) -> Int {
        if socket.isDatagram, level == IPPROTO_TCP { return -Int(ENOPROTOOPT) }
        if level == IPPROTO_TCP, name == Name.congestion {
            switch unsafe String(decoding: value.prefix { $0 != 0 }, as: UTF8.self) {
            case "cubic": socket.options.congestionControl = .cubic
            case "reno", "newreno": socket.options.congestionControl = .newReno
            case "dctcp": socket.options.congestionControl = .dctcp
            default: return -Int(ENOENT)
            }
            return 0
        }
        guard value.count >= 4 else { return -Int(EINVAL) }
        let number = unsafe value.loadUnaligned(as: Int32.self)
        switch (level, name) {
        case (SOL_SOCKET, SO_REUSEADDR): socket.options.reuseAddress = number != 0
        // An IPv6 socket has nothing to do with IPv4: what it is anyway may be asked for, and nothing else.
        case (Int32(IPPROTO_IPV6), Name.onlyIPv6) where socket.family == .ipv6: return number != 0 ? 0 : -Int(EOPNOTSUPP)
        case (SOL_SOCKET, SO_KEEPALIVE): socket.options.keepAlive = number != 0
        // Linux doubles what it is told, for its own bookkeeping.
        case (SOL_SOCKET, SO_SNDBUF): socket.options.sendBuffer = max(1, Int(number)) * 2
        case (SOL_SOCKET, SO_RCVBUF): socket.options.receiveBuffer = max(1, Int(number)) * 2
        case (SOL_SOCKET, SO_LINGER):
            guard value.count >= 8 else { return -Int(EINVAL) }
            socket.linger = number != 0 ? unsafe value.loadUnaligned(fromByteOffset: 4, as: Int32.self) : nil
        case (Int32(IPPROTO_TCP), Name.noDelay): socket.options.noDelay = number != 0
        case (Int32(IPPROTO_TCP), Name.keepIdle): socket.options.keepAliveIdle = UInt64(max(1, number)) * 1_000_000_000
        case (Int32(IPPROTO_TCP), Name.keepInterval): socket.options.keepAliveInterval = UInt64(max(1, number)) * 1_000_000_000
        case (Int32(IPPROTO_TCP), Name.keepCount): socket.options.keepAliveProbes = UInt8(clamping: number)
        case (Int32(IPPROTO_TCP), Name.userTimeout): socket.options.userTimeout = UInt64(max(0, number)) * 1_000_000
        default: return -Int(ENOPROTOOPT)
        }
        return 0
    }

    /// An option's bytes; a negative errno where there is none.
    func option(_ descriptor: Int32, _ level: Int32, _ name: Int32) -> (bytes: [UInt8], error: Int) {
        enter { world, stack in
            guard let socket = world.descriptors[descriptor] else { return ([], -Int(EBADF)) }
            if socket.isDatagram, level == IPPROTO_TCP { return ([], -Int(ENOPROTOOPT)) }
            let information = socket.handle.map { stack.tcp.information($0) } ?? TCPInformation()
            switch (level, name) {
            case (SOL_SOCKET, SO_ERROR):
                if let datagram = socket.datagram { return (Self.bytes(stack.udp.pendingError(datagram)), 0) }
                return (Self.bytes(socket.hasFailed ? ECONNREFUSED : 0), 0)
            case (SOL_SOCKET, SO_TYPE): return (Self.bytes(socket.isDatagram ? 2 : 1), 0)
            case (SOL_SOCKET, Name.ownProtocol): return (Self.bytes(socket.isDatagram ? 17 : 6), 0)
            case (SOL_SOCKET, Name.domain): return (Self.bytes(socket.family == .ipv4 ? AF_INET : AF_INET6), 0)
            case (SOL_SOCKET, SO_ACCEPTCONN): return (Self.bytes(socket.state == .listening ? 1 : 0), 0)
            case (SOL_SOCKET, SO_LINGER): return (Self.bytes(socket.linger == nil ? 0 : 1) + Self.bytes(socket.linger ?? 0), 0)
            case (Int32(IPPROTO_IPV6), Name.onlyIPv6) where socket.family == .ipv6: return (Self.bytes(1), 0)
            case (SOL_SOCKET, SO_REUSEADDR): return (Self.bytes(Int32(socket.options.reuseAddress ? 1 : 0)), 0)
            case (SOL_SOCKET, SO_KEEPALIVE): return (Self.bytes(Int32(socket.options.keepAlive ? 1 : 0)), 0)
            case (SOL_SOCKET, SO_SNDBUF): return (Self.bytes(Int32(clamping: socket.options.sendBuffer)), 0)
            case (SOL_SOCKET, SO_RCVBUF): return (Self.bytes(Int32(clamping: socket.options.receiveBuffer)), 0)
            case (Int32(IPPROTO_TCP), Name.noDelay): return (Self.bytes(Int32(socket.options.noDelay ?? true ? 1 : 0)), 0)
            case (Int32(IPPROTO_TCP), Name.maximumSegment): return (Self.bytes(Int32(clamping: information.maximumSegmentSize)), 0)
            case (Int32(IPPROTO_TCP), Name.keepIdle): return (Self.bytes(Int32(clamping: socket.options.keepAliveIdle / 1_000_000_000)), 0)
            case (Int32(IPPROTO_TCP), Name.keepInterval): return (Self.bytes(Int32(clamping: socket.options.keepAliveInterval / 1_000_000_000)), 0)
            case (Int32(IPPROTO_TCP), Name.keepCount): return (Self.bytes(Int32(socket.options.keepAliveProbes)), 0)
            case (Int32(IPPROTO_TCP), Name.userTimeout): return (Self.bytes(Int32(clamping: socket.options.userTimeout / 1_000_000)), 0)
            case (Int32(IPPROTO_TCP), Name.congestion):
                switch socket.options.congestionControl {
                case .newReno: return (Array("reno\0".utf8), 0)
                case .dctcp: return (Array("dctcp\0".utf8), 0)
                default: return (Array("cubic\0".utf8), 0)
                }
            case (Int32(IPPROTO_TCP), Name.information): return (Self.tcpInformation(information), 0)
            default: return ([], -Int(ENOPROTOOPT))
            }
        }
    }

    private static func bytes(_ value: Int32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

    /// `struct tcp_info` (linux/tcp.h), as far as the stack knows it; times in microseconds, windows in segments.
    private static func tcpInformation(_ information: TCPInformation) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 232)
        func store(_ value: some BinaryInteger, at offset: Int) {
            let value = UInt32(clamping: value)
            for byte in 0..<4 { result[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt32(8 * byte)) }
        }
        let segment = max(1, information.maximumSegmentSize)
        result[0] = information.state.linuxNumber
        // TCP_CA_Open, TCP_CA_Recovery, TCP_CA_Loss.
        result[1] = information.isInRecovery ? (information.backOff > 0 ? 4 : 3) : 0
        result[2] = UInt8(clamping: information.backOff)
        result[4] = UInt8(clamping: information.backOff)
        result[5] = (information.hasTimestamps ? 1 : 0) | (information.hasSelectiveAcknowledgement ? 2 : 0) | (information.hasWindowScale ? 4 : 0)
            | (information.hasECN ? 8 : 0)
        store(information.retransmissionTimeout / 1_000, at: 8)
        store(segment, at: 16)
        store((information.bytesInFlight + segment - 1) / segment, at: 24)
        store(information.smoothedRoundTrip / 1_000, at: 68)
        store(information.roundTripVariation / 1_000, at: 72)
        // Linux says 2^31 - 1 where no loss has set it.
        store(information.slowStartThreshold >= 1 << 30 ? 0x7fff_ffff : information.slowStartThreshold / segment, at: 76)
        store(information.congestionWindow / segment, at: 80)
        store(segment, at: 84)
        store(3, at: 88)
        store(information.receiveWindow, at: 96)
        store(information.retransmissions, at: 100)
        store(information.bytesUnsent, at: 144)
        store(information.minimumRoundTrip == .max ? 0 : information.minimumRoundTrip / 1_000, at: 148)
        store(information.sendWindow, at: 228)
        return result
    }
}

extension TCPState {
    /// As Linux numbers states: net/tcp_states.h.
    fileprivate var linuxNumber: UInt8 {
        switch self {
        case .established: 1
        case .synSent: 2
        case .synReceived: 3
        case .finWait1: 4
        case .finWait2: 5
        case .timeWait: 6
        case .closed: 7
        case .closeWait: 8
        case .lastAcknowledgement: 9
        case .listen: 10
        case .closing: 11
        }
    }
}
