@testable import Demikernel
@testable import DemikernelSimulator

/// Hosts of a simulation, and the heap that they share, which has to be empty again when they have gone.
enum FuzzHosts {
    /// One heap for all inputs: making one takes longer than most inputs. Its freed objects are poisoned and looked at again.
    private final class Memory {
        let heap: Heap

        init() throws {
            var configuration = HeapConfiguration(limit: 128 << 20, hugePages: .never, lockPages: false)
            configuration.checked = true
            heap = try Heap(configuration)
            _ = heap.makeCurrent()
        }
    }

    // Unsafe: a thread's own. All inputs are run on one.
    nonisolated(unsafe) private static let memory = Result { try Memory() }

    static func reference() throws -> HeapReference { unsafe try memory.get().heap.reference }

    /// Nothing is left in the heap, and nobody has written to what was free.
    static func requireEmptyHeap(_ context: @autoclosure () -> String) throws {
        let memory = unsafe try memory.get()
        let statistics = memory.heap.statistics
        require(statistics.liveObjects == 0, "\(statistics.liveObjects) buffers (\(statistics.liveBytes) bytes) were not returned: \(context())")
        require(statistics.faults == 0, "the heap found \(memory.heap.faults): \(context())")
    }

    /// A host's settings: small tables, because they are made anew for each input.
    static func network(_ host: (station: UInt64, ipv4: [UInt8], ipv6: [UInt8])) -> NetworkConfiguration {
        var network = NetworkConfiguration(addresses: [
            .init(address(host.ipv4), prefixLength: 24), .init(address(host.ipv6), prefixLength: 64),
        ])
        network.tagsMaximum = 256
        network.announcesAddresses = false
        network.udp.socketsMaximum = 16
        network.udp.datagramsMaximum = 256
        network.neighbours.capacity = 64
        network.reassembly.bytesMaximum = 1 << 20
        network.tcp.maximumConnections = 128
        network.tcp.maximumListeners = 8
        network.tcp.timeWaitMaximum = 64
        network.tcp.maximumRetransmissionTimeout = 4_000_000_000
        return network
    }

    static func address(_ bytes: [UInt8]) -> IPAddress {
        let words = bytes.reduce((high: UInt64(0), low: UInt64(0))) { ($0.high << 8 | $0.low >> 56, $0.low << 8 | UInt64($1)) }
        return bytes.count == 4 ? IPAddress(ipv4: UInt32(words.low)) : IPAddress(high: words.high, low: words.low)
    }

    static func host(
        _ simulation: Simulation, _ name: String, _ host: (station: UInt64, ipv4: [UInt8], ipv6: [UInt8]), _ network: NetworkConfiguration,
        mtu: Int = 1500
    ) throws -> StackHost {
        try StackHost(
            simulation, name: name, network, device: NetworkDeviceCapabilities(address: host.station, maximumTransmissionUnit: mtu, name: name),
            heap: reference(), entropy: NetworkEntropy(seed: host.station))
    }
}

/// One end of a stream: sends so many bytes of a pattern, checks those that come, and ends.
final class FuzzEnd {
    let host: StackHost
    let socket: TCPSocket
    let isClient: Bool
    let sendTotal: Int
    /// Whether what comes has to be what was sent.
    let isStrict: Bool
    private(set) var sent = 0
    private(set) var received = 0
    private(set) var hasEnded = false
    private(set) var isClosed = false
    /// 0 for none.
    private(set) var error: Int32 = 0
    private var isConnected: Bool
    private var hasShutDown = false
    /// Whether the stream ends when all is sent; else it stays open for more.
    var ends = true
    var limit: Int

    init(_ host: StackHost, _ socket: TCPSocket, isClient: Bool, sendTotal: Int, isStrict: Bool) {
        self.host = host
        self.socket = socket
        self.isClient = isClient
        self.sendTotal = sendTotal
        self.isStrict = isStrict
        isConnected = !isClient
        limit = sendTotal
    }

    var state: String {
        "\(isClient ? "client" : "server"): sent \(sent) of \(sendTotal), received \(received), error \(error), "
            + (isClosed ? "closed" : "\(host.ask { $0.tcp.information(socket) })")
    }

    func handle(_ kinds: SocketEvent.Kinds) throws {
        if kinds.contains(.connected) { isConnected = true }
        try advance()
    }

    /// Reads, writes, and ends what is to end.
    func advance() throws {
        guard !isClosed else { return }
        read()
        guard !isClosed, isConnected else { return }
        check()
        try write()
        if ends, !isClosed, hasShutDown, hasEnded { close(reset: false) }
    }

    private func read() {
        let now = host.simulation.now
        while true {
            switch host.use({ $0.receive(socket, limit: 65_536, now: now) }) {
            case .segments(let list):
                if isStrict {
                    var bytes = [UInt8](repeating: 0, count: list.byteCount)
                    _ = unsafe bytes.withUnsafeMutableBytes { unsafe list.copyBytes(to: $0) }
                    let pattern = ScenarioPattern(connection: 1, isClient: !isClient)
                    let place = unsafe bytes.withUnsafeBytes { unsafe pattern.mismatch($0, from: received) }
                    require(place == nil, "a byte that was never sent, \(place ?? 0) behind \(received): \(state)")
                }
                received += list.byteCount
                list.releaseAll()
            case .empty: return
            case .endOfStream:
                hasEnded = true
                return
            case .failed(let error):
                self.error = error
                return close(reset: false)
            }
        }
    }

    private func write() throws {
        let now = host.simulation.now
        let pattern = ScenarioPattern(connection: 1, isClient: isClient)
        while sent < limit {
            let segment = try FuzzHosts.reference().allocateSegment(min(1000, limit - sent))
            require(!segment.isNull, "the heap is exhausted")
            unsafe pattern.fill(segment.bytes, from: sent)
            switch host.use({ $0.send(socket, .single(segment), now: now) }) {
            case .taken: sent += segment.byteCount
            case .full: return segment.release()
            case .failed(let error):
                segment.release()
                self.error = error
                return close(reset: false)
            }
        }
        if ends, !hasShutDown {
            host.use { $0.shutdownSend(socket, now: now) }
            hasShutDown = true
        }
    }

    func close(reset: Bool) {
        guard !isClosed else { return }
        let now = host.simulation.now
        host.use { $0.close(socket, lingerReset: reset, now: now) }
        isClosed = true
    }

    /// What must hold of a connection at any time, whatever came.
    private func check() {
        let information = host.ask { $0.tcp.information(socket) }
        require(information.bytesInFlight >= 0 && information.bytesUnsent >= 0 && information.bytesInFlight <= 1 << 21, "in flight: \(state)")
        require(information.bytesUnread >= 0 && information.bytesOutOfOrder >= 0 && information.receiveWindow >= 0, "something is negative: \(state)")
        require(information.bytesUnread + information.bytesOutOfOrder <= 2 << 20, "more has arrived than the buffer holds: \(state)")
        require(information.congestionWindow > 0 && information.maximumSegmentSize > 0, "windows are positive: \(state)")
        require(!host.isSpinning, "the stack spins: \(state)")
    }
}
