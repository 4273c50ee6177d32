import CDemikernelShims

/// One frame of a local kernel peer that stands for several UDP datagrams (UDP_SEGMENT, udp(7)): its headers are those of the first, with the lengths of
/// all, and its payload is that of all, each but the last of `segment_size` bytes. The kernel's Documentation/networking/segmentation-offloads.rst.
///
/// Cut are UDP over IPv4 and IPv6, with or without an 802.1Q tag, options and extension headers, whose checksum the kernel has left undone or has
/// verified. Each datagram becomes a frame of its own, copied to a segment of its own, as the kernel's software cuts it: with its lengths, IPv4's
/// identification counted on, IPv4's checksum set, and of the UDP checksum what a frame with a partial checksum has, the sum of the pseudo-header.
///
/// Plain data: whoever holds a run that is not empty holds one libOS reference to its segment, and has it cut to its end or calls ``release()``.
///
/// Invariant: where `segment` is not null, `ip < transport < transport + 8 <= position <= end <= segment.byteCount`, the header of IP is at `ip`, that of
/// UDP at `transport`, and `size > 0`.
struct DatagramRun: BitwiseCopyable {
    private var segment: Segment
    private var ip = 0
    private var transport = 0
    /// Where the payload of the next datagram begins, and where the last one's ends.
    private var position = 0
    private var end = 0
    /// Bytes of payload of each datagram but the last.
    private var size = 1
    private var offload = FrameOffload.none

    /// Nothing to be cut.
    static var none: DatagramRun { DatagramRun() }

    private init() { segment = .null }

    /// The frame in `segment`, as virtio's header before it says. Takes the reference over; nil, and the reference stays the caller's, where it is
    /// not a frame that stands for datagrams.
    init?(_ segment: Segment, _ virtio: dk_virtio_header) {
        let bytes = segment.packet
        guard virtio.standsForDatagrams, virtio.segment_size > 0, let ethernet = EthernetHeaderView(bytes),
            let (transport, end) = Self.place(ethernet), let udp = UDPHeaderView(bytes.slice(transport, end - transport)),
            // The lengths of all, in both headers.
            udp.length == end - transport
        else { return nil }
        if virtio.flags & 1 != 0 {
            guard Int(virtio.checksum_start) == transport, Int(virtio.checksum_offset) == Self.checksumOffset else { return nil }
            offload = FrameOffload(
                flags: .partialChecksum, checksumStart: virtio.checksum_start, checksumOffset: UInt8(Self.checksumOffset))
        } else {
            // A checksum over all of them says nothing about one of them: somebody has to have looked at it.
            guard virtio.flags & 2 != 0 else { return nil }
            offload.flags = .checksumIsValid
        }
        self.segment = segment
        ip = ethernet.headerLength
        self.transport = transport
        position = transport + UDPHeader.byteCount
        self.end = end
        size = Int(virtio.segment_size)
    }

    private static var checksumOffset: Int { 6 }

    /// Where the header of UDP begins, and where the packet ends; nil where it is no UDP or a fragment.
    private static func place(_ ethernet: EthernetHeaderView) -> (transport: Int, end: Int)? {
        let ip = ethernet.headerLength
        if ethernet.etherType == .ipv4 {
            guard let view = IPv4HeaderView(ethernet.payload), view.ipProtocol == .udp, !view.isFragment else { return nil }
            return (ip + view.headerLength, ip + view.totalLength)
        }
        guard ethernet.etherType == .ipv6, let view = IPv6HeaderView(ethernet.payload),
            case .upperLayer(.udp, let offset, _) = IPv6ExtensionHeaders.walk(view.payload, nextHeader: view.nextHeader)
        else { return nil }
        let payload = ip + IPv6Header.byteCount
        return (payload + offset, payload + view.payloadLength)
    }

    // MARK: - Cutting

    /// Whether there is nothing left to cut.
    @inline(__always) var isEmpty: Bool { segment.isNull }

    /// Adds a frame for each datagram to `burst`, until there are no more or the burst is full: then it goes on with the next call. Datagrams for which
    /// there is no heap memory are dropped and counted. Complexity: linear in the bytes of the datagrams.
    mutating func cut(into burst: inout FrameBurst, _ statistics: inout NetworkDeviceStatistics) {
        guard !isEmpty else { return }
        while !burst.isFull {
            let payload = min(size, end - position)
            let frame = makeFrame(payload, burst.heap)
            if frame.isNull {
                statistics.receiveDrops &+= 1
            } else {
                statistics.receivedFrames &+= 1
                statistics.receivedBytes &+= UInt64(truncatingIfNeeded: frame.byteCount)
                burst.append(Frame(frame, offload: offload))
            }
            position += payload
            guard position < end else { return release() }
            prepareNext()
        }
    }

    /// Gives the segment back, with what has not been cut.
    mutating func release() {
        if !isEmpty { segment.release() }
        segment = .null
    }

    /// The frame of the next datagram, with `payload` bytes of payload; null where there is no memory.
    private func makeFrame(_ payload: Int, _ heap: HeapReference) -> Segment {
        let headers = transport + UDPHeader.byteCount
        let made = heap.allocateSegment(headers + payload)
        guard !made.isNull else { return made }
        let source = segment.packet
        let bytes = made.packet
        bytes.copy(from: source.slice(0, headers), at: 0)
        bytes.copy(from: source.slice(position, payload), at: headers)
        let length = UInt16(truncatingIfNeeded: UDPHeader.byteCount + payload)
        if bytes.load8(ip) &>> 4 == 4 {
            let total = bytes.load16(ip + 2)
            let own = UInt16(truncatingIfNeeded: transport - ip) + length
            bytes.store16(own, at: ip + 2)
            bytes.store16(InternetChecksum.update(bytes.load16(ip + 10), from: total, to: own), at: ip + 10)
        } else {
            bytes.store16(UInt16(truncatingIfNeeded: transport - ip - IPv6Header.byteCount) + length, at: ip + 4)
        }
        if offload.flags == .partialChecksum {
            // The field has the sum itself, not its complement.
            let sum = bytes.load16(transport + Self.checksumOffset)
            let own = ~InternetChecksum.update(~sum, from: bytes.load16(transport + 4), to: length)
            bytes.store16(own, at: transport + Self.checksumOffset)
        }
        bytes.store16(length, at: transport + 4)
        return made
    }

    /// IPv4's identification counts the datagrams: each has its own, so that fragments of two on their way are told from one another.
    private func prepareNext() {
        let bytes = segment.packet
        guard bytes.load8(ip) &>> 4 == 4 else { return }
        let identification = bytes.load16(ip + 4)
        bytes.store16(identification &+ 1, at: ip + 4)
        bytes.store16(InternetChecksum.update(bytes.load16(ip + 10), from: identification, to: identification &+ 1), at: ip + 10)
    }
}

extension dk_virtio_header {
    /// Whether the frame is a ``DatagramRun``.
    @inline(__always) var standsForDatagrams: Bool { segmentation & 0x7f == 5 }
}
