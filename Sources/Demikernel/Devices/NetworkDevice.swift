/// What a network device is and can do. Fixed when it is opened.
public struct NetworkDeviceCapabilities: Sendable, Equatable {
    /// The device's own Ethernet address: 48 bits in host order, `0x0200_0000_0001` is 02:00:00:00:00:01.
    public var address: UInt64
    /// The largest IP packet that a frame carries, in bytes: a frame has 14 more, 18 with an 802.1Q tag.
    public var maximumTransmissionUnit: Int
    /// The device fills in TCP and UDP checksums of frames that ask for it; else the stack does, in software.
    public var fillsChecksums: Bool
    /// Frames cannot be damaged between here and the peer (shared memory): their checksums need not be verified. The stack verifies them
    /// all the same unless its settings say otherwise.
    public var isReliable: Bool
    /// What is transmitted comes back to this device itself (a ring connected to itself): the stack sends packets for its own addresses there.
    public var isLoop: Bool
    /// The device's name for messages and captures: `memif0`, `ring`.
    public var name: String

    /// A device of this name and address; what is not said is the least that a device can do.
    public init(
        address: UInt64, maximumTransmissionUnit: Int = 1500, fillsChecksums: Bool = false, isReliable: Bool = false, isLoop: Bool = false,
        name: String
    ) {
        self.address = address
        self.maximumTransmissionUnit = maximumTransmissionUnit
        self.fillsChecksums = fillsChecksums
        self.isReliable = isReliable
        self.isLoop = isLoop
        self.name = name
    }

    /// The longest frame that any device carries, in bytes: an IP packet of 65,535 with its Ethernet header.
    public static var frameMaximum: Int { 65_535 + 14 }
}

/// What a network device has done since it was opened. Frames are counted once, where they were taken or dropped.
public struct NetworkDeviceStatistics: Sendable, Equatable {
    /// Frames that were put into bursts.
    public var receivedFrames: UInt64 = 0
    /// Their bytes, Ethernet header included.
    public var receivedBytes: UInt64 = 0
    /// Frames that the device took from bursts and that can go.
    public var transmittedFrames: UInt64 = 0
    /// Their bytes, Ethernet header included.
    public var transmittedBytes: UInt64 = 0
    /// Frames that had come and were lost: no heap memory, or longer than the device carries.
    public var receiveDrops: UInt64 = 0
    /// Frames that were given to ``NetworkDevice/transmit(_:)`` and can never go: too long, or the device is gone.
    public var transmitDrops: UInt64 = 0
    /// Calls of ``NetworkDevice/transmit(_:)`` that left frames in the burst because the device was full.
    public var transmitStalls: UInt64 = 0
    /// Entries of rings or messages that break the device's protocol: dropped.
    public var malformed: UInt64 = 0
    /// Times that the link went down: the peer died, the cable was cut.
    public var disconnections: UInt64 = 0
    /// Heap buffers that the device has now for frames to come.
    public var heldBuffers: Int = 0

    public init() {}
}

/// A network device: frames in, frames out, by bursts, in heap memory (paper, section 5.1: a device does I/O and knows no protocol).
///
/// Implement it in a noncopyable struct to bring a device of your own; ``LibOS`` polls it from one thread. No call may block. A device that
/// sleeps has an ``eventDescriptor``; one without is polled for as long as the program waits.
public protocol NetworkDevice: ~Copyable {
    var capabilities: NetworkDeviceCapabilities { get }
    var statistics: NetworkDeviceStatistics { mutating get }

    /// Whether frames can be exchanged now. A device that loses its peer stays open and may become connected again.
    var isConnected: Bool { get }

    /// A descriptor that is readable when there may be frames, or when the device wants ``maintain(now:)``, after ``prepareToSleep()``; nil
    /// where there is none.
    var eventDescriptor: Int32? { get }

    /// Adds frames that have come to `burst`, until it is full or there are no more.
    mutating func receive(into burst: inout FrameBurst)

    /// Takes frames from the front of `burst` and transmits them; those that the device has no room for stay, in their order.
    mutating func transmit(_ burst: inout FrameBurst)

    /// Asks for events: the next frame makes ``eventDescriptor`` readable. False where frames are there already, so that nobody sleeps.
    mutating func prepareToSleep() -> Bool

    /// Ends the asking, and takes what made ``eventDescriptor`` readable.
    mutating func wake()

    /// The device's control work: connecting, reconnecting, messages of the peer. `now` is in nanoseconds. Answers when it wants to be called
    /// again at the latest; `UInt64.max` for only when the event descriptor says so. Whoever polls, and so does not look at the descriptor,
    /// calls it every millisecond or so besides; it may cost a system call.
    mutating func maintain(now: UInt64) -> UInt64
}

extension NetworkDevice where Self: ~Copyable {
    /// Always: a device without a peer to lose.
    public var isConnected: Bool { true }
    /// None: the device is polled.
    public var eventDescriptor: Int32? { nil }
    /// False: whoever polls goes on polling.
    public mutating func prepareToSleep() -> Bool { false }
    /// Nothing to end.
    public mutating func wake() {}
    /// No control work.
    public mutating func maintain(now: UInt64) -> UInt64 { .max }
}
