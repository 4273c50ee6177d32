import Glibc
import SystemPackage
import Testing
@testable import Demikernel

// One libOS for each thread, and several of them side by side; a process without file descriptors.

extension PDPIXBehaviour {
    @Suite struct Threads {
        @Test(arguments: LibOSUnderTest.all)
        func `a thread has one libOS at a time`(_ subject: LibOSUnderTest) async throws {
            let configuration = subject.configuration
            try await onOwnThread {
                for _ in 0..<3 {
                    let first = try LibOS(configuration)
                    for _ in 0..<2 { expect(.fileExists) { _ = try LibOS(configuration) } }
                    // The refused one has taken nothing from the first.
                    let pair = try first.pair(subject.address())
                    try first.send(pair.client, "still here")
                    #expect(try first.receiveText(pair.server) == "still here")
                    try first.expectNothingLeft()
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.sharedNetwork) })
        func `libOSes on several threads talk to each other`(_ subject: LibOSUnderTest) async throws {
            let count = 4
            let meeting = Meeting(count)
            // Each is the server of its left neighbour and the client of its right one.
            let talk: @Sendable (Int) async throws -> Void = { number in
                try await subject.run { libOS in
                    let (listener, address) = try libOS.listening(on: subject.address())
                    let addresses = meeting.exchange(address, from: number)
                    let client = try libOS.socket()
                    let accepting = try libOS.accept(listener)
                    let connecting = try libOS.connect(client, to: addresses[(number + 1) % count])
                    guard case .accepted(let server) = try libOS.outcome(accepting) else { throw Unexpected(description: "accept failed") }
                    #expect(try libOS.outcome(connecting) == .connected)
                    var tokens = [try libOS.pop(server), try libOS.pop(client)]
                    try libOS.send(client, "0")
                    // Until the client has had its answers and the neighbour has hung up.
                    var answers = 0, isOpen = true
                    while isOpen || answers < 50 {
                        let completion = try libOS.waitAny(tokens, timeout: .patience)
                        let (offset, descriptor) = (completion.offset, completion.descriptor)
                        guard case .popped(let bytes) = OperationOutcome(completion) else { throw Unexpected(description: "pop failed") }
                        if descriptor == server {
                            if bytes.isEmpty {
                                isOpen = false
                                tokens.remove(at: offset)
                                continue
                            }
                            try libOS.send(server, bytes)
                        } else {
                            #expect(String(decoding: bytes, as: UTF8.self) == "\(answers)")
                            answers += 1
                            if answers == 50 {
                                try libOS.shutdown(client, .send)
                                tokens.remove(at: offset)
                                continue
                            }
                            try libOS.send(client, "\(answers)")
                        }
                        tokens[offset] = try libOS.pop(descriptor)
                    }
                }
            }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<count { group.addTask { try await talk(number) } }
                try await group.waitForAll()
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a waker wakes its libOS from another thread, also after its end`(_ subject: LibOSUnderTest) async throws {
            let wakers = Shared<[LibOSWaker]>([])
            try await withThrowingTaskGroup(of: Void.self) { group in
                let meeting = Meeting(2)
                group.addTask {
                    try await subject.run { libOS in
                        wakers.withLock { $0.append(libOS.waker) }
                        _ = meeting.exchange(subject.address(), from: 0)
                        let timer = try libOS.timer(after: .milliseconds(20))
                        #expect(try libOS.outcome(timer) == .timerFired)
                    }
                }
                group.addTask {
                    try await onOwnThread {
                        _ = meeting.exchange(subject.address(), from: 1)
                        for _ in 0..<1_000 { wakers.withLock { $0[0] }.wake() }
                    }
                }
                try await group.waitForAll()
            }
            for _ in 0..<10 { wakers.withLock { $0[0] }.wake() }
        }

        @Test func `an unknown libOS and settings out of range are errors`() async throws {
            try await onOwnThread {
                var configuration = Configuration()
                for name in ["", "catnip?", "CATNAP"] {
                    configuration.libOS = name
                    #expect(throws: ConfigurationError.self) { _ = try LibOS(configuration) }
                }
                configuration = Configuration()
                configuration.operations.capacity = 0
                #expect(throws: ConfigurationError.self) { _ = try LibOS(configuration) }
                // The thread is free for one that is right.
                let libOS = try LibOS(LibOSUnderTest.all[0].configuration)
                _ = try libOS.queue()
            }
        }
    }

    @Suite struct FullFileTable {
        /// In a process of its own: the limit is the process's, and other tests open files too.
        @Test func `a process without descriptors left gets EMFILE, loses nothing and goes on`() async throws {
            await #expect(processExitsWith: .success) {
                for subject in LibOSUnderTest.all where subject.capabilities.contains(.kernelPeer) {
                    try await subject.run { libOS in
                        let (listener, address) = try libOS.listening(on: subject.address())
                        let pair = try libOS.connected(to: listener)
                        let client = try libOS.socket()
                        let waiting = try libOS.connect(client, to: address)
                        #expect(try libOS.outcome(waiting) == .connected)
                        for _ in 0..<2 {
                            try withoutFileDescriptors {
                                for family in subject.families {
                                    expect(.tooManyOpenFiles) { _ = try libOS.socket(family, .stream) }
                                    expect(.tooManyOpenFiles) { _ = try libOS.socket(family, .datagram) }
                                }
                                if subject.capabilities.contains(.files) { expect(.tooManyOpenFiles) { _ = try libOS.open("/etc/hostname", .readOnly) } }
                                #expect(try libOS.outcome(libOS.accept(listener)) == .failed(.tooManyOpenFiles))
                                // What needs no descriptor goes on.
                                try libOS.send(pair.client, "going on")
                                #expect(try libOS.receiveText(pair.server) == "going on")
                                let queue = try libOS.queue()
                                try libOS.send(queue, "as well")
                                #expect(try libOS.receiveText(queue) == "as well")
                            }
                        }
                        guard case .accepted(let server) = try libOS.outcome(libOS.accept(listener)) else { throw Unexpected(description: "accept failed") }
                        try libOS.send(client, "patient")
                        #expect(try libOS.receiveText(server) == "patient")
                        _ = try libOS.connected(to: listener)
                        _ = try libOS.socket(.ipv4, .datagram)
                    }
                    let configuration = subject.configuration
                    try await onOwnThread {
                        try withoutFileDescriptors {
                            for _ in 0..<3 { expect(.tooManyOpenFiles) { _ = try LibOS(configuration) } }
                        }
                        // A libOS that could not start has left the thread as it was.
                        let libOS = try LibOS(configuration)
                        _ = try libOS.socket()
                    }
                }
            }
        }

        @Test func `a listener's sequence outlasts a process without descriptors`() async throws {
            await #expect(processExitsWith: .success) {
                for subject in LibOSUnderTest.all where subject.capabilities.contains(.kernelPeer) {
                    try await subject.run { libOS in
                        let (descriptor, address) = try libOS.listening(on: subject.address())
                        let client = try libOS.socket()
                        #expect(try libOS.outcome(libOS.connect(client, to: address)) == .connected)
                        let before = fileLimit()
                        setFileLimit(lowestFreeDescriptor())
                        let listener = try Listener(libOS, descriptor)
                        let accepted: Bool = try libOS.run { libOS in
                            async let connection = listener.makeAsyncIterator().first()
                            // It has met the full table by now, or meets it never: it accepts in either case.
                            try await libOS.sleep(for: .milliseconds(25))
                            setFileLimit(before)
                            return await connection != nil
                        }
                        #expect(accepted)
                    }
                }
            }
        }
    }
}

extension Listener.Iterator {
    fileprivate nonisolated(nonsending) func first() async -> Connection? {
        var copy = self
        return await copy.next()
    }
}

// MARK: - The process's file table

private func fileLimit() -> Int {
    var limit = rlimit()
    unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    return Int(limit.rlim_cur)
}

private func setFileLimit(_ count: Int) {
    var limit = rlimit()
    unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = rlim_t(count)
    unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// The number that the next descriptor would get: with the limit there, no file can be opened.
private func lowestFreeDescriptor() -> Int {
    let next = dup(0)
    close(next)
    return Int(next)
}

/// Runs `body` while the process can open no file.
func withoutFileDescriptors(_ body: () throws -> Void) throws {
    let before = fileLimit()
    setFileLimit(lowestFreeDescriptor())
    defer { setFileLimit(before) }
    try body()
}

/// A value that threads share. Under a `Lock`, as everything that tests share: the thread sanitizer does not see through
/// `Synchronization.Mutex`.
final class Shared<Value: Sendable>: Sendable {
    private let value: Lock<Value>
    init(_ value: Value) { self.value = Lock(value) }
    func withLock<Result: Sendable>(_ body: (inout Value) throws -> Result) rethrows -> Result { try value.withLock { try body(&$0) } }
}

// MARK: - Meeting

/// Where threads tell each other their addresses: each waits until all have.
final class Meeting: Sendable {
    private let count: Int
    private let addresses: Lock<[Int: SocketAddress]>

    init(_ count: Int) {
        self.count = count
        addresses = Lock([:])
    }

    /// Everybody's address, in the order of the numbers.
    func exchange(_ address: SocketAddress, from number: Int) -> [SocketAddress] {
        addresses.withLock { $0[number] = address }
        while true {
            // The dictionary does not leave the lock: its storage would be freed by the thread that is last to drop it, after reference counting
            // that the thread sanitizer does not see.
            let all = addresses.withLock { all in all.count == count ? (0..<count).map { all[$0]! } : nil }
            if let all { return all }
            sched_yield()
        }
    }
}
