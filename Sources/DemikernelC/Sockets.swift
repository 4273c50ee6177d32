public import CDemikernel.Types
import Demikernel
import Glibc
import SystemPackage

// Sockets. What each call does and answers stands in demi/libos.h.

@c(demi_socket)
public func demi_socket(_ descriptorOut: UnsafeMutableRawPointer?, _ domain: Int32, _ type: Int32, _ protocolNumber: Int32) -> Int32 {
    call { core throws(DemikernelError) in
        let descriptorOut = unsafe try required(descriptorOut)
        guard let family = UInt16(exactly: domain).flatMap(AddressFamily.init(rawValue:)), let type = SocketType(rawValue: type) else {
            throw DemikernelError(.notSupported, "sockets are AF_INET or AF_INET6, SOCK_STREAM or SOCK_DGRAM")
        }
        guard protocolNumber == 0 || protocolNumber == (type == .stream ? IPPROTO_TCP : IPPROTO_UDP) else {
            throw DemikernelError(.protocolNotSupported, "the protocol is not the type's")
        }
        let index = try core.socket(family, type)
        unsafe descriptorOut.store(core.queues.descriptor(of: index))
    }
}

@c(demi_bind)
public func demi_bind(_ descriptor: Int32, _ local: UnsafeRawPointer?, _ size: socklen_t) -> Int32 {
    call { core throws(DemikernelError) in
        try core.bind(QueueDescriptor(rawValue: descriptor), to: unsafe address(local, size))
    }
}

@c(demi_listen)
public func demi_listen(_ descriptor: Int32, _ backlog: Int32) -> Int32 {
    call { core throws(DemikernelError) in
        try core.listen(QueueDescriptor(rawValue: descriptor), backlog: Int(backlog))
    }
}

@c(demi_accept)
public func demi_accept(_ tokenOut: UnsafeMutableRawPointer?, _ descriptor: Int32) -> Int32 {
    call { core throws(DemikernelError) in
        let tokenOut = unsafe try required(tokenOut)
        unsafe tokenOut.store(try core.acceptToken(QueueDescriptor(rawValue: descriptor)))
    }
}

@c(demi_connect)
public func demi_connect(
    _ tokenOut: UnsafeMutableRawPointer?, _ descriptor: Int32, _ remote: UnsafeRawPointer?, _ size: socklen_t
) -> Int32 {
    call { core throws(DemikernelError) in
        let tokenOut = unsafe try required(tokenOut)
        let address = unsafe try address(remote, size)
        unsafe tokenOut.store(try core.connectToken(QueueDescriptor(rawValue: descriptor), to: address))
    }
}

@c(demi_close)
public func demi_close(_ descriptor: Int32) -> Int32 {
    call { core throws(DemikernelError) in try core.close(QueueDescriptor(rawValue: descriptor)) }
}

/// Ours.
@c(demi_shutdown)
public func demi_shutdown(_ descriptor: Int32, _ how: Int32) -> Int32 {
    call { core throws(DemikernelError) in
        guard let direction = ShutdownDirection(rawValue: how) else {
            throw DemikernelError(.invalidArgument, "how is none of SHUT_RD, SHUT_WR and SHUT_RDWR")
        }
        try core.shutdown(QueueDescriptor(rawValue: descriptor), direction)
    }
}

// MARK: - Names

/// Ours.
@c(demi_getsockname)
public func demi_getsockname(_ descriptor: Int32, _ room: UnsafeMutableRawPointer?, _ size: UnsafeMutableRawPointer?) -> Int32 {
    call { core throws(DemikernelError) in
        let (room, size) = unsafe (try required(room), try required(size))
        core.turn()
        unsafe try store(core.localAddress(QueueDescriptor(rawValue: descriptor)), to: room, size)
    }
}

@c(demi_getpeername)
public func demi_getpeername(_ descriptor: Int32, _ room: UnsafeMutableRawPointer?, _ size: UnsafeMutableRawPointer?) -> Int32 {
    call { core throws(DemikernelError) in
        let (room, size) = unsafe (try required(room), try required(size))
        core.turn()
        unsafe try store(core.remoteAddress(QueueDescriptor(rawValue: descriptor)), to: room, size)
    }
}

// MARK: - Options

@c(demi_setsockopt)
public func demi_setsockopt(
    _ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: UnsafeRawPointer?, _ size: socklen_t
) -> Int32 {
    call { core throws(DemikernelError) in
        let value = unsafe try required(value)
        core.turn()
        unsafe try core.setOption(QueueDescriptor(rawValue: descriptor), level, name, value, size)
    }
}

@c(demi_getsockopt)
public func demi_getsockopt(
    _ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: UnsafeMutableRawPointer?, _ size: UnsafeMutableRawPointer?
) -> Int32 {
    call { core throws(DemikernelError) in
        let (value, size) = unsafe (try required(value), try required(size))
        core.turn()
        let room = unsafe size.loadUnaligned(as: socklen_t.self)
        let count = unsafe try core.option(QueueDescriptor(rawValue: descriptor), level, name, value, room)
        unsafe size.storeBytes(of: count, as: socklen_t.self)
    }
}
