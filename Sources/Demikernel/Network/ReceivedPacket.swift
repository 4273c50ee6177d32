/// A packet for a transport: its headers below are checked, its addresses known.
///
/// Plain data; whoever holds it holds the frame's reference.
package struct ReceivedPacket: BitwiseCopyable {
    /// From the transport header to the end of its payload: padding is trimmed. The network header lies in front of it, see
    /// ``networkHeaderBytes``.
    package var frame: Segment
    package var source: IPAddress
    package var destination: IPAddress
    /// The network header (and IPv6's extension headers) in front of `frame`, in bytes.
    package var networkHeaderBytes: UInt16
    /// Differentiated services in the upper six bits, ECN in the lower two.
    package var traffic: UInt8
    package var hopLimit: UInt8
    /// The device, or a peer in the same machine, vouches for the transport checksum.
    package var checksumIsValid: Bool
    /// To more than one station: broadcast or multicast, of Ethernet or IP. Never answered by an error.
    package var isBroadcast: Bool
    package var linkSource: MACAddress

    @inline(__always) package init(
        frame: Segment, source: IPAddress, destination: IPAddress, networkHeaderBytes: UInt16, traffic: UInt8, hopLimit: UInt8,
        checksumIsValid: Bool, isBroadcast: Bool, linkSource: MACAddress
    ) {
        self.frame = frame
        self.source = source
        self.destination = destination
        self.networkHeaderBytes = networkHeaderBytes
        self.traffic = traffic
        self.hopLimit = hopLimit
        self.checksumIsValid = checksumIsValid
        self.isBroadcast = isBroadcast
        self.linkSource = linkSource
    }

    /// No packet.
    @inline(__always) package static var none: ReceivedPacket {
        ReceivedPacket(
            frame: .null, source: .ipv4Unspecified, destination: .ipv4Unspecified, networkHeaderBytes: 0, traffic: 0, hopLimit: 0,
            checksumIsValid: false, isBroadcast: false, linkSource: .zero)
    }
}

extension Segment {
    /// The segment's bytes for the views of `Wire`, for as long as the caller holds its reference. Not null.
    @inline(__always) package var packet: PacketBytes { unsafe PacketBytes(start: start, count: byteCount) }
}

// MARK: - Socket addresses

extension IPAddress {
    /// The address without its port.
    @inline(__always) package init(_ address: SocketAddress) {
        if address.family == .ipv4 {
            self.init(ipv4: UInt32(truncatingIfNeeded: address.low))
        } else {
            self.init(high: address.high, low: address.low)
        }
    }
}

extension SocketAddress {
    /// An address of the stack with a port, in the family's own form.
    @inline(__always) package init(_ address: IPAddress, port: UInt16) {
        self = address.isIPv4 ? .ipv4(address.ipv4, port: port) : .ipv6(address.high, address.low, port: port)
    }
}
