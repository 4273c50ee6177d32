import Glibc
import SystemPackage

/// An option of a socket, with the type of its value: `getsockopt(2)`, `setsockopt(2)`.
public struct SocketOption<Value: Sendable>: Sendable {
    let level: Int32
    let name: Int32
    let decode: @Sendable (OptionValue) -> Value
    let encode: @Sendable (Value) throws(DemikernelError) -> OptionValue
}

/// An option's value as the system call takes it: an `int` or a `struct linger`.
package struct OptionValue: BitwiseCopyable, Sendable {
    /// The number; `l_onoff` of a `struct linger`.
    package var first: Int32
    /// `l_linger`.
    package var second: Int32 = 0
    /// 4 or 8.
    package var byteCount: UInt32 = 4

    package init(_ number: Int32) { first = number }

    package init(linger isOn: Bool, seconds: Int32) {
        first = isOn ? 1 : 0
        second = seconds
        byteCount = 8
    }
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
        SocketOption(level: level, name: name) { $0.first != 0 } encode: { OptionValue($0 ? 1 : 0) }
    }
}

extension SocketOption where Value == Int {
    /// `SO_SNDBUF`, in bytes; Linux answers twice what was set.
    public static var sendBufferSize: SocketOption { size(SO_SNDBUF) }
    /// `SO_RCVBUF`, in bytes; Linux answers twice what was set.
    public static var receiveBufferSize: SocketOption { size(SO_RCVBUF) }

    private static func size(_ name: Int32) -> SocketOption {
        SocketOption(level: SOL_SOCKET, name: name) { Int($0.first) } encode: { (value) throws(DemikernelError) in
            guard value >= 0, value <= Int32.max else { throw DemikernelError(.invalidArgument, "the size is out of range") }
            return OptionValue(Int32(value))
        }
    }
}

extension SocketOption where Value == Duration? {
    /// `SO_LINGER`: how long `close` tries to deliver what was pushed; nil is off, zero resets the connection. Whole seconds; a fraction is
    /// rounded up.
    public static var linger: SocketOption {
        SocketOption(level: SOL_SOCKET, name: SO_LINGER) {
            $0.first == 0 ? nil : .seconds(Int($0.second))
        } encode: { (value) throws(DemikernelError) in
            let (whole, rest) = value?.components ?? (0, 0)
            guard whole >= 0, rest >= 0, whole < 65_535 || (whole == 65_535 && rest == 0) else {
                throw DemikernelError(.invalidArgument, "the linger time is out of range")
            }
            // Up: zero would reset the connection.
            return OptionValue(linger: value != nil, seconds: Int32(whole) + (rest > 0 ? 1 : 0))
        }
    }
}

extension LibOS {
    /// Sets an option. Throws EBADF, ENOTSOCK; ENOPROTOOPT for one that the socket does not have; EINVAL, EDOM for a value out of range.
    public func set<Value>(_ option: SocketOption<Value>, to value: Value, on descriptor: QueueDescriptor) throws(DemikernelError) {
        try core.requireSocket(descriptor)
        var raw = try option.encode(value)
        unsafe try core.setOption(descriptor, option.level, option.name, &raw, raw.byteCount)
    }

    /// The value of an option. Throws EBADF, ENOTSOCK, ENOPROTOOPT.
    public func value<Value>(of option: SocketOption<Value>, on descriptor: QueueDescriptor) throws(DemikernelError) -> Value {
        var raw = OptionValue(linger: false, seconds: 0)
        _ = unsafe try core.option(descriptor, option.level, option.name, &raw, raw.byteCount)
        return option.decode(raw)
    }
}
