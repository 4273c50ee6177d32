import CDemikernelShims

/// The Internet checksum. RFC 1071, RFC 1624.
///
/// A *sum* is an unfolded 64-bit total of the 16-bit words as the machine loads them from memory (RFC 1071, section 2(B): the order of bytes
/// does not matter until the end), below 2⁴⁸, so that sums of pieces are added with `&+`. `fold` makes a checksum of it, in host order, to
/// store with `store16`. Pieces begin at even offsets of what is summed; `Accumulator` takes any.
package enum InternetChecksum {
    /// The sum of `bytes`; an odd last byte counts as if a zero followed. `demi bench --only checksum` measures it.
    @inline(__always) package static func sum(_ bytes: PacketBytes, initial: UInt64 = 0) -> UInt64 {
        unsafe initial &+ dk_checksum_sum(bytes.start, bytes.count)
    }

    /// The sum of the first 20 bytes: an IPv4 header without options.
    @inline(__always) package static func sum20(_ bytes: PacketBytes) -> UInt64 {
        // Byte-swapped by load32, and back: in a sum of whole 32-bit words this costs nothing after optimisation.
        halves(bytes.load64(0).bigEndian) &+ halves(bytes.load64(8).bigEndian) &+ UInt64(bytes.load32(16).bigEndian)
    }

    /// The sum of the first 32 bytes: a TCP header with timestamps.
    @inline(__always) package static func sum32(_ bytes: PacketBytes) -> UInt64 {
        sum20(bytes) &+ UInt64(bytes.load32(20).bigEndian) &+ halves(bytes.load64(24).bigEndian)
    }

    /// Copies all of `source` to the start of `target`, which does not overlap it, and answers the sum: one pass.
    @inline(__always) package static func copyAndSum(from source: PacketBytes, to target: PacketBytes, initial: UInt64 = 0) -> UInt64 {
        assert(source.count <= target.count)
        return unsafe initial &+ dk_checksum_copy(target.start, source.start, source.count)
    }

    /// The checksum of a sum: its ones' complement in 16 bits, in host order.
    @inline(__always) package static func fold(_ sum: UInt64) -> UInt16 { UInt16(bigEndian: foldHostOrder(sum)) }

    /// Whether a sum that includes the checksum is right.
    @inline(__always) package static func isValid(_ sum: UInt64) -> Bool { foldHostOrder(sum) == 0 }

    /// The ones' complement of a sum of words that were added in host order.
    @inline(__always) package static func foldHostOrder(_ sum: UInt64) -> UInt16 { ~reduce(sum) }

    /// A sum in 16 bits, carries added back in.
    @inline(__always) static func reduce(_ sum: UInt64) -> UInt16 {
        // Both additions of halves wrap to themselves with the carry in the upper half's place.
        var value = (sum & 0xffff_ffff) &+ (sum &>> 32)
        value = (value & 0xffff_ffff) &+ (value &>> 32)
        let word = UInt32(truncatingIfNeeded: value)
        let rotated = word &<< 16 | word &>> 16
        return UInt16(truncatingIfNeeded: (word &+ rotated) &>> 16)
    }

    @inline(__always) private static func halves(_ word: UInt64) -> UInt64 { (word & 0xffff_ffff) &+ (word &>> 32) }
}

// MARK: - Pseudo-headers

extension InternetChecksum {
    /// The sum of TCP's or UDP's pseudo-header over IPv4; `length` is that of their header and payload. RFC 9293, section 3.1.
    @inline(__always)
    package static func pseudoHeader(source: UInt32, destination: UInt32, ipProtocol: IPProtocol, length: Int) -> UInt64 {
        UInt64(source.bigEndian) &+ UInt64(destination.bigEndian)
            &+ UInt64((UInt32(ipProtocol.rawValue) &+ UInt32(truncatingIfNeeded: length)).bigEndian)
    }

    /// The same for either family. IPv6: RFC 8200, section 8.1. Both addresses are of one family.
    @inline(__always)
    package static func pseudoHeader(source: IPAddress, destination: IPAddress, ipProtocol: IPProtocol, length: Int) -> UInt64 {
        let rest = UInt64((UInt32(ipProtocol.rawValue) &+ UInt32(truncatingIfNeeded: length)).bigEndian)
        if source.isIPv4 { return UInt64(source.ipv4.bigEndian) &+ UInt64(destination.ipv4.bigEndian) &+ rest }
        return rest &+ halves(source.high.bigEndian) &+ halves(source.low.bigEndian)
            &+ halves(destination.high.bigEndian) &+ halves(destination.low.bigEndian)
    }
}

// MARK: - Incremental update

extension InternetChecksum {
    /// The checksum after a 16-bit word that it covers has changed: RFC 1624, equation 3. All in host order.
    @inline(__always) package static func update(_ checksum: UInt16, from old: UInt16, to new: UInt16) -> UInt16 {
        foldHostOrder(UInt64(~checksum) &+ UInt64(~old) &+ UInt64(new))
    }

    /// The same for an aligned 32-bit word.
    @inline(__always) package static func update(_ checksum: UInt16, from old: UInt32, to new: UInt32) -> UInt16 {
        foldHostOrder(UInt64(~checksum) &+ UInt64(~old) &+ UInt64(new))
    }
}

// MARK: - Pieces

extension InternetChecksum {
    /// The sum of pieces of any lengths, in their order: what follows an odd piece begins in the middle of a word.
    package struct Accumulator: BitwiseCopyable {
        private var total: UInt64
        private var isOdd = false

        @inline(__always) package init(initial: UInt64 = 0) { total = initial }

        /// The sum so far.
        @inline(__always) package var sum: UInt64 { total }
        /// Its checksum.
        @inline(__always) package var checksum: UInt16 { InternetChecksum.fold(total) }

        @inline(__always) package mutating func add(_ bytes: PacketBytes) {
            add(sum: InternetChecksum.sum(bytes), count: bytes.count)
        }

        /// Adds a piece of `count` bytes whose sum is known.
        @inline(__always) package mutating func add(sum: UInt64, count: Int) {
            // RFC 1071, section 2(B): swapping the bytes of the sum is swapping those of every word.
            total = total &+ (isOdd ? UInt64(InternetChecksum.reduce(sum).byteSwapped) : sum)
            isOdd = isOdd != (count & 1 == 1)
        }
    }
}
