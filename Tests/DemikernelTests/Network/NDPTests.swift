import Testing
@testable import Demikernel

@Suite struct NDPTests {
    private let other = MACAddress(0x0200_0000_0003)

    @Test func `a solicitation for the host's address is answered, and the asker learnt (RFC 4861, section 7.2.3)`() throws {
        var host = try NetworkHost()
        let answer = try #require(host.receive(solicitation(of: NetworkHost.v6, from: Peer.v6, Peer.mac)).first)
        #expect(answer.ethernet.destination == Peer.mac)
        #expect(answer.ipv6?.hopLimit == 255 && answer.ipv6?.source == NetworkHost.v6 && answer.ipv6?.destination == Peer.v6)
        #expect(
            answer.ndp
                == .neighbourAdvertisement(
                    .init(target: NetworkHost.v6, isSolicited: true, overrides: true), NDPOptions(targetLinkLayerAddress: NetworkHost.mac)))
        let socket = try host.bind("[::]:1000")
        #expect(try host.send(socket, [1], to: "[fd00::2]:9").first?.udp?.payload == [1])
        #expect(host.end() == 0)
    }

    @Test func `the link-local address is there, made of the Ethernet address (RFC 4291, appendix A)`() throws {
        var host = try NetworkHost()
        let address = IPAddress("fe80::ff:fe00:1")!
        let peer = IPAddress.linkLocal(Peer.mac)
        let answer = try #require(host.receive(solicitation(of: address, from: peer, Peer.mac)).first)
        #expect(answer.ipv6?.source == address && answer.ipv6?.destination == peer)
        #expect(host.end() == 0)
    }

    @Test func `a solicitation that came from afar, or is not for this host, is not answered (RFC 4861, section 7.1.1)`() throws {
        var host = try NetworkHost()
        #expect(host.receive(solicitation(of: NetworkHost.v6, from: Peer.v6, Peer.mac, hopLimit: 254)).isEmpty)
        #expect(host.receive(solicitation(of: IPAddress("fd00::9")!, from: Peer.v6, Peer.mac, to: NetworkHost.v6)).isEmpty)
        #expect(host.receive(solicitation(of: NetworkHost.v6, from: .ipv6Unspecified, Peer.mac)).isEmpty)
        #expect(host.receive(solicitation(of: NetworkHost.v6, from: .ipv6Unspecified, Peer.mac, to: NetworkHost.v6, hasOption: false)).isEmpty)
        var damaged = solicitation(of: NetworkHost.v6, from: Peer.v6, Peer.mac)
        damaged[70] ^= 1
        #expect(host.receive(damaged).isEmpty)
        let count = host.stack.ip.neighbours.count
        #expect(count == 0)
        #expect(host.end() == 0)
    }

    @Test func `duplicate address detection of another is answered to all (RFC 4861, section 7.2.4; RFC 4862, section 5.4.3)`() throws {
        var host = try NetworkHost()
        let answer = try #require(
            host.receive(solicitation(of: NetworkHost.v6, from: .ipv6Unspecified, Peer.mac, hasOption: false)).first)
        #expect(answer.ipv6?.destination == .allNodes && answer.ethernet.destination == MACAddress(0x3333_0000_0001))
        guard case .neighbourAdvertisement(let advertisement, _)? = answer.ndp else { throw Unexpected() }
        #expect(!advertisement.isSolicited && advertisement.overrides)
        let conflicts = host.stack.ip.counters.addressConflicts
        #expect(conflicts == 1)
        #expect(host.end() == 0)
    }

    private struct Unexpected: Error {}

    @Test func `the host asks once whether anybody has its addresses (RFC 4862, section 5.4.2)`() throws {
        var host = try NetworkHost { configuration, _ in configuration.announcesAddresses = true }
        let frames = (host.pass(milliseconds: 0) + host.pass(milliseconds: 10_000)).filter { $0.type == .ipv6 }
        #expect(frames.count == 2)
        for frame in frames {
            guard case .neighbourSolicitation(let target, let options)? = frame.ndp else { throw Unexpected() }
            #expect(frame.ipv6?.source == .ipv6Unspecified && frame.ipv6?.destination == target.solicitedNodeMulticast)
            #expect(options.sourceLinkLayerAddress == nil)
        }
        // Somebody has.
        host.receive(advertisement(of: NetworkHost.v6, from: other, to: .allNodes, solicited: false))
        let conflicts = host.stack.ip.counters.addressConflicts
        #expect(conflicts == 1)
        #expect(host.end() == 0)
    }

    @Test func `a datagram waits for its neighbour; three solicitations (RFC 4861, section 7.2.2)`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("[::]:1000", tag: 2)
        try host.stack.udp.connect(socket, to: SocketAddress("[fd00::2]:9")!, ip: &host.stack.ip)
        let asked = try host.send(socket, [1, 2, 3])
        #expect(asked.map(\.ndp) == [.neighbourSolicitation(target: Peer.v6, NDPOptions(sourceLinkLayerAddress: NetworkHost.mac))])
        #expect(asked[0].ethernet.destination == Peer.v6.solicitedNodeMulticast.multicastMACAddress)
        let frames = host.receive(advertisement(of: Peer.v6, from: Peer.mac, to: NetworkHost.v6, solicited: true))
        #expect(frames.map { $0.udp?.payload } == [[1, 2, 3]])

        try host.stack.udp.connect(socket, to: SocketAddress("[fd00::3]:9")!, ip: &host.stack.ip)
        try host.send(socket, [1])
        #expect(host.pass(milliseconds: 2000).count == 2)
        #expect(host.pass(milliseconds: 1000).isEmpty)
        #expect(host.events() == [SocketEvent(tag: 2, kinds: .failed)])
        #expect(host.end() == 0)
    }

    @Test func `a neighbour is used, doubted, and asked (RFC 4861, section 7.3.3)`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v6, Peer.mac)
        let socket = try host.bind("[::]:1000")
        host.pass(milliseconds: 46_000)
        #expect(try host.send(socket, [2], to: "[fd00::2]:9").first?.udp != nil)
        let probe = try #require(host.pass(milliseconds: 5_000).first)
        #expect(probe.ethernet.destination == Peer.mac && probe.ipv6?.destination == Peer.v6)
        host.receive(advertisement(of: Peer.v6, from: Peer.mac, to: NetworkHost.v6, solicited: true))
        #expect(host.pass(milliseconds: 10_000).isEmpty)
        #expect(host.end() == 0)
    }

    @Test func `what advertisements change (RFC 4861, section 7.2.5)`() throws {
        for (solicited, overrides, expected) in [(false, true, other), (true, true, other), (false, false, Peer.mac), (true, false, Peer.mac)] {
            var host = try NetworkHost()
            try host.introduce(Peer.v6, Peer.mac)
            let socket = try host.bind("[::]:1000")
            let target = solicited ? NetworkHost.v6 : .allNodes
            host.receive(advertisement(of: Peer.v6, from: other, to: target, solicited: solicited, overrides: overrides))
            #expect(try host.send(socket, [2], to: "[fd00::2]:9").first?.ethernet.destination == expected)
            // What nobody asked for is to be confirmed, though it says that it is an answer.
            #expect(!host.pass(milliseconds: 5_000).isEmpty)
            #expect(host.end() == 0)
        }
    }

    @Test func `advertisements that nobody asked for, from afar, or solicited by all, teach nothing (RFC 4861, section 7.1.2)`() throws {
        var host = try NetworkHost()
        host.receive(advertisement(of: Peer.v6, from: Peer.mac, to: .allNodes, solicited: false))
        host.receive(advertisement(of: Peer.v6, from: Peer.mac, to: NetworkHost.v6, solicited: true))
        #expect(host.stack.ip.neighbours.count == 0)
        try host.introduce(Peer.v6, Peer.mac)
        let socket = try host.bind("[::]:1000")
        host.receive(advertisement(of: Peer.v6, from: other, to: NetworkHost.v6, solicited: true, hopLimit: 254))
        host.receive(advertisement(of: Peer.v6, from: other, to: .allNodes, solicited: true))
        host.receive(advertisement(of: Peer.v6, from: other, to: NetworkHost.v6, solicited: true, option: MACAddress(0x0100_0000_0001)))
        #expect(try host.send(socket, [2], to: "[fd00::2]:9").first?.ethernet.destination == Peer.mac)
        #expect(host.end() == 0)
    }

    @Test func `router advertisements and redirects are counted and ignored`() throws {
        var host = try NetworkHost()
        let router = IPAddress.linkLocal(other)
        let message = NDPMessage.routerAdvertisement(.init(lifetimeSeconds: 1800), NDPOptions(sourceLinkLayerAddress: other))
        host.receive(ndp(message, from: router, to: .allNodes, link: IPAddress.allNodes.multicastMACAddress, mac: other))
        let redirect = icmpv6(.other(type: 137, code: 0, rest: 0), pattern(32), from: router)
        host.receive(ethernet(.ipv6, ipv6(.icmpv6, redirect, from: router, hopLimit: 255)))
        let counters = host.stack.ip.counters
        #expect(counters.routerAdvertisementsIgnored == 1 && counters.icmpRedirectsIgnored == 1)
        #expect(host.stack.ip.neighbours.count == 0)
        #expect(host.end() == 0)
    }

    @Test func `a device that is connected to itself brings no conflicts`() throws {
        var host = try NetworkHost { configuration, device in
            configuration.announcesAddresses = true
            configuration.localDelivery = .device
            device.isLoop = true
        }
        for frame in host.pass(milliseconds: 5000) { #expect(host.receive(frame.bytes).isEmpty) }
        let conflicts = host.stack.ip.counters.addressConflicts
        #expect(conflicts == 0)
        #expect(host.end() == 0)
    }

    @Test func `a storm of solicitations fills three quarters of the table at most`() throws {
        var host = try NetworkHost { configuration, _ in configuration.neighbours.capacity = 64 }
        for number in 0..<2000 {
            let source = IPAddress(high: Peer.v6.high, low: 0x1_0000 + UInt64(number))
            let answers = host.receive(solicitation(of: NetworkHost.v6, from: source, MACAddress(0x0200_0001_0000 + UInt64(number))))
            #expect(answers.count == 1)
        }
        let count = host.stack.ip.neighbours.count
        #expect(count == 48)
        #expect(host.end() == 0)
    }
}
