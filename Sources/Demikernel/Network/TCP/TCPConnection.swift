/// What a connection is about to have done to it by the tables above it, and how it stands, as one word of bits.
struct ConnectionFlags: OptionSet, BitwiseCopyable {
    let rawValue: UInt64
    @inline(__always) init(rawValue: UInt64) { self.rawValue = rawValue }

    // What the peer agreed to.
    static var timestamps: ConnectionFlags { .init(rawValue: 1 << 0) }
    static var selectiveAcknowledgement: ConnectionFlags { .init(rawValue: 1 << 1) }
    static var windowScale: ConnectionFlags { .init(rawValue: 1 << 2) }
    static var ecn: ConnectionFlags { .init(rawValue: 1 << 3) }
    // What the application asked for.
    static var noDelay: ConnectionFlags { .init(rawValue: 1 << 4) }
    static var keepAlive: ConnectionFlags { .init(rawValue: 1 << 5) }
    /// The application sends no more: a FIN follows the last byte.
    static var sendIsShut: ConnectionFlags { .init(rawValue: 1 << 6) }
    static var receiveIsShut: ConnectionFlags { .init(rawValue: 1 << 7) }
    /// The application has closed its handle: nobody reads, nobody is told.
    static var isOrphan: ConnectionFlags { .init(rawValue: 1 << 8) }
    // How it stands.
    static var finIsSent: ConnectionFlags { .init(rawValue: 1 << 9) }
    static var finIsReceived: ConnectionFlags { .init(rawValue: 1 << 10) }
    /// An acknowledgement goes out at the end of the burst, whatever the delay.
    static var acknowledgeNow: ConnectionFlags { .init(rawValue: 1 << 11) }
    /// RFC 6675, RFC 6582: from the first loss to the acknowledgement of `recoveryPoint`.
    static var isInRecovery: ConnectionFlags { .init(rawValue: 1 << 12) }
    /// The same after a retransmission timeout: slow start, no PRR.
    static var isAfterTimeout: ConnectionFlags { .init(rawValue: 1 << 13) }
    /// RFC 3168, section 6.1.3: acknowledgements echo the mark until CWR comes.
    static var echoesCongestion: ConnectionFlags { .init(rawValue: 1 << 14) }
    /// The next data segment carries CWR.
    static var reportsReduction: ConnectionFlags { .init(rawValue: 1 << 15) }
    /// `send` answered `.full`: a `writable` event follows.
    static var wantsToWrite: ConnectionFlags { .init(rawValue: 1 << 17) }
    /// The last entry of the receive queue is memory of our own, with room behind.
    static var tailIsOurs: ConnectionFlags { .init(rawValue: 1 << 18) }
    /// In the SYN or the accept queue of `listener`.
    static var isQueued: ConnectionFlags { .init(rawValue: 1 << 19) }
    /// The handshake is done, and the connection is in the accept queue.
    static var isAcceptable: ConnectionFlags { .init(rawValue: 1 << 20) }
    /// Not in the connection table any more: nothing comes or goes, the handle alone is left.
    static var isDetached: ConnectionFlags { .init(rawValue: 1 << 21) }
    /// In the connection table, under its tuple.
    static var isInTable: ConnectionFlags { .init(rawValue: 1 << 32) }
    /// A reader of the libOS's waits: the next data goes to it at once. `received` is empty.
    static var readerWaits: ConnectionFlags { .init(rawValue: 1 << 33) }
    /// The connection opened by sending a SYN.
    static var isActive: ConnectionFlags { .init(rawValue: 1 << 22) }
    /// A tail loss probe is out: RFC 8985, section 7.3.
    static var isProbing: ConnectionFlags { .init(rawValue: 1 << 23) }
    /// The frame queue was full: transmission goes on at the next flush.
    static var isBlocked: ConnectionFlags { .init(rawValue: 1 << 25) }
    /// Undoing a spurious timeout is possible: RFC 3522.
    static var mayUndo: ConnectionFlags { .init(rawValue: 1 << 26) }
    /// `receiveEnd` is known: the FIN has come, ahead of data that has not.
    static var finIsKnown: ConnectionFlags { .init(rawValue: 1 << 28) }

    // What TCP.settle does next.
    static var isEstablishedNow: ConnectionFlags { .init(rawValue: 1 << 29) }
    static var isTimeWaitNow: ConnectionFlags { .init(rawValue: 1 << 30) }
    static var isClosedNow: ConnectionFlags { .init(rawValue: 1 << 31) }
    static var wantsSettling: ConnectionFlags { [.isEstablishedNow, .isTimeWaitNow, .isClosedNow] }
}

/// What the connection's one retransmission timer stands for: RFC 6298's timer, RFC 8985's two, RFC 9293's persist timer exclude each other.
enum RetransmissionTimer: UInt8, BitwiseCopyable {
    case off, timeout, tailLossProbe, reordering, persist
    /// The first of timeout, probe and reordering; which, and when, is seen where the wheel rings: segments by the million put it off first.
    case unresolved
}

/// One TCP connection: the transmission control block of RFC 9293, section 3.3.1.
///
/// Laid out by cache line (64 B): a data segment or an acknowledgement in order touches the first three, a small segment sent the first four.
/// Everything that data in flight or out of order needs beyond them lies in heap memory that an idle connection gives back.
struct TCPConnection: ~Copyable {
    // MARK: Line 0: sequence numbers, both directions
    /// RCV.NXT
    var receiveNext = SequenceNumber(0)
    /// RCV.NXT + RCV.WND as last told to the peer: it never moves left.
    var receiveEdge = SequenceNumber(0)
    /// Last.ACK.sent
    var acknowledgementSent = SequenceNumber(0)
    /// SND.UNA
    var sendUnacknowledged = SequenceNumber(0)
    /// SND.NXT
    var sendNext = SequenceNumber(0)
    /// Behind the last byte that the application gave: where its FIN is or will be.
    var sendEnd = SequenceNumber(0)
    /// SND.WND
    var sendWindow: UInt32 = 0
    /// SND.WL1
    var windowUpdateSequence = SequenceNumber(0)
    /// SND.WL2
    var windowUpdateAcknowledgement = SequenceNumber(0)
    /// TS.Recent
    var timestampRecent: UInt32 = 0
    /// Added to the clock for TSval. RFC 7323, section 5.4.
    var timestampOffset: UInt32 = 0
    var flags: ConnectionFlags = []
    var state = TCPState.closed
    /// Snd.Wind.Shift
    var sendScale: UInt8 = 0
    /// Rcv.Wind.Shift
    var receiveScale: UInt8 = 0
    /// Segments that are acknowledged at once, yet.
    var quickAcknowledgements: UInt8 = 0
    /// Effective payload of a segment: without the options that every segment carries.
    var segmentSize: UInt16 = 536
    /// The peer's segments as they come, 536 at least: two of them are acknowledged at once.
    var receiveSegmentSize: UInt16 = 536
    /// Both ports as a header has them: ours in the upper half.
    var ports: UInt32 = 0
    var retransmissionTimer = RetransmissionTimer.off
    /// Successive timeouts, or window probes, without an acknowledgement.
    var backOff: UInt8 = 0
    var duplicateAcknowledgements: UInt8 = 0

    // MARK: Line 1: queues and timers
    var received = HeapRing<Segment>()
    /// Payload in `received`.
    var unreadBytes: UInt32 = 0
    /// Buffers that `received` keeps from being reused, whole.
    var heldBytes: UInt32 = 0
    /// The wheel's deadline for this connection: it rings no later than any of the deadlines below.
    var armedDeadline = UInt64.max
    var retransmissionDeadline = UInt64.max
    var acknowledgementDeadline = UInt64.max

    // MARK: Line 2: sending
    var queue = SendQueue()
    var scoreboard = SendScoreboard()
    /// The next in the list of connections that have something to do at the end of the burst; see TCPShared.
    var nextPending = TCPShared.notPending
    var tag: UInt32 = 0

    // MARK: Line 3 and on: congestion control and round trips, read and written by acknowledgements
    var congestion: CongestionControl
    var roundTrip: RoundTripEstimator
    /// When the retransmission timer was started: RFC 6298, section 5.
    var timeoutSince: UInt64 = 0
    /// When something was last sent or acknowledged while the timer was on: the probe's time begins. RFC 8985, section 7.2.
    var probeSince: UInt64 = 0

    // MARK: The path: addresses, neighbour, MTU
    var path: NetworkPath

    // MARK: Rarely touched
    /// Keep-alive, FIN_WAIT_2.
    var idleDeadline = UInt64.max
    var lastReceived: UInt64 = 0
    /// When the data that is out was first unanswered: the user timeout begins.
    var stalledSince: UInt64 = 0
    var timer = TimerKey(slot: 0, generation: 0)
    var reorder = ReorderQueue()
    /// ISS
    var initialSendSequence = SequenceNumber(0)
    /// IRS
    var initialReceiveSequence = SequenceNumber(0)
    /// RFC 6582, RFC 6675: SND.NXT when the recovery began.
    var recoveryPoint = SequenceNumber(0)
    var probe = TailLossProbe()
    var discovery: PathMTUDiscovery
    /// The peer's FIN, once it is known.
    var receiveEnd = SequenceNumber(0)
    /// The clock of timestamps when TS.Recent was last set: RFC 7323, section 5.5.
    var timestampRecentAt: UInt32 = 0
    /// MAX.SND.WND: RFC 5961, section 5.
    var largestSendWindow: UInt32 = 0
    var sendLimit: UInt32
    var receiveLimit: UInt32
    var slot: UInt32 = 0
    var listener: UInt32 = .max
    /// The queue of the listener.
    var queueNext: UInt32 = .max
    var queuePrevious: UInt32 = .max
    /// Why the connection ended: an errno.
    var error: Int32 = 0
    /// Where retransmissions stand: see TCP+Acknowledge.
    var recovery = ProportionalRateReduction()
    /// When to look again for what is only late: RFC 8985, section 6.3.
    var reorderingDeadline = UInt64.max
    /// TSval of the first retransmission after a timeout.
    var undoStamp: UInt32 = 0
    var totalRetransmissions: UInt32 = 0
    var options: TCPSocketOptions
    /// The most that the peer takes in a segment.
    var peerSegmentSize: UInt16 = 536
    var keepAliveProbes: UInt8 = 0
    var handshakeRetries: UInt8 = 0

    deinit {
        var (queue, scoreboard, reorder, received) = (queue, scoreboard, reorder, received)
        queue.free()
        scoreboard.free()
        reorder.releaseAll()
        while !received.isEmpty { received.removeFirst().release() }
        received.free()
    }
}
