import SystemPackage

/// What a completed operation brings: the answer of `wait`, which hands out the data itself and not just its arrival (paper, section 4.2).
///
/// Noncopyable: what it carries has one owner. Dropping it releases the memory; an accepted connection that is dropped stays open under
/// its descriptor.
public struct Completion: ~Copyable {
    // As the core hands it over: making the enum of it, with its many layouts, is left to whoever looks.
    private let raw: RawCompletion
    /// `waitAny` and `waitAll`: where the token stood in the array; else 0.
    public let offset: Int

    @inline(__always)
    init(_ raw: RawCompletion, offset: Int = 0) {
        self.raw = raw
        self.offset = offset
    }

    deinit { raw.segments.releaseAll() }

    /// The operation; its token is dead from here on.
    public var token: QToken { raw.token }
    /// The queue that the operation was submitted to; -1 for a timer, which is on none.
    public var descriptor: QueueDescriptor { raw.kind == .timer ? QueueDescriptor(rawValue: -1) : raw.descriptor }
    /// Whether the operation failed.
    public var isFailure: Bool { raw.errno != 0 }

    /// What an operation came to, by kind. Noncopyable: what it carries has one owner.
    @frozen public enum Result: ~Copyable {
        /// The device has taken what was pushed.
        case pushed
        /// What was popped; no segments at the end of the stream. `from`: a datagram's source.
        case popped(ScatterGatherArray, from: SocketAddress?)
        case accepted(QueueDescriptor, from: SocketAddress)
        case connected
        case timerFired
        /// The operation failed; a push gives back what it was to send (all of it, also where a part had gone).
        case failed(DemikernelError, returned: ScatterGatherArray)
    }

    /// What happened, with what it brought.
    public consuming func take() -> Result {
        let raw = raw
        discard self
        guard raw.errno == 0 else { return .failed(raw.error, returned: ScatterGatherArray(adopting: raw.segments)) }
        return switch raw.kind {
        case .push: .pushed
        case .pop: .popped(ScatterGatherArray(adopting: raw.segments), from: raw.hasAddress ? raw.address : nil)
        case .accept: .accepted(raw.accepted, from: raw.address)
        case .connect: .connected
        case .timer, .yield: .timerFired
        }
    }

    /// Ends well or throws what went wrong; what it carried is released.
    public consuming func get() throws(DemikernelError) {
        let raw = raw
        guard raw.errno == 0 else {
            _ = consume self
            throw raw.error
        }
        // Mostly there is nothing to release.
        if raw.segments.isEmpty { discard self } else { _ = consume self }
    }

    /// What a pop brought; empty at the end of the stream. Throws the operation's error, EINVAL where the operation was no pop.
    public consuming func popped() throws(DemikernelError) -> ScatterGatherArray {
        let raw = raw
        guard raw.errno == 0, raw.kind == .pop else {
            _ = consume self
            throw raw.errno == 0 ? DemikernelError(.invalidArgument, "the operation was no pop") : raw.error
        }
        discard self
        return ScatterGatherArray(adopting: raw.segments)
    }

    /// The queue of an accepted connection. Throws the operation's error, EINVAL where the operation was no accept.
    public consuming func accepted() throws(DemikernelError) -> QueueDescriptor {
        guard raw.errno == 0 else { throw raw.error }
        guard raw.kind == .accept else { throw DemikernelError(.invalidArgument, "the operation was no accept") }
        return raw.accepted
    }
}

extension RawCompletion {
    /// The error of a failed operation.
    var error: DemikernelError { DemikernelError(Errno(rawValue: errno), failureText) }

    /// A literal for the error of a failed operation.
    private var failureText: StaticString {
        if errno == Errno.canceled.rawValue { return "the operation was cancelled, or its queue closed" }
        return switch kind {
        case .accept: "accept failed"
        case .connect: "connect failed"
        case .push: "push failed"
        case .pop: "pop failed"
        case .timer, .yield: "the timer failed"
        }
    }
}
