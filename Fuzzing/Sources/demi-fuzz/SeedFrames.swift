@testable import DemikernelSimulator

/// What well-behaved hosts send, for inputs to begin with: made byte by byte, without the stack's own headers.
enum SeedFrames {
    static let victim: (station: UInt64, ipv4: [UInt8], ipv6: [UInt8]) = (0x0200_0000_0001, [10, 0, 0, 1], ipv6(1))
    static let peer: (station: UInt64, ipv4: [UInt8], ipv6: [UInt8]) = (0x0200_0000_0002, [10, 0, 0, 2], ipv6(2))
    /// The fuzzer's own station.
    static let stranger: (station: UInt64, ipv4: [UInt8], ipv6: [UInt8]) = (0x0200_0000_0009, [10, 0, 0, 9], ipv6(9))

    static func ipv6(_ host: UInt8) -> [UInt8] { [0xfd, 0] + [UInt8](repeating: 0, count: 13) + [host] }

    /// Packets, without their Ethernet headers.
    private static let packets: [[UInt8]] = {
        var packets: [[UInt8]] = []
        let timestamps: [UInt8] = [1, 1, 8, 10] + AttackFrame.bytes(7, 4) + AttackFrame.bytes(9, 4)
        let opening: [UInt8] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]
        let report: [UInt8] = timestamps + [1, 1, 5, 18] + AttackFrame.bytes(2000, 4) + AttackFrame.bytes(3000, 4) + AttackFrame.bytes(5000, 4) + AttackFrame.bytes(6000, 4)
        for (source, destination) in [(stranger.ipv4, victim.ipv4), (stranger.ipv6, victim.ipv6)] {
            for (flags, options, payload) in [
                (UInt8(0x02), opening, [UInt8]()), (0x12, opening, []), (0x10, timestamps, []), (0x18, timestamps, Array("hello".utf8)),
                (0x10, report, []), (0x11, [], []), (0x14, [], []), (0x30, [], [1, 2, 3]), (0xc2, [2, 4, 2, 0x18], []),
            ] {
                packets.append(
                    AttackFrame.tcp(
                        .init(
                            source: source, destination: destination, sourcePort: 4000, destinationPort: 80, sequence: 1000, acknowledgment: 2000,
                            flags: flags, window: 8192, options: options, payload: payload)))
            }
            let datagram = AttackFrame.udp(from: source, port: 5000, to: destination, port: 7, Array("datagram".utf8))
            packets.append(AttackFrame.packet(from: source, to: destination, proto: 17, datagram))
            for (offset, more) in [(0, true), (8, true), (16, false)] {
                let piece = Array((datagram + [UInt8](repeating: 0, count: 8))[offset..<min(offset + 8, 24)])
                packets.append(
                    AttackFrame.packet(
                        from: source, to: destination, proto: 17, piece, fragment: .init(identification: 7, offset: offset, more: more)))
            }
        }
        let quotedIPv4 = AttackFrame.udp(from: victim.ipv4, port: 7, to: stranger.ipv4, port: 5000, [1, 2, 3, 4])
        let quotes = AttackFrame.packet(from: victim.ipv4, to: stranger.ipv4, proto: 17, quotedIPv4)
        for (type, code, rest) in [(UInt8(8), UInt8(0), UInt32(1)), (0, 0, 1), (3, 3, 0), (3, 4, 576), (11, 0, 0), (12, 0, 0), (5, 1, 0)] {
            packets.append(AttackFrame.icmp(from: stranger.ipv4, to: victim.ipv4, type: type, code: code, rest: rest, quotes))
        }
        let quotesIPv6 = AttackFrame.packet(from: victim.ipv6, to: stranger.ipv6, proto: 17, quotedIPv4)
        for (type, code, rest) in [(UInt8(128), UInt8(0), UInt32(1)), (129, 0, 1), (1, 4, 0), (2, 0, 1280), (3, 0, 0), (4, 1, 6)] {
            packets.append(AttackFrame.icmp(from: stranger.ipv6, to: victim.ipv6, type: type, code: code, rest: rest, quotesIPv6))
        }
        packets += discovery
        // A packet with IPv4 options, and one behind IPv6 extension headers.
        packets.append(AttackFrame.packet(from: stranger.ipv4, to: victim.ipv4, proto: 17, quotedIPv4, options: [0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0]))
        for chain in chains { packets.append(AttackFrame.packet(from: stranger.ipv6, to: victim.ipv6, proto: chain[0], Array(chain[1...]))) }
        return packets
    }()

    private static let discovery: [[UInt8]] = {
        let target = victim.ipv6
        let option: [UInt8] = [1, 1] + AttackFrame.bytes(stranger.station, 6)
        let prefix: [UInt8] = [3, 4, 64, 0xc0] + AttackFrame.bytes(3600, 4) + AttackFrame.bytes(1800, 4) + AttackFrame.bytes(0, 4) + ipv6(0)
        let mtu: [UInt8] = [5, 1, 0, 0] + AttackFrame.bytes(1400, 4)
        let messages: [(UInt8, UInt32, [UInt8])] = [
            (133, 0, option), (134, 0x4040_0708, AttackFrame.bytes(0, 8) + option + mtu + prefix), (135, 0, target + option),
            (136, 0xe000_0000, stranger.ipv6 + [2, 1] + AttackFrame.bytes(stranger.station, 6)),
        ]
        return messages.map {
            AttackFrame.icmp(from: stranger.ipv6, to: victim.ipv6, type: $0.0, code: 0, rest: $0.1, $0.2, hopLimit: 255)
        }
    }()

    /// Protocol numbers, and the extension headers that they name.
    private static let chains: [[UInt8]] = [
        [0, 60, 0, 5, 2, 0, 0, 1, 0, 17, 0, 1, 4, 0, 0, 0, 0] + [UInt8](repeating: 1, count: 8),
        [43, 17, 0, 4, 0, 0, 0, 0, 0] + [UInt8](repeating: 1, count: 8),
        [60, 17, 0, 0xc2, 0, 0, 0, 0, 0], [44, 17, 0, 0, 1, 0, 0, 0, 9] + [UInt8](repeating: 1, count: 8),
    ]

    static let all: [[UInt8]] = {
        let frames = packets.map { AttackFrame.frame(to: victim.station, from: stranger.station, $0) }
        let arps = [1, 2].map {
            AttackFrame.arp(operation: $0, from: stranger.station, stranger.ipv4, to: $0 == 1 ? 0 : victim.station, victim.ipv4, in: victim.station)
        }
        let tagged = Array(frames[0][..<12]) + [0x81, 0, 0x20, 7] + frames[0][12...]
        return frames + arps + [tagged]
    }()

    /// What follows the Ethernet headers of one type.
    static func payloads(of type: UInt16) -> [[UInt8]] { all.filter { $0.bigEndian16(12) == type }.map { Array($0[14...]) } }

    /// What follows the IP headers, of whole packets without options.
    static func transports(_ number: UInt8) -> [[UInt8]] {
        payloads(of: 0x0800).filter { $0[0] == 0x45 && $0[9] == number && $0[7] == 0 && $0[6] & 0x3f == 0 }.map { Array($0[20...]) }
            + payloads(of: 0x86dd).filter { $0[6] == number }.map { Array($0[40...]) }
    }

    static let neighbourDiscovery = discovery.map { Array($0[40...]) } + discovery.map { Array($0[($0[40] == 133 ? 48 : 64)...]) }
    static let extensions = chains
    static let options = transports(6).map { Array($0[20..<Int($0[12] >> 4) * 4]) }.filter { !$0.isEmpty }
    static let text = [
        "10.0.0.1", "2001:db8::1", "02:00:00:00:00:01", "10.0.0.1:80", "[fd00::1]:443", "::ffff:1.2.3.4", "[fe80::1%2]:9",
        "socket\tstate=established\tlocal=10.0.0.1:7000",
    ].map { Array($0.utf8) }
}
