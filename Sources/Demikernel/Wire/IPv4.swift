/// An IPv4 packet as it lies in a frame. RFC 791, section 3.1.
package struct IPv4HeaderView: BitwiseCopyable {
    package let bytes: PacketBytes

    /// Fails where this is not version 4, or header or packet are longer than what is there, or the packet is shorter than its header. What
    /// follows the packet (the frame's padding) is no part of it. The checksum is `checksumIsValid`'s.
    @inline(__always) package init?(_ bytes: PacketBytes) {
        guard bytes.count >= IPv4Header.byteCount else { return nil }
        let first = bytes.load8(0)
        let headerLength = Int(first & 0xf) &* 4
        let totalLength = Int(bytes.load16(2))
        guard first &>> 4 == 4, headerLength >= IPv4Header.byteCount, headerLength <= totalLength, totalLength <= bytes.count else {
            return nil
        }
        self.bytes = bytes
    }

    /// 20 ... 60: options included.
    @inline(__always) package var headerLength: Int { Int(bytes.load8(0) & 0xf) &* 4 }
    @inline(__always) package var hasOptions: Bool { bytes.load8(0) & 0xf != 5 }
    @inline(__always) package var differentiatedServices: UInt8 { bytes.load8(1) &>> 2 }
    @inline(__always) package var ecn: ECN { ECN(lowBitsOf: bytes.load8(1)) }
    /// Header and payload, in bytes.
    @inline(__always) package var totalLength: Int { Int(bytes.load16(2)) }
    @inline(__always) package var payloadLength: Int { totalLength &- headerLength }
    @inline(__always) package var identification: UInt16 { bytes.load16(4) }
    @inline(__always) package var dontFragment: Bool { bytes.load16(6) & 0x4000 != 0 }
    @inline(__always) package var moreFragments: Bool { bytes.load16(6) & 0x2000 != 0 }
    /// Where the payload belongs in the datagram, in bytes: a multiple of 8.
    @inline(__always) package var fragmentOffset: Int { Int(bytes.load16(6) & 0x1fff) &* 8 }
    /// Whether this is a part of a datagram.
    @inline(__always) package var isFragment: Bool { bytes.load16(6) & 0x3fff != 0 }
    @inline(__always) package var timeToLive: UInt8 { bytes.load8(8) }
    @inline(__always) package var ipProtocol: IPProtocol { IPProtocol(rawValue: bytes.load8(9)) }
    @inline(__always) package var checksum: UInt16 { bytes.load16(10) }
    /// In host order.
    @inline(__always) package var source: UInt32 { bytes.load32(12) }
    /// In host order.
    @inline(__always) package var destination: UInt32 { bytes.load32(16) }
    @inline(__always) package var sourceAddress: IPAddress { IPAddress(ipv4: source) }
    @inline(__always) package var destinationAddress: IPAddress { IPAddress(ipv4: destination) }

    @inline(__always) package var options: PacketBytes { bytes.slice(IPv4Header.byteCount, headerLength &- IPv4Header.byteCount) }
    @inline(__always) package var payload: PacketBytes { bytes.slice(headerLength, payloadLength) }

    /// Whether the checksum agrees with the header, options included.
    @inline(__always) package var checksumIsValid: Bool {
        hasOptions
            ? InternetChecksum.isValid(InternetChecksum.sum(bytes.slice(0, headerLength)))
            : InternetChecksum.isValid(InternetChecksum.sum20(bytes))
    }
}

/// An IPv4 header without options.
package struct IPv4Header: BitwiseCopyable, Hashable, Sendable {
    /// In host order.
    package var source: UInt32
    /// In host order.
    package var destination: UInt32
    package var ipProtocol: IPProtocol
    package var timeToLive: UInt8
    package var identification: UInt16
    package var dontFragment: Bool
    package var moreFragments: Bool
    private var fragmentUnits: UInt16
    private var trafficClass: UInt8
    private var payloadBytes: UInt16

    /// - Parameters:
    ///   - payloadLength: what follows the header, 0 ... 65,515 bytes.
    ///   - fragmentOffset: in bytes, a multiple of 8 up to 65,528.
    @inline(__always)
    package init(
        source: UInt32, destination: UInt32, ipProtocol: IPProtocol, payloadLength: Int, timeToLive: UInt8 = 64, identification: UInt16 = 0,
        dontFragment: Bool = true, moreFragments: Bool = false, fragmentOffset: Int = 0, differentiatedServices: UInt8 = 0,
        ecn: ECN = .notCapable
    ) {
        assert(payloadLength >= 0 && payloadLength <= Self.payloadLengthMaximum)
        assert(fragmentOffset >= 0 && fragmentOffset <= 65_528 && fragmentOffset % 8 == 0)
        self.source = source
        self.destination = destination
        self.ipProtocol = ipProtocol
        self.timeToLive = timeToLive
        self.identification = identification
        self.dontFragment = dontFragment
        self.moreFragments = moreFragments
        fragmentUnits = UInt16(truncatingIfNeeded: fragmentOffset &>> 3) & 0x1fff
        trafficClass = differentiatedServices &<< 2 | ecn.rawValue
        payloadBytes = UInt16(truncatingIfNeeded: payloadLength)
    }

    /// The header's fields; its options are dropped.
    @inline(__always) package init(_ view: IPv4HeaderView) {
        self.init(
            source: view.source, destination: view.destination, ipProtocol: view.ipProtocol, payloadLength: view.payloadLength,
            timeToLive: view.timeToLive, identification: view.identification, dontFragment: view.dontFragment,
            moreFragments: view.moreFragments, fragmentOffset: view.fragmentOffset, differentiatedServices: view.differentiatedServices,
            ecn: view.ecn)
    }

    /// 20: without options.
    @inline(__always) package static var byteCount: Int { 20 }
    @inline(__always) package var byteCount: Int { 20 }
    @inline(__always) package static var payloadLengthMaximum: Int { 65_515 }

    @inline(__always) package var sourceAddress: IPAddress { IPAddress(ipv4: source) }
    @inline(__always) package var destinationAddress: IPAddress { IPAddress(ipv4: destination) }
    @inline(__always) package var differentiatedServices: UInt8 { trafficClass &>> 2 }
    @inline(__always) package var ecn: ECN {
        get { ECN(lowBitsOf: trafficClass) }
        set { trafficClass = trafficClass & 0xfc | newValue.rawValue }
    }
    /// In bytes, a multiple of 8.
    @inline(__always) package var fragmentOffset: Int {
        get { Int(fragmentUnits) &* 8 }
        set {
            assert(newValue >= 0 && newValue <= 65_528 && newValue % 8 == 0)
            fragmentUnits = UInt16(truncatingIfNeeded: newValue &>> 3) & 0x1fff
        }
    }
    /// What follows the header, 0 ... 65,515 bytes.
    @inline(__always) package var payloadLength: Int {
        get { Int(payloadBytes) }
        set {
            assert(newValue >= 0 && newValue <= Self.payloadLengthMaximum)
            payloadBytes = UInt16(truncatingIfNeeded: newValue)
        }
    }
    @inline(__always) package var totalLength: Int { Int(payloadBytes) &+ Self.byteCount }

    /// Writes the 20 bytes to the start of `bytes`, with the checksum, or with 0 in its place where the device fills it in.
    @inline(__always) package func emit(into bytes: PacketBytes, checksum: Bool = true) {
        let length = UInt16(truncatingIfNeeded: totalLength)
        let fragment = (dontFragment ? 0x4000 : 0) | (moreFragments ? 0x2000 : 0) | fragmentUnits
        let word0 = 0x4500_0000 | UInt32(trafficClass) &<< 16 | UInt32(length)
        let word1 = UInt32(identification) &<< 16 | UInt32(fragment)
        let word2 = UInt32(timeToLive) &<< 24 | UInt32(ipProtocol.rawValue) &<< 16
        var check: UInt32 = 0
        if checksum {
            // The words are at hand: summing them here spares reading back what was just stored.
            let sum = UInt64(word0) &+ UInt64(word1) &+ UInt64(word2) &+ UInt64(source) &+ UInt64(destination)
            check = UInt32(InternetChecksum.foldHostOrder(sum))
        }
        bytes.store32(word0, at: 0)
        bytes.store32(word1, at: 4)
        bytes.store32(word2 | check, at: 8)
        bytes.store32(source, at: 12)
        bytes.store32(destination, at: 16)
    }
}
