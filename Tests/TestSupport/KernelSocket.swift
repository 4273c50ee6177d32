import CDemikernelShims
public import Demikernel
import Glibc

/// A blocking socket of the kernel, as any program has: the peer of a libOS. Calls that the peer leaves without an answer fail after a minute.
public struct KernelSocket: Sendable {
    public let descriptor: Int32

    public struct Failure: Error, CustomStringConvertible {
        public let description: String
        init(_ call: String) { description = "\(call): errno \(errno)" }
    }

    /// A socket of the namespace, by its path.
    public init(_ family: AddressFamily, _ type: SocketType, in namespace: String) throws {
        try self.init(family == .ipv4 ? AF_INET : AF_INET6, Int32((type == .stream ? SOCK_STREAM : SOCK_DGRAM).rawValue), 0, in: namespace)
    }

    /// A socket that sends and receives ICMP messages.
    public init(icmp family: AddressFamily, in namespace: String) throws {
        try self.init(family == .ipv4 ? AF_INET : AF_INET6, Int32(SOCK_RAW.rawValue), family == .ipv4 ? 1 : 58, in: namespace)
    }

    private init(_ family: Int32, _ type: Int32, _ number: Int32, in namespace: String) throws {
        let made = try NetworkNamespace.run(in: namespace) {
            let descriptor = socket(family, type | Int32(SOCK_CLOEXEC.rawValue), number)
            return descriptor < 0 ? -Int(errno) : Int(descriptor)
        }
        guard made >= 0 else {
            errno = Int32(-made)
            throw Failure("socket")
        }
        descriptor = Int32(made)
        var patience = timeval(tv_sec: 60, tv_usec: 0)
        unsafe _ = setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        unsafe _ = setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    }

    private init(_ descriptor: Int32) { self.descriptor = descriptor }

    public func close() { _ = Glibc.close(descriptor) }

    public func connect(to address: SocketAddress) throws {
        try unsafe Self.lending(address) { guard unsafe Glibc.connect(descriptor, $0, $1) == 0 else { throw Failure("connect") } }
    }

    public func bind(to address: SocketAddress) throws {
        _ = dk_socket_option(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
        try unsafe Self.lending(address) { guard unsafe Glibc.bind(descriptor, $0, $1) == 0 else { throw Failure("bind") } }
    }

    public func listen() throws { guard Glibc.listen(descriptor, 16) == 0 else { throw Failure("listen") } }

    public func accept() throws -> KernelSocket {
        let accepted = Glibc.accept(descriptor, nil, nil)
        guard accepted >= 0 else { throw Failure("accept") }
        return KernelSocket(accepted)
    }

    /// Ends the direction to the peer.
    public func finish() { _ = shutdown(descriptor, Int32(SHUT_WR)) }

    public func send(_ bytes: [UInt8], to address: SocketAddress? = nil) throws {
        if let address {
            let sent = unsafe Self.lending(address) { unsafe sendto(descriptor, bytes, bytes.count, 0, $0, $1) }
            guard sent == bytes.count else { throw Failure("sendto") }
            return
        }
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.send(descriptor, $0.baseAddress! + done, $0.count - done, 0x4000 /* MSG_NOSIGNAL */) }
            guard count > 0 else { throw Failure("send") }
            done += count
        }
    }

    /// What one call brings; empty at the end of the stream.
    public func receive(atMost limit: Int = 65_536) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, 0) }
        guard count >= 0 else { throw Failure("recv") }
        return [UInt8](bytes[..<count])
    }

    /// A datagram and its sender.
    public func receiveDatagram() throws -> (bytes: [UInt8], source: SocketAddress) {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let count = unsafe withUnsafeMutableBytes(of: &storage) { storage in
            let address = unsafe storage.baseAddress!.assumingMemoryBound(to: sockaddr.self)
            return unsafe bytes.withUnsafeMutableBytes { unsafe recvfrom(descriptor, $0.baseAddress, $0.count, 0, address, &size) }
        }
        guard count >= 0 else { throw Failure("recvfrom") }
        guard let source = unsafe withUnsafeBytes(of: &storage, { unsafe SocketAddress(reading: $0.baseAddress!, byteCount: Int(size)) }) else {
            throw Failure("recvfrom: no address")
        }
        return ([UInt8](bytes[..<count]), source)
    }

    /// Until so many bytes have come or the stream has ended.
    public func receive(exactly count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count {
            let more = try receive(atMost: min(count - bytes.count, 262_144))
            if more.isEmpty { break }
            bytes += more
        }
        return bytes
    }

    private static func lending<Result>(_ address: SocketAddress, _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Result) rethrows -> Result {
        var storage = sockaddr_storage()
        let size = unsafe withUnsafeMutableBytes(of: &storage) { unsafe address.write(to: $0.baseAddress!) }
        return try unsafe withUnsafeBytes(of: &storage) {
            try unsafe body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(size))
        }
    }
}
