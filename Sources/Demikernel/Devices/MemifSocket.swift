import CDemikernelShims
import Glibc
import SystemPackage

/// The Unix socket on which a memif server waits for clients. Removes its file when it goes, unless that is another's by then.
final class MemifListener {
    let descriptor: Int32
    private let path: String
    private let device: UInt
    private let inode: UInt

    /// Takes the place of a socket file that nobody serves any more. Throws EADDRINUSE where somebody does, or the file is no socket, and what
    /// `bind(2)` says of a folder that is missing or closed to us.
    init(_ path: String) throws(DemikernelError) {
        let descriptor = dk_unix_socket()
        guard descriptor >= 0 else { throw DemikernelError(Errno(rawValue: errno), "no descriptor for memif's socket") }
        if unsafe dk_unix_bind(descriptor, path) != 0 {
            var error = errno
            if error == EADDRINUSE, MemifListener.isAbandoned(path), unsafe unlink(path) == 0 {
                error = unsafe dk_unix_bind(descriptor, path) == 0 ? 0 : errno
            }
            guard error == 0 else {
                close(descriptor)
                throw MemifListener.error(error)
            }
        }
        guard listen(descriptor, 8) == 0 else {
            let error = Errno(rawValue: errno)
            close(descriptor)
            throw DemikernelError(error, "memif's socket cannot listen")
        }
        self.descriptor = descriptor
        self.path = path
        let file = MemifListener.identity(path)
        device = file.device
        inode = file.inode
    }

    deinit {
        if !path.hasPrefix("@"), MemifListener.identity(path) == (device, inode), inode != 0 { unsafe _ = unlink(path) }
        close(descriptor)
    }

    private static func error(_ error: Int32) -> DemikernelError {
        switch error {
        case EADDRINUSE: DemikernelError(.addressInUse, "memif's socket is in use by another server, or its path is no socket")
        case ENOENT: DemikernelError(.noSuchFileOrDirectory, "the folder of memif's socket does not exist")
        case EACCES: DemikernelError(.permissionDenied, "memif's socket cannot be made there: no permission")
        default: DemikernelError(Errno(rawValue: error), "memif's socket cannot be made")
        }
    }

    /// Whether the path is a socket that refuses connections: its server has died.
    private static func isAbandoned(_ path: String) -> Bool {
        guard !path.hasPrefix("@"), identity(path).inode != 0 else { return false }
        let probe = dk_unix_socket()
        guard probe >= 0 else { return false }
        defer { _ = close(probe) }
        return unsafe dk_unix_connect(probe, path) != 0 && errno == ECONNREFUSED
    }

    /// Zeros where there is no socket at the path.
    private static func identity(_ path: String) -> (device: UInt, inode: UInt) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return (0, 0) }
        return (UInt(status.st_dev), UInt(status.st_ino))
    }

    /// The next client's connection, or nil.
    func accept() -> Int32? {
        let client = dk_accept(descriptor, nil, nil)
        return client >= 0 ? client : nil
    }
}

/// A memif connection's control socket.
enum MemifSocket {
    /// Connects to a server; nil where there is none.
    static func connect(_ path: String) -> Int32? {
        let descriptor = dk_unix_socket()
        guard descriptor >= 0 else { return nil }
        if unsafe dk_unix_connect(descriptor, path) == 0 { return descriptor }
        close(descriptor)
        return nil
    }

    /// False where the peer is gone or does not read.
    static func send(_ message: MemifMessage, file: Int32 = -1, to socket: Int32) -> Bool {
        var message = message
        return unsafe message.withBytes { unsafe dk_message_send(socket, $0, MemifMessage.byteCount, file) } == MemifMessage.byteCount
    }

    enum Arrival {
        case message(MemifMessage, file: Int32)
        case nothing
        case end
        /// A message of another size.
        case invalid
    }

    /// The next message with its descriptor, -1 where there is none, which is the caller's to close.
    static func receive(from socket: Int32) -> Arrival {
        var message = MemifMessage()
        var file: Int32 = -1
        let count = unsafe message.withBytes { unsafe dk_message_receive(socket, $0, MemifMessage.byteCount, &file) }
        if count == MemifMessage.byteCount { return .message(message, file: file) }
        if file >= 0 { close(file) }
        if count > 0 { return .invalid }
        return count == -Int(EAGAIN) || count == -Int(EINTR) ? .nothing : .end
    }
}

/// The one descriptor on which a libOS sleeps for a memif device.
struct MemifEvents: ~Copyable {
    let descriptor: Int32

    init() throws(DemikernelError) {
        descriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard descriptor >= 0 else { throw DemikernelError(Errno(rawValue: errno), "no descriptor for memif's events") }
    }

    deinit { close(descriptor) }

    /// Interrupts are edge-triggered: they need no reading, which the peer could make block.
    func add(_ file: Int32, isInterrupt: Bool) -> Bool {
        var event = unsafe epoll_event()
        unsafe event.events = EPOLLIN.rawValue | (isInterrupt ? EPOLLET.rawValue : 0)
        return unsafe epoll_ctl(descriptor, EPOLL_CTL_ADD, file, &event) == 0
    }

    /// Before the file is closed, as the peer may have it open as well.
    func remove(_ file: Int32) {
        var event = unsafe epoll_event()
        unsafe _ = epoll_ctl(descriptor, EPOLL_CTL_DEL, file, &event)
    }

    /// Forgets the interrupts that have come.
    func takeInterrupts() {
        var events = unsafe InlineArray<64, epoll_event>(repeating: epoll_event())
        unsafe withUnsafeMutableBytes(of: &events) {
            unsafe _ = dk_epoll_poll(descriptor, $0.baseAddress!.assumingMemoryBound(to: epoll_event.self), 64)
        }
    }
}
