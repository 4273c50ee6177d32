/// The options of a neighbour discovery message. RFC 4861, section 4.6. Those of other types are passed over.
package struct NDPOptions: BitwiseCopyable, Sendable {
    /// Type 3. RFC 4861, section 4.6.2.
    package struct PrefixInformation: BitwiseCopyable, Hashable, Sendable {
        package var prefix: IPAddress
        /// In bits, as it stands: more than 128 is to be passed over.
        package var prefixLength: UInt8
        /// Addresses of the prefix are neighbours (L).
        package var isOnLink: Bool
        /// Addresses may be made of the prefix (A). RFC 4862.
        package var isAutonomous: Bool
        /// `UInt32.max`: for ever.
        package var validLifetimeSeconds: UInt32
        package var preferredLifetimeSeconds: UInt32

        package init(
            prefix: IPAddress, prefixLength: UInt8, isOnLink: Bool, isAutonomous: Bool, validLifetimeSeconds: UInt32,
            preferredLifetimeSeconds: UInt32
        ) {
            self.prefix = prefix
            self.prefixLength = prefixLength
            self.isOnLink = isOnLink
            self.isAutonomous = isAutonomous
            self.validLifetimeSeconds = validLifetimeSeconds
            self.preferredLifetimeSeconds = preferredLifetimeSeconds
        }
    }

    /// Type 1.
    package var sourceLinkLayerAddress: MACAddress?
    /// Type 2.
    package var targetLinkLayerAddress: MACAddress?
    /// Type 5.
    package var mtu: UInt32?
    /// Prefixes in `prefixes` that count.
    package private(set) var prefixCount = 0
    /// Those from `prefixCount` on mean nothing. Of a message with more, the first count.
    package private(set) var prefixes: InlineArray<4, PrefixInformation> = InlineArray(
        repeating: PrefixInformation(
            prefix: .ipv6Unspecified, prefixLength: 0, isOnLink: false, isAutonomous: false, validLifetimeSeconds: 0,
            preferredLifetimeSeconds: 0))

    package init(sourceLinkLayerAddress: MACAddress? = nil, targetLinkLayerAddress: MACAddress? = nil, mtu: UInt32? = nil) {
        self.sourceLinkLayerAddress = sourceLinkLayerAddress
        self.targetLinkLayerAddress = targetLinkLayerAddress
        self.mtu = mtu
    }

    /// Adds a prefix; false where there are four.
    @discardableResult package mutating func appendPrefix(_ prefix: PrefixInformation) -> Bool {
        guard prefixCount < 4 else { return false }
        prefixes[prefixCount] = prefix
        prefixCount += 1
        return true
    }

    private enum OptionType {
        static var sourceLinkLayerAddress: UInt8 { 1 }
        static var targetLinkLayerAddress: UInt8 { 2 }
        static var prefixInformation: UInt8 { 3 }
        static var mtu: UInt8 { 5 }
    }

    /// Fails where an option has the length 0 or is longer than what is there: the message is dropped whole. RFC 4861, section 4.6.
    ///
    /// - Complexity: O(bytes).
    package init?(parsing bytes: PacketBytes) {
        self.init()
        var offset = 0
        while offset < bytes.count {
            guard bytes.count &- offset >= 8 else { return nil }
            let length = Int(bytes.load8(offset &+ 1)) &* 8
            guard length > 0, length <= bytes.count &- offset else { return nil }
            switch (bytes.load8(offset), length) {
            case (OptionType.sourceLinkLayerAddress, 8): sourceLinkLayerAddress = bytes.loadMAC(offset &+ 2)
            case (OptionType.targetLinkLayerAddress, 8): targetLinkLayerAddress = bytes.loadMAC(offset &+ 2)
            case (OptionType.mtu, 8): mtu = bytes.load32(offset &+ 4)
            case (OptionType.prefixInformation, 32):
                let flags = bytes.load8(offset &+ 3)
                appendPrefix(
                    PrefixInformation(
                        prefix: bytes.loadIPv6(offset &+ 16), prefixLength: bytes.load8(offset &+ 2), isOnLink: flags & 0x80 != 0,
                        isAutonomous: flags & 0x40 != 0, validLifetimeSeconds: bytes.load32(offset &+ 4),
                        preferredLifetimeSeconds: bytes.load32(offset &+ 8)))
            default: break
            }
            offset &+= length
        }
    }

    /// A multiple of 8.
    package var byteCount: Int {
        (sourceLinkLayerAddress == nil ? 0 : 8) + (targetLinkLayerAddress == nil ? 0 : 8) + (mtu == nil ? 0 : 8) + prefixCount * 32
    }

    /// Writes the options to the start of `bytes`, which holds at least `byteCount`.
    package func emit(into bytes: PacketBytes) {
        var offset = 0
        if let sourceLinkLayerAddress {
            bytes.store64(UInt64(OptionType.sourceLinkLayerAddress) << 56 | 1 << 48 | sourceLinkLayerAddress.rawValue, at: offset)
            offset += 8
        }
        if let targetLinkLayerAddress {
            bytes.store64(UInt64(OptionType.targetLinkLayerAddress) << 56 | 1 << 48 | targetLinkLayerAddress.rawValue, at: offset)
            offset += 8
        }
        if let mtu {
            bytes.store64(UInt64(OptionType.mtu) << 56 | 1 << 48 | UInt64(mtu), at: offset)
            offset += 8
        }
        for index in 0..<prefixCount {
            let prefix = prefixes[index]
            bytes.store8(OptionType.prefixInformation, at: offset)
            bytes.store8(4, at: offset + 1)
            bytes.store8(prefix.prefixLength, at: offset + 2)
            bytes.store8((prefix.isOnLink ? 0x80 : 0) | (prefix.isAutonomous ? 0x40 : 0), at: offset + 3)
            bytes.store32(prefix.validLifetimeSeconds, at: offset + 4)
            bytes.store32(prefix.preferredLifetimeSeconds, at: offset + 8)
            bytes.store32(0, at: offset + 12)
            bytes.storeIPv6(prefix.prefix, at: offset + 16)
            offset += 32
        }
    }
}

extension NDPOptions: Equatable {
    package static func == (left: NDPOptions, right: NDPOptions) -> Bool {
        guard
            left.sourceLinkLayerAddress == right.sourceLinkLayerAddress, left.targetLinkLayerAddress == right.targetLinkLayerAddress,
            left.mtu == right.mtu, left.prefixCount == right.prefixCount
        else { return false }
        for index in 0..<left.prefixCount where left.prefixes[index] != right.prefixes[index] { return false }
        return true
    }
}
