import Testing
import TestSupport
@testable import Demikernel

/// Frames that nobody should send: nothing traps, nothing grows, every object comes back, and what is in use goes on.
@Suite struct HostileFrameTests {
    private func samples() -> [[UInt8]] {
        let quoted = ipv4(.udp, udp(pattern(20), from: NetworkHost.v4, 1000, to: Peer.v4, 9), from: NetworkHost.v4, to: Peer.v4)
        let quoted6 = ipv6(.udp, udp(pattern(20), from: NetworkHost.v6, 1000, to: Peer.v6, 9), from: NetworkHost.v6, to: Peer.v6)
        let fragment = written(8) {
            IPv6FragmentHeader(nextHeader: .udp, fragmentOffset: 0, moreFragments: true, identification: 9).emit(into: $0)
        }
        return [
            datagram(pattern(40)), datagram(pattern(40), from: Peer.v6), datagram([1], to: NetworkHost.v4, 1234),
            arp(.request, Peer.v4, NetworkHost.v4), arp(.reply, to: NetworkHost.mac, NetworkHost.v4),
            ethernet(.ipv4, ipv4(.udp, pattern(64), offset: 0, more: true)), ethernet(.ipv4, ipv4(.udp, pattern(30), offset: 64)),
            ethernet(.ipv4, ipv4(.udp, udp(pattern(20)), options: [7, 7, 4, 0, 0, 0, 0, 0])),
            ethernet(.ipv4, ipv4(.icmp, icmpv4(.echoRequest(identifier: 1, sequenceNumber: 2), pattern(40)))),
            ethernet(.ipv4, ipv4(.icmp, icmpv4(.destinationUnreachable(.port, nextHopMTU: 0), quoted))),
            ethernet(.ipv4, ipv4(.icmp, icmpv4(.destinationUnreachable(.fragmentationNeeded, nextHopMTU: 600), quoted))),
            ethernet(.ipv6, ipv6(.icmpv6, icmpv6(.packetTooBig(mtu: 1280), quoted6))),
            ethernet(.ipv6, ipv6(.fragment, fragment + pattern(64))),
            ethernet(.ipv6, ipv6(.hopByHop, [60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0xc2, 4, 0, 0, 0, 0] + pattern(20))),
            solicitation(of: NetworkHost.v6, from: Peer.v6, Peer.mac),
            advertisement(of: Peer.v6, from: Peer.mac, to: NetworkHost.v6, solicited: true),
            ethernet(.ipv4, ipv4(.tcp, pattern(20))), ethernet(.ipv4, ipv4(.udp, udp(pattern(20))), tag: VLANTag(identifier: 0)),
        ]
    }

    @Test(arguments: 0..<8)
    func `damaged frames of all kinds are taken or dropped, and every object comes back`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var host = try NetworkHost { configuration, device in
            // Without checksums in the way, damage reaches further.
            device.isReliable = true
            configuration.trustsReliableDevice = seed % 2 == 0
            if seed == 7 { configuration.vlan = 0x123 }
        }
        let sockets = [try host.bind("0.0.0.0:1000", tag: 1), try host.bind("[::]:1000", tag: 2)]
        let connected = try host.bind("10.0.0.1:3000", tag: 3)
        try host.stack.udp.connect(connected, to: SocketAddress("10.0.0.2:9")!, ip: &host.stack.ip)
        let samples = samples()
        for step in 0..<15_000 {
            var frame = samples.randomElement(using: &generator)!
            for _ in 0..<Int.random(in: 0...3, using: &generator) {
                frame[Int.random(in: 0..<frame.count, using: &generator)] = generator.value()
            }
            if Int.random(in: 0..<4, using: &generator) == 0 { frame.removeLast(Int.random(in: 0...frame.count, using: &generator)) }
            if Int.random(in: 0..<4, using: &generator) == 0 { frame += generator.bytes(Int.random(in: 0...40, using: &generator)) }
            let flags: FrameOffload.Flags = Int.random(in: 0..<8, using: &generator) == 0 ? .checksumIsValid : []
            host.receive(frame, offload: FrameOffload(flags: flags))
            if step % 16 == 0 {
                for socket in sockets { _ = host.take(socket) }
                _ = try? host.send(connected, pattern(step % 100))
                _ = host.events()
            }
            if step % 64 == 0 { host.pass(milliseconds: 250) }
        }
        for socket in sockets { while host.take(socket) != nil {} }
        host.pass(milliseconds: 120_000)
        let live = host.heap.statistics.liveObjects
        #expect(live == 0)
        // It still works.
        if seed != 7 {
            host.receive(datagram([42]))
            #expect(host.take(sockets[0])?.bytes == [42])
        }
        #expect(host.end() == 0)
    }

    @Test func `frames of every length, empty ones included, are harmless`() throws {
        var host = try NetworkHost()
        for sample in samples() {
            for length in 0...sample.count { host.receive(Array(sample[..<length])) }
        }
        host.pass(milliseconds: 120_000)
        let live = host.heap.statistics.liveObjects
        #expect(live == 0)
        #expect(host.end() == 0)
    }

    @Test func `an exhausted heap loses packets and nothing else`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        let socket = try host.bind("0.0.0.0:1000")
        let list = host.payload([1])
        var hoard: [Segment] = []
        for size in [1 << 20, 65_536, 4096, 1024, 512, 256, 128, 64] {
            while true {
                let segment = host.heap.allocateSegment(size)
                if segment.isNull { break }
                hoard.append(segment)
            }
        }
        #expect(throws: DemikernelError(.noBufferSpace, "")) {
            try host.stack.udp.send(socket, list, to: SocketAddress("10.0.0.2:9")!, ip: &host.stack.ip, now: host.now)
        }
        host.pass(milliseconds: 60_000)
        for segment in hoard { segment.release() }
        try host.stack.udp.send(socket, list, to: SocketAddress("10.0.0.2:9")!, ip: &host.stack.ip, now: host.now)
        #expect(host.sent().count == 1)
        #expect(host.end() == 0)
    }

    @Test func `a frame that a device brings in two segments is dropped whole`() throws {
        var host = try NetworkHost()
        let whole = datagram([1, 2, 3])
        var burst = FrameBurst(capacity: 1, heap: host.heap.reference)
        let (head, rest) = (host.heap.allocateSegment(whole.count - 1), host.heap.allocateSegment(1))
        unsafe head.bytes.copyBytes(from: whole.dropLast())
        unsafe rest.bytes.copyBytes(from: whole.suffix(1))
        burst.append(Frame(head, rest: .single(rest)))
        host.stack.receive(&burst, now: host.now)
        let malformed = host.stack.ip.counters.framesMalformed
        #expect(malformed == 1)
        #expect(host.end() == 0)
    }

    @Test func `counters are listed with their names`() throws {
        var host = try NetworkHost()
        host.receive(datagram([1], link: Peer.mac))
        let list = NetworkStatistics.list(host.stack.ip.counters, "ip")
        #expect(list.count == MemoryLayout<NetworkCounters>.size / 8)
        #expect(list.contains { $0.layer == "ip" && $0.name == "framesForOthers" && $0.value == 1 })
        #expect(NetworkStatistics.list(host.stack.udp.counters, "udp").count == MemoryLayout<UDPCounters>.size / 8)
        #expect(host.end() == 0)
    }
}
