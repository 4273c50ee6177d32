import Demikernel
import DemikernelSimulator

/// The stack that a script talks to, with a heap of its own and a device that hands every frame over at once.
final class ScriptStack {
    private let heap: Heap
    private var stack: NetworkStack
    private var burst: FrameBurst
    private var now: UInt64 = 0
    /// What the stack has sent and the runner not yet taken.
    private(set) var frames: [DecodedFrame] = []
    private var tags: [String: UInt32] = [:]
    private var events: [UInt32: SocketEvent.Kinds] = [:]
    private var sockets: [String: TCPSocket] = [:]
    private var udpSockets: [String: UDPSocket] = [:]

    init(_ configuration: ScriptConfiguration) throws {
        var network = configuration.network
        let stations = configuration.context().stations
        if configuration.hasStaticNeighbours {
            for pair in ScriptConfiguration.addresses { network.staticNeighbours.append(.init(pair.remote, stations.remoteHardware)) }
            for flow in configuration.flows { if let remote = flow.remote { network.staticNeighbours.append(.init(remote, stations.remoteHardware)) } }
        }
        let device = NetworkDeviceCapabilities(
            address: stations.localHardware.rawValue, maximumTransmissionUnit: configuration.deviceMTU, name: "script")
        heap = try Heap(HeapConfiguration(limit: configuration.heapLimit, hugePages: .never, lockPages: false))
        heap.makeCurrent()
        burst = FrameBurst(capacity: 64, heap: heap.reference)
        stack = try NetworkStack(
            network, heap: heap.reference, device: device, entropy: NetworkEntropy(seed: configuration.seed), now: 0)
        drain()
    }

    deinit { heap.resign() }

    // MARK: - Time and frames

    var nextDeadline: UInt64? { stack.nextDeadline() }

    /// Moves on to `time` and does what is due there.
    func advance(to time: UInt64) {
        now = max(now, time)
        stack.poll(now: now)
        drain()
    }

    func inject(_ frame: [UInt8]) throws {
        guard unsafe burst.append(byteCount: frame.count, fill: { target in unsafe target.copyBytes(from: frame) }) else {
            // Shorter than any device would give.
            return
        }
        stack.receive(&burst, now: now)
        drain()
    }

    func takeFrame() -> DecodedFrame? { frames.isEmpty ? nil : frames.removeFirst() }

    private func drain() {
        while !stack.ip.outgoing.isEmpty {
            let frame = stack.ip.outgoing.removeFirst()
            var bytes = [UInt8](repeating: 0, count: frame.byteCount)
            _ = unsafe bytes.withUnsafeMutableBytes { unsafe frame.copyBytes(to: $0) }
            frame.release()
            frames.append(DecodedFrame(bytes, time: now))
        }
        while let event = stack.events.popFirst() { events[event.tag, default: []].formUnion(event.kinds) }
    }

    private func tag(_ name: String) -> UInt32 {
        if let tag = tags[name] { return tag }
        let tag = UInt32(tags.count)
        tags[name] = tag
        return tag
    }

    private func socket(_ name: String) throws -> TCPSocket {
        guard let socket = sockets[name] else { throw ScriptSyntaxError("no TCP socket \(name)") }
        return socket
    }

    private func udpSocket(_ name: String) throws -> UDPSocket {
        guard let socket = udpSockets[name] else { throw ScriptSyntaxError("no UDP socket \(name)") }
        return socket
    }

    /// The events since they were last asked for.
    func takeEvents(_ name: String) -> SocketEvent.Kinds { events.removeValue(forKey: tag(name)) ?? [] }

    // MARK: - Memory

    private func segments(_ bytes: [UInt8]) throws -> SegmentList {
        let segment = heap.allocateSegment(bytes.count)
        guard !segment.isNull else { throw ScriptSyntaxError("the script's heap is exhausted") }
        unsafe segment.bytes.copyBytes(from: bytes)
        return .single(segment)
    }

    private func bytes(_ list: SegmentList) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: list.byteCount)
        _ = unsafe bytes.withUnsafeMutableBytes { unsafe list.copyBytes(to: $0) }
        list.releaseAll()
        return bytes
    }


    // MARK: - TCP

    private func outcome(_ body: () throws -> Void) throws -> ScriptCall.Outcome {
        defer { drain() }
        do {
            try body()
            return .success
        } catch let error as DemikernelError {
            return .failed(ScriptErrno.name(error.errno.rawValue))
        }
    }

    func listen(_ name: String, _ address: SocketAddress, backlog: Int, _ options: TCPSocketOptions) throws -> ScriptCall.Outcome {
        try outcome { sockets[name] = try stack.listen(on: address, backlog: backlog, options: options, tag: tag(name)) }
    }

    func connect(_ name: String, _ remote: SocketAddress, from local: SocketAddress?, _ options: TCPSocketOptions) throws -> ScriptCall.Outcome {
        try outcome { sockets[name] = try stack.connect(from: local, to: remote, options: options, tag: tag(name), now: now) }
    }

    func accept(_ listener: String, as name: String?) throws -> Bool {
        guard let socket = stack.tcp.accept(try socket(listener), tag: tag(name ?? "(nobody)")) else { return false }
        if let name { sockets[name] = socket }
        return true
    }

    func push(_ name: String, _ content: [UInt8]) throws -> ScriptCall.Outcome {
        let list = try segments(content)
        let result = stack.send(try socket(name), list, now: now)
        drain()
        switch result {
        case .taken: return .success
        case .full:
            list.releaseAll()
            return .full
        case .failed(let number):
            list.releaseAll()
            return .failed(ScriptErrno.name(number))
        }
    }

    /// All there is, or `limit` bytes; text where there are bytes.
    func pop(_ name: String, limit: Int) throws -> ScriptCall.Outcome {
        var found: [UInt8] = []
        defer { drain() }
        while limit == 0 || found.count < limit {
            switch stack.receive(try socket(name), limit: limit == 0 ? 0 : limit - found.count, now: now) {
            case .segments(let list): found += bytes(list)
            case .empty: return found.isEmpty ? .empty : .text(found)
            case .endOfStream: return found.isEmpty ? .end : .text(found)
            case .failed(let number): return found.isEmpty ? .failed(ScriptErrno.name(number)) : .text(found)
            }
        }
        return .text(found)
    }

    func shutdown(_ name: String, isSend: Bool) throws {
        if isSend { stack.shutdownSend(try socket(name), now: now) } else { stack.tcp.shutdownReceive(try socket(name)) }
        drain()
    }

    func close(_ name: String, isAbort: Bool) throws {
        if let udp = udpSockets.removeValue(forKey: name) {
            stack.closeUDP(udp)
        } else {
            stack.close(try socket(name), lingerReset: isAbort, now: now)
            sockets[name] = nil
        }
        drain()
    }

    func setOptions(_ name: String, _ options: TCPSocketOptions) throws {
        stack.setOptions(try socket(name), options, now: now)
        drain()
    }

    func information(_ name: String) throws -> TCPInformation { stack.tcp.information(try socket(name)) }

    // MARK: - UDP

    func udpBind(_ name: String, _ address: SocketAddress) throws -> ScriptCall.Outcome {
        try outcome { udpSockets[name] = try stack.bindUDP(address, tag: tag(name)) }
    }

    func udpConnect(_ name: String, _ address: SocketAddress) throws -> ScriptCall.Outcome {
        let socket = try udpSocket(name)
        return try outcome { try stack.connectUDP(socket, to: address) }
    }

    func udpSend(_ name: String, _ content: [UInt8], to address: SocketAddress?) throws -> ScriptCall.Outcome {
        let socket = try udpSocket(name)
        let list = try segments(content)
        let result = try outcome { try stack.sendUDP(socket, list, to: address, now: now) }
        if result != .success { list.releaseAll() }
        return result
    }

    func udpReceive(_ name: String) throws -> (bytes: [UInt8], source: SocketAddress)? {
        guard let (list, source) = stack.udp.receive(try udpSocket(name)) else { return nil }
        return (bytes(list), source)
    }

    func udpError(_ name: String) throws -> Int32 { stack.udp.pendingError(try udpSocket(name)) }

    // MARK: - Counters

    /// A counter or a field by its name; nil where there is none.
    func counter(_ name: String) -> Int? {
        let parts = name.split(separator: ".").map(String.init)
        guard parts.count == 2 else { return nil }
        switch parts[0] {
        case "ip": return Self.field(stack.ip.counters, parts[1])
        case "tcp": return Self.field(stack.tcp.counters, parts[1])
        case "udp": return Self.field(stack.udp.counters, parts[1])
        default: return nil
        }
    }

    static func field(_ value: Any, _ name: String) -> Int? {
        for child in Mirror(reflecting: value).children where child.label == name {
            switch child.value {
            case let number as UInt64: return Int(number)
            case let number as Int: return number
            case let flag as Bool: return flag ? 1 : 0
            default: return nil
            }
        }
        return nil
    }
}
