import SystemPackage
import Testing
@testable import Demikernel

// How a TCP connection ends: half by half, all at once, or by a reset.

extension PDPIXBehaviour {
    @Suite struct StreamEnds {
        @Test(arguments: LibOSUnderTest.all)
        func `the end of the stream comes behind the data, and again with every further pop`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                try libOS.send(pair.client, "last words")
                try libOS.close(pair.client)
                #expect(try libOS.receiveText(pair.server) == "last words")
                for _ in 0..<5 { #expect(try libOS.outcome(libOS.pop(pair.server)) == .popped([])) }
                let pops = try (0..<5).map { _ in try libOS.pop(pair.server) }
                for token in pops { #expect(try libOS.outcome(token) == .popped([])) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `pops that wait see the end of the stream`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pops = try (0..<3).map { _ in try libOS.pop(pair.server) }
                for token in pops { #expect(try libOS.isPending(token)) }
                try libOS.close(pair.client)
                for token in pops { #expect(try libOS.outcome(token) == .popped([])) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `each half closes on its own, and data still comes behind the peer's end`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let pair = try libOS.pair(subject.address(family))
                    for (first, second) in [(pair.client, pair.server), (pair.server, pair.client)] {
                        if first == pair.server { continue }
                        try libOS.send(first, "question")
                        try libOS.shutdown(first, .send)
                        #expect(try libOS.receiveText(second) == "question")
                        #expect(try libOS.receive(second) == [])
                        let answer = pattern(100_000)
                        let push = try libOS.push(second, libOS.buffer(answer))
                        #expect(try libOS.receive(first, exactly: answer.count) == answer)
                        #expect(try libOS.outcome(push) == .pushed)
                        try libOS.shutdown(second, .send)
                        #expect(try libOS.receive(first) == [])
                        #expect(try libOS.receive(second) == [])
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `the accepting side may end its half first`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                try libOS.shutdown(pair.server, .send)
                #expect(try libOS.receive(pair.client) == [])
                for round in 0..<10 {
                    try libOS.send(pair.client, "round \(round)")
                    #expect(try libOS.receiveText(pair.server) == "round \(round)")
                }
                try libOS.close(pair.client)
                #expect(try libOS.receive(pair.server) == [])
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `nothing is pushed after a shutdown for sending`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for direction in [ShutdownDirection.send, .both] {
                    let pair = try libOS.pair(subject.address())
                    try libOS.shutdown(pair.client, direction)
                    #expect(try libOS.refusal(of: [1, 2, 3], on: pair.client) == .brokenPipe)
                    #expect(try libOS.receive(pair.server) == [])
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a shutdown for receiving ends the pops that wait and those that come`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pop = try libOS.pop(pair.client)
                #expect(try libOS.isPending(pop))
                try libOS.shutdown(pair.client, .receive)
                #expect(try libOS.outcome(pop) == .popped([]))
                #expect(try libOS.receive(pair.client) == [])
                try libOS.send(pair.client, "still sending")
                #expect(try libOS.receiveText(pair.server) == "still sending")
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `what was pushed before a shutdown goes before the end of the stream`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for direction in [ShutdownDirection.send, .both] {
                    let pair = try libOS.pair(subject.address())
                    let first = pattern(5 << 20), second = pattern(100_000, seed: 2)
                    let pushes = [try libOS.push(pair.client, libOS.buffer(first)), try libOS.push(pair.client, libOS.buffer(second))]
                    #expect(try libOS.isPending(pushes[0]))
                    try libOS.shutdown(pair.client, direction)
                    #expect(try libOS.refusal(of: [9], on: pair.client) == .brokenPipe)
                    #expect(try libOS.receive(pair.server, exactly: first.count) == first)
                    #expect(try libOS.receive(pair.server, exactly: second.count) == second)
                    #expect(try libOS.receive(pair.server) == [])
                    for token in pushes { #expect(try libOS.outcome(token) == .pushed) }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a shutdown whose last push is cancelled still ends the stream`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let first = pattern(5 << 20)
                let sending = try libOS.push(pair.client, libOS.buffer(first)), waiting = try libOS.push(pair.client, "never sent")
                #expect(try libOS.isPending(sending))
                try libOS.shutdown(pair.client, .send)
                try libOS.cancel(waiting)
                #expect(try libOS.outcome(waiting) == .failed(.canceled, returned: [UInt8]("never sent".utf8)))
                #expect(try libOS.receive(pair.server, exactly: first.count) == first)
                #expect(try libOS.receive(pair.server) == [])
                #expect(try libOS.outcome(sending) == .pushed)
            }
        }

        // MARK: Reset

        @Test(arguments: LibOSUnderTest.all)
        func `a peer's reset fails the pops that wait, then pushes`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let pair = try libOS.pair(subject.address(family))
                    let pop = try libOS.pop(pair.server)
                    #expect(try libOS.isPending(pop))
                    try libOS.set(.linger, to: .zero, on: pair.client)
                    try libOS.close(pair.client)
                    #expect(try libOS.outcome(pop) == .failed(.connectionReset))
                    let push = try libOS.outcome(libOS.push(pair.server, "anyone?"))
                    guard case .failed(let errno, let returned) = push else { throw Unexpected(description: "\(push)") }
                    #expect(errno == .brokenPipe || errno == .connectionReset)
                    #expect(returned == [UInt8]("anyone?".utf8))
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a peer's reset fails the pushes that wait and gives their bytes back`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let bytes = pattern(6 << 20)
                let pushes = [try libOS.push(pair.server, libOS.buffer(bytes)), try libOS.push(pair.server, "second")]
                for token in pushes { #expect(try libOS.isPending(token)) }
                try libOS.set(.linger, to: .zero, on: pair.client)
                try libOS.close(pair.client)
                guard case .failed(let errno, let returned) = try libOS.outcome(pushes[0]) else { throw Unexpected(description: "it did not fail") }
                #expect((errno == .connectionReset || errno == .brokenPipe) && returned == bytes)
                guard case .failed(let later, let text) = try libOS.outcome(pushes[1]) else { throw Unexpected(description: "it did not fail") }
                #expect((later == .connectionReset || later == .brokenPipe) && text == [UInt8]("second".utf8))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a socket closed with unread data resets its peer`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                try libOS.send(pair.client, "never read")
                let peek = try libOS.receive(pair.server, limit: 2)
                #expect(peek.count == 2)
                let pop = try libOS.pop(pair.client)
                try libOS.close(pair.server)
                #expect(try libOS.outcome(pop) == .failed(.connectionReset))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `pushing to a peer that has gone fails and does not kill the process`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                try libOS.close(pair.client)
                #expect(try libOS.receive(pair.server) == [])
                var errno: Errno?
                // The first one may still go out: the peer's reset is its answer.
                for _ in 0..<1_000 where errno == nil { errno = try libOS.outcome(libOS.push(pair.server, "hello?")).errno }
                #expect(errno == .brokenPipe || errno == .connectionReset)
                #expect(try libOS.outcome(libOS.push(pair.server, "hello?")).errno == .brokenPipe)
                // Twice is once: the connection has ended, whatever is asked of it.
                for direction in [ShutdownDirection.send, .send, .both] { try? libOS.shutdown(pair.server, direction) }
                try libOS.close(pair.server)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a connection that was reset before it was accepted is no harm to the listener`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, address) = try libOS.listening(on: subject.address())
                let ghost = try libOS.socket()
                #expect(try libOS.outcome(libOS.connect(ghost, to: address)) == .connected)
                try libOS.set(.linger, to: .zero, on: ghost)
                try libOS.close(ghost)
                // The ghost is accepted and found dead, or never seen: the next connection comes through either way.
                let client = try libOS.socket()
                #expect(try libOS.outcome(libOS.connect(client, to: address)) == .connected)
                let local = try libOS.localAddress(of: client)
                var server: QueueDescriptor?
                while server == nil {
                    guard case .accepted(let accepted) = try libOS.outcome(libOS.accept(listener)) else { throw Unexpected(description: "accept failed") }
                    if (try? libOS.remoteAddress(of: accepted)) == local { server = accepted } else { try libOS.close(accepted) }
                }
                try libOS.send(client, "alive")
                #expect(try libOS.receiveText(server!) == "alive")
            }
        }
    }
}
