/// The way to a destination: what a connection keeps, so that sending looks nothing up.
///
/// Plain data. `NetworkLayer.send` brings it up to date when it no longer is (`epoch`).
package struct NetworkPath: BitwiseCopyable {
    package var source: IPAddress
    /// Where packets go: what was asked for, or this host's loopback address for 0.0.0.0 and ::.
    package var destination: IPAddress
    /// The unfolded sum of both addresses, for the pseudo-header: the protocol and the length are to be added.
    package var pseudoHeaderSum: UInt64
    /// The next hop's slot in the neighbour table, or one of the kinds below.
    package var neighbour: UInt32
    package var epoch: UInt32
    /// The largest packet that the path takes, IP header included.
    package var mtu: UInt16
    package var isIPv4: Bool

    static var local: UInt32 { .max }
    static var broadcast: UInt32 { .max - 1 }
    static var multicast: UInt32 { .max - 2 }

    /// To this host itself.
    @inline(__always) package var isLocal: Bool { neighbour == NetworkPath.local }
    /// To more than one station.
    @inline(__always) package var isBroadcast: Bool { neighbour == NetworkPath.broadcast || neighbour == NetworkPath.multicast }
    /// The IP header, in bytes: 20 or 40.
    @inline(__always) package var headerBytes: Int { isIPv4 ? 20 : 40 }
    /// What a transport can send at once, its header included.
    @inline(__always) package var transportBytesMaximum: Int { Int(mtu) &- headerBytes }

    /// No path: the epoch is never current.
    @inline(__always) package static var none: NetworkPath {
        NetworkPath(
            source: .ipv4Unspecified, destination: .ipv4Unspecified, pseudoHeaderSum: 0, neighbour: NetworkPath.local, epoch: 0, mtu: 0,
            isIPv4: true)
    }

    /// The unfolded sum of the pseudo-header of `length` bytes of `ipProtocol`. Complement its fold for the checksum field of a frame whose
    /// checksum the device completes.
    @inline(__always) package func pseudoHeader(_ ipProtocol: IPProtocol, length: Int) -> UInt64 {
        pseudoHeaderSum &+ UInt64((UInt32(ipProtocol.rawValue) &+ UInt32(truncatingIfNeeded: length)).bigEndian)
    }
}
