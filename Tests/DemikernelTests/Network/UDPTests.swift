import Testing
import TestSupport
@testable import Demikernel

@Suite struct UDPTests {
    private func host() throws -> NetworkHost {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        return host
    }

    // MARK: Data

    @Test(arguments: [0, 1, 8, 511, 512, 513, 1472])
    func `a datagram comes and goes as it is, checksum included (RFC 768)`(count: Int) throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000", tag: 9)
        host.receive(datagram(pattern(count)))
        #expect(host.events() == [SocketEvent(tag: 9, kinds: .readable)])
        let taken = try required(host.take(socket))
        #expect(taken.bytes == pattern(count) && taken.source == "10.0.0.2:2000")
        #expect(host.take(socket) == nil)
        let frames = try host.send(socket, pattern(count), to: "10.0.0.2:2000")
        let sent = try #require(frames.first?.udp)
        #expect(sent.payload == pattern(count) && sent.source == 1000 && sent.destination == 2000)
        #expect(frames[0].ipv4?.timeToLive == 64 && frames[0].ipv4?.dontFragment == true)
        #expect(host.end() == 0)
    }

    @Test(arguments: [1, 400])
    func `a datagram of several pieces is one`(count: Int) throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        var list = SegmentList.empty
        for number in 0..<3 {
            let segment = host.payload([UInt8](repeating: UInt8(number), count: count)).first
            let isAdded = host.heap.reference.append(segment, to: &list)
            #expect(isAdded)
        }
        try host.stack.udp.send(socket, list, to: SocketAddress("10.0.0.2:9")!, ip: &host.stack.ip, now: host.now)
        #expect(host.sent().compactMap { $0.udp?.payload.count } == [3 * count])
        #expect(host.end() == 0)
    }

    @Test func `what is not copied is the application's own memory`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        let list = host.payload(pattern(1000))
        list.first.retain()
        try host.stack.udp.send(socket, list, to: SocketAddress("10.0.0.2:9")!, ip: &host.stack.ip, now: host.now)
        let address = host.stack.ip.outgoing[0].rest.first.address
        #expect(address == list.first.address)
        list.first.release()
        _ = host.sent()
        #expect(host.end() == 0)
    }

    @Test func `what is received is the device's own memory`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        let before = host.heap.statistics.liveObjects
        host.receive(datagram(pattern(1000)))
        let during = host.heap.statistics.liveObjects
        #expect(during == before + 1)
        #expect(host.take(socket)?.bytes == pattern(1000))
        #expect(host.end() == 0)
    }

    @Test func `checksums are left to a device that fills them in`() throws {
        var host = try NetworkHost { _, device in device.fillsChecksums = true }
        try host.introduce(Peer.v4, Peer.mac)
        let socket = try host.bind("0.0.0.0:1000")
        for count in [4, 600] {
            let frame = try #require(try host.send(socket, pattern(count), to: "10.0.0.2:9").first)
            #expect(frame.offload == FrameOffload(flags: .partialChecksum, checksumStart: 34, checksumOffset: 6))
            // What the device does: the sum from the transport header on, over the pseudo-header's in the field.
            var bytes = frame.bytes
            let checksum = referenceChecksum(Array(bytes[34...]))
            bytes[40] = UInt8(checksum >> 8)
            bytes[41] = UInt8(checksum & 0xff)
            #expect(SentFrame(bytes: bytes).udp?.payload == pattern(count))
        }
        #expect(host.end() == 0)
    }

    // MARK: Bad datagrams

    @Test func `a datagram whose checksum is wrong is dropped, one without is taken over IPv4 alone (RFC 768; RFC 8200, section 8.1)`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        let socket6 = try host.bind("[::]:1000", tag: 2)
        for byte in 42..<60 {
            var frame = datagram(pattern(20))
            frame[byte] ^= 0x40
            host.receive(frame)
            #expect(host.take(socket) == nil)
        }
        var frame = datagram(pattern(20))
        (frame[40], frame[41]) = (0, 0)
        host.receive(frame)
        #expect(host.take(socket)?.bytes == pattern(20))
        frame = datagram(pattern(20), from: Peer.v6)
        host.receive(frame)
        #expect(host.take(socket6)?.bytes == pattern(20))
        (frame[60], frame[61]) = (0, 0)
        host.receive(frame)
        #expect(host.take(socket6) == nil)
        let bad = host.stack.udp.counters.badChecksum
        #expect(bad == 19)
        #expect(host.end() == 0)
    }

    @Test(arguments: [FrameOffload.Flags.checksumIsValid, .partialChecksum])
    func `a checksum that the device vouches for is not looked at`(flag: FrameOffload.Flags) throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        var frame = datagram(pattern(20))
        frame[41] ^= 1
        host.receive(frame, offload: FrameOffload(flags: flag))
        #expect(host.take(socket) != nil)
        #expect(host.end() == 0)
    }

    @Test func `a reliable device's checksums are trusted where the settings say so, and only there`() throws {
        for trusts in [false, true] {
            var host = try NetworkHost { configuration, device in
                device.isReliable = true
                configuration.trustsReliableDevice = trusts
            }
            let socket = try host.bind("0.0.0.0:1000")
            var frame = datagram(pattern(20))
            frame[41] ^= 1
            host.receive(frame)
            #expect((host.take(socket) != nil) == trusts)
            #expect(host.end() == 0)
        }
    }

    @Test func `lengths that contradict the packet are dropped; what is behind the datagram is no part of it`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        for length: UInt8 in [0, 7, 29, 255] {
            var content = udp(pattern(20))
            content[5] = length
            host.receive(ethernet(.ipv4, ipv4(.udp, content)))
            #expect(host.take(socket) == nil)
        }
        for length in 0..<8 { host.receive(ethernet(.ipv4, ipv4(.udp, Array(udp([])[..<length])))) }
        let malformed = host.stack.udp.counters.malformed
        #expect(malformed == 12)
        host.receive(ethernet(.ipv4, ipv4(.udp, udp([1, 2]) + [9, 9, 9])))
        #expect(host.take(socket)?.bytes == [1, 2])
        #expect(host.end() == 0)
    }

    @Test func `a full socket drops and counts, and takes again when it was read`() throws {
        var host = try NetworkHost { configuration, _ in configuration.udp.receiveDatagrams = 4 }
        let socket = try host.bind("0.0.0.0:1000")
        let other = try host.bind("0.0.0.0:1001", tag: 2)
        for number in 0..<6 { host.receive(datagram([UInt8(number)])) }
        host.receive(datagram([77], to: nil, 1001))
        #expect(host.take(other)?.bytes == [77])
        let (drops, total) = (host.stack.udp.drops(socket), host.stack.udp.counters.receiveDrops)
        #expect(drops == 2 && total == 2)
        for number in 0..<4 { #expect(host.take(socket)?.bytes == [UInt8(number)]) }
        host.receive(datagram([9]))
        #expect(host.take(socket)?.bytes == [9])
        #expect(host.end() == 0)
    }

    @Test func `a socket holds so many bytes of frames, and all sockets so many datagrams`() throws {
        var host = try NetworkHost { configuration, _ in
            configuration.udp.receiveBytes = 3000
            configuration.udp.datagramsMaximum = 5
        }
        let large = try host.bind("0.0.0.0:1000")
        for _ in 0..<10 { host.receive(datagram(pattern(1400))) }
        var count = 0
        while host.take(large) != nil { count += 1 }
        #expect(count == 3)
        let small = try host.bind("0.0.0.0:1001")
        for _ in 0..<10 { host.receive(datagram([1], 2000, to: NetworkHost.v4, 1001)) }
        count = 0
        while host.take(small) != nil { count += 1 }
        #expect(count == 5)
        #expect(host.end() == 0)
    }

    // MARK: Sending

    @Test func `errors of send, after which the memory is the caller's`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        #expect(throws: DemikernelError(.messageTooLong, "")) { try host.send(socket, pattern(65_508), to: "10.0.0.2:9") }
        #expect(throws: DemikernelError(.addressRequired, "")) { try host.send(socket, [1]) }
        #expect(throws: DemikernelError(.addressFamilyNotSupported, "")) { try host.send(socket, [1], to: "[fd00::2]:9") }
        #expect(throws: DemikernelError(.networkUnreachable, "")) { try host.send(socket, [1], to: "0.1.1.1:9") }
        #expect(throws: DemikernelError(.invalidArgument, "")) { try host.send(socket, [1], to: "10.0.0.2:0") }
        host.stack.udp.close(socket, events: &host.stack.events)
        #expect(throws: DemikernelError(.badFileDescriptor, "")) { try host.send(socket, [1], to: "10.0.0.2:9") }
        #expect(host.end() == 0)
    }

    @Test func `a full queue of frames is back-pressure, not loss`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        let address = SocketAddress("10.0.0.2:9")!
        var sent = 0
        while true {
            let list = host.payload([1])
            do {
                try host.stack.udp.send(socket, list, to: address, ip: &host.stack.ip, now: host.now)
                sent += 1
            } catch {
                #expect(error.errno == .resourceTemporarilyUnavailable)
                list.releaseAll()
                break
            }
        }
        #expect(sent == 256)
        #expect(host.sent().count == 256)
        #expect(try host.send(socket, [1], to: "10.0.0.2:9").count == 1)
        #expect(host.end() == 0)
    }

    @Test func `broadcasts and groups (RFC 919; RFC 1112, section 6.4)`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        for destination in ["255.255.255.255", "10.0.0.255"] {
            let frame = try #require(try host.send(socket, [1], to: "\(destination):9").first)
            #expect(frame.ethernet.destination == .broadcast && frame.ipv4?.destinationAddress == IPAddress(destination)!)
        }
        let frame = try #require(try host.send(socket, [1], to: "239.129.2.3:9").first)
        #expect(frame.ethernet.destination == MACAddress("01:00:5e:01:02:03")!)
        #expect(frame.ipv4?.timeToLive == 1)
        #expect(host.end() == 0)
    }

    // MARK: Names

    @Test func `ports: taken, shared, free`() throws {
        var host = try host()
        _ = try host.bind("10.0.0.1:1000")
        #expect(throws: DemikernelError(.addressInUse, "")) { _ = try host.bind("10.0.0.1:1000") }
        #expect(throws: DemikernelError(.addressInUse, "")) { _ = try host.bind("0.0.0.0:1000") }
        #expect(throws: DemikernelError(.addressInUse, "")) { _ = try host.bind("0.0.0.0:1000", reuse: true) }
        // Another address of this host, another family.
        _ = try host.bind("127.0.0.1:1000")
        _ = try host.bind("[::]:1000")
        #expect(throws: DemikernelError(.addressNotAvailable, "")) { _ = try host.bind("10.0.0.9:1000") }
        let first = try host.bind("0.0.0.0:2000", reuse: true, tag: 5)
        let second = try host.bind("0.0.0.0:2000", reuse: true, tag: 6)
        host.receive(datagram([1], 9, to: NetworkHost.v4, 2000))
        #expect(host.take(first) == nil)
        #expect(host.take(second)?.bytes == [1])
        host.stack.udp.close(second, events: &host.stack.events)
        host.receive(datagram([2], 9, to: NetworkHost.v4, 2000))
        #expect(host.take(first)?.bytes == [2])
        #expect(host.end() == 0)
    }

    @Test func `port 0 is one of the dynamic ports that is free, until there is none (RFC 6335, section 6)`() throws {
        var host = try host()
        var ports = Set<UInt16>()
        for _ in 0..<16_384 {
            let socket = try host.bind("0.0.0.0:0")
            ports.insert(try required(host.stack.udp.localAddress(socket)).port)
        }
        #expect(ports.count == 16_384 && ports.min() == 49_152 && ports.max() == 65_535)
        #expect(throws: DemikernelError(.addressInUse, "")) { _ = try host.bind("0.0.0.0:0") }
        #expect(host.end() == 0)
    }

    @Test func `the peer's socket first, then the address's, then the wildcard's`() throws {
        var host = try host()
        let wildcard = try host.bind("0.0.0.0:1000", reuse: true, tag: 1)
        let bound = try host.bind("10.0.0.1:1000", reuse: true, tag: 2)
        let connected = try host.bind("10.0.0.1:1000", reuse: true, tag: 3)
        try host.stack.udp.connect(connected, to: SocketAddress("10.0.0.2:2000")!, ip: &host.stack.ip)
        host.receive(datagram([1]))
        host.receive(datagram([2], 2001))
        host.receive(datagram([3], from: IPAddress("10.0.0.3")!))
        #expect(host.take(connected)?.bytes == [1])
        #expect(host.take(bound)?.bytes == [2])
        #expect(host.take(bound)?.bytes == [3])
        host.stack.udp.close(bound, events: &host.stack.events)
        host.receive(datagram([4], 2001))
        #expect(host.take(wildcard)?.bytes == [4])
        #expect(host.take(connected) == nil)
        #expect(host.end() == 0)
    }

    @Test func `connecting, connecting anew, and dissolving`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        try host.stack.udp.connect(socket, to: SocketAddress("10.0.0.2:2000")!, ip: &host.stack.ip)
        #expect(host.stack.udp.localAddress(socket) == SocketAddress("10.0.0.1:1000")!)
        #expect(host.stack.udp.remoteAddress(socket) == SocketAddress("10.0.0.2:2000")!)
        #expect(try host.send(socket, [1]).first?.udp?.destination == 2000)
        host.receive(datagram([9], 2001))
        #expect(host.take(socket) == nil)
        try host.stack.udp.connect(socket, to: SocketAddress("10.0.0.2:2001")!, ip: &host.stack.ip)
        host.receive(datagram([9], 2001))
        #expect(host.take(socket)?.bytes == [9])
        try host.stack.udp.disconnect(socket)
        #expect(host.stack.udp.localAddress(socket) == SocketAddress("0.0.0.0:1000")!)
        host.receive(datagram([10], 2005))
        #expect(host.take(socket)?.bytes == [10])
        #expect(throws: DemikernelError(.addressRequired, "")) { try host.send(socket, [1]) }
        #expect(host.end() == 0)
    }

    @Test func `a closed socket's number does not reach the next one`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000", tag: 7)
        host.receive(datagram([1]))
        host.stack.udp.close(socket, events: &host.stack.events)
        host.stack.udp.close(socket, events: &host.stack.events)
        #expect(host.events().isEmpty)
        let next = try host.bind("0.0.0.0:1000", tag: 7)
        #expect(host.take(socket) == nil && host.take(next) == nil)
        #expect(host.stack.udp.localAddress(socket) == nil)
        let count = host.stack.udp.socketCount
        #expect(count == 1)
        #expect(host.end() == 0)
    }

    @Test func `many connections on one port are told apart`() throws {
        var host = try host()
        var sockets: [UDPSocket] = []
        for number in 0..<500 {
            let socket = try host.bind("10.0.0.1:1000", reuse: true, tag: UInt32(number))
            try host.stack.udp.connect(socket, to: SocketAddress("10.0.0.2:\(3000 + number)")!, ip: &host.stack.ip)
            sockets.append(socket)
        }
        for number in 0..<500 where number % 3 == 0 { host.stack.udp.close(sockets[number], events: &host.stack.events) }
        for number in 0..<500 { host.receive(datagram([UInt8(number & 255)], UInt16(3000 + number))) }
        for number in 0..<500 { #expect(host.take(sockets[number])?.bytes == (number % 3 == 0 ? nil : [UInt8(number & 255)])) }
        #expect(host.end() == 0)
    }

    @Test func `a broadcast reaches every socket of its port (RFC 1122, section 4.1.3.5)`() throws {
        var host = try host()
        let first = try host.bind("0.0.0.0:1000", reuse: true)
        let second = try host.bind("0.0.0.0:1000", reuse: true)
        let bound = try host.bind("10.0.0.1:1000", reuse: true)
        host.receive(datagram([5], to: IPAddress("10.0.0.255")!, link: .broadcast))
        #expect(host.take(first)?.bytes == [5] && host.take(second)?.bytes == [5])
        #expect(host.take(bound) == nil)
        // Nobody answers a broadcast with an error.
        #expect(host.receive(datagram([5], to: IPAddress("10.0.0.255")!, 1234, link: .broadcast)).isEmpty)
        #expect(host.end() == 0)
    }

    @Test func `a closed port of the host itself refuses at once`() throws {
        var host = try host()
        let socket = try host.bind("127.0.0.1:1000", tag: 3)
        try host.stack.udp.connect(socket, to: SocketAddress("127.0.0.1:7")!, ip: &host.stack.ip)
        try host.send(socket, [1])
        host.stack.poll(now: host.now)
        #expect(host.events() == [SocketEvent(tag: 3, kinds: .failed)])
        let error = host.stack.udp.pendingError(socket)
        #expect(error == 111)
        #expect(host.end() == 0)
    }

    @Test func `events: each tag once, until it is looked at`() throws {
        var events = try SocketEvents(tags: 100)
        for round in 0..<1000 {
            events.append(.readable, tag: UInt32(round % 7))
            events.append(.writable, tag: 3)
        }
        var taken: [SocketEvent] = []
        while let event = events.popFirst() { taken.append(event) }
        #expect(taken.map(\.tag) == [0, 3, 1, 2, 4, 5, 6])
        #expect(taken[1].kinds == [.readable, .writable])
        events.append(.readable, tag: 5)
        events.forget(tag: 5)
        for _ in 0..<1000 {
            events.append(.failed, tag: 5)
            events.forget(tag: 5)
        }
        events.append(.readable, tag: .max)
        let last = events.popFirst()
        #expect(last == nil)
    }
}
