import Demikernel

/// What can be made wrong about a line of a script, so that the stack does something else than it says.
enum ScriptMutations {
    struct Mutation {
        let name: String
        let action: ScriptStep.Action
    }

    /// One for each thing that the line states and the runner judges. None for a line that judges nothing.
    static func all(of action: ScriptStep.Action) -> [Mutation] {
        switch action {
        case .inject: []
        case .expect(let packet): all(of: packet)
        case .call(let call): all(of: call).map { Mutation(name: $0.name, action: .call($0.call)) }
        }
    }

    /// A packet that no stack of ours sends.
    static var never: ScriptPacket { ScriptPacket(body: .udp(source: 1, destination: 1, count: 1, literal: nil)) }

    // MARK: - Packets

    private static func all(of packet: ScriptPacket) -> [Mutation] {
        let bodies = bodies(packet.body).map { name, body in
            var changed = packet
            changed.body = body
            return Mutation(name: name, action: .expect(changed))
        }
        return bodies + attributes(packet)
    }

    private static func attributes(_ packet: ScriptPacket) -> [Mutation] {
        var found: [Mutation] = []
        func add(_ name: String, _ change: (inout [String: String]) -> Void) {
            var changed = packet
            change(&changed.attributes)
            found.append(Mutation(name: name, action: .expect(changed)))
        }
        for name in ["ttl", "tos"] {
            guard let value = packet.attributes[name].flatMap({ UInt8($0) }) else { continue }
            add(name) { $0[name] = "\(value &+ 1)" }
        }
        for (name, opposite) in [("df", "nodf"), ("nodf", "df"), ("ect0", "ce"), ("ect1", "ect0"), ("ce", "noecn"), ("noecn", "ect0")]
        where packet.attributes[name] != nil {
            add(name) {
                $0[name] = nil
                $0[opposite] = ""
            }
        }
        for name in ["smac", "dmac"] where packet.attributes[name] != nil { add(name) { $0[name] = "02:00:00:00:be:ef" } }
        for name in ["from", "to"] {
            guard let text = packet.attributes[name], let address = IPAddress(text) else { continue }
            add(name) { $0[name] = address.isIPv4 ? "192.0.2.222" : "2001:db8::de" }
        }
        return found
    }

    private static func bodies(_ body: ScriptPacket.Body) -> [(String, ScriptPacket.Body)] {
        switch body {
        case .tcp(let tcp): return segments(tcp).map { ($0.0, .tcp($0.1)) }
        case .udp(let source, let destination, let count, let literal):
            return [
                ("source port", .udp(source: source ^ 1, destination: destination, count: count, literal: literal)),
                ("destination port", .udp(source: source, destination: destination ^ 1, count: count, literal: literal)),
                ("payload", .udp(source: source, destination: destination, count: count + 1, literal: literal.map { $0 + [0] })),
            ]
        case .icmp(let icmp): return messages(icmp).map { ($0.0, .icmp($0.1)) }
        case .arp(let isReply, let sender, let target, let hardware):
            return [
                ("kind of ARP", .arp(isReply: !isReply, sender: sender, target: target, hardware: hardware)),
                ("sender", .arp(isReply: isReply, sender: IPAddress(ipv4: 1), target: target, hardware: hardware)),
            ] + (target == nil ? [] : [("target", .arp(isReply: isReply, sender: sender, target: IPAddress(ipv4: 1), hardware: hardware))])
        case .ndp(let ndp):
            var other = ndp
            other.kind = ndp.kind == .solicit ? .advertise : .solicit
            guard ndp.target != nil else { return [("kind of NDP", .ndp(other))] }
            var elsewhere = ndp
            elsewhere.target = IPAddress("2001:db8::dead")
            return [("kind of NDP", .ndp(other)), ("target", .ndp(elsewhere))]
        case .fragment(let identification, let range, let of):
            return [
                ("offset", .fragment(identification: identification, range: range.lowerBound + 8..<range.upperBound + 8, of: of)),
                ("bytes", .fragment(identification: identification, range: range.lowerBound..<range.upperBound + 8, of: of)),
            ]
        case .raw: return []
        }
    }

    private static func segments(_ tcp: ScriptTCP) -> [(String, ScriptTCP)] {
        var found: [(String, ScriptTCP)] = []
        func add(_ name: String, _ change: (inout ScriptTCP) -> Void) {
            var changed = tcp
            change(&changed)
            found.append((name, changed))
        }
        add("flags") { $0.flags = $0.flags.contains("U") ? $0.flags.filter { $0 != "U" } : $0.flags + "U" }
        if tcp.sequence != nil {
            add("sequence number") { $0.sequence! += 1 }
            add("payload bytes") { $0.count += 1 }
        }
        if tcp.acknowledgment != nil { add("acknowledgment") { $0.acknowledgment! += 1 } }
        if let window = tcp.window { add("window") { $0.window = window ^ 1 } }
        if let literal = tcp.literal { add("payload") { $0.literal = literal.dropLast() + [literal.last.map { $0 ^ 1 } ?? 0] } }
        guard let options = tcp.options else { return found }
        for (index, option) in options.enumerated() where option.rank > 0 {
            guard let other = changed(option) else { continue }
            add("option \(option.rank)") { $0.options![index] = other }
        }
        add("further option") { $0.options!.append(.other(kind: 222, bytes: [])) }
        if !tcp.mayHaveMoreOptions, options.contains(where: { $0.rank > 0 }) { add("no options") { $0.options = [] } }
        return found
    }

    /// nil where any value is right.
    private static func changed(_ option: ScriptTCPOption) -> ScriptTCPOption? {
        switch option {
        case .maximumSegmentSize(let size?): .maximumSegmentSize(size + 1)
        case .windowScale(let shift?): .windowScale(shift ^ 1)
        case .timestamps(.value(let value), let echo): .timestamps(value: .value(value + 1), echo: echo)
        case .timestamps(let value, .value(let echo)): .timestamps(value: value, echo: .value(echo + 1))
        case .sack(let blocks): .sack(blocks.map { $0.lowerBound..<$0.upperBound + 1 })
        case .other(let kind, let bytes): .other(kind: kind, bytes: bytes + [1, 2])
        default: nil
        }
    }

    private static func messages(_ icmp: ScriptICMP) -> [(String, ScriptICMP)] {
        var found: [(String, ScriptICMP)] = []
        func add(_ name: String, _ change: (inout ScriptICMP) -> Void) {
            var changed = icmp
            change(&changed)
            found.append((name, changed))
        }
        add("type") { $0.kind = .other(type: 200, code: 0) }
        if icmp.identifier != nil { add("identifier") { $0.identifier! ^= 1 } }
        if icmp.sequence != nil { add("sequence") { $0.sequence! ^= 1 } }
        if icmp.mtu != nil { add("MTU") { $0.mtu! += 1 } }
        if icmp.count != nil { add("payload") { $0.count! += 1 } }
        return found
    }

    // MARK: - Calls

    private static func all(of call: ScriptCall) -> [(name: String, call: ScriptCall)] {
        switch call {
        case .accept(let listener, let name):
            [("accepted", .accept(listener: listener, name: name == nil ? "somebody" : nil))]
        case .push(let name, let bytes, let outcome): [("outcome of push", .push(name: name, bytes: bytes, other(than: outcome)))]
        case .pop(let name, let limit, let outcome): [("outcome of pop", .pop(name: name, limit: limit, other(than: outcome)))]
        case .events(let name, let kinds): [("events", .events(name: name, kinds.symmetricDifference(.acceptable)))]
        case .udpReceive(let name, let outcome, let from): [("received", .udpReceive(name: name, other(than: outcome), from: from))]
        case .udpError(let name, let outcome): [("error", .udpError(name: name, other(than: outcome)))]
        case .assertState(let name, let state): [("state", .assertState(name: name, state == "LISTEN" ? "CLOSED" : "LISTEN"))]
        case .assertValue(let of, let field, let comparison, let value): values(of, field, comparison, value)
        default: []
        }
    }

    private static func other(than outcome: ScriptCall.Outcome) -> ScriptCall.Outcome {
        switch outcome {
        case .bytes(let count): .bytes(count + 1)
        case .failed: .success
        default: .failed("EXDEV")
        }
    }

    private static func values(_ of: String, _ field: String, _ comparison: String, _ value: Int) -> [(name: String, call: ScriptCall)] {
        let opposites = ["==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"]
        return opposites[comparison].map { [(field, .assertValue(of: of, field: field, comparison: $0, value))] } ?? []
    }
}
