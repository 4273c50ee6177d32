/// What an Ethernet frame carries. IEEE 802 numbers; values below 0x0600 are lengths of IEEE 802.3 frames, which nothing here speaks.
package struct EtherType: RawRepresentable, BitwiseCopyable, Hashable, Sendable {
    package let rawValue: UInt16
    @inline(__always) package init(rawValue: UInt16) { self.rawValue = rawValue }

    @inline(__always) package static var ipv4: EtherType { EtherType(rawValue: 0x0800) }
    @inline(__always) package static var arp: EtherType { EtherType(rawValue: 0x0806) }
    @inline(__always) package static var ipv6: EtherType { EtherType(rawValue: 0x86dd) }
    /// An IEEE 802.1Q tag, which the type proper follows.
    @inline(__always) package static var vlan: EtherType { EtherType(rawValue: 0x8100) }
}

/// An IEEE 802.1Q tag: the four bytes between the source address and the type proper.
package struct VLANTag: BitwiseCopyable, Hashable, Sendable {
    /// Priority code point in bits 13 ... 15, drop eligible indicator in bit 12, VLAN identifier below.
    package let control: UInt16

    @inline(__always) package init(control: UInt16) { self.control = control }

    /// Takes the low 3 bits of `priority` and the low 12 of `identifier`.
    @inline(__always) package init(priority: UInt8 = 0, dropEligible: Bool = false, identifier: UInt16) {
        control = UInt16(priority & 7) &<< 13 | (dropEligible ? 0x1000 : 0) | identifier & 0xfff
    }

    /// 0 ... 7.
    @inline(__always) package var priority: UInt8 { UInt8(truncatingIfNeeded: control &>> 13) }
    /// Whether the frame goes first where some have to.
    @inline(__always) package var dropEligible: Bool { control & 0x1000 != 0 }
    /// 0 ... 4,095. 0: no VLAN, a priority alone.
    @inline(__always) package var identifier: UInt16 { control & 0xfff }

    /// 4.
    @inline(__always) package static var byteCount: Int { 4 }
}

/// An Ethernet II header as it lies in a frame, with an 802.1Q tag where there is one.
package struct EthernetHeaderView: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where the frame is shorter than the header and the tag that it announces.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        guard bytes.count >= EthernetHeader.byteCount else { return nil }
        if bytes.load16(12) == EtherType.vlan.rawValue {
            guard bytes.count >= EthernetHeader.byteCount &+ VLANTag.byteCount else { return nil }
        }
        self.bytes = bytes
    }

    // One load of eight bytes each, two of which are another field's.
    @inline(__always) package var destination: MACAddress { MACAddress(bytes.load64(0) &>> 16) }
    @inline(__always) package var source: MACAddress { MACAddress(bytes.load64(6) &>> 16) }

    /// Whether an 802.1Q tag follows the addresses.
    @inline(__always) package var isTagged: Bool { bytes.load16(12) == EtherType.vlan.rawValue }
    @inline(__always) package var tag: VLANTag? { isTagged ? VLANTag(control: bytes.load16(14)) : nil }
    /// The payload's type: the one behind the tag where there is a tag.
    @inline(__always) package var etherType: EtherType { EtherType(rawValue: bytes.load16(isTagged ? 16 : 12)) }
    /// 14, or 18 with a tag.
    @inline(__always) package var headerLength: Int { isTagged ? 18 : 14 }
    /// What follows the header, padding included.
    @inline(__always) package var payload: PacketBytes { bytes.slice(from: headerLength) }
}

/// An Ethernet II header. The frame check sequence is the device's.
package struct EthernetHeader: BitwiseCopyable, Hashable, Sendable {
    package var destination: MACAddress
    package var source: MACAddress
    package var etherType: EtherType
    package var tag: VLANTag?

    @inline(__always) package init(destination: MACAddress, source: MACAddress, etherType: EtherType, tag: VLANTag? = nil) {
        self.destination = destination
        self.source = source
        self.etherType = etherType
        self.tag = tag
    }

    @inline(__always) package init(_ view: EthernetHeaderView) {
        self.init(destination: view.destination, source: view.source, etherType: view.etherType, tag: view.tag)
    }

    /// 14: without a tag.
    @inline(__always) package static var byteCount: Int { 14 }
    /// A frame shorter than this, without its check sequence, is padded on a real wire.
    @inline(__always) package static var frameByteCountMinimum: Int { 60 }

    /// 14, or 18 with a tag.
    @inline(__always) package var byteCount: Int { tag == nil ? 14 : 18 }

    /// Writes the header to the start of `bytes`, which holds at least `byteCount`.
    @inline(__always) package func emit(into bytes: PacketBytes) {
        bytes.storeMAC(destination, at: 0)
        bytes.storeMAC(source, at: 6)
        if let tag {
            bytes.store16(EtherType.vlan.rawValue, at: 12)
            bytes.store16(tag.control, at: 14)
            bytes.store16(etherType.rawValue, at: 16)
        } else {
            bytes.store16(etherType.rawValue, at: 12)
        }
    }
}
