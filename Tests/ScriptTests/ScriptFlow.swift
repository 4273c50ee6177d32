import Demikernel

/// A conversation between a port of the stack and a port of the scripted peer: what turns relative numbers into those on the wire.
final class ScriptFlow {
    let name: String
    let local: IPAddress
    var remote: IPAddress
    /// Learnt from the first call or packet where the script does not say.
    var localPort: UInt16?
    var remotePort: UInt16
    /// The initial sequence number of the stack, once it has sent a SYN, and the one that the peer uses.
    var localInitial: UInt32?
    var remoteInitial: UInt32
    /// What follows the last byte that each side has sent, relative.
    var localNext = 0
    var remoteNext = 0
    /// The first and the last timestamp of the stack, and the peer's last.
    var timestampBase: UInt32?
    var lastLocalTimestamp: UInt32?
    var lastRemoteTimestamp: UInt32 = 0
    /// What the stack's application pushed, from relative sequence number 1 on.
    var pushed: [UInt8] = []
    /// What the application has popped so far, in bytes.
    var popped = 0
    /// The peer has sent text of its own, so what is popped is not the pattern.
    var hasText = false
    /// The last segment that the stack sent, from the IP header on.
    var lastSent: [UInt8] = []

    init(_ name: String, local: IPAddress, remote: IPAddress, localPort: UInt16?, remotePort: UInt16, remoteInitial: UInt32) {
        self.name = name
        self.local = local
        self.remote = remote
        self.localPort = localPort
        self.remotePort = remotePort
        self.remoteInitial = remoteInitial
    }

    /// Byte `index` of what either side sends unless a script says otherwise.
    static func pattern(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: index % 251) }

    func isFlow(of packet: DecodedPacket, source: UInt16, destination: UInt16) -> Bool {
        packet.destination == remote && destination == remotePort && (localPort == nil || localPort == source)
    }

    /// Relative to the stack's numbers.
    func localRelative(_ number: UInt32) -> Int { Int(Int32(bitPattern: number &- (localInitial ?? 0))) }
    func remoteRelative(_ number: UInt32) -> Int { Int(Int32(bitPattern: number &- remoteInitial)) }
    func localAbsolute(_ number: Int) -> UInt32 { (localInitial ?? 0) &+ UInt32(truncatingIfNeeded: number) }
    func remoteAbsolute(_ number: Int) -> UInt32 { remoteInitial &+ UInt32(truncatingIfNeeded: number) }

    /// Takes note of a segment that the stack has sent.
    func note(_ segment: DecodedTCP, _ packet: DecodedPacket, isNew: Bool) {
        if localPort == nil { localPort = segment.sourcePort }
        if segment.flags.contains("S"), localInitial == nil || isNew {
            localInitial = segment.sequence
            localNext = 0
            timestampBase = nil
            pushed = []
        }
        let length = segment.payload.count + (segment.flags.contains("S") ? 1 : 0) + (segment.flags.contains("F") ? 1 : 0)
        if !segment.flags.contains("R") { localNext = max(localNext, localRelative(segment.sequence) + length) }
        if let timestamps = segment.timestamps {
            if timestampBase == nil { timestampBase = timestamps.value }
            lastLocalTimestamp = timestamps.value
        }
        lastSent = packet.bytes
    }
}
