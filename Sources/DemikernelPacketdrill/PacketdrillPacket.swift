import Demikernel

/// Between packetdrill's IP packets and the stack's Ethernet frames.
enum PacketdrillPacket {
    private static let headerBytes = 14

    /// A frame around a packet; nil for what is neither IPv4 nor IPv6.
    static func inbound(_ packet: UnsafeRawBufferPointer, _ settings: PacketdrillSettings) -> [UInt8]? {
        guard packet.count >= 20, packet.count <= 65_535 else { return nil }
        let type: [UInt8]
        switch unsafe packet[0] >> 4 {
        case 4: type = [0x08, 0x00]
        case 6: type = [0x86, 0xdd]
        default: return nil
        }
        return bytes(of: settings.ownStation) + bytes(of: settings.peerStation) + type + (unsafe Array(packet))
    }

    /// The packet of a frame; nil for one that packetdrill knows nothing of: ARP and neighbour discovery.
    static func outbound(_ frame: [UInt8], _ settings: PacketdrillSettings) -> [UInt8]? {
        guard frame.count > headerBytes + 20 else { return nil }
        let packet = Array(frame[headerBytes...])
        switch (frame[12], frame[13]) {
        case (0x08, 0x00): return settings.options.isEmpty || packet[9] != 6 ? packet : reordered(packet, Int(packet[0] & 15) * 4, settings.options)
        case (0x86, 0xdd):
            guard packet.count > 40 else { return nil }
            if packet[6] == 58, (133...137).contains(packet[40]) { return nil }
            return settings.options.isEmpty || packet[6] != 6 ? packet : reordered(packet, 40, settings.options)
        default: return nil
        }
    }

    private static func bytes(of station: MACAddress) -> [UInt8] { (0..<6).map { UInt8(truncatingIfNeeded: station.rawValue >> UInt64(40 - 8 * $0)) } }

    // MARK: - Options

    /// A SYN's options in another order. Those that the order leaves out are left out; where they end between words, NOPs follow.
    private static func reordered(_ packet: [UInt8], _ start: Int, _ order: [PacketdrillSettings.Option]) -> [UInt8] {
        guard packet.count >= start + 20, packet[start + 13] & 2 != 0 else { return packet }
        let end = start + Int(packet[start + 12] >> 4) * 4
        guard end <= packet.count else { return packet }
        var found: [PacketdrillSettings.Option: [UInt8]] = [:]
        var place = start + 20
        while place < end, packet[place] != 0 {
            if packet[place] == 1 {
                place += 1
                continue
            }
            guard place + 1 < end, packet[place + 1] >= 2, place + Int(packet[place + 1]) <= end else { return packet }
            let kinds: [UInt8: PacketdrillSettings.Option] = [2: .mss, 3: .ws, 4: .sackok, 8: .ts]
            if let kind = kinds[packet[place]] { found[kind] = Array(packet[place..<place + Int(packet[place + 1])]) }
            place += Int(packet[place + 1])
        }
        var options: [UInt8] = []
        for option in order {
            switch option {
            case .nop: options.append(1)
            case .eol: options.append(0)
            default: options += found[option] ?? []
            }
        }
        while options.count % 4 != 0 { options.append(1) }
        guard options.count <= 40 else { return packet }
        var result = Array(packet[..<(start + 20)]) + options + packet[end...]
        result[start + 12] = UInt8((20 + options.count) / 4) << 4 | result[start + 12] & 15
        fixLengthsAndSums(&result, start)
        return result
    }

    private static func fixLengthsAndSums(_ packet: inout [UInt8], _ start: Int) {
        let isIPv4 = packet[0] >> 4 == 4
        let transport = packet.count - start
        var sum: UInt32 = 6 + UInt32(transport)
        if isIPv4 {
            store(UInt16(packet.count), &packet, 2)
            store(0, &packet, 10)
            store(~folded(add(packet[..<start])), &packet, 10)
            sum += add(packet[12..<20])
        } else {
            store(UInt16(transport), &packet, 4)
            sum += add(packet[8..<40])
        }
        store(0, &packet, start + 16)
        store(~folded(sum + add(packet[start...])), &packet, start + 16)
    }

    private static func store(_ value: UInt16, _ packet: inout [UInt8], _ place: Int) {
        (packet[place], packet[place + 1]) = (UInt8(value >> 8), UInt8(truncatingIfNeeded: value))
    }

    /// The sum of 16-bit words (RFC 1071), an odd byte last.
    private static func add(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.enumerated().reduce(0) { $0 + ($1.offset % 2 == 0 ? UInt32($1.element) << 8 : UInt32($1.element)) }
    }

    private static func folded(_ sum: UInt32) -> UInt16 {
        var sum = sum
        while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
        return UInt16(sum)
    }
}
