import Demikernel

/// What the lines before the first timed one set.
struct ScriptConfiguration {
    var network = NetworkConfiguration()
    var isIPv6 = false
    var hasStaticNeighbours = true
    /// How far from its time an expected packet may be.
    var tolerance: UInt64 = 1_000_000
    var heapLimit = 64 << 20
    var deviceMTU = 1500
    var seed: UInt64 = 1
    var peerInitial: UInt32 = 1_000_000_000
    var flows: [(name: String, local: UInt16?, remote: IPAddress?, port: UInt16)] = []

    /// The stack's and the peer's addresses.
    static let addresses: [(local: IPAddress, remote: IPAddress, prefixLength: Int)] = [
        (IPAddress("192.0.2.1")!, IPAddress("192.0.2.2")!, 24), (IPAddress("2001:db8::1")!, IPAddress("2001:db8::2")!, 64),
    ]

    init() {
        network.announcesAddresses = false
        network.addresses = Self.addresses.map { .init($0.local, prefixLength: $0.prefixLength) }
    }

    /// `config KEY VALUES` or `flow NAME remote [ADDRESS:]PORT [local PORT]`.
    mutating func take(_ tokens: inout ScriptTokens) throws {
        if tokens.take("flow") {
            let name = try tokens.word("the flow's name")
            guard tokens.take("remote") else { throw ScriptSyntaxError("'remote' is missing") }
            let remote = try tokens.word("the remote port")
            let parts = remote.split(separator: "@")
            let port = try ScriptPacket.port(String(parts[0]))
            let address = parts.count > 1 ? IPAddress(String(parts[1])) : nil
            let local = tokens.take("local") ? try ScriptPacket.port(tokens.word("the local port")) : nil
            flows.append((name, local, address, port))
        } else if tokens.take("config") {
            try set(try tokens.word("the setting"), &tokens)
        } else {
            throw ScriptSyntaxError("a line begins with a time, 'config' or 'flow'")
        }
        try tokens.end()
    }

    private mutating func set(_ key: String, _ tokens: inout ScriptTokens) throws {
        switch key {
        case "ipv6": isIPv6 = true
        case "neighbours": hasStaticNeighbours = try tokens.word("none or static") == "static"
        case "tolerance": tolerance = try tokens.time()
        case "heap": heapLimit = try tokens.number("bytes")
        case "seed": seed = UInt64(try tokens.number("a seed"))
        case "peer-isn": peerInitial = UInt32(truncatingIfNeeded: try tokens.number("a sequence number"))
        case "mtu":
            deviceMTU = try tokens.number("the MTU")
        case "vlan": network.vlan = UInt16(try tokens.number("the VLAN"))
        case "announce": network.announcesAddresses = try tokens.flag()
        case "link-local": network.addsLinkLocalAddress = try tokens.flag()
        case "hop-limit": network.hopLimit = UInt8(try tokens.number("the hop limit"))
        case "address":
            let parts = try tokens.word("an address").split(separator: "/")
            guard parts.count == 2, let address = IPAddress(String(parts[0])), let length = Int(parts[1]) else {
                throw ScriptSyntaxError("an address is ADDRESS/LENGTH")
            }
            network.addresses.append(.init(address, prefixLength: length))
        case "gateway":
            let address = try ScriptPacket.address(&tokens)
            if address.isIPv4 { network.gatewayIPv4 = address } else { network.gatewayIPv6 = address }
        case "neighbour":
            network.staticNeighbours.append(.init(try ScriptPacket.address(&tokens), try ScriptPacket.hardware(&tokens)))
        case "neighbour.capacity": network.neighbours.capacity = try tokens.number("a number")
        case "neighbour.pending": network.neighbours.pendingMaximum = try tokens.number("a number")
        case "neighbour.attempts": network.neighbours.attemptsMaximum = try tokens.number("a number")
        case "neighbour.retransmit": network.neighbours.retransmitTime = try tokens.time()
        case "neighbour.reachable": network.neighbours.reachableTime = try tokens.time()
        case "neighbour.delay": network.neighbours.delayTime = try tokens.time()
        case "reassembly.datagrams": network.reassembly.datagramsMaximum = try tokens.number("a number")
        case "reassembly.fragments": network.reassembly.fragmentsMaximum = try tokens.number("a number")
        case "reassembly.fragmentsPerDatagram": network.reassembly.fragmentsPerDatagram = try tokens.number("a number")
        case "reassembly.bytes": network.reassembly.bytesMaximum = try tokens.number("bytes")
        case "reassembly.timeoutIPv4": network.reassembly.timeoutIPv4 = try tokens.time()
        case "reassembly.timeoutIPv6": network.reassembly.timeoutIPv6 = try tokens.time()
        case "icmp.errorsPerSecond": network.icmp.errorsPerSecond = UInt64(try tokens.number("a number"))
        case "icmp.errorBurst": network.icmp.errorBurst = UInt64(try tokens.number("a number"))
        case "icmp.echoRepliesPerSecond": network.icmp.echoRepliesPerSecond = UInt64(try tokens.number("a number"))
        case "icmp.echoReplyBurst": network.icmp.echoReplyBurst = UInt64(try tokens.number("a number"))
        case "udp.receiveDatagrams": network.udp.receiveDatagrams = try tokens.number("a number")
        case "udp.receiveBytes": network.udp.receiveBytes = try tokens.number("bytes")
        default: try setTCP(key, &tokens)
        }
    }

    private mutating func setTCP(_ key: String, _ tokens: inout ScriptTokens) throws {
        switch key {
        case "tcp.congestion":
            let name = try tokens.word("the algorithm")
            guard let algorithm = TCPCongestionControl.allCases.first(where: { "\($0)" == name }) else {
                throw ScriptSyntaxError("no congestion control: \(name)")
            }
            network.tcp.congestionControl = algorithm
        case "tcp.ecn": network.tcp.ecn = try tokens.flag()
        case "tcp.timestamps": network.tcp.timestamps = try tokens.flag()
        case "tcp.sack": network.tcp.selectiveAcknowledgement = try tokens.flag()
        case "tcp.windowScale": network.tcp.windowScale = try tokens.flag()
        case "tcp.noDelay": network.tcp.noDelay = try tokens.flag()
        case "tcp.synCookies": network.tcp.synCookies = try tokens.flag()
        case "tcp.sendBuffer": network.tcp.sendBuffer = try tokens.number("bytes")
        case "tcp.receiveBuffer": network.tcp.receiveBuffer = try tokens.number("bytes")
        case "tcp.initialWindow": network.tcp.initialWindow = try tokens.number("segments")
        case "tcp.minimumRTO": network.tcp.minimumRetransmissionTimeout = try tokens.time()
        case "tcp.maximumRTO": network.tcp.maximumRetransmissionTimeout = try tokens.time()
        case "tcp.initialRTO": network.tcp.initialRetransmissionTimeout = try tokens.time()
        case "tcp.delayedAck": network.tcp.delayedAcknowledgement = try tokens.time()
        case "tcp.quickAcks": network.tcp.quickAcknowledgements = try tokens.number("segments")
        case "tcp.keepAlive":
            network.tcp.keepAliveIdle = try tokens.time()
            network.tcp.keepAliveInterval = try tokens.time()
            network.tcp.keepAliveProbes = try tokens.number("probes")
        case "tcp.timeWait": network.tcp.timeWait = try tokens.time()
        case "tcp.timeWaitMaximum": network.tcp.timeWaitMaximum = try tokens.number("connections")
        case "tcp.finWait2": network.tcp.finWait2Timeout = try tokens.time()
        case "tcp.synRetries": network.tcp.synRetries = try tokens.number("retries")
        case "tcp.synAckRetries": network.tcp.synAcknowledgementRetries = try tokens.number("retries")
        case "tcp.retries": network.tcp.retries = try tokens.number("retries")
        case "tcp.userTimeout": network.tcp.userTimeout = try tokens.time()
        case "tcp.maximumConnections": network.tcp.maximumConnections = try tokens.number("connections")
        case "tcp.synQueue": network.tcp.synQueue = try tokens.number("connections")
        case "tcp.answersPerSecond": network.tcp.answersPerSecond = try tokens.number("answers")
        default: throw ScriptSyntaxError("no setting \(key)")
        }
    }

    /// The stations and flows, once everything is set.
    func context() -> ScriptContext {
        let (local, remote, _) = Self.addresses[isIPv6 ? 1 : 0]
        let stations = ScriptStations(
            local: local, remote: remote, localIPv6LinkLocal: .linkLocal(MACAddress(0x0200_0000_0001)), vlan: network.vlan)
        var all = ["": ScriptFlow("", local: local, remote: remote, localPort: nil, remotePort: 40_000, remoteInitial: peerInitial)]
        for flow in flows {
            let address = flow.remote ?? remote
            let own = Self.addresses[address.isIPv4 ? 0 : 1].local
            all[flow.name] = ScriptFlow(
                flow.name, local: own, remote: address, localPort: flow.local, remotePort: flow.port, remoteInitial: peerInitial)
        }
        return ScriptContext(stations: stations, flows: all)
    }
}

extension ScriptTokens {
    mutating func time() throws -> UInt64 {
        let text = try word("a time in seconds")
        guard let time = ScriptTime.nanoseconds(text[...]) else { throw ScriptSyntaxError("no time: \(text)") }
        return time
    }

    mutating func flag() throws -> Bool {
        let text = try word("on or off")
        guard text == "on" || text == "off" else { throw ScriptSyntaxError("on or off, not \(text)") }
        return text == "on"
    }
}
