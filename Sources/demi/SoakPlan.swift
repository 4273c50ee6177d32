import DemikernelSimulator

/// What one connection of a soak does. Both ends draw it from the run's seed and the connection's number, which is what the client sends first.
struct SoakPlan: Sendable {
    enum Ending {
        /// Both directions end when everything has been sent and read.
        case clean
        /// One end resets the connection when it has sent a part of its bytes.
        case clientResets, serverResets
        /// The client closes when it has sent everything, whatever the server may still send.
        case clientLeaves
    }

    let number: Int
    let ending: Ending
    let isIPv4: Bool
    let clientBytes: Int
    let serverBytes: Int
    /// Bytes of a push or a write.
    let chunk: Int
    /// How long, in milliseconds, the client says nothing when half of its bytes are sent.
    let idleMilliseconds: Int

    /// Bytes that name the connection.
    static var nameByteCount: Int { 8 }
    static var byteCountMaximum: Int { 1 << 19 }

    init(seed: UInt64, number: Int) {
        var random = SimulationRandom(seed: seed, part: UInt64(number))
        self.number = number
        ending = switch random.number(in: 0...19) {
        case 0, 1: .clientResets
        case 2, 3: .serverResets
        case 4: .clientLeaves
        default: .clean
        }
        isIPv4 = random.chance(0.7)
        func bytes() -> Int { random.number(in: 0...1 << random.number(in: 1...19)) }
        clientBytes = Self.nameByteCount + bytes()
        serverBytes = bytes()
        // Small pushes and large ones, but not so many that one connection takes all the time there is.
        chunk = max(1 << random.number(in: 6...15), max(clientBytes, serverBytes) / 128)
        idleMilliseconds = random.chance(0.3) ? random.number(in: 1...8_000) : 0
    }

    func sendTotal(isClient: Bool) -> Int { isClient ? clientBytes : serverBytes }
    func pattern(sentByClient: Bool) -> ScenarioPattern { ScenarioPattern(connection: number, isClient: sentByClient) }

    /// After how many sent bytes this end resets the connection; nil where it does not.
    func resetPoint(isClient: Bool) -> Int? {
        switch ending {
        case .clientResets where isClient: max(Self.nameByteCount, clientBytes / 2)
        case .serverResets where !isClient: serverBytes / 2
        default: nil
        }
    }

    /// Where this end pauses; nil where it does not.
    func idlePoint(isClient: Bool) -> Int? { isClient && idleMilliseconds > 0 ? max(Self.nameByteCount, clientBytes / 2) : nil }
}

/// What has come of the connections of one side.
struct SoakCounts {
    var opened = 0
    var served = 0
    var bytesSent: UInt64 = 0
    var bytesReceived: UInt64 = 0
    /// Connections that were reset by either end, as planned.
    var resets = 0
    /// Bytes that are not what the peer sent, ends that came too early, errors that nobody planned; and what the first was.
    var wrong = 0
    var firstWrong = ""

    mutating func note(_ what: String) {
        wrong += 1
        if firstWrong.isEmpty { firstWrong = what }
    }

    /// The numbers in a line, for the peer's process to say.
    var line: String { "\(opened) \(served) \(bytesSent) \(bytesReceived) \(resets) \(wrong) \(firstWrong)" }

    init() {}

    init?(line: Substring) {
        let parts = line.split(separator: " ", maxSplits: 6, omittingEmptySubsequences: false)
        guard parts.count == 7, let opened = Int(parts[0]), let served = Int(parts[1]), let sent = UInt64(parts[2]),
            let received = UInt64(parts[3]), let resets = Int(parts[4]), let wrong = Int(parts[5])
        else { return nil }
        self.opened = opened
        self.served = served
        bytesSent = sent
        bytesReceived = received
        self.resets = resets
        self.wrong = wrong
        firstWrong = String(parts[6])
    }
}
