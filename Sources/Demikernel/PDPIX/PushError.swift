/// Why a push was refused, with what was to be pushed: a failed push loses nothing.
public struct PushError: Error, CustomStringConvertible {
    public let reason: DemikernelError
    private let returned: Returned

    /// Allocates; refusals are not the hot path, and stay out of its functions.
    @inline(never)
    init(_ reason: DemikernelError, returning buffers: consuming ScatterGatherArray) {
        self.reason = reason
        returned = Returned(buffers)
    }

    /// Gives back what was to be pushed; nil when it has been taken already.
    public func takeBuffers() -> ScatterGatherArray? { returned.take() }

    public var description: String { reason.description }
}

/// Carries the buffers of a ``PushError``, which has to be copyable, to whoever takes them first.
private final class Returned: Sendable {
    private let buffers: Lock<ScatterGatherArray?>

    init(_ buffers: consuming ScatterGatherArray) { self.buffers = Lock(.some(buffers)) }

    func take() -> ScatterGatherArray? { buffers.withLock { $0.take() } }
}
