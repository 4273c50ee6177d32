import Demikernel

/// The two stations of a script.
struct ScriptStations {
    var local: IPAddress
    var remote: IPAddress
    var localIPv6LinkLocal: IPAddress
    var localHardware = MACAddress(0x0200_0000_0001)
    var remoteHardware = MACAddress(0x0200_0000_0002)
    var vlan: UInt16?
}

/// What the runner knows when a packet is injected or judged.
struct ScriptContext {
    var stations: ScriptStations
    var flows: [String: ScriptFlow]
    /// From the IP header on.
    var lastSent: [UInt8] = []
    var lastInjected: [UInt8] = []
    /// What fragments of both directions have as identification where the script does not say.
    var fragmentIdentification: UInt32?

    func flow(_ packet: ScriptPacket) throws -> ScriptFlow {
        guard let flow = flows[packet.flow ?? ""] else { throw ScriptSyntaxError("no flow \(packet.flow ?? "")") }
        return flow
    }
}

extension ScriptPacket {
    private func number(_ key: String) throws -> Int? {
        guard let text = attributes[key] else { return nil }
        guard let number = text.hasPrefix("0x") ? Int(text.dropFirst(2), radix: 16) : Int(text) else {
            throw ScriptSyntaxError("attribute \(key) has no number: \(text)")
        }
        return number
    }

    private func address(_ key: String) throws -> IPAddress? {
        guard let text = attributes[key] else { return nil }
        guard let address = IPAddress(text) else { throw ScriptSyntaxError("attribute \(key) has no address: \(text)") }
        return address
    }

    func hardware(_ key: String) throws -> MACAddress? {
        guard let text = attributes[key] else { return nil }
        guard let address = MACAddress(text) else { throw ScriptSyntaxError("attribute \(key) has no Ethernet address: \(text)") }
        return address
    }

    /// The frame that the peer sends.
    func frame(_ context: inout ScriptContext) throws -> [UInt8] {
        let stations = context.stations
        let flow = try context.flow(self)
        if case .raw(let bytes) = body { return bytes }
        if case .arp(let isReply, let sender, let target, let hardware) = body {
            let own = try self.hardware("sender") ?? hardware ?? stations.remoteHardware
            let payload = ScriptWire.arp(
                isReply: isReply, hardware: own, sender: sender, target: target ?? stations.local,
                targetHardware: isReply ? stations.localHardware : .zero)
            return try ethernet(payload, type: 0x0806, to: isReply ? stations.localHardware : .broadcast, stations)
        }
        var (source, destination, hopLimit) = (flow.remote, flow.local, 64)
        if case .ndp(let ndp) = body {
            hopLimit = 255
            if ndp.kind == .solicit, let target = ndp.target { destination = target.solicitedNodeMulticast }
            if ndp.kind == .routerAdvertise { destination = .allNodes }
        }
        source = try address("from") ?? source
        destination = try address("to") ?? destination
        var range: Range<Int>?
        var inner = body
        var identification = UInt32(try number("id") ?? 0)
        if case .fragment(let id, let part, let whole) = body {
            (range, inner) = (part, whole)
            identification = id ?? context.fragmentIdentification ?? 7
            context.fragmentIdentification = identification
        }
        var (payload, protocolNumber) = try transport(inner, flow, source, destination, context)
        if attributes["badchecksum"] != nil, payload.count >= 18 || protocolNumber != 6 {
            let offset = protocolNumber == 6 ? 16 : protocolNumber == 17 ? 6 : 2
            payload[offset] ^= 0x55
        }
        if attributes["nochecksum"] != nil { payload.set16(0, 6) }
        protocolNumber = UInt8(try number("protocol") ?? Int(protocolNumber))
        var more = false
        if let part = range {
            more = part.upperBound < payload.count
            payload = Array(payload[part.clamped(to: 0..<payload.count)])
        }
        if attributes["more"] != nil { more = true }
        if attributes["nomore"] != nil { more = false }
        var traffic = try number("tos") ?? 0
        if attributes["ect0"] != nil { traffic |= 2 }
        if attributes["ect1"] != nil { traffic |= 1 }
        if attributes["ce"] != nil { traffic |= 3 }
        hopLimit = try number("ttl") ?? hopLimit
        var packet: [UInt8]
        if source.isIPv4 {
            let options = try ScriptPacket.hexadecimal(attributes["ipoptions"] ?? "")
            packet = [UInt8((try number("version") ?? 4) << 4 | (5 + options.count / 4)), UInt8(traffic)]
            packet.put16(try number("iplen") ?? 20 + options.count + payload.count)
            packet.put16(Int(identification & 0xffff))
            packet.put16((attributes["df"] != nil ? 0x4000 : 0) | (more ? 0x2000 : 0) | (range?.lowerBound ?? 0) / 8)
            packet += [UInt8(hopLimit), protocolNumber, 0, 0]
            packet.put(source)
            packet.put(destination)
            packet += options
            packet.set16(~packet.onesSum, 10)
            if attributes["badipchecksum"] != nil { packet[10] ^= 0x55 }
            packet += payload
        } else {
            var next = protocolNumber
            for (key, number) in [("destination", UInt8(60)), ("routing", 43), ("hopbyhop", 0)] {
                guard let text = attributes[key] else { continue }
                // Without bytes of its own: eight bytes of padding (a PadN option of four).
                let body = text.isEmpty ? [1, 4, 0, 0, 0, 0] : try ScriptPacket.hexadecimal(text)
                payload = [next, UInt8((body.count + 2) / 8 - 1)] + body + payload
                next = number
            }
            if let range {
                var header: [UInt8] = [next, 0]
                header.put16(range.lowerBound & 0xfff8 | (more ? 1 : 0))
                header.put32(identification)
                payload = header + payload
                next = 44
            }
            packet = [UInt8((try number("version") ?? 6) << 4 | traffic >> 4), UInt8(traffic & 15) << 4, 0, 0]
            packet.put16(try number("iplen") ?? payload.count)
            packet += [next, UInt8(hopLimit)]
            packet.put(source)
            packet.put(destination)
            packet += payload
        }
        context.lastInjected = packet
        let target = destination.isMulticast ? destination.multicastMACAddress : stations.localHardware
        return try ethernet(packet, type: source.isIPv4 ? 0x0800 : 0x86dd, to: destination.isLimitedBroadcast ? .broadcast : target, stations)
    }

    /// The IP payload with its checksum, and its protocol number.
    private func transport(
        _ body: Body, _ flow: ScriptFlow, _ source: IPAddress, _ destination: IPAddress, _ context: ScriptContext
    ) throws -> ([UInt8], UInt8) {
        var bytes: [UInt8]
        switch body {
        case .tcp(let tcp):
            bytes = ScriptWire.tcp(tcp, flow)
            if tcp.literal != nil { flow.hasText = true }
            if let offset = try number("dataoffset") { bytes[12] = UInt8(offset) << 4 | bytes[12] & 15 }
            if let urgent = try number("urgent") { bytes.set16(UInt16(urgent), 18) }
            let count = tcp.count + (tcp.flags.contains("S") ? 1 : 0) + (tcp.flags.contains("F") ? 1 : 0)
            if !tcp.flags.contains("R") { flow.remoteNext = max(flow.remoteNext, (tcp.sequence ?? flow.remoteNext) + count) }
            ScriptWire.fill(&bytes, at: 16, 6, source, destination)
            return (bytes, 6)
        case .udp(let from, let to, let count, let literal):
            bytes = ScriptWire.udp(from, to, literal ?? ScriptWire.pattern(count))
            if let length = try number("udplen") { bytes.set16(UInt16(length), 4) }
            ScriptWire.fill(&bytes, at: 6, 17, source, destination)
            return (bytes, 17)
        case .icmp(let icmp):
            let isIPv4 = source.isIPv4
            bytes = try ScriptWire.icmp(icmp, quoting: try quoted(icmp, flow, context), isIPv4: isIPv4)
            ScriptWire.fill(&bytes, at: 2, isIPv4 ? 1 : 58, source, destination)
            return (bytes, isIPv4 ? 1 : 58)
        case .ndp(let ndp):
            bytes = ScriptWire.ndp(ndp)
            ScriptWire.fill(&bytes, at: 2, 58, source, destination)
            return (bytes, 58)
        case .fragment, .arp, .raw: throw ScriptSyntaxError("a fragment of what has no fragments")
        }
    }

    /// The part of a packet of the stack's that an ICMP error carries.
    private func quoted(_ icmp: ScriptICMP, _ flow: ScriptFlow, _ context: ScriptContext) throws -> [UInt8] {
        var packet = context.lastSent
        if let sequence = icmp.quotedSequence {
            packet = flow.lastSent
            let header = flow.local.isIPv4 ? 20 : 40
            guard packet.count >= header + 20 else { throw ScriptSyntaxError("the stack has sent no segment that could be quoted") }
            let number = flow.localAbsolute(sequence)
            packet.set16(UInt16(number >> 16), header + 4)
            packet.set16(UInt16(number & 0xffff), header + 6)
        } else if !icmp.quotesLast {
            return []
        }
        return flow.local.isIPv4 ? Array(packet.prefix(28)) : Array(packet.prefix(1232))
    }

    private func ethernet(_ payload: [UInt8], type: Int, to: MACAddress, _ stations: ScriptStations) throws -> [UInt8] {
        var frame: [UInt8] = []
        frame.put(try hardware("dmac") ?? to)
        frame.put(try hardware("smac") ?? stations.remoteHardware)
        if let vlan = try number("vlan") ?? stations.vlan.map(Int.init) {
            frame.put16(0x8100)
            frame.put16(vlan)
        }
        frame.put16(type)
        frame += payload
        if let count = try number("cut") { frame.removeLast(min(count, frame.count)) }
        if let count = try number("pad") { frame += [UInt8](repeating: 0, count: count) }
        return frame
    }
}
