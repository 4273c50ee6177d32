import CDemikernelShims
import SystemPackage

/// A library operating system: PDPIX, the portable datapath interface, over one device (paper, section 4).
///
/// One per thread, and only ever used there: it is not `Sendable`, and nothing in it is locked. Submitting calls (`push`, `pop`, `accept`,
/// `connect`) answer a qtoken at once; `wait` and its kin hand out completions. Which device is behind it is chosen by name at run time and
/// changes nothing else.
///
/// Invariant: `pointer` addresses an initialised `Core` until `deinit`. The class holds only constants, so that no call pays for a retain
/// or an exclusivity check.
@safe
public final class LibOS {
    @unsafe private let pointer: UnsafeMutablePointer<Core>
    /// Runs the Swift tasks of this libOS.
    let executor: LibOSExecutor
    /// Its part in the control socket; nil where it has none.
    private let control: ControlMembership?

    /// Starts the libOS that `configuration` names, on this thread.
    ///
    /// Throws ``ConfigurationError`` for a setting that is out of range or a libOS that this build has not; ``DemikernelError`` with EEXIST
    /// where the thread has a libOS already, ENOMEM or EMFILE where the system gives too little.
    public convenience init(_ configuration: Configuration) throws {
        try configuration.validate()
        try Registry.require(configuration.libOS)
        guard unsafe dk_thread_libos_get() == nil else {
            throw DemikernelError(.fileExists, "this thread has a libOS already: there is one for each thread")
        }
        // First, because a device may register its memory with the kernel.
        let heap = try Heap(HeapConfiguration(settings: configuration.heap))
        _ = heap.makeCurrent()
        let parts = try NetworkParts.open(configuration, heap: heap.reference)
        let core = try Core(configuration, heap: heap, network: parts)
        let control = try ControlService.join(configuration.control, mailbox: core.mailbox)
        self.init(owning: core, control: control)
        unsafe dk_thread_libos_set(pointer)
    }

    /// A libOS around a core. It is nobody's current one.
    init(owning core: consuming Core, control: ControlMembership? = nil) {
        self.control = control
        executor = LibOSExecutor(mailbox: core.mailbox)
        unsafe pointer = .allocate(capacity: 1)
        unsafe pointer.initialize(to: core)
        unsafe pointer.pointee.owner = UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque())
    }

    /// Starts the libOS that the environment names: `LIBOS`, and `DEMI_…` for single settings. For a settings file see
    /// `Configuration.load()` in the module DemikernelConfiguration.
    public convenience init() throws { try self.init(.environment()) }

    deinit {
        control?.leave()
        core.shutdown()
        if isOnItsThread { dk_thread_libos_set(nil) }
        unsafe pointer.deinitialize(count: 1)
        unsafe pointer.deallocate()
    }

    /// The libOS of the calling thread, nil where it has none: for child tasks, which cannot capture it.
    public static var current: LibOS? {
        guard let core = unsafe dk_thread_libos_get() else { return nil }
        guard let owner = unsafe UnsafeRawPointer(bitPattern: core.assumingMemoryBound(to: Core.self).pointee.owner) else { return nil }
        return unsafe Unmanaged<LibOS>.fromOpaque(owner).takeUnretainedValue()
    }

    /// Whether the caller is on the thread that started this libOS.
    package var isOnItsThread: Bool { unsafe dk_thread_libos_get() == UnsafeMutableRawPointer(pointer) }

    package var core: Core {
        @inline(__always) unsafeAddress { unsafe UnsafePointer(pointer) }
        @inline(__always) unsafeMutableAddress { unsafe pointer }
    }

    /// The settings that it was started with.
    public var configuration: Configuration { core.configuration }

    // MARK: - Sockets

    /// Opens a TCP or UDP socket. Throws EMFILE, ENFILE, ENOMEM, EAFNOSUPPORT.
    public func socket(_ family: AddressFamily = .ipv4, _ type: SocketType = .stream) throws(DemikernelError) -> QueueDescriptor {
        core.queues.descriptor(of: try core.socket(family, type))
    }

    /// Binds a socket; the wildcard address and port 0 are allowed. Throws EADDRINUSE, EADDRNOTAVAIL, EACCES; EINVAL for a socket that is
    /// bound already; EAFNOSUPPORT; EBADF, ENOTSOCK.
    public func bind(_ descriptor: QueueDescriptor, to address: SocketAddress) throws(DemikernelError) {
        try core.bind(descriptor, to: address)
    }

    /// Lets a bound TCP socket accept connections. Throws EDESTADDRREQ for one that is not bound, EISCONN, EINVAL for a backlog below 1 or
    /// a socket that listens already, EADDRINUSE, EOPNOTSUPP for UDP; EBADF, ENOTSOCK.
    public func listen(_ descriptor: QueueDescriptor, backlog: Int = 128) throws(DemikernelError) {
        try core.listen(descriptor, backlog: backlog)
    }

    /// Submits an accept: completes as ``Completion/Result/accepted(_:from:)``. Throws EINVAL for a socket that does not listen; EBADF,
    /// ENOTSOCK, ENOMEM.
    public func accept(_ descriptor: QueueDescriptor) throws(DemikernelError) -> QToken {
        core.operations.token(of: try core.accept(descriptor))
    }

    /// Submits a connect. Throws EOPNOTSUPP for a listener, EINPROGRESS, EISCONN, EAFNOSUPPORT; EBADF, ENOTSOCK, ENOMEM.
    public func connect(_ descriptor: QueueDescriptor, to address: SocketAddress) throws(DemikernelError) -> QToken {
        core.operations.token(of: try core.connect(descriptor, to: address))
    }

    /// Closes a queue. Pending operations complete as failed with ECANCELED; their tokens are still to be waited for. Throws EBADF.
    public func close(_ descriptor: QueueDescriptor) throws(DemikernelError) { try core.close(descriptor) }

    /// Ends one direction of a connection; what was pushed before goes first. Throws ENOTCONN; EBADF, ENOTSOCK.
    public func shutdown(_ descriptor: QueueDescriptor, _ direction: ShutdownDirection) throws(DemikernelError) {
        try core.shutdown(descriptor, direction)
    }

    /// The address that a socket is bound to. Throws EBADF, ENOTSOCK.
    public func localAddress(of descriptor: QueueDescriptor) throws(DemikernelError) -> SocketAddress { try core.localAddress(descriptor) }

    /// The address that a socket is connected to. Throws ENOTCONN; EBADF, ENOTSOCK.
    public func remoteAddress(of descriptor: QueueDescriptor) throws(DemikernelError) -> SocketAddress { try core.remoteAddress(descriptor) }

    // MARK: - Memory

    /// A buffer of `byteCount` bytes from the DMA-capable heap, with room before it for headers. Its contents are undefined. Throws ENOMEM;
    /// EINVAL for a negative size.
    public func allocate(_ byteCount: Int, headroom: Int = 0) throws(DemikernelError) -> Buffer {
        try core.heap.allocate(byteCount, headroom: headroom)
    }

    // MARK: - Queues

    /// Opens a memory queue: bounded, first in, first out. Throws EMFILE.
    public func queue() throws(DemikernelError) -> QueueDescriptor { core.queues.descriptor(of: try core.queue()) }

    /// Submits a push of one buffer. See ``push(_:_:to:)-(_,ScatterGatherArray,_)``.
    public func push(
        _ descriptor: QueueDescriptor, _ buffer: consuming Buffer, to address: SocketAddress? = nil
    ) throws(PushError) -> QToken {
        let segment = buffer.intoSegment()
        do throws(DemikernelError) {
            return core.operations.token(of: try core.push(descriptor, .single(segment), to: address))
        } catch {
            throw PushError(error, returning: ScatterGatherArray(adopting: .single(segment)))
        }
    }

    /// Submits a push, which owns the memory from here on; a refused push gives it back in its error, a failed one in its completion.
    ///
    /// On a stream it completes when the device has taken every byte; on a memory queue when it is stored or popped; on a file when it is
    /// appended. Throws EBADF; EINVAL for no bytes; ENOTCONN, EINPROGRESS, EDESTADDRREQ; EPIPE after a shutdown; EOPNOTSUPP for an address
    /// where none belongs; EMSGSIZE; ENOMEM where too many operations are pending.
    public func push(
        _ descriptor: QueueDescriptor, _ segments: consuming ScatterGatherArray, to address: SocketAddress? = nil
    ) throws(PushError) -> QToken {
        let list = segments.intoSegmentList()
        do throws(DemikernelError) {
            return core.operations.token(of: try core.push(descriptor, list, to: address))
        } catch {
            throw PushError(error, returning: ScatterGatherArray(adopting: list))
        }
    }

    /// Submits a pop of what comes next, at most `limit` bytes where it is given (a memory queue hands out what was pushed as it was).
    ///
    /// Throws EBADF, ENOTCONN, EINPROGRESS, ENOMEM; EINVAL for a limit below 1.
    public func pop(_ descriptor: QueueDescriptor, limit: Int? = nil) throws(DemikernelError) -> QToken {
        try pop(descriptor, limit: limit, isSingle: false)
    }

    /// The same; of a stream in one buffer, where `isSingle`.
    @inline(__always)
    func pop(_ descriptor: QueueDescriptor, limit: Int?, isSingle: Bool) throws(DemikernelError) -> QToken {
        if let limit, limit < 1 { throw DemikernelError(.invalidArgument, "a pop's limit is below 1") }
        return core.operations.token(of: try core.pop(descriptor, limit: limit ?? 0, isSingle: isSingle))
    }

    /// Submits a timer: completes once `duration` has passed. Throws ENOMEM where too many operations or timers are pending.
    public func timer(after duration: Duration) throws(DemikernelError) -> QToken {
        core.operations.token(of: try core.timer(after: duration.nanosecondsClamped))
    }

    // MARK: - Waiting

    /// Waits until an operation has completed. A nil timeout waits for ever, a zero one polls once. Throws EINVAL for a token that names
    /// no operation, ETIMEDOUT. Complexity: O(1) once complete.
    public func wait(_ token: QToken, timeout: Duration? = nil) throws(DemikernelError) -> Completion {
        Completion(try core.wait(token, timeout: timeout?.nanosecondsClamped))
    }

    /// Takes the completion of an operation that has completed already, as most pushes have when they are submitted; nil where it is still
    /// pending. Polls nothing. Throws EINVAL for a token that names no operation. Complexity: O(1).
    public func takeIfComplete(_ token: QToken) throws(DemikernelError) -> Completion? {
        guard core.operations.contains(token) else { throw .unknownToken }
        return hasCompleted(token) ? takeCompleted(token) : nil
    }

    /// Waits until one of the operations has completed: the one that did first. Throws EINVAL where there are none or a token names no
    /// operation, ETIMEDOUT. Complexity: O(1) where tokens are replaced in place, moved into a hole or appended; see `Core.waitAny`.
    public func waitAny(_ tokens: Span<QToken>, timeout: Duration? = nil) throws(DemikernelError) -> Completion {
        let offset = try core.waitAny(tokens, timeout: timeout?.nanosecondsClamped)
        return Completion(core.take(tokens[offset]), offset: offset)
    }

    /// The same for an array.
    public func waitAny(_ tokens: [QToken], timeout: Duration? = nil) throws(DemikernelError) -> Completion {
        try waitAny(tokens.span, timeout: timeout)
    }

    /// Waits until all operations have completed and hands out the completions in the order of the tokens. When it throws (EINVAL,
    /// ETIMEDOUT), none is taken.
    public func waitAll(
        _ tokens: [QToken], timeout: Duration? = nil, _ body: (consuming Completion) -> Void
    ) throws(DemikernelError) {
        try core.waitUntilAllComplete(tokens.span, timeout: timeout?.nanosecondsClamped)
        for (offset, token) in tokens.enumerated() { body(Completion(core.take(token.slot), offset: offset)) }
    }

    /// Waits until any operation has completed and hands out up to `count` completions, oldest first; answers how many. Throws ETIMEDOUT;
    /// EINVAL for a count below 1.
    @discardableResult
    public func waitNext(
        _ count: Int, timeout: Duration? = nil, _ body: (consuming Completion) -> Void
    ) throws(DemikernelError) -> Int {
        guard count >= 1 else { throw DemikernelError(.invalidArgument, "the count is below 1") }
        body(Completion(core.take(try core.waitNext(timeout: timeout?.nanosecondsClamped))))
        var taken = 1
        while taken < count, let slot = core.oldestCompletion {
            body(Completion(core.take(slot)))
            taken += 1
        }
        return taken
    }

    /// Cancels a pending operation: it completes as failed with ECANCELED. Throws EINVAL for a token that names no operation, EALREADY for
    /// one that has completed, EBUSY for a stream push of which a part has been sent.
    public func cancel(_ token: QToken) throws(DemikernelError) { try core.cancel(token) }

    /// Wakes this libOS from its sleep, from any thread.
    public var waker: LibOSWaker { LibOSWaker(mailbox: core.mailbox) }
}

/// Wakes a libOS from another thread.
public struct LibOSWaker: Sendable {
    let mailbox: Mailbox

    /// Ends the sleep that the libOS is in, if it is in one. Safe also when the libOS is gone.
    public func wake() { mailbox.wake() }
}

extension Duration {
    /// Nanoseconds; a negative duration is 0, one that is too long the longest there is.
    package var nanosecondsClamped: UInt64 { Clock.nanoseconds(self) }
}
