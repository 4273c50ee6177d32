@testable import Demikernel
@testable import DemikernelSimulator

// Each reader of bytes for itself. That it stays within its bytes is the address sanitizer's and the loads' assertions to say; here is asked
// whether what it has read and written again is what there was.

extension FuzzTarget {
    static let parsers: [FuzzTarget] = [
        parser("ethernet", "Ethernet headers and their 802.1Q tags", seeds: SeedFrames.all, ParserChecks.ethernet),
        parser("arp", "ARP packets", seeds: SeedFrames.payloads(of: 0x0806), ParserChecks.arp),
        parser("ipv4", "IPv4 headers", seeds: SeedFrames.payloads(of: 0x0800), ParserChecks.ipv4),
        parser("ipv6", "IPv6 headers, and fragment headers", seeds: SeedFrames.payloads(of: 0x86dd), ParserChecks.ipv6),
        parser("ipv6-extensions", "the way through IPv6 extension headers", seeds: SeedFrames.extensions, ParserChecks.extensionHeaders),
        parser("icmp", "ICMP messages, and the packets that errors quote", seeds: SeedFrames.transports(1), ParserChecks.icmp),
        parser("icmpv6", "ICMPv6 messages, and the packets that errors quote", seeds: SeedFrames.transports(58), ParserChecks.icmpv6),
        parser("ndp", "neighbour discovery and its options", seeds: SeedFrames.neighbourDiscovery, ParserChecks.ndp),
        parser("udp", "UDP headers and checksums", seeds: SeedFrames.transports(17), ParserChecks.udp),
        parser("tcp", "TCP headers, options and checksums", seeds: SeedFrames.transports(6), ParserChecks.tcp),
        parser("tcp-options", "TCP options alone", seeds: SeedFrames.options, ParserChecks.options),
        parser("checksum", "the Internet checksum, whole and in pieces, beside its definition", seeds: SeedFrames.all, ParserChecks.checksum),
        parser("text", "addresses as text, and frames described for a person", seeds: SeedFrames.text + SeedFrames.all, ParserChecks.text),
    ]

    private static func parser(
        _ name: String, _ summary: String, seeds: [[UInt8]], _ check: @escaping @Sendable (PacketBytes) -> Void
    ) -> FuzzTarget {
        FuzzTarget(name: name, summary: summary, lengthMaximum: 512, runs: 60_000, seeds: { seeds }, run: { withPacket($0, check) })
    }
}

enum ParserChecks {
    /// Addresses for what is summed with a pseudo-header.
    private static let ends = (IPAddress(high: 0xfd00 << 48, low: 1), IPAddress(high: 0xfd00 << 48, low: 2))

    static func ethernet(_ bytes: PacketBytes) {
        guard let view = EthernetHeaderView(bytes) else { return require(bytes.count < 18, "a whole Ethernet header was refused") }
        let header = EthernetHeader(view)
        require(header.byteCount == view.headerLength && view.payload.count == bytes.count - view.headerLength, "Ethernet's lengths")
        let again = written(header.byteCount) { header.emit(into: $0) }
        require(again == bytes.slice(0, header.byteCount).array, "an Ethernet header differs when written again: \(header)")
    }

    static func arp(_ bytes: PacketBytes) {
        guard let view = ARPPacketView(bytes) else { return }
        let packet = ARPPacket(view)
        require(written(ARPPacket.byteCount) { packet.emit(into: $0) } == bytes.slice(0, 28).array, "an ARP packet differs: \(packet)")
        _ = packet.reply(from: packet.targetHardwareAddress)
    }

    static func ipv4(_ bytes: PacketBytes) {
        guard let view = IPv4HeaderView(bytes) else { return }
        require(view.headerLength + view.payloadLength == view.totalLength && view.totalLength <= bytes.count, "IPv4's lengths")
        require(view.options.count == view.headerLength - 20 && view.payload.count == view.payloadLength, "IPv4's parts")
        let reference = referenceChecksum(bytes.slice(0, view.headerLength).array) == 0
        require(view.checksumIsValid == reference, "IPv4's checksum beside its definition")
        let header = IPv4Header(view)
        let again = written(header.totalLength) {
            header.emit(into: $0)
            $0.copy(from: view.payload, at: 20)
        }
        withPacket(again) {
            guard let second = IPv4HeaderView($0) else { return require(false, "an IPv4 header that was written is refused") }
            require(IPv4Header(second) == header && second.checksumIsValid, "an IPv4 header differs when written again: \(header)")
        }
    }

    static func ipv6(_ bytes: PacketBytes) {
        if let view = IPv6FragmentHeaderView(bytes) {
            let header = IPv6FragmentHeader(view)
            let again = written(8) { header.emit(into: $0) }
            withPacket(again) { require(IPv6FragmentHeaderView($0).map(IPv6FragmentHeader.init) == header, "a fragment header differs: \(header)") }
        }
        guard let view = IPv6HeaderView(bytes) else { return }
        let header = IPv6Header(view)
        require(view.payload.count == header.payloadLength, "IPv6's length")
        require(written(40) { header.emit(into: $0) } == bytes.slice(0, 40).array, "an IPv6 header differs when written again: \(header)")
        walk(view.payload, view.nextHeader, isReassembled: false)
    }

    static func extensionHeaders(_ bytes: PacketBytes) {
        guard bytes.count >= 1 else { return }
        let first = bytes.load8(0)
        walk(bytes.slice(from: 1), IPProtocol(rawValue: first & 0x7f), isReassembled: first & 0x80 != 0)
    }

    private static func walk(_ bytes: PacketBytes, _ next: IPProtocol, isReassembled: Bool) {
        let pointers = 0..<40 + bytes.count + 1
        switch IPv6ExtensionHeaders.walk(bytes, nextHeader: next, isReassembled: isReassembled) {
        case .upperLayer(let upper, let offset, let pointer):
            require(offset % 8 == 0 && offset <= bytes.count && pointers.contains(pointer), "the upper layer at \(offset), named at \(pointer)")
            // The headers say by themselves where they end: what follows does not matter.
            guard case .upperLayer(upper, offset: offset, nextHeaderPointer: pointer) = IPv6ExtensionHeaders.walk(
                bytes.slice(0, offset), nextHeader: next, isReassembled: isReassembled)
            else { return require(false, "headers that were cut behind their end are read in another way") }
            if pointer >= 40 { require(bytes.load8(pointer - 40) == upper.rawValue, "the pointer \(pointer) does not name the upper layer") }
        case .fragment(_, let offset): require(offset % 8 == 0 && offset >= 8 && offset <= bytes.count, "a fragment at \(offset)")
        case .malformed(let pointer): require(pointers.contains(pointer), "malformed at \(pointer)")
        case .unrecognised(let pointer, let code, _): require(pointers.contains(pointer) && (1...2).contains(code), "code \(code) at \(pointer)")
        case .discard: break
        }
    }

    static func icmp(_ bytes: PacketBytes) {
        if let quoted = QuotedPacket(ipv4: bytes) { quote(quoted, in: bytes, header: 20) }
        guard let view = ICMPView(bytes) else { return }
        require(view.checksumIsValid == (referenceChecksum(bytes.array) == 0), "ICMP's checksum beside its definition")
        let message = ICMPv4(view)
        var again = bytes.array
        again.replaceSubrange(0..<8, with: repeatElement(0, count: 8))
        let filled = again
        withPacket(written(again.count) { room in
            withPacket(filled) { room.copy(from: $0, at: 0) }
            message.emit(into: room)
        }) {
            guard let second = ICMPView($0) else { return require(false, "an ICMP message that was written is refused") }
            require(ICMPv4(second) == message && second.checksumIsValid, "an ICMP message differs when written again: \(message)")
        }
        if let quoted = QuotedPacket(ipv4: view.payload) { quote(quoted, in: view.payload, header: 20) }
    }

    static func icmpv6(_ bytes: PacketBytes) {
        if let quoted = QuotedPacket(ipv6: bytes) { quote(quoted, in: bytes, header: 40) }
        guard let view = ICMPView(bytes) else { return }
        let message = ICMPv6(view)
        let filled = [UInt8](repeating: 0, count: 8) + view.payload.array
        withPacket(written(bytes.count) { room in
            withPacket(filled) { room.copy(from: $0, at: 0) }
            message.emit(into: room, source: ends.0, destination: ends.1)
        }) {
            guard let second = ICMPView($0) else { return require(false, "an ICMPv6 message that was written is refused") }
            require(ICMPv6(second) == message, "an ICMPv6 message differs when written again: \(message)")
            require(second.checksumIsValid(source: ends.0, destination: ends.1), "the checksum of a message that was written")
        }
        if let quoted = QuotedPacket(ipv6: view.payload) { quote(quoted, in: view.payload, header: 40) }
    }

    private static func quote(_ quoted: QuotedPacket, in bytes: PacketBytes, header: Int) {
        require(quoted.upperLayer.count >= 8 && quoted.upperLayer.count <= bytes.count - header, "a quoted packet's upper layer")
        _ = (quoted.sourcePort, quoted.destinationPort, quoted.sequenceNumber)
    }

    static func ndp(_ bytes: PacketBytes) {
        if let options = NDPOptions(parsing: bytes) {
            let again = written(options.byteCount) { options.emit(into: $0) }
            withPacket(again) { require(NDPOptions(parsing: $0) == options, "NDP options differ when written again: \(options)") }
        }
        guard let view = ICMPView(bytes), let message = NDPMessage(view) else { return }
        require(view.isNeighbourDiscovery, "neighbour discovery of type \(view.type)")
        withPacket(written(message.byteCount) { message.emit(into: $0, source: ends.0, destination: ends.1) }) {
            guard let second = ICMPView($0) else { return require(false, "an NDP message that was written is refused") }
            require(NDPMessage(second) == message, "an NDP message differs when written again: \(message)")
            require(second.checksumIsValid(source: ends.0, destination: ends.1), "the checksum of a message that was written")
        }
    }

    static func udp(_ bytes: PacketBytes) {
        guard let view = UDPHeaderView(bytes) else { return }
        require(view.length <= bytes.count && view.payload.count == view.length - 8, "UDP's length")
        let header = UDPHeader(view)
        require(written(8) { header.emit(into: $0, checksum: view.checksum) } == bytes.slice(0, 8).array, "a UDP header differs: \(header)")
        let pseudo = InternetChecksum.pseudoHeader(source: ends.0, destination: ends.1, ipProtocol: .udp, length: view.length)
        withPacket(written(view.length) { room in
            let sum = InternetChecksum.copyAndSum(from: view.payload, to: room.slice(from: 8))
            header.emit(into: room, checksum: header.checksum(payloadSum: sum, pseudoHeader: pseudo))
        }) {
            guard let second = UDPHeaderView($0) else { return require(false, "a datagram that was written is refused") }
            require(second.hasChecksum && second.checksumIsValid(pseudoHeader: pseudo), "the checksum of a datagram that was written")
            require(second.payload.array == view.payload.array, "a payload differs when it is copied")
        }
    }

    static func tcp(_ bytes: PacketBytes) {
        guard let view = TCPHeaderView(bytes) else { return }
        require(view.headerLength + view.payloadLength == bytes.count && view.options.count == view.headerLength - 20, "TCP's lengths")
        require(view.payloadLength...view.payloadLength + 2 ~= view.segmentLength, "the segment's length")
        let header = TCPHeader(view)
        let options = TCPOptions(view)
        require(options == TCPOptions(parsing: view.options), "options that are read in the fast way differ")
        let pseudo = InternetChecksum.pseudoHeader(source: ends.0, destination: ends.1, ipProtocol: .tcp, length: 20 + options.byteCount + view.payloadLength)
        withPacket(written(20 + options.byteCount + view.payloadLength) { room in
            let length = header.emit(into: room, options: options)
            let sum = InternetChecksum.copyAndSum(from: view.payload, to: room.slice(from: length), initial: pseudo)
            TCPHeader.storeChecksum(in: room.slice(0, length), sum: sum)
        }) {
            guard let second = TCPHeaderView($0) else { return require(false, "a segment that was written is refused") }
            require(TCPHeader(second) == header, "a TCP header differs when written again: \(header)")
            require(second.checksumIsValid(pseudoHeader: pseudo), "the checksum of a segment that was written")
            require(second.payload.array == view.payload.array, "a payload differs when it is copied")
        }
        self.options(view.options)
    }

    static func options(_ bytes: PacketBytes) {
        guard bytes.count <= TCPOptions.byteCountMaximum else { return }
        let options = TCPOptions(parsing: bytes)
        require(0...4 ~= options.sackCount, "blocks: \(options.sackCount)")
        require(options.byteCount % 4 == 0 && options.byteCount <= TCPOptions.byteCountMaximum, "options of \(options.byteCount) bytes")
        // Those that there was room for, and no word about what was malformed.
        var expected = TCPOptions(
            maximumSegmentSize: options.maximumSegmentSize, windowScale: options.windowScale, sackPermitted: options.sackPermitted,
            timestamps: options.timestamps)
        for index in 0..<options.sackCountThatFits { expected.appendSACK(options.sackBlocks[index]) }
        withPacket(written(options.byteCount) { options.emit(into: $0) }) {
            require(TCPOptions(parsing: $0) == expected, "options differ when written again: \(options), expected \(expected)")
        }
    }

    static func checksum(_ bytes: PacketBytes) {
        let reference = referenceChecksum(bytes.array)
        require(same(InternetChecksum.fold(InternetChecksum.sum(bytes)), reference), "the checksum beside its definition")
        guard bytes.count >= 4 else { return }
        // In pieces, cut where the first bytes say.
        var pieces = InternetChecksum.Accumulator()
        var position = 0
        for cut in 0..<3 {
            let count = Int(bytes.load8(cut)) % (bytes.count - position + 1)
            pieces.add(bytes.slice(position, count))
            position += count
        }
        pieces.add(bytes.slice(from: position))
        require(same(pieces.checksum, reference), "the checksum of pieces")
        withPacket(written(bytes.count) { require(same(InternetChecksum.fold(InternetChecksum.copyAndSum(from: bytes, to: $0)), reference), "copying") }) {
            require($0.array == bytes.array, "copying and summing changes bytes")
        }
        var changed = bytes.array
        (changed[0], changed[1]) = (bytes.load8(2), bytes.load8(3))
        let update = InternetChecksum.update(reference, from: bytes.load16(0), to: bytes.load16(2))
        require(same(update, referenceChecksum(changed)), "the checksum after a change")
    }

    /// Zero has two forms.
    private static func same(_ first: UInt16, _ second: UInt16) -> Bool { first == second || first ^ second == 0xffff && (first == 0 || second == 0) }

    static func text(_ bytes: PacketBytes) {
        require(!FrameText(bytes).description.isEmpty, "a frame without a description")
        let text = String(decoding: bytes.array, as: UTF8.self)
        if let address = IPAddress(text) { require(IPAddress(address.description) == address, "\(address) is read in another way") }
        if let address = MACAddress(text) { require(MACAddress(address.description) == address, "\(address) is read in another way") }
        if let address = SocketAddress(text) { require(SocketAddress("\(address)") == address, "\(address) is read in another way") }
        if let record = ControlRecord(line: text) {
            guard let again = ControlRecord(line: record.line) else { return require(false, "a record that was written is none") }
            require(again.line == record.line, "the record \(record.line) is read in another way")
        }
    }
}
