import SystemPackage
import Testing
@testable import Demikernel

// Cancelling single operations, and closing queues with operations pending.

extension PDPIXBehaviour {
    @Suite struct Cancelling {
        @Test(arguments: LibOSUnderTest.all)
        func `a completed operation answers EALREADY, one that was waited for EINVAL`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let token = try libOS.push(libOS.queue(), "x")
                for _ in 0..<2 { expect(.alreadyInProcess) { try libOS.cancel(token) } }
                #expect(try libOS.outcome(token) == .pushed)
                expect(.invalidArgument) { try libOS.cancel(token) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a cancelled operation completes with ECANCELED, once`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let timer = try libOS.timer(after: .seconds(100))
                try libOS.cancel(timer)
                expect(.alreadyInProcess) { try libOS.cancel(timer) }
                #expect(try libOS.outcome(timer) == .failed(.canceled))
                expect(.invalidArgument) { _ = try libOS.wait(timer) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a cancelled accept takes no connection`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, _) = try libOS.listening(on: subject.address())
                let accepts = try (0..<3).map { _ in try libOS.accept(listener) }
                try libOS.cancel(accepts[0])
                #expect(try libOS.outcome(accepts[0]) == .failed(.canceled))
                let client = try libOS.socket()
                let connecting = try libOS.connect(client, to: libOS.localAddress(of: listener))
                guard case .accepted(let server) = try libOS.outcome(accepts[1]) else { throw Unexpected(description: "accept failed") }
                #expect(try libOS.outcome(connecting) == .connected)
                try libOS.send(client, "hello")
                #expect(try libOS.receiveText(server) == "hello")
                try libOS.cancel(accepts[2])
                #expect(try libOS.outcome(accepts[2]) == .failed(.canceled))
                _ = try libOS.connected(to: listener)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a cancelled pop takes no bytes, wherever it stood in line`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pops = try (0..<5).map { _ in try libOS.pop(pair.server, limit: 1) }
                #expect(try libOS.isPending(pops[0]))
                for position in [0, 2, 4] { try libOS.cancel(pops[position]) }
                try libOS.send(pair.client, "abc")
                #expect(try libOS.outcome(pops[1]) == .popped([UInt8]("a".utf8)))
                #expect(try libOS.outcome(pops[3]) == .popped([UInt8]("b".utf8)))
                for position in [0, 2, 4] { #expect(try libOS.outcome(pops[position]) == .failed(.canceled)) }
                #expect(try libOS.receiveText(pair.server) == "c")
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `pops with limits and without stand in one line, from which any may step out`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                for limits in [[nil, 1, nil], [1, nil, 1], [nil, nil, 1], [1, 1, nil]] {
                    for cancelled in 0..<3 {
                        let pops = try limits.map { try libOS.pop(pair.server, limit: $0) }
                        #expect(try libOS.isPending(pops[0]))
                        try libOS.cancel(pops[cancelled])
                        #expect(try libOS.outcome(pops[cancelled]) == .failed(.canceled))
                        for (text, index) in zip(["a", "b"], (0..<3).filter { $0 != cancelled }) {
                            try libOS.send(pair.client, text)
                            #expect(try libOS.outcome(pops[index]) == .popped([UInt8](text.utf8)))
                        }
                        try libOS.send(pair.client, "rest")
                        #expect(try libOS.receiveText(pair.server) == "rest")
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a cancelled pop takes no datagram`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (server, address) = try libOS.datagramSocketBound(to: subject.address())
                let (client, clientAddress) = try libOS.datagramSocketBound(to: subject.address())
                for round in 0..<8 {
                    let pops = try (0..<3).map { _ in try libOS.pop(server) }
                    #expect(try libOS.isPending(pops[0]))
                    for position in 0..<3 where round >> position & 1 == 1 {
                        try libOS.cancel(pops[position])
                        #expect(try libOS.outcome(pops[position]) == .failed(.canceled))
                    }
                    for position in 0..<3 where round >> position & 1 == 0 {
                        try libOS.send(client, "\(round).\(position)", to: address)
                        #expect(try libOS.outcome(pops[position]) == .datagram([UInt8]("\(round).\(position)".utf8), from: clientAddress))
                    }
                    try libOS.send(client, "rest", to: address)
                    #expect(try libOS.outcome(libOS.pop(server)) == .datagram([UInt8]("rest".utf8), from: clientAddress))
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a socket whose only pop was cancelled still hears of new data`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                for round in 0..<20 {
                    let pop = try libOS.pop(pair.server)
                    #expect(try libOS.isPending(pop))
                    try libOS.cancel(pop)
                    if round % 2 == 0 { try libOS.send(pair.client, "\(round)") }
                    #expect(try libOS.outcome(pop) == .failed(.canceled))
                    if round % 2 == 1 { try libOS.send(pair.client, "\(round)") }
                    #expect(try libOS.receiveText(pair.server) == "\(round)")
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.fullBacklogStalls) })
        func `a cancelled connect leaves a socket that can connect elsewhere`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, connecting, _) = try libOS.stalledConnection(subject.address())
                #expect(try libOS.isPending(connecting))
                try libOS.cancel(connecting)
                #expect(try libOS.outcome(connecting) == .failed(.canceled))
                expect(.socketNotConnected) { _ = try libOS.pop(client) }
                let (listener, address) = try libOS.listening(on: subject.address())
                let accepting = try libOS.accept(listener)
                #expect(try libOS.outcome(libOS.connect(client, to: address)) == .connected)
                guard case .accepted(let server) = try libOS.outcome(accepting) else { throw Unexpected(description: "accept failed") }
                try libOS.send(client, "second thoughts")
                #expect(try libOS.receiveText(server) == "second thoughts")
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a push that waits can be cancelled, one that is half sent cannot`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let bytes = pattern(6 << 20)
                let pushes = [
                    try libOS.push(pair.client, libOS.buffer(bytes)), try libOS.push(pair.client, "second"), try libOS.push(pair.client, "third"),
                ]
                #expect(try libOS.isPending(pushes[0]))
                expect(.resourceBusy) { try libOS.cancel(pushes[0]) }
                try libOS.cancel(pushes[1])
                #expect(try libOS.outcome(pushes[1]) == .failed(.canceled, returned: [UInt8]("second".utf8)))
                #expect(try libOS.receive(pair.server, exactly: bytes.count) == bytes)
                #expect(try libOS.receiveText(pair.server) == "third")
                #expect(try libOS.outcome(pushes[0]) == .pushed)
                #expect(try libOS.outcome(pushes[2]) == .pushed)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `cancelling one operation leaves the others of its queue alone`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pop = try libOS.pop(pair.client)
                let bytes = pattern(6 << 20)
                let push = try libOS.push(pair.client, libOS.buffer(bytes))
                #expect(try libOS.isPending(push))
                try libOS.cancel(pop)
                #expect(try libOS.receive(pair.server, exactly: bytes.count) == bytes)
                #expect(try libOS.outcome(push) == .pushed)
                #expect(try libOS.outcome(pop) == .failed(.canceled))
            }
        }
    }

    @Suite struct Closing {
        @Test(arguments: LibOSUnderTest.all)
        func `operations that are pending on a closed socket fail with ECANCELED and give their bytes back`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let bytes = pattern(6 << 20)
                let pops = try (0..<3).map { _ in try libOS.pop(pair.client) }
                let pushes = [try libOS.push(pair.client, libOS.buffer(bytes)), try libOS.push(pair.client, "more")]
                for token in pops + pushes { #expect(try libOS.isPending(token)) }
                try libOS.close(pair.client)
                for token in pops { #expect(try libOS.outcome(token) == .failed(.canceled)) }
                #expect(try libOS.outcome(pushes[0]) == .failed(.canceled, returned: bytes))
                #expect(try libOS.outcome(pushes[1]) == .failed(.canceled, returned: [UInt8]("more".utf8)))
                for token in pops + pushes { expect(.invalidArgument) { _ = try libOS.wait(token) } }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a listener and a UDP socket close with operations pending`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, _) = try libOS.listening(on: subject.address())
                let (datagram, _) = try libOS.datagramSocketBound(to: subject.address())
                let tokens = try (0..<3).flatMap { _ in [try libOS.accept(listener), try libOS.pop(datagram)] }
                for token in tokens { #expect(try libOS.isPending(token)) }
                try libOS.close(listener)
                try libOS.close(datagram)
                try libOS.waitAll(tokens, timeout: .patience) { #expect(OperationOutcome($0) == .failed(.canceled)) }
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.fullBacklogStalls) })
        func `a connect that is pending fails with its socket's close`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, connecting, _) = try libOS.stalledConnection(subject.address())
                #expect(try libOS.isPending(connecting))
                try libOS.close(client)
                #expect(try libOS.outcome(connecting) == .failed(.canceled))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a completion that nobody has waited for survives its queue`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pop = try libOS.pop(pair.server)
                try libOS.send(pair.client, "kept")
                while try libOS.isPending(pop) {}
                try libOS.close(pair.server)
                #expect(try libOS.outcome(pop) == .popped([UInt8]("kept".utf8)))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `descriptors are reused, the lowest first`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queues = try (0..<10).map { _ in try libOS.queue() }
                #expect(queues.map(\.rawValue) == Array(500..<510))
                for position in [7, 2, 5] { try libOS.close(queues[position]) }
                let again = [try libOS.socket(), try libOS.queue(), try libOS.socket(.ipv4, .datagram), try libOS.queue()]
                #expect(again.map(\.rawValue) == [502, 505, 507, 510])
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `what was the old socket's never reaches the one that has its descriptor now`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for round in 0..<30 {
                    let old = try libOS.pair(subject.address())
                    // Events of the old socket are on their way while it is closed: data, an end, a reset.
                    let pop = try libOS.pop(old.server)
                    #expect(try libOS.isPending(pop))
                    try libOS.send(old.client, "stale \(round)")
                    if round % 3 == 1 { try libOS.set(.linger, to: .zero, on: old.client) }
                    try libOS.close(old.server)
                    try libOS.close(old.client)
                    let fresh = try libOS.pair(subject.address())
                    let waiting = [try libOS.pop(fresh.server), try libOS.pop(fresh.client)]
                    #expect(try libOS.outcome(pop) == .failed(.canceled))
                    libOS.turn(5)
                    for token in waiting { #expect(try libOS.isPending(token)) }
                    try libOS.send(fresh.client, "fresh")
                    try libOS.send(fresh.server, "air")
                    #expect(try libOS.outcome(waiting[0]) == .popped([UInt8]("fresh".utf8)))
                    #expect(try libOS.outcome(waiting[1]) == .popped([UInt8]("air".utf8)))
                    try libOS.close(fresh.client)
                    try libOS.close(fresh.server)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a libOS that goes takes everything with it`(_ subject: LibOSUnderTest) async throws {
            let configuration = subject.configuration
            try await onOwnThread {
                for _ in 0..<3 {
                    let libOS = try LibOS(configuration)
                    let pair = try libOS.pair(subject.address())
                    _ = try libOS.pop(pair.server)
                    _ = try libOS.push(pair.client, libOS.buffer(pattern(6 << 20)))
                    _ = try libOS.push(libOS.queue(), "stored")
                    _ = try libOS.timer(after: .seconds(100))
                    _ = try libOS.accept(libOS.listening(on: subject.address()).0)
                }
            }
        }
    }
}
