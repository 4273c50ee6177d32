import DemikernelSimulator
import Testing

@Suite struct `The scenario under attack` {
    private func run(_ seed: UInt64, loss: Double = 0.05, attacks: Set<Attack> = []) -> ScenarioReport {
        var settings = ScenarioSettings()
        settings.seed = seed
        settings.duration = .seconds(1)
        settings.loss = loss
        settings.isAttacked = true
        settings.attacks = attacks
        return Scenario.run(settings)
    }

    // `Scripts/seeds` runs hundreds, with the optimised tool.
    @Test(arguments: 1...10 as ClosedRange<UInt64>) func `a seed ends as planned`(_ seed: UInt64) {
        let report = run(seed)
        #expect(report.failure == nil)
        #expect(report.attackFrames > 0 && report.streamBytes > 0)
    }

    @Test(arguments: [7, 31] as [UInt64]) func `a seed replays bit for bit`(_ seed: UInt64) {
        let (first, second) = (run(seed), run(seed))
        #expect(first.hash == second.hash && first.attackFrames == second.attackFrames && first.defences == second.defences)
    }

    /// What each attack alone has to be seen by.
    private static let counters: [(Attack, [String])] = [
        (.synFlood, ["tcp.synQueueOverflows", "tcp.synCookiesSent"]),
        (.blindSegments, ["tcp.challengeAcknowledgements", "tcp.outOfWindow", "tcp.unacceptableAcknowledgements"]),
        (.fragmentFlood, ["ip.reassemblyOverlaps", "ip.reassemblyLimits", "ip.fragmentsDropped", "ip.reassemblyTimeouts"]),
        (
            .neighbourStorm,
            ["ip.arpMalformed", "ip.arpUnsolicited", "ip.ndpMalformed", "ip.ndpUnsolicited", "ip.icmpRedirectsIgnored", "ip.routerAdvertisementsIgnored"]
        ),
        (.poisoning, ["ip.addressConflicts", "ip.arpUnsolicited"]),
        (.forgedErrors, ["ip.icmpErrorsReceived", "ip.icmpErrorsIgnored", "ip.icmpRedirectsIgnored"]),
        (.optionGarbage, ["ip.packetsSourceRouted", "ip.packetsUnknownProtocol", "tcp.malformed", "tcp.notForUs"]),
        (.mutations, ["ip.framesOfUnknownType", "ip.packetsMalformed"]),
        (.hostilePeers, ["tcp.windowProbes", "tcp.unacceptableAcknowledgements"]),
        (.reflection, ["udp.noPort", "ip.echoRequestsReceived", "ip.icmpErrorsLimited"]),
    ]

    @Test(arguments: counters) func `each attack is counted for what it is, and nobody times out on a network that loses nothing`(
        _ attack: Attack, _ expected: [String]
    ) {
        var found: [String: UInt64] = [:]
        for seed in 1...4 as ClosedRange<UInt64> {
            let report = run(seed, loss: 0, attacks: [attack])
            #expect(report.failure == nil)
            if report.partitions == 0, attack != .poisoning { #expect(report.timeouts == 0) }
            found.merge(report.defenceCounters) { $0 + $1 }
        }
        for name in expected { #expect(found[name, default: 0] > 0, "\(name) did not rise: \(found)") }
    }

    @Test func `every attack has its counters`() {
        #expect(Set(Self.counters.map(\.0)) == Set(Attack.allCases))
    }
}
