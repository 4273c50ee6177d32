import CDemikernelShims
import Glibc
import Synchronization
import SystemPackage

/// A socket on which questions are taken, and the thread that waits there. It sleeps until somebody comes; each client gets a thread of its own,
/// so that none keeps another waiting.
///
/// Invariant: `descriptor` and `stopping` are open until ``stop()``, which returns when the thread has ended. After a fork only the parent has
/// the thread: the child leaves everything alone.
final class ControlEndpoint: Sendable {
    /// Where it listens.
    enum Place: Hashable, Sendable {
        /// A Unix socket, for its owner alone.
        case path(String)
        /// A TCP port of 127.0.0.1, for anybody on this machine, who may read counters there and nothing else.
        case port(UInt16)
    }

    let place: Place
    private let descriptor: Int32
    private let stopping: Int32
    private let process: pid_t
    private let thread = Lock<pthread_t?>(nil)

    /// Clients of one place at any one time; one more is turned away. Those of the port, who may be anybody, leave the socket's their places.
    private static let clientMaximum = 16
    private let clients = Atomic<Int>(0)

    /// Begins to listen. Throws EADDRINUSE where another process serves the place, and what the system says else.
    init(_ place: Place) throws(DemikernelError) {
        let descriptor = switch place {
        case .path(let path): try Self.listen(path: path)
        case .port(let port): try Self.listen(port: port)
        }
        let stopping = dk_event_create()
        guard stopping >= 0 else {
            close(descriptor)
            throw DemikernelError(.last, "no descriptor for the control socket's thread")
        }
        self.place = place
        self.descriptor = descriptor
        self.stopping = stopping
        process = getpid()
        // The thread keeps this object alive until it has ended.
        guard let started = ControlThread.start({ self.accept() }) else {
            removeFile()
            close(descriptor)
            close(stopping)
            throw DemikernelError(.resourceTemporarilyUnavailable, "no thread for the control socket")
        }
        thread.withLock { $0 = started }
    }

    /// Ends the listening, and removes the socket's file. Clients that are being answered are answered.
    func stop() {
        guard process == getpid(), let running = thread.withLock({ $0.take() }) else { return }
        removeFile()
        dk_event_signal(stopping)
        pthread_join(running, nil)
        close(descriptor)
        close(stopping)
    }

    /// Also when the process exits without ending its libOSes.
    func removeFile() {
        if process == getpid(), case .path(let path) = place, !path.hasPrefix("@") { unsafe _ = unlink(path) }
    }

    // MARK: - Listening

    private static func listen(path: String) throws(DemikernelError) -> Int32 {
        let descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { throw DemikernelError(.last, "no descriptor for the control socket") }
        // The file takes its mode from the socket: it is never open to others, not even for a moment.
        fchmod(descriptor, 0o600)
        if unsafe dk_unix_bind(descriptor, path) != 0 {
            var error = errno
            if error == EADDRINUSE, ControlPath.isAbandoned(path), unsafe unlink(path) == 0 {
                error = unsafe dk_unix_bind(descriptor, path) == 0 ? 0 : errno
            }
            guard error == 0 else {
                close(descriptor)
                throw error == EADDRINUSE
                    ? DemikernelError(.addressInUse, "another process serves the control socket, or its path is no socket")
                    : DemikernelError(Errno(rawValue: error), "the control socket cannot be made")
            }
        }
        return try listening(descriptor)
    }

    private static func listen(port: UInt16) throws(DemikernelError) -> Int32 {
        let descriptor = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { throw DemikernelError(.last, "no descriptor for the metrics port") }
        var yes: Int32 = 1
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        let address = SocketAddress.loopback(port: port)
        let result = unsafe withUnsafeTemporaryAllocation(byteCount: SocketAddress.encodedByteCountMaximum, alignment: 8) { storage in
            let start = unsafe storage.baseAddress.unsafelyUnwrapped
            let size = unsafe socklen_t(address.write(to: start))
            return unsafe Glibc.bind(descriptor, start.assumingMemoryBound(to: sockaddr.self), size)
        }
        guard result == 0 else {
            let error = Errno.last
            close(descriptor)
            throw DemikernelError(error, "the metrics port cannot be bound")
        }
        return try listening(descriptor)
    }

    private static func listening(_ descriptor: Int32) throws(DemikernelError) -> Int32 {
        guard Glibc.listen(descriptor, 16) == 0 else {
            let error = Errno.last
            close(descriptor)
            throw DemikernelError(error, "the control socket cannot listen")
        }
        return descriptor
    }

    // MARK: - The thread

    private func accept() {
        while true {
            var polls = (
                pollfd(fd: stopping, events: Int16(POLLIN), revents: 0), pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            )
            let count = unsafe withUnsafeMutableBytes(of: &polls) {
                unsafe poll($0.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: pollfd.self), 2, -1)
            }
            if count < 0, errno != EINTR { return }
            if polls.0.revents != 0 { return }
            guard count > 0 else { continue }
            let client = dk_accept(descriptor, nil, nil)
            if client >= 0 {
                serve(client)
            } else if errno != EAGAIN, errno != ECONNABORTED, errno != EINTR {
                // Out of descriptors, say: no reason to spin.
                usleep(100_000)
            }
        }
    }

    /// Gives the client a thread; turns it away where there are too many, or it is somebody else.
    private func serve(_ client: Int32) {
        let mayAsk: Bool
        if case .path = place {
            let user = dk_peer_user(client)
            mayAsk = user == 0 || user == Int64(geteuid())
        } else {
            mayAsk = true
        }
        guard mayAsk, clients.wrappingAdd(1, ordering: .relaxed).newValue <= Self.clientMaximum else {
            if mayAsk { clients.wrappingSubtract(1, ordering: .relaxed) }
            close(client)
            return
        }
        let thread = ControlThread.start { [self] in
            ControlSession(client, at: place).run()
            close(client)
            clients.wrappingSubtract(1, ordering: .relaxed)
        }
        guard let thread else {
            clients.wrappingSubtract(1, ordering: .relaxed)
            close(client)
            return
        }
        pthread_detach(thread)
    }
}

/// A thread of the control socket's.
enum ControlThread {
    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// Starts a thread; nil where there is none to be had. Signals are the application's, so the thread blocks all of them, among them the SIGPIPE
    /// of a client that goes away.
    static func start(_ run: @escaping @Sendable () -> Void) -> pthread_t? {
        var all = sigset_t()
        var before = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
        defer { unsafe _ = pthread_sigmask(SIG_SETMASK, &before, nil) }
        let body = unsafe Unmanaged.passRetained(Body(run))
        var thread = pthread_t()
        let refusal = unsafe pthread_create(&thread, nil, { context in
            unsafe dk_thread_set_name("demi-control")
            let body = unsafe Unmanaged<Body>.fromOpaque(context.unsafelyUnwrapped).takeRetainedValue()
            body.run()
            return nil
        }, body.toOpaque())
        guard refusal == 0 else {
            unsafe body.release()
            return nil
        }
        return thread
    }
}
