import Demikernel

// Frames taken apart, independently of the stack's own views, which are judged here.

extension Array where Element == UInt8 {
    func get16(_ offset: Int) -> UInt16 { UInt16(self[offset]) << 8 | UInt16(self[offset + 1]) }
    func get32(_ offset: Int) -> UInt32 { UInt32(get16(offset)) << 16 | UInt32(get16(offset + 2)) }
    func get64(_ offset: Int) -> UInt64 { UInt64(get32(offset)) << 32 | UInt64(get32(offset + 4)) }
    func getMAC(_ offset: Int) -> MACAddress { MACAddress(UInt64(get16(offset)) << 32 | UInt64(get32(offset + 2))) }
    func getIPv4(_ offset: Int) -> IPAddress { IPAddress(ipv4: get32(offset)) }
    func getIPv6(_ offset: Int) -> IPAddress { IPAddress(high: get64(offset), low: get64(offset + 8)) }

    mutating func set16(_ value: UInt16, _ offset: Int) {
        self[offset] = UInt8(value >> 8)
        self[offset + 1] = UInt8(value & 255)
    }
    mutating func put16(_ value: Int) { append(contentsOf: [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)]) }
    mutating func put32(_ value: UInt32) {
        put16(Int(value >> 16))
        put16(Int(value & 0xffff))
    }
    mutating func put(_ address: MACAddress) {
        put16(Int(address.rawValue >> 32))
        put32(UInt32(truncatingIfNeeded: address.rawValue))
    }
    mutating func put(_ address: IPAddress) {
        if address.isIPv4 { return put32(address.ipv4) }
        for half in [address.high, address.low] {
            put32(UInt32(half >> 32))
            put32(UInt32(truncatingIfNeeded: half))
        }
    }

    /// The one's complement sum of 16-bit words, folded. RFC 1071.
    var onesSum: UInt16 {
        var sum: UInt64 = 0
        for index in stride(from: 0, to: count - 1, by: 2) { sum += UInt64(get16(index)) }
        if count % 2 == 1 { sum += UInt64(self[count - 1]) << 8 }
        while sum > 0xffff { sum = (sum & 0xffff) + (sum >> 16) }
        return UInt16(sum)
    }
}

/// An IP packet that the stack has sent.
struct DecodedPacket {
    /// From the IP header on, padding trimmed.
    var bytes: [UInt8]
    var source: IPAddress
    var destination: IPAddress
    var protocolNumber: UInt8
    var hopLimit: UInt8
    var traffic: UInt8
    var identification: UInt32 = 0
    var dontFragment = false
    var isFragment = false
    var moreFragments = false
    var fragmentOffset = 0
    var payload: [UInt8]

    var isIPv4: Bool { source.isIPv4 }

    /// The transport's checksum comes out right.
    var checksumIsRight: Bool { ScriptWire.pseudoHeader(source, destination, protocolNumber, payload.count, payload).onesSum == 0xffff }
}

struct DecodedTCP {
    var sourcePort: UInt16
    var destinationPort: UInt16
    var sequence: UInt32
    var acknowledgment: UInt32
    var flags: String
    var window: UInt16
    var options: [ScriptTCPOption]
    var payload: [UInt8]
    /// Absolute, where there are any.
    var timestamps: (value: UInt32, echo: UInt32)?
}

/// A frame that the stack has sent, and when.
struct DecodedFrame {
    var time: UInt64
    var bytes: [UInt8]
    var destination: MACAddress
    var source: MACAddress
    var vlan: UInt16?
    var content: Content

    enum Content {
        case tcp(DecodedPacket, DecodedTCP)
        case udp(DecodedPacket, source: UInt16, destination: UInt16, payload: [UInt8])
        /// ICMP or ICMPv6: type, code, the next four bytes, the rest.
        case icmp(DecodedPacket, type: UInt8, code: UInt8, word: UInt32, rest: [UInt8])
        case fragment(DecodedPacket)
        case other(DecodedPacket)
        case arp(isReply: Bool, sender: IPAddress, hardware: MACAddress, target: IPAddress, targetHardware: MACAddress)
        /// What is wrong with it.
        case malformed(String)
    }

    init(_ bytes: [UInt8], time: UInt64) {
        self.time = time
        self.bytes = bytes
        guard bytes.count >= 14 else {
            (destination, source, content) = (.zero, .zero, .malformed("shorter than an Ethernet header"))
            return
        }
        destination = bytes.getMAC(0)
        source = bytes.getMAC(6)
        var start = 14
        if bytes.get16(12) == 0x8100, bytes.count >= 18 {
            vlan = bytes.get16(14)
            start = 18
        }
        let rest = Array(bytes[start...])
        switch bytes.get16(start - 2) {
        case 0x0800: content = Self.ipv4(rest)
        case 0x86dd: content = Self.ipv6(rest)
        case 0x0806 where rest.count >= 28 && rest.get64(0) >> 16 == 0x0001_0800_0604:
            content = .arp(
                isReply: rest.get16(6) == 2, sender: rest.getIPv4(14), hardware: rest.getMAC(8), target: rest.getIPv4(24),
                targetHardware: rest.getMAC(18))
        case let type: content = .malformed("an EtherType that nobody asked for: 0x\(String(type, radix: 16))")
        }
    }

    private static func ipv4(_ bytes: [UInt8]) -> Content {
        guard bytes.count >= 20, bytes[0] >> 4 == 4 else { return .malformed("no IPv4 header") }
        let header = Int(bytes[0] & 15) * 4
        let total = Int(bytes.get16(2))
        guard header >= 20, total >= header, total <= bytes.count else { return .malformed("the IPv4 header's lengths") }
        guard Array(bytes[..<header]).onesSum == 0xffff else { return .malformed("the IPv4 header's checksum") }
        let fragment = bytes.get16(6)
        let packet = DecodedPacket(
            bytes: Array(bytes[..<total]), source: bytes.getIPv4(12), destination: bytes.getIPv4(16), protocolNumber: bytes[9],
            hopLimit: bytes[8], traffic: bytes[1], identification: UInt32(bytes.get16(4)), dontFragment: fragment & 0x4000 != 0,
            isFragment: fragment & 0x3fff != 0, moreFragments: fragment & 0x2000 != 0, fragmentOffset: Int(fragment & 0x1fff) * 8,
            payload: Array(bytes[header..<total]))
        return transport(packet)
    }

    private static func ipv6(_ bytes: [UInt8]) -> Content {
        guard bytes.count >= 40, bytes[0] >> 4 == 6 else { return .malformed("no IPv6 header") }
        let total = 40 + Int(bytes.get16(4))
        guard total <= bytes.count else { return .malformed("the IPv6 payload length") }
        var packet = DecodedPacket(
            bytes: Array(bytes[..<total]), source: bytes.getIPv6(8), destination: bytes.getIPv6(24), protocolNumber: bytes[6],
            hopLimit: bytes[7], traffic: bytes[0] << 4 | bytes[1] >> 4, payload: Array(bytes[40..<total]))
        if packet.protocolNumber == 44 {
            guard packet.payload.count >= 8 else { return .malformed("the fragment header") }
            let field = packet.payload.get16(2)
            packet.isFragment = true
            packet.moreFragments = field & 1 != 0
            packet.fragmentOffset = Int(field & 0xfff8)
            packet.identification = packet.payload.get32(4)
            packet.protocolNumber = packet.payload[0]
            packet.payload.removeFirst(8)
        }
        return transport(packet)
    }

    private static func transport(_ packet: DecodedPacket) -> Content {
        let bytes = packet.payload
        guard !packet.isFragment else { return .fragment(packet) }
        switch packet.protocolNumber {
        case 6:
            guard bytes.count >= 20, bytes[12] >> 4 >= 5, Int(bytes[12] >> 4) * 4 <= bytes.count else { return .malformed("the TCP header") }
            guard packet.checksumIsRight else { return .malformed("the TCP checksum") }
            return tcp(packet, bytes)
        case 17:
            guard bytes.count >= 8, Int(bytes.get16(4)) == bytes.count else { return .malformed("the UDP header") }
            guard bytes.get16(6) == 0 ? packet.isIPv4 : packet.checksumIsRight else { return .malformed("the UDP checksum") }
            return .udp(packet, source: bytes.get16(0), destination: bytes.get16(2), payload: Array(bytes[8...]))
        case 1, 58:
            guard bytes.count >= 8, (packet.protocolNumber == 1) == packet.isIPv4 else { return .malformed("the ICMP header") }
            guard packet.isIPv4 ? bytes.onesSum == 0xffff : packet.checksumIsRight else { return .malformed("the ICMP checksum") }
            return .icmp(packet, type: bytes[0], code: bytes[1], word: bytes.get32(4), rest: Array(bytes[8...]))
        default: return .other(packet)
        }
    }

    private static func tcp(_ packet: DecodedPacket, _ bytes: [UInt8]) -> Content {
        let header = Int(bytes[12] >> 4) * 4
        let bits = bytes.get16(12) & 0x1ff
        var flags = ""
        for (bit, letter) in [(1, "S"), (0, "F"), (2, "R"), (3, "P"), (4, "."), (5, "U"), (6, "E"), (7, "W"), (8, "A")]
        where bits >> UInt16(bit) & 1 == 1 { flags += letter }
        var segment = DecodedTCP(
            sourcePort: bytes.get16(0), destinationPort: bytes.get16(2), sequence: bytes.get32(4), acknowledgment: bytes.get32(8),
            flags: flags, window: bytes.get16(14), options: [], payload: Array(bytes[header...]))
        var offset = 20
        while offset < header {
            let kind = bytes[offset]
            if kind == 0 { break }
            if kind == 1 {
                segment.options.append(.nop)
                offset += 1
                continue
            }
            guard offset + 1 < header, bytes[offset + 1] >= 2, offset + Int(bytes[offset + 1]) <= header else {
                return .malformed("the TCP options")
            }
            let value = Array(bytes[(offset + 2)..<(offset + Int(bytes[offset + 1]))])
            offset += value.count + 2
            switch (kind, value.count) {
            case (2, 2): segment.options.append(.maximumSegmentSize(Int(value.get16(0))))
            case (3, 1): segment.options.append(.windowScale(Int(value[0])))
            case (4, 0): segment.options.append(.sackPermitted)
            case (5, _) where value.count % 8 == 0 && !value.isEmpty:
                // Absolute here; the flow makes them relative.
                segment.options.append(
                    .sack(
                        stride(from: 0, to: value.count, by: 8).map {
                            let from = Int(value.get32($0))
                            return from..<from + Int(value.get32($0 + 4) &- value.get32($0))
                        }))
            case (8, 8):
                segment.timestamps = (value.get32(0), value.get32(4))
                segment.options.append(.timestamps(value: .value(Int(value.get32(0))), echo: .value(Int(value.get32(4)))))
            case (2...5, _), (8, _): return .malformed("the length of TCP option \(kind)")
            default: segment.options.append(.other(kind: kind, bytes: value))
            }
        }
        return .tcp(packet, segment)
    }

    var packet: DecodedPacket? {
        switch content {
        case .tcp(let packet, _), .udp(let packet, _, _, _), .icmp(let packet, _, _, _, _), .fragment(let packet), .other(let packet): packet
        case .arp, .malformed: nil
        }
    }
}
