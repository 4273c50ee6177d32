import CDemikernelShims
import Glibc

/// TCP segments that follow one another in a burst, put together into one packet that the kernel cuts into the same segments again where it leaves
/// the kernel's software: generic segmentation offload, the kernel's Documentation/networking/segmentation-offloads.rst. To cross into the kernel, such a
/// packet costs about as much as one frame; the payload goes from the application's buffers.
///
/// Put together are frames that a kernel would have cut so: of one connection, alike in all but lengths, identification, sequence number and checksum,
/// each but the last with as much payload as the first, only the last with PSH or FIN; whose checksum is left to the device, and that have neither an
/// 802.1Q tag, IPv4 options nor IPv6 extension headers.
///
/// Invariant: `header` has room for virtio's header and the longest headers of a frame, `parts` for `partsMaximum` elements, of which `partCount` are set.
@safe struct SegmentRun: ~Copyable {
    private let header: UnsafeMutableRawBufferPointer
    private let parts: UnsafeMutablePointer<iovec>
    private var partCount = 0
    /// How many frames of the burst, from its first on, are put together.
    private(set) var frameCount = 0
    /// Their bytes, each with its own headers.
    private(set) var byteCount = 0

    /// The most bytes from IP's header on: what its length field can say.
    static var packetMaximum: Int { 65_535 }
    /// The same where the length may be left 0 (BIG TCP): over interfaces that lead to this machine and leave the cutting to the kernel's software
    /// (`dk_interface_cuts_long`). The receiver is woken once for each packet, which costs as much as ten segments. Not longer, because all segments of a
    /// packet pass at one go, in 0.2 ms.
    static var longPacketMaximum: Int { 196_608 }

    private static var partsMaximum: Int { 256 }
    private static var virtioByteCount: Int { MemoryLayout<dk_virtio_header>.size }

    init() {
        unsafe header = .allocate(byteCount: 256, alignment: 16)
        unsafe parts = .allocate(capacity: Self.partsMaximum)
    }

    deinit {
        unsafe header.deallocate()
        unsafe parts.deallocate()
    }

    // MARK: - Putting together

    /// Offsets from the first byte of the headers of IPv4 and IPv6 (RFC 791, section 3.1; RFC 8200, section 3), after the Ethernet header.
    private enum Offset {
        static var type: Int { 12 }
        static var ip: Int { 14 }
        static var totalLength: Int { 16 }
        static var fragment: Int { 20 }
        static var ipv4Protocol: Int { 23 }
        static var ipv4Checksum: Int { 24 }
        static var ipv4Addresses: Int { 26 }
        static var ipv4Transport: Int { 34 }
        static var payloadLength: Int { 18 }
        static var nextHeader: Int { 20 }
        static var ipv6Transport: Int { 54 }
    }

    /// Offsets from the first byte of TCP's header (RFC 9293, section 3.1).
    private enum TCPOffset {
        static var sequence: Int { 4 }
        static var acknowledgment: Int { 8 }
        static var dataOffset: Int { 12 }
        static var flags: Int { 13 }
        static var window: Int { 14 }
        static var checksum: Int { 16 }
        static var urgent: Int { 18 }
        static var options: Int { 20 }
    }

    private static var acknowledges: UInt8 { 0x10 }
    /// PSH and FIN: a cutting kernel leaves them to the last segment.
    private static var lastOnly: UInt8 { 0x09 }

    /// Looks how many frames of no more than `frameMaximum` bytes, from the first of the burst on, make one packet of no more than `packetMaximum`, and
    /// prepares it for ``send(to:)`` or ``write(to:)``. False where it is fewer than two. The burst keeps the frames. Complexity: linear in the frames
    /// put together.
    mutating func join(_ burst: borrowing FrameBurst, frameMaximum: Int, packetMaximum: Int = SegmentRun.packetMaximum) -> Bool {
        guard burst.count > 1 else { return false }
        let first = burst[0]
        let bytes = Self.bytes(first)
        guard first.byteCount <= frameMaximum, let transport = Self.transport(of: first, bytes) else { return false }
        let headers = transport + Int(bytes.load8(transport + TCPOffset.dataOffset) >> 4) * 4
        let segmentSize = first.byteCount - headers
        guard headers >= transport + TCPOffset.options, bytes.count >= headers, segmentSize > 0,
            bytes.load8(transport + TCPOffset.flags) == Self.acknowledges
        else { return false }
        let countMaximum = min(burst.count, (packetMaximum - (headers - Offset.ip)) / segmentSize)
        partCount = 1
        guard append(payloadOf: first, from: headers) else { return false }
        var sequence = bytes.load32(transport + TCPOffset.sequence)
        var payload = segmentSize
        frameCount = 1
        while frameCount < countMaximum {
            let frame = burst[frameCount]
            let others = Self.bytes(frame)
            let size = frame.byteCount - headers
            sequence &+= UInt32(segmentSize)
            guard size > 0, size <= segmentSize, others.count >= headers, frame.offload == first.offload,
                Self.areAlike(bytes, others, transport, headers), others.load32(transport + TCPOffset.sequence) == sequence
            else { break }
            let flags = others.load8(transport + TCPOffset.flags)
            guard flags & ~Self.lastOnly == Self.acknowledges, append(payloadOf: frame, from: headers) else { break }
            payload += size
            frameCount += 1
            if size < segmentSize || flags != Self.acknowledges { break }
        }
        guard frameCount > 1 else { return false }
        byteCount = payload + frameCount * headers
        let flags = Self.bytes(burst[frameCount - 1]).load8(transport + TCPOffset.flags)
        makeHeaders(bytes, first.offload, transport: transport, headers, segmentSize: segmentSize, payload: payload, flags: flags)
        return true
    }

    @inline(__always)
    private static func bytes(_ frame: Frame) -> PacketBytes { unsafe PacketBytes(start: frame.head.start, count: frame.head.byteCount) }

    /// Where TCP's header begins in a frame that may be put together with others; nil for another frame. TCP's header without options is there.
    private static func transport(of frame: Frame, _ bytes: PacketBytes) -> Int? {
        let transport = Int(frame.offload.checksumStart)
        guard frame.offload.flags == .partialChecksum, Int(frame.offload.checksumOffset) == TCPOffset.checksum,
            transport == Offset.ipv4Transport || transport == Offset.ipv6Transport, bytes.count >= transport + TCPOffset.options
        else { return nil }
        if transport == Offset.ipv4Transport {
            guard bytes.load16(Offset.type) == EtherType.ipv4.rawValue, bytes.load8(Offset.ip) == 0x45,
                bytes.load8(Offset.ipv4Protocol) == IPProtocol.tcp.rawValue, bytes.load16(Offset.fragment) & 0x3fff == 0,
                Int(bytes.load16(Offset.totalLength)) == frame.byteCount - Offset.ip
            else { return nil }
        } else {
            guard bytes.load16(Offset.type) == EtherType.ipv6.rawValue, bytes.load8(Offset.nextHeader) == IPProtocol.tcp.rawValue,
                Int(bytes.load16(Offset.payloadLength)) == frame.byteCount - Offset.ipv6Transport
            else { return nil }
        }
        return transport
    }

    /// Whether the headers differ at most in lengths, identification, IPv4's checksum, sequence number, flags and TCP's checksum.
    private static func areAlike(_ first: PacketBytes, _ other: PacketBytes, _ transport: Int, _ headers: Int) -> Bool {
        func isEqual(_ range: Range<Int>) -> Bool {
            unsafe memcmp(first.start + range.lowerBound, other.start + range.lowerBound, range.count) == 0
        }
        // The ports first: what is not of the same connection is told by them.
        guard isEqual(transport..<transport + TCPOffset.sequence),
            isEqual(transport + TCPOffset.acknowledgment..<transport + TCPOffset.flags),
            isEqual(transport + TCPOffset.window..<transport + TCPOffset.checksum), isEqual(transport + TCPOffset.urgent..<headers)
        else { return false }
        if transport == Offset.ipv4Transport {
            return isEqual(0..<Offset.totalLength) && isEqual(Offset.fragment..<Offset.ipv4Checksum) && isEqual(Offset.ipv4Addresses..<transport)
        }
        return isEqual(0..<Offset.payloadLength) && isEqual(Offset.nextHeader..<transport)
    }

    /// False where there are too many parts.
    private mutating func append(payloadOf frame: Frame, from headers: Int) -> Bool {
        let own = frame.head.byteCount - headers
        guard partCount + (own > 0 ? 1 : 0) + frame.rest.count <= Self.partsMaximum else { return false }
        if own > 0 { unsafe append(frame.head.start + headers, own) }
        for number in 0..<frame.rest.count {
            let segment = frame.rest[number]
            unsafe append(segment.start, segment.byteCount)
        }
        return true
    }

    /// Slices of the application's buffer mostly lie behind one another: one part, which the kernel copies at once.
    @unsafe @inline(__always)
    private mutating func append(_ start: UnsafeMutableRawPointer, _ count: Int) {
        let last = unsafe parts + (partCount - 1)
        if partCount > 1, unsafe last.pointee.iov_base + last.pointee.iov_len == start {
            unsafe last.pointee.iov_len += count
            return
        }
        unsafe (parts + partCount).initialize(to: iovec(iov_base: start, iov_len: count))
        partCount += 1
    }

    /// virtio's header and the packet's, which are the first frame's with the lengths and the flags of all. A length beyond 16 bits is 0.
    private mutating func makeHeaders(
        _ first: PacketBytes, _ offload: FrameOffload, transport: Int, _ headers: Int, segmentSize: Int, payload: Int, flags: UInt8
    ) {
        let isIPv4 = transport == Offset.ipv4Transport
        var virtio = dk_virtio_header(offload)
        virtio.segmentation = isIPv4 ? 1 : 4
        virtio.segment_size = UInt16(segmentSize)
        virtio.header_length = UInt16(headers)
        let start = unsafe header.baseAddress.unsafelyUnwrapped
        unsafe start.storeBytes(of: virtio, as: dk_virtio_header.self)
        let packet = unsafe PacketBytes(start: start + Self.virtioByteCount, count: headers)
        packet.copy(from: first.slice(0, headers), at: 0)
        let lengthField = isIPv4 ? Offset.totalLength : Offset.payloadLength
        let old = packet.load16(lengthField)
        let more = payload - segmentSize
        let new = UInt16(exactly: Int(old) + more) ?? 0
        packet.store16(new, at: lengthField)
        if isIPv4 { packet.store16(InternetChecksum.update(packet.load16(Offset.ipv4Checksum), from: old, to: new), at: Offset.ipv4Checksum) }
        // The sum of the pseudo-header, which has the length of TCP's header and payload, in 32 bits; the kernel goes on from it.
        let sum = UInt64(packet.load16(transport + TCPOffset.checksum)) + UInt64(more)
        packet.store16(InternetChecksum.reduce(sum), at: transport + TCPOffset.checksum)
        packet.store8(flags, at: transport + TCPOffset.flags)
        unsafe parts.initialize(to: iovec(iov_base: start, iov_len: Self.virtioByteCount + headers))
    }

    // MARK: - Giving to the kernel

    /// Sends what is put together by a packet socket with virtio's header (PACKET_VNET_HDR) that is bound to the interface: bytes, or a negative errno.
    /// Does not wait.
    func send(to socket: Int32) -> Int {
        var message = unsafe msghdr()
        unsafe message.msg_iov = parts
        unsafe message.msg_iovlen = numericCast(partCount)
        let count = unsafe sendmsg(socket, &message, Int32(MSG_DONTWAIT | MSG_NOSIGNAL))
        return count < 0 ? -Int(errno) : count
    }

    /// Writes what is put together to a file of a TAP with virtio's header (IFF_VNET_HDR): bytes, or a negative errno.
    func write(to file: Int32) -> Int {
        let count = unsafe writev(file, parts, Int32(partCount))
        return count < 0 ? -Int(errno) : count
    }
}
