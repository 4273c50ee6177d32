import Demikernel

/// What a stack counts where it does not do as a frame would have it.
enum ScenarioDefences {
    private static let ip: Set<String> = [
        "framesMalformed", "framesOfOtherVLANs", "framesOfUnknownType", "packetsMalformed", "packetsBadChecksum", "packetsBadSource",
        "packetsForOthers", "packetsSourceRouted", "packetsUnknownProtocol", "packetsBadExtension", "packetsUnroutable", "fragmentsDropped",
        "reassemblyTimeouts", "reassemblyOverlaps", "reassemblyLimits", "arpMalformed", "arpUnsolicited", "addressConflicts", "ndpMalformed",
        "ndpUnsolicited", "routerAdvertisementsIgnored", "neighboursFailed", "neighboursEvicted", "neighbourTableFull", "pendingDrops",
        "icmpMalformed", "icmpBadChecksum", "icmpErrorsReceived", "icmpErrorsIgnored", "icmpErrorsLimited", "icmpRedirectsIgnored", "icmpIgnored",
        "echoRepliesLimited", "echoRequestsReceived",
    ]
    private static let tcp: Set<String> = [
        "malformed", "badChecksum", "notForUs", "challengeAcknowledgements", "answersSuppressed", "outOfWindow", "oldTimestamps",
        "unacceptableAcknowledgements", "duplicateSegments", "outOfOrderDrops", "synQueueOverflows", "synCookiesSent", "synCookiesRejected",
        "acceptQueueOverflows", "windowProbes", "outOfMemory",
    ]
    private static let udp: Set<String> = ["malformed", "badChecksum", "noPort", "receiveDrops"]

    /// Those of a stack that are not 0, as `tcp.notForUs`.
    static func count(_ stack: borrowing NetworkStack) -> [String: UInt64] {
        let lists = [
            NetworkStatistics.list(stack.ip.counters, "ip").filter { ip.contains($0.name) },
            NetworkStatistics.list(stack.tcp.counters, "tcp").filter { tcp.contains($0.name) },
            NetworkStatistics.list(stack.udp.counters, "udp").filter { udp.contains($0.name) },
        ]
        return Dictionary(uniqueKeysWithValues: lists.joined().filter { $0.value != 0 }.map { ("\($0.layer).\($0.name)", $0.value) })
    }
}
