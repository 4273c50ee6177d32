import Testing
@testable import Demikernel

@Suite struct IPv6Tests {
    private let content = udp([1, 2, 3], from: Peer.v6, to: NetworkHost.v6)

    /// What comes back for a packet whose payload is these headers and a datagram, and whether the datagram arrived.
    private func outcome(_ first: IPProtocol, _ headers: [UInt8], to destination: IPAddress = NetworkHost.v6) throws -> (ICMPv6?, Bool) {
        var host = try NetworkHost()
        try host.introduce(Peer.v6, Peer.mac)
        let socket = try host.bind("[::]:1000")
        let datagram = udp([1, 2, 3], from: Peer.v6, to: destination)
        let link = destination.isMulticast ? destination.multicastMACAddress : NetworkHost.mac
        let answers = host.receive(ethernet(.ipv6, ipv6(first, headers + datagram, to: destination), to: link))
        let arrived = host.take(socket) != nil
        #expect(answers.count <= 1)
        #expect(host.end() == 0)
        return (answers.first?.icmpv6, arrived)
    }

    @Test func `extension headers are walked (RFC 8200, section 4)`() throws {
        let padding: [UInt8] = [1, 4, 0, 0, 0, 0]
        #expect(try outcome(.udp, []).1)
        #expect(try outcome(.hopByHop, [17, 0] + padding).1)
        #expect(try outcome(.destinationOptions, [17, 0] + padding).1)
        #expect(try outcome(.hopByHop, [60, 0] + padding + [43, 0] + padding + [17, 0, 0, 0, 0, 0, 0, 0]).1)
        // An option that may be skipped.
        #expect(try outcome(.destinationOptions, [17, 0, 0x1e, 4, 0, 0, 0, 0]).1)
    }

    @Test func `headers that nobody understands are answered, or not, as they say (RFC 8200, section 4.2; RFC 4443, section 3.4)`() throws {
        let all = IPAddress.allNodes
        #expect(try outcome(IPProtocol(rawValue: 200), []) == (.parameterProblem(.unrecognisedNextHeader, pointer: 6), false))
        #expect(try outcome(.destinationOptions, [200, 0, 1, 4, 0, 0, 0, 0]) == (.parameterProblem(.unrecognisedNextHeader, pointer: 40), false))
        // Hop-by-hop options anywhere but first.
        #expect(
            try outcome(.destinationOptions, [0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0])
                == (.parameterProblem(.unrecognisedNextHeader, pointer: 40), false))
        // The option's type says what to do: discard; tell; tell unless it was for a group.
        #expect(try outcome(.destinationOptions, [17, 0, 0x5e, 4, 0, 0, 0, 0]) == (nil, false))
        #expect(
            try outcome(.destinationOptions, [17, 0, 0x9e, 4, 0, 0, 0, 0]) == (.parameterProblem(.unrecognisedOption, pointer: 42), false))
        #expect(
            try outcome(.destinationOptions, [17, 0, 0xde, 4, 0, 0, 0, 0]) == (.parameterProblem(.unrecognisedOption, pointer: 42), false))
        #expect(try outcome(.destinationOptions, [17, 0, 0xde, 4, 0, 0, 0, 0], to: all) == (nil, false))
        #expect(
            try outcome(.destinationOptions, [17, 0, 0x9e, 4, 0, 0, 0, 0], to: all)
                == (.parameterProblem(.unrecognisedOption, pointer: 42), false))
        // A routing header that wants to be forwarded: RFC 5095.
        #expect(try outcome(.routing, [17, 0, 0, 1, 0, 0, 0, 0]) == (.parameterProblem(.erroneousHeaderField, pointer: 42), false))
        #expect(try outcome(.noNext, []) == (nil, false))
    }

    @Test(arguments: ["::", "::1", "ff02::1", "fd00::1"])
    func `a source that can be nobody's is dropped (RFC 4291, section 2)`(source: String) throws {
        var host = try NetworkHost()
        let socket = try host.bind("[::]:1000")
        host.receive(datagram([1], from: IPAddress(source)!))
        #expect(host.take(socket) == nil)
        let dropped = host.stack.ip.counters.packetsBadSource
        #expect(dropped == 1)
        #expect(host.end() == 0)
    }

    @Test func `packets for others, mapped addresses and lengths that contradict are dropped`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("[::]:1000")
        let refused = [
            ipv6(.udp, content, to: IPAddress("fd00::9")!), ipv6(.udp, content, to: IPAddress("::1")!),
            ipv6(.udp, content, to: IPAddress("ff02::5")!), Array(ipv6(.udp, content).dropLast()),
        ]
        for packet in refused { host.receive(ethernet(.ipv6, packet)) }
        var mapped = ipv6(.udp, content)
        mapped.replaceSubrange(8..<24, with: [UInt8](repeating: 0, count: 10) + [0xff, 0xff, 10, 0, 0, 2])
        host.receive(ethernet(.ipv6, mapped))
        #expect(host.take(socket) == nil)
        #expect(host.end() == 0)
    }

    @Test func `padding behind the packet is no part of it`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("[::]:1000")
        host.receive(ethernet(.ipv6, ipv6(.udp, content) + [7, 7, 7, 7]))
        #expect(host.take(socket)?.bytes == [1, 2, 3])
        #expect(host.end() == 0)
    }

    @Test(arguments: ["::1", "fd00::1", "fe80::ff:fe00:1"])
    func `what the host sends to itself does not leave it`(address: String) throws {
        var host = try NetworkHost()
        let server = try host.bind("[::]:1000")
        let client = try host.bind("[::]:2000", tag: 2)
        #expect(try host.send(client, pattern(3000), to: "[\(address)]:1000").isEmpty)
        host.stack.poll(now: host.now)
        let datagram = try required(host.take(server))
        #expect(datagram.bytes == pattern(3000) && datagram.source == "[\(address)]:2000")
        #expect(host.end() == 0)
    }

    @Test func `datagrams over a VLAN, with checksums left to the device`() throws {
        var host = try NetworkHost { configuration, device in
            configuration.vlan = 9
            device.fillsChecksums = true
            configuration.staticNeighbours = [.init(Peer.v6, Peer.mac)]
        }
        let socket = try host.bind("[::]:1000")
        let frame = try #require(try host.send(socket, pattern(10), to: "[fd00::2]:9").first)
        #expect(frame.ethernet.tag?.identifier == 9)
        #expect(frame.offload == FrameOffload(flags: .partialChecksum, checksumStart: 58, checksumOffset: 6))
        #expect(frame.udp?.payload == pattern(10))
        #expect(host.end() == 0)
    }
}
