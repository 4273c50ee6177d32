import Demikernel

/// What a link does to frames, in one direction. The default is a perfect wire: no delay, no limits.
///
/// Chances are per frame, 0 to 1, and independent of each other. Times are in nanoseconds.
public struct LinkConditions: Sendable, Equatable {
    /// From the end of the transmission to the arrival.
    public var delayNanoseconds: UInt64 = 0
    /// Up to that much more, drawn evenly. Frames do not overtake each other by it.
    public var jitterNanoseconds: UInt64 = 0
    /// Frames lost, each for itself.
    public var loss = 0.0
    /// Frames lost in bursts, beside ``loss``.
    public var burstLoss: BurstLoss?
    /// Frames that are held back by up to ``reorderNanoseconds``, so that later ones overtake them.
    public var reorder = 0.0
    public var reorderNanoseconds: UInt64 = 1_000_000
    /// Frames that arrive twice.
    public var duplicate = 0.0
    /// Frames whose bits are changed: some of 15 neighbouring ones behind the Ethernet header, which the Internet's checksums find without
    /// fail (RFC 1071). What carries no checksum (ARP) is lost instead, as the frame check sequence would have it.
    public var corrupt = 0.0
    /// Bits per second; nil for no limit.
    public var bitsPerSecond: UInt64?
    /// Bytes that wait for the wire where there is a limit; a frame beyond is dropped.
    public var queueBytes = 256 << 10
    /// Bytes that wait from which on frames of ECN-capable transports are marked "congestion experienced" (RFC 3168); nil for never.
    public var markBytes: Int?
    /// The largest IP packet that passes, in bytes.
    public var maximumTransmissionUnit = 65_535
    /// Whether a packet that is too large and must not be fragmented is answered by ICMP (RFC 1191, RFC 4443) as a router would; else it
    /// vanishes, as in a black hole (RFC 2923).
    public var answersTooBig = true
    /// Whether frames pass at all: false is a partition. Frames on their way are lost with it.
    public var isUp = true

    public init() {}

    /// A wire with that one-way delay, speed and loss.
    public init(delay: Duration, bitsPerSecond: UInt64? = nil, loss: Double = 0) {
        delayNanoseconds = delay.nanosecondsClamped
        self.bitsPerSecond = bitsPerSecond
        self.loss = loss
    }

    /// Loss in bursts: a two-state chain (Gilbert, 1960) that moves once per frame.
    public struct BurstLoss: Sendable, Equatable {
        /// The chance that a burst begins, per frame.
        public var begin: Double
        /// The chance that it ends, per frame: its mean length is the reciprocal.
        public var end: Double
        /// Frames lost within a burst.
        public var loss: Double

        public init(begin: Double, end: Double, loss: Double = 1) {
            self.begin = begin
            self.end = end
            self.loss = loss
        }
    }
}

/// What became of the frames that were sent into a link, by direction. Each is counted once as sent, and once or (duplicated) twice as
/// delivered, or once under the reason for which it was dropped.
public struct LinkStatistics: Sendable, Equatable {
    public var sentFrames: UInt64 = 0
    public var sentBytes: UInt64 = 0
    public var deliveredFrames: UInt64 = 0
    public var deliveredBytes: UInt64 = 0
    /// By chance, and in bursts.
    public var lost: UInt64 = 0
    public var lostInBursts: UInt64 = 0
    /// Without room in the queue before the wire.
    public var droppedByQueue: UInt64 = 0
    /// Larger than the link carries.
    public var droppedBySize: UInt64 = 0
    /// While the link was down, or caught by that on their way.
    public var droppedByPartition: UInt64 = 0
    public var corrupted: UInt64 = 0
    public var duplicated: UInt64 = 0
    public var reordered: UInt64 = 0
    public var marked: UInt64 = 0

    public init() {}

    /// Every frame that was sent and never arrived.
    public var dropped: UInt64 { lost + lostInBursts + droppedByQueue + droppedBySize + droppedByPartition }

    /// Adds the other's counts.
    public static func += (sum: inout LinkStatistics, other: LinkStatistics) {
        sum.sentFrames += other.sentFrames
        sum.sentBytes += other.sentBytes
        sum.deliveredFrames += other.deliveredFrames
        sum.deliveredBytes += other.deliveredBytes
        sum.lost += other.lost
        sum.lostInBursts += other.lostInBursts
        sum.droppedByQueue += other.droppedByQueue
        sum.droppedBySize += other.droppedBySize
        sum.droppedByPartition += other.droppedByPartition
        sum.corrupted += other.corrupted
        sum.duplicated += other.duplicated
        sum.reordered += other.reordered
        sum.marked += other.marked
    }
}
