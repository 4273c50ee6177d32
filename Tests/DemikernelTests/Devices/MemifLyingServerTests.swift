import CDemikernelShims
import Glibc
import Testing
@testable import Demikernel

/// A server that speaks the control protocol with a client of ours, whose shared memory it maps, and then writes into it what it likes.
@safe private final class LyingServer {
    private let listener: MemifListener
    private(set) var socket: Int32 = -1
    private var memory: UnsafeMutableRawPointer?
    private var byteCount = 0
    private(set) var refusal: String?
    /// By direction: where the rings lie.
    private var offsets: [Bool: Int] = [:]
    private var now: UInt64 = 1_000_000_000

    init(_ path: String) throws { listener = try MemifListener(path) }

    deinit {
        if socket >= 0 { close(socket) }
        if let memory = unsafe memory { unsafe _ = munmap(memory, byteCount) }
    }

    func accept(_ client: inout MemifDevice) {
        now += 200_000_000
        _ = client.maintain(now: now)
        socket = listener.accept() ?? -1
        #expect(socket >= 0)
    }

    func tell(_ client: inout MemifDevice, _ message: MemifMessage, file: Int32 = -1) {
        _ = MemifSocket.send(message, file: file, to: socket)
        now += 1_000_000
        _ = client.maintain(now: now)
    }

    /// What the client said, if anything; regions are mapped, and rings remembered.
    @discardableResult
    func hear() -> MemifMessage.Kind? {
        guard case .message(let message, let file) = MemifSocket.receive(from: socket) else { return nil }
        if message.kind == .addRegion {
            byteCount = Int(message.regionByteCount)
            unsafe memory = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
        }
        if message.kind == .addRing { offsets[message.ringIsToServer] = message.ringOffset }
        if message.kind == .disconnect { refusal = message.disconnectReason }
        if file >= 0 { close(file) }
        return message.kind
    }

    /// Everything by the rules, up to the given message, which is not sent.
    func connect(_ client: inout MemifDevice, before end: MemifMessage.Kind? = nil) {
        accept(&client)
        tell(&client, .hello(name: "liar", rings: 1))
        while let kind = hear(), kind != .disconnect {
            if kind == .connect { return end == .connected ? () : tell(&client, .connect(.connected, name: "liar")) }
            tell(&client, MemifMessage(.acknowledge))
        }
    }

    private func ring(toServer: Bool) -> UnsafeMutableRawPointer { unsafe memory! + offsets[toServer]! }

    func setTail(_ tail: UInt16, toServer: Bool) { unsafe dk_shared_store_u16(ring(toServer: toServer) + MemifRingLayout.tail, tail) }
    func head(toServer: Bool) -> UInt16 { unsafe dk_shared_load_u16(ring(toServer: toServer) + MemifRingLayout.head) }

    func write(_ slot: Int, toServer: Bool, flags: UInt16, region: UInt16, length: UInt32, offset: UInt32) {
        let descriptor = unsafe ring(toServer: toServer) + MemifRingLayout.descriptors + slot * 16
        unsafe descriptor.storeBytes(of: flags, as: UInt16.self)
        unsafe descriptor.storeBytes(of: region, toByteOffset: 2, as: UInt16.self)
        unsafe descriptor.storeBytes(of: length, toByteOffset: 4, as: UInt32.self)
        unsafe descriptor.storeBytes(of: offset, toByteOffset: 8, as: UInt32.self)
    }

    /// Anything, anywhere.
    func scribble(_ generator: inout SplitMix64) {
        let offset = Int.random(in: 0..<byteCount, using: &generator)
        unsafe memory!.storeBytes(of: UInt8.random(in: 0...255, using: &generator), toByteOffset: offset, as: UInt8.self)
    }
}

@Suite struct MemifLyingServerTests {
    private let path = SocketPath()

    private func client() throws -> MemifDevice {
        try MemifDevice(path.configuration(.client) { $0.ringSize = 16 })
    }

    @Test func `messages out of place are refused, and the client tries again`() throws {
        let server = try LyingServer(path.path)
        var client = try client()
        var hello = MemifMessage.hello(name: "", rings: 1)
        hello.store(UInt16(0x300), at: 34)
        hello.store(UInt16(0x400), at: 36)
        var backwards = MemifMessage.hello(name: "", rings: 1)
        backwards.store(UInt16(0x100), at: 36)
        var small = MemifMessage.hello(name: "", rings: 1)
        small.store(UInt8(0), at: 44)
        let lies: [(MemifMessage, String)] = [
            (hello, "not memif 2.0"), (backwards, "not memif 2.0"), (small, "rings of one descriptor"),
            (MemifMessage(.acknowledge), "an unexpected message"), (.connect(.connected, name: ""), "an unexpected message"),
            (MemifMessage(.addRing), "an unexpected message"), (MemifMessage(), "an unknown message"),
        ]
        for (number, lie) in lies.enumerated() {
            server.accept(&client)
            server.tell(&client, lie.0)
            server.hear()
            let statistics = client.statistics
            #expect(server.refusal == lie.1 && statistics.malformed == UInt64(number + 1))
        }
        // Acknowledged too often, connected too early.
        server.connect(&client, before: .connected)
        server.tell(&client, MemifMessage(.acknowledge))
        server.hear()
        #expect(server.refusal == "an acknowledgment of nothing")
        server.accept(&client)
        server.tell(&client, .hello(name: "", rings: 1))
        server.tell(&client, .connect(.connected, name: ""))
        server.hear()
        server.hear()
        #expect(server.refusal == "an unexpected message")
        server.connect(&client)
        let isConnected = client.isConnected
        #expect(isConnected)
    }

    @Test(arguments: [17, 18, 1000, 0x8000, 0xffff]) func `a position that cannot be ends the connection`(tail: UInt16) throws {
        for isToServer in [true, false] {
            let bench = try DeviceBench()
            do {
                let server = try LyingServer(path.path)
                var client = try client()
                server.connect(&client)
                server.setTail(tail, toServer: isToServer)
                if isToServer {
                    // A sender looks at the peer's position when it has filled the ring.
                    for seed in 0...16 { _ = client.send(bench.frame(60, seed: seed), bench) }
                } else {
                    _ = client.receiveBytes(bench)
                }
                server.hear()
                let (isConnected, malformed) = (client.isConnected, client.statistics.malformed)
                #expect(!isConnected && malformed == 1 && server.refusal == "a ring's positions or buffers are impossible")
            }
            #expect(bench.isEmpty)
        }
    }

    @Test func `bad lengths are dropped and counted, and offsets of the server's are not followed`() throws {
        let bench = try DeviceBench()
        do {
            let server = try LyingServer(path.path)
            var client = try client()
            server.connect(&client)
            let lengths: [UInt32] = [0, 13, 2049, 65_536, .max]
            for (slot, length) in lengths.enumerated() {
                server.write(slot, toServer: false, flags: 0, region: 0, length: length, offset: 0)
                server.setTail(UInt16(slot + 1), toServer: false)
                let received = client.receiveBytes(bench)
                let statistics = client.statistics
                #expect(received == nil && statistics.malformed == UInt64(slot + 1))
            }
            server.write(5, toServer: false, flags: 0, region: 0xffff, length: 60, offset: .max)
            server.setTail(6, toServer: false)
            let received = client.receiveBytes(bench)
            let isConnected = client.isConnected
            #expect(received?.count == 60 && isConnected)
            // Offered again, whatever the server wrote.
            _ = client.maintain(now: 1 << 40)
            #expect(server.head(toServer: false) == 22)
        }
        #expect(bench.isEmpty)
    }

    @Test(arguments: 1...8) func `memory that changes at random harms nobody`(seed: UInt64) throws {
        let bench = try DeviceBench()
        do {
            var generator = SplitMix64(seed: seed)
            let server = try LyingServer(path.path)
            var client = try client()
            for _ in 0..<5 {
                server.connect(&client)
                for _ in 0..<300 where client.isConnected {
                    for _ in 0..<8 { server.scribble(&generator) }
                    let offered = server.head(toServer: false)
                    server.setTail(offered &- UInt16.random(in: 0...16, using: &generator), toServer: false)
                    server.setTail(server.head(toServer: true) &- UInt16.random(in: 0...16, using: &generator), toServer: true)
                    var burst = bench.burst()
                    client.receive(into: &burst)
                    for index in 0..<burst.count { #expect((14...1518).contains(burst[index].byteCount)) }
                    burst.removeAll()
                    _ = client.send(bench.frame(Int.random(in: 14...1518, using: &generator), seed: 1), bench)
                }
                server.tell(&client, .disconnect("enough"))
            }
        }
        #expect(bench.isEmpty)
    }
}
