import Testing

@testable import Demikernel

// The parts of a stack are passed beside each other: one access to the stack, not two.
extension NetworkStack {
    mutating func listen(_ local: SocketAddress, _ backlog: Int, _ options: TCPSocketOptions, _ tag: UInt32) throws(DemikernelError) -> TCPSocket {
        try tcp.listen(on: local, backlog: backlog, options: options, tag: tag, ip: &ip)
    }
    mutating func connect(_ local: SocketAddress?, _ remote: SocketAddress, _ options: TCPSocketOptions, _ tag: UInt32, _ now: UInt64)
        throws(DemikernelError) -> TCPSocket
    {
        try tcp.connect(from: local, to: remote, options: options, tag: tag, ip: &ip, now: now)
    }
    mutating func send(_ socket: TCPSocket, _ segments: SegmentList, _ now: UInt64) -> SendResult { tcp.send(socket, segments, ip: &ip, now: now) }
    mutating func receive(_ socket: TCPSocket, _ limit: Int, _ now: UInt64) -> ReceiveResult {
        tcp.receive(socket, limit: limit, ip: &ip, now: now)
    }
    mutating func shutdown(_ socket: TCPSocket, _ now: UInt64) { tcp.shutdownSend(socket, ip: &ip, now: now) }
    mutating func close(_ socket: TCPSocket, _ reset: Bool, _ now: UInt64) {
        tcp.close(socket, lingerReset: reset, ip: &ip, events: &events, now: now)
    }
    mutating func reserve(_ local: SocketAddress, reuse: Bool) throws(DemikernelError) -> SocketAddress {
        try tcp.reserve(local: local, reuse: reuse, ip: &ip)
    }
}

/// A host in a test: a stack, what it has said about its sockets, and the bytes that came.
final class TCPHost {
    var stack: NetworkStack
    let address: IPAddress
    private var seen: [UInt32: SocketEvent.Kinds] = [:]
    private var nextTag: UInt32 = 1
    /// ICMP errors that are on their way: the quoted 8 bytes, and the MTU.
    var pendingErrors: [([UInt8], UInt16)] = []

    init(_ address: IPAddress, _ mac: UInt64, peers: [(IPAddress, UInt64)], _ tcp: TCPConfiguration, mtu: Int, heap: HeapReference, seed: UInt64)
        throws
    {
        var settings = NetworkConfiguration(addresses: [.init(address, prefixLength: address.isIPv4 ? 24 : 64)])
        settings.announcesAddresses = false
        settings.addsLinkLocalAddress = false
        settings.staticNeighbours = peers.map { .init($0.0, MACAddress($0.1)) }
        settings.tcp = tcp
        settings.tagsMaximum = 1 << 16
        let device = NetworkDeviceCapabilities(address: mac, maximumTransmissionUnit: mtu, name: "test")
        stack = try NetworkStack(settings, heap: heap, device: device, entropy: NetworkEntropy(seed: seed), now: 0)
        self.address = address
    }

    func tag() -> UInt32 {
        nextTag += 1
        return nextTag
    }

    func collect() {
        while let event = stack.events.popFirst() { seen[event.tag, default: []].formUnion(event.kinds) }
    }

    /// What has been announced about a socket since it was asked last.
    func events(_ tag: UInt32) -> SocketEvent.Kinds {
        collect()
        return seen.removeValue(forKey: tag) ?? []
    }

    func hasSeen(_ kinds: SocketEvent.Kinds, _ tag: UInt32) -> Bool {
        collect()
        return seen[tag, default: []].isSuperset(of: kinds)
    }
}

/// A frame on the link between the two hosts.
struct LinkFrame {
    /// 0 for frames from host 0 to host 1.
    let direction: Int
    /// How many went that way before.
    let number: Int
    var bytes: [UInt8]

    /// Where the TCP header begins; frames here have no tags and no IP options.
    var transport: Int { bytes[14] >> 4 == 4 ? 34 : 54 }
    private func word(_ offset: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 << 8 | UInt32(bytes[transport + offset + $1]) }
    }
    var isTCP: Bool { bytes.count >= 54 && (bytes[14] >> 4 == 4 ? bytes[23] == 6 : bytes[20] == 6) }
    var sequence: SequenceNumber { SequenceNumber(word(4)) }
    var acknowledgment: SequenceNumber { SequenceNumber(word(8)) }
    var flags: TCPFlags { TCPFlags(rawValue: UInt16(truncatingIfNeeded: word(12) >> 16) & 0x1ff) }
    var window: Int { Int(word(12) & 0xffff) }
    var headerLength: Int { Int(bytes[transport + 12] >> 4) * 4 }
    var payloadLength: Int { bytes.count - transport - headerLength }
    var sourcePort: UInt16 { UInt16(truncatingIfNeeded: word(0) >> 16) }
    var destinationPort: UInt16 { UInt16(truncatingIfNeeded: word(0)) }
    var options: TCPOptions {
        var copy = Array(bytes[(transport + 20)..<(transport + headerLength)])
        return unsafe copy.withUnsafeMutableBytes { buffer in
            guard let start = buffer.baseAddress else { return TCPOptions() }
            return unsafe TCPOptions(parsing: PacketBytes(start: start, count: buffer.count))
        }
    }
}

/// Two hosts, a link and virtual time: what happens is decided by `link`, which answers the delays after which a frame arrives (none: it is lost;
/// two: twice).
final class TCPWorld {
    let heap: Heap
    var hosts: [TCPHost] = []
    var now: UInt64 = 1_000_000_000
    var delay: UInt64 = 50_000
    var link: ((LinkFrame) -> [UInt64])?
    /// Every frame that was sent, with its time.
    var log: [(time: UInt64, frame: LinkFrame)] = []
    var keepsLog = true

    private struct Flight {
        let time: UInt64
        let order: Int
        let frame: LinkFrame
    }
    private var flights: [Flight] = []
    private var order = 0
    private var sent = [0, 0]

    init(
        _ left: TCPConfiguration = TCPConfiguration(), _ right: TCPConfiguration? = nil, mtu: Int = 1500, ipv6: Bool = false, seed: UInt64 = 1,
        heapBytes: Int = 256 << 20
    ) throws {
        var configuration = HeapConfiguration()
        configuration.limit = heapBytes
        configuration.hugePages = .never
        configuration.lockPages = false
        heap = try Heap(configuration)
        let isCurrent = heap.makeCurrent()
        #expect(isCurrent)
        let addresses = ipv6
            ? [IPAddress(high: 0x2001_0db8 << 32, low: 1), IPAddress(high: 0x2001_0db8 << 32, low: 2)]
            : [IPAddress(ipv4: 0x0a00_0001), IPAddress(ipv4: 0x0a00_0002)]
        let macs: [UInt64] = [0x0200_0000_0001, 0x0200_0000_0002]
        for index in 0..<2 {
            hosts.append(
                try TCPHost(
                    addresses[index], macs[index], peers: [(addresses[1 - index], macs[1 - index])], index == 0 ? left : right ?? left, mtu: mtu,
                    heap: heap.reference, seed: seed &* 2 &+ UInt64(index)))
        }
    }

    deinit { heap.resign() }

    /// Ends both stacks; answers how many heap objects are left.
    func liveObjectsAfterEnd() -> Int {
        hosts = []
        return heap.statistics.liveObjects
    }

    // MARK: - Time

    /// What the hosts have to send goes on the link.
    func collectFrames() {
        for index in 0..<2 {
            while !hosts[index].stack.ip.outgoing.isEmpty {
                let frame = hosts[index].stack.ip.outgoing.removeFirst()
                var bytes = [UInt8](repeating: 0, count: frame.byteCount)
                _ = unsafe bytes.withUnsafeMutableBytes { unsafe frame.copyBytes(to: $0) }
                frame.release()
                put(LinkFrame(direction: index, number: sent[index], bytes: bytes))
                sent[index] += 1
            }
            hosts[index].collect()
        }
    }

    /// Puts a frame on the link, as a host or a stranger would.
    func put(_ frame: LinkFrame) {
        if keepsLog { log.append((now, frame)) }
        for delay in link?(frame) ?? [delay] {
            flights.append(Flight(time: now + delay, order: order, frame: frame))
            order += 1
        }
    }

    /// The next thing happens; false where nothing ever will, or not before `limit`.
    func step(limit: UInt64) -> Bool {
        collectFrames()
        var next = flights.map(\.time).min() ?? .max
        for host in hosts { next = min(next, host.stack.nextDeadline() ?? .max) }
        guard next != .max, max(next, now) <= limit else { return false }
        now = max(now, next)
        for index in 0..<2 { hosts[index].stack.poll(now: now) }
        let due = flights.filter { $0.time <= now }.sorted { $0.time == $1.time ? $0.order < $1.order : $0.time < $1.time }
        flights.removeAll { $0.time <= now }
        for index in 0..<2 {
            var burst = FrameBurst(capacity: 64, heap: heap.reference)
            for flight in due where flight.frame.direction == 1 - index {
                let bytes = flight.frame.bytes
                let fits = unsafe burst.append(byteCount: bytes.count) { target in unsafe target.copyBytes(from: bytes) }
                #expect(fits)
                if burst.isFull { hosts[index].stack.receive(&burst, now: now) }
            }
            if !burst.isEmpty { hosts[index].stack.receive(&burst, now: now) }
        }
        for (quoted, mtu) in hosts[0].pendingErrors {
            hosts[0].stack.reportTooBig(quoted, source: hosts[0].address, destination: hosts[1].address, mtu: mtu, now: now)
        }
        hosts[0].pendingErrors = []
        collectFrames()
        return true
    }

    /// Until `condition`, or nothing happens any more, or `limit` ns have passed.
    func run(for limit: UInt64 = 600_000_000_000, until condition: () -> Bool = { false }) {
        let end = now + limit
        var steps = 0
        while !condition(), steps < 2_000_000, step(limit: end) { steps += 1 }
        if !condition(), now < end, flights.isEmpty == false { now = end }
    }

    /// Lets time pass.
    func pass(_ nanoseconds: UInt64) {
        let end = now + nanoseconds
        while step(limit: end) {}
        now = end
        for host in hosts { host.stack.poll(now: now) }
        collectFrames()
    }

    // MARK: - Sockets

    func listen(_ host: Int, port: UInt16 = 80, backlog: Int = 16, _ options: TCPSocketOptions = TCPSocketOptions()) throws -> (TCPSocket, UInt32) {
        let tag = hosts[host].tag()
        let local = SocketAddress(hosts[host].address, port: port)
        let socket = try hosts[host].stack.listen(local, backlog, options, tag)
        return (socket, tag)
    }

    func connect(_ host: Int, port: UInt16 = 80, from: UInt16? = nil, _ options: TCPSocketOptions = TCPSocketOptions()) throws -> (TCPSocket, UInt32) {
        let tag = hosts[host].tag()
        let remote = SocketAddress(hosts[1 - host].address, port: port)
        let local = from.map { SocketAddress(hosts[host].address, port: $0) }
        let socket = try hosts[host].stack.connect(local, remote, options, tag, now)
        return (socket, tag)
    }

    func accept(_ host: Int, _ listener: TCPSocket) -> (TCPSocket, UInt32)? {
        let tag = hosts[host].tag()
        return hosts[host].stack.tcp.accept(listener, tag: tag).map { ($0, tag) }
    }

    /// A connection from host 0 to host 1, both ends, and the listener.
    func open(_ options: TCPSocketOptions = TCPSocketOptions(), port: UInt16 = 80) throws -> (client: TCPSocket, server: TCPSocket, listener: TCPSocket) {
        let (listener, listenerTag) = try listen(1, port: port, options)
        let (client, tag) = try connect(0, port: port, options)
        run(for: 30_000_000_000) { hosts[0].hasSeen(.connected, tag) && hosts[1].hasSeen(.acceptable, listenerTag) }
        let (server, _) = try required(accept(1, listener))
        return (client, server, listener)
    }

    func send(_ host: Int, _ socket: TCPSocket, _ bytes: [UInt8]) -> SendResult {
        let segment = heap.allocateSegment(max(1, bytes.count))
        guard !segment.isNull else { return .failed(12) }
        unsafe segment.bytes.copyBytes(from: bytes)
        var whole = segment
        whole.trimLast(segment.byteCount - bytes.count)
        let result = hosts[host].stack.send(socket, .single(whole), now)
        if result != .taken { whole.release() }
        return result
    }

    enum Reading: Equatable {
        case bytes([UInt8])
        case empty, end
        case failed(Int32)
    }

    func read(_ host: Int, _ socket: TCPSocket, limit: Int = 0) -> Reading {
        switch hosts[host].stack.receive(socket, limit, now) {
        case .segments(let list):
            var bytes = [UInt8](repeating: 0, count: list.byteCount)
            _ = unsafe bytes.withUnsafeMutableBytes { unsafe list.copyBytes(to: $0) }
            list.releaseAll()
            return .bytes(bytes)
        case .empty: return .empty
        case .endOfStream: return .end
        case .failed(let error): return .failed(error)
        }
    }

    /// Everything that has come.
    func readAll(_ host: Int, _ socket: TCPSocket) -> [UInt8] {
        var all: [UInt8] = []
        while case .bytes(let bytes) = read(host, socket) { all += bytes }
        return all
    }

    /// What has come when it is `count` bytes, nothing happens any more, or the time is up.
    func read(_ count: Int, _ host: Int, _ socket: TCPSocket, within limit: UInt64) -> [UInt8] {
        var all: [UInt8] = []
        run(for: limit) {
            all += readAll(host, socket)
            return all.count >= count
        }
        return all
    }

    func shutdown(_ host: Int, _ socket: TCPSocket) {
        hosts[host].stack.shutdown(socket, now)
    }

    func close(_ host: Int, _ socket: TCPSocket, reset: Bool = false) {
        hosts[host].stack.close(socket, reset, now)
    }

    func state(_ host: Int, _ socket: TCPSocket) -> TCPState { hosts[host].stack.tcp.information(socket).state }
    func information(_ host: Int, _ socket: TCPSocket) -> TCPInformation { hosts[host].stack.tcp.information(socket) }
    func counters(_ host: Int) -> TCPCounters { hosts[host].stack.tcp.counters }

    /// Frames from `direction` since the log was cleared.
    func frames(_ direction: Int) -> [LinkFrame] { log.map(\.frame).filter { $0.direction == direction && $0.isTCP } }
}

// MARK: - Strangers

extension TCPWorld {
    /// A segment that somebody makes up, as it would come from host `direction`; ports as in that host's frames.
    func forge(
        _ direction: Int, _ sourcePort: UInt16, _ destinationPort: UInt16, _ sequence: SequenceNumber, _ acknowledgment: SequenceNumber,
        _ flags: TCPFlags, window: UInt16 = 65_535, options: TCPOptions = TCPOptions(), payload: [UInt8] = [], rawOptions: [UInt8]? = nil
    ) -> LinkFrame {
        let optionsLength = rawOptions?.count ?? options.byteCount
        let length = 20 + optionsLength + payload.count
        var bytes = [UInt8](repeating: 0, count: 34 + length)
        let source = hosts[direction].address
        let destination = hosts[1 - direction].address
        unsafe bytes.withUnsafeMutableBytes { buffer in
            guard let start = buffer.baseAddress else { return }
            let packet = unsafe PacketBytes(start: start, count: buffer.count)
            EthernetHeader(
                destination: MACAddress(0x0200_0000_0002 - UInt64(direction)), source: MACAddress(0x0200_0000_0001 + UInt64(direction)),
                etherType: .ipv4
            ).emit(into: packet)
            IPv4Header(source: source.ipv4, destination: destination.ipv4, ipProtocol: .tcp, payloadLength: length).emit(
                into: packet.slice(from: 14))
            let segment = packet.slice(from: 34)
            let header = TCPHeader(
                sourcePort: sourcePort, destinationPort: destinationPort, sequenceNumber: sequence, acknowledgmentNumber: acknowledgment,
                flags: flags, window: window)
            if let rawOptions {
                header.emit(into: segment, optionsLength: optionsLength)
                for (index, byte) in rawOptions.enumerated() { segment.store8(byte, at: 20 + index) }
            } else {
                header.emit(into: segment, options: options)
            }
            for (index, byte) in payload.enumerated() { segment.store8(byte, at: 20 + optionsLength + index) }
            TCPHeader.storeChecksum(
                in: segment,
                sum: InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: .tcp, length: length))
        }
        return LinkFrame(direction: direction, number: 0, bytes: bytes)
    }

    /// What was sent last by a host, with the numbers that its next segment would have.
    func lastFrame(_ direction: Int) -> LinkFrame? { log.last { $0.frame.direction == direction && $0.frame.isTCP }?.frame }

    func clearLog() { log = [] }
}
