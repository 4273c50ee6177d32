/// An ARP packet as it lies behind an Ethernet header, IPv4 over Ethernet alone. RFC 826.
package struct ARPPacketView: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where the packet is shorter than 28 bytes, is not about IPv4 over Ethernet, or is neither request nor reply.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        // Hardware type 1, protocol type IPv4, address lengths 6 and 4, in one comparison.
        guard bytes.count >= ARPPacket.byteCount, bytes.load64(0) &>> 16 == 0x0001_0800_0604 else { return nil }
        guard ARPPacket.Operation(rawValue: bytes.load16(6)) != nil else { return nil }
        self.bytes = bytes
    }

    @inline(__always) package var operation: ARPPacket.Operation { bytes.load16(6) == 1 ? .request : .reply }
    @inline(__always) package var senderHardwareAddress: MACAddress { bytes.loadMAC(8) }
    @inline(__always) package var senderProtocolAddress: UInt32 { bytes.load32(14) }
    @inline(__always) package var targetHardwareAddress: MACAddress { bytes.loadMAC(18) }
    @inline(__always) package var targetProtocolAddress: UInt32 { bytes.load32(24) }
}

/// An ARP request or reply about IPv4 over Ethernet. RFC 826. Protocol addresses are in host order.
package struct ARPPacket: BitwiseCopyable, Hashable, Sendable {
    package enum Operation: UInt16, BitwiseCopyable, Sendable {
        case request = 1
        case reply = 2
    }

    package var operation: Operation
    package var senderHardwareAddress: MACAddress
    package var senderProtocolAddress: UInt32
    package var targetHardwareAddress: MACAddress
    package var targetProtocolAddress: UInt32

    @inline(__always)
    package init(
        operation: Operation, senderHardwareAddress: MACAddress, senderProtocolAddress: UInt32, targetHardwareAddress: MACAddress,
        targetProtocolAddress: UInt32
    ) {
        self.operation = operation
        self.senderHardwareAddress = senderHardwareAddress
        self.senderProtocolAddress = senderProtocolAddress
        self.targetHardwareAddress = targetHardwareAddress
        self.targetProtocolAddress = targetProtocolAddress
    }

    @inline(__always) package init(_ view: ARPPacketView) {
        self.init(
            operation: view.operation, senderHardwareAddress: view.senderHardwareAddress,
            senderProtocolAddress: view.senderProtocolAddress, targetHardwareAddress: view.targetHardwareAddress,
            targetProtocolAddress: view.targetProtocolAddress)
    }

    /// 28.
    @inline(__always) package static var byteCount: Int { 28 }

    /// Asks who has `target`.
    package static func request(for target: UInt32, from hardwareAddress: MACAddress, _ protocolAddress: UInt32) -> ARPPacket {
        ARPPacket(
            operation: .request, senderHardwareAddress: hardwareAddress, senderProtocolAddress: protocolAddress,
            targetHardwareAddress: .zero, targetProtocolAddress: target)
    }

    /// The reply of the station `hardwareAddress`, which has the address that this request asks for.
    package func reply(from hardwareAddress: MACAddress) -> ARPPacket {
        ARPPacket(
            operation: .reply, senderHardwareAddress: hardwareAddress, senderProtocolAddress: targetProtocolAddress,
            targetHardwareAddress: senderHardwareAddress, targetProtocolAddress: senderProtocolAddress)
    }

    /// Asks whether anybody has `address`, without claiming it. RFC 5227, section 2.1.1.
    package static func probe(for address: UInt32, from hardwareAddress: MACAddress) -> ARPPacket {
        request(for: address, from: hardwareAddress, 0)
    }

    /// Claims `address`: a gratuitous request. RFC 5227, section 2.3.
    package static func announcement(of address: UInt32, from hardwareAddress: MACAddress) -> ARPPacket {
        request(for: address, from: hardwareAddress, address)
    }

    /// Whether the sender has no address yet, so that nothing may be learnt. RFC 5227, section 2.1.1.
    @inline(__always) package var isProbe: Bool { operation == .request && senderProtocolAddress == 0 }
    /// Whether the sender speaks of itself: an announcement or a gratuitous reply.
    @inline(__always) package var isGratuitous: Bool { senderProtocolAddress == targetProtocolAddress && senderProtocolAddress != 0 }

    /// Writes the 28 bytes to the start of `bytes`.
    @inline(__always) package func emit(into bytes: PacketBytes) {
        bytes.store64(0x0001_0800_0604_0000 | UInt64(operation.rawValue), at: 0)
        bytes.storeMAC(senderHardwareAddress, at: 8)
        bytes.store32(senderProtocolAddress, at: 14)
        bytes.storeMAC(targetHardwareAddress, at: 18)
        bytes.store32(targetProtocolAddress, at: 24)
    }
}
