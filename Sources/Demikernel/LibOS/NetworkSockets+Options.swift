import Glibc
import SystemPackage

// The options of the network stack's sockets: those of SOL_SOCKET and IPPROTO_TCP that mean something here, by the numbers of Linux.

extension Core {
    @unsafe mutating func setNetworkOption(
        _ index: UInt32, _ level: Int32, _ name: Int32, _ value: UnsafeRawPointer, _ size: Int
    ) throws(DemikernelError) {
        guard size >= MemoryLayout<Int32>.size else { throw .optionOutOfRange }
        let number = unsafe value.loadUnaligned(as: Int32.self)
        switch (level, name) {
        case (SOL_SOCKET, SO_LINGER):
            guard size >= MemoryLayout<linger>.size else { throw .optionOutOfRange }
            let seconds = unsafe value.loadUnaligned(fromByteOffset: 4, as: Int32.self)
            network[index].lingerSeconds = number == 0 ? -1 : max(0, min(seconds, 65_535))
            return
        case (SOL_SOCKET, SO_REUSEPORT): network[index].isPortShared = number != 0
        case (SOL_SOCKET, SO_REUSEADDR):
            network[index].isAddressReused = number != 0
            network[index].options.reuseAddress = number != 0
        case (SOL_SOCKET, SO_KEEPALIVE): network[index].options.keepAlive = number != 0
        case (SOL_SOCKET, SO_SNDBUF): network[index].options.sendBuffer = Self.bufferSize(number)
        case (SOL_SOCKET, SO_RCVBUF): network[index].options.receiveBuffer = Self.bufferSize(number)
        case (Int32(IPPROTO_TCP), _): try setStreamOption(index, name, number)
        default: throw .noSuchOption
        }
        applyNetworkOptions(index)
    }

    private mutating func setStreamOption(_ index: UInt32, _ name: Int32, _ number: Int32) throws(DemikernelError) {
        guard !queues[index].kind.isDatagram else { throw .noSuchOption }
        switch name {
        case TCP_NODELAY: network[index].options.noDelay = number != 0
        case TCP_KEEPIDLE: network[index].options.keepAliveIdle = try Self.seconds(number, 1...32_767)
        case TCP_KEEPINTVL: network[index].options.keepAliveInterval = try Self.seconds(number, 1...32_767)
        case TCP_KEEPCNT:
            guard 1...127 ~= number else { throw .optionOutOfRange }
            network[index].options.keepAliveProbes = UInt8(number)
        case Self.userTimeout:
            guard number >= 0 else { throw .optionOutOfRange }
            network[index].options.userTimeout = UInt64(number) * 1_000_000
        default: throw .noSuchOption
        }
    }

    /// Writes an option's value; answers its size.
    @unsafe mutating func networkOption(
        _ index: UInt32, _ level: Int32, _ name: Int32, _ value: UnsafeMutableRawPointer
    ) throws(DemikernelError) -> Int {
        let options = network[index].options
        var number: Int32
        switch (level, name) {
        case (SOL_SOCKET, SO_LINGER):
            let seconds = network[index].lingerSeconds
            unsafe value.storeBytes(of: seconds < 0 ? 0 : 1, as: Int32.self)
            unsafe value.storeBytes(of: max(0, seconds), toByteOffset: 4, as: Int32.self)
            return MemoryLayout<linger>.size
        case (SOL_SOCKET, SO_REUSEPORT): number = network[index].isPortShared ? 1 : 0
        case (SOL_SOCKET, SO_REUSEADDR): number = network[index].isAddressReused ? 1 : 0
        case (SOL_SOCKET, SO_KEEPALIVE): number = options.keepAlive ? 1 : 0
        case (SOL_SOCKET, SO_SNDBUF): number = Int32(clamping: options.sendBuffer > 0 ? options.sendBuffer : configuration.network.sendBuffer)
        case (SOL_SOCKET, SO_RCVBUF):
            number = Int32(clamping: options.receiveBuffer > 0 ? options.receiveBuffer : configuration.network.receiveBuffer)
        case (SOL_SOCKET, SO_TYPE): number = (queues[index].kind.isDatagram ? SocketType.datagram : .stream).rawValue
        case (Int32(IPPROTO_TCP), _):
            guard !queues[index].kind.isDatagram else { throw .noSuchOption }
            switch name {
            case TCP_NODELAY: number = options.noDelay ?? configuration.network.noDelay ? 1 : 0
            case TCP_KEEPIDLE: number = Int32(clamping: (options.keepAliveIdle > 0 ? options.keepAliveIdle : 7_200_000_000_000) / 1_000_000_000)
            case TCP_KEEPINTVL: number = Int32(clamping: (options.keepAliveInterval > 0 ? options.keepAliveInterval : 75_000_000_000) / 1_000_000_000)
            case TCP_KEEPCNT: number = options.keepAliveProbes > 0 ? Int32(options.keepAliveProbes) : 9
            case Self.userTimeout: number = Int32(clamping: options.userTimeout / 1_000_000)
            default: throw .noSuchOption
            }
        default: throw .noSuchOption
        }
        unsafe value.storeBytes(of: number, as: Int32.self)
        return MemoryLayout<Int32>.size
    }

    /// Tells a connection that lives; others get their options when they begin.
    private mutating func applyNetworkOptions(_ index: UInt32) {
        guard queues[index].kind != .networkDatagram, queues[index].state != .unbound, queues[index].state != .bound else { return }
        network.stack.tcp.setOptions(streamSocket(index), network[index].options, ip: &network.stack.ip, now: readTime())
        network.transmit()
    }

    /// TCP_USER_TIMEOUT, in milliseconds.
    private static var userTimeout: Int32 { 18 }
    /// What is set is clamped, as the kernel does: 4 KiB to 1 GiB.
    private static func bufferSize(_ number: Int32) -> Int { min(max(Int(number), 4_096), 1 << 30) }

    private static func seconds(_ number: Int32, _ range: ClosedRange<Int32>) throws(DemikernelError) -> UInt64 {
        guard range ~= number else { throw .optionOutOfRange }
        return UInt64(number) * 1_000_000_000
    }
}

extension DemikernelError {
    fileprivate static var noSuchOption: DemikernelError { DemikernelError(.protocolNotAvailable, "the socket does not have that option") }
    fileprivate static var optionOutOfRange: DemikernelError { DemikernelError(.invalidArgument, "the option's value is out of range") }
}
