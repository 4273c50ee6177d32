import Glibc
import SystemPackage
import Testing
@testable import Demikernel

// The async surface on the libOS's own thread: programs that end well.

extension PDPIXBehaviour {
    @Suite struct AsyncPrograms {
        @Test(arguments: LibOSUnderTest.all)
        func `run answers what its program answers and throws what it throws`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                #expect(try libOS.run { _ in 42 } == 42)
                expect(.permissionDenied) { try libOS.run { _ in throw DemikernelError(.permissionDenied, "no") } }
                // One after the other is allowed, one inside the other is not.
                let inner: Errno? = try libOS.run { libOS in
                    do {
                        try libOS.run { _ in }
                        return nil
                    } catch let error as DemikernelError {
                        return error.errno
                    }
                }
                #expect(inner == .deadlock)
                #expect(try libOS.run { _ in "again" } == "again")
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a listener's sequence serves a hundred connections, each in a task of its own`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let listener = try libOS.listener(on: subject.address())
                let served: Int = try libOS.run { libOS in
                    let here = Here(libOS)
                    async let serving = serve(listener)
                    try await withThrowingTaskGroup(of: Void.self) { clients in
                        for number in 0..<100 {
                            clients.addTask {
                                let connection = try await here.libOS.connection(to: listener.localAddress)
                                for round in 0..<5 {
                                    let text = "client \(number), round \(round)"
                                    try await connection.push(here.libOS.buffer(text))
                                    let isRight = try await connection.pop()?.contentsEqual(text) ?? false
                                    #expect(isRight)
                                }
                                try connection.close()
                            }
                        }
                        try await clients.waitForAll()
                    }
                    try listener.close()
                    return try await serving
                }
                #expect(served == 100)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a pop answers nil at the end of the stream, each time`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let (client, server) = try await connections(libOS, subject)
                    try await client.push(libOS.buffer("last"))
                    try client.shutdown(.send)
                    let isRight = try await server.pop()?.contentsEqual("last") ?? false
                    #expect(isRight)
                    for _ in 0..<3 {
                        let isEnd = try await server.pop() == nil
                        #expect(isEnd)
                    }
                    try await server.push(libOS.buffer("and back"))
                    let first = try await client.pop(limit: 4)?.decodedAsUTF8(), rest = try await client.pop()?.decodedAsUTF8()
                    #expect(first == "and " && rest == "back")
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `large pushes and pops overlap in two tasks`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let (client, server) = try await connections(libOS, subject)
                    async let received = drain(server)
                    var segments = ScatterGatherArray()
                    for _ in 0..<4 { _ = segments.append(try libOS.allocate(1 << 20)) }
                    try await client.push(segments)
                    try await client.push(libOS.allocate(3 << 20))
                    try client.shutdown(.send)
                    #expect(try await received == 7 << 20)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a push that is refused gives its buffer back in the error`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let (client, server) = try await connections(libOS, subject)
                    try client.shutdown(.send)
                    #expect(try await refusal(of: "too late", on: client, libOS) == .brokenPipe)
                    try server.close()
                    #expect(try await refusal(of: "closed", on: server, libOS) == .badFileDescriptor)
                    await expectAsync(.badFileDescriptor) { _ = try await server.pop() }
                    expect(.badFileDescriptor) { try server.close() }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a refused connection throws and leaves nothing open`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let (listener, address) = try libOS.listening(on: subject.address())
                    try libOS.close(listener)
                    for _ in 0..<3 { await expectAsync(.connectionRefused) { _ = try await libOS.connection(to: address) } }
                }
                let open = libOS.core.queues.count
                #expect(open == 0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `datagrams come with their sender`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let first = try libOS.datagramSocket(on: subject.address()), second = try libOS.datagramSocket(on: subject.address())
                    async let answer: Void = answerOne(second)
                    try await first.push(libOS.buffer("ping"), to: second.localAddress)
                    let datagram = try await first.pop()
                    let text = datagram.buffer.decodedAsUTF8()
                    #expect(text == "ping" && datagram.source == second.localAddress)
                    try await answer
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `sleeping tasks wake in the order of their times, while others run`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let here = Here(libOS)
                    // When each began and for how long it sleeps; and which of them woke, one after the other.
                    let began = Shared<[(time: UInt64, delay: UInt64)]>([])
                    let woken = Shared<[Int]>([])
                    let start = monotonicNanoseconds()
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        for delay in [12, 4, 8, 0] as [UInt64] {
                            group.addTask {
                                let number = began.withLock { list in
                                    list.append((monotonicNanoseconds(), delay * 1_000_000))
                                    return list.count - 1
                                }
                                try await here.libOS.sleep(for: .milliseconds(delay))
                                woken.withLock { $0.append(number) }
                            }
                        }
                        try await group.waitForAll()
                    }
                    let (starts, order) = (began.withLock { $0 }, woken.withLock { $0 })
                    #expect(order.count == 4)
                    // A machine that stands still while a task goes to sleep makes it due later: by the time at which the next one began at most.
                    for (earlier, later) in zip(order, order.dropFirst()) where later + 1 < starts.count {
                        #expect(starts[earlier].time + starts[earlier].delay <= starts[later + 1].time + starts[later].delay)
                    }
                    #expect(monotonicNanoseconds() - start >= 11_880_000)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `tasks come back to the libOS's thread from wherever they were`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let thread = pthread_self()
                try libOS.run { libOS in
                    #expect(pthread_self() == thread)
                    try await Task.sleep(for: .milliseconds(1))
                    #expect(pthread_self() == thread)
                    #expect(await Elsewhere().count() == 1)
                    #expect(pthread_self() == thread)
                    await Task.yield()
                    #expect(pthread_self() == thread)
                    #expect(await Task.detached { pthread_self() }.value != thread)
                    #expect(pthread_self() == thread)
                    // Resumed by another thread, again and again, while the libOS sleeps or spins.
                    let (stream, continuation) = AsyncStream.makeStream(of: Int.self)
                    let feeder = Task.detached {
                        for number in 0..<200 {
                            continuation.yield(number)
                            if number % 20 == 0 { sched_yield() }
                        }
                        continuation.finish()
                    }
                    var sum = 0
                    for await number in stream {
                        sum += number
                        if pthread_self() != thread { throw Unexpected(description: "another thread") }
                    }
                    await feeder.value
                    #expect(sum == 199 * 100)
                    await withTaskGroup(of: Bool.self) { group in
                        for _ in 0..<10 {
                            group.addTask {
                                for _ in 0..<10 { await Task.yield() }
                                return pthread_self() == thread
                            }
                        }
                        for await isHere in group { #expect(isHere) }
                    }
                    // The libOS still works after all that.
                    let (client, server) = try await connections(libOS, subject)
                    try await client.push(libOS.buffer("home"))
                    let isRight = try await server.pop()?.contentsEqual("home") ?? false
                    #expect(isRight)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a call from another thread is refused and harms nothing`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let (client, server) = try await connections(libOS, subject)
                    let listener = try libOS.listener(on: subject.address())
                    let buffer = Cage(try libOS.buffer("travels"))
                    let results: [Errno?] = await Task.detached {
                        var results = [
                            await errno { _ = try await client.pop() }, await errno { _ = try await listener.accept() },
                            await errno { try client.shutdown(.send) }, await errno { try client.close() }, await errno { try listener.close() },
                            await errno { try client.set(.noDelay, to: true) },
                        ]
                        do throws(PushError) {
                            try await client.push(buffer.take()!)
                            results.append(nil)
                        } catch {
                            let text = error.takeBuffers()?.copyToArray()
                            #expect(text == [UInt8]("travels".utf8))
                            results.append(error.reason.errno)
                        }
                        return results
                    }.value
                    #expect(results == Array(repeating: .notPermitted, count: 7))
                    try await client.push(libOS.buffer("unharmed"))
                    let isRight = try await server.pop()?.contentsEqual("unharmed") ?? false
                    #expect(isRight)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `dropping the last reference closes, on this thread or another`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    for isElsewhere in [false, true] {
                        var (client, server): (Connection?, Connection) = try await connections(libOS, subject)
                        if isElsewhere {
                            let cage = Shared<Connection?>(client)
                            client = nil
                            await Task.detached { cage.withLock { $0 = nil } }.value
                        }
                        client = nil
                        let isEnd = try await server.pop() == nil
                        #expect(isEnd)
                    }
                    var listener: Listener? = try libOS.listener(on: subject.address())
                    let address = listener!.localAddress
                    listener = nil
                    await expectAsync(.connectionRefused) { _ = try await libOS.connection(to: address) }
                }
            }
        }
    }
}

// MARK: - Helpers

private actor Elsewhere {
    private var calls = 0
    func count() -> Int {
        calls += 1
        return calls
    }
}

/// Lets child tasks use the libOS that they run on, to allocate and to sleep: they are on its thread, which the compiler cannot see.
struct Here: @unchecked Sendable {
    let libOS: LibOS
    init(_ libOS: LibOS) { self.libOS = libOS }
}

/// Counts what tasks have done.
final class Tally: Sendable {
    private let value = Lock(0)
    var count: Int { value.withLock { $0 } }
    func add() { value.withLock { $0 += 1 } }
}

/// Carries a buffer into a task.
final class Cage: Sendable {
    private let buffer: Lock<Buffer?>
    init(_ buffer: consuming Buffer) { self.buffer = Lock(.some(buffer)) }
    func take() -> Buffer? { buffer.withLock { $0.take() } }
}

/// Echoes on every connection that the listener accepts until it is closed; answers how many there were.
private func serve(_ listener: Listener) async throws -> Int {
    try await withThrowingTaskGroup(of: Void.self) { group in
        var count = 0
        for await connection in listener {
            count += 1
            group.addTask { while let buffer = try await connection.pop() { try await connection.push(buffer) } }
        }
        try await group.waitForAll()
        return count
    }
}

private func drain(_ connection: Connection) async throws -> Int {
    var count = 0
    while let buffer = try await connection.pop() { count += buffer.count }
    return count
}

private func answerOne(_ socket: DatagramSocket) async throws {
    let datagram = try await socket.pop()
    let source = datagram.source
    try await socket.push(datagram.buffer, to: source)
}

/// Both ends of a connection.
nonisolated(nonsending) func connections(_ libOS: LibOS, _ subject: LibOSUnderTest) async throws -> (client: Connection, server: Connection) {
    let listener = try libOS.listener(on: subject.address())
    // The kernel, or the stack, completes the handshake before the accept.
    let client = try await libOS.connection(to: listener.localAddress)
    let server = try await listener.accept()
    try listener.close()
    return (client, server)
}

/// Why a push is refused; its bytes have to come back.
private nonisolated(nonsending) func refusal(of text: String, on connection: Connection, _ libOS: LibOS) async throws -> Errno? {
    let buffer = try libOS.buffer(text)
    do throws(PushError) {
        try await connection.push(buffer)
        return nil
    } catch {
        let returned = error.takeBuffers()?.copyToArray()
        #expect(returned == [UInt8](text.utf8))
        return error.reason.errno
    }
}

/// The errno that a call ends with, of a ``DemikernelError`` or a ``PushError``; nil where it ends well.
nonisolated(nonsending) func errno(_ body: nonisolated(nonsending) () async throws -> Void) async -> Errno? {
    do {
        try await body()
        return nil
    } catch let error as DemikernelError {
        return error.errno
    } catch let error as PushError {
        return error.reason.errno
    } catch {
        return Errno(rawValue: -1)
    }
}

nonisolated(nonsending) func expectAsync(
    _ expected: Errno, at location: SourceLocation = #_sourceLocation, _ body: nonisolated(nonsending) () async throws -> Void
) async {
    let errno = await errno(body)
    #expect(errno == expected, sourceLocation: location)
}
