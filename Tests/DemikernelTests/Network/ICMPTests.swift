import Testing
import TestSupport
@testable import Demikernel

@Suite struct ICMPTests {
    private func host(_ change: (inout NetworkConfiguration, inout NetworkDeviceCapabilities) -> Void = { _, _ in }) throws -> NetworkHost {
        var host = try NetworkHost(change)
        try host.introduce(Peer.v4, Peer.mac)
        try host.introduce(Peer.v6, Peer.mac)
        try host.introduce(IPAddress("10.0.0.254")!, Peer.mac)
        return host
    }

    private func echo(_ count: Int = 56, from source: IPAddress = Peer.v4, to destination: IPAddress = NetworkHost.v4) -> [UInt8] {
        source.isIPv4
            ? ethernet(.ipv4, ipv4(.icmp, icmpv4(.echoRequest(identifier: 3, sequenceNumber: 4), pattern(count)), from: source, to: destination))
            : ethernet(
                .ipv6,
                ipv6(
                    .icmpv6, icmpv6(.echoRequest(identifier: 3, sequenceNumber: 4), pattern(count), from: source, to: destination), from: source,
                    to: destination))
    }

    /// An error about a datagram of `socket`'s, as a router sends it.
    private func error(_ message: ICMPv4, about frame: SentFrame, from router: IPAddress = IPAddress("10.0.0.254")!, quoting count: Int = 28) -> [UInt8] {
        ethernet(.ipv4, ipv4(.icmp, icmpv4(message, Array(frame.bytes.dropFirst(14).prefix(count))), from: router))
    }

    // MARK: Echo

    @Test(arguments: [0, 56, 1472])
    func `an echo request is answered with its data (RFC 792; RFC 1122, section 3.2.2.6)`(count: Int) throws {
        var host = try host()
        let answer = try #require(host.receive(echo(count)).first)
        #expect(answer.icmpv4 == .echoReply(identifier: 3, sequenceNumber: 4))
        #expect(answer.quoted == pattern(count))
        #expect(answer.ipv4?.destinationAddress == Peer.v4 && answer.ipv4?.sourceAddress == NetworkHost.v4)
        #expect(host.end() == 0)
    }

    @Test(arguments: [0, 56, 1452])
    func `an IPv6 echo request is answered with its data (RFC 4443, section 4.2)`(count: Int) throws {
        var host = try host()
        let answer = try #require(host.receive(echo(count, from: Peer.v6, to: NetworkHost.v6)).first)
        #expect(answer.icmpv6 == .echoReply(identifier: 3, sequenceNumber: 4))
        #expect(answer.quoted == pattern(count))
        #expect(host.end() == 0)
    }

    @Test func `an echo request in fragments is answered in fragments (RFC 1122, section 3.2.2.6)`() throws {
        var host = try host()
        let message = icmpv4(.echoRequest(identifier: 1, sequenceNumber: 2), pattern(4000))
        host.receive(ethernet(.ipv4, ipv4(.icmp, Array(message[..<2000]), offset: 0, more: true)))
        let answers = host.receive(ethernet(.ipv4, ipv4(.icmp, Array(message[2000...]), offset: 2000, more: false)))
        #expect(answers.count == 3)
        #expect(answers.flatMap(\.content).dropFirst(8) == pattern(4000)[...])
        #expect(host.end() == 0)
    }

    @Test func `damaged requests, and those to all, are not answered`() throws {
        var host = try host()
        var damaged = echo()
        damaged[50] ^= 1
        #expect(host.receive(damaged).isEmpty)
        let message = icmpv4(.echoRequest(identifier: 1, sequenceNumber: 2))
        for destination in ["10.0.0.255", "255.255.255.255"] {
            #expect(host.receive(ethernet(.ipv4, ipv4(.icmp, message, to: IPAddress(destination)!), to: .broadcast)).isEmpty)
        }
        for length in 0..<8 { #expect(host.receive(ethernet(.ipv4, ipv4(.icmp, Array(message[..<length])))).isEmpty) }
        let (bad, malformed) = (host.stack.ip.counters.icmpBadChecksum, host.stack.ip.counters.icmpMalformed)
        #expect(bad == 1 && malformed == 8)
        #expect(host.end() == 0)
    }

    @Test func `a flood of echo requests is answered so many times a second`() throws {
        var host = try host { configuration, _ in
            configuration.icmp.echoRepliesPerSecond = 100
            configuration.icmp.echoReplyBurst = 10
        }
        var answers = 0
        for _ in 0..<200 { answers += host.receive(echo()).count }
        #expect(answers == 10)
        host.pass(milliseconds: 50)
        for _ in 0..<200 { answers += host.receive(echo()).count }
        #expect(answers == 15)
        let limited = host.stack.ip.counters.echoRepliesLimited
        #expect(limited == 385)
        #expect(host.end() == 0)
    }

    @Test func `the host asks, and tells who has answered`() throws {
        var host = try host()
        try host.stack.ip.sendEcho(to: Peer.v4, identifier: 5, sequenceNumber: 6, dataBytes: 100, now: host.now)
        let request = try #require(host.sent().first)
        #expect(request.icmpv4 == .echoRequest(identifier: 5, sequenceNumber: 6) && request.quoted.count == 100)
        host.pass(milliseconds: 3)
        host.receive(ethernet(.ipv4, ipv4(.icmp, icmpv4(.echoReply(identifier: 5, sequenceNumber: 6), request.quoted))))
        let reply = try required(host.stack.ip.takeEchoReply())
        #expect(reply == EchoReply(source: Peer.v4, identifier: 5, sequenceNumber: 6, dataBytes: 100, hopLimit: 64, receivedAt: host.now))
        for number in 0..<40 {
            host.receive(ethernet(.ipv4, ipv4(.icmp, icmpv4(.echoReply(identifier: 5, sequenceNumber: UInt16(number))))))
        }
        var numbers: [UInt16] = []
        while let reply = host.stack.ip.takeEchoReply() { numbers.append(reply.sequenceNumber) }
        #expect(numbers == Array(24..<40))
        try host.stack.ip.sendEcho(to: Peer.v6, identifier: 5, sequenceNumber: 7, now: host.now)
        #expect(host.sent().first?.icmpv6 == .echoRequest(identifier: 5, sequenceNumber: 7))
        try host.stack.ip.sendEcho(to: IPAddress("127.0.0.1")!, identifier: 5, sequenceNumber: 8, now: host.now)
        host.stack.poll(now: host.now)
        #expect(host.stack.ip.takeEchoReply()?.sequenceNumber == 8)
        #expect(host.end() == 0)
    }

    // MARK: Errors that are sent

    @Test func `a closed port is answered with as much of the datagram as fits (RFC 1122, 4.1.3.1; RFC 1812, 4.3.2.3)`() throws {
        var host = try host()
        for count in [0, 100, 1472] {
            let frame = datagram(pattern(count))
            let answer = try #require(host.receive(frame).first)
            #expect(answer.icmpv4 == .destinationUnreachable(.port, nextHopMTU: 0))
            #expect(answer.quoted == Array(frame.dropFirst(14).prefix(548)))
        }
        let frame6 = datagram(pattern(1400), from: Peer.v6)
        let answer = try #require(host.receive(frame6).first)
        #expect(answer.icmpv6 == .destinationUnreachable(.port))
        #expect(answer.quoted == Array(frame6.dropFirst(14).prefix(1232)))
        #expect(host.end() == 0)
    }

    @Test func `a datagram in fragments to a closed port is answered with its own header`() throws {
        var host = try host()
        let content = udp(pattern(1000))
        host.receive(ethernet(.ipv4, ipv4(.udp, Array(content[..<800]), offset: 0, more: true)))
        let answer = try #require(host.receive(ethernet(.ipv4, ipv4(.udp, Array(content[800...]), offset: 800, more: false))).first)
        #expect(answer.icmpv4 == .destinationUnreachable(.port, nextHopMTU: 0))
        #expect(answer.quoted[20...] == content[..<528])
        #expect(host.end() == 0)
    }

    @Test func `errors are limited to so many a second (RFC 4443, section 2.4(f))`() throws {
        var host = try host { configuration, _ in
            configuration.icmp.errorsPerSecond = 10
            configuration.icmp.errorBurst = 5
        }
        var answers = 0
        for _ in 0..<50 { answers += host.receive(datagram([1])).count }
        #expect(answers == 5)
        host.pass(milliseconds: 1000)
        for _ in 0..<50 { answers += host.receive(datagram([1])).count }
        #expect(answers == 10)
        host.pass(milliseconds: 300)
        for _ in 0..<50 { answers += host.receive(datagram([1])).count }
        #expect(answers == 13)
        #expect(host.end() == 0)
    }

    @Test func `an error is never answered with an error (RFC 1122, section 3.2.2; RFC 4443, section 2.4(e))`() throws {
        var host = try host()
        // As the contents of an unknown protocol would be answered.
        let quoted = ipv4(IPProtocol(rawValue: 200), pattern(20), from: NetworkHost.v4, to: Peer.v4)
        for message in [ICMPv4.destinationUnreachable(.port, nextHopMTU: 0), .timeExceeded(code: 0), .other(type: 4, code: 0, rest: 0)] {
            #expect(host.receive(ethernet(.ipv4, ipv4(.icmp, icmpv4(message, quoted)))).isEmpty)
        }
        #expect(host.receive(ethernet(.ipv6, ipv6(.icmpv6, icmpv6(.other(type: 100, code: 0, rest: 0), quoted)))).isEmpty)
        #expect(host.end() == 0)
    }

    @Test func `redirects are counted and ignored`() throws {
        var host = try host()
        let quoted = ipv4(.udp, udp([1], from: NetworkHost.v4, to: Peer.far), from: NetworkHost.v4, to: Peer.far)
        host.receive(ethernet(.ipv4, ipv4(.icmp, icmpv4(.other(type: 5, code: 1, rest: Peer.v4.ipv4), quoted), from: IPAddress("10.0.0.254")!)))
        let ignored = host.stack.ip.counters.icmpRedirectsIgnored
        #expect(ignored == 1)
        #expect(host.end() == 0)
    }

    // MARK: Errors that come

    @Test func `an error about a connected socket's datagram is that socket's (RFC 1122, section 4.1.3.3)`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000", tag: 8)
        try host.stack.udp.connect(socket, to: SocketAddress("192.0.2.9:7")!, ip: &host.stack.ip)
        let cases: [(ICMPv4, Int32)] = [
            (.destinationUnreachable(.port, nextHopMTU: 0), 111), (.destinationUnreachable(.host, nextHopMTU: 0), 113),
            (.destinationUnreachable(.network, nextHopMTU: 0), 101), (.timeExceeded(code: 0), 113),
        ]
        for (message, errno) in cases {
            let frame = try #require(try host.send(socket, pattern(100)).first)
            host.receive(error(message, about: frame))
            #expect(host.events() == [SocketEvent(tag: 8, kinds: .failed)])
            let found = host.stack.udp.pendingError(socket)
            let again = host.stack.udp.pendingError(socket)
            #expect(found == errno && again == 0)
        }
        #expect(host.end() == 0)
    }

    @Test func `a connected socket that has sent nothing to this peer is told nothing (RFC 8085, section 5.2)`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000", tag: 8)
        try host.stack.udp.connect(socket, to: SocketAddress("192.0.2.9:7")!, ip: &host.stack.ip)
        let target = IPAddress("192.0.2.9")!
        let quoted = ipv4(.udp, udp(pattern(1400), from: NetworkHost.v4, 1000, to: target, 7), from: NetworkHost.v4, to: target)
        let errors: [ICMPv4] = [.destinationUnreachable(.port, nextHopMTU: 0), .destinationUnreachable(.fragmentationNeeded, nextHopMTU: 1000)]
        for error in errors { host.receive(ethernet(.ipv4, ipv4(.icmp, icmpv4(error, Array(quoted.prefix(28)))))) }
        let (found, mtus) = (host.stack.udp.pendingError(socket), host.stack.ip.pathMTUs.count)
        #expect(host.events().isEmpty && found == 0 && mtus == 0)
        // With another peer it is the same again.
        _ = try host.send(socket, [1])
        try host.stack.udp.connect(socket, to: SocketAddress("192.0.2.10:7")!, ip: &host.stack.ip)
        try host.stack.udp.connect(socket, to: SocketAddress("192.0.2.9:7")!, ip: &host.stack.ip)
        for error in errors { host.receive(ethernet(.ipv4, ipv4(.icmp, icmpv4(error, Array(quoted.prefix(28)))))) }
        let later = host.stack.udp.pendingError(socket)
        #expect(later == 0)
        #expect(host.end() == 0)
    }

    @Test func `an error about what was never sent changes nothing (RFC 5927)`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000", tag: 8)
        try host.stack.udp.connect(socket, to: SocketAddress("192.0.2.9:7")!, ip: &host.stack.ip)
        let message = ICMPv4.destinationUnreachable(.port, nextHopMTU: 0)
        let frame = try #require(try host.send(socket, pattern(100)).first)
        for byte in [26, 30, 34, 36] {
            var forged = frame.bytes
            forged[byte + 1] ^= 1
            host.receive(error(message, about: SentFrame(bytes: forged)))
        }
        for count in 0..<28 { host.receive(error(message, about: frame, quoting: count)) }
        var later = frame.bytes
        later[20] |= 1
        host.receive(error(message, about: SentFrame(bytes: later)))
        #expect(host.events().isEmpty)
        #expect(host.end() == 0)
    }

    // MARK: Path MTU

    @Test func `a smaller path MTU is believed, remembered for ten minutes, and datagrams go in fragments (RFC 1191, section 6.3)`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        let frame = try #require(try host.send(socket, pattern(1400), to: "192.0.2.9:7").first)
        host.receive(error(.destinationUnreachable(.fragmentationNeeded, nextHopMTU: 1000), about: frame))
        let path = try host.stack.ip.path(from: nil, to: Peer.far)
        #expect(path.mtu == 1000)
        let frames = try host.send(socket, pattern(1400), to: "192.0.2.9:7")
        #expect(frames.count == 2 && frames.allSatisfy { $0.bytes.count <= 1014 })
        // Others are not concerned.
        #expect(try host.stack.ip.path(from: nil, to: IPAddress("192.0.2.10")!).mtu == 1500)
        host.pass(milliseconds: 599_000)
        #expect(try host.stack.ip.path(from: nil, to: Peer.far).mtu == 1000)
        host.pass(milliseconds: 2_000)
        #expect(try host.stack.ip.path(from: nil, to: Peer.far).mtu == 1500)
        #expect(host.end() == 0)
    }

    @Test func `a router that does not say how much fits: the next plateau (RFC 1191, section 5)`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        let frame = try #require(try host.send(socket, pattern(1472), to: "192.0.2.9:7").first)
        host.receive(error(.destinationUnreachable(.fragmentationNeeded, nextHopMTU: 0), about: frame))
        #expect(try host.stack.ip.path(from: nil, to: Peer.far).mtu == 1492)
        #expect(host.end() == 0)
    }

    @Test func `path MTUs that cannot be true are not believed (RFC 5927, section 7; RFC 8201, section 4)`() throws {
        var host = try host()
        let socket = try host.bind("0.0.0.0:1000")
        let frame = try #require(try host.send(socket, pattern(1400), to: "192.0.2.9:7").first)
        for mtu: UInt16 in [1428, 1500, 9000] {
            host.receive(error(.destinationUnreachable(.fragmentationNeeded, nextHopMTU: mtu), about: frame))
            #expect(try host.stack.ip.path(from: nil, to: Peer.far).mtu == 1500)
        }
        // A lie makes packets no smaller than every host takes.
        host.receive(error(.destinationUnreachable(.fragmentationNeeded, nextHopMTU: 68), about: frame))
        #expect(try host.stack.ip.path(from: nil, to: Peer.far).mtu == 576)
        // And never larger again.
        host.receive(error(.destinationUnreachable(.fragmentationNeeded, nextHopMTU: 1200), about: frame))
        #expect(try host.stack.ip.path(from: nil, to: Peer.far).mtu == 576)
        let small = try #require(try host.send(socket, [1], to: "192.0.2.10:7").first)
        host.receive(error(.destinationUnreachable(.fragmentationNeeded, nextHopMTU: 68), about: small))
        #expect(try host.stack.ip.path(from: nil, to: IPAddress("192.0.2.10")!).mtu == 1500)
        #expect(host.end() == 0)
    }

    @Test func `packet too big, 1280 at least (RFC 8201, section 4)`() throws {
        var host = try host()
        try host.introduce(IPAddress("fd00::fe")!, Peer.mac)
        let socket = try host.bind("[::]:1000")
        let far = IPAddress("2001:db8::9")!
        let frame = try #require(try host.send(socket, pattern(1400), to: "[2001:db8::9]:7").first)
        let quoted = Array(frame.bytes.dropFirst(14).prefix(100))
        for (stated, expected) in [(UInt32(1300), UInt16(1300)), (600, 1300), (1279, 1300), (1280, 1280), (1400, 1280)] {
            host.receive(ethernet(.ipv6, ipv6(.icmpv6, icmpv6(.packetTooBig(mtu: stated), quoted))))
            #expect(try host.stack.ip.path(from: nil, to: far).mtu == expected)
        }
        #expect(host.end() == 0)
    }

    @Test func `a flood of "does not fit" fills a bounded table`() throws {
        var host = try host { configuration, _ in configuration.pathMTUCapacity = 8 }
        let socket = try host.bind("0.0.0.0:1")
        try host.introduce(Peer.v4, Peer.mac)
        // What has sent nothing is not believed to have.
        _ = try host.send(socket, [1], to: "10.0.0.2:2")
        for number in 0..<100 {
            let target = IPAddress(ipv4: 0xc000_0200 + UInt32(number))
            let packet = ipv4(.udp, udp(pattern(1400), from: NetworkHost.v4, 1, to: target, 2), from: NetworkHost.v4, to: target)
            host.receive(
                ethernet(.ipv4, ipv4(.icmp, icmpv4(.destinationUnreachable(.fragmentationNeeded, nextHopMTU: 1000), Array(packet.prefix(28))))))
        }
        let count = host.stack.ip.pathMTUs.count
        #expect(count == 8)
        #expect(try host.stack.ip.path(from: nil, to: IPAddress(ipv4: 0xc000_0200 + 99)).mtu == 1000)
        #expect(try host.stack.ip.path(from: nil, to: IPAddress(ipv4: 0xc000_0200)).mtu == 1500)
        #expect(host.end() == 0)
    }
}
