import TestSupport
@testable import Demikernel

// Frames as other stations of the link send them.

/// A station beside the host, and a host behind the gateway.
enum Peer {
    static var mac: MACAddress { MACAddress(0x0200_0000_0002) }
    static var v4: IPAddress { IPAddress("10.0.0.2")! }
    static var v6: IPAddress { IPAddress("fd00::2")! }
    static var far: IPAddress { IPAddress("192.0.2.9")! }
}

func ethernet(
    _ type: EtherType, _ payload: [UInt8], from source: MACAddress = Peer.mac, to destination: MACAddress = NetworkHost.mac,
    tag: VLANTag? = nil
) -> [UInt8] {
    let header = EthernetHeader(destination: destination, source: source, etherType: type, tag: tag)
    return written(header.byteCount) { header.emit(into: $0) } + payload
}

func arp(
    _ operation: ARPPacket.Operation, from mac: MACAddress = Peer.mac, _ address: IPAddress = Peer.v4, to target: MACAddress = .zero,
    _ targetAddress: IPAddress, link: MACAddress? = nil, linkTarget: MACAddress? = nil
) -> [UInt8] {
    let packet = ARPPacket(
        operation: operation, senderHardwareAddress: mac, senderProtocolAddress: address.ipv4, targetHardwareAddress: target,
        targetProtocolAddress: targetAddress.ipv4)
    return ethernet(
        .arp, written(ARPPacket.byteCount) { packet.emit(into: $0) }, from: link ?? mac,
        to: linkTarget ?? (operation == .request ? .broadcast : target))
}

func ipv4(
    _ ipProtocol: IPProtocol, _ payload: [UInt8], from source: IPAddress = Peer.v4, to destination: IPAddress = NetworkHost.v4,
    identification: UInt16 = 7, offset: Int = 0, more: Bool = false, dontFragment: Bool = false, timeToLive: UInt8 = 64,
    options: [UInt8] = [], ecn: ECN = .notCapable
) -> [UInt8] {
    let header = IPv4Header(
        source: source.ipv4, destination: destination.ipv4, ipProtocol: ipProtocol, payloadLength: payload.count + options.count,
        timeToLive: timeToLive, identification: identification, dontFragment: dontFragment, moreFragments: more, fragmentOffset: offset,
        ecn: ecn)
    var bytes = written(20) { header.emit(into: $0) } + options
    if !options.isEmpty {
        bytes[0] = 0x40 | UInt8(5 + options.count / 4)
        bytes[10] = 0
        bytes[11] = 0
        let checksum = referenceChecksum(bytes)
        bytes[10] = UInt8(checksum >> 8)
        bytes[11] = UInt8(checksum & 0xff)
    }
    return bytes + payload
}

func ipv6(
    _ next: IPProtocol, _ payload: [UInt8], from source: IPAddress = Peer.v6, to destination: IPAddress = NetworkHost.v6, hopLimit: UInt8 = 64
) -> [UInt8] {
    let header = IPv6Header(source: source, destination: destination, nextHeader: next, payloadLength: payload.count, hopLimit: hopLimit)
    return written(40) { header.emit(into: $0) } + payload
}

func udp(
    _ payload: [UInt8], from source: IPAddress = Peer.v4, _ sourcePort: UInt16 = 2000, to destination: IPAddress = NetworkHost.v4,
    _ port: UInt16 = 1000
) -> [UInt8] {
    let header = UDPHeader(sourcePort: sourcePort, destinationPort: port, payloadLength: payload.count)
    let pseudo = InternetChecksum.pseudoHeader(
        source: source, destination: destination, ipProtocol: .udp, length: payload.count + 8)
    let sum = withPacket(payload) { InternetChecksum.sum($0) }
    return written(8) { header.emit(into: $0, checksum: header.checksum(payloadSum: sum, pseudoHeader: pseudo)) } + payload
}

/// A UDP datagram to the host, Ethernet header and all.
func datagram(
    _ payload: [UInt8], from source: IPAddress = Peer.v4, _ sourcePort: UInt16 = 2000, to destination: IPAddress? = nil, _ port: UInt16 = 1000,
    link: MACAddress = NetworkHost.mac
) -> [UInt8] {
    let target = destination ?? (source.isIPv4 ? NetworkHost.v4 : NetworkHost.v6)
    let content = udp(payload, from: source, sourcePort, to: target, port)
    return source.isIPv4
        ? ethernet(.ipv4, ipv4(.udp, content, from: source, to: target), to: link)
        : ethernet(.ipv6, ipv6(.udp, content, from: source, to: target), to: link)
}

func icmpv4(_ message: ICMPv4, _ payload: [UInt8] = []) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 8) + payload
    unsafe bytes.withUnsafeMutableBytes { message.emit(into: unsafe PacketBytes(start: $0.baseAddress!, count: $0.count)) }
    return bytes
}

func icmpv6(
    _ message: ICMPv6, _ payload: [UInt8] = [], from source: IPAddress = Peer.v6, to destination: IPAddress = NetworkHost.v6
) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 8) + payload
    unsafe bytes.withUnsafeMutableBytes {
        message.emit(into: unsafe PacketBytes(start: $0.baseAddress!, count: $0.count), source: source, destination: destination)
    }
    return bytes
}

func ndp(_ message: NDPMessage, from source: IPAddress, to destination: IPAddress, link: MACAddress, hopLimit: UInt8 = 255, mac: MACAddress)
    -> [UInt8]
{
    let content = written(message.byteCount) { message.emit(into: $0, source: source, destination: destination) }
    return ethernet(.ipv6, ipv6(.icmpv6, content, from: source, to: destination, hopLimit: hopLimit), from: mac, to: link)
}

func advertisement(
    of target: IPAddress, from mac: MACAddress, to destination: IPAddress, solicited: Bool, overrides: Bool = true, option: MACAddress? = nil,
    hopLimit: UInt8 = 255
) -> [UInt8] {
    let message = NDPMessage.neighbourAdvertisement(
        .init(target: target, isSolicited: solicited, overrides: overrides), NDPOptions(targetLinkLayerAddress: option ?? mac))
    let link = destination.isMulticast ? destination.multicastMACAddress : NetworkHost.mac
    return ndp(message, from: target, to: destination, link: link, hopLimit: hopLimit, mac: mac)
}

func solicitation(
    of target: IPAddress, from source: IPAddress, _ mac: MACAddress, to destination: IPAddress? = nil, hopLimit: UInt8 = 255,
    hasOption: Bool = true
) -> [UInt8] {
    let destination = destination ?? target.solicitedNodeMulticast
    let message = NDPMessage.neighbourSolicitation(target: target, NDPOptions(sourceLinkLayerAddress: hasOption ? mac : nil))
    let link = destination.isMulticast ? destination.multicastMACAddress : NetworkHost.mac
    return ndp(message, from: source, to: destination, link: link, hopLimit: hopLimit, mac: mac)
}

/// A payload that is different everywhere.
func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) } }
