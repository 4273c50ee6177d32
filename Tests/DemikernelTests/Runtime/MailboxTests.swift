import Glibc
import Synchronization
import SystemPackage
import Testing
@testable import Demikernel

/// What other threads may ask of a libOS, by eight threads at once. Run under the thread sanitizer too (`Scripts/sanitize`).
@Suite struct MailboxTests {
    private static let threads = 8
    private static let sends = 10_000

    @Test func `nothing that is sent is lost, doubled or reordered`() throws {
        let mailbox = try Mailbox()
        let threads = onThreads(Self.threads) { thread in
            for number in 0..<Self.sends {
                if number % 2 == 0 {
                    mailbox.cancel(QToken(slot: UInt32(number), generation: UInt32(thread)))
                } else {
                    mailbox.close(QueueIdentity(index: UInt32(number), generation: UInt32(thread)))
                }
            }
        }
        var nextToken = [UInt32](repeating: 0, count: Self.threads)
        var nextQueue = [UInt32](repeating: 1, count: Self.threads)
        var received = 0
        while received < Self.threads * Self.sends {
            guard mailbox.hasMail else { continue }
            mailbox.acknowledge()
            mailbox.clearFlag()
            for token in mailbox.takeCancellations() {
                let thread = Int(token.generation)
                if token.slot != nextToken[thread] { Issue.record("\(token) came in the place of \(nextToken[thread])") }
                nextToken[thread] = token.slot + 2
                received += 1
            }
            for queue in mailbox.takeClosed() {
                let thread = Int(queue.generation)
                if queue.index != nextQueue[thread] { Issue.record("queue \(queue.index) came in the place of \(nextQueue[thread])") }
                nextQueue[thread] = queue.index + 2
                received += 1
            }
        }
        _ = consume threads
        mailbox.clearFlag()
        #expect(mailbox.takeCancellations().isEmpty)
        #expect(mailbox.takeClosed().isEmpty)
        #expect(!mailbox.hasMail)
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50))])
    func `operations that threads cancel complete once each`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(operations: 131_072, spin: spin)
        let queue = try libOS.queue()
        let tokens = try (0..<Self.threads * Self.sends).map { _ in try libOS.pop(queue) }
        let mailbox = libOS.core.mailbox
        let threads = onThreads(Self.threads) { thread in
            // Half of each thread's tokens are another's too.
            for number in 0..<Self.sends { mailbox.cancel(tokens[(thread * Self.sends / 2 + number) % tokens.count]) }
        }
        let cancelled = (Self.threads + 1) * Self.sends / 2
        var seen: Set<QToken> = []
        while seen.count < cancelled {
            try libOS.waitNext(500) { completion in
                let outcome = Outcome(completion)
                #expect(outcome.errno == Errno.canceled.rawValue)
                #expect(seen.insert(outcome.token).inserted)
            }
        }
        _ = consume threads
        libOS.core.idleTurn()
        #expect(seen == Set(tokens.prefix(cancelled)))
        #expect(libOS.core.operations.count == tokens.count - cancelled)
    }

    @Test func `queues that threads let go of are closed, and not the next queue under the same descriptor`() throws {
        let libOS = try smallLibOS()
        let mailbox = libOS.core.mailbox
        for _ in 0..<50 {
            let old = try (0..<200).map { _ in try libOS.queue() }
            let pops = try old.map { try libOS.pop($0) }
            let identities = old.map { libOS.core.identity(of: $0) }
            let threads = onThreads(Self.threads) { thread in
                for number in identities.indices where number % 4 == thread % 4 { mailbox.close(identities[number]) }
            }
            var outcomes: [QToken: Outcome] = [:]
            var successors: [QueueDescriptor] = []
            try libOS.waitAll(pops) { completion in
                let outcome = Outcome(completion)
                outcomes[outcome.token] = outcome
            }
            for outcome in outcomes.values { #expect(outcome.errno == Errno.canceled.rawValue) }
            for _ in 0..<200 { successors.append(try libOS.queue()) }
            #expect(Set(successors) == Set(old))
            // Every queue is closed by two threads; the second comes too late, and must not hit the successor.
            _ = consume threads
            libOS.core.idleTurn()
            for successor in successors { try libOS.close(successor) }
        }
        #expect(libOS.core.operations.count == 0)
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50)), .forever])
    func `jobs from threads run on the libOS's thread, each once`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let executor = libOS.executor
        let home = pthread_self()
        let total = Self.threads * 1_000
        let counters = Counters()
        let threads = onThreads(Self.threads) { _ in
            for _ in 0..<1_000 {
                Task(executorPreference: executor) { counters.note(pthread_self() == home) }
            }
        }
        try libOS.run { libOS in
            while counters.ran.load(ordering: .acquiring) < total { try await libOS.sleep(for: .microseconds(100)) }
        }
        _ = consume threads
        #expect(counters.ran.load(ordering: .acquiring) == total)
        #expect(counters.strayed.load(ordering: .acquiring) == 0)
    }

    /// A task resumed by another thread while this one polls for a task that waits for it.
    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50)), .forever])
    func `a job from another thread is not overlooked by a task that polls`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let executor = libOS.executor
        let handle = Handle(libOS)
        let queue = try libOS.queue()
        for number in 0..<50 as Range<UInt32> {
            let popped = try libOS.run { libOS in
                let token = try libOS.pop(queue)
                let thread = TestThread {
                    Task(executorPreference: executor) {
                        _ = Outcome(try handle.libOS.wait(try handle.libOS.push(queue, try handle.libOS.numbered(number))))
                    }
                }
                let popped = Outcome(try await libOS.completion(of: token)).popped
                _ = consume thread
                return popped
            }
            #expect(popped == number)
        }
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50)), .forever])
    func `an operation is one task's to await`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let executor = libOS.executor
        let handle = Handle(libOS)
        let queue = try libOS.queue()
        let answers = try libOS.run { libOS in
            let token = try libOS.pop(queue)
            let first = Task(executorPreference: executor) { await handle.errno(awaiting: token) }
            let second = Task(executorPreference: executor) { await handle.errno(awaiting: token) }
            try await libOS.sleep(for: .milliseconds(2))
            _ = Outcome(try await libOS.completion(of: try libOS.push(queue, try libOS.numbered(1))))
            return await [first.value, second.value]
        }
        #expect(Set(answers) == [nil, .resourceBusy])
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50)), .forever])
    func `a completion that a task awaits is that task's alone`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let executor = libOS.executor
        let handle = Handle(libOS)
        let queue = try libOS.queue()
        let answer = try libOS.run { libOS in
            let token = try libOS.pop(queue)
            let task = Task(executorPreference: executor) { await handle.errno(awaiting: token) }
            try await libOS.sleep(for: .milliseconds(2))
            let push = try libOS.push(queue, try libOS.numbered(1))
            var taken: [QToken] = []
            try libOS.waitNext(2) { taken.append(Outcome($0).token) }
            #expect(taken == [push])
            return await task.value
        }
        #expect(answer == nil)
    }

    /// Carries a libOS to tasks that run on its thread.
    private final class Handle: @unchecked Sendable {
        let libOS: LibOS
        init(_ libOS: LibOS) { self.libOS = libOS }

        nonisolated(nonsending) func errno(awaiting token: QToken) async -> Errno? {
            do throws(DemikernelError) {
                try await libOS.completion(of: token).get()
                return nil
            } catch {
                return error.errno
            }
        }
    }

    private final class Counters: Sendable {
        let ran = Atomic<Int>(0)
        let strayed = Atomic<Int>(0)

        func note(_ isHome: Bool) {
            if !isHome { strayed.add(1, ordering: .relaxed) }
            ran.add(1, ordering: .acquiringAndReleasing)
        }
    }
}
