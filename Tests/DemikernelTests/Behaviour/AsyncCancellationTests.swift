import SystemPackage
import Testing
@testable import Demikernel

// Cancelling tasks that await: promptly, without losing memory and without harm to the connection.

extension PDPIXBehaviour {
    @Suite struct AsyncCancellation {
        @Test(arguments: LibOSUnderTest.all)
        func `cancelling a group ends blocked pops, accepts and sleeps`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let here = Here(libOS)
                    let (client, server) = try await connections(libOS, subject)
                    let listener = try libOS.listener(on: subject.address())
                    let datagram = try libOS.datagramSocket(on: subject.address())
                    let endings = await withTaskGroup(of: Errno?.self) { group in
                        group.addTask { await errno { _ = try await server.pop() } }
                        group.addTask { await errno { _ = try await server.pop(limit: 1) } }
                        group.addTask { await errno { _ = try await listener.accept() } }
                        group.addTask { await errno { _ = try await datagram.pop() } }
                        group.addTask { await errno { try await here.libOS.sleep(for: .seconds(1_000)) } }
                        try? await libOS.sleep(for: .milliseconds(1))
                        group.cancelAll()
                        var endings: [Errno?] = []
                        for await ending in group { endings.append(ending) }
                        return endings
                    }
                    #expect(endings == Array(repeating: .canceled, count: 5))
                    // Not a byte is lost, no connection dropped.
                    try await client.push(libOS.buffer("afterwards"))
                    let isRight = try await server.pop()?.contentsEqual("afterwards") ?? false
                    #expect(isRight)
                    let second = try await libOS.connection(to: listener.localAddress)
                    _ = try await listener.accept()
                    try second.close()
                }
                let pending = libOS.core.operations.count
                #expect(pending == 0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a task that is cancelled before it awaits ends at once`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let here = Here(libOS)
                    let (client, server) = try await connections(libOS, subject)
                    let endings = await withTaskGroup(of: Errno?.self) { group in
                        group.cancelAll()
                        group.addTask { await errno { _ = try await server.pop() } }
                        group.addTask { await errno { try await here.libOS.sleep(for: .seconds(1_000)) } }
                        var endings: [Errno?] = []
                        for await ending in group { endings.append(ending) }
                        return endings
                    }
                    #expect(endings == [.canceled, .canceled])
                    try await client.push(libOS.buffer("unharmed"))
                    let isRight = try await server.pop()?.contentsEqual("unharmed") ?? false
                    #expect(isRight)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a cancelled listener's sequence ends`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let listener = try libOS.listener(on: subject.address())
                    let accepted = Tally()
                    await withTaskGroup(of: Void.self) { group in
                        group.addTask { for await _ in listener { accepted.add() } }
                        _ = try? await libOS.connection(to: listener.localAddress)
                        // The last segment of the handshake may still be on its way.
                        for _ in 0..<10_000 where accepted.count == 0 { try? await libOS.sleep(for: .milliseconds(1)) }
                        group.cancelAll()
                        await group.next()
                    }
                    #expect(accepted.count == 1)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a push that waits its turn gives its buffer back when it is cancelled`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let here = Here(libOS)
                    let (client, server) = try await connections(libOS, subject)
                    let filler = try libOS.push(client.descriptor, libOS.allocate(8 << 20))
                    let returned: [UInt8]? = await withTaskGroup(of: [UInt8]?.self) { group in
                        group.addTask {
                            do throws(PushError) {
                                try await client.push(try! here.libOS.buffer("not sent"))
                                return nil
                            } catch {
                                return error.takeBuffers()?.copyToArray()
                            }
                        }
                        try? await libOS.sleep(for: .milliseconds(1))
                        group.cancelAll()
                        return await group.next() ?? nil
                    }
                    #expect(returned == [UInt8]("not sent".utf8))
                    var count = 0
                    while count < 8 << 20, let buffer = try await server.pop() { count += buffer.count }
                    try await libOS.completion(of: filler).get()
                    try client.close()
                    let isEnd = try await server.pop() == nil
                    #expect(isEnd && count == 8 << 20)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a push of which a part has gone goes on without the task that was cancelled`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let here = Here(libOS)
                    let (client, server) = try await connections(libOS, subject)
                    let ending: Errno?? = await withTaskGroup(of: Errno?.self) { group in
                        group.addTask { await errno { try await client.push(here.libOS.allocate(8 << 20)) } }
                        try? await libOS.sleep(for: .milliseconds(1))
                        // Nobody reads: only the cancellation ends the wait.
                        group.cancelAll()
                        return await group.next()
                    }
                    #expect(ending == .some(.canceled))
                    // The stream is whole, and what is pushed afterwards comes behind.
                    async let pushed: Void = client.push(here.libOS.buffer("behind"))
                    var count = 0
                    while count < 8 << 20, let buffer = try await server.pop(limit: (8 << 20) - count) { count += buffer.count }
                    #expect(count == 8 << 20)
                    let isBehind = try await server.pop()?.contentsEqual("behind") ?? false
                    #expect(isBehind)
                    try await pushed
                }
                libOS.expectLiveObjects(0)
                let pending = libOS.core.operations.count
                #expect(pending == 0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a connection whose abandoned push never ends closes all the same`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let here = Here(libOS)
                    let (client, server) = try await connections(libOS, subject)
                    await withTaskGroup(of: Errno?.self) { group in
                        group.addTask { await errno { try await client.push(here.libOS.allocate(8 << 20)) } }
                        try? await libOS.sleep(for: .milliseconds(1))
                        group.cancelAll()
                        await group.waitForAll()
                    }
                    try client.close()
                    var count = 0
                    do { while let buffer = try await server.pop() { count += buffer.count } } catch {}
                    #expect(count < 8 << 20)
                }
                libOS.expectLiveObjects(0)
                let pending = libOS.core.operations.count
                #expect(pending == 0)
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.fullBacklogStalls) })
        func `a connect that is cancelled closes its socket`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, connecting, listener) = try libOS.stalledConnection(subject.address())
                let address = try libOS.localAddress(of: listener)
                let open = libOS.core.queues.count
                try libOS.run { libOS in
                    let here = Here(libOS)
                    let ending: Errno?? = await withTaskGroup(of: Errno?.self) { group in
                        group.addTask { await errno { _ = try await here.libOS.connection(to: address) } }
                        try? await libOS.sleep(for: .milliseconds(1))
                        group.cancelAll()
                        return await group.next()
                    }
                    #expect(ending == .some(.canceled))
                }
                let after = libOS.core.queues.count
                #expect(after == open)
                #expect(try libOS.isPending(connecting))
                try libOS.close(client)
                #expect(try libOS.outcome(connecting) == .failed(.canceled))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `closing a connection ends the pops of other tasks, and closing a listener its sequence`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let (client, server) = try await connections(libOS, subject)
                    let listener = try libOS.listener(on: subject.address())
                    async let popping = errno { _ = try await server.pop() }
                    async let iterating: Int = count(listener)
                    try await libOS.sleep(for: .milliseconds(1))
                    try server.close()
                    try listener.close()
                    #expect(await popping == .canceled)
                    #expect(await iterating == 0)
                    await expectAsync(.badFileDescriptor) { _ = try await server.pop() }
                    await expectAsync(.badFileDescriptor) { _ = try await listener.accept() }
                    let isEnd = try await client.pop() == nil
                    #expect(isEnd)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a closed connection's successor under the same descriptor is not touched`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let (old, peer) = try await connections(libOS, subject)
                    try old.close()
                    let (client, server) = try await connections(libOS, subject)
                    #expect([client.descriptor, server.descriptor].contains(old.descriptor) || client.descriptor.rawValue < old.descriptor.rawValue)
                    await expectAsync(.badFileDescriptor) { _ = try await old.pop() }
                    expect(.badFileDescriptor) { try old.close() }
                    try await client.push(libOS.buffer("mine"))
                    let isRight = try await server.pop()?.contentsEqual("mine") ?? false
                    #expect(isRight)
                    try peer.close()
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `cancelling from another thread, at any moment, neither hangs nor leaks`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                try libOS.run { libOS in
                    let (client, server) = try await connections(libOS, subject)
                    var delivered = 0
                    for round in 0..<100 {
                        let pop = Task { try? await server.pop() != nil }
                        let canceller = Task.detached { pop.cancel() }
                        // The data and the cancellation race: either the pop has it or the next one.
                        try await client.push(libOS.buffer([UInt8(round)]))
                        await canceller.value
                        if await pop.value == true { delivered += 1 } else {
                            let isRight = try await server.pop()?.contentsEqual([UInt8(round)]) ?? false
                            #expect(isRight)
                            delivered += 1
                        }
                    }
                    #expect(delivered == 100)
                }
                let pending = libOS.core.operations.count
                #expect(pending == 0)
            }
        }
    }
}

private func count(_ listener: Listener) async -> Int {
    var count = 0
    for await _ in listener { count += 1 }
    return count
}
