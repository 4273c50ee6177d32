// What links and switches know of the frames that they carry: no more than the boxes on a real wire do. Written without the stack's own
// parsers, so that a mistake there does not hide here.

extension Array where Element == UInt8 {
    func bigEndian16(_ offset: Int) -> UInt16 { UInt16(self[offset]) << 8 | UInt16(self[offset + 1]) }

    mutating func store16(_ value: UInt16, at offset: Int) {
        self[offset] = UInt8(value >> 8)
        self[offset + 1] = UInt8(value & 255)
    }

    /// The Ethernet address at `offset`.
    func address(_ offset: Int) -> UInt64 { self[offset..<offset + 6].reduce(0) { $0 << 8 | UInt64($1) } }

    /// Where the packet begins: behind the Ethernet header and an 802.1Q tag.
    private var packetStart: Int { count >= 18 && bigEndian16(12) == 0x8100 ? 18 : 14 }
    private var etherType: UInt16 { count >= packetStart ? bigEndian16(packetStart - 2) : 0 }
    var packetByteCount: Int { Swift.max(0, count - packetStart) }
    private var isIPv4: Bool { etherType == 0x0800 && packetByteCount >= 20 && self[packetStart] >> 4 == 4 }
    private var isIPv6: Bool { etherType == 0x86dd && packetByteCount >= 40 && self[packetStart] >> 4 == 6 }

    /// The Internet checksum of some bytes (RFC 1071), to be stored as it is.
    func checksum(_ range: Range<Int>, adding start: UInt32 = 0) -> UInt16 {
        var sum = start
        var offset = range.lowerBound
        while offset + 1 < range.upperBound {
            sum &+= UInt32(bigEndian16(offset))
            sum = (sum & 0xffff) + (sum >> 16)
            offset += 2
        }
        if offset < range.upperBound { sum &+= UInt32(self[offset]) << 8 }
        while sum >> 16 != 0 { sum = (sum & 0xffff) + (sum >> 16) }
        return ~UInt16(sum)
    }

    /// Changes some of 15 neighbouring bits, drawn from `draw`. False where the frame carries no checksum that would show it.
    mutating func corrupt(_ draw: UInt64) -> Bool {
        guard isIPv4 || isIPv6 else { return false }
        let bits = (count - packetStart) * 8 - 15
        let first = packetStart * 8 + Int(SimulationRandom.mix(draw) % UInt64(bits))
        // The first bit of the window is always changed, so that something is.
        let pattern = draw & 0x7fff | 1
        for bit in 0..<15 where pattern >> UInt64(bit) & 1 == 1 { self[(first + bit) / 8] ^= 0x80 >> UInt8((first + bit) % 8) }
        return true
    }

    /// Marks the packet "congestion experienced" where its transport can tell. RFC 3168, section 5.
    mutating func markCongestion() -> Bool {
        if isIPv4 {
            guard self[packetStart + 1] & 3 != 0 else { return false }
            self[packetStart + 1] |= 3
            store16(0, at: packetStart + 10)
            store16(checksum(packetStart..<packetStart + Int(self[packetStart] & 15) * 4), at: packetStart + 10)
            return true
        }
        // The traffic class lies across the first two bytes: its low bits are bits 5 and 4 of the second.
        guard isIPv6, self[packetStart + 1] & 0x30 != 0 else { return false }
        self[packetStart + 1] |= 0x30
        return true
    }

    /// What a router answers to a packet larger than `mtu`: "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443, section 3.2), in
    /// the name of the packet's destination. Nil where it may be fragmented, or is itself an ICMP error, or is not IP.
    func tooBigAnswer(mtu: Int) -> [UInt8]? {
        let start = packetStart
        if isIPv4 {
            let headerLength = Int(self[start] & 15) * 4
            guard self[start + 6] & 0x40 != 0, self[start + 9] != 1, packetByteCount >= headerLength + 8 else { return nil }
            var message: [UInt8] = [3, 4, 0, 0, 0, 0, UInt8(mtu >> 8 & 255), UInt8(mtu & 255)] + self[start..<start + headerLength + 8]
            message.store16(message.checksum(0..<message.count), at: 2)
            let total = 20 + message.count
            var header: [UInt8] = [0x45, 0, UInt8(total >> 8), UInt8(total & 255), 0, 0, 0, 0, 64, 1, 0, 0]
            header += self[start + 16..<start + 20] + self[start + 12..<start + 16]
            header.store16(header.checksum(0..<20), at: 10)
            return answerHeader() + header + message
        }
        guard isIPv6, self[start + 6] != 58 else { return nil }
        var message: [UInt8] = [2, 0, 0, 0, 0, 0, UInt8(mtu >> 8 & 255), UInt8(mtu & 255)]
        message += self[start..<Swift.min(count, start + 1280 - 48)]
        let addresses = Array(self[start + 24..<start + 40] + self[start + 8..<start + 24])
        let pseudo = UInt32(~addresses.checksum(0..<32)) + UInt32(message.count) + 58
        message.store16(message.checksum(0..<message.count, adding: pseudo), at: 2)
        let header: [UInt8] = [0x60, 0, 0, 0, UInt8(message.count >> 8), UInt8(message.count & 255), 58, 64]
        return answerHeader() + header + addresses + message
    }

    /// The Ethernet header (and tag) of this frame with the addresses exchanged.
    private func answerHeader() -> [UInt8] { Array(self[6..<12] + self[0..<6] + self[12..<packetStart]) }
}
