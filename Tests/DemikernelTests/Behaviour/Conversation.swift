import SystemPackage
import Testing
@testable import Demikernel

// How the tests talk to a libOS: completions as plain values, and the few steps that most conversations begin with.

/// A completion as a value that can be compared.
enum OperationOutcome: Equatable {
    case pushed
    /// The bytes; none at the end of the stream.
    case popped([UInt8])
    case datagram([UInt8], from: SocketAddress)
    case accepted(QueueDescriptor)
    case connected
    case timerFired
    case failed(Errno, returned: [UInt8])

    static func failed(_ errno: Errno) -> OperationOutcome { .failed(errno, returned: []) }

    init(_ completion: consuming Completion) {
        switch completion.take() {
        case .pushed: self = .pushed
        case .popped(let segments, nil): self = .popped(segments.copyToArray())
        case .popped(let segments, let source?): self = .datagram(segments.copyToArray(), from: source)
        case .accepted(let descriptor, _): self = .accepted(descriptor)
        case .connected: self = .connected
        case .timerFired: self = .timerFired
        case .failed(let error, let returned): self = .failed(error.errno, returned: returned.copyToArray())
        }
    }

    /// Which way it ended, without what it carried.
    var errno: Errno? {
        if case .failed(let errno, _) = self { errno } else { nil }
    }
}

struct Unexpected: Error, CustomStringConvertible {
    let description: String
}

/// Two ends of a TCP connection in one libOS.
struct Pair {
    let client: QueueDescriptor
    let server: QueueDescriptor
}

extension LibOS {
    // MARK: - Waiting

    /// What became of an operation.
    func outcome(_ token: QToken) throws -> OperationOutcome { OperationOutcome(try wait(token, timeout: .patience)) }

    /// Whether an operation is still pending after a poll of the devices.
    func isPending(_ token: QToken) throws -> Bool {
        do throws(DemikernelError) {
            try waitUntilComplete(token, timeout: .zero)
            return false
        } catch {
            guard error.errno == .timedOut else { throw error }
            return true
        }
    }

    /// Waits without taking the completion.
    private func waitUntilComplete(_ token: QToken, timeout: Duration) throws(DemikernelError) {
        let tokens = [token]
        try core.waitUntilAllComplete(tokens.span, timeout: timeout.nanosecondsClamped)
    }

    /// Turns of the libOS, for tests that say what does *not* happen.
    func turn(_ count: Int = 50) {
        for _ in 0..<count { core.idleTurn() }
    }

    /// Lets the scheduler run until memory has not changed for longer than a timer of the stack takes; gives up after a while.
    func turnUntilMemoryRests() {
        var since = monotonicNanoseconds()
        let limit = since + 30_000_000_000
        var held = liveBytes
        while monotonicNanoseconds() < min(limit, since + 400_000_000) {
            turn()
            guard liveBytes != held else { continue }
            held = liveBytes
            since = monotonicNanoseconds()
        }
    }

    // MARK: - Bytes

    func buffer(_ bytes: [UInt8]) throws(DemikernelError) -> Buffer {
        var buffer = try allocate(bytes.count)
        try buffer.replaceContents(with: bytes)
        return buffer
    }

    func buffer(_ text: String) throws(DemikernelError) -> Buffer { try buffer([UInt8](text.utf8)) }

    func push(_ descriptor: QueueDescriptor, _ text: String, to address: SocketAddress? = nil) throws -> QToken {
        try push(descriptor, buffer(text), to: address)
    }

    func send(_ descriptor: QueueDescriptor, _ bytes: [UInt8], to address: SocketAddress? = nil) throws {
        let outcome = try outcome(push(descriptor, buffer(bytes), to: address))
        guard outcome == .pushed else { throw Unexpected(description: "push: \(outcome)") }
    }

    func send(_ descriptor: QueueDescriptor, _ text: String, to address: SocketAddress? = nil) throws {
        try send(descriptor, [UInt8](text.utf8), to: address)
    }

    /// What one pop brings; empty at the end of the stream.
    func receive(_ descriptor: QueueDescriptor, limit: Int? = nil) throws -> [UInt8] {
        switch try outcome(pop(descriptor, limit: limit)) {
        case .popped(let bytes), .datagram(let bytes, _): return bytes
        case let other: throw Unexpected(description: "pop: \(other)")
        }
    }

    func receiveText(_ descriptor: QueueDescriptor) throws -> String { String(decoding: try receive(descriptor), as: UTF8.self) }

    /// Pops until `count` bytes have come or the stream has ended.
    func receive(_ descriptor: QueueDescriptor, exactly count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        while bytes.count < count {
            let more = try receive(descriptor, limit: count - bytes.count)
            if more.isEmpty { break }
            bytes += more
        }
        return bytes
    }

    /// Why a push is refused; nil where it is not. The buffer has to come back with its bytes.
    func refusal(
        of bytes: [UInt8], on descriptor: QueueDescriptor, to address: SocketAddress? = nil, at location: SourceLocation = #_sourceLocation
    ) throws -> Errno? {
        let buffer = try buffer(bytes)
        do throws(PushError) {
            _ = try push(descriptor, buffer, to: address)
            return nil
        } catch {
            guard let returned = error.takeBuffers() else { throw Unexpected(description: "the buffer did not come back") }
            let back = returned.copyToArray()
            #expect(back == bytes, sourceLocation: location)
            let isTakenTwice = error.takeBuffers() != nil
            #expect(!isTakenTwice, sourceLocation: location)
            return error.reason.errno
        }
    }

    // MARK: - Connections

    /// A socket that listens on a port that the system chose, and its address.
    func listening(on address: SocketAddress = .loopback(port: 0), backlog: Int = 128) throws -> (QueueDescriptor, SocketAddress) {
        let descriptor = try socket(address.family, .stream)
        try bind(descriptor, to: address)
        try listen(descriptor, backlog: backlog)
        return (descriptor, try localAddress(of: descriptor))
    }

    /// Connects a new socket to a listener of this libOS and accepts the connection.
    func connected(to listener: QueueDescriptor) throws -> Pair {
        let address = try localAddress(of: listener)
        let client = try socket(address.family, .stream)
        let connecting = try connect(client, to: address)
        let accepting = try accept(listener)
        guard case .accepted(let server) = try outcome(accepting) else { throw Unexpected(description: "accept failed") }
        let connect = try outcome(connecting)
        guard connect == .connected else { throw Unexpected(description: "connect: \(connect)") }
        return Pair(client: client, server: server)
    }

    /// A TCP connection, both ends of it.
    func pair(_ address: SocketAddress = .loopback(port: 0)) throws -> Pair {
        let (listener, _) = try listening(on: address)
        let pair = try connected(to: listener)
        try close(listener)
        return pair
    }

    /// A connection attempt that nobody answers, because the listener's accept queue is full.
    func stalledConnection(_ address: SocketAddress = .loopback(port: 0)) throws -> (client: QueueDescriptor, connecting: QToken, listener: QueueDescriptor) {
        let (listener, address) = try listening(on: address, backlog: 1)
        // Linux holds one more than the backlog.
        for _ in 0..<2 {
            let filler = try socket(address.family, .stream)
            guard try outcome(connect(filler, to: address)) == .connected else { throw Unexpected(description: "connect failed") }
        }
        let client = try socket(address.family, .stream)
        return (client, try connect(client, to: address), listener)
    }

    /// A bound UDP socket and its address.
    func datagramSocketBound(to address: SocketAddress = .loopback(port: 0)) throws -> (QueueDescriptor, SocketAddress) {
        let descriptor = try socket(address.family, .datagram)
        try bind(descriptor, to: address)
        return (descriptor, try localAddress(of: descriptor))
    }
}

/// Bytes that show where they belong: words of the generator, so that nothing repeats.
func pattern(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var generator = SplitMix64(seed: seed)
    return unsafe [UInt8](unsafeUninitializedCapacity: count + 8) { storage, used in
        var place = 0
        while place < count {
            unsafe UnsafeMutableRawBufferPointer(storage).storeBytes(of: generator.next(), toByteOffset: place, as: UInt64.self)
            place += 8
        }
        used = count
    }
}

/// Expects a call to fail with an errno.
func expect(_ errno: Errno, at location: SourceLocation = #_sourceLocation, _ body: () throws -> Void) {
    #expect(throws: DemikernelError(errno, ""), sourceLocation: location) { try body() }
}
