// Frames that no stack of ours would make, byte by byte: without the stack's own headers, which refuse to.

/// Makers of frames. Addresses are bytes: four for IPv4, sixteen for IPv6; what both ends of a packet have decides the version.
enum AttackFrame {
    static func bytes(_ value: UInt64, _ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * (count - 1 - $0))) } }

    static func ethernet(to: UInt64, from: UInt64, type: UInt64, _ payload: [UInt8]) -> [UInt8] {
        bytes(to, 6) + bytes(from, 6) + bytes(type, 2) + payload
    }

    /// An IP packet in a frame.
    static func frame(to: UInt64, from: UInt64, _ packet: [UInt8]) -> [UInt8] {
        ethernet(to: to, from: from, type: packet.first.map { $0 >> 4 == 4 } ?? true ? 0x0800 : 0x86dd, packet)
    }

    /// A piece of a datagram: where its bytes belong, in bytes, and whether more follow.
    struct Fragment {
        var identification: UInt32
        var offset: Int
        var more: Bool
    }

    static func packet(
        from source: [UInt8], to destination: [UInt8], proto: UInt8, _ payload: [UInt8], fragment: Fragment? = nil, hopLimit: UInt8 = 64,
        options: [UInt8] = []
    ) -> [UInt8] {
        if source.count == 4 {
            var header: [UInt8] = [UInt8(0x45 + options.count / 4), 0]
            header += bytes(UInt64(20 + options.count + payload.count), 2) + bytes(UInt64(fragment?.identification ?? 0), 2)
            header += bytes(fragment.map { UInt64($0.offset / 8) | ($0.more ? 0x2000 : 0) } ?? 0, 2)
            header += [hopLimit, proto, 0, 0] + source + destination + options
            header.store16(header.checksum(0..<header.count), at: 10)
            return header + payload
        }
        var body = payload
        var next = proto
        if let fragment {
            body = [proto, 0] + bytes(UInt64(fragment.offset & ~7 | (fragment.more ? 1 : 0)), 2) + bytes(UInt64(fragment.identification), 4) + body
            next = 44
        }
        return [0x60, 0, 0, 0] + bytes(UInt64(body.count), 2) + [next, hopLimit] + source + destination + body
    }

    /// A transport's bytes with their checksum stored at `place`.
    static func summed(_ transport: [UInt8], at place: Int, from source: [UInt8], to destination: [UInt8], proto: UInt8) -> [UInt8] {
        var transport = transport
        let addresses = source + destination
        let pseudo = UInt32(~addresses.checksum(0..<addresses.count)) + UInt32(transport.count) + UInt32(proto)
        transport.store16(transport.checksum(0..<transport.count, adding: pseudo), at: place)
        return transport
    }

    /// What a TCP segment says.
    struct Segment {
        var source: [UInt8]
        var destination: [UInt8]
        var sourcePort: UInt16
        var destinationPort: UInt16
        var sequence: UInt32
        var acknowledgment: UInt32
        var flags: UInt8
        var window: UInt16 = 65_535
        /// A multiple of four bytes, 40 at most.
        var options: [UInt8] = []
        var payload: [UInt8] = []
    }

    static func tcp(_ segment: Segment) -> [UInt8] {
        var header = bytes(UInt64(segment.sourcePort), 2) + bytes(UInt64(segment.destinationPort), 2)
        header += bytes(UInt64(segment.sequence), 4) + bytes(UInt64(segment.acknowledgment), 4)
        header += [UInt8(5 + segment.options.count / 4) << 4, segment.flags] + bytes(UInt64(segment.window), 2) + [0, 0, 0, 0]
        let transport = header + segment.options + segment.payload
        return packet(
            from: segment.source, to: segment.destination, proto: 6,
            summed(transport, at: 16, from: segment.source, to: segment.destination, proto: 6))
    }

    static func udp(from source: [UInt8], port sourcePort: UInt16, to destination: [UInt8], port: UInt16, _ payload: [UInt8]) -> [UInt8] {
        let header = bytes(UInt64(sourcePort), 2) + bytes(UInt64(port), 2) + bytes(UInt64(8 + payload.count), 2) + [0, 0]
        return summed(header + payload, at: 6, from: source, to: destination, proto: 17)
    }

    /// An ICMP or ICMPv6 message, by the addresses.
    static func icmp(from source: [UInt8], to destination: [UInt8], type: UInt8, code: UInt8, rest: UInt32, _ body: [UInt8], hopLimit: UInt8 = 64)
        -> [UInt8]
    {
        var message = [type, code, 0, 0] + bytes(UInt64(rest), 4) + body
        if source.count == 4 {
            message.store16(message.checksum(0..<message.count), at: 2)
        } else {
            message = summed(message, at: 2, from: source, to: destination, proto: 58)
        }
        return packet(from: source, to: destination, proto: source.count == 4 ? 1 : 58, message, hopLimit: hopLimit)
    }

    /// An ARP packet, request (1) or reply (2), whose sender says that `address` is at `station`.
    static func arp(operation: UInt64, from station: UInt64, _ address: [UInt8], to targetStation: UInt64, _ target: [UInt8], in ethernet: UInt64)
        -> [UInt8]
    {
        let body: [UInt8] = [0, 1, 8, 0, 6, 4] + bytes(operation, 2) + bytes(station, 6) + address + bytes(targetStation, 6) + target
        return AttackFrame.ethernet(to: ethernet, from: station, type: 0x0806, body)
    }
}
