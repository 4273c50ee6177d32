import SystemPackage

/// What an ``XDPDevice`` is told when it is opened.
package struct XDPConfiguration: Sendable {
    /// The interface, by name.
    package var interface: String
    /// The network namespace of the interface: a path, or a name of `ip netns`; empty for the thread's own.
    package var namespace = ""
    /// Our Ethernet address, 48 bits in host order; nil for the interface's.
    package var address: UInt64?
    /// The largest IP packet to send, in bytes; the interface's where that is smaller.
    package var mtu = 1_500
    /// Where frames are taken from the driver.
    package var mode = Configuration.Catpowder.XDPMode.auto
    /// Receive queues of the interface, from the first: 1...16, and all that it has.
    package var queues = 1
    /// Frames that a ring holds: 16...16,384, rounded up to a power of two.
    package var ringSize = 1_024
    /// Bytes of the heap, from its start, that are registered with the kernel, in whole groups of 2 MiB; all of it where it is smaller.
    package var memory = 32 << 20
    /// Also takes frames to other stations in: for a device that reflects, or that watches.
    package var takesAll = false
    /// Whether a frame in several segments goes in as many descriptors, where the kernel takes that; nil for only where the card reads them itself.
    package var transmitsSegments: Bool?

    package init(interface: String) { self.interface = interface }

    func validate() throws(XDPFailure) {
        guard 1...16 ~= queues else { throw XDPFailure(.invalidArgument, "an AF_XDP device has between 1 and 16 queues") }
        guard 16...16_384 ~= ringSize else { throw XDPFailure(.invalidArgument, "an AF_XDP ring holds between 16 and 16,384 frames") }
        guard 68...65_535 ~= mtu else { throw XDPFailure(.invalidArgument, "an MTU is between 68 and 65,535 bytes") }
        guard !interface.isEmpty, interface.utf8.count <= NetworkInterface.nameMaximum else {
            throw XDPFailure(.invalidArgument, "an interface's name has between 1 and 15 bytes")
        }
    }

    /// Entries of each ring.
    var ringEntries: Int { 1 << (Int.bitWidth - (ringSize - 1).leadingZeroBitCount) }
}

/// Why an AF_XDP device cannot be opened: an error, and what the kernel said besides, such as the verifier's log.
package struct XDPFailure: Error, CustomStringConvertible {
    package let error: DemikernelError
    package let detail: String

    init(_ errno: Errno, _ reason: StaticString, detail: String = "") {
        error = DemikernelError(errno, reason)
        self.detail = detail
    }

    init(_ error: DemikernelError) {
        self.error = error
        detail = ""
    }

    var errno: Errno { error.errno }
    package var description: String { detail.isEmpty ? error.reason : "\(error.reason): \(detail)" }

    /// Throws where a system call has answered a negative errno.
    static func check(_ result: Int, _ reason: StaticString) throws(XDPFailure) {
        if result < 0 { throw XDPFailure(.negated(result), reason) }
    }

    /// Runs what throws a plain error.
    static func wrapping<Result: ~Copyable>(_ body: () throws(DemikernelError) -> Result) throws(XDPFailure) -> Result {
        do throws(DemikernelError) { return try body() } catch { throw XDPFailure(error) }
    }
}
