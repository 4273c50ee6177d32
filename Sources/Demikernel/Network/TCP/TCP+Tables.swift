/// What all connections of a stack share. Passed `inout` beside the connection in hand, so that both can be changed at once.
struct TCPShared: ~Copyable {
    let configuration: TCPConfiguration
    let heap: HeapReference
    let limits: TimeoutLimits
    /// No timeout is shorter.
    var timeoutMinimum: UInt64 { min(limits.minimum, limits.initial) }
    let hash: KeyedHash
    let sequences: InitialSequence
    let cookies: SYNCookie
    var counters = TCPCounters()
    var timers: TimerWheel<UInt32>
    var random: NetworkRandom
    /// Connections that have something to do when the burst ends: a list through `TCPConnection.nextPending`.
    var pending = TCPShared.endOfPending
    /// When that is to be tried again, where the last burst has left some. A burst, a poll and a call try it anyway.
    var pendingDeadline: UInt64 = 0
    /// The last pause of the application in which time stood still for what it sent: what carries its beginning may be as late as its end.
    var pauseBegan = UInt64.max
    var pauseEnded: UInt64 = 0
    /// Answers to strangers that may still be sent in this second. RFC 5961, section 7.
    var answersLeft: Int
    var answersRenewedAt: UInt64 = 0
    /// Of the half-open connection in hand: whether a handshake cannot end now.
    var acceptQueueIsFull = false
    /// Of the search for ports: RFC 6056, section 3.3.3.
    var nextPort: UInt32 = 0

    /// `nextPending` of a connection that is not in the list, and of the last one in it.
    static var notPending: UInt32 { .max }
    static var endOfPending: UInt32 { .max - 1 }
    /// Nanoseconds until an exhausted heap is asked again.
    static var memoryInterval: UInt64 { 1_000_000 }

    /// Whether one more answer may be sent to somebody who may not be the peer. Counts where not.
    mutating func mayAnswer(_ now: UInt64) -> Bool {
        if now &- answersRenewedAt >= 1_000_000_000 {
            answersRenewedAt = now
            // Not the same number every second: RFC 5961's side channel (CVE-2016-5696).
            let quota = configuration.answersPerSecond
            answersLeft = quota / 2 + Int(random.next(below: UInt64(quota) + 1))
        }
        guard answersLeft > 0 else {
            counters.answersSuppressed &+= 1
            return false
        }
        answersLeft -= 1
        return true
    }

    /// The clock of TSval: milliseconds. RFC 7323, section 5.4, asks for 1 ms to 1 s.
    @inline(__always) static func timestampClock(_ now: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: now / 1_000_000) }
}

/// TCP: RFC 9293 and what it lists. The tables of connections, and who is asked for each segment.
///
/// Nothing here reads a clock or draws a number: `now`, in nanoseconds, comes with each call, chance with the first. Nothing is linear in the
/// number of connections, and nothing is allocated for a segment but its packet.
package struct TCP: ~Copyable {
    var connections: Slab<TCPConnection>
    var listeners: Slab<TCPListener>
    var timeWaits: TimeWaitTable
    /// Connections by their hash, and those in TIME_WAIT, which have `timeWaitBit`.
    var table: ConnectionTable
    var ports: PortTable
    var shared: TCPShared

    static var timeWaitBit: UInt32 { 1 << 31 }

    /// A TCP without connections. Throws EINVAL for settings that cannot be, ENOMEM where there is no address space for the tables.
    package init(_ configuration: TCPConfiguration, heap: HeapReference, entropy: NetworkEntropy, now: UInt64) throws(DemikernelError) {
        try configuration.check()
        let words = entropy.words
        let hash = KeyedHash(secret: (words.0 ^ 0x7463_702d_6861_7368, words.1))
        // What can fail first: a struct of noncopyable parts is made at once or not at all.
        let connections = try Slab<TCPConnection>(capacity: configuration.maximumConnections)
        let listeners = try Slab<TCPListener>(capacity: configuration.maximumListeners)
        let timeWaits = try TimeWaitTable(maximum: configuration.timeWaitMaximum)
        let table = try ConnectionTable(maximum: configuration.maximumConnections + configuration.timeWaitMaximum)
        let ports = try PortTable(maximum: configuration.maximumListeners + configuration.maximumConnections, hash: hash)
        let timers = try TimerWheel<UInt32>(capacity: configuration.maximumConnections)
        self.connections = connections
        self.listeners = listeners
        self.timeWaits = timeWaits
        self.table = table
        self.ports = ports
        shared = TCPShared(
            configuration: configuration, heap: heap,
            limits: TimeoutLimits(
                minimum: configuration.minimumRetransmissionTimeout, maximum: configuration.maximumRetransmissionTimeout,
                initial: configuration.initialRetransmissionTimeout),
            hash: hash, sequences: InitialSequence(key: SipHash.Key(words.2, words.3)),
            cookies: SYNCookie(key: SipHash.Key(words.3 ^ 0x636f_6f6b_6965, words.2)), timers: timers,
            random: NetworkRandom(seed: words.0 ^ words.3), answersLeft: configuration.answersPerSecond, answersRenewedAt: now)
    }

    package var counters: TCPCounters { shared.counters }

    /// Connections that have a control block, half-open ones included, and those in TIME_WAIT.
    package var connectionCount: Int { connections.count }
    package var timeWaitCount: Int { timeWaits.count }
    /// Connections that have a timer armed.
    package var armedTimerCount: Int { shared.timers.count }

    // MARK: - Finding

    /// The connection or TIME_WAIT entry of a tuple.
    @inline(__always)
    mutating func find(_ tuple: ConnectionTuple, _ hash: UInt32) -> UInt32? {
        if let slot = table.slotAtHome(hash), slot & Self.timeWaitBit == 0, connections[unchecked: slot].isOf(tuple) { return slot }
        return findElsewhere(tuple, hash)
    }

    @inline(never)
    private mutating func findElsewhere(_ tuple: ConnectionTuple, _ hash: UInt32) -> UInt32? {
        var search = table.search(hash)
        while let slot = search.slot {
            if slot & Self.timeWaitBit == 0 {
                if connections[unchecked: slot].isOf(tuple) { return slot }
            } else if timeWaits[slot & ~Self.timeWaitBit].tuple == tuple {
                return slot
            }
            table.advance(&search)
        }
        return nil
    }

    @inline(__always)
    func code(_ tuple: ConnectionTuple) -> UInt32 { UInt32(truncatingIfNeeded: shared.hash.hash(tuple) &>> 32) }

    // MARK: - From below

    /// Takes a segment, and its reference.
    package mutating func receive(_ packet: ReceivedPacket, ip: inout NetworkLayer, events: inout SocketEvents, now: UInt64) {
        shared.counters.segmentsReceived &+= 1
        let bytes = packet.frame.packet
        guard let view = TCPHeaderView(bytes) else {
            shared.counters.malformed &+= 1
            return packet.frame.release()
        }
        if !packet.checksumIsValid {
            let pseudoHeader = InternetChecksum.pseudoHeader(
                source: packet.source, destination: packet.destination, ipProtocol: .tcp, length: bytes.count)
            guard view.checksumIsValid(pseudoHeader: pseudoHeader) else {
                shared.counters.badChecksum &+= 1
                return packet.frame.release()
            }
        }
        let tuple = ConnectionTuple(
            local: packet.destination, localPort: view.destinationPort, remote: packet.source, remotePort: view.sourcePort)
        let found = find(tuple, code(tuple))
        guard let slot = found, slot & Self.timeWaitBit == 0, !packet.isBroadcast else {
            return receiveElsewhere(packet, view, tuple, found, ip: &ip, events: &events, now: now)
        }
        if connections[unchecked: slot].state == .synReceived { noteAcceptQueue(slot) }
        connections[unchecked: slot].receive(packet, view, &shared, ip: &ip, events: &events, now: now)
        if !connections[unchecked: slot].flags.isDisjoint(with: .wantsSettling) { settle(slot, ip: &ip, events: &events, now: now) }
    }

    /// Tells the half-open connection whether its listener's accept queue has room.
    @inline(never)
    private mutating func noteAcceptQueue(_ slot: UInt32) {
        let flags = connections[unchecked: slot].flags
        shared.acceptQueueIsFull = flags.contains(.isQueued) && listeners[unchecked: connections[unchecked: slot].listener].isFull
    }
}
