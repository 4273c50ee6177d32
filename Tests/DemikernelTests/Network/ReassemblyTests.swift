import Testing
import TestSupport
@testable import Demikernel

@Suite struct ReassemblyTests {
    /// A datagram cut at these offsets (multiples of 8, in its IP payload).
    private func fragments(_ content: [UInt8], at cuts: [Int], identification: UInt16 = 7, ecn: [ECN] = []) -> [[UInt8]] {
        let ends = cuts + [content.count]
        var start = 0
        var frames: [[UInt8]] = []
        for (number, end) in ends.enumerated() {
            frames.append(
                ethernet(
                    .ipv4,
                    ipv4(
                        .udp, Array(content[start..<end]), identification: identification, offset: start, more: number < cuts.count,
                        ecn: number < ecn.count ? ecn[number] : .notCapable)))
            start = end
        }
        return frames
    }

    private func fragment6(_ part: ArraySlice<UInt8>, at start: Int, more: Bool, identification: UInt32 = 7, next: IPProtocol = .udp) -> [UInt8] {
        let header = IPv6FragmentHeader(nextHeader: next, fragmentOffset: start, moreFragments: more, identification: identification)
        return ethernet(.ipv6, ipv6(.fragment, written(8) { header.emit(into: $0) } + part))
    }

    @Test(arguments: 0..<20)
    func `fragments make the datagram in any order, duplicates included (RFC 791, section 3.2)`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000")
        let data = pattern(Int.random(in: 100...60_000, using: &generator))
        let content = udp(data)
        var cuts = Set<Int>()
        for _ in 0..<Int.random(in: 1...100, using: &generator) { cuts.insert(Int.random(in: 1..<(content.count / 8), using: &generator) * 8) }
        var frames = fragments(content, at: cuts.sorted())
        frames.shuffle(using: &generator)
        // A duplicate of anything but the last, which completes the datagram.
        for _ in 0..<5 { frames.insert(frames[0], at: Int.random(in: 0..<frames.count, using: &generator)) }
        for frame in frames { #expect(host.receive(frame).isEmpty) }
        #expect(host.take(socket)?.bytes == data)
        #expect(host.end() == 0)
    }

    @Test func `IPv6 fragments make the datagram (RFC 8200, section 4.5)`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("[::]:1000")
        let data = pattern(3000)
        let content = udp(data, from: Peer.v6, to: NetworkHost.v6)
        host.receive([
            fragment6(content[2400...], at: 2400, more: false), fragment6(content[..<1200], at: 0, more: true),
            fragment6(content[1200..<2400], at: 1200, more: true),
        ])
        #expect(host.take(socket)?.bytes == data)
        let held = host.stack.ip.reassembly.heldBytes
        #expect(held == 0)
        #expect(host.end() == 0)
    }

    @Test func `an atomic fragment is a datagram by itself (RFC 6946)`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("[::]:1000")
        let content = udp([1, 2, 3], from: Peer.v6, to: NetworkHost.v6)
        host.receive(fragment6(content[...7], at: 0, more: true))
        host.receive(fragment6(content[...], at: 0, more: false))
        #expect(host.take(socket)?.bytes == [1, 2, 3])
        #expect(host.end() == 0)
    }

    @Test func `datagrams of several senders and identifications do not mix`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000")
        let first = fragments(udp(pattern(100)), at: [40], identification: 1)
        let second = fragments(udp(Array(pattern(100).reversed())), at: [40], identification: 2)
        host.receive([first[0], second[1], second[0], first[1]])
        #expect(host.take(socket)?.bytes == pattern(100).reversed())
        #expect(host.take(socket)?.bytes == pattern(100))
        #expect(host.end() == 0)
    }

    @Test func `an overlap discards the datagram whole, with what still comes of it (RFC 5722, section 4)`() throws {
        for isIPv4 in [true, false] {
            var host = try NetworkHost()
            let socket = try host.bind(isIPv4 ? "0.0.0.0:1000" : "[::]:1000")
            let content = isIPv4 ? udp(pattern(100)) : udp(pattern(100), from: Peer.v6, to: NetworkHost.v6)
            func part(_ range: Range<Int>, more: Bool) -> [UInt8] {
                isIPv4
                    ? ethernet(.ipv4, ipv4(.udp, Array(content[range]), offset: range.lowerBound, more: more))
                    : fragment6(content[range], at: range.lowerBound, more: more)
            }
            host.receive([part(0..<48, more: true), part(40..<80, more: true), part(48..<80, more: true), part(80..<108, more: false)])
            #expect(host.take(socket) == nil)
            let (held, overlaps) = (host.stack.ip.reassembly.heldBytes, host.stack.ip.counters.reassemblyOverlaps)
            #expect(held == 0 && overlaps == 1)
            // The name is free again when the time is over.
            host.pass(milliseconds: 61_000)
            host.receive([part(0..<48, more: true), part(48..<108, more: false)])
            #expect(host.take(socket)?.bytes == pattern(100))
            #expect(host.end() == 0)
        }
    }

    @Test func `ends that contradict each other discard the datagram`() throws {
        for (first, second) in [((64, 44, false), (0, 120, true)), ((64, 44, false), (64, 40, false)), ((0, 200, true), (64, 44, false))] {
            var host = try NetworkHost()
            let socket = try host.bind("0.0.0.0:1000")
            for (start, length, more) in [first, second] {
                host.receive(ethernet(.ipv4, ipv4(.udp, pattern(length), offset: start, more: more)))
            }
            #expect(host.take(socket) == nil)
            let held = host.stack.ip.reassembly.heldBytes
            #expect(held == 0)
            #expect(host.end() == 0)
        }
    }

    @Test func `fragments that cannot be are dropped: odd lengths, too long, none, tiny (RFC 791; RFC 1858; RFC 3128)`() throws {
        var host = try NetworkHost()
        let refused = [
            ipv4(.udp, pattern(13), offset: 0, more: true), ipv4(.udp, pattern(200), offset: 65_400, more: false),
            ipv4(.udp, [], offset: 8, more: true), ipv4(.tcp, pattern(8), offset: 8, more: false), ipv4(.tcp, pattern(16), offset: 0, more: true),
        ]
        for packet in refused { #expect(host.receive(ethernet(.ipv4, packet)).isEmpty) }
        let (dropped, count) = (host.stack.ip.counters.fragmentsDropped, host.stack.ip.reassembly.count)
        #expect(dropped == 5 && count == 0)
        #expect(host.end() == 0)
    }

    @Test func `IPv6 fragments that cannot be are reported (RFC 8200, section 4.5; RFC 7112)`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v6, Peer.mac)
        let length = host.receive(fragment6(pattern(13)[...], at: 0, more: true))
        #expect(length.first?.icmpv6 == .parameterProblem(.erroneousHeaderField, pointer: 4))
        let far = host.receive(fragment6(pattern(200)[...], at: 65_400, more: false))
        #expect(far.first?.icmpv6 == .parameterProblem(.erroneousHeaderField, pointer: 42))
        let headers = host.receive(fragment6(pattern(16)[...], at: 0, more: true, next: .tcp))
        #expect(headers.first?.icmpv6 == .parameterProblem(.incompleteHeaderChain, pointer: 0))
        #expect(host.end() == 0)
    }

    @Test func `an incomplete datagram is given up after 30 s, and its sender told (RFC 792; RFC 1122, section 3.3.2)`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        let frames = fragments(udp(pattern(100)), at: [40])
        host.receive(frames[0])
        #expect(host.pass(milliseconds: 29_999).isEmpty)
        let answers = host.pass(milliseconds: 1)
        #expect(answers.first?.icmpv4 == .timeExceeded(code: 1))
        #expect(answers.first?.quoted == Array(frames[0].dropFirst(14)))
        // Without the first fragment there is nothing to say.
        host.receive(frames[1])
        #expect(host.pass(milliseconds: 60_000).isEmpty)
        let timeouts = host.stack.ip.counters.reassemblyTimeouts
        #expect(timeouts == 2)
        #expect(host.end() == 0)
    }

    @Test func `an incomplete IPv6 datagram is given up after 60 s (RFC 8200, section 4.5)`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v6, Peer.mac)
        host.receive(fragment6(udp(pattern(100), from: Peer.v6, to: NetworkHost.v6)[..<40], at: 0, more: true))
        #expect(host.pass(milliseconds: 59_999).isEmpty)
        #expect(host.pass(milliseconds: 1).compactMap(\.icmpv6) == [.timeExceeded(code: 1)])
        #expect(host.end() == 0)
    }

    @Test func `congestion that a fragment has met is the datagram's (RFC 3168, section 5.3)`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000")
        host.receive(fragments(udp([UInt8](repeating: 1, count: 92)), at: [40], ecn: [.capable0, .congestionExperienced]))
        #expect(host.take(socket) != nil)
        host.receive(fragments(udp([UInt8](repeating: 1, count: 92)), at: [40], identification: 8, ecn: [.notCapable, .congestionExperienced]))
        #expect(host.take(socket) == nil)
        #expect(host.end() == 0)
    }

    @Test func `a flood of fragments holds no more than its bounds, and the oldest goes`() throws {
        var host = try NetworkHost { configuration, _ in
            configuration.reassembly.datagramsMaximum = 16
            configuration.reassembly.fragmentsMaximum = 40
            configuration.reassembly.bytesMaximum = 100_000
        }
        let socket = try host.bind("0.0.0.0:1000")
        var generator = SplitMix64(seed: 3)
        for number in 0..<20_000 {
            let source = IPAddress(ipv4: 0x0a00_0002 + UInt32.random(in: 0..<200, using: &generator))
            let start = Int.random(in: 0..<8000, using: &generator) * 8
            let identification = UInt16.random(in: 0..<300, using: &generator)
            let part = pattern(8 * (1 + number % 100))
            host.receive(ethernet(.ipv4, ipv4(.udp, part, from: source, identification: identification, offset: start, more: true)))
            let (held, count) = (host.stack.ip.reassembly.heldBytes, host.stack.ip.reassembly.count)
            guard held <= 100_000, count <= 16 else {
                Issue.record("\(held) bytes in \(count) datagrams")
                break
            }
        }
        // A whole one still gets through.
        host.receive(fragments(udp(pattern(100)), at: [40], identification: 999))
        #expect(host.take(socket)?.bytes == pattern(100))
        host.pass(milliseconds: 61_000)
        let (held, live) = (host.stack.ip.reassembly.heldBytes, host.heap.statistics.liveObjects)
        #expect(held == 0 && live == 0)
        #expect(host.end() == 0)
    }

    @Test func `one datagram has so many fragments and no more`() throws {
        var host = try NetworkHost()
        for number in 0..<1000 { host.receive(ethernet(.ipv4, ipv4(.udp, pattern(8), offset: number * 16, more: true))) }
        let (held, live) = (host.stack.ip.reassembly.heldBytes, host.heap.statistics.liveObjects)
        #expect(held == 0 && live == 0)
        #expect(host.end() == 0)
    }

    // MARK: Fragments that are sent

    @Test(arguments: [1473, 1500, 3000, 9000, 65_507])
    func `a datagram larger than the link goes in fragments and arrives (RFC 791, section 3.2)`(count: Int) throws {
        var sender = try NetworkHost()
        try sender.introduce(Peer.v4, Peer.mac)
        let socket = try sender.bind("0.0.0.0:2000")
        let frames = try sender.send(socket, pattern(count), to: "10.0.0.2:1000")
        #expect(frames.count == (count + 8 + 1479) / 1480)
        #expect(frames.allSatisfy { $0.bytes.count <= 1514 && $0.ipv4?.dontFragment == false })
        #expect(Set(frames.map { $0.ipv4?.identification }).count == 1)
        #expect(sender.end() == 0)

        var receiver = try NetworkHost { configuration, _ in
            configuration.macAddress = Peer.mac
            configuration.addresses = [.init(Peer.v4, prefixLength: 24)]
            configuration.gatewayIPv6 = nil
        }
        let server = try receiver.bind("0.0.0.0:1000")
        receiver.receive(frames.map(\.bytes))
        #expect(receiver.take(server)?.bytes == pattern(count))
        #expect(receiver.end() == 0)
    }

    @Test func `an IPv6 datagram larger than the link goes in fragments and arrives (RFC 8200, section 4.5)`() throws {
        var sender = try NetworkHost()
        try sender.introduce(Peer.v6, Peer.mac)
        let socket = try sender.bind("[::]:2000")
        let frames = try sender.send(socket, pattern(5000), to: "[fd00::2]:1000")
        #expect(frames.count == 4)
        #expect(frames.allSatisfy { $0.bytes.count <= 1514 && $0.ipv6?.nextHeader == .fragment })
        #expect(sender.end() == 0)

        var receiver = try NetworkHost { configuration, _ in
            configuration.macAddress = Peer.mac
            configuration.addresses = [.init(Peer.v6, prefixLength: 64)]
            configuration.gatewayIPv4 = nil
        }
        let server = try receiver.bind("[::]:1000")
        receiver.receive(frames.map(\.bytes))
        #expect(receiver.take(server)?.bytes == pattern(5000))
        #expect(receiver.end() == 0)
    }

    @Test func `a datagram whose fragments do not all fit into the queue is not sent in part`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        let socket = try host.bind("0.0.0.0:2000")
        for _ in 0..<6 {
            let list = host.payload(pattern(65_507))
            try host.stack.udp.send(socket, list, to: SocketAddress("10.0.0.2:9")!, ip: &host.stack.ip, now: host.now)
        }
        let drops = host.stack.ip.counters.transmitDrops
        #expect(host.sent().count == 5 * 45)
        #expect(drops == 1)
        #expect(host.end() == 0)
    }
}
