import SystemPackage
import Testing
@testable import Demikernel

/// Adaptive waiting: a wait spins for a while and then sleeps.
@Suite struct SleepTests {
    /// What share of the time that `body` takes its thread spends on the processor, in percent.
    private func processorShare(_ body: () throws -> Void) throws -> Double {
        let processor = threadProcessorTime()
        let start = monotonicTime()
        try body()
        return Double(threadProcessorTime() - processor) * 100 / Double(monotonicTime() - start)
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50))])
    func `a wait with nothing to do sleeps`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let token = try libOS.pop(try libOS.queue())
        let share = try processorShare {
            expectError(.timedOut) { _ = try libOS.wait(token, timeout: .milliseconds(300)) }
            expectError(.timedOut) { _ = try libOS.waitAny([token], timeout: .milliseconds(200)) }
        }
        #expect(share < 20)
    }

    @Test func `an idle server uses next to no processor time`() throws {
        let libOS = try smallLibOS(spin: .atMost(.microseconds(50)))
        var tokens: [QToken] = []
        for _ in 0..<20 {
            let socket = try libOS.socket()
            try libOS.bind(socket, to: #require(SocketAddress("127.0.0.1:0")))
            try libOS.listen(socket)
            tokens.append(try libOS.accept(socket))
        }
        let share = try processorShare {
            expectError(.timedOut) { _ = try libOS.waitAny(tokens, timeout: .seconds(1)) }
        }
        #expect(share < 5)
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50))])
    func `a periodic timer lets the thread sleep in between`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let share = try processorShare {
            for _ in 0..<25 {
                let outcome = Outcome(try libOS.wait(try libOS.timer(after: .milliseconds(20))))
                #expect(outcome.errno == nil)
            }
        }
        #expect(share < 20)
    }

    @Test func `a wait that sleeps looks at a part of its array, however long that is`() throws {
        let libOS = try smallLibOS(operations: 16_384, spin: .atMost(.zero))
        let queue = try libOS.queue()
        var tokens = [try libOS.timer(after: .milliseconds(1))]
        for _ in 0..<10_000 { tokens.append(try libOS.pop(queue)) }
        let before = libOS.core.sweptCount
        for _ in 0..<100 {
            let offset = try libOS.waitAny(tokens).offset
            #expect(offset == 0)
            tokens[0] = try libOS.timer(after: .milliseconds(1))
        }
        #expect(libOS.core.sweptCount - before <= 100 * 500)
    }

    @Test func `a wake from another thread ends the sleep`() throws {
        let libOS = try smallLibOS(spin: .atMost(.zero))
        let waker = libOS.waker
        for _ in 0..<50 {
            let thread = TestThread { waker.wake() }
            // Without the wake this lasts until somebody stops the test.
            libOS.core.sleep(until: .max)
            _ = consume thread
        }
    }

    @Test func `a wake before the sleep is not lost`() throws {
        let libOS = try smallLibOS(spin: .atMost(.zero))
        libOS.waker.wake()
        libOS.core.sleep(until: .max)
        libOS.waker.wake()
        // Spinning turns see the mail, and the sleep after them ends at once.
        libOS.core.idleTurn()
        libOS.core.sleep(until: .max)
    }

    @Test func `a libOS that is gone can be woken`() throws {
        let waker: LibOSWaker
        do {
            let libOS = try smallLibOS()
            waker = libOS.waker
        }
        waker.wake()
    }

    @Test(arguments: [Configuration.Wait.Spin.atMost(.zero), .atMost(.microseconds(50)), .forever])
    func `a cancellation from another thread ends a wait`(spin: Configuration.Wait.Spin) throws {
        let libOS = try smallLibOS(spin: spin)
        let queue = try libOS.queue()
        for _ in 0..<200 {
            let token = try libOS.pop(queue)
            let mailbox = libOS.core.mailbox
            let thread = TestThread { mailbox.cancel(token) }
            #expect(Outcome(try libOS.waitAny([token])).errno == Errno.canceled.rawValue)
            _ = consume thread
        }
    }

    /// The clock moves by hand, so no wait may depend on the real time having passed.
    @Test func `a deadline is one of the libOS's clock`() throws {
        let libOS = try smallLibOS(spin: .forever, clock: .manual(start: 1_000))
        let token = try libOS.pop(try libOS.queue())
        let hand = ClockHand(libOS, step: 100)
        _ = try required(libOS.core.scheduler.spawn(hand.task))
        expectError(.timedOut) { _ = try libOS.wait(token, timeout: .nanoseconds(5_000)) }
        #expect(libOS.core.clock.now() >= 6_000)
        #expect(libOS.core.clock.now() < 6_500)
        let timer = try libOS.timer(after: .seconds(1))
        expectError(.timedOut) { _ = try libOS.waitAny([token, timer], timeout: .nanoseconds(99_000)) }
        expectError(.timedOut) { try libOS.waitAll([token, timer], timeout: .nanoseconds(99_000)) { _ in } }
        expectError(.timedOut) { try libOS.waitNext(1, timeout: .nanoseconds(99_000)) { _ in } }
        #expect(libOS.core.clock.now() < 310_000)
    }

    /// A foreign task that moves a manual clock, as time would pass.
    private final class ClockHand {
        let libOS: LibOS
        let step: UInt64
        init(_ libOS: LibOS, step: UInt64) {
            self.libOS = libOS
            self.step = step
        }

        var task: BackgroundTask {
            unsafe .foreign(
                ForeignTask(
                    poll: { context, _ in
                        guard let context = unsafe context else { return PollResult.finished.rawValue }
                        let hand = unsafe Unmanaged<ClockHand>.fromOpaque(context).takeUnretainedValue()
                        hand.libOS.core.clock.advance(by: hand.step)
                        return PollResult.ready.rawValue
                    },
                    context: Unmanaged.passUnretained(self).toOpaque()))
        }
    }
}
