import Glibc
import SystemPackage
import Testing
@testable import Demikernel

/// A libOS for tests of the runtime: little memory, and a clock of the test's choice.
func smallLibOS(
    operations: Int = 4_096, queueCapacity: Int = 16, spin: Configuration.Wait.Spin = .forever, clock: Clock.Policy? = nil
) throws -> LibOS {
    var configuration = Configuration()
    configuration.heap.limit = 16 << 20
    configuration.heap.hugePages = .never
    configuration.heap.lockPages = false
    configuration.operations.capacity = operations
    configuration.descriptors.capacity = 256
    configuration.queues.memoryQueueCapacity = queueCapacity
    configuration.wait.spin = spin
    configuration.catnap.files.ioUring = .never
    let libOS = try LibOS(configuration)
    if let clock { libOS.core.clock = Clock(clock) }
    return libOS
}

/// Expects `body` to fail with that errno. For bodies that use noncopyable values, which `#expect(throws:)` cannot take.
func expectError(_ errno: Errno, at location: SourceLocation = #_sourceLocation, _ body: () throws -> Void) {
    do {
        try body()
        Issue.record("no error, \(errno) was expected", sourceLocation: location)
    } catch let error as DemikernelError {
        #expect(error.errno == errno, sourceLocation: location)
    } catch let error as PushError {
        #expect(error.reason.errno == errno, sourceLocation: location)
    } catch {
        Issue.record(error, sourceLocation: location)
    }
}

extension LibOS {
    /// A buffer with a number in it.
    func numbered(_ number: UInt32) throws -> Buffer {
        var buffer = try allocate(4)
        try buffer.replaceContents(with: (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) })
        return buffer
    }
}

/// What a completion said, as a value that can be compared: what it carried is released.
struct Outcome: Hashable {
    let token: QToken
    let offset: Int
    /// Of an operation that failed.
    var errno: Int32?
    /// The number in what was popped.
    var popped: UInt32?
    /// The number in what a failed push gave back.
    var returned: UInt32?

    init(_ completion: consuming Completion) {
        token = completion.token
        offset = completion.offset
        switch completion.take() {
        case .popped(let segments, _): popped = Self.number(in: segments)
        case .failed(let error, let segments):
            errno = error.errno.rawValue
            returned = Self.number(in: segments)
        case .pushed: break
        case .accepted: break
        case .connected: break
        case .timerFired: break
        }
    }

    /// What is expected of an operation that `wait` or `waitNext` hands out.
    init(token: QToken, errno: Int32?, popped: UInt32?, returned: UInt32?) {
        self.token = token
        offset = 0
        self.errno = errno
        self.popped = popped
        self.returned = returned
    }

    private static func number(in segments: borrowing ScatterGatherArray) -> UInt32? {
        segments.byteCount == 4 ? segments.copyToArray().reversed().reduce(0) { $0 << 8 | UInt32($1) } : nil
    }
}

/// A thread of its own, outside of the cooperative pool, that other tests may keep busy.
///
/// Invariant: `handle` names a thread that runs and has not been joined.
@safe
struct TestThread: ~Copyable {
    private let handle: pthread_t

    /// Runs `body` at once.
    init(_ body: @escaping @Sendable () -> Void) {
        let context = unsafe Unmanaged.passRetained(Body(body)).toOpaque()
        var handle: pthread_t = 0
        let status = unsafe pthread_create(
            &handle, nil,
            { context in
                guard let context = unsafe context else { return nil }
                unsafe Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, context)
        precondition(status == 0, "a test has no thread")
        self.handle = handle
    }

    /// Waits for its end.
    deinit { pthread_join(handle, nil) }

    private final class Body: Sendable {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }
}

/// Runs `body` on `count` threads at once and waits for all.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) -> TestThread {
    TestThread {
        // Held until the last has begun, so that they run side by side.
        func next(_ number: Int) {
            guard number < count else { return }
            let thread = TestThread { body(number) }
            next(number + 1)
            _ = consume thread
        }
        next(0)
    }
}

/// The processor time that this thread has used, in nanoseconds.
func threadProcessorTime() -> UInt64 { nanoseconds(of: CLOCK_THREAD_CPUTIME_ID) }
/// The time of CLOCK_MONOTONIC, in nanoseconds.
func monotonicTime() -> UInt64 { nanoseconds(of: CLOCK_MONOTONIC) }

private func nanoseconds(of clock: clockid_t) -> UInt64 {
    var time = timespec()
    _ = unsafe clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
