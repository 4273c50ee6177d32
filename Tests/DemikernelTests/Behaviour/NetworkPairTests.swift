import SystemPackage
import Testing
@testable import Demikernel

// Two libOSes of one process, each on a thread of its own, over a network without the kernel.

extension PDPIXBehaviour {
    @Suite struct NetworkPairs {
        /// Two libOSes that are each other's only neighbour, by name; the first is host 1.
        static let links: [(name: String, adjust: @Sendable (inout Configuration, Bool) -> Void)] = [
            ("catloop pair", { configuration, _ in
                configuration.libOS = "catloop"
                configuration.catloop.pair = "behaviour"
                configuration.network.addresses = []
            }),
            ("memif", { configuration, isServer in
                configuration.libOS = "catnip"
                configuration.memif.socket = "@demikernel-behaviour-pair"
                configuration.memif.role = isServer ? .server : .client
            }),
        ]

        private static func start(_ link: Int, isServer: Bool, isSleeping: Bool) throws -> LibOS {
            var configuration = Configuration()
            configuration.heap.limit = 128 << 20
            configuration.heap.lockPages = false
            configuration.operations.capacity = 4_096
            configuration.descriptors.capacity = 256
            configuration.wait.spin = isSleeping ? .atMost(.zero) : .atMost(.microseconds(50))
            links[link].adjust(&configuration, isServer)
            return try LibOS(configuration)
        }

        @Test(arguments: [0, 1], [true, false])
        func `a libOS that ends brings what was pushed to its peer, then the end of the stream`(_ link: Int, isSleeping: Bool) async throws {
            let meeting = Meeting(2)
            let server = SocketAddress.ipv4(0x0a75_0001, port: 7)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    try await onOwnThread {
                        let libOS = try Self.start(link, isServer: true, isSleeping: isSleeping)
                        let (listener, _) = try libOS.listening(on: server)
                        _ = meeting.exchange(server, from: 0)
                        guard case .accepted(let connection) = try libOS.outcome(libOS.accept(listener)) else { throw Unexpected(description: "accept failed") }
                        var count = 0
                        while true {
                            let bytes = try libOS.receive(connection)
                            if bytes.isEmpty { break }
                            count += bytes.count
                        }
                        #expect(count == 400_000)
                    }
                }
                group.addTask {
                    try await onOwnThread {
                        _ = meeting.exchange(server, from: 1)
                        let libOS = try Self.start(link, isServer: false, isSleeping: isSleeping)
                        let client = try libOS.socket()
                        #expect(try libOS.outcome(libOS.connect(client, to: server)) == .connected)
                        for _ in 0..<10 { #expect(try libOS.outcome(libOS.push(client, libOS.buffer(pattern(40_000)))) == .pushed) }
                        // Nothing is waited for: the libOS ends here.
                    }
                }
                try await group.waitForAll()
            }
        }

        @Test(arguments: [0, 1], [true, false])
        func `two libOSes exchange a stream and datagrams`(_ link: Int, isSleeping: Bool) async throws {
            let meeting = Meeting(2)
            let isDone = Shared<Bool>(false)
            let start: @Sendable (Bool) throws -> LibOS = { try Self.start(link, isServer: $0, isSleeping: isSleeping) }
            let server = SocketAddress.ipv4(0x0a75_0001, port: 7)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    try await onOwnThread {
                        let libOS = try start(true)
                        let (listener, _) = try libOS.listening(on: server)
                        let (datagram, _) = try libOS.datagramSocketBound(to: server)
                        _ = meeting.exchange(server, from: 0)
                        guard case .accepted(let connection) = try libOS.outcome(libOS.accept(listener)) else { throw Unexpected(description: "accept failed") }
                        // A stream comes back as it came, until it ends; then one datagram does.
                        while true {
                            let bytes = try libOS.receive(connection)
                            if bytes.isEmpty { break }
                            try libOS.send(connection, bytes)
                        }
                        guard case .datagram(let bytes, let client) = try libOS.outcome(libOS.pop(datagram)) else { throw Unexpected(description: "no datagram") }
                        try libOS.send(datagram, bytes, to: client)
                        // Until the other end has everything: with this libOS goes what is under way.
                        while !isDone.withLock({ $0 }) { libOS.turn(1) }
                    }
                }
                group.addTask {
                    try await onOwnThread {
                        // After the server, so that it is host 2.
                        _ = meeting.exchange(server, from: 1)
                        defer { isDone.withLock { $0 = true } }
                        let libOS = try start(false)
                        let client = try libOS.socket()
                        #expect(try libOS.outcome(libOS.connect(client, to: server)) == .connected)
                        let bytes = pattern(300_000)
                        let push = try libOS.push(client, libOS.buffer(bytes))
                        #expect(try libOS.receive(client, exactly: bytes.count) == bytes)
                        #expect(try libOS.outcome(push) == .pushed)
                        try libOS.shutdown(client, .send)
                        let (datagram, _) = try libOS.datagramSocketBound(to: .ipv4(0x0a75_0002, port: 0))
                        try libOS.send(datagram, "datagram", to: server)
                        #expect(try libOS.receiveText(datagram) == "datagram")
                        try libOS.close(client)
                        let statistics = try #require(libOS.networkStatistics)
                        #expect(statistics.device.receivedFrames > 0 && statistics["tcp", "segmentsReceived"] ?? 0 > 0)
                    }
                }
                try await group.waitForAll()
            }
        }
    }
}
