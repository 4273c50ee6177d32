/// What a device is asked to do to a frame, or has done.
package struct FrameOffload: BitwiseCopyable, Equatable {
    package struct Flags: OptionSet, BitwiseCopyable, Sendable {
        package let rawValue: UInt8
        package init(rawValue: UInt8) { self.rawValue = rawValue }
        /// Transmit: the transport checksum field holds the folded sum of the pseudo-header; the device sums from `checksumStart` to the end and
        /// stores the complement at `checksumStart + checksumOffset`. Receive: the same, by a local peer that left it undone, so nothing on the
        /// way can have damaged it.
        package static let partialChecksum = Flags(rawValue: 1)
        /// Receive: the device has verified the transport checksum.
        package static let checksumIsValid = Flags(rawValue: 2)
    }

    package var flags: Flags
    /// Where the summed bytes begin, from the frame's first byte.
    package var checksumStart: UInt16
    /// Where the checksum field is, from `checksumStart`.
    package var checksumOffset: UInt8

    @inline(__always)
    package init(flags: Flags = [], checksumStart: UInt16 = 0, checksumOffset: UInt8 = 0) {
        self.flags = flags
        self.checksumStart = checksumStart
        self.checksumOffset = checksumOffset
    }

    @inline(__always) package static var none: FrameOffload { FrameOffload() }
}

/// An Ethernet frame in heap memory: its first bytes, from the Ethernet header on, and what follows them, gathered by the device.
///
/// Plain data, one cache line, without automatic ownership: whoever holds a frame holds one libOS reference to each of its segments, and passes
/// them on or calls ``release()`` exactly once. Received frames are one segment, `head`.
package struct Frame: BitwiseCopyable {
    package var head: Segment
    /// Slices of the application's buffers, or empty.
    package var rest: SegmentList
    package var offload: FrameOffload

    @inline(__always)
    package init(_ head: Segment, rest: SegmentList = .empty, offload: FrameOffload = .none) {
        self.head = head
        self.rest = rest
        self.offload = offload
    }

    /// The bytes from the Ethernet header to the end of the payload, without a frame check sequence.
    @inline(__always) package var byteCount: Int { head.byteCount &+ rest.byteCount }

    @inline(__always)
    package func release() {
        head.release()
        if !rest.isEmpty { rest.releaseAll() }
    }

    /// Copies the frame's bytes, one segment after the other, to `target`; answers how many fitted.
    @unsafe @inline(__always)
    package func copyBytes(to target: UnsafeMutableRawBufferPointer) -> Int {
        guard let base = target.baseAddress else { return 0 }
        let first = min(head.byteCount, target.count)
        unsafe base.copyMemory(from: head.start, byteCount: first)
        guard !rest.isEmpty else { return first }
        return first + (unsafe rest.copyBytes(to: UnsafeMutableRawBufferPointer(rebasing: target[first...])))
    }
}
