import CDemikernelShims
import Glibc
import Synchronization
import SystemPackage

/// What other threads ask of a libOS: to wake, to cancel an operation, to run a job of a Swift task. The only part of a libOS that is shared.
///
/// The libOS's own thread looks at one atomic flag a turn; a sender takes a lock and writes to an eventfd, on which the libOS may sleep.
package final class Mailbox: Sendable {
    private struct Mail: ~Copyable {
        var cancellations: [QToken] = []
        var closed: [QueueIdentity] = []
        var jobs: [UnownedJob] = []
        var questions: [ControlExchange] = []
        var refusesQuestions = false
    }

    /// Readable while there is mail (`eventfd(2)`).
    package let eventDescriptor: Int32
    private let mail = Lock(Mail())
    private let flag = Atomic<Bool>(false)
    private let jobFlag = Atomic<Bool>(false)

    package init() throws(DemikernelError) {
        eventDescriptor = dk_event_create()
        guard eventDescriptor >= 0 else {
            throw DemikernelError(Errno(rawValue: Glibc.errno), "the libOS needs an event descriptor (eventfd)")
        }
    }

    deinit { Glibc.close(eventDescriptor) }

    /// Whether anything was sent since the last look. One load.
    @inline(__always)
    package var hasMail: Bool { flag.load(ordering: .acquiring) }

    /// Wakes the libOS from its sleep. Safe from any thread.
    package func wake() {
        flag.store(true, ordering: .releasing)
        var one: UInt64 = 1
        unsafe Glibc.write(eventDescriptor, &one, 8)
    }

    /// Asks for an operation to be cancelled. Safe from any thread.
    package func cancel(_ token: QToken) {
        mail.withLock { $0.cancellations.append(token) }
        wake()
    }

    /// Hands over a job of a Swift task. Safe from any thread.
    package func enqueue(_ job: UnownedJob) {
        mail.withLock { $0.jobs.append(job) }
        jobFlag.store(true, ordering: .sequentiallyConsistent)
        wake()
    }

    /// Asks for a queue to be closed. Safe from any thread.
    package func close(_ queue: QueueIdentity) {
        mail.withLock { $0.closed.append(queue) }
        wake()
    }

    /// Hands over a question of the control socket's; it is answered at once where the libOS has ended. Safe from any thread.
    package func ask(_ exchange: ControlExchange) {
        let isTaken = mail.withLock { mail in
            if !mail.refusesQuestions { mail.questions.append(exchange) }
            return !mail.refusesQuestions
        }
        if isTaken { wake() } else { exchange.complete(.ended) }
    }

    package func takeQuestions() -> [ControlExchange] {
        mail.withLock { mail in
            defer { mail.questions.removeAll(keepingCapacity: true) }
            return mail.questions
        }
    }

    /// No question is answered from here on: the libOS is about to end.
    package func refuseQuestions() {
        mail.withLock { $0.refusesQuestions = true }
        for exchange in takeQuestions() { exchange.complete(.ended) }
    }

    /// Before the mail is taken, so that none that comes meanwhile is overlooked.
    package func clearFlag() { flag.store(false, ordering: .sequentiallyConsistent) }

    package func takeCancellations() -> [QToken] {
        mail.withLock { mail in
            defer { mail.cancellations.removeAll(keepingCapacity: true) }
            return mail.cancellations
        }
    }

    package func takeClosed() -> [QueueIdentity] {
        mail.withLock { mail in
            defer { mail.closed.removeAll(keepingCapacity: true) }
            return mail.closed
        }
    }

    /// Whether jobs were handed over since they were last taken. One load.
    @inline(__always)
    package var hasJobs: Bool { jobFlag.load(ordering: .acquiring) }

    package func takeJobs() -> [UnownedJob] {
        jobFlag.store(false, ordering: .sequentiallyConsistent)
        return mail.withLock { mail in
            defer { mail.jobs.removeAll(keepingCapacity: true) }
            return mail.jobs
        }
    }

    /// Empties the eventfd after a sleep.
    package func acknowledge() {
        var count: UInt64 = 0
        unsafe Glibc.read(eventDescriptor, &count, 8)
    }
}

/// One queue for ever: unlike a descriptor, which the next queue may get.
package struct QueueIdentity: Sendable {
    let index: UInt32
    let generation: UInt32
}
