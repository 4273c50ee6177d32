import Glibc

/// What a ``PacketSocketDevice`` is told when it is opened.
package struct PacketSocketConfiguration: Sendable {
    /// The interface, by name.
    package var interface: String
    /// The network namespace of the interface: a path, or a name of `ip netns`; empty for the thread's own.
    package var namespace = ""
    /// Our Ethernet address, 48 bits in host order; nil for the interface's.
    package var address: UInt64?
    /// The largest IP packet to send, in bytes; the interface's where that is smaller.
    package var mtu = 1_500
    /// Receive rings, between which the kernel divides flows (PACKET_FANOUT): 1...16.
    package var rings = 1
    /// Frames that a ring holds: 16...16,384, rounded up to a power of two.
    package var ringSize = 1_024
    /// Frames go past the interface's queueing discipline (PACKET_QDISC_BYPASS), and past `tcpdump` on it.
    package var bypassesQueueing = false
    /// Consecutive segments of a connection go into the kernel as one packet, which it cuts again (GSO); not past the queueing discipline.
    package var joinsSegments = true
    /// Also takes frames to other stations in: for a device that reflects, or that watches.
    package var takesAll = false

    package init(interface: String) { self.interface = interface }

    func validate() throws(DemikernelError) {
        guard 1...16 ~= rings else { throw DemikernelError(.invalidArgument, "a packet socket has between 1 and 16 rings") }
        guard 16...16_384 ~= ringSize else { throw DemikernelError(.invalidArgument, "a packet socket's ring holds between 16 and 16,384 frames") }
        guard 68...65_535 ~= mtu else { throw DemikernelError(.invalidArgument, "an MTU is between 68 and 65,535 bytes") }
        guard !interface.isEmpty, interface.utf8.count <= NetworkInterface.nameMaximum else {
            throw DemikernelError(.invalidArgument, "an interface's name has between 1 and 15 bytes")
        }
    }
}

/// How the rings of a packet socket lie in memory: the receive ring, then the transmit ring, in frames of one size, one after the other.
struct PacketRingLayout: BitwiseCopyable {
    /// Bytes of a frame with its headers, a power of two.
    let frameSize: Int
    /// Frames of a ring, a power of two.
    let frames: Int
    /// Bytes of a block, within which the kernel's memory is contiguous: a power of two of at least a page, a whole number of frames.
    let blockSize: Int

    /// Frames before which the kernel puts its header, an address and padding, and virtio's.
    private static var overhead: Int { 128 }

    /// For frames of up to `frameMaximum` bytes; longer ones, which only a local kernel peer makes, come another way.
    init(frameMaximum: Int, ringSize: Int) {
        frameSize = Self.powerOfTwo(frameMaximum + Self.overhead)
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        let least = max(page, frameSize)
        frames = max(Self.powerOfTwo(ringSize), least / frameSize)
        blockSize = max(least, min(frames * frameSize, 65_536))
    }

    var byteCount: Int { frames * frameSize }

    private static func powerOfTwo(_ number: Int) -> Int { 1 << (Int.bitWidth - (number - 1).leadingZeroBitCount) }
}
