import Glibc
import SystemPackage

/// An option of a socket, with the type of its value: `getsockopt(2)`, `setsockopt(2)`.
public struct SocketOption<Value: Sendable>: Sendable {
    let level: Int32
    let name: Int32
    let read: @Sendable (_ descriptor: Int32, _ level: Int32, _ name: Int32) throws(DemikernelError) -> Value
    let write: @Sendable (_ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: Value) throws(DemikernelError) -> Void
}

extension SocketOption where Value == Bool {
    /// `TCP_NODELAY`: segments go out at once (RFC 896 turned off).
    public static var noDelay: SocketOption { flag(Int32(IPPROTO_TCP), TCP_NODELAY) }
    /// `SO_KEEPALIVE`.
    public static var keepAlive: SocketOption { flag(SOL_SOCKET, SO_KEEPALIVE) }
    /// `SO_REUSEADDR`.
    public static var reuseAddress: SocketOption { flag(SOL_SOCKET, SO_REUSEADDR) }
    /// `SO_REUSEPORT`.
    public static var reusePort: SocketOption { flag(SOL_SOCKET, SO_REUSEPORT) }

    private static func flag(_ level: Int32, _ name: Int32) -> SocketOption {
        SocketOption(level: level, name: name) { (descriptor, level, name) throws(DemikernelError) in
            try readOption(descriptor, level, name, Int32(0)) != 0
        } write: { (descriptor, level, name, value) throws(DemikernelError) in
            try writeOption(descriptor, level, name, Int32(value ? 1 : 0))
        }
    }
}

extension SocketOption where Value == Int {
    /// `SO_SNDBUF`, in bytes; Linux answers twice what was set.
    public static var sendBufferSize: SocketOption { size(SO_SNDBUF) }
    /// `SO_RCVBUF`, in bytes; Linux answers twice what was set.
    public static var receiveBufferSize: SocketOption { size(SO_RCVBUF) }

    private static func size(_ name: Int32) -> SocketOption {
        SocketOption(level: SOL_SOCKET, name: name) { (descriptor, level, name) throws(DemikernelError) in
            Int(try readOption(descriptor, level, name, Int32(0)))
        } write: { (descriptor, level, name, value) throws(DemikernelError) in
            guard value >= 0, value <= Int32.max else { throw DemikernelError(.invalidArgument, "the size is out of range") }
            try writeOption(descriptor, level, name, Int32(value))
        }
    }
}

extension SocketOption where Value == Duration? {
    /// `SO_LINGER`: how long `close` tries to deliver what was pushed; nil is off, zero resets the connection. Whole seconds; a fraction is
    /// rounded up.
    public static var linger: SocketOption {
        SocketOption(level: SOL_SOCKET, name: SO_LINGER) { (descriptor, level, name) throws(DemikernelError) in
            let value = try readOption(descriptor, level, name, Glibc.linger())
            return value.l_onoff == 0 ? nil : .seconds(Int(value.l_linger))
        } write: { (descriptor, level, name, value) throws(DemikernelError) in
            let (whole, rest) = value?.components ?? (0, 0)
            guard whole >= 0, rest >= 0, whole < 65_535 || (whole == 65_535 && rest == 0) else {
                throw DemikernelError(.invalidArgument, "the linger time is out of range")
            }
            // Up: zero would reset the connection.
            let seconds = Int32(whole) + (rest > 0 ? 1 : 0)
            try writeOption(descriptor, level, name, Glibc.linger(l_onoff: value == nil ? 0 : 1, l_linger: seconds))
        }
    }
}

private func readOption<Raw: BitwiseCopyable>(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ initial: Raw) throws(DemikernelError) -> Raw {
    var value = initial
    var size = socklen_t(MemoryLayout<Raw>.size)
    guard unsafe getsockopt(descriptor, level, name, &value, &size) == 0 else {
        throw DemikernelError(.last, "the socket does not have that option")
    }
    return value
}

private func writeOption<Raw: BitwiseCopyable>(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: Raw) throws(DemikernelError) {
    var value = value
    guard unsafe setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<Raw>.size)) == 0 else {
        throw DemikernelError(.last, "the socket does not take that option")
    }
}

extension LibOS {
    /// Sets an option. Throws EBADF, ENOTSOCK; ENOPROTOOPT for one that the socket does not have; EINVAL, EDOM for a value out of range.
    public func set<Value>(_ option: SocketOption<Value>, to value: Value, on descriptor: QueueDescriptor) throws(DemikernelError) {
        try option.write(core.kernelSocket(descriptor), option.level, option.name, value)
    }

    /// The value of an option. Throws EBADF, ENOTSOCK, ENOPROTOOPT.
    public func value<Value>(of option: SocketOption<Value>, on descriptor: QueueDescriptor) throws(DemikernelError) -> Value {
        try option.read(core.kernelSocket(descriptor), option.level, option.name)
    }
}
