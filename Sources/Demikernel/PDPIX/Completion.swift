import SystemPackage

/// What a completed operation brings: the answer of `wait`, which hands out the data itself and not just its arrival (paper, section 4.2).
///
/// Noncopyable: what it carries has one owner. Dropping it releases the memory; an accepted connection that is dropped stays open under
/// its descriptor.
@frozen public struct Completion: ~Copyable {
    /// The operation; its token is dead from here on.
    public let token: QToken
    /// The queue that the operation was submitted to.
    public let descriptor: QueueDescriptor
    /// `waitAny` and `waitAll`: where the token stood in the array; else 0.
    public let offset: Int
    public var result: Result

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

    init(_ raw: RawCompletion, offset: Int = 0) {
        token = raw.token
        descriptor = raw.descriptor
        self.offset = offset
        if raw.errno != 0 {
            result = .failed(DemikernelError(Errno(rawValue: raw.errno), raw.failureText), returned: ScatterGatherArray(adopting: raw.segments))
            return
        }
        switch raw.kind {
        case .push: result = .pushed
        case .pop: result = .popped(ScatterGatherArray(adopting: raw.segments), from: raw.hasAddress ? raw.address : nil)
        case .accept: result = .accepted(raw.accepted, from: raw.address)
        case .connect: result = .connected
        case .timer, .yield: result = .timerFired
        }
    }

    /// Ends well or throws what went wrong; what it carried is released.
    public consuming func get() throws(DemikernelError) {
        if case .failed(let error, _) = result { throw error }
    }

    /// What a pop brought. Throws the operation's error, EINVAL where the operation was no pop.
    public consuming func popped() throws(DemikernelError) -> ScatterGatherArray {
        switch consume result {
        case .popped(let segments, _): return segments
        case .failed(let error, _): throw error
        default: throw DemikernelError(.invalidArgument, "the operation was no pop")
        }
    }

    /// The queue of an accepted connection. Throws the operation's error, EINVAL where the operation was no accept.
    public consuming func accepted() throws(DemikernelError) -> QueueDescriptor {
        switch consume result {
        case .accepted(let descriptor, _): return descriptor
        case .failed(let error, _): throw error
        default: throw DemikernelError(.invalidArgument, "the operation was no accept")
        }
    }
}

extension RawCompletion {
    /// A literal for the error of a failed operation.
    var failureText: StaticString {
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
