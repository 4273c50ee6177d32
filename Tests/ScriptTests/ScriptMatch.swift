import Demikernel

/// The first thing in which a packet differs from what a script expects.
struct ScriptMismatch: Error {
    let text: String
}

/// Judges a frame of the stack against an expected packet.
struct ScriptMatch {
    let context: ScriptContext
    let expected: ScriptPacket
    let frame: DecodedFrame

    func check() throws {
        if case .malformed(let reason) = frame.content { throw ScriptMismatch(text: "malformed: \(reason)") }
        try same("destination Ethernet address", try expected.hardware("dmac"), frame.destination)
        try same("source Ethernet address", try expected.hardware("smac") ?? context.stations.localHardware, frame.source)
        try same("VLAN tag", expected.attributes["vlan"].flatMap { UInt16($0) } ?? context.stations.vlan, frame.vlan ?? context.stations.vlan.map { _ in 0 })
        if let packet = frame.packet { try check(packet) }
        switch (expected.body, frame.content) {
        case (.tcp(let tcp), .tcp(let packet, let segment)): try check(tcp, segment, packet)
        case (.udp(let source, let destination, let count, let literal), .udp(_, let from, let to, let payload)):
            try same("source port", source, from)
            try same("destination port", destination, to)
            try same("payload bytes", literal?.count ?? count, payload.count)
            try same("payload", literal ?? ScriptWire.pattern(count), payload)
        case (.icmp(let icmp), .icmp(let packet, let type, let code, let word, let rest)):
            try check(icmp, packet, type, code, word, rest)
        case (.ndp(let ndp), .icmp(let packet, let type, _, let word, let rest)): try check(ndp, packet, type, word, rest)
        case (.arp(let isReply, let sender, let target, let hardware), .arp(let reply, let from, let own, let to, _)):
            try same("kind of ARP", isReply ? "reply" : "who-has", reply ? "reply" : "who-has")
            try same("sender", sender, from)
            try same("target", target, to)
            try same("sender's Ethernet address", hardware ?? context.stations.localHardware, own)
        case (.fragment(let identification, let range, let body), .fragment(let packet)):
            try check(packet, identification, range, body)
        default: throw ScriptMismatch(text: "another kind of packet")
        }
    }

    private func same<Value: Equatable>(_ what: String, _ expected: Value?, _ actual: Value?) throws {
        guard let expected, expected != actual else { return }
        throw ScriptMismatch(text: "\(what): expected \(expected), found \(actual.map { "\($0)" } ?? "none")")
    }

    private func check(_ packet: DecodedPacket) throws {
        let attributes = expected.attributes
        try same("source", attributes["from"].flatMap { IPAddress($0) }, packet.source)
        try same("destination", attributes["to"].flatMap { IPAddress($0) }, packet.destination)
        try same("hop limit", attributes["ttl"].flatMap { UInt8($0) }, packet.hopLimit)
        try same("traffic class", attributes["tos"].flatMap { UInt8($0) }, packet.traffic)
        for (name, bits) in [("noecn", UInt8(0)), ("ect1", 1), ("ect0", 2), ("ce", 3)] where attributes[name] != nil {
            try same("ECN", bits, packet.traffic & 3)
        }
        if attributes["df"] != nil { try same("don't fragment", true, packet.dontFragment) }
        if attributes["nodf"] != nil { try same("don't fragment", false, packet.dontFragment) }
        if let flow = context.flows[expected.flow ?? ""], expected.attributes["to"] == nil {
            if case .ndp = expected.body { return }
            try same("destination", flow.remote, packet.destination)
        }
    }

    private func check(_ tcp: ScriptTCP, _ segment: DecodedTCP, _ packet: DecodedPacket) throws {
        let flow = try context.flow(expected)
        try same("source port", flow.localPort, segment.sourcePort)
        try same("destination port", flow.remotePort, segment.destinationPort)
        // PSH says nothing about the protocol: it is judged only where the script asks for it.
        let ignored: Set<Character> = tcp.flags.contains("P") ? [] : ["P"]
        let wanted = String((tcp.flags + (tcp.acknowledgment != nil && !tcp.flags.contains(".") ? "." : "")).sorted())
        try same("flags", wanted, String(segment.flags.filter { !ignored.contains($0) }.sorted()))
        if let sequence = tcp.sequence {
            try same("sequence number", sequence, flow.localRelative(segment.sequence))
            try same("payload bytes", tcp.count, segment.payload.count)
        }
        try same("acknowledgment", tcp.acknowledgment, flow.remoteRelative(segment.acknowledgment))
        try same("window", tcp.window, Int(segment.window))
        if let literal = tcp.literal { try same("payload", literal, segment.payload) }
        let start = flow.localRelative(segment.sequence) - 1
        if !segment.payload.isEmpty, start >= 0, start + segment.payload.count <= flow.pushed.count {
            try same("payload (as pushed)", Array(flow.pushed[start..<start + segment.payload.count]), segment.payload)
        }
        if let options = tcp.options { try check(options, tcp.mayHaveMoreOptions, segment, flow) }
    }

    private func check(_ options: [ScriptTCPOption], _ mayHaveMore: Bool, _ segment: DecodedTCP, _ flow: ScriptFlow) throws {
        let wanted = options.filter { $0.rank > 0 }.sorted { $0.rank < $1.rank }
        let found = segment.options.filter { $0.rank > 0 }.map { ScriptFormat.relative($0, flow) }.sorted { $0.rank < $1.rank }
        for option in wanted {
            guard let other = found.first(where: { $0.rank == option.rank }) else {
                throw ScriptMismatch(text: "option missing: \(ScriptFormat.text(option))")
            }
            guard Self.fits(option, other) else {
                throw ScriptMismatch(text: "option: expected \(ScriptFormat.text(option)), found \(ScriptFormat.text(other))")
            }
        }
        guard !mayHaveMore, let extra = found.first(where: { other in !wanted.contains { $0.rank == other.rank } }) else { return }
        throw ScriptMismatch(text: "option not expected: \(ScriptFormat.text(extra))")
    }

    private static func fits(_ wanted: ScriptTCPOption, _ found: ScriptTCPOption) -> Bool {
        switch (wanted, found) {
        case (.maximumSegmentSize(nil), .maximumSegmentSize), (.windowScale(nil), .windowScale): true
        case (.timestamps(let value, let echo), .timestamps(let foundValue, let foundEcho)):
            (value == .any || value == .last || value == foundValue) && (echo == .any || echo == .last || echo == foundEcho)
        default: wanted == found
        }
    }

    private func check(
        _ icmp: ScriptICMP, _ packet: DecodedPacket, _ type: UInt8, _ code: UInt8, _ word: UInt32, _ rest: [UInt8]
    ) throws {
        let wanted = try ScriptWire.numbers(icmp, isIPv4: packet.isIPv4)
        try same("ICMP type", wanted.type, type)
        try same("ICMP code", wanted.code, code)
        try same("identifier", icmp.identifier, Int(word >> 16))
        try same("sequence number", icmp.sequence, Int(word & 0xffff))
        if icmp.mtu != nil || wanted.word != nil && icmp.identifier == nil { try same("MTU, pointer or zero", wanted.word, word) }
        if let count = icmp.count {
            try same("payload", ScriptWire.pattern(count), rest)
        }
        if icmp.quotesLast {
            // RFC 792 asks for 8 bytes behind the header, RFC 1812 for as many as fit into 576, RFC 4443 into 1280.
            let minimum = min(context.lastInjected.count, packet.isIPv4 ? 28 : 1232)
            guard rest.count >= minimum, rest.count <= context.lastInjected.count, Array(context.lastInjected[..<rest.count]) == rest else {
                throw ScriptMismatch(text: "the quoted packet is not the one that was injected last (\(rest.count) bytes are quoted)")
            }
        }
    }

    private func check(_ ndp: ScriptNDP, _ packet: DecodedPacket, _ type: UInt8, _ word: UInt32, _ rest: [UInt8]) throws {
        let types: [ScriptNDP.Kind: UInt8] = [.routerSolicit: 133, .routerAdvertise: 134, .solicit: 135, .advertise: 136, .redirect: 137]
        try same("ICMPv6 type", types[ndp.kind], type)
        try same("hop limit", 255, packet.hopLimit)
        if let target = ndp.target {
            guard rest.count >= 16 else { throw ScriptMismatch(text: "no target") }
            try same("target", target, rest.getIPv6(0))
        }
        if let flags = ndp.flags {
            let found = (word & 1 << 31 != 0 ? "R" : "") + (word & 1 << 30 != 0 ? "S" : "") + (word & 1 << 29 != 0 ? "O" : "")
            try same("flags", flags, found)
        }
        guard let hardware = ndp.hardware else { return }
        var offset = ndp.kind == .routerSolicit ? 0 : 16
        while offset + 8 <= rest.count, rest[offset + 1] > 0 {
            if rest[offset] == (ndp.kind == .advertise ? 2 : 1) { return try same("link-layer address", hardware, rest.getMAC(offset + 2)) }
            offset += Int(rest[offset + 1]) * 8
        }
        throw ScriptMismatch(text: "no link-layer address option")
    }

    private func check(_ packet: DecodedPacket, _ identification: UInt32?, _ range: Range<Int>, _ body: ScriptPacket.Body) throws {
        try same("identification", identification ?? context.fragmentIdentification, packet.identification)
        try same("offset", range.lowerBound, packet.fragmentOffset)
        try same("bytes", range.count, packet.payload.count)
        guard case .udp(let source, let destination, let count, let literal) = body else { return }
        var whole = ScriptWire.udp(source, destination, literal ?? ScriptWire.pattern(count))
        ScriptWire.fill(&whole, at: 6, 17, packet.source, packet.destination)
        try same("more fragments", range.upperBound < whole.count, packet.moreFragments)
        guard range.upperBound <= whole.count else { throw ScriptMismatch(text: "the fragment ends behind the packet") }
        try same("contents", Array(whole[range]), packet.payload)
    }
}

/// Frames of the stack as a script would write them.
enum ScriptFormat {
    static func text(_ frame: DecodedFrame, _ flows: [String: ScriptFlow]) -> String {
        switch frame.content {
        case .malformed(let reason):
            return "malformed (\(reason)): raw " + frame.bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        case .arp(let isReply, let sender, let hardware, let target, _):
            return isReply ? "arp reply \(sender) is-at \(hardware) (to \(frame.destination))" : "arp who-has \(target) tell \(sender)"
        case .other(let packet): return "\(packet.source) > \(packet.destination) protocol \(packet.protocolNumber) (\(packet.payload.count))"
        case .fragment(let packet):
            let end = packet.fragmentOffset + packet.payload.count
            return "frag id \(packet.identification) \(packet.fragmentOffset):\(end) of protocol \(packet.protocolNumber)"
                + (packet.moreFragments ? ", more follow" : ", the last")
        case .udp(let packet, let source, let destination, let payload):
            return attributes(packet) + "udp \(source) > \(destination) (\(payload.count))"
        case .icmp(let packet, let type, let code, let word, let rest):
            return attributes(packet) + "icmp type \(type) code \(code) id \(word >> 16) seq \(word & 0xffff) (\(rest.count))"
        case .tcp(let packet, let segment):
            let flow = flows.values.first { $0.isFlow(of: packet, source: segment.sourcePort, destination: segment.destinationPort) }
            let prefix = flow.map { $0.name.isEmpty ? "" : $0.name + ": " } ?? "(no flow: \(segment.sourcePort) > \(segment.destinationPort)) "
            let start = flow?.localRelative(segment.sequence) ?? Int(segment.sequence)
            var text = attributes(packet) + prefix + "\(segment.flags) \(start):\(start + segment.payload.count)(\(segment.payload.count))"
            if segment.flags.contains(".") { text += " ack \(flow?.remoteRelative(segment.acknowledgment) ?? Int(segment.acknowledgment))" }
            text += " win \(segment.window)"
            if !segment.options.isEmpty {
                text += " <" + segment.options.map { self.text(flow.map { flow in { relative($0, flow) } }?($0) ?? $0) }.joined(separator: ",") + ">"
            }
            return text
        }
    }

    private static func attributes(_ packet: DecodedPacket) -> String {
        var names: [String] = []
        if packet.traffic != 0 { names.append(["tos \(packet.traffic)", "ect1", "ect0", "ce"][packet.traffic > 3 ? 0 : Int(packet.traffic)]) }
        if packet.isIPv4 { names.append(packet.dontFragment ? "df" : "nodf") }
        names.append("to \(packet.destination)")
        return "[" + names.joined(separator: ", ") + "] "
    }

    /// An option of the stack's with the flow's relative numbers.
    static func relative(_ option: ScriptTCPOption, _ flow: ScriptFlow) -> ScriptTCPOption {
        switch option {
        case .sack(let blocks):
            return .sack(
                blocks.map {
                    let from = flow.remoteRelative(UInt32(truncatingIfNeeded: $0.lowerBound))
                    return from..<from + $0.count
                })
        case .timestamps(.value(let value), let echo):
            return .timestamps(
                value: .value(Int(Int32(bitPattern: UInt32(truncatingIfNeeded: value) &- (flow.timestampBase ?? UInt32(truncatingIfNeeded: value))))),
                echo: echo)
        default: return option
        }
    }

    static func text(_ option: ScriptTCPOption) -> String {
        func number(_ value: Int?) -> String { value.map { "\($0)" } ?? "*" }
        func timestamp(_ value: ScriptTimestamp) -> String { if case .value(let number) = value { "\(number)" } else { "*" } }
        switch option {
        case .nop: return "nop"
        case .end: return "eol"
        case .sackPermitted: return "sackOK"
        case .maximumSegmentSize(let size): return "mss \(number(size))"
        case .windowScale(let shift): return "wscale \(number(shift))"
        case .timestamps(let value, let echo): return "TS val \(timestamp(value)) ecr \(timestamp(echo))"
        case .sack(let blocks): return "sack " + blocks.map { "\($0.lowerBound):\($0.upperBound)" }.joined(separator: " ")
        case .other(let kind, let bytes): return "option \(kind) " + bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
    }
}
