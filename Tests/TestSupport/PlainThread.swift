import Demikernel
import Glibc

/// A thread of no libOS.
public final class PlainThread: Sendable {
    private let body: @Sendable () throws -> Void
    private let failure = Lock<(any Error)?>(nil)
    private let thread = Lock(pthread_t())

    public init(_ body: @escaping @Sendable () throws -> Void) {
        self.body = body
        let context = unsafe Unmanaged.passRetained(self).toOpaque()
        var made = pthread_t()
        let status = unsafe pthread_create(&made, nil, { context in
            let thread = unsafe Unmanaged<PlainThread>.fromOpaque(context!).takeRetainedValue()
            do { try thread.body() } catch { thread.failure.withLock { $0 = error } }
            return nil
        }, context)
        precondition(status == 0, "the system has no thread for a test")
        thread.withLock { $0 = made }
    }

    /// Waits for its end. Throws what it threw.
    public func join() throws {
        pthread_join(thread.withLock { $0 }, nil)
        if let error = failure.withLock({ $0 }) { throw error }
    }
}
