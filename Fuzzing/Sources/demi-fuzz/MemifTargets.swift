import CDemikernelShims
import Glibc
@testable import Demikernel

extension FuzzTarget {
    static let memifMessages = FuzzTarget(
        name: "memif-messages", summary: "a memif device whose peer sends any messages and descriptors, as its client or as its server",
        lengthMaximum: 1024, runs: 4_000, seeds: { MemifLiar.messageSeeds }, run: { try MemifLiar.tell($0) })
    static let memifRings = FuzzTarget(
        name: "memif-rings", summary: "a memif device whose peer writes anything into the shared memory", lengthMaximum: 2048, runs: 4_000,
        seeds: { MemifLiar.ringSeeds }, run: { try MemifLiar.write($0) })
}

/// The peer of a memif device, as the input directs it: a client that brings the memory, or a server that finds its way in the device's.
@safe private final class MemifLiar {
    private static let path = "@demikernel-fuzz-\(getpid())"
    private static let layout = MemifLayout(rings: 1, ringSize: 16, bufferSize: 256)
    /// A region that ends in the middle of a page, so that what is written behind it is seen.
    private static let regionByteCount = layout.bufferOffset(0, toServer: false) + layout.ringSize * layout.stride
    private static let fileByteCount = (regionByteCount + 8191) & ~4095

    private var device: MemifDevice
    private let isServer: Bool
    private var socket: Int32 = -1
    private var listener: MemifListener?
    private var now: UInt64 = 1_000_000_000
    /// The shared memory, once there is one, and what of it the device may use.
    private var memory: UnsafeMutableRawPointer?
    private var memoryByteCount = 0
    private let heap: HeapReference

    /// `isServer`: the device is the client.
    private init(isServer: Bool) throws {
        self.isServer = isServer
        heap = try FuzzHosts.reference()
        var configuration = MemifConfiguration(role: isServer ? .client : .server, socketPath: Self.path, address: 1)
        configuration.ringSize = 16
        configuration.bufferSize = 256
        configuration.rings = 2
        if isServer { listener = try MemifListener(Self.path) }
        device = try MemifDevice(configuration)
        if !isServer { socket = MemifSocket.connect(Self.path) ?? -1 }
        maintain()
        if isServer { socket = listener?.accept() ?? -1 }
        require(socket >= 0, "device and peer do not meet")
    }

    deinit {
        if let memory = unsafe memory { unsafe _ = munmap(memory, memoryByteCount) }
        if socket >= 0 { close(socket) }
    }

    private func maintain() {
        now += 1_000_000
        _ = device.maintain(now: now)
    }

    /// Runs `body` and asks whether it has left descriptors or buffers behind.
    private static func balanced(_ body: () throws -> Void) throws {
        _ = try FuzzHosts.reference()
        func open() -> Int { (0..<256).count { fcntl($0, F_GETFD) >= 0 } }
        let before = open()
        try body()
        let after = open()
        require(after == before, "descriptors: \(before) before, \(after) after")
        try FuzzHosts.requireEmptyHeap("memif")
    }

    // MARK: - Messages

    static func tell(_ bytes: [UInt8]) throws {
        try balanced {
            var input = FuzzInput(bytes)
            let liar = try MemifLiar(isServer: input.byte() & 1 == 1)
            while !input.isAtEnd {
                liar.say(&input)
                liar.maintain()
                liar.listen()
                liar.exchange(frameByteCount: 100)
            }
        }
    }

    private func say(_ input: inout FuzzInput) {
        let choice = input.byte()
        let kind = MemifMessage.Kind(rawValue: UInt16(choice % 10))
        var message: MemifMessage = switch kind {
        case .hello: .hello(name: "liar", rings: 2)
        case .initialize: .initialize(device.configuration)
        case .addRegion: .addRegion(Int(choice >> 4 & 1), byteCount: Self.regionByteCount)
        case .addRing:
            .addRing(Int(choice >> 5), toServer: choice & 16 == 0, region: 0, offset: Self.layout.ringOffset(0, toServer: choice & 16 == 0), sizeLog2: 4)
        case .connect, .connected: .connect(kind ?? .connect, name: "liar")
        case .disconnect: .disconnect("enough")
        case .acknowledge: MemifMessage(.acknowledge)
        case nil: MemifMessage()
        }
        let manner = input.byte()
        for _ in 0..<manner & 7 {
            let place = Int(input.byte() & 127)
            message.store(input.byte(), at: place)
        }
        let file = self.file(manner >> 3 & 7, large: manner & 64 != 0)
        if manner & 128 == 0 {
            _ = MemifSocket.send(message, file: file, to: socket)
        } else {
            // A message of another size.
            unsafe message.withBytes { unsafe _ = dk_message_send(socket, $0, Int(input.byte() & 127) + 1, file) }
        }
        if file >= 0 { close(file) }
    }

    private func file(_ choice: UInt8, large: Bool) -> Int32 {
        switch choice {
        case 1, 2:
            let file = unsafe dk_memory_file_create("liar", UInt64(large ? 4096 : Self.fileByteCount))
            guard file >= 0 else { return -1 }
            for isToServer in [true, false] {
                var cookie = MemifRingLayout.cookieValue
                unsafe _ = pwrite(file, &cookie, 4, Self.layout.ringOffset(0, toServer: isToServer))
            }
            return file
        case 3: return dk_event_create()
        case 4: return unsafe open("/dev/null", O_RDWR)
        case 5: return unsafe open("/", O_RDONLY)
        case 6: return dup(socket)
        default: return -1
        }
    }

    private func listen() {
        for _ in 0..<8 {
            guard case .message(_, let file) = MemifSocket.receive(from: socket) else { return }
            if file >= 0 { close(file) }
        }
    }

    /// Gives the device a frame, and takes what it has.
    private func exchange(frameByteCount: Int, parts: Int = 1, capacity: Int = 8) {
        var burst = FrameBurst(capacity: capacity, heap: heap)
        device.receive(into: &burst)
        while !burst.isEmpty {
            let frame = burst.removeFirst()
            require(14...device.capabilities.frameByteCountMaximum ~= frame.byteCount, "a frame of \(frame.byteCount) bytes")
            frame.release()
        }
        let segment = heap.allocateSegment(frameByteCount)
        guard !segment.isNull else { return require(false, "the heap is exhausted") }
        _ = unsafe segment.bytes.initializeMemory(as: UInt8.self, repeating: 0x5a)
        var frame = Frame(segment)
        if parts > 1, frameByteCount > 40 {
            frame.rest = .single(segment.slice(20, count: frameByteCount - 20))
            frame.head.trimLast(frameByteCount - 20)
        }
        burst.append(frame)
        device.transmit(&burst)
        burst.removeAll()
    }

    // MARK: - Shared memory

    static func write(_ bytes: [UInt8]) throws {
        try balanced {
            var input = FuzzInput(bytes)
            let liar = try MemifLiar(isServer: input.byte() & 1 == 1)
            liar.isServer ? liar.connectToClient() : liar.connectToServer()
            require(liar.device.isConnected, "the peers do not connect: \(liar.device.disconnectReason)")
            while !input.isAtEnd, liar.device.isConnected { liar.scribble(&input) }
            liar.checkEnd()
        }
    }

    private func connectToServer() {
        let file = unsafe dk_memory_file_create("liar", UInt64(Self.fileByteCount))
        map(file, Self.fileByteCount)
        guard let memory = unsafe memory else { return }
        unsafe _ = (memory + Self.regionByteCount).initializeMemory(as: UInt8.self, repeating: 0xc5, count: Self.fileByteCount - Self.regionByteCount)
        func tell(_ message: MemifMessage, _ file: Int32 = -1) {
            _ = MemifSocket.send(message, file: file, to: socket)
            maintain()
            listen()
        }
        tell(.initialize(MemifConfiguration(role: .client, socketPath: "", address: 2)))
        tell(.addRegion(0, byteCount: Self.regionByteCount), file)
        for isToServer in [true, false] {
            let offset = Self.layout.ringOffset(0, toServer: isToServer)
            unsafe (memory + offset).storeBytes(of: MemifRingLayout.cookieValue, as: UInt32.self)
            for slot in 0..<Self.layout.ringSize {
                descriptor(slot, toServer: isToServer, 0, 256, UInt32(Self.layout.bufferOffset(0, toServer: isToServer) + slot * Self.layout.stride))
            }
            let event = dk_event_create()
            tell(.addRing(0, toServer: isToServer, region: 0, offset: offset, sizeLog2: 4), event)
            close(event)
        }
        tell(.connect(.connect, name: "liar"))
        close(file)
    }

    private func connectToClient() {
        _ = MemifSocket.send(.hello(name: "liar", rings: 1), to: socket)
        for _ in 0..<16 where !device.isConnected {
            maintain()
            guard case .message(let message, let file) = MemifSocket.receive(from: socket) else { continue }
            if message.kind == .addRegion { map(file, Int(message.regionByteCount)) }
            if file >= 0 { close(file) }
            _ = MemifSocket.send(message.kind == .connect ? .connect(.connected, name: "liar") : MemifMessage(.acknowledge), to: socket)
        }
        maintain()
    }

    private func map(_ file: Int32, _ byteCount: Int) {
        let pointer = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
        guard let pointer = unsafe pointer, unsafe pointer != MAP_FAILED else { return }
        unsafe memory = pointer
        memoryByteCount = byteCount
    }

    private func descriptor(_ slot: Int, toServer: Bool, _ word: UInt32, _ length: UInt32, _ offset: UInt32) {
        guard let memory = unsafe memory else { return }
        let place = unsafe memory + Self.layout.ringOffset(0, toServer: toServer) + MemifRingLayout.descriptors + slot * 16
        unsafe place.storeBytes(of: word, as: UInt32.self)
        unsafe place.storeBytes(of: length, toByteOffset: 4, as: UInt32.self)
        unsafe place.storeBytes(of: offset, toByteOffset: 8, as: UInt32.self)
    }

    private func scribble(_ input: inout FuzzInput) {
        guard let memory = unsafe memory else { return }
        let choice = input.byte()
        let isToServer = choice & 16 == 0
        let ring = unsafe memory + Self.layout.ringOffset(0, toServer: isToServer)
        switch choice & 7 {
        case 0:
            let manner = input.byte()
            let length = manner & 16 == 0 ? UInt32(input.word() % 600) : input.word32()
            let usual = UInt32(Self.layout.bufferOffset(0, toServer: isToServer) + Int(manner & 15) * Self.layout.stride)
            let offset = manner & 32 == 0 ? usual : manner & 64 == 0 ? UInt32(Self.regionByteCount) &- UInt32(input.word()) : input.word32()
            descriptor(Int(manner & 15), toServer: isToServer, UInt32(manner >> 7) | (choice & 32 == 0 ? 0 : UInt32(input.byte()) << 16), length, offset)
        case 1: unsafe ring.storeBytes(of: choice & 32 == 0 ? UInt16(input.byte()) : input.word(), toByteOffset: MemifRingLayout.head, as: UInt16.self)
        case 2: unsafe ring.storeBytes(of: choice & 32 == 0 ? UInt16(input.byte()) : input.word(), toByteOffset: MemifRingLayout.tail, as: UInt16.self)
        case 3:
            let places = [MemifRingLayout.head, MemifRingLayout.tail]
            let place = unsafe ring + places[Int(choice >> 5 & 1)]
            // A step on, as a peer that keeps to the rules makes it.
            unsafe place.storeBytes(of: place.load(as: UInt16.self) &+ UInt16(input.byte() & 7), as: UInt16.self)
        case 4: unsafe ring.storeBytes(of: input.byte(), toByteOffset: Int(input.byte() & 127), as: UInt8.self)
        case 5: if device.prepareToSleep() { device.wake() }
        case 6: maintain()
        default: exchange(frameByteCount: 14 + Int(input.word() % 1600), parts: Int(choice >> 5 & 1) + 1, capacity: 1 << Int(choice >> 6))
        }
    }

    /// Nothing was written behind the region.
    private func checkEnd() {
        guard let memory = unsafe memory, !isServer else { return }
        for place in Self.regionByteCount..<Self.fileByteCount {
            require(unsafe memory.load(fromByteOffset: place, as: UInt8.self) == 0xc5, "byte \(place) was written, behind a region of \(Self.regionByteCount)")
        }
    }

    // MARK: - Seeds

    /// What a client and a server say that keep to the rules, and some that do not.
    static let messageSeeds: [[UInt8]] = [
        [0, 3, 0, 4, 8, 5, 24, 21, 24, 6, 0],
        [0, 3, 0, 4, 8, 5, 24, 21, 24, 6, 0, 1, 0, 8, 0], [0, 3, 0, 4, 16 + 64, 5, 24], [0, 6, 0], [0, 3, 1, 9, 65],
        [1, 2, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 7, 0], [1, 2, 1, 44, 0], [1, 7, 0], [1, 2, 0, 8, 0], [1, 2, 128, 5],
    ]

    static let ringSeeds: [[UInt8]] = [0, 1].flatMap { role -> [[UInt8]] in
        [
            // Frames of one buffer and of several, both ways.
            [role, 0, 0, 0, 60, 0, 1, 0, 60, 3, 2, 7, 0, 0, 16 + 3, 4, 7, 1, 0, 16 + 3 + 32, 2, 7, 0, 80],
            [role, 0, 128, 0, 255, 0, 129, 0, 255, 0, 2, 0, 40, 3, 3, 7, 0, 0, 19, 15, 7, 4, 0, 35, 5, 7, 0, 0, 5, 6],
            [role, 1, 200, 7, 0, 0], [role, 32 + 2, 255, 255, 7, 0, 0], [role, 0, 16, 255, 255, 255, 255, 3, 1, 7, 0, 0],
            [role, 0, 32, 0, 60, 0, 30, 3, 1, 7, 0, 0, 16, 32, 0, 200, 0, 50, 19, 7, 7, 0, 150],
        ]
    }
}
