public import SystemPackage

// The async faces of queue descriptors. Each is `Sendable`, so that task groups can take it, but works on its libOS's thread alone: a call
// from anywhere else throws EPERM instead of racing.

/// A queue and its libOS: closes the queue when the last reference goes.
final class Endpoint: @unchecked Sendable {
    // Used on the libOS's thread alone; `checked()` sees to it.
    private let libOS: LibOS
    let descriptor: QueueDescriptor
    private let identity: QueueIdentity
    private let mailbox: Mailbox

    init(_ libOS: LibOS, _ descriptor: QueueDescriptor) {
        self.libOS = libOS
        self.descriptor = descriptor
        mailbox = libOS.core.mailbox
        identity = libOS.core.identity(of: descriptor)
    }

    deinit {
        if libOS.isOnItsThread { libOS.core.closeAbandoned(identity) } else { mailbox.close(identity) }
    }

    /// Makes what a pop has brought one buffer. On the libOS's thread, where every pop ends. Throws ENOMEM.
    func coalesce(_ segments: inout ScatterGatherArray) throws(DemikernelError) { try segments.coalesce(in: libOS.core.heap) }

    /// The libOS, for a caller on its thread and a queue that is still open. Throws EPERM, EBADF.
    @inline(__always)
    func checked() throws(DemikernelError) -> LibOS {
        guard libOS.isOnItsThread else {
            throw DemikernelError(.notPermitted, "the call came from another thread than the libOS's: use it in LibOS.run and its child tasks")
        }
        guard libOS.core.isOpen(identity) else { throw .badDescriptor }
        return libOS
    }

    @inline(__always)
    nonisolated(nonsending) func pop(limit: Int?) async throws(DemikernelError) -> Completion {
        let libOS = try checked()
        return try await libOS.completion(of: try libOS.pop(descriptor, limit: limit, isSingle: true))
    }

    @inline(__always)
    nonisolated(nonsending) func push(_ segments: consuming ScatterGatherArray, to address: SocketAddress?) async throws(PushError) {
        do throws(DemikernelError) {
            _ = try checked()
        } catch {
            throw PushError(error, returning: segments)
        }
        let token = try libOS.push(descriptor, segments, to: address)
        if libOS.hasCompleted(token) { return try finish(token) }
        do throws(DemikernelError) {
            try await libOS.waitForCompletion(of: token)
        } catch {
            throw PushError(error, returning: ScatterGatherArray())
        }
        try finish(token)
    }

    @inline(__always)
    private func finish(_ token: QToken) throws(PushError) {
        let completion = libOS.takeCompleted(token)
        guard completion.isFailure else { return }
        if case .failed(let error, let returned) = completion.take() { throw PushError(error, returning: returned) }
    }

    func close() throws(DemikernelError) { try checked().close(descriptor) }
}

/// A TCP connection.
public final class Connection: Sendable {
    let endpoint: Endpoint
    /// The peer.
    public let remoteAddress: SocketAddress

    init(_ libOS: LibOS, _ descriptor: QueueDescriptor, _ remoteAddress: SocketAddress) {
        endpoint = Endpoint(libOS, descriptor)
        self.remoteAddress = remoteAddress
    }

    /// The queue behind it, for the plain calls of ``LibOS``.
    public var descriptor: QueueDescriptor { endpoint.descriptor }

    /// What the peer sent next, as it came: a buffer, of at most `limit` bytes where that is given; nil at the end of the stream. Throws
    /// ECONNRESET, ECANCELED when the task is cancelled or the connection closed; EBADF, EPERM, ENOMEM.
    public nonisolated(nonsending) func pop(limit: Int? = nil) async throws(DemikernelError) -> Buffer? {
        var segments = try await endpoint.pop(limit: limit).popped()
        return segments.removeFirst()
    }

    /// Sends a buffer; done when the device has taken all of it. The error gives the buffer back.
    public nonisolated(nonsending) func push(_ buffer: consuming Buffer) async throws(PushError) {
        try await endpoint.push(ScatterGatherArray(buffer), to: nil)
    }

    /// Sends many segments as one.
    public nonisolated(nonsending) func push(_ segments: consuming ScatterGatherArray) async throws(PushError) {
        try await endpoint.push(segments, to: nil)
    }

    /// Ends one direction; what was pushed before goes first. Throws ENOTCONN; EBADF, EPERM.
    public func shutdown(_ direction: ShutdownDirection) throws(DemikernelError) {
        try endpoint.checked().shutdown(descriptor, direction)
    }

    /// Sets an option. Throws ENOPROTOOPT; EINVAL, EDOM for a value out of range; EBADF, EPERM.
    public func set<Value>(_ option: SocketOption<Value>, to value: Value) throws(DemikernelError) {
        try endpoint.checked().set(option, to: value, on: descriptor)
    }

    /// Closes it; what is pending is cancelled. A connection that nobody refers to any more closes by itself.
    public func close() throws(DemikernelError) { try endpoint.close() }
}

/// A TCP socket that listens: the sequence of the connections that it accepts.
public final class Listener: AsyncSequence, Sendable {
    public typealias Element = Connection
    public typealias Failure = Never
    let endpoint: Endpoint
    /// The address that it is bound to, with the port that the system chose where it was 0.
    public let localAddress: SocketAddress

    init(_ libOS: LibOS, _ descriptor: QueueDescriptor) throws(DemikernelError) {
        localAddress = try libOS.localAddress(of: descriptor)
        endpoint = Endpoint(libOS, descriptor)
    }

    /// The queue behind it, for the plain calls of ``LibOS``.
    public var descriptor: QueueDescriptor { endpoint.descriptor }

    /// The next connection. Throws EMFILE, ENFILE, ENOMEM; ECANCELED when the task is cancelled or the listener closed.
    public nonisolated(nonsending) func accept() async throws(DemikernelError) -> Connection {
        let libOS = try endpoint.checked()
        let completion = try await libOS.completion(of: try libOS.accept(descriptor))
        switch completion.take() {
        case .accepted(let accepted, let address): return Connection(libOS, accepted, address)
        case .failed(let error, _): throw error
        default: throw DemikernelError(.invalidArgument, "the operation was no accept")
        }
    }

    /// An iterator of its own; several share the connections among them.
    public func makeAsyncIterator() -> Iterator { Iterator(listener: self) }

    /// Accepts until the listener is closed or the task cancelled. While the process has no file descriptor left it tries again every 10 ms.
    public struct Iterator: AsyncIteratorProtocol {
        let listener: Listener

        /// The next connection; nil once the listener is closed or the task cancelled.
        public nonisolated(nonsending) mutating func next() async -> Connection? {
            while true {
                do throws(DemikernelError) {
                    return try await listener.accept()
                } catch {
                    guard [.tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory].contains(error.errno) else { return nil }
                }
                do throws(DemikernelError) {
                    try await listener.endpoint.checked().sleep(for: .milliseconds(10))
                } catch {
                    return nil
                }
            }
        }

    }

    /// Closes it: the sequence ends.
    public func close() throws(DemikernelError) { try endpoint.close() }
}

/// A datagram with its sender.
@frozen public struct Datagram: ~Copyable {
    /// Its bytes; none for an empty datagram.
    public var buffer: Buffer
    /// Who sent it.
    public let source: SocketAddress
}

/// A UDP socket.
public final class DatagramSocket: Sendable {
    let endpoint: Endpoint
    /// The address that it is bound to, with the port that the system chose where it was 0.
    public let localAddress: SocketAddress

    init(_ libOS: LibOS, _ descriptor: QueueDescriptor) throws(DemikernelError) {
        localAddress = try libOS.localAddress(of: descriptor)
        endpoint = Endpoint(libOS, descriptor)
    }

    /// The queue behind it, for the plain calls of ``LibOS``.
    public var descriptor: QueueDescriptor { endpoint.descriptor }

    /// The next datagram, in one buffer: one that came in fragments is copied together, and lost with ENOMEM where there is no memory for that.
    /// Throws ECONNREFUSED where an earlier one was refused; ECANCELED, EBADF, EPERM, ENOMEM.
    public nonisolated(nonsending) func pop() async throws(DemikernelError) -> Datagram {
        let completion = try await endpoint.pop(limit: nil)
        switch completion.take() {
        case .popped(var segments, let source):
            if segments.count > 1 { try endpoint.coalesce(&segments) }
            let buffer: Buffer? = segments.removeFirst()
            guard let buffer, let source else { throw DemikernelError(.noMessage, "the datagram has no source") }
            return Datagram(buffer: buffer, source: source)
        case .failed(let error, _): throw error
        default: throw DemikernelError(.invalidArgument, "the operation was no pop")
        }
    }

    /// Sends one datagram. The error gives the buffer back.
    public nonisolated(nonsending) func push(_ buffer: consuming Buffer, to address: SocketAddress) async throws(PushError) {
        try await endpoint.push(ScatterGatherArray(buffer), to: address)
    }

    public func close() throws(DemikernelError) { try endpoint.close() }
}

/// A memory queue.
public final class MemoryQueue: Sendable {
    let endpoint: Endpoint
    init(_ libOS: LibOS, _ descriptor: QueueDescriptor) { endpoint = Endpoint(libOS, descriptor) }

    /// The queue behind it, for the plain calls of ``LibOS``.
    public var descriptor: QueueDescriptor { endpoint.descriptor }

    /// What was pushed first. Throws ECANCELED, EBADF, EPERM, ENOMEM.
    public nonisolated(nonsending) func pop() async throws(DemikernelError) -> ScatterGatherArray {
        try await endpoint.pop(limit: nil).popped()
    }

    /// Stores segments; waits while the queue is full. The error gives them back.
    public nonisolated(nonsending) func push(_ segments: consuming ScatterGatherArray) async throws(PushError) {
        try await endpoint.push(segments, to: nil)
    }

    public func close() throws(DemikernelError) { try endpoint.close() }
}

/// A file: push appends, pop reads at the cursor.
public final class LogFile: Sendable {
    let endpoint: Endpoint
    init(_ libOS: LibOS, _ descriptor: QueueDescriptor) { endpoint = Endpoint(libOS, descriptor) }

    /// The queue behind it, for the plain calls of ``LibOS``.
    public var descriptor: QueueDescriptor { endpoint.descriptor }

    /// The next bytes, at most `limit` (64 KiB where it is nil); nil at the end of the file. Throws EIO, ECANCELED, EBADF, EPERM, ENOMEM.
    public nonisolated(nonsending) func pop(limit: Int? = nil) async throws(DemikernelError) -> Buffer? {
        var segments = try await endpoint.pop(limit: limit).popped()
        return segments.removeFirst()
    }

    /// Appends; done when the system has taken all of it, or it is durable (``OpenOptions/dataSync``). The error gives the segments back.
    public nonisolated(nonsending) func push(_ segments: consuming ScatterGatherArray) async throws(PushError) {
        try await endpoint.push(segments, to: nil)
    }

    /// Moves the cursor and answers where it is then. Throws EINVAL for a place before the beginning, EBUSY while a pop is pending; EBADF, EPERM.
    @discardableResult
    public func seek(to offset: Int64, from origin: SeekOrigin = .start) throws(DemikernelError) -> Int64 {
        try endpoint.checked().seek(descriptor, to: offset, from: origin)
    }

    /// Cuts or extends the file. Throws EINVAL for a negative length, EBUSY while a push is pending; EBADF, EPERM.
    public func truncate(to length: Int64) throws(DemikernelError) { try endpoint.checked().truncate(descriptor, to: length) }
    public func close() throws(DemikernelError) { try endpoint.close() }
}

extension LibOS {
    /// A TCP socket that listens on `address`. Throws what ``socket(_:_:)``, ``bind(_:to:)`` and ``listen(_:backlog:)`` throw.
    public func listener(on address: SocketAddress, backlog: Int = 128) throws(DemikernelError) -> Listener {
        let descriptor = try socket(address.family, .stream)
        do throws(DemikernelError) {
            try bind(descriptor, to: address)
            try listen(descriptor, backlog: backlog)
            return try Listener(self, descriptor)
        } catch {
            try? close(descriptor)
            throw error
        }
    }

    /// A connection to `address`. Throws ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH and what ``connect(_:to:)`` throws.
    public nonisolated(nonsending) func connection(to address: SocketAddress) async throws(DemikernelError) -> Connection {
        let connection = Connection(self, try socket(address.family, .stream), address)
        try await completion(of: try connect(connection.descriptor, to: address)).get()
        return connection
    }

    /// A UDP socket bound to `address`.
    public func datagramSocket(on address: SocketAddress) throws(DemikernelError) -> DatagramSocket {
        let descriptor = try socket(address.family, .datagram)
        do throws(DemikernelError) {
            try bind(descriptor, to: address)
            return try DatagramSocket(self, descriptor)
        } catch {
            try? close(descriptor)
            throw error
        }
    }
}

extension LibOS {
    /// A memory queue for tasks. Throws EMFILE.
    public func memoryQueue() throws(DemikernelError) -> MemoryQueue { MemoryQueue(self, try queue()) }

    /// A file for tasks. Throws what ``open(_:_:permissions:)`` throws.
    public func file(_ path: FilePath, _ options: OpenOptions = []) throws(DemikernelError) -> LogFile {
        LogFile(self, try open(path, options))
    }
}

extension Core {
    func identity(of descriptor: QueueDescriptor) -> QueueIdentity {
        let index = queues.index(of: descriptor) ?? 0
        return QueueIdentity(index: index, generation: queues[index].generation)
    }

    @inline(__always)
    func isOpen(_ queue: QueueIdentity) -> Bool {
        queues[queue.index].kind != .free && queues[queue.index].generation == queue.generation
    }
}
