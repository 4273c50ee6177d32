/// TSval and TSecr. RFC 7323, section 3.2.
package struct TCPTimestamps: BitwiseCopyable, Hashable, Sendable {
    package var value: UInt32
    package var echo: UInt32

    @inline(__always) package init(value: UInt32, echo: UInt32) {
        self.value = value
        self.echo = echo
    }
}

/// A block of received bytes: `left` is the first, `right` the first behind it. RFC 2018, section 3.
package struct SACKBlock: BitwiseCopyable, Hashable, Sendable {
    package var left: SequenceNumber
    package var right: SequenceNumber

    @inline(__always) package init(left: SequenceNumber, right: SequenceNumber) {
        self.left = left
        self.right = right
    }
}

/// The options of a TCP header that this stack speaks; others are skipped when parsed. RFC 9293, section 3.2; RFC 7323; RFC 2018.
package struct TCPOptions: BitwiseCopyable, Sendable {
    /// Kind 2.
    package var maximumSegmentSize: UInt16?
    /// Kind 3, as it stands: more than 14 counts as 14 (RFC 7323, section 2.3), which is the caller's.
    package var windowScale: UInt8?
    /// Kind 4.
    package var sackPermitted = false
    /// Whether the bytes were no options from some point on. What came before counts.
    package private(set) var isMalformed = false
    /// Blocks in `sackBlocks` that count, 0 ... 4.
    package private(set) var sackCount = 0
    /// Kind 8.
    package var timestamps: TCPTimestamps?
    /// Kind 5; those from `sackCount` on mean nothing.
    package private(set) var sackBlocks: InlineArray<4, SACKBlock> = InlineArray(
        repeating: SACKBlock(left: SequenceNumber(0), right: SequenceNumber(0)))

    /// No options.
    @inline(__always) package init() {}

    @inline(__always)
    package init(maximumSegmentSize: UInt16? = nil, windowScale: UInt8? = nil, sackPermitted: Bool = false, timestamps: TCPTimestamps? = nil) {
        self.maximumSegmentSize = maximumSegmentSize
        self.windowScale = windowScale
        self.sackPermitted = sackPermitted
        self.timestamps = timestamps
    }

    /// Adds a block; false where there are four.
    @inline(__always) @discardableResult package mutating func appendSACK(_ block: SACKBlock) -> Bool {
        guard sackCount < 4 else { return false }
        sackBlocks[sackCount] = block
        sackCount &+= 1
        return true
    }

    /// NOP, NOP, timestamps of ten bytes. RFC 7323, appendix A.
    @inline(__always) static var timestampsPrefix: UInt32 { 0x0101_080a }
}

// MARK: - Parsing

extension TCPOptions {
    private enum Kind {
        static var end: UInt8 { 0 }
        static var noOperation: UInt8 { 1 }
        static var maximumSegmentSize: UInt8 { 2 }
        static var windowScale: UInt8 { 3 }
        static var sackPermitted: UInt8 { 4 }
        static var sack: UInt8 { 5 }
        static var timestamps: UInt8 { 8 }
    }

    /// Parses the options of a header. Timestamps alone, in the recommended layout, take two comparisons.
    @inline(__always) package init(_ view: TCPHeaderView) {
        if view.hasOnlyTimestamps {
            self.init(timestamps: view.fastTimestamps)
        } else {
            self.init(parsing: view.options)
        }
    }

    /// Parses up to 40 bytes of options; takes what is well-formed, to the first option whose length cannot be.
    ///
    /// An option that is unknown, or known with another length than it has, is skipped by its length (RFC 9293, section 3.1, MUST-6). The
    /// last of several options of a kind counts.
    package init(parsing bytes: PacketBytes) {
        self.init()
        let count = bytes.count
        var offset = 0
        while offset < count {
            let kind = bytes.load8(offset)
            if kind == Kind.noOperation {
                offset &+= 1
                continue
            }
            if kind == Kind.end { return }
            guard offset &+ 1 < count else {
                isMalformed = true
                return
            }
            let length = Int(bytes.load8(offset &+ 1))
            guard length >= 2, length <= count &- offset else {
                isMalformed = true
                return
            }
            switch (kind, length) {
            case (Kind.timestamps, 10):
                timestamps = TCPTimestamps(value: bytes.load32(offset &+ 2), echo: bytes.load32(offset &+ 6))
            case (Kind.sack, 10), (Kind.sack, 18), (Kind.sack, 26), (Kind.sack, 34):
                takeSACK(bytes.slice(offset &+ 2, length &- 2))
            case (Kind.maximumSegmentSize, 4): maximumSegmentSize = bytes.load16(offset &+ 2)
            case (Kind.windowScale, 3): windowScale = bytes.load8(offset &+ 2)
            case (Kind.sackPermitted, 2): sackPermitted = true
            default: break
            }
            offset &+= length
        }
    }

    private mutating func takeSACK(_ blocks: PacketBytes) {
        sackCount = blocks.count &>> 3
        for index in 0..<sackCount {
            sackBlocks[index] = SACKBlock(
                left: SequenceNumber(blocks.load32(index &* 8)), right: SequenceNumber(blocks.load32(index &* 8 &+ 4)))
        }
    }
}

// MARK: - Emitting

extension TCPOptions {
    /// The most that options may take.
    @inline(__always) package static var byteCountMaximum: Int { 40 }

    /// Bytes of all options but the SACK blocks, padded.
    @inline(__always) private var byteCountBeforeSACK: Int {
        var count = maximumSegmentSize == nil ? 0 : 4
        count &+= timestamps != nil ? 12 : sackPermitted ? 4 : 0
        count &+= windowScale == nil ? 0 : 4
        return count
    }

    /// Blocks for which there is room beside the other options: 4, or 3 with timestamps.
    @inline(__always) package var sackCountThatFits: Int { min(sackCount, (Self.byteCountMaximum &- byteCountBeforeSACK &- 4) &>> 3) }

    /// What `emit` writes: a multiple of 4, 40 at most.
    @inline(__always) package var byteCount: Int {
        let before = byteCountBeforeSACK
        return sackCount == 0 ? before : before &+ sackByteCount
    }

    @inline(__always) private var sackByteCount: Int {
        let blocks = sackCountThatFits
        return blocks == 0 ? 0 : 4 &+ blocks &* 8
    }

    /// Writes the options, padded with NOPs to words, in Linux's order: segment size, SACK permitted and timestamps, window scale, blocks.
    /// Blocks for which there is no room are left out, the last first.
    @inline(__always) package func emit(into bytes: PacketBytes) {
        if let timestamps, maximumSegmentSize == nil, windowScale == nil, !sackPermitted, sackCount == 0 {
            Self.emitTimestamps(timestamps, prefix: Self.timestampsPrefix, into: bytes, at: 0)
        } else {
            emitAny(into: bytes)
        }
    }

    /// Writes the 12 bytes of timestamps alone.
    @inline(__always) package static func emit(_ timestamps: TCPTimestamps, into bytes: PacketBytes) {
        emitTimestamps(timestamps, prefix: timestampsPrefix, into: bytes, at: 0)
    }

    @inline(__always)
    private static func emitTimestamps(_ timestamps: TCPTimestamps, prefix: UInt32, into bytes: PacketBytes, at offset: Int) {
        bytes.store32(prefix, at: offset)
        bytes.store32(timestamps.value, at: offset &+ 4)
        bytes.store32(timestamps.echo, at: offset &+ 8)
    }

    private func emitAny(into bytes: PacketBytes) {
        var offset = 0
        if let maximumSegmentSize {
            bytes.store32(0x0204_0000 | UInt32(maximumSegmentSize), at: offset)
            offset &+= 4
        }
        if let timestamps {
            // SACK permitted takes the place of the two NOPs.
            let prefix = sackPermitted ? 0x0402_080a : Self.timestampsPrefix
            Self.emitTimestamps(timestamps, prefix: prefix, into: bytes, at: offset)
            offset &+= 12
        } else if sackPermitted {
            bytes.store32(0x0101_0402, at: offset)
            offset &+= 4
        }
        if let windowScale {
            bytes.store32(0x0103_0300 | UInt32(windowScale), at: offset)
            offset &+= 4
        }
        let blocks = sackCountThatFits
        guard blocks > 0 else { return }
        bytes.store32(0x0101_0502 &+ UInt32(truncatingIfNeeded: blocks &* 8), at: offset)
        for index in 0..<blocks {
            bytes.store32(sackBlocks[index].left.rawValue, at: offset &+ 4 &+ index &* 8)
            bytes.store32(sackBlocks[index].right.rawValue, at: offset &+ 8 &+ index &* 8)
        }
    }
}

extension TCPOptions: Equatable {
    package static func == (left: TCPOptions, right: TCPOptions) -> Bool {
        guard
            left.maximumSegmentSize == right.maximumSegmentSize, left.windowScale == right.windowScale,
            left.sackPermitted == right.sackPermitted, left.timestamps == right.timestamps, left.isMalformed == right.isMalformed,
            left.sackCount == right.sackCount
        else { return false }
        for index in 0..<left.sackCount where left.sackBlocks[index] != right.sackBlocks[index] { return false }
        return true
    }
}
