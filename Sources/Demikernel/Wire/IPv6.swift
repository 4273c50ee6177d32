/// An IPv6 packet as it lies in a frame. RFC 8200, section 3.
package struct IPv6HeaderView: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where this is not version 6, or the packet is longer than what is there, or an address is an IPv4-mapped one, which here would
    /// pass for an IPv4 address (RFC 4942, section 2.2). What follows the packet (the frame's padding) is no part of it. Jumbograms
    /// (RFC 2675) are not spoken: their length of 0 is taken as it stands.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        guard bytes.count >= IPv6Header.byteCount, bytes.load8(0) &>> 4 == 6 else { return nil }
        guard Int(bytes.load16(4)) <= bytes.count &- IPv6Header.byteCount else { return nil }
        guard !bytes.loadIPv6(8).isIPv4, !bytes.loadIPv6(24).isIPv4 else { return nil }
        self.bytes = bytes
    }

    @inline(__always) private var trafficClass: UInt8 { UInt8(truncatingIfNeeded: bytes.load16(0) &>> 4) }
    @inline(__always) package var differentiatedServices: UInt8 { trafficClass &>> 2 }
    @inline(__always) package var ecn: ECN { ECN(lowBitsOf: trafficClass) }
    /// 20 bits.
    @inline(__always) package var flowLabel: UInt32 { bytes.load32(0) & 0xf_ffff }
    /// What follows the 40 bytes, extension headers included.
    @inline(__always) package var payloadLength: Int { Int(bytes.load16(4)) }
    @inline(__always) package var nextHeader: IPProtocol { IPProtocol(rawValue: bytes.load8(6)) }
    @inline(__always) package var hopLimit: UInt8 { bytes.load8(7) }
    @inline(__always) package var source: IPAddress { bytes.loadIPv6(8) }
    @inline(__always) package var destination: IPAddress { bytes.loadIPv6(24) }
    @inline(__always) package var payload: PacketBytes { bytes.slice(IPv6Header.byteCount, payloadLength) }
}

/// An IPv6 header.
package struct IPv6Header: BitwiseCopyable, Hashable, Sendable {
    package var source: IPAddress
    package var destination: IPAddress
    package var nextHeader: IPProtocol
    package var hopLimit: UInt8
    private var payloadBytes: UInt16
    // Version, traffic class and flow label, as they lie in the header.
    private var first: UInt32

    /// - Parameters:
    ///   - payloadLength: what follows the header, 0 ... 65,535 bytes.
    ///   - flowLabel: the low 20 bits count.
    ///   - differentiatedServices: the low 6 bits count.
    @inline(__always)
    package init(
        source: IPAddress, destination: IPAddress, nextHeader: IPProtocol, payloadLength: Int, hopLimit: UInt8 = 64, flowLabel: UInt32 = 0,
        differentiatedServices: UInt8 = 0, ecn: ECN = .notCapable
    ) {
        assert(payloadLength >= 0 && payloadLength <= 65_535)
        assert(!source.isIPv4 && !destination.isIPv4)
        self.source = source
        self.destination = destination
        self.nextHeader = nextHeader
        self.hopLimit = hopLimit
        payloadBytes = UInt16(truncatingIfNeeded: payloadLength)
        let trafficClass = differentiatedServices &<< 2 | ecn.rawValue
        first = 0x6000_0000 | UInt32(trafficClass) &<< 20 | flowLabel & 0xf_ffff
    }

    @inline(__always) package init(_ view: IPv6HeaderView) {
        self.init(
            source: view.source, destination: view.destination, nextHeader: view.nextHeader, payloadLength: view.payloadLength,
            hopLimit: view.hopLimit, flowLabel: view.flowLabel, differentiatedServices: view.differentiatedServices, ecn: view.ecn)
    }

    /// 40.
    @inline(__always) package static var byteCount: Int { 40 }
    @inline(__always) package var byteCount: Int { 40 }
    /// Every link carries packets of this size. RFC 8200, section 5.
    @inline(__always) package static var linkMTUMinimum: Int { 1280 }

    @inline(__always) package var differentiatedServices: UInt8 { UInt8(truncatingIfNeeded: first &>> 22) & 0x3f }
    @inline(__always) package var ecn: ECN {
        get { ECN(lowBitsOf: UInt8(truncatingIfNeeded: first &>> 20)) }
        set { first = first & ~0x30_0000 | UInt32(newValue.rawValue) &<< 20 }
    }
    @inline(__always) package var flowLabel: UInt32 { first & 0xf_ffff }
    /// What follows the header, 0 ... 65,535 bytes.
    @inline(__always) package var payloadLength: Int {
        get { Int(payloadBytes) }
        set {
            assert(newValue >= 0 && newValue <= 65_535)
            payloadBytes = UInt16(truncatingIfNeeded: newValue)
        }
    }

    /// Writes the 40 bytes to the start of `bytes`.
    @inline(__always) package func emit(into bytes: PacketBytes) {
        bytes.store32(first, at: 0)
        bytes.store32(UInt32(payloadBytes) &<< 16 | UInt32(nextHeader.rawValue) &<< 8 | UInt32(hopLimit), at: 4)
        bytes.storeIPv6(source, at: 8)
        bytes.storeIPv6(destination, at: 24)
    }
}

// MARK: - Fragment header

/// An IPv6 fragment header as it lies in a packet. RFC 8200, section 4.5.
package struct IPv6FragmentHeaderView: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where there are less than 8 bytes.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        guard bytes.count >= IPv6FragmentHeader.byteCount else { return nil }
        self.bytes = bytes
    }

    @inline(__always) package var nextHeader: IPProtocol { IPProtocol(rawValue: bytes.load8(0)) }
    /// In bytes, a multiple of 8.
    @inline(__always) package var fragmentOffset: Int { Int(bytes.load16(2) & 0xfff8) }
    @inline(__always) package var moreFragments: Bool { bytes.load8(3) & 1 == 1 }
    @inline(__always) package var identification: UInt32 { bytes.load32(4) }
}

/// An IPv6 fragment header.
package struct IPv6FragmentHeader: BitwiseCopyable, Hashable, Sendable {
    /// What the fragmentable part begins with.
    package var nextHeader: IPProtocol
    package var moreFragments: Bool
    package var identification: UInt32
    private var offset: UInt16

    /// `fragmentOffset` is in bytes, a multiple of 8 up to 65,528.
    @inline(__always) package init(nextHeader: IPProtocol, fragmentOffset: Int, moreFragments: Bool, identification: UInt32) {
        assert(fragmentOffset >= 0 && fragmentOffset <= 65_528 && fragmentOffset % 8 == 0)
        self.nextHeader = nextHeader
        self.moreFragments = moreFragments
        self.identification = identification
        offset = UInt16(truncatingIfNeeded: fragmentOffset) & 0xfff8
    }

    @inline(__always) package init(_ view: IPv6FragmentHeaderView) {
        self.init(
            nextHeader: view.nextHeader, fragmentOffset: view.fragmentOffset, moreFragments: view.moreFragments,
            identification: view.identification)
    }

    /// 8.
    @inline(__always) package static var byteCount: Int { 8 }
    @inline(__always) package var byteCount: Int { 8 }
    @inline(__always) package var fragmentOffset: Int { Int(offset) }
    /// Whether this is a whole datagram with a fragment header, to be taken in by itself. RFC 6946.
    @inline(__always) package var isAtomic: Bool { offset == 0 && !moreFragments }

    /// Writes the 8 bytes to the start of `bytes`.
    @inline(__always) package func emit(into bytes: PacketBytes) {
        bytes.store32(UInt32(nextHeader.rawValue) &<< 24 | UInt32(offset) | (moreFragments ? 1 : 0), at: 0)
        bytes.store32(identification, at: 4)
    }
}
