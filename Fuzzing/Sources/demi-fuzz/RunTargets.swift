import CDemikernelShims
import Glibc
@testable import Demikernel

// What devices cut and put together for the kernel: datagrams that came as one frame, and segments that go as one packet.

extension FuzzTarget {
    static let datagramRun = FuzzTarget(
        name: "datagram-run", summary: "a frame of a local peer that stands for several datagrams, cut", lengthMaximum: 2048, runs: 40_000,
        seeds: { RunChecks.datagramSeeds }, run: { try RunChecks.cut($0) })
    static let segmentRun = FuzzTarget(
        name: "segment-run", summary: "segments put together for the kernel, beside what it would cut them into", lengthMaximum: 512, runs: 40_000,
        seeds: { RunChecks.segmentSeeds }, run: { try RunChecks.join($0) })
}

enum RunChecks {
    private static func segment(_ bytes: [UInt8], _ heap: HeapReference) -> Segment {
        let segment = heap.allocateSegment(bytes.count)
        require(!segment.isNull, "the heap is exhausted")
        unsafe segment.bytes.copyBytes(from: bytes)
        return segment
    }

    private static func word(_ bytes: some RandomAccessCollection<UInt8>, _ offset: Int) -> Int {
        let place = bytes.index(bytes.startIndex, offsetBy: offset)
        return Int(bytes[place]) << 8 | Int(bytes[bytes.index(after: place)])
    }

    // MARK: - Datagrams

    /// Virtio's header (flags, the size of each datagram, where the checksum begins), the room in the burst, and UDP frames.
    static var datagramSeeds: [[UInt8]] {
        SeedFrames.all.filter { $0.count > 50 }.map { frame in [1, 0, 3, 0, word(frame, 12) == 0x0800 ? 34 : 54, 7] + frame }
    }

    static func cut(_ bytes: [UInt8]) throws {
        var input = FuzzInput(bytes)
        let heap = try FuzzHosts.reference()
        var virtio = dk_virtio_header()
        virtio.segmentation = 5
        virtio.flags = input.byte()
        virtio.segment_size = input.word()
        virtio.checksum_start = input.word()
        virtio.checksum_offset = 6
        let capacity = Int(input.byte() & 15) + 1
        let frame = input.take(2048)
        guard !frame.isEmpty else { return }
        let whole = segment(frame, heap)
        if var run = DatagramRun(whole, virtio) {
            try check(&run, frame, virtio, capacity)
        } else {
            whole.release()
        }
        try FuzzHosts.requireEmptyHeap("a run of datagrams")
    }

    private static func check(_ run: inout DatagramRun, _ frame: [UInt8], _ virtio: dk_virtio_header, _ capacity: Int) throws {
        var statistics = NetworkDeviceStatistics()
        var burst = FrameBurst(capacity: capacity, heap: try FuzzHosts.reference())
        var frames: [[UInt8]] = []
        while !run.isEmpty {
            run.cut(into: &burst, &statistics)
            require(!burst.isEmpty, "a run with datagrams left gives none")
            while !burst.isEmpty {
                let cut = burst.removeFirst()
                frames.append(cut.head.packet.array)
                require(cut.offload.flags == (virtio.flags & 1 != 0 ? .partialChecksum : .checksumIsValid), "what is said of the checksum")
                cut.release()
            }
        }
        let size = Int(virtio.segment_size)
        // The frame was found to be whole: where UDP begins follows from the first piece.
        guard let transport = transport(of: frame) else { return require(false, "no UDP was cut") }
        let payload = Array(frame[(transport + 8)..<(transport + word(frame, transport + 4))])
        require(frames.count == max(1, (payload.count + size - 1) / size), "\(frames.count) datagrams of \(payload.count) bytes by \(size)")
        require(Array(frames.map { $0[(transport + 8)...] }.joined()) == payload, "the payload differs")
        for (number, cut) in frames.enumerated() {
            require(number == frames.count - 1 || cut.count == transport + 8 + size, "datagram \(number) is short")
            require(word(cut, transport + 4) == cut.count - transport, "UDP's length in datagram \(number)")
            checkHeaders(cut, frame, transport, number)
            guard virtio.flags & 1 != 0 else { continue }
            let expected = word(frame, transport + 6) + word(cut, transport + 4) + (0xffff - word(frame, transport + 4))
            require((expected - word(cut, transport + 6)) % 0xffff == 0, "the pseudo-header's sum in datagram \(number)")
        }
    }

    private static func checkHeaders(_ cut: [UInt8], _ frame: [UInt8], _ transport: Int, _ number: Int) {
        let ip = word(frame, 12) == 0x8100 ? 18 : 14
        if frame[ip] >> 4 == 4 {
            require(word(cut, ip + 2) == cut.count - ip, "IPv4's length in datagram \(number)")
            require(word(cut, ip + 4) == (word(frame, ip + 4) + number) & 0xffff, "IPv4's identification in datagram \(number)")
            if referenceChecksum(frame[ip..<transport]) == 0 { require(referenceChecksum(cut[ip..<transport]) == 0, "IPv4's checksum in \(number)") }
            require(cut[..<(ip + 2)] == frame[..<(ip + 2)] && cut[(ip + 6)..<(ip + 10)] == frame[(ip + 6)..<(ip + 10)], "the headers of \(number)")
            require(cut[(ip + 12)..<(transport + 4)] == frame[(ip + 12)..<(transport + 4)], "addresses, options and ports of \(number)")
        } else {
            require(word(cut, ip + 4) == cut.count - ip - 40, "IPv6's length in datagram \(number)")
            require(cut[..<(ip + 4)] == frame[..<(ip + 4)] && cut[(ip + 6)..<(transport + 4)] == frame[(ip + 6)..<(transport + 4)], "the headers of \(number)")
        }
    }

    /// Where UDP begins, by a walk of its own.
    private static func transport(of frame: [UInt8]) -> Int? {
        let ip = word(frame, 12) == 0x8100 ? 18 : 14
        if frame[ip] >> 4 == 4 { return ip + Int(frame[ip] & 15) * 4 }
        var (next, offset) = (frame[ip + 6], ip + 40)
        while next != 17 {
            guard offset + 8 <= frame.count else { return nil }
            next = frame[offset]
            offset += (Int(frame[offset + 1]) + 1) * 8
        }
        return offset
    }

    // MARK: - Segments

    /// The manner (family, options, where the payload lies), the length of a full segment, and of each segment its length and what is changed in its
    /// headers. To begin with, each byte of the second one's.
    static var segmentSeeds: [[UInt8]] {
        var seeds: [[UInt8]] = [[0, 100, 100, 0, 100, 0, 50, 0], [1, 100, 100, 0, 100, 0, 50, 1, 67, 0x19], [2, 255, 255, 0, 255, 0, 255, 0, 255, 0]]
        for manner in UInt8(0)...3 {
            for place in UInt8(12)..<86 { seeds.append([manner, 99, 100, 0, 100, 1, place, place == 47 || place == 67 ? 0x18 : 0xee, 100, 0, 100, 0]) }
        }
        return seeds
    }

    static func join(_ bytes: [UInt8]) throws {
        var input = FuzzInput(bytes)
        let heap = try FuzzHosts.reference()
        let manner = input.byte()
        let isIPv6 = manner & 1 != 0
        let transport = isIPv6 ? 54 : 34
        let headers = transport + (manner & 2 != 0 ? 32 : 20)
        let size = Int(input.byte()) + 1
        var burst = FrameBurst(capacity: 64, heap: heap)
        var frames: [[UInt8]] = []
        var sequence = 0xffff_ff00
        while !input.isAtEnd, frames.count < 64 {
            let count = min(Int(input.byte()), size)
            var frame = header(isIPv6, headers: headers, payload: count, sequence: sequence & 0xffff_ffff)
            for _ in 0..<(input.byte() & 3) {
                let place = Int(input.byte()) % headers
                frame[place] = input.byte()
            }
            sequence += count
            let payload = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ frames.count) }
            var rest = SegmentList.empty
            if manner & 4 == 0 { require(heap.append(segment(payload, heap), to: &rest), "the heap is exhausted") }
            burst.append(Frame(
                segment(manner & 4 == 0 ? frame : frame + payload, heap), rest: rest,
                offload: FrameOffload(flags: .partialChecksum, checksumStart: UInt16(transport), checksumOffset: 16)))
            frames.append(frame + payload)
        }
        var run = SegmentRun()
        if run.join(burst, frameMaximum: 1518) {
            require(run.byteCount == frames[..<run.frameCount].reduce(0) { $0 + $1.count }, "the bytes of \(run.frameCount) segments")
            try checkCut(contents(of: run), frames[..<run.frameCount], transport, isIPv6)
        }
        burst.removeAll()
        try FuzzHosts.requireEmptyHeap("a run of segments")
    }

    /// Ethernet, IP and TCP with as much payload as is told, of which no byte is there yet.
    private static func header(_ isIPv6: Bool, headers: Int, payload: Int, sequence: Int) -> [UInt8] {
        let transport = isIPv6 ? 54 : 34
        let length = headers - transport + payload
        func pair(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 255), UInt8(value & 255)] }
        var bytes: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]
        if isIPv6 {
            bytes += [0x86, 0xdd, 0x60, 0, 0, 0] + pair(length) + [6, 64] + SeedFrames.peer.ipv6 + SeedFrames.victim.ipv6
        } else {
            var ip: [UInt8] = [0x45, 0] + pair(20 + length) + [0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
            ip.replaceSubrange(10..<12, with: pair(Int(referenceChecksum(ip))))
            bytes += [8, 0] + ip
        }
        let addresses = isIPv6 ? bytes[22..<54] : bytes[26..<34]
        let pseudo = 0xffff - Int(referenceChecksum(Array(addresses) + [0, 6] + pair(length)))
        bytes += [0x1b, 0x58, 0, 80] + pair(sequence >> 16) + pair(sequence) + [0, 0, 0, 77, UInt8((headers - transport) / 4) << 4, 0x10, 1, 0]
        bytes += pair(pseudo) + [0, 0] + [UInt8](repeating: 1, count: headers - transport - 20)
        return bytes
    }

    /// What the run would give to the kernel.
    private static func contents(of run: borrowing SegmentRun) throws -> [UInt8] {
        let file = unsafe dk_memory_file_create("segments", 70_000)
        require(file >= 0, "no memory file")
        defer { close(file) }
        let count = run.write(to: file)
        require(count > 0, "the run cannot be written: \(count)")
        var bytes = [UInt8](repeating: 0, count: count)
        let read = unsafe bytes.withUnsafeMutableBytes { unsafe pread(file, $0.baseAddress, $0.count, 0) }
        require(read == count, "the run is shorter than was written")
        return bytes
    }

    /// Cuts the packet as the kernel does, and compares.
    private static func checkCut(_ given: [UInt8], _ frames: ArraySlice<[UInt8]>, _ transport: Int, _ isIPv6: Bool) throws {
        let virtio = unsafe given.withUnsafeBytes { unsafe $0.loadUnaligned(as: dk_virtio_header.self) }
        let packet = Array(given[MemoryLayout<dk_virtio_header>.size...])
        let (headers, size) = (Int(virtio.header_length), Int(virtio.segment_size))
        require(virtio.segmentation == (isIPv6 ? 4 : 1) && virtio.flags == 1 && Int(virtio.checksum_start) == transport, "virtio's header")
        require(packet.count <= 14 + 65_535 + (isIPv6 ? 40 : 0) && headers <= packet.count && size > 0, "the packet's length")
        let lengthField = isIPv6 ? 18 : 16
        require(word(packet, lengthField) == packet.count - (isIPv6 ? 54 : 14), "IP's length")
        if !isIPv6, referenceChecksum(frames[0][14..<34]) == 0 { require(referenceChecksum(packet[14..<34]) == 0, "IPv4's checksum") }
        let first = UInt32(word(packet, transport + 4)) << 16 | UInt32(word(packet, transport + 6))
        var position = headers
        for (number, frame) in frames.enumerated() {
            let isLast = number == frames.count - 1
            let end = min(position + size, packet.count)
            require(Array(packet[position..<end]) == Array(frame[headers...]), "the payload of segment \(number)")
            var cut = Array(packet[..<headers])
            let sequence = first &+ UInt32(number * size)
            cut.replaceSubrange(transport + 4..<transport + 8, with: (0..<4).map { UInt8(truncatingIfNeeded: sequence >> UInt32(24 - 8 * $0)) })
            if !isLast { cut[transport + 13] &= ~0x09 }
            // What it makes itself: lengths, identification and both checksums. The frames' lengths were right, or they would not have been joined.
            for place in [lengthField, lengthField + 1, transport + 16, transport + 17] + (isIPv6 ? [] : [18, 19, 24, 25]) { cut[place] = frame[place] }
            require(cut == Array(frame[..<headers]), "the headers of segment \(number) of \(frames.count)")
            position = end
        }
        require(position == packet.count, "more was given than was there")
        // The sum of the pseudo-header goes on from the first segment's.
        let difference = word(packet, lengthField) - word(frames[0], lengthField)
        require((word(frames[0], transport + 16) + difference - word(packet, transport + 16)) % 0xffff == 0, "the pseudo-header's sum")
    }
}
