import CDemikernelShims
import Glibc

/// Settings of a ``MemifDevice``.
package struct MemifConfiguration: Sendable, Equatable {
    /// Who listens on the socket (memif's master), and who connects to it and brings the shared memory (its slave).
    package enum Role: String, Sendable, CaseIterable {
        case server
        case client
    }

    package var role: Role
    /// The Unix socket's path, up to 107 bytes; a name in the abstract namespace where it begins with `@`.
    package var socketPath: String
    /// Both ends name the same number.
    package var interfaceIdentifier: UInt32 = 0
    /// Up to 24 bytes, which a client has to know where the server has one.
    package var secret = ""
    /// Rings in each direction, 1...16; the server's is a limit.
    package var rings = 1
    /// Descriptors of a ring: a power of two, 2...16,384. The client decides, within the server's limit.
    package var ringSize = 1024
    /// Bytes of a buffer, 64...65,536; longer frames take several. The client decides. (A DPDK server ignores it and assumes 2,048.)
    package var bufferSize = 2048
    /// The largest IP packet, 68...65,535 bytes.
    package var mtu = 1500
    /// Our Ethernet address, as ``NetworkDeviceCapabilities/address``.
    package var address: UInt64
    /// What the peer, messages and captures call this interface, up to 31 bytes.
    package var name = "memif0"

    package init(role: Role, socketPath: String, address: UInt64) {
        self.role = role
        self.socketPath = socketPath
        self.address = address
    }

    /// Throws EINVAL, or ENAMETOOLONG for the path, where something is out of bounds.
    func validate() throws(DemikernelError) {
        guard !socketPath.isEmpty else { throw DemikernelError(.invalidArgument, "a memif device needs the path of a socket") }
        guard socketPath.utf8.count <= 107 else { throw DemikernelError(.fileNameTooLong, "a socket's path has 107 bytes at most") }
        guard secret.utf8.count <= MemifMessage.secretByteCount else {
            throw DemikernelError(.invalidArgument, "a memif secret has 24 bytes at most")
        }
        guard 1...MemifLimits.ringsMaximum ~= rings else { throw DemikernelError(.invalidArgument, "memif rings: 1 to 16") }
        guard 2...MemifLimits.ringSizeMaximum ~= ringSize, ringSize & (ringSize - 1) == 0 else {
            throw DemikernelError(.invalidArgument, "memif ring size: a power of two, 2 to 16,384")
        }
        guard 64...65_536 ~= bufferSize else { throw DemikernelError(.invalidArgument, "memif buffer size: 64 to 65,536 bytes") }
        guard 68...65_535 ~= mtu else { throw DemikernelError(.invalidArgument, "an MTU is between 68 and 65,535 bytes") }
        guard MemifLayout(self).byteCount <= MemifLimits.regionByteCountMaximum else {
            throw DemikernelError(.invalidArgument, "memif rings times ring size times buffer size is above 1 GiB")
        }
        guard mtu + 18 <= (ringSize - 1) * bufferSize else {
            throw DemikernelError(.invalidArgument, "a frame of the MTU does not fit into a memif ring's buffers")
        }
    }
}

/// What we take from a peer at most: its word decides how much memory is mapped.
enum MemifLimits {
    static var ringsMaximum: Int { 16 }
    static var ringSizeLog2Maximum: Int { 14 }
    static var ringSizeMaximum: Int { 1 << ringSizeLog2Maximum }
    static var regionsMaximum: Int { 16 }
    static var regionByteCountMaximum: Int { 1 << 30 }
    /// A peer that connects and falls silent does not keep others out for longer.
    static var handshakeNanoseconds: UInt64 { 1_000_000_000 }
    static var reconnectNanoseconds: UInt64 { 100_000_000 }
    /// How often the control socket is looked at, connected and not.
    static var idleNanoseconds: UInt64 { 2_000_000 }
    static var handshakePollNanoseconds: UInt64 { 200_000 }
    /// Messages taken at one time.
    static var messagesMaximum: Int { 64 }
}

/// Where a client puts rings and buffers in its one region.
struct MemifLayout {
    let rings: Int
    let ringSize: Int
    let bufferSize: Int

    init(_ configuration: MemifConfiguration) {
        self.init(rings: configuration.rings, ringSize: configuration.ringSize, bufferSize: configuration.bufferSize)
    }

    init(rings: Int, ringSize: Int, bufferSize: Int) {
        self.rings = rings
        self.ringSize = ringSize
        self.bufferSize = bufferSize
    }

    /// A ring with its descriptors, in whole cache lines.
    var ringByteCount: Int { (MemifRingLayout.descriptors + ringSize * MemifRingLayout.descriptorByteCount + 63) & ~63 }
    /// From one buffer to the next: a cache line more than a power of two, so that the frames' first bytes do not all fall into the same
    /// few sets of the cache.
    var stride: Int { (bufferSize + 63) & ~63 + 64 }
    var buffersOffset: Int { (2 * rings * ringByteCount + 4095) & ~4095 }
    var byteCount: Int { (buffersOffset + 2 * rings * ringSize * stride + 4095) & ~4095 }

    func ringOffset(_ index: Int, toServer: Bool) -> Int { (toServer ? index : rings + index) * ringByteCount }
    func bufferOffset(_ index: Int, toServer: Bool) -> Int { buffersOffset + (toServer ? index : rings + index) * ringSize * stride }
}
