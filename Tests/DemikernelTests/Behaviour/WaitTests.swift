import Glibc
import SystemPackage
import Testing
@testable import Demikernel

extension PDPIXBehaviour {
    @Suite struct Waiting {
        @Test(arguments: LibOSUnderTest.all)
        func `a token that names no operation answers EINVAL everywhere`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queue = try libOS.queue()
                let pending = try libOS.pop(queue)
                let stale = try libOS.push(queue, "done")
                #expect(try libOS.outcome(stale) == .pushed)
                // The slot's next tenant is another operation.
                let tenant = try libOS.pop(queue)
                #expect(tenant.slot == stale.slot && tenant != stale)
                let next = QToken(rawValue: tenant.rawValue + (2 << 32))
                let free = QToken(rawValue: tenant.rawValue + (1 << 32))
                for raw: UInt64 in [0, .max, stale.rawValue, next.rawValue, free.rawValue, 1 << 32 | 8_191, 12_345_678_901_234] {
                    let token = QToken(rawValue: raw)
                    expect(.invalidArgument) { _ = try libOS.wait(token, timeout: .zero) }
                    expect(.invalidArgument) { _ = try libOS.wait(token) }
                    expect(.invalidArgument) { _ = try libOS.waitAny([token]) }
                    expect(.invalidArgument) { _ = try libOS.waitAny([tenant, token], timeout: .zero) }
                    expect(.invalidArgument) { _ = try libOS.waitAny([tenant, token]) }
                    expect(.invalidArgument) { try libOS.waitAll([tenant, token]) { _ = $0 } }
                    expect(.invalidArgument) { try libOS.cancel(token) }
                }
                #expect(try libOS.outcome(pending) == .popped([UInt8]("done".utf8)))
                #expect(try libOS.isPending(tenant))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `nothing to wait for is an error, not a hang`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                expect(.invalidArgument) { _ = try libOS.waitAny([]) }
                expect(.invalidArgument) { _ = try libOS.waitAny([], timeout: .zero) }
                try libOS.waitAll([]) { _ in Issue.record("there is nothing to hand out") }
                for count in [0, -1, Int.min] { expect(.invalidArgument) { try libOS.waitNext(count) { _ = $0 } } }
                expect(.timedOut) { try libOS.waitNext(1, timeout: .zero) { _ = $0 } }
                expect(.timedOut) { try libOS.waitNext(.max, timeout: .milliseconds(1)) { _ = $0 } }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a zero or negative timeout polls once, and the operation goes on`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pop = try libOS.pop(pair.server)
                for timeout in [Duration.zero, .nanoseconds(-1), .seconds(-5), .seconds(Int64.min)] {
                    expect(.timedOut) { _ = try libOS.wait(pop, timeout: timeout) }
                    expect(.timedOut) { _ = try libOS.waitAny([pop], timeout: timeout) }
                    expect(.timedOut) { try libOS.waitAll([pop], timeout: timeout) { _ = $0 } }
                    expect(.timedOut) { try libOS.waitNext(1, timeout: timeout) { _ = $0 } }
                }
                try libOS.send(pair.client, "late")
                #expect(try libOS.outcome(pop) == .popped([UInt8]("late".utf8)))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `polling with a zero timeout gets there in the end`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pop = try libOS.pop(pair.server)
                try libOS.send(pair.client, "poll")
                var polls = 0
                while try libOS.isPending(pop), polls < 1_000_000 { polls += 1 }
                #expect(try libOS.outcome(pop) == .popped([UInt8]("poll".utf8)))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a timeout is not over before its time`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pop = try libOS.pop(pair.server)
                let start = monotonicNanoseconds()
                expect(.timedOut) { _ = try libOS.wait(pop, timeout: .milliseconds(5)) }
                expect(.timedOut) { _ = try libOS.waitAny([pop], timeout: .milliseconds(5)) }
                expect(.timedOut) { try libOS.waitAll([pop], timeout: .milliseconds(5)) { _ = $0 } }
                expect(.timedOut) { try libOS.waitNext(1, timeout: .milliseconds(5)) { _ = $0 } }
                // The time-stamp counter's rate was measured, so leave it one part in a hundred.
                #expect(monotonicNanoseconds() - start >= 19_800_000)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a completed operation is handed out whatever the timeout, once`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queue = try libOS.queue()
                for timeout in [Duration.zero, .seconds(-1), .seconds(Int64.max), nil] {
                    let token = try libOS.push(queue, "x")
                    let completion = try libOS.wait(token, timeout: timeout)
                    #expect(completion.token == token && completion.descriptor == queue)
                    _ = consume completion
                    expect(.invalidArgument) { _ = try libOS.wait(token, timeout: timeout) }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `waitAny hands out completions in the order in which they came about`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queues = try (0..<10).map { _ in try libOS.queue() }
                var tokens = try queues.map { try libOS.pop($0) }
                let order = [7, 2, 9, 0, 5, 1, 8, 3, 6, 4]
                for position in order { _ = try libOS.push(queues[position], "\(position)") }
                for position in order {
                    let completion = try libOS.waitAny(tokens, timeout: .patience)
                    #expect(completion.offset == position && completion.token == tokens[position] && completion.descriptor == queues[position])
                    #expect(Outcome(completion) == .popped([UInt8]("\(position)".utf8)))
                    tokens[position] = try libOS.pop(queues[position])
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `waitAny finds a token wherever it has moved`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                var generator = SplitMix64(seed: 11)
                let queues = try (0..<40).map { _ in try libOS.queue() }
                var tokens: [QToken] = []
                var owner: [QToken: QueueDescriptor] = [:]
                for queue in queues {
                    let token = try libOS.pop(queue)
                    tokens.append(token)
                    owner[token] = queue
                }
                for _ in 0..<300 {
                    tokens.shuffle(using: &generator)
                    let token = tokens.randomElement(using: &generator)!
                    try libOS.send(owner[token]!, "m")
                    // Waits over the others find nothing, also while the completion is there.
                    let others = tokens.filter { $0 != token }
                    expect(.timedOut) { _ = try libOS.waitAny(others, timeout: .zero) }
                    let completion = try libOS.waitAny(tokens, timeout: .zero)
                    #expect(completion.token == token && tokens[completion.offset] == token)
                    let again = try libOS.pop(owner[token]!)
                    owner[again] = owner.removeValue(forKey: token)
                    tokens[completion.offset] = again
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a token that stands twice in waitAny is handed out once`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queue = try libOS.queue()
                let idle = try libOS.pop(try libOS.queue()), token = try libOS.pop(queue)
                try libOS.send(queue, "x")
                let completion = try libOS.waitAny([token, idle, token], timeout: .patience)
                #expect(completion.token == token && completion.offset != 1)
                expect(.invalidArgument) { _ = try libOS.waitAny([token, idle, token]) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `waitAll hands out in the order of the tokens, all or none`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queues = try (0..<3).map { _ in try libOS.queue() }
                let tokens = try queues.map { try libOS.pop($0) }
                for position in [2, 0] { try libOS.send(queues[position], "\(position)") }
                expect(.timedOut) { try libOS.waitAll(tokens, timeout: .zero) { _ in Issue.record("not all have completed") } }
                try libOS.send(queues[1], "1")
                expect(.invalidArgument) { try libOS.waitAll([tokens[0], tokens[1], tokens[0]]) { _ in Issue.record("twice") } }
                var seen: [String] = []
                try libOS.waitAll(tokens, timeout: .patience) { completion in
                    #expect(completion.offset == seen.count)
                    if case .popped(let bytes) = Outcome(completion) { seen.append(String(decoding: bytes, as: UTF8.self)) }
                }
                #expect(seen == ["0", "1", "2"])
                expect(.invalidArgument) { try libOS.waitAll(tokens) { _ = $0 } }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `waitNext hands out up to so many, oldest first`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queues = try (0..<5).map { _ in try libOS.queue() }
                let pops = try queues.map { try libOS.pop($0) }
                for position in [3, 1, 4, 0, 2] { try libOS.send(queues[position], "x") }
                var seen: [QToken] = []
                #expect(try libOS.waitNext(2, timeout: .patience) { seen.append($0.token) } == 2)
                #expect(try libOS.waitNext(100, timeout: .patience) { seen.append($0.token) } == 3)
                #expect(seen == [3, 1, 4, 0, 2].map { pops[$0] })
                expect(.timedOut) { try libOS.waitNext(1, timeout: .zero) { _ = $0 } }
            }
        }

        // MARK: Timers

        @Test(arguments: LibOSUnderTest.all)
        func `timers fire in the order of their times, not before`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let start = monotonicNanoseconds()
                let delays = [9, 3, 0, 6]
                let tokens = try delays.map { try libOS.timer(after: .milliseconds($0)) }
                var seen: [Int] = []
                for _ in delays {
                    try libOS.waitNext(1, timeout: .patience) { completion in
                        let token = completion.token
                        seen.append(delays[tokens.firstIndex(of: token)!])
                        #expect(Outcome(completion) == .timerFired)
                    }
                    #expect(monotonicNanoseconds() - start >= UInt64(seen.last!) * 990_000)
                }
                #expect(seen == [0, 3, 6, 9])
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a timer's time may be negative or as long as there is`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for duration in [Duration.zero, .seconds(-1), .seconds(Int64.min)] {
                    #expect(try libOS.outcome(libOS.timer(after: duration)) == .timerFired)
                }
                for duration in [Duration.seconds(Int64.max), .seconds(1 << 33)] {
                    let token = try libOS.timer(after: duration)
                    expect(.timedOut) { _ = try libOS.wait(token, timeout: .zero) }
                    try libOS.cancel(token)
                    #expect(try libOS.outcome(token) == .failed(.canceled))
                }
            }
        }

        // MARK: Limits

        @Test(arguments: LibOSUnderTest.all)
        func `one operation too many answers ENOMEM and loses nothing`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(adjusting: { $0.operations.capacity = 64 }) { libOS in
                let queue = try libOS.queue()
                let pair = try libOS.pair(subject.address())
                let tokens = try (0..<64).map { _ in try libOS.pop(queue) }
                expect(.noMemory) { _ = try libOS.pop(queue) }
                expect(.noMemory) { _ = try libOS.pop(pair.server) }
                expect(.noMemory) { _ = try libOS.timer(after: .zero) }
                #expect(try libOS.refusal(of: [1, 2], on: queue) == .noMemory)
                #expect(try libOS.refusal(of: [1, 2], on: pair.client) == .noMemory)
                try libOS.cancel(tokens[0])
                #expect(try libOS.outcome(tokens[0]) == .failed(.canceled))
                try libOS.send(queue, "x")
                #expect(try libOS.outcome(tokens[1]) == .popped([UInt8]("x".utf8)))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `one queue too many answers EMFILE, also from accept`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(adjusting: { $0.descriptors.capacity = 16 }) { libOS in
                let (listener, address) = try libOS.listening(on: subject.address())
                let client = try libOS.socket()
                let connecting = try libOS.connect(client, to: address)
                #expect(try libOS.outcome(connecting) == .connected)
                let fillers = try (0..<14).map { _ in try libOS.queue() }
                expect(.tooManyOpenFiles) { _ = try libOS.queue() }
                expect(.tooManyOpenFiles) { _ = try libOS.socket() }
                #expect(try libOS.outcome(libOS.accept(listener)) == .failed(.tooManyOpenFiles))
                // The connection was not taken from the device only to be thrown away.
                try libOS.close(fillers[3])
                #expect(try libOS.outcome(libOS.accept(listener)) == .accepted(fillers[3]))
                try libOS.send(client, "patient")
                #expect(try libOS.receiveText(fillers[3]) == "patient")
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a waker from another thread ends a sleep and nothing else`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queue = try libOS.queue()
                let pop = try libOS.pop(queue)
                let waker = libOS.waker
                for _ in 0..<3 { waker.wake() }
                expect(.timedOut) { _ = try libOS.wait(pop, timeout: .milliseconds(2)) }
                try libOS.send(queue, "x")
                #expect(try libOS.outcome(pop) == .popped([UInt8]("x".utf8)))
            }
        }
    }
}

func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
