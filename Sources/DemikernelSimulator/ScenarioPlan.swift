import Demikernel

/// What a seed means: hosts, settings of their stacks, links and their impairments. All of it is drawn before the run begins.
struct ScenarioPlan {
    var hostCount: Int
    var hasSwitch: Bool
    var networks: [NetworkConfiguration] = []
    var devices: [NetworkDeviceCapabilities] = []
    var transmitMaxima: [Int] = []
    var reactions: [UInt64] = []
    /// While all is well, and while it is not; one of each for every link.
    var calm: [LinkConditions] = []
    var impaired: [LinkConditions] = []
    /// Longest pause between a host's connections, in nanoseconds.
    var pause: UInt64
    var largestStream: Int
    let mayLose: Bool
    private(set) var attack: AttackPlan?

    static let prefixes: (ipv4: UInt32, ipv6: UInt64) = (0x0a00_0000, 0xfd00_0000_0000_0001)

    static func address(_ host: Int, isIPv4: Bool, port: UInt16) -> SocketAddress {
        isIPv4 ? .ipv4(prefixes.ipv4 + UInt32(host) + 1, port: port) : .ipv6(prefixes.ipv6, UInt64(host) + 1, port: port)
    }

    init(_ settings: ScenarioSettings, _ random: inout SimulationRandom) {
        hostCount = settings.hosts ?? (random.chance(0.4) ? 2 : random.number(in: 3...5))
        hasSwitch = hostCount > 2 || random.chance(0.3) || settings.isAttacked
        pause = 1 << UInt64(random.number(in: 24...29))
        largestStream = 1 << random.number(in: 10...19)
        let loss = random.chance(0.8) ? settings.loss * Double(random.number(in: 1...100)) / 100 : 0
        mayLose = loss > 0
        let delay = UInt64(1) << UInt64(random.number(in: 10...25))
        let mtu = random.chance(0.8) ? 1500 : random.number(in: 1280...9000)
        for host in 0..<hostCount {
            networks.append(Self.network(host, &random))
            devices.append(
                NetworkDeviceCapabilities(
                    address: 0x0200_0000_0001 + UInt64(host), maximumTransmissionUnit: mtu, fillsChecksums: random.chance(0.3), name: "host\(host)"))
            transmitMaxima.append(random.chance(0.2) ? random.number(in: 1...8) : Int.max)
            reactions.append(random.chance(0.5) ? 0 : random.below(50_000))
        }
        for _ in 0..<(hasSwitch ? hostCount : 1) {
            var link = LinkConditions()
            link.delayNanoseconds = delay / 2 + random.below(delay)
            if random.chance(0.5) { link.bitsPerSecond = 1_000_000 << UInt64(random.number(in: 1...10)) }
            link.queueBytes = 1 << random.number(in: 15...19)
            if random.chance(0.3) { link.markBytes = link.queueBytes / 4 }
            // What an attacker does by mere volume, on a wire that is too slow for it, no stack prevents.
            if settings.isAttacked { link.bitsPerSecond = nil }
            calm.append(link)
            impaired.append(Self.impair(link, loss, &random))
        }
        if settings.isAttacked { attack = AttackPlan(settings, &random) }
    }

    /// What a host may have in its heap: buffers of its connections, as far as the program opens them; what waits for neighbours, in reassembly, and
    /// on an attacker's connections.
    func memoryBound(_ host: Int) -> Int {
        let network = networks[host]
        let connection = 2 * network.tcp.receiveBuffer + network.tcp.sendBuffer + (128 << 10)
        return 2 * ScenarioHost.connectionsMaximum * connection + 2 * network.reassembly.bytesMaximum + (8 << 20)
    }

    private static func impair(_ link: LinkConditions, _ loss: Double, _ random: inout SimulationRandom) -> LinkConditions {
        var link = link
        link.loss = loss
        if random.chance(0.5) { link.jitterNanoseconds = random.below(link.delayNanoseconds * 2 + 1) }
        if loss > 0, random.chance(0.3) {
            link.burstLoss = .init(begin: loss / 10, end: 0.05 + Double(random.number(in: 0...50)) / 100, loss: 0.9)
        }
        if random.chance(0.5) {
            link.reorder = Double(random.number(in: 1...20)) / 100
            link.reorderNanoseconds = 1 << UInt64(random.number(in: 12...24))
        }
        if random.chance(0.4) { link.duplicate = Double(random.number(in: 1...10)) / 100 }
        if loss > 0, random.chance(0.4) { link.corrupt = loss / 2 }
        return link
    }

    private static func network(_ host: Int, _ random: inout SimulationRandom) -> NetworkConfiguration {
        var network = NetworkConfiguration(addresses: [
            .init(IPAddress(ipv4: prefixes.ipv4 + UInt32(host) + 1), prefixLength: 24),
            .init(IPAddress(high: prefixes.ipv6, low: UInt64(host) + 1), prefixLength: 64),
        ])
        network.tagsMaximum = 1 << 14
        network.announcesAddresses = random.chance(0.5)
        network.neighbours.reachableTime = 1_000_000_000 << UInt64(random.number(in: 0...5))
        network.udp.socketsMaximum = 64
        network.udp.datagramsMaximum = 4096
        network.tcp.congestionControl = [.cubic, .cubic, .newReno, .dctcp][random.number(in: 0...3)]
        network.tcp.ecn = random.chance(0.4)
        network.tcp.sendBuffer = 1 << random.number(in: 13...18)
        network.tcp.receiveBuffer = 1 << random.number(in: 12...18)
        network.tcp.initialWindow = random.number(in: 1...16)
        network.tcp.minimumRetransmissionTimeout = 50_000_000 << UInt64(random.number(in: 0...3))
        network.tcp.maximumRetransmissionTimeout = 4_000_000_000
        network.tcp.delayedAcknowledgement = [0, 10_000_000, 40_000_000, 200_000_000][random.number(in: 0...3)]
        network.tcp.quickAcknowledgements = random.number(in: 0...8)
        network.tcp.keepAliveIdle = 3_000_000_000
        network.tcp.keepAliveInterval = 1_000_000_000
        network.tcp.keepAliveProbes = 5
        network.tcp.timeWait = 1_000_000_000 << UInt64(random.number(in: 0...3))
        network.tcp.finWait2Timeout = 5_000_000_000
        network.tcp.synRetries = 10
        network.tcp.synAcknowledgementRetries = 10
        network.tcp.timestamps = random.chance(0.7)
        network.tcp.selectiveAcknowledgement = random.chance(0.7)
        network.tcp.windowScale = random.chance(0.7)
        network.tcp.noDelay = random.chance(0.5)
        network.tcp.maximumConnections = 1 << 12
        network.tcp.timeWaitMaximum = 1 << 12
        network.tcp.maximumListeners = 16
        network.tcp.synQueue = random.chance(0.8) ? 128 : 1
        return network
    }
}

/// What the two ends of a connection are going to do.
struct ScenarioConnectionPlan {
    enum Ending {
        /// Both sides send everything, then each says so; each reads to the end.
        case clean
        /// The client closes when it has sent everything, whether the server is done or not.
        case closeEarly
        /// The client resets it in the middle.
        case reset
        /// Nothing is said for as long as the network is impaired, then as `clean`.
        case idle
        /// To a port where nobody listens.
        case refused
    }

    var client: Int
    var server: Int
    var isIPv4: Bool
    var ending: Ending
    /// What the client and the server send.
    var clientBytes: Int
    var serverBytes: Int
    var chunk: Int
    /// The server begins when it has everything.
    var isRequestResponse: Bool
    /// How slowly each side reads: nanoseconds between reads, 0 for at once.
    var readPauses: (client: UInt64, server: UInt64)
    /// For `reset`: when.
    var resetAfter: UInt64

    init(_ plan: ScenarioPlan, from client: Int, _ random: inout SimulationRandom) {
        self.client = client
        let other = random.number(in: 0...plan.hostCount - 2)
        server = other >= client ? other + 1 : other
        isIPv4 = random.chance(0.7)
        switch random.number(in: 0...99) {
        case 0..<70: ending = .clean
        case 70..<78: ending = .closeEarly
        case 78..<86: ending = .reset
        case 86..<94: ending = .idle
        default: ending = .refused
        }
        // Sizes of all magnitudes.
        func size(_ random: inout SimulationRandom) -> Int { random.number(in: 0...max(1, plan.largestStream >> random.number(in: 0...10))) }
        clientBytes = max(8, size(&random))
        serverBytes = size(&random)
        chunk = 1 << random.number(in: 3...15)
        isRequestResponse = random.chance(0.5)
        func pause(_ random: inout SimulationRandom) -> UInt64 { random.chance(0.15) ? 1 << UInt64(random.number(in: 20...28)) : 0 }
        readPauses = (pause(&random), pause(&random))
        resetAfter = random.below(1 << UInt64(random.number(in: 16...30)))
    }
}
