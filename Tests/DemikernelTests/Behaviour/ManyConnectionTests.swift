import Glibc
import SystemPackage
import Testing
@testable import Demikernel

// Many connections in one libOS: all served, all alike.

extension PDPIXBehaviour {
    @Suite struct ManyConnections {
        @Test(arguments: LibOSUnderTest.all)
        func `a thousand connections echo through one waitAny`(_ subject: LibOSUnderTest) async throws {
            raiseFileLimit(to: 4_000)
            try await subject.run { libOS in
                let (listener, _) = try libOS.listening(on: subject.address(), backlog: 1_024)
                let pairs = try (0..<1_000).map { _ in try libOS.connected(to: listener) }
                var echo = Echo(servers: pairs.map(\.server))
                for pair in pairs { try echo.listen(to: pair.server, in: libOS) }
                for round in 0..<2 {
                    for (position, pair) in pairs.enumerated() { try libOS.send(pair.client, "connection \(position), round \(round)") }
                    for _ in pairs { try echo.step(libOS) }
                    for (position, pair) in pairs.enumerated() {
                        #expect(try libOS.receiveText(pair.client) == "connection \(position), round \(round)")
                    }
                }
                #expect(echo.served.values.allSatisfy { $0 == 2 } && echo.served.count == 1_000)
                libOS.expectLiveObjects(0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `busy connections are served alike`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, _) = try libOS.listening(on: subject.address())
                let pairs = try (0..<32).map { _ in try libOS.connected(to: listener) }
                var echo = Echo(servers: pairs.map(\.server))
                for pair in pairs { try echo.listen(to: pair.server, in: libOS) }
                // Every connection always has a message under way: the client answers each echo with the next.
                var clients: [QueueDescriptor: Int] = [:]
                for (position, pair) in pairs.enumerated() {
                    clients[pair.client] = position
                    try libOS.send(pair.client, "busy")
                    echo.tokens.append(try libOS.pop(pair.client))
                }
                for _ in 0..<6_400 {
                    try echo.step(libOS) { client, libOS in
                        guard clients[client] != nil else { return false }
                        try libOS.send(client, "busy")
                        return true
                    }
                }
                let counts = pairs.map { echo.served[$0.server] ?? 0 }
                #expect(counts.min()! > 0 && counts.max()! <= 2 * counts.min()!, "\(counts)")
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `connections that come and go leave nothing behind`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, _) = try libOS.listening(on: subject.address())
                for round in 0..<300 {
                    let pair = try libOS.connected(to: listener)
                    #expect(Set([pair.client.rawValue, pair.server.rawValue]) == [501, 502])
                    try libOS.send(pair.client, "\(round)")
                    #expect(try libOS.receiveText(pair.server) == "\(round)")
                    try libOS.close(round % 2 == 0 ? pair.client : pair.server)
                    #expect(try libOS.receive(round % 2 == 0 ? pair.server : pair.client) == [])
                    try libOS.close(round % 2 == 0 ? pair.server : pair.client)
                }
                libOS.expectLiveObjects(0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `many connections wait for accept, and all get in`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, address) = try libOS.listening(on: subject.address(), backlog: 200)
                let clients = try (0..<150).map { _ in try libOS.socket() }
                try libOS.waitAll(try clients.map { try libOS.connect($0, to: address) }, timeout: .patience) {
                    #expect(OperationOutcome($0) == .connected)
                }
                let accepts = try clients.map { _ in try libOS.accept(listener) }
                var peers: Set<SocketAddress> = []
                var servers: [QueueDescriptor] = []
                try libOS.waitAll(accepts, timeout: .patience) { completion in
                    if case .accepted(let server) = OperationOutcome(completion) { servers.append(server) }
                }
                for server in servers { peers.insert(try libOS.remoteAddress(of: server)) }
                #expect(peers == Set(try clients.map { try libOS.localAddress(of: $0) }))
            }
        }
    }
}

/// An echo server in the manner of PDPIX programs: one array of tokens, of which the completed one is replaced.
private struct Echo {
    let servers: Set<QueueDescriptor>
    var tokens: [QToken] = []
    var served: [QueueDescriptor: Int] = [:]

    init(servers: [QueueDescriptor]) { self.servers = Set(servers) }

    mutating func listen(to server: QueueDescriptor, in libOS: LibOS) throws { tokens.append(try libOS.pop(server)) }

    /// Serves one completion; `other` takes those of no server of ours.
    mutating func step(_ libOS: LibOS, other: (QueueDescriptor, LibOS) throws -> Bool = { _, _ in false }) throws {
        let completion = try libOS.waitAny(tokens, timeout: .patience)
        let (offset, descriptor) = (completion.offset, completion.descriptor)
        if servers.contains(descriptor) {
            let push = try libOS.push(descriptor, try completion.popped())
            served[descriptor, default: 0] += 1
            guard try libOS.outcome(push) == .pushed else { throw Unexpected(description: "the echo was not pushed") }
        } else {
            guard try other(descriptor, libOS) else { throw Unexpected(description: "a completion of \(descriptor)") }
        }
        tokens[offset] = try libOS.pop(descriptor)
    }
}

/// Lets this process have that many descriptors, where its hard limit allows it.
func raiseFileLimit(to count: Int) {
    var limit = rlimit()
    unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    guard limit.rlim_cur < rlim_t(count) else { return }
    limit.rlim_cur = min(rlim_t(count), limit.rlim_max)
    unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}
