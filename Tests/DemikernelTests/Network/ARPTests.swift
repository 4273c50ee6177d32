import Testing
@testable import Demikernel

@Suite struct ARPTests {
    private let other = MACAddress(0x0200_0000_0003)

    // MARK: Being asked

    @Test func `a request for the host's address is answered (RFC 826)`() throws {
        var host = try NetworkHost()
        let frames = host.receive(arp(.request, Peer.v4, NetworkHost.v4))
        #expect(frames.count == 1)
        #expect(frames[0].ethernet == EthernetHeader(destination: Peer.mac, source: NetworkHost.mac, etherType: .arp))
        #expect(
            frames[0].arp
                == ARPPacket(
                    operation: .reply, senderHardwareAddress: NetworkHost.mac, senderProtocolAddress: NetworkHost.v4.ipv4,
                    targetHardwareAddress: Peer.mac, targetProtocolAddress: Peer.v4.ipv4))
        // The asker will be answered: its address was learnt, so that a datagram goes out at once.
        let socket = try host.bind("10.0.0.1:1000")
        let datagrams = try host.send(socket, [1], to: "10.0.0.2:9")
        #expect(datagrams.map(\.type) == [.ipv4])
        #expect(host.end() == 0)
    }

    @Test func `a request for another's address is not answered, and teaches nothing new`() throws {
        var host = try NetworkHost()
        #expect(host.receive(arp(.request, Peer.v4, IPAddress("10.0.0.77")!)).isEmpty)
        let count = host.stack.ip.neighbours.count
        #expect(count == 0)
        #expect(host.end() == 0)
    }

    @Test func `a probe is answered but not learnt (RFC 5227, section 2.1.1)`() throws {
        var host = try NetworkHost()
        let frames = host.receive(arp(.request, .ipv4Unspecified, NetworkHost.v4))
        #expect(frames.first?.arp?.operation == .reply)
        let count = host.stack.ip.neighbours.count
        #expect(count == 0)
        #expect(host.end() == 0)
    }

    @Test func `a reply that nobody asked for makes no entry`() throws {
        var host = try NetworkHost()
        host.receive(arp(.reply, to: NetworkHost.mac, NetworkHost.v4))
        let (count, unsolicited) = (host.stack.ip.neighbours.count, host.stack.ip.counters.arpUnsolicited)
        #expect(count == 0 && unsolicited == 1)
        #expect(host.end() == 0)
    }

    @Test func `a sender that speaks for another, a group or the host itself is not believed`() throws {
        var host = try NetworkHost()
        let refused = [
            arp(.request, from: other, Peer.v4, NetworkHost.v4, link: Peer.mac),
            arp(.request, from: MACAddress(0x0100_0000_0003), Peer.v4, NetworkHost.v4, link: MACAddress(0x0100_0000_0003)),
            arp(.request, from: Peer.mac, IPAddress("224.0.0.1")!, NetworkHost.v4),
            arp(.request, from: Peer.mac, IPAddress("10.0.0.255")!, NetworkHost.v4),
            arp(.request, from: Peer.mac, IPAddress("127.0.0.1")!, NetworkHost.v4),
        ]
        for frame in refused { #expect(host.receive(frame).isEmpty) }
        let count = host.stack.ip.neighbours.count
        #expect(count == 0)
        #expect(host.end() == 0)
    }

    @Test func `ARP packets of other networks, and short ones, are dropped`() throws {
        var host = try NetworkHost()
        var strange = arp(.request, Peer.v4, NetworkHost.v4)
        strange[14] = 9
        #expect(host.receive(strange).isEmpty)
        #expect(host.receive(Array(arp(.request, Peer.v4, NetworkHost.v4).dropLast())).isEmpty)
        let malformed = host.stack.ip.counters.arpMalformed
        #expect(malformed == 2)
        #expect(host.end() == 0)
    }

    @Test func `another station with the host's address is a conflict, and the address is claimed once in ten seconds (RFC 5227, 2.4)`() throws {
        var host = try NetworkHost()
        let claim = arp(.request, from: other, NetworkHost.v4, NetworkHost.v4)
        #expect(host.receive(claim).first?.arp == .announcement(of: NetworkHost.v4.ipv4, from: NetworkHost.mac))
        #expect(host.receive(claim).isEmpty)
        host.pass(milliseconds: 10_000)
        #expect(host.receive(claim).count == 1)
        let conflicts = host.stack.ip.counters.addressConflicts
        #expect(conflicts == 3)
        #expect(host.end() == 0)
    }

    @Test func `the address is announced twice when the stack starts (RFC 5227, section 2.3)`() throws {
        var host = try NetworkHost { configuration, _ in configuration.announcesAddresses = true }
        let frames = host.pass(milliseconds: 0).compactMap(\.arp) + host.pass(milliseconds: 10_000).compactMap(\.arp)
        let announcement = ARPPacket.announcement(of: NetworkHost.v4.ipv4, from: NetworkHost.mac)
        #expect(frames == [announcement, announcement])
        let deadline = host.stack.nextDeadline()
        #expect(deadline == nil)
        #expect(host.end() == 0)
    }

    // MARK: Asking

    @Test func `a datagram waits for its neighbour, and goes when it has answered (RFC 1122, 2.3.2.2)`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000")
        let asked = try host.send(socket, [1, 2, 3], to: "10.0.0.2:9")
        #expect(asked.map(\.arp) == [.request(for: Peer.v4.ipv4, from: NetworkHost.mac, NetworkHost.v4.ipv4)])
        #expect(asked[0].ethernet.destination == .broadcast)
        let frames = host.receive(arp(.reply, to: NetworkHost.mac, NetworkHost.v4))
        #expect(frames.count == 1)
        #expect(frames[0].ethernet.destination == Peer.mac)
        #expect(frames[0].udp?.payload == [1, 2, 3])
        // The next one has not to wait.
        #expect(try host.send(socket, [4], to: "10.0.0.2:9").first?.udp?.payload == [4])
        #expect(host.end() == 0)
    }

    @Test func `no more frames than allowed wait for a neighbour, the youngest`() throws {
        var host = try NetworkHost { configuration, _ in configuration.neighbours.pendingMaximum = 4 }
        let socket = try host.bind("0.0.0.0:1000")
        for number in 0..<6 { try host.send(socket, [UInt8(number)], to: "10.0.0.2:9") }
        let frames = host.receive(arp(.reply, to: NetworkHost.mac, NetworkHost.v4))
        #expect(frames.map { $0.udp?.payload } == [[2], [3], [4], [5]])
        let drops = host.stack.ip.counters.pendingDrops
        #expect(drops == 2)
        #expect(host.end() == 0)
    }

    @Test func `where many neighbours are waited for, each has its share`() throws {
        var host = try NetworkHost { configuration, _ in
            configuration.neighbours.pendingMaximum = 8
            configuration.neighbours.pendingShare = 2
            configuration.neighbours.pendingTotalMaximum = 10
        }
        let socket = try host.bind("0.0.0.0:1000")
        // Two neighbours that never answer take all there is; the third still has its share.
        for last in [11, 12, 2] { for number in 0..<8 { try host.send(socket, [UInt8(number)], to: "10.0.0.\(last):9") } }
        let frames = host.receive(arp(.reply, to: NetworkHost.mac, NetworkHost.v4))
        #expect(frames.map { $0.udp?.payload } == [[6], [7]])
        host.pass(milliseconds: 60_000)
        #expect(host.end() == 0)
    }

    @Test func `a neighbour is asked for three times, a second apart, and then is unreachable (RFC 1122, 2.3.2.1)`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000", tag: 4)
        try host.stack.udp.connect(socket, to: SocketAddress("10.0.0.2:9")!, ip: &host.stack.ip)
        #expect(try host.send(socket, [1]).count == 1)
        #expect(host.pass(milliseconds: 999).isEmpty)
        #expect(host.pass(milliseconds: 1).compactMap(\.arp).count == 1)
        #expect(host.pass(milliseconds: 1000).compactMap(\.arp).count == 1)
        #expect(host.pass(milliseconds: 1000).isEmpty)
        #expect(host.events() == [SocketEvent(tag: 4, kinds: .failed)])
        let error = host.stack.udp.pendingError(socket)
        #expect(error == 113)
        let (failed, deadline) = (host.stack.ip.counters.neighboursFailed, host.stack.nextDeadline())
        #expect(failed == 1 && deadline == nil)
        // The next datagram asks anew.
        #expect(try host.send(socket, [2]).first?.arp?.operation == .request)
        #expect(host.end() == 0)
    }

    @Test func `an entry expires and is confirmed by asking the station itself (RFC 1122, 2.3.2.1; RFC 4861, 7.3)`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        let socket = try host.bind("0.0.0.0:1000")
        #expect(try host.send(socket, [1], to: "10.0.0.2:9").count == 1)
        // Reachable for 45 s at most; then used for 5 s more.
        host.pass(milliseconds: 46_000)
        #expect(try host.send(socket, [2], to: "10.0.0.2:9").map(\.type) == [.ipv4])
        #expect(host.pass(milliseconds: 4_999).isEmpty)
        let probes = host.pass(milliseconds: 1)
        #expect(probes.map { $0.arp?.operation } == [.request])
        #expect(probes[0].ethernet.destination == Peer.mac)
        #expect(host.receive(arp(.reply, to: NetworkHost.mac, NetworkHost.v4)).isEmpty)
        #expect(host.pass(milliseconds: 14_000).isEmpty)
        #expect(host.end() == 0)
    }

    @Test func `a station that does not confirm is asked for by broadcast again`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        let socket = try host.bind("0.0.0.0:1000")
        host.pass(milliseconds: 46_000)
        try host.send(socket, [2], to: "10.0.0.2:9")
        #expect(host.pass(milliseconds: 20_000).compactMap(\.arp).count == 3)
        let frames = try host.send(socket, [3], to: "10.0.0.2:9")
        #expect(frames.map(\.type) == [.arp])
        #expect(frames[0].ethernet.destination == .broadcast)
        #expect(host.end() == 0)
    }

    @Test func `what a transport knows to have arrived spares the asking (RFC 4861, section 7.3.1)`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        let path = try host.stack.ip.path(from: nil, to: Peer.v4)
        let socket = try host.bind("0.0.0.0:1000")
        for _ in 0..<20 {
            host.pass(milliseconds: 14_000)
            host.stack.ip.confirmReachability(on: path, now: host.now)
            #expect(try host.send(socket, [1], to: "10.0.0.2:9").map(\.type) == [.ipv4])
        }
        let requests = host.stack.ip.counters.arpRequestsSent
        #expect(requests == 1)
        #expect(host.end() == 0)
    }

    @Test func `a station that announces a new Ethernet address is believed, and asked on the next use (RFC 826)`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        let socket = try host.bind("0.0.0.0:1000")
        host.pass(milliseconds: 1000)
        host.receive(arp(.request, from: other, Peer.v4, Peer.v4))
        #expect(try host.send(socket, [1], to: "10.0.0.2:9").first?.ethernet.destination == other)
        #expect(host.pass(milliseconds: 5000).first?.ethernet.destination == other)
        #expect(host.end() == 0)
    }

    @Test func `two stations that answer within a second do not take it in turns`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000")
        try host.send(socket, [1], to: "10.0.0.2:9")
        host.receive(arp(.reply, to: NetworkHost.mac, NetworkHost.v4))
        host.receive(arp(.reply, from: other, Peer.v4, to: NetworkHost.mac, NetworkHost.v4))
        #expect(try host.send(socket, [1], to: "10.0.0.2:9").first?.ethernet.destination == Peer.mac)
        #expect(host.end() == 0)
    }

    @Test func `a static entry is neither asked for nor changed`() throws {
        var host = try NetworkHost { configuration, _ in configuration.staticNeighbours = [.init(Peer.v4, Peer.mac)] }
        let socket = try host.bind("0.0.0.0:1000")
        host.receive(arp(.request, from: other, Peer.v4, NetworkHost.v4))
        host.pass(milliseconds: 3_600_000)
        #expect(try host.send(socket, [1], to: "10.0.0.2:9").first?.ethernet.destination == Peer.mac)
        let deadline = host.stack.nextDeadline()
        #expect(deadline == nil)
        #expect(host.end() == 0)
    }

    @Test func `other networks are reached through the gateway`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000")
        let asked = try host.send(socket, [1], to: "192.0.2.9:9")
        #expect(asked[0].arp?.targetProtocolAddress == IPAddress("10.0.0.254")!.ipv4)
        let frames = host.receive(arp(.reply, from: other, IPAddress("10.0.0.254")!, to: NetworkHost.mac, NetworkHost.v4))
        #expect(frames[0].ethernet.destination == other)
        #expect(frames[0].ipv4?.destinationAddress == Peer.far)
        #expect(host.end() == 0)
    }

    // MARK: Storms

    @Test func `a storm of requests fills the table no further than three quarters, and what is in use stays`() throws {
        var host = try NetworkHost { configuration, _ in
            configuration.neighbours.capacity = 64
            configuration.addresses[0].prefixLength = 8
        }
        try host.introduce(Peer.v4, Peer.mac)
        for number in 0..<5000 {
            let mac = MACAddress(0x0200_0001_0000 + UInt64(number))
            host.receive(arp(.request, from: mac, IPAddress(ipv4: 0x0a01_0000 + UInt32(number)), NetworkHost.v4))
        }
        let count = host.stack.ip.neighbours.count
        #expect(count == 48)
        let socket = try host.bind("0.0.0.0:1000")
        #expect(try host.send(socket, [1], to: "10.0.0.2:9").first?.ethernet.destination == Peer.mac)
        // This host's own needs find a place all the same.
        for number in 0..<100 {
            let frames = try host.send(socket, [1], to: "10.2.0.\(number + 1):9")
            #expect(frames.map(\.type) == [.arp])
        }
        let (after, evicted) = (host.stack.ip.neighbours.count, host.stack.ip.counters.neighboursEvicted)
        #expect(after == 64 && evicted > 0)
        #expect(host.end() == 0)
    }

    @Test func `a storm of replies changes nothing`() throws {
        var host = try NetworkHost()
        for number in 0..<5000 {
            let mac = MACAddress(0x0200_0001_0000 + UInt64(number))
            host.receive(arp(.reply, from: mac, IPAddress(ipv4: 0x0a00_0003 + UInt32(number % 200)), to: NetworkHost.mac, NetworkHost.v4))
        }
        let count = host.stack.ip.neighbours.count
        #expect(count == 0)
        #expect(host.end() == 0)
    }
}
