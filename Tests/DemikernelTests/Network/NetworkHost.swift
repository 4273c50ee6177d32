import Testing
import TestSupport
@testable import Demikernel

/// One stack in virtual time, and the other end of its wire.
///
/// The host is 02:00:00:00:00:01, 10.0.0.1/24 and fd00::1/64, with gateways 10.0.0.254 and fd00::fe.
struct NetworkHost: ~Copyable {
    static var mac: MACAddress { MACAddress(0x0200_0000_0001) }
    static var v4: IPAddress { IPAddress("10.0.0.1")! }
    static var v6: IPAddress { IPAddress("fd00::1")! }

    let heap: Heap
    var stack: NetworkStack
    var now: UInt64 = 1_000_000_000

    init(_ change: (inout NetworkConfiguration, inout NetworkDeviceCapabilities) -> Void = { _, _ in }) throws {
        let heap = try Heap(HeapConfiguration(limit: 64 << 20))
        heap.makeCurrent()
        var configuration = NetworkConfiguration(addresses: [
            .init(NetworkHost.v4, prefixLength: 24), .init(NetworkHost.v6, prefixLength: 64),
        ])
        configuration.gatewayIPv4 = IPAddress("10.0.0.254")!
        configuration.gatewayIPv6 = IPAddress("fd00::fe")!
        configuration.announcesAddresses = false
        var device = NetworkDeviceCapabilities(address: NetworkHost.mac.rawValue, name: "wire")
        change(&configuration, &device)
        stack = try NetworkStack(configuration, heap: heap.reference, device: device, entropy: NetworkEntropy(seed: 5), now: 1_000_000_000)
        self.heap = heap
    }

    /// A frame comes in; answers what goes out.
    @discardableResult
    mutating func receive(_ frame: [UInt8], offload: FrameOffload = .none) -> [SentFrame] { receive([frame], offload: offload) }

    @discardableResult
    mutating func receive(_ frames: [[UInt8]], offload: FrameOffload = .none) -> [SentFrame] {
        var burst = FrameBurst(capacity: max(1, frames.count), heap: heap.reference)
        for frame in frames {
            let segment = heap.allocateSegment(frame.count)
            guard !segment.isNull else { continue }
            unsafe segment.bytes.copyBytes(from: frame)
            burst.append(Frame(segment, offload: offload))
        }
        stack.receive(&burst, now: now)
        return sent()
    }

    /// Time passes; every timer that is due on the way runs. Answers what goes out.
    @discardableResult
    mutating func pass(milliseconds: UInt64) -> [SentFrame] {
        let end = now + milliseconds * 1_000_000
        var frames: [SentFrame] = []
        while let deadline = stack.nextDeadline(), deadline <= end {
            now = max(now, deadline)
            stack.poll(now: now)
            frames += sent()
        }
        now = end
        stack.poll(now: now)
        return frames + sent()
    }

    /// Takes what waits for the device.
    mutating func sent() -> [SentFrame] {
        var frames: [SentFrame] = []
        while !stack.ip.outgoing.isEmpty {
            let frame = stack.ip.outgoing.removeFirst()
            var bytes = [UInt8](repeating: 0, count: frame.byteCount)
            unsafe bytes.withUnsafeMutableBytes { _ = unsafe frame.copyBytes(to: $0) }
            frames.append(SentFrame(bytes: bytes, offload: frame.offload))
            frame.release()
        }
        return frames
    }

    /// The list of one segment with these bytes.
    func payload(_ bytes: [UInt8]) -> SegmentList {
        let segment = heap.allocateSegment(bytes.count)
        unsafe segment.bytes.copyBytes(from: bytes)
        return .single(segment)
    }

    mutating func bind(_ address: String, reuse: Bool = false, tag: UInt32 = 1) throws -> UDPSocket {
        try stack.udp.bind(SocketAddress(address)!, reuse: reuse, tag: tag, ip: &stack.ip)
    }

    @discardableResult
    mutating func send(_ socket: UDPSocket, _ bytes: [UInt8], to address: String? = nil) throws -> [SentFrame] {
        let list = payload(bytes)
        do {
            try stack.udp.send(socket, list, to: address.map { SocketAddress($0)! }, ip: &stack.ip, now: now)
        } catch {
            list.releaseAll()
            throw error
        }
        return sent()
    }

    /// The next datagram of a socket.
    mutating func take(_ socket: UDPSocket) -> (bytes: [UInt8], source: String)? {
        guard let (list, source) = stack.udp.receive(socket) else { return nil }
        var bytes = [UInt8](repeating: 0, count: list.byteCount)
        unsafe bytes.withUnsafeMutableBytes { _ = unsafe list.copyBytes(to: $0) }
        list.releaseAll()
        return (bytes, source.description)
    }

    mutating func events() -> [SocketEvent] {
        var events: [SocketEvent] = []
        while let event = stack.events.popFirst() { events.append(event) }
        return events
    }

    /// Makes the host know a station, as if it had asked for it.
    mutating func introduce(_ address: IPAddress, _ mac: MACAddress) throws {
        let socket = try stack.udp.bind(.any(address.isIPv4 ? .ipv4 : .ipv6, port: 0), reuse: false, tag: 999, ip: &stack.ip)
        let list = payload([0])
        try stack.udp.send(socket, list, to: SocketAddress(address, port: 9), ip: &stack.ip, now: now)
        _ = sent()
        if address.isIPv4 {
            receive(arp(.reply, from: mac, address, to: NetworkHost.mac, NetworkHost.v4))
        } else {
            receive(advertisement(of: address, from: mac, to: NetworkHost.v6, solicited: true))
        }
        stack.udp.close(socket, events: &stack.events)
    }

    /// The end: answers how many objects nobody has given back.
    consuming func end() -> Int {
        _ = consume stack
        return heap.shutdown().liveObjects
    }
}

/// A frame that has gone out.
struct SentFrame {
    let bytes: [UInt8]
    var offload = FrameOffload.none

    var ethernet: EthernetHeader { withPacket(bytes) { EthernetHeader(EthernetHeaderView($0)!) } }
    private func payload<Result>(_ body: (PacketBytes) -> Result) -> Result { withPacket(bytes) { body(EthernetHeaderView($0)!.payload) } }
    var type: EtherType { ethernet.etherType }

    var arp: ARPPacket? { type == .arp ? payload { ARPPacketView($0).map { ARPPacket($0) } } : nil }
    /// Where the checksum is right, too.
    var ipv4: IPv4Header? { type == .ipv4 ? payload { IPv4HeaderView($0).flatMap { $0.checksumIsValid ? IPv4Header($0) : nil } } : nil }
    var ipv6: IPv6Header? { type == .ipv6 ? payload { IPv6HeaderView($0).map { IPv6Header($0) } } : nil }
    /// What the IP packet carries.
    var content: [UInt8] {
        payload { packet in
            let view = type == .ipv4 ? IPv4HeaderView(packet)!.payload : IPv6HeaderView(packet)!.payload
            return (0..<view.count).map { view.load8($0) }
        }
    }

    /// The message, where its checksum is right.
    var icmpv4: ICMPv4? {
        guard ipv4?.ipProtocol == .icmp else { return nil }
        return withPacket(content) { ICMPView($0).flatMap { $0.checksumIsValid ? ICMPv4($0) : nil } }
    }
    var icmpv6: ICMPv6? {
        guard let header = ipv6, header.nextHeader == .icmpv6 else { return nil }
        return withPacket(content) { view in
            ICMPView(view).flatMap { $0.checksumIsValid(source: header.source, destination: header.destination) ? ICMPv6($0) : nil }
        }
    }
    var ndp: NDPMessage? {
        guard let header = ipv6, header.nextHeader == .icmpv6, icmpv6 != nil else { return nil }
        return withPacket(content) { ICMPView($0).flatMap { NDPMessage($0) } }
    }
    /// What an ICMP error quotes.
    var quoted: [UInt8] { Array(content.dropFirst(8)) }

    /// Ports and payload of a whole datagram, where its checksum is right or left to the device.
    var udp: (source: UInt16, destination: UInt16, payload: [UInt8])? {
        let addresses: (IPAddress, IPAddress)
        if let header = ipv4, header.ipProtocol == .udp {
            addresses = (header.sourceAddress, header.destinationAddress)
        } else if let header = ipv6, header.nextHeader == .udp {
            addresses = (header.source, header.destination)
        } else {
            return nil
        }
        return withPacket(content) { packet in
            guard let view = UDPHeaderView(packet) else { return nil }
            let pseudo = InternetChecksum.pseudoHeader(
                source: addresses.0, destination: addresses.1, ipProtocol: .udp, length: view.length)
            guard offload.flags.contains(.partialChecksum) || view.checksumIsValid(pseudoHeader: pseudo) else { return nil }
            return (view.sourcePort, view.destinationPort, (0..<view.payloadLength).map { view.payload.load8($0) })
        }
    }
}
