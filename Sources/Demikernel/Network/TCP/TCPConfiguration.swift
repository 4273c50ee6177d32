import Glibc
import SystemPackage

/// Which congestion control a connection uses.
package typealias TCPCongestionControl = CongestionControl.Algorithm

/// How a stack's TCP behaves. Times are in nanoseconds, sizes in bytes.
package struct TCPConfiguration: Sendable, Equatable {
    package var congestionControl = TCPCongestionControl.cubic
    /// Whether ECN is asked for and agreed to (RFC 3168). DCTCP does in any case.
    package var ecn = false
    /// Data that waits to be sent or acknowledged, per connection: beyond it `send` answers `.full`.
    package var sendBuffer = 1 << 20
    /// Data that waits to be read, per connection: what the window offers at most. Memory held is at most twice this and one segment.
    package var receiveBuffer = 1 << 20
    /// Segments of the first flight. RFC 6928.
    package var initialWindow = 10
    package var minimumRetransmissionTimeout: UInt64 = 200_000_000
    package var maximumRetransmissionTimeout: UInt64 = 120_000_000_000
    /// Before there is a measurement. RFC 6298, section 2.1.
    package var initialRetransmissionTimeout: UInt64 = 1_000_000_000
    /// How long the acknowledgement of less than two segments waits for company. RFC 9293, section 3.8.6.3: below 500 ms.
    package var delayedAcknowledgement: UInt64 = 10_000_000
    /// Full-sized segments of a new connection that are acknowledged at once.
    package var quickAcknowledgements = 8
    package var keepAliveIdle: UInt64 = 7_200_000_000_000
    package var keepAliveInterval: UInt64 = 75_000_000_000
    package var keepAliveProbes = 9
    /// 2·MSL. RFC 9293, section 3.6.1, asks for 4 minutes; 60 s is what others wait.
    package var timeWait: UInt64 = 60_000_000_000
    /// Connections in TIME_WAIT at a time, in their compact form (80 B): beyond it the oldest ends early.
    package var timeWaitMaximum = 65_536
    /// How long a closed connection waits in FIN_WAIT_2 for the peer's FIN.
    package var finWait2Timeout: UInt64 = 60_000_000_000
    /// Retransmissions of a SYN before `connect` fails with ETIMEDOUT.
    package var synRetries = 6
    /// Retransmissions of a SYN-ACK before the half-open connection is forgotten.
    package var synAcknowledgementRetries = 5
    /// Successive retransmissions (R2) before the connection fails with ETIMEDOUT. RFC 9293, section 3.8.3.
    package var retries = 15
    /// Longest time without an acknowledgement of sent data or of a zero-window probe's byte; 0 for none. RFC 5482.
    package var userTimeout: UInt64 = 0
    package var timestamps = true
    package var selectiveAcknowledgement = true
    package var windowScale = true
    /// Whether new sockets send small segments at once (Nagle's algorithm off).
    package var noDelay = true
    /// Connections and half-open ones at a time: ENOMEM beyond.
    package var maximumConnections = 65_536
    package var maximumListeners = 1_024
    /// Half-open connections per listener; beyond it SYNs are answered with cookies. RFC 4987.
    package var synQueue = 1_024
    package var synCookies = true
    /// The most that a listener's backlog can be.
    package var maximumBacklog = 4_096
    /// Challenge acks, resets and answers of TIME_WAIT per second. RFC 5961, section 7.
    package var answersPerSecond = 1_000
    /// Ports that connect and port 0 choose from.
    package var firstEphemeralPort: UInt16 = 32_768
    package var lastEphemeralPort: UInt16 = 60_999

    package init() {}

    /// Throws EINVAL, with what is wrong, for settings that no stack can run with.
    package func check() throws(DemikernelError) {
        guard sendBuffer >= 4_096, sendBuffer <= 1 << 30 else { throw DemikernelError(.invalidArgument, "tcp: the send buffer is 4 KiB to 1 GiB") }
        guard receiveBuffer >= 4_096, receiveBuffer <= 1 << 30 else {
            throw DemikernelError(.invalidArgument, "tcp: the receive buffer is 4 KiB to 1 GiB")
        }
        guard (1...64).contains(initialWindow) else { throw DemikernelError(.invalidArgument, "tcp: the initial window is 1 to 64 segments") }
        guard minimumRetransmissionTimeout > 0, minimumRetransmissionTimeout <= initialRetransmissionTimeout,
            initialRetransmissionTimeout <= maximumRetransmissionTimeout, maximumRetransmissionTimeout <= 3_600_000_000_000
        else { throw DemikernelError(.invalidArgument, "tcp: retransmission timeouts are minimum <= initial <= maximum <= 1 h") }
        guard delayedAcknowledgement <= 500_000_000 else {
            throw DemikernelError(.invalidArgument, "tcp: an acknowledgement is delayed by 500 ms at most")
        }
        guard (1...(1 << 22)).contains(maximumConnections), (1...65_536).contains(maximumListeners), (0...(1 << 22)).contains(timeWaitMaximum)
        else { throw DemikernelError(.invalidArgument, "tcp: connections are 1 to 4,194,304, listeners 1 to 65,536") }
        guard (0...255).contains(synRetries), (0...255).contains(synAcknowledgementRetries), (0...255).contains(retries),
            (1...127).contains(keepAliveProbes)
        else { throw DemikernelError(.invalidArgument, "tcp: retries are 0 to 255") }
        guard synQueue >= 1, maximumBacklog >= 1, answersPerSecond >= 0 else {
            throw DemikernelError(.invalidArgument, "tcp: the SYN queue and the backlog hold at least one connection")
        }
        guard firstEphemeralPort >= 1, firstEphemeralPort <= lastEphemeralPort else {
            throw DemikernelError(.invalidArgument, "tcp: the first ephemeral port is not above the last")
        }
    }
}

/// What a socket is told about its connection. Zero: as the stack's settings have it.
package struct TCPSocketOptions: BitwiseCopyable, Sendable {
    /// Small segments go out at once; nil as the settings have it. RFC 9293, section 3.7.4.
    package var noDelay: Bool?
    /// RFC 9293, section 3.8.4.
    package var keepAlive = false
    package var keepAliveIdle: UInt64 = 0
    package var keepAliveInterval: UInt64 = 0
    package var keepAliveProbes: UInt8 = 0
    package var sendBuffer = 0
    package var receiveBuffer = 0
    /// A listener may take a port that has connections in TIME_WAIT.
    package var reuseAddress = false
    package var userTimeout: UInt64 = 0
    package var congestionControl: TCPCongestionControl?
    /// DSCP for the socket's packets, 0...63.
    package var trafficClass: UInt8 = 0

    package init() {}
}

/// A connection or a listener, as the stack's caller names it. A stale one is recognised.
package struct TCPSocket: BitwiseCopyable, Hashable, Sendable {
    package let slot: UInt32
    package let generation: UInt32

    @inline(__always)
    package init(slot: UInt32, generation: UInt32) {
        self.slot = slot
        self.generation = generation
    }

    /// Listeners have a slab of their own.
    @inline(__always) static var listenerBit: UInt32 { 1 << 31 }
    @inline(__always) package var isListener: Bool { slot & Self.listenerBit != 0 }
}

/// What became of `send`.
package enum SendResult: BitwiseCopyable, Equatable, Sendable {
    /// The references passed to the stack.
    case taken
    /// The caller keeps them and hears of room by a `writable` event.
    case full
    /// The caller keeps them; errno: EPIPE, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOTCONN, EBADF, ENOMEM.
    case failed(Int32)
}

/// What `receive` found.
package enum ReceiveResult: BitwiseCopyable {
    /// References pass to the caller.
    case segments(SegmentList)
    /// Nothing yet: a `readable` event follows.
    case empty
    /// The peer has closed its side, and everything was delivered.
    case endOfStream
    case failed(Int32)
}

/// A connection's state. RFC 9293, section 3.3.2. TIME_WAIT and CLOSED have no control block here.
package enum TCPState: UInt8, BitwiseCopyable, Sendable {
    case closed, listen, synSent, synReceived, established, finWait1, finWait2, closeWait, closing, lastAcknowledgement, timeWait
}

/// What a connection is like now: `struct tcp_info`'s subset that means something here. Times in nanoseconds, sizes in bytes.
package struct TCPInformation: Sendable, Equatable {
    package var state = TCPState.closed
    package var smoothedRoundTrip: UInt64 = 0
    package var roundTripVariation: UInt64 = 0
    package var minimumRoundTrip: UInt64 = 0
    package var retransmissionTimeout: UInt64 = 0
    package var congestionWindow = 0
    package var slowStartThreshold = 0
    package var sendWindow = 0
    package var receiveWindow = 0
    package var maximumSegmentSize = 0
    package var bytesInFlight = 0
    package var bytesUnsent = 0
    package var bytesUnread = 0
    package var bytesOutOfOrder = 0
    package var retransmissions = 0
    package var backOff = 0
    package var isInRecovery = false
    package var hasTimestamps = false
    package var hasSelectiveAcknowledgement = false
    package var hasWindowScale = false
    package var hasECN = false
    package init() {}
}

/// What TCP has done since the stack was made.
package struct TCPCounters: Sendable, Equatable {
    package var segmentsReceived: UInt64 = 0
    package var segmentsSent: UInt64 = 0
    package var fastPath: UInt64 = 0
    package var bytesReceived: UInt64 = 0
    package var bytesSent: UInt64 = 0
    package var connectionsOpened: UInt64 = 0
    package var connectionsAccepted: UInt64 = 0
    package var connectionsFailed: UInt64 = 0
    package var connectionsReset: UInt64 = 0
    /// Too short, a header longer than the segment, a port of 0, flags that exclude each other.
    package var malformed: UInt64 = 0
    package var badChecksum: UInt64 = 0
    package var notForUs: UInt64 = 0
    package var resetsSent: UInt64 = 0
    package var resetsReceived: UInt64 = 0
    package var challengeAcknowledgements: UInt64 = 0
    /// Answers not given because there had been too many in this second.
    package var answersSuppressed: UInt64 = 0
    /// Segments outside of the window, answered with an acknowledgement.
    package var outOfWindow: UInt64 = 0
    package var oldTimestamps: UInt64 = 0
    /// ACK outside of what RFC 5961, section 5, allows, and those of data never sent.
    package var unacceptableAcknowledgements: UInt64 = 0
    package var duplicateSegments: UInt64 = 0
    package var outOfOrderSegments: UInt64 = 0
    package var outOfOrderDrops: UInt64 = 0
    package var retransmittedSegments: UInt64 = 0
    package var fastRecoveries: UInt64 = 0
    package var retransmissionTimeouts: UInt64 = 0
    package var spuriousTimeouts: UInt64 = 0
    package var tailLossProbes: UInt64 = 0
    package var windowProbes: UInt64 = 0
    package var keepAliveProbes: UInt64 = 0
    package var delayedAcknowledgements: UInt64 = 0
    package var pureAcknowledgements: UInt64 = 0
    package var congestionMarks: UInt64 = 0
    package var userTimeouts: UInt64 = 0
    package var synQueueOverflows: UInt64 = 0
    package var synCookiesSent: UInt64 = 0
    package var synCookiesAccepted: UInt64 = 0
    package var synCookiesRejected: UInt64 = 0
    package var acceptQueueOverflows: UInt64 = 0
    package var timeWaitReused: UInt64 = 0
    package var timeWaitOverflows: UInt64 = 0
    /// Segments or connections refused because the heap or a table was full.
    package var outOfMemory: UInt64 = 0
    package var pathMTUReductions: UInt64 = 0
    /// Transmissions put off because the frame queue below was full.
    package var backPressure: UInt64 = 0
    package init() {}
}
