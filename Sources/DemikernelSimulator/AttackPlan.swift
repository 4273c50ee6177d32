/// What an attacker on the network does.
package enum Attack: UInt8, CaseIterable, Sendable {
    /// Floods of SYNs from addresses that exist, that do not, and that have no route.
    case synFlood
    /// Segments in the name of live connections' ends, whose ports are known and whose numbers are guessed, wildly or well, but never right:
    /// RST, SYN, data, acknowledgements. RFC 5961.
    case blindSegments
    /// First fragments, last ones, too many of one datagram, of too many; overlaps; those that end beyond 65,535 bytes.
    case fragmentFlood
    /// ARP and NDP: requests, answers that nobody asked for, announcements, probes.
    case neighbourStorm
    /// Answers that claim live hosts' addresses. ARP and NDP have no defence but time: RFC 826, RFC 4861, section 11.1.
    case poisoning
    /// ICMP errors about live connections, with numbers that are not out, and about datagrams, sent or not. RFC 5927.
    case forgedErrors
    /// IP and TCP options at random, lengths that are wrong included.
    case optionGarbage
    /// Frames that it has seen because the switch did not know better, changed, cut, repeated; and bytes at random.
    case mutations
    /// Real connections whose peer closes its window, acknowledges what it never had, reports nonsense, goes silent.
    case hostilePeers
    /// Echo requests and datagrams to ports that nobody has, from everywhere.
    case reflection
}

/// What a seed means for the attacker.
struct AttackPlan {
    let kinds: [Attack]
    /// The longest pause between two bursts in nanoseconds, and the frames of the longest burst.
    let pause: UInt64
    let burst: Int
    /// The heap of each host is this small; nil for ample.
    let heapLimit: Int?

    /// Frames that it sends at most.
    static var framesMaximum: Int { 4_000 }

    init(_ settings: ScenarioSettings, _ random: inout SimulationRandom) {
        var drawn: [Attack] = []
        for kind in Attack.allCases where random.chance(kind == .poisoning ? 0.15 : 0.45) { drawn.append(kind) }
        if drawn.isEmpty { drawn = [Attack.allCases[random.number(in: 0...Attack.allCases.count - 1)]] }
        pause = 1 << UInt64(random.number(in: 18...25))
        burst = 1 << random.number(in: 0...9)
        let starves = random.chance(0.2)
        let limit = random.number(in: 1...3) << 21
        kinds = settings.attacks.isEmpty ? drawn : Attack.allCases.filter(settings.attacks.contains)
        heapLimit = settings.attacks.isEmpty && starves ? limit : nil
    }
}
