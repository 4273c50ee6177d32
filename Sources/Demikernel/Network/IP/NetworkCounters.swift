/// What the layers below TCP have done. Each packet that is dropped is counted once, where that was decided.
package struct NetworkCounters: BitwiseCopyable, Sendable {
    // Frames
    package var framesReceived: UInt64 = 0
    package var framesSent: UInt64 = 0
    package var framesLooped: UInt64 = 0
    package var framesForOthers: UInt64 = 0
    package var framesMalformed: UInt64 = 0
    package var framesOfOtherVLANs: UInt64 = 0
    package var framesOfUnknownType: UInt64 = 0
    package var transmitDrops: UInt64 = 0
    package var allocationFailures: UInt64 = 0
    // IP
    package var packetsReceived: UInt64 = 0
    package var packetsMalformed: UInt64 = 0
    package var packetsBadChecksum: UInt64 = 0
    package var packetsBadSource: UInt64 = 0
    package var packetsForOthers: UInt64 = 0
    package var packetsSourceRouted: UInt64 = 0
    package var packetsUnknownProtocol: UInt64 = 0
    package var packetsBadExtension: UInt64 = 0
    package var packetsTooBig: UInt64 = 0
    package var packetsUnroutable: UInt64 = 0
    package var fragmentsReceived: UInt64 = 0
    package var fragmentsDropped: UInt64 = 0
    package var fragmentsSent: UInt64 = 0
    package var datagramsReassembled: UInt64 = 0
    package var datagramsFragmented: UInt64 = 0
    package var reassemblyTimeouts: UInt64 = 0
    package var reassemblyOverlaps: UInt64 = 0
    package var reassemblyLimits: UInt64 = 0
    // Neighbours
    package var arpReceived: UInt64 = 0
    package var arpMalformed: UInt64 = 0
    package var arpRequestsSent: UInt64 = 0
    package var arpRepliesSent: UInt64 = 0
    package var arpUnsolicited: UInt64 = 0
    package var addressConflicts: UInt64 = 0
    package var ndpReceived: UInt64 = 0
    package var ndpMalformed: UInt64 = 0
    package var ndpSolicitationsSent: UInt64 = 0
    package var ndpAdvertisementsSent: UInt64 = 0
    package var ndpUnsolicited: UInt64 = 0
    package var routerAdvertisementsIgnored: UInt64 = 0
    package var neighboursFailed: UInt64 = 0
    package var neighboursEvicted: UInt64 = 0
    package var neighbourTableFull: UInt64 = 0
    package var pendingDrops: UInt64 = 0
    // ICMP
    package var icmpReceived: UInt64 = 0
    package var icmpMalformed: UInt64 = 0
    package var icmpBadChecksum: UInt64 = 0
    package var icmpErrorsReceived: UInt64 = 0
    package var icmpErrorsIgnored: UInt64 = 0
    package var icmpErrorsSent: UInt64 = 0
    package var icmpErrorsLimited: UInt64 = 0
    package var icmpRedirectsIgnored: UInt64 = 0
    package var icmpIgnored: UInt64 = 0
    package var echoRequestsReceived: UInt64 = 0
    package var echoRequestsSent: UInt64 = 0
    package var echoRepliesReceived: UInt64 = 0
    package var echoRepliesSent: UInt64 = 0
    package var echoRepliesLimited: UInt64 = 0
    package var pathMTUUpdates: UInt64 = 0

    package init() {}
}
