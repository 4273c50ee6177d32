import SystemPackage
import Testing
@testable import Demikernel

// The control path: every call that makes, names, connects and ends sockets, with good and bad arguments.

extension PDPIXBehaviour {
    @Suite struct SocketCalls {
        @Test(arguments: LibOSUnderTest.all)
        func `sockets of either family and type open, and descriptors start at 500`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                var expected: Int32 = 500
                for family in subject.families {
                    for type in [SocketType.stream, .datagram] {
                        let descriptor = try libOS.socket(family, type)
                        #expect(descriptor.rawValue == expected)
                        expected += 1
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `every call answers EBADF for a descriptor that is not open`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let closed = try libOS.socket()
                try libOS.close(closed)
                let numbers: [Int32] = [.min, -1, 0, 3, 499, closed.rawValue, 501, 65_535, .max]
                for descriptor in numbers.map(QueueDescriptor.init(rawValue:)) {
                    expect(.badFileDescriptor) { try libOS.bind(descriptor, to: subject.address()) }
                    expect(.badFileDescriptor) { try libOS.listen(descriptor) }
                    expect(.badFileDescriptor) { _ = try libOS.accept(descriptor) }
                    expect(.badFileDescriptor) { _ = try libOS.connect(descriptor, to: subject.address(port: 7)) }
                    expect(.badFileDescriptor) { try libOS.close(descriptor) }
                    expect(.badFileDescriptor) { try libOS.shutdown(descriptor, .both) }
                    expect(.badFileDescriptor) { _ = try libOS.localAddress(of: descriptor) }
                    expect(.badFileDescriptor) { _ = try libOS.remoteAddress(of: descriptor) }
                    expect(.badFileDescriptor) { _ = try libOS.pop(descriptor) }
                    expect(.badFileDescriptor) { try libOS.set(.noDelay, to: true, on: descriptor) }
                    expect(.badFileDescriptor) { _ = try libOS.value(of: .linger, on: descriptor) }
                    expect(.badFileDescriptor) { try libOS.seek(descriptor, to: 0) }
                    expect(.badFileDescriptor) { try libOS.truncate(descriptor, to: 0) }
                    #expect(try libOS.refusal(of: [1], on: descriptor) == .badFileDescriptor)
                    #expect(try libOS.refusal(of: [1], on: descriptor, to: subject.address(port: 7)) == .badFileDescriptor)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `socket calls on a memory queue answer ENOTSOCK, file calls on what is no file ESPIPE`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queue = try libOS.queue()
                expect(.notSocket) { try libOS.bind(queue, to: subject.address()) }
                expect(.notSocket) { try libOS.listen(queue) }
                expect(.notSocket) { _ = try libOS.accept(queue) }
                expect(.notSocket) { _ = try libOS.connect(queue, to: subject.address(port: 7)) }
                expect(.notSocket) { try libOS.shutdown(queue, .send) }
                expect(.notSocket) { _ = try libOS.localAddress(of: queue) }
                expect(.notSocket) { _ = try libOS.remoteAddress(of: queue) }
                expect(.notSocket) { try libOS.set(.keepAlive, to: true, on: queue) }
                for descriptor in [queue, try libOS.socket(), try libOS.socket(.ipv4, .datagram)] {
                    expect(.illegalSeek) { try libOS.seek(descriptor, to: 0) }
                    expect(.illegalSeek) { try libOS.truncate(descriptor, to: 0) }
                }
            }
        }

        // MARK: bind

        @Test(arguments: LibOSUnderTest.all)
        func `bind takes the wildcard address and port 0, and the system's choice is to be seen`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    for type in [SocketType.stream, .datagram] {
                        let wildcard = try libOS.socket(family, type)
                        try libOS.bind(wildcard, to: .any(family, port: 0))
                        let address = try libOS.localAddress(of: wildcard)
                        #expect(address.isAny && address.port != 0 && address.family == family)
                        let local = try libOS.socket(family, type)
                        try libOS.bind(local, to: subject.address(family))
                        let port = try libOS.localAddress(of: local).port
                        #expect(port != 0)
                        #expect(try libOS.localAddress(of: local) == subject.address(family, port: port))
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `bind refuses a second address, another family and an address that is not local`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for type in [SocketType.stream, .datagram] {
                    let socket = try libOS.socket(.ipv4, type)
                    expect(.addressFamilyNotSupported) { try libOS.bind(socket, to: .loopback(.ipv6, port: 0)) }
                    for _ in 0..<2 { expect(.addressNotAvailable) { try libOS.bind(socket, to: subject.foreignAddress()) } }
                    try libOS.bind(socket, to: subject.address())
                    expect(.invalidArgument) { try libOS.bind(socket, to: subject.address()) }
                }
                let pair = try libOS.pair(subject.address())
                expect(.invalidArgument) { try libOS.bind(pair.client, to: subject.address()) }
                expect(.invalidArgument) { try libOS.bind(pair.server, to: subject.address()) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `an address has one holder, whether it listens or not`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let (listener, used) = try libOS.listening(on: subject.address(family))
                    let bound = try libOS.socket(family)
                    try libOS.bind(bound, to: subject.address(family))
                    let reserved = try libOS.localAddress(of: bound)
                    let (_, taken) = try libOS.datagramSocketBound(to: subject.address(family))
                    let stream = try libOS.socket(family), datagram = try libOS.socket(family, .datagram)
                    for _ in 0..<2 {
                        expect(.addressInUse) { try libOS.bind(stream, to: used) }
                        expect(.addressInUse) { try libOS.bind(stream, to: reserved) }
                        expect(.addressInUse) { try libOS.bind(datagram, to: taken) }
                    }
                    // The refused sockets are as good as new, and the address is free with its holder's end.
                    try libOS.close(listener)
                    try libOS.bind(stream, to: used)
                    try libOS.bind(datagram, to: subject.address(family))
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a socket whose bind was refused does not share the next address it gets`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let first = try libOS.socket(), second = try libOS.socket(), third = try libOS.socket()
                try libOS.bind(first, to: subject.address())
                let reserved = try libOS.localAddress(of: first)
                expect(.addressInUse) { try libOS.bind(second, to: reserved) }
                try libOS.bind(second, to: subject.address())
                let other = try libOS.localAddress(of: second)
                expect(.addressInUse) { try libOS.bind(third, to: other) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a server restarts on its port while old connections linger in the network`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, address) = try libOS.listening(on: subject.address())
                let pair = try libOS.connected(to: listener)
                // The server's side closes first, so its port keeps the TIME-WAIT state (RFC 9293, section 3.6).
                try libOS.close(pair.server)
                #expect(try libOS.receive(pair.client) == [])
                try libOS.close(pair.client)
                try libOS.close(listener)
                let again = try libOS.socket()
                try libOS.bind(again, to: address)
                let intruder = try libOS.socket()
                expect(.addressInUse) { try libOS.bind(intruder, to: address) }
                try libOS.listen(again)
                _ = try libOS.connected(to: again)
            }
        }

        // MARK: listen and accept

        @Test(arguments: LibOSUnderTest.all)
        func `listen names what is wrong`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let socket = try libOS.socket()
                expect(.addressRequired) { try libOS.listen(socket) }
                try libOS.bind(socket, to: subject.address())
                for backlog in [0, -1, Int.min] { expect(.invalidArgument) { try libOS.listen(socket, backlog: backlog) } }
                try libOS.listen(socket, backlog: .max)
                expect(.invalidArgument) { try libOS.listen(socket) }
                let pair = try libOS.connected(to: socket)
                expect(.socketIsConnected) { try libOS.listen(pair.client) }
                expect(.socketIsConnected) { try libOS.listen(pair.server) }
                let (datagram, _) = try libOS.datagramSocketBound(to: subject.address())
                expect(.notSupportedOnSocket) { try libOS.listen(datagram) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `accept on a socket that does not listen answers EINVAL`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let bound = try libOS.socket()
                try libOS.bind(bound, to: subject.address())
                let pair = try libOS.pair(subject.address())
                let others = [try libOS.socket(), bound, pair.client, pair.server, try libOS.socket(.ipv4, .datagram)]
                for socket in others { expect(.invalidArgument) { _ = try libOS.accept(socket) } }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a listener takes no data and ends no direction`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, _) = try libOS.listening(on: subject.address())
                #expect(try libOS.refusal(of: [1], on: listener) == .socketNotConnected)
                expect(.socketNotConnected) { _ = try libOS.pop(listener) }
                expect(.socketNotConnected) { try libOS.shutdown(listener, .both) }
                expect(.socketNotConnected) { _ = try libOS.remoteAddress(of: listener) }
            }
        }

        // MARK: connect

        @Test(arguments: LibOSUnderTest.all)
        func `connect names what is wrong`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, address) = try libOS.listening(on: subject.address())
                expect(.notSupportedOnSocket) { _ = try libOS.connect(listener, to: address) }
                let socket = try libOS.socket()
                expect(.addressFamilyNotSupported) { _ = try libOS.connect(socket, to: .loopback(.ipv6, port: address.port)) }
                let pair = try libOS.connected(to: listener)
                expect(.socketIsConnected) { _ = try libOS.connect(pair.client, to: address) }
                expect(.socketIsConnected) { _ = try libOS.connect(pair.server, to: address) }
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.fullBacklogStalls) })
        func `a socket that is still connecting answers EINPROGRESS`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, connecting, _) = try libOS.stalledConnection(subject.address())
                #expect(try libOS.isPending(connecting))
                expect(.nowInProgress) { _ = try libOS.connect(client, to: subject.address(port: 7)) }
                expect(.nowInProgress) { try libOS.listen(client) }
                expect(.nowInProgress) { _ = try libOS.pop(client) }
                #expect(try libOS.refusal(of: [1], on: client) == .nowInProgress)
                expect(.timedOut) { _ = try libOS.wait(connecting, timeout: .zero) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a refused connection is a completion with ECONNREFUSED, and the socket can try again`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let (listener, address) = try libOS.listening(on: subject.address(family))
                    try libOS.close(listener)
                    let client = try libOS.socket(family)
                    for _ in 0..<3 { #expect(try libOS.outcome(libOS.connect(client, to: address)) == .failed(.connectionRefused)) }
                    expect(.socketNotConnected) { _ = try libOS.pop(client) }
                    let (next, _) = try libOS.listening(on: address)
                    let accepting = try libOS.accept(next)
                    #expect(try libOS.outcome(libOS.connect(client, to: address)) == .connected)
                    guard case .accepted(let server) = try libOS.outcome(accepting) else { throw Unexpected(description: "accept failed") }
                    try libOS.send(client, "again")
                    #expect(try libOS.receiveText(server) == "again")
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a bound socket keeps its address through a refused connection`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (listener, closedPort) = try libOS.listening(on: subject.address())
                try libOS.close(listener)
                let socket = try libOS.socket()
                try libOS.bind(socket, to: subject.address())
                let address = try libOS.localAddress(of: socket)
                #expect(try libOS.outcome(libOS.connect(socket, to: closedPort)) == .failed(.connectionRefused))
                #expect(try libOS.localAddress(of: socket) == address)
                expect(.invalidArgument) { try libOS.bind(socket, to: subject.address()) }
                try libOS.listen(socket)
            }
        }

        // MARK: addresses, close, shutdown

        @Test(arguments: LibOSUnderTest.all)
        func `both ends of a connection agree on its addresses`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let (listener, address) = try libOS.listening(on: subject.address(family))
                    let client = try libOS.socket(family)
                    expect(.socketNotConnected) { _ = try libOS.remoteAddress(of: client) }
                    let accepting = try libOS.accept(listener)
                    #expect(try libOS.outcome(libOS.connect(client, to: address)) == .connected)
                    let completion = try libOS.wait(accepting, timeout: .patience)
                    #expect(completion.descriptor == listener)
                    guard case .accepted(let server, let from) = completion.take() else { throw Unexpected(description: "accept failed") }
                    #expect(try libOS.localAddress(of: client) == from)
                    #expect(try libOS.remoteAddress(of: server) == from)
                    #expect(try libOS.remoteAddress(of: client) == address)
                    #expect(try libOS.localAddress(of: server) == address)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a second close answers EBADF`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let (listener, _) = try libOS.listening(on: subject.address())
                for descriptor in [pair.client, pair.server, listener, try libOS.queue(), try libOS.socket(.ipv4, .datagram)] {
                    try libOS.close(descriptor)
                    expect(.badFileDescriptor) { try libOS.close(descriptor) }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `shutdown needs a connection`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (datagram, _) = try libOS.datagramSocketBound(to: subject.address())
                for socket in [try libOS.socket(), datagram] {
                    for direction in [ShutdownDirection.receive, .send, .both] {
                        expect(.socketNotConnected) { try libOS.shutdown(socket, direction) }
                    }
                }
            }
        }

        // MARK: push and pop

        @Test(arguments: LibOSUnderTest.all)
        func `push and pop on a socket without a peer answer ENOTCONN`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let bound = try libOS.socket()
                try libOS.bind(bound, to: subject.address())
                for socket in [try libOS.socket(), bound] {
                    #expect(try libOS.refusal(of: [1, 2, 3], on: socket) == .socketNotConnected)
                    expect(.socketNotConnected) { _ = try libOS.pop(socket) }
                }
                let datagram = try libOS.socket(.ipv4, .datagram)
                expect(.socketNotConnected) { _ = try libOS.pop(datagram) }
                #expect(try libOS.refusal(of: [1], on: datagram) == .addressRequired)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a push without bytes and a pop without room answer EINVAL`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let (datagram, address) = try libOS.datagramSocketBound(to: subject.address())
                for descriptor in [pair.client, datagram, try libOS.queue()] {
                    let target = descriptor == datagram ? address : nil
                    #expect(try libOS.refusal(of: [], on: descriptor, to: target) == .invalidArgument)
                    for limit in [0, -1, Int.min] { expect(.invalidArgument) { _ = try libOS.pop(descriptor, limit: limit) } }
                }
                let isRefused = (try? libOS.push(pair.client, ScatterGatherArray())) == nil
                #expect(isRefused)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `only datagrams have an address of their own`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let address = subject.address(port: 7)
                #expect(try libOS.refusal(of: [1], on: pair.client, to: address) == .notSupportedOnSocket)
                #expect(try libOS.refusal(of: [1], on: libOS.queue(), to: address) == .notSupportedOnSocket)
                let datagram = try libOS.socket(.ipv4, .datagram)
                #expect(try libOS.refusal(of: [1], on: datagram, to: .loopback(.ipv6, port: 7)) == .addressFamilyNotSupported)
            }
        }
    }
}
