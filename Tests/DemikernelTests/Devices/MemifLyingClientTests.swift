import CDemikernelShims
import Glibc
import Testing
@testable import Demikernel

/// A client that speaks the control protocol and then writes into the shared memory whatever the test likes.
@safe private final class LyingClient {
    let socket: Int32
    let layout: MemifLayout
    let memory: UnsafeMutableRawPointer
    let file: Int32
    var events: [Int32] = []
    private(set) var refusal: String?

    init(_ path: String, layout: MemifLayout = MemifLayout(rings: 1, ringSize: 16, bufferSize: 2048), seals: Bool = true) throws {
        socket = try #require(MemifSocket.connect(path))
        self.layout = layout
        if seals {
            file = unsafe dk_memory_file_create("lie", UInt64(layout.byteCount))
        } else {
            file = unsafe open("/dev/shm", O_RDWR | Int32(0o20_200_000) /* O_TMPFILE */, 0o600)
            ftruncate(file, off_t(layout.byteCount))
        }
        guard let memory = unsafe mmap(nil, layout.byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), unsafe memory != MAP_FAILED else {
            throw DemikernelError(.noMemory, "no memory for the liar")
        }
        unsafe self.memory = memory
        for isToServer in [true, false] {
            let ring = unsafe memory + layout.ringOffset(0, toServer: isToServer)
            unsafe ring.storeBytes(of: MemifRingLayout.cookieValue, as: UInt32.self)
            for slot in 0..<layout.ringSize {
                write(
                    slot, toServer: isToServer, length: UInt32(layout.bufferSize),
                    offset: UInt32(layout.bufferOffset(0, toServer: isToServer) + slot * layout.stride))
            }
        }
    }

    deinit {
        close(socket)
        close(file)
        for event in events { close(event) }
        unsafe _ = munmap(memory, layout.byteCount)
    }

    /// Sends a message and lets the server act on it; what the server answers, if anything.
    @discardableResult
    func tell(_ server: inout MemifDevice, _ message: MemifMessage, file: Int32 = -1, at now: UInt64 = 1_000_000_000) -> MemifMessage.Kind? {
        guard MemifSocket.send(message, file: file, to: socket) else { return nil }
        _ = server.maintain(now: now)
        return answer()
    }

    func answer() -> MemifMessage.Kind? {
        guard case .message(let message, let file) = MemifSocket.receive(from: socket) else { return nil }
        if file >= 0 { close(file) }
        if message.kind == .disconnect { refusal = message.disconnectReason }
        return message.kind
    }

    func greet(_ server: inout MemifDevice) {
        _ = server.maintain(now: 1_000_000_000)
        #expect(answer() == .hello)
    }

    func initialize(_ server: inout MemifDevice) {
        greet(&server)
        let kind = tell(&server, .initialize(MemifConfiguration(role: .client, socketPath: "", address: 2)))
        #expect(kind == .acknowledge)
    }

    func ring(toServer: Bool) -> MemifMessage {
        .addRing(
            0, toServer: toServer, region: 0, offset: layout.ringOffset(0, toServer: toServer), sizeLog2: layout.ringSize.trailingZeroBitCount)
    }

    func event() -> Int32 {
        events.append(dk_event_create())
        return events[events.count - 1]
    }

    func connect(_ server: inout MemifDevice) {
        initialize(&server)
        var kind = tell(&server, .addRegion(0, byteCount: layout.byteCount), file: file)
        #expect(kind == .acknowledge)
        for isToServer in [true, false] {
            kind = tell(&server, ring(toServer: isToServer), file: event())
            #expect(kind == .acknowledge)
        }
        kind = tell(&server, .connect(.connect, name: "liar"))
        #expect(kind == .connected && server.isConnected)
    }

    // MARK: Shared memory

    func write(_ slot: Int, toServer: Bool, flags: UInt16 = 0, region: UInt16 = 0, length: UInt32, offset: UInt32) {
        let ring = unsafe memory + layout.ringOffset(0, toServer: toServer) + MemifRingLayout.descriptors + slot * 16
        unsafe ring.storeBytes(of: flags, as: UInt16.self)
        unsafe ring.storeBytes(of: region, toByteOffset: 2, as: UInt16.self)
        unsafe ring.storeBytes(of: length, toByteOffset: 4, as: UInt32.self)
        unsafe ring.storeBytes(of: offset, toByteOffset: 8, as: UInt32.self)
    }

    func setHead(_ head: UInt16, toServer: Bool) {
        unsafe dk_shared_store_u16(memory + layout.ringOffset(0, toServer: toServer) + MemifRingLayout.head, head)
    }

    func tail(toServer: Bool) -> UInt16 {
        unsafe dk_shared_load_u16(memory + layout.ringOffset(0, toServer: toServer) + MemifRingLayout.tail)
    }

    func buffer(_ slot: Int) -> UInt32 { UInt32(layout.bufferOffset(0, toServer: true) + slot * layout.stride) }
}

@Suite struct MemifLyingClientTests {
    private let path = SocketPath()

    private func server() throws -> MemifDevice { try MemifDevice(path.configuration(.server)) }

    /// What the server says to a client that comes to `lie` after its INIT was accepted.
    private func refusal(of lie: (LyingClient, inout MemifDevice) -> Void) throws -> String? {
        var server = try server()
        let client = try LyingClient(path.path)
        client.initialize(&server)
        lie(client, &server)
        #expect(!server.isConnected && server.statistics.malformed == 1)
        // The next client is welcome.
        var steps = Steps()
        var honest = try MemifDevice(path.configuration(.client))
        let isConnected = connect(&server, &honest, &steps)
        #expect(isConnected)
        return client.refusal
    }

    @Test func `messages out of place are refused`() throws {
        #expect(try refusal { $0.tell(&$1, MemifMessage(.hello)) } == "an unexpected message")
        #expect(try refusal { $0.tell(&$1, MemifMessage(.connected)) } == "an unexpected message")
        #expect(try refusal { $0.tell(&$1, MemifMessage(.acknowledge)) } == "an unexpected message")
        #expect(try refusal { $0.tell(&$1, MemifMessage()) } == "an unknown message")
        #expect(try refusal { client, server in
            var message = MemifMessage()
            message.store(UInt16(9), at: 0)
            client.tell(&server, message)
        } == "an unknown message")
        #expect(try refusal { $0.tell(&$1, .initialize(MemifConfiguration(role: .client, socketPath: "", address: 1))) } == "a second INIT")
        #expect(try refusal { $0.tell(&$1, .connect(.connect, name: "")) } == "rings in one direction alone, or with gaps")
        for count in [1, 127, 129, 4000] {
            #expect(try refusal { client, server in
                let bytes = [UInt8](repeating: 1, count: count)
                unsafe _ = bytes.withUnsafeBytes { unsafe send(client.socket, $0.baseAddress!, count, 0) }
                _ = server.maintain(now: 1_000_000_000)
                _ = client.answer()
            } == "a message of another size than 128 bytes")
        }
    }

    @Test func `regions that are not what they are said to be are refused`() throws {
        #expect(try refusal { $0.tell(&$1, .addRegion(0, byteCount: 4096)) } == "a region without a descriptor")
        #expect(try refusal { $0.tell(&$1, .addRegion(1, byteCount: 4096), file: $0.file) } == "regions out of order")
        #expect(try refusal { $0.tell(&$1, .addRegion(0, byteCount: 0), file: $0.file) } == "a region's size is out of bounds")
        #expect(try refusal { $0.tell(&$1, .addRegion(0, byteCount: .max), file: $0.file) } == "a region's size is out of bounds")
        #expect(try refusal { $0.tell(&$1, .addRegion(0, byteCount: $0.layout.byteCount + 1), file: $0.file) }
            == "a region is larger than its file")
        #expect(try refusal { $0.tell(&$1, .addRegion(0, byteCount: 8), file: $0.event()) }
            == "a region has to be a memfd with F_SEAL_SHRINK")
        #expect(try refusal { $0.tell(&$1, .addRegion(0, byteCount: 8), file: STDERR_FILENO) }
            == "a region has to be a memfd with F_SEAL_SHRINK")
        let one = MemifLimits.regionsMaximum
        #expect(try refusal { client, server in
            for index in 0...one { client.tell(&server, .addRegion(index, byteCount: 4096), file: client.file) }
        } == "too many regions")
    }

    @Test func `a region that can shrink is refused before it is touched`() throws {
        var server = try server()
        let client = try LyingClient(path.path, seals: false)
        client.initialize(&server)
        client.tell(&server, .addRegion(0, byteCount: client.layout.byteCount), file: client.file)
        #expect(client.refusal == "a region has to be a memfd with F_SEAL_SHRINK")
    }

    @Test func `rings that are not in their region are refused`() throws {
        func refusal(_ make: @escaping (LyingClient) -> MemifMessage, file: ((LyingClient) -> Int32)? = nil) throws -> String? {
            try self.refusal { client, server in
                client.tell(&server, .addRegion(0, byteCount: client.layout.byteCount), file: client.file)
                client.tell(&server, make(client), file: file?(client) ?? client.event())
            }
        }
        let outside = "a ring outside of its region, too large, or without the cookie"
        let size = MemifLayout(rings: 1, ringSize: 16, bufferSize: 2048).byteCount
        for offset in [4, 64, size - 8, size, Int(UInt32.max) & ~7] {
            #expect(try refusal { _ in .addRing(0, toServer: true, region: 0, offset: offset, sizeLog2: 4) } == outside)
        }
        #expect(try refusal { _ in .addRing(0, toServer: true, region: 1, offset: 0, sizeLog2: 4) } == outside)
        #expect(try refusal { _ in .addRing(0, toServer: true, region: 0xffff, offset: 0, sizeLog2: 4) } == outside)
        for sizeLog2 in [14, 15, 16, 63, 64, 255] {
            #expect(try refusal { _ in .addRing(0, toServer: true, region: 0, offset: 0, sizeLog2: sizeLog2) } == outside)
        }
        #expect(try refusal { _ in .addRing(1, toServer: true, region: 0, offset: 0, sizeLog2: 4) } == "more rings than there may be")
        #expect(try refusal { _ in .addRing(0xffff, toServer: false, region: 0, offset: 0, sizeLog2: 4) } == "more rings than there may be")
        #expect(try refusal({ $0.ring(toServer: true) }, file: { _ in -1 }) == "a ring without an eventfd")
        #expect(try refusal({ $0.ring(toServer: true) }, file: { $0.file }) == "a ring without an eventfd")
        #expect(try refusal({ $0.ring(toServer: true) }, file: { $0.socket }) == "a ring without an eventfd")
        #expect(try self.refusal { client, server in
            client.tell(&server, .addRegion(0, byteCount: client.layout.byteCount), file: client.file)
            client.tell(&server, client.ring(toServer: true), file: client.event())
            client.tell(&server, client.ring(toServer: true), file: client.event())
        } == "a ring twice")
        #expect(try self.refusal { client, server in
            client.tell(&server, .addRegion(0, byteCount: client.layout.byteCount), file: client.file)
            client.tell(&server, client.ring(toServer: true), file: client.event())
            client.tell(&server, .connect(.connect, name: ""))
        } == "rings in one direction alone, or with gaps")
    }

    @Test func `bad descriptors are dropped and counted, and good ones around them arrive`() throws {
        let bench = try DeviceBench()
        do {
            var server = try server()
            let client = try LyingClient(path.path)
            client.connect(&server)
            let size = UInt32(client.layout.byteCount)
            // (flags, region, length, offset)
            let lies: [(UInt16, UInt16, UInt32, UInt32)] = [
                (0, 0, 0, 0), (0, 0, 13, 0), (0, 0, 60, size), (0, 0, 60, size - 59), (0, 0, 60, .max), (0, 0, 60, .max - 59),
                (0, 0, .max, 0), (0, 0, .max, .max), (0, 1, 60, 0), (0, 0xffff, 60, 0), (0, 0x8000, 60, 0),
            ]
            var head: UInt16 = 0
            for (index, lie) in lies.enumerated() {
                let good = client.buffer(Int(head) & 15)
                client.write(Int(head) & 15, toServer: true, flags: lie.0, region: lie.1, length: lie.2, offset: lie.3)
                client.write((Int(head) + 1) & 15, toServer: true, length: 60, offset: good)
                head &+= 2
                client.setHead(head, toServer: true)
                let received = server.receiveBytes(bench)
                let statistics = server.statistics
                #expect(received?.count == 60 && statistics.malformed == UInt64(index + 1), "\(lie)")
                #expect(server.isConnected && client.tail(toServer: true) == head)
            }
            // Longer than the MTU, but in the region: no lie.
            client.write(Int(head) & 15, toServer: true, length: 2000, offset: 0)
            head &+= 1
            client.setHead(head, toServer: true)
            let received = server.receiveBytes(bench)
            #expect(received == nil && server.statistics.receiveDrops == 1)
        }
        #expect(bench.isEmpty)
    }

    @Test func `chains that do not end, or are not what they were, are dropped`() throws {
        let bench = try DeviceBench()
        do {
            var server = try server()
            let client = try LyingClient(path.path)
            client.connect(&server)
            // All of the ring, no end.
            for slot in 0..<16 { client.write(slot, toServer: true, flags: 1, length: 10, offset: client.buffer(slot)) }
            client.setHead(16, toServer: true)
            var received = server.receiveBytes(bench)
            #expect(received == nil && server.statistics.malformed == 1 && client.tail(toServer: true) == 16)
            // Empty links only.
            for slot in 0..<16 { client.write(slot, toServer: true, flags: slot == 15 ? 0 : 1, length: 0, offset: client.buffer(slot)) }
            client.setHead(32, toServer: true)
            received = server.receiveBytes(bench)
            #expect(received == nil && server.statistics.malformed == 2)
            // Lengths whose sum overflows 32 bits, or is too long.
            for slot in 0..<4 { client.write(slot, toServer: true, flags: slot == 3 ? 0 : 1, length: 0x4000_0010, offset: 0) }
            client.setHead(36, toServer: true)
            received = server.receiveBytes(bench)
            #expect(received == nil && server.statistics.receiveDrops == 1)
            // A link outside of the region.
            client.write(4, toServer: true, flags: 1, length: 30, offset: client.buffer(4))
            client.write(5, toServer: true, length: 30, offset: UInt32(client.layout.byteCount) - 29)
            client.setHead(38, toServer: true)
            received = server.receiveBytes(bench)
            #expect(received == nil && server.statistics.malformed == 3)
            // A good one.
            client.write(6, toServer: true, flags: 1, length: 30, offset: client.buffer(6))
            client.write(7, toServer: true, length: 31, offset: client.buffer(7))
            client.setHead(40, toServer: true)
            received = server.receiveBytes(bench)
            #expect(received?.count == 61 && server.isConnected && client.tail(toServer: true) == 40)
        }
        #expect(bench.isEmpty)
    }

    @Test(arguments: [17, 18, 1000, 0x7fff, 0x8000, 0xffff]) func `a position that cannot be ends the connection`(head: UInt16) throws {
        for isToServer in [true, false] {
            let bench = try DeviceBench()
            do {
                var server = try server()
                let client = try LyingClient(path.path)
                client.connect(&server)
                client.setHead(head, toServer: isToServer)
                if isToServer {
                    _ = server.receiveBytes(bench)
                } else {
                    _ = server.send(bench.frame(60, seed: 1), bench)
                }
                let kind = client.answer()
                let statistics = server.statistics
                #expect(kind == .disconnect && client.refusal == "a ring's positions or buffers are impossible")
                #expect(!server.isConnected && statistics.malformed == 1 && statistics.disconnections == 1)
            }
            #expect(bench.isEmpty)
        }
    }

    @Test func `buffers that cannot be end the connection`() throws {
        let lies: [(UInt16, UInt32, UInt32)] = [(0, 2048, .max), (1, 2048, 0), (0xffff, 2048, 0), (0, .max, 1 << 20), (0, 0, 0)]
        for lie in lies {
            let bench = try DeviceBench()
            do {
                var server = try server()
                let client = try LyingClient(path.path)
                client.connect(&server)
                client.write(0, toServer: false, region: lie.0, length: lie.1, offset: lie.2)
                client.setHead(16, toServer: false)
                _ = server.send(bench.frame(1000, seed: 1, parts: 2), bench)
                let isConnected = server.isConnected
                #expect(!isConnected, "\(lie)")
            }
            #expect(bench.isEmpty)
        }
    }

    @Test(arguments: 1...8) func `memory that changes at random harms nobody`(seed: UInt64) throws {
        let bench = try DeviceBench()
        do {
            var generator = SplitMix64(seed: seed)
            for _ in 0..<20 {
                var server = try server()
                let client = try LyingClient(path.path)
                client.connect(&server)
                for _ in 0..<200 where server.isConnected {
                    for _ in 0..<Int.random(in: 1...8, using: &generator) {
                        let ring = client.layout.ringOffset(0, toServer: Bool.random(using: &generator))
                        let offset = ring + Int.random(in: 128..<client.layout.ringByteCount, using: &generator)
                        unsafe client.memory.storeBytes(of: UInt8.random(in: 0...255, using: &generator), toByteOffset: offset, as: UInt8.self)
                    }
                    let head = client.tail(toServer: true) &+ UInt16.random(in: 0...16, using: &generator)
                    client.setHead(head, toServer: true)
                    client.setHead(client.tail(toServer: false) &+ UInt16.random(in: 0...16, using: &generator), toServer: false)
                    var burst = bench.burst()
                    server.receive(into: &burst)
                    for index in 0..<burst.count { #expect((14...1518).contains(burst[index].byteCount)) }
                    burst.removeAll()
                    _ = server.send(bench.frame(Int.random(in: 14...1518, using: &generator), seed: 1), bench)
                }
            }
        }
        #expect(bench.isEmpty)
    }
}
