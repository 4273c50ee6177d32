// Segments out: how much of the queue goes now (RFC 9293, sections 3.7.4 and 3.8.6.2.1; RFC 5681), and what a segment looks like.

extension TCPConnection {
    /// Payload up to this many bytes is copied behind its header: cheaper than a second slice with its reference.
    private static var copiedMaximum: Int { 512 }

    /// Data of ours, or a FIN, may be on its way in this state.
    @inline(__always) var maySend: Bool {
        switch state {
        case .established, .closeWait, .finWait1, .closing, .lastAcknowledgement: true
        default: false
        }
    }

    /// SND.NXT - SND.UNA: bytes, and the FIN, that are not acknowledged.
    @inline(__always) var flightSize: UInt32 { sendNext.distance(from: sendUnacknowledged) }
    /// The FIN's sequence number is sent, or there is none to send.
    @inline(__always) var hasSentEverything: Bool {
        sendNext == sendEnd ? !flags.contains(.sendIsShut) : sendNext.distance(from: sendEnd) == 1
    }

    /// Sends what may be sent now: what was lost, then new data, then the FIN.
    @inline(__always)
    mutating func transmit(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        if hasSentEverything, !scoreboard.hasLost { return }
        transmitSome(&shared, ip: &ip, now: now)
    }

    mutating func transmitSome(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        guard maySend else { return }
        // What another connection to the same host, or UDP, has learnt of the path: larger segments would go no further than the layer below.
        if path.epoch != ip.epoch { _ = ip.refresh(&path) }
        if path.mtu < discovery.mtu, discovery.packetTooBig(UInt32(path.mtu), now: now) {
            shared.counters.pathMTUReductions &+= 1
            updateSegmentSize()
        }
        if flightSize == 0 {
            congestion.afterIdle(now: now, timeout: roundTrip.timeout(shared.limits))
            if discovery.raiseIfDue(now: now) { updateSegmentSize() }
        }
        if scoreboard.hasLost, !retransmitLost(&shared, ip: &ip, now: now) { return }
        var sent = false
        while !hasSentEverything {
            let unsent = sendNext == sendEnd ? 0 : sendEnd.distance(from: sendNext)
            let length = sendable(unsent)
            if unsent > 0, length == 0 { break }
            let fin = flags.contains(.sendIsShut) && length == unsent
            guard sendDataInline(sendNext, Int(length), fin: fin, isNew: true, &shared, ip: &ip, now: now) else { break }
            sent = true
        }
        if sent || retransmissionTimer == .off { armRetransmission(&shared, now: now) }
    }

    /// What makes a segment of new data an unusual one.
    private static var unusual: ConnectionFlags {
        [.timestamps, .ecn, .sendIsShut, .isInRecovery, .isAfterTimeout, .echoesCongestion, .reportsReduction, .isBlocked]
    }

    /// Sends what the application has just given, the last in the queue, as one segment, where there is nothing else to send and all is as it is
    /// in an exchange of messages: header prediction for the way out. False, and nothing changed, in every other case.
    @inline(always)
    mutating func sendPredicted(_ segment: Segment, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) -> Bool {
        let length = segment.count
        let flight = flightSize
        guard sendNext.distance(from: sendUnacknowledged) &+ length == sendEnd.distance(from: sendUnacknowledged),
            flags.intersection(Self.unusual) == .timestamps, state == .established, flight &+ length <= sendWindow,
            length <= min(UInt32(Self.copiedMaximum), UInt32(segmentSize)), reorder.isEmpty, !scoreboard.hasHoles, duplicateAcknowledgements == 0,
            flight == 0 ? congestion.isActive(now) : flags.contains(.noDelay) && Int(flight &+ length) <= congestion.window,
            path.epoch == ip.epoch, path.mtu >= discovery.mtu, !path.isLocal, ip.canSend
        else { return false }
        let packet = ip.makePacket(transportBytes: 32 &+ Int(length))
        guard !packet.isNull else { return false }
        let target = packet.packet.slice(from: 32)
        var sum: UInt64 = 0
        if ip.offloadsChecksums {
            target.copy(from: segment.packet, at: 0)
        } else {
            sum = InternetChecksum.copyAndSum(from: segment.packet, to: target)
        }
        guard sendSegment(packet, .empty, sum, sendNext, Int(length), 0, fin: false, isNew: true, &shared, ip: &ip, now: now) else { return true }
        armRetransmission(&shared, now: now)
        return true
    }

    /// How many of `unsent` bytes the windows and the rules against small segments let go now; 0 for none.
    @inline(__always)
    private mutating func sendable(_ unsent: UInt32) -> UInt32 {
        // What reports out-of-order data takes its bytes from the segment's: RFC 6691, section 2.
        let full = UInt32(segmentSize) &- (reorder.isEmpty ? 0 : UInt32(reportBytes(Int(segmentSize) / 2)))
        let flight = flightSize
        // The peer may have shrunk its window: the edge lies behind SND.NXT then.
        let usable = sendWindow > flight ? sendWindow &- flight : 0
        let wanted = min(unsent, full)
        var length = min(wanted, usable)
        if length == 0 { return 0 }
        // RFC 5681, section 3.1: FlightSize less what is known to have left the network; at least one segment when nothing is out.
        let inNetwork = inNetwork
        if inNetwork != 0, Int(inNetwork) &+ Int(length) > congestion.window { return 0 }
        if length == full { return length }
        if length == unsent {
            // RFC 9293, section 3.7.4: Nagle. A FIN that can go along is a push of its own.
            if flags.contains(.noDelay) || flight == 0 || flags.contains(.sendIsShut) { return length }
            return 0
        }
        // RFC 9293, section 3.8.6.2.1, case 3: half of the largest window that the peer has offered.
        if length < max(1, largestSendWindow / 2) { length = 0 }
        return length
    }

    // MARK: - One segment

    /// Sends `length` bytes from `sequence` on, with the FIN behind them where `fin`. False where the frame queue is full or the heap
    /// exhausted: nothing has changed then but `isBlocked`.
    @inline(never)
    mutating func sendData(
        _ sequence: SequenceNumber, _ length: Int, fin: Bool, isNew: Bool, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64
    ) -> Bool {
        sendDataInline(sequence, length, fin: fin, isNew: isNew, &shared, ip: &ip, now: now)
    }

    /// The same within its caller: for the one that sends new data.
    @inline(always)
    private mutating func sendDataInline(
        _ sequence: SequenceNumber, _ length: Int, fin: Bool, isNew: Bool, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64
    ) -> Bool {
        guard ip.canSend else { return block(&shared) }
        let reported = reorder.isEmpty ? 0 : reportBytes(Int(segmentSize) &- length)
        guard length <= Self.copiedMaximum || queue.isScattered(sequence, length) else {
            return sendSlices(sequence, length, reported, fin: fin, isNew: isNew, &shared, ip: &ip, now: now)
        }
        let headerLength = fixedHeaderLength &+ reported
        let packet = ip.makePacket(transportBytes: headerLength &+ length)
        guard !packet.isNull else { return block(&shared) }
        var sum: UInt64 = 0
        if length > 0 {
            sum = queue.copy(sequence, length, to: packet.packet.slice(from: headerLength), sums: !ip.leavesChecksum(on: path))
        }
        return sendSegment(packet, .empty, sum, sequence, length, reported, fin: fin, isNew: isNew, &shared, ip: &ip, now: now)
    }

    /// The same for a longer segment: its header, and slices of the application's buffers.
    @inline(never)
    private mutating func sendSlices(
        _ sequence: SequenceNumber, _ length: Int, _ reported: Int, fin: Bool, isNew: Bool, _ shared: inout TCPShared, ip: inout NetworkLayer,
        now: UInt64
    ) -> Bool {
        let packet = ip.makePacket(transportBytes: fixedHeaderLength &+ reported)
        guard !packet.isNull else { return block(&shared) }
        var sum: UInt64 = 0
        let payload = queue.slices(sequence, length, sums: !ip.leavesChecksum(on: path), sum: &sum, in: shared.heap)
        guard !payload.isEmpty else {
            packet.release()
            return block(&shared)
        }
        return sendSegment(packet, payload, sum, sequence, length, reported, fin: fin, isNew: isNew, &shared, ip: &ip, now: now)
    }

    /// The header of every segment of this connection, in bytes: with timestamps, without reports.
    @inline(__always) private var fixedHeaderLength: Int { flags.contains(.timestamps) ? 32 : 20 }

    /// Sends the segment of which `packet` is the header's room, `reported` bytes of it for what has come out of order, and what was copied
    /// behind it, and `payload` the rest; `dataSum` is that of the data. Takes their references in any case.
    @inline(always)
    private mutating func sendSegment(
        _ packet: Segment, _ payload: SegmentList, _ dataSum: UInt64, _ sequence: SequenceNumber, _ length: Int, _ reported: Int, fin: Bool,
        isNew: Bool, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64
    ) -> Bool {
        let headerLength = fixedHeaderLength &+ reported
        let bytes = packet.packet
        // PSH where the queue is empty behind the segment: RFC 9293, section 3.9.1.2.
        var bits: UInt32 = 0x10
        if sequence + length == sendEnd { bits |= 0x08 }
        if fin { bits |= 0x01 }
        if !flags.isDisjoint(with: [.echoesCongestion, .reportsReduction]) { bits |= congestionBits(isNew: isNew && sendWindow != 0, length) }
        let headerSum = writeHeader(bytes, sequence, bits, headerLength, now)
        let pseudoHeader = path.pseudoHeader(.tcp, length: headerLength &+ length)
        let sums = !ip.leavesChecksum(on: path)
        let reportSum = reported > 0 ? writeReport(bytes, from: fixedHeaderLength, to: headerLength, sums: sums) : 0
        let offload = finishChecksum(bytes, sums ? pseudoHeader &+ dataSum &+ headerSum &+ reportSum : pseudoHeader, sums)
        shared.counters.segmentsSent &+= 1
        shared.counters.bytesSent &+= UInt64(truncatingIfNeeded: length)
        noteAcknowledgementSent()
        if flags.contains(.isInRecovery) { recovery.noteSent(UInt32(truncatingIfNeeded: length)) }
        if isNew {
            let covered = UInt32(truncatingIfNeeded: length) &+ (fin ? 1 : 0)
            guard scoreboard.recordSent(sequence, covered, now: now, in: shared.heap) else {
                packet.release()
                payload.releaseAll()
                return block(&shared)
            }
            if flightSize == 0 {
                stalledSince = now
                timeoutSince = now
            }
            sendNext = sequence + covered
            congestion.noteSent(inNetwork: inNetwork)
            if fin { flags.insert(.finIsSent) }
        } else {
            shared.counters.retransmittedSegments &+= 1
            totalRetransmissions &+= 1
        }
        // RFC 3168, sections 6.1.5 and 6.1.6: retransmissions and window probes are not ECN-capable; RFC 8257 sends all of them so, but need not.
        let traffic = options.trafficClass &<< 2 | (flags.contains(.ecn) && isNew && length > 0 && sendWindow != 0 ? 2 : 0)
        ip.send(packet, payload: payload, on: &path, proto: 6, traffic: traffic, dontFragment: true, offload: offload, now: now)
        return true
    }

    /// The header with its timestamps; everything but the checksum, which is 0. Answers its sum: of words that are in registers, for to load
    /// what was just stored in pieces stalls.
    @inline(__always)
    private mutating func writeHeader(
        _ bytes: PacketBytes, _ sequence: SequenceNumber, _ bits: UInt32, _ headerLength: Int, _ now: UInt64
    ) -> UInt64 {
        let first = UInt64(ports) &<< 32 | UInt64(sequence.rawValue)
        let offset = UInt32(truncatingIfNeeded: headerLength &>> 2) &<< 28
        let second = UInt64(receiveNext.rawValue) &<< 32 | UInt64(offset | bits &<< 16 | UInt32(windowField()))
        bytes.store64(first, at: 0)
        bytes.store64(second, at: 8)
        bytes.store32(0, at: 16)
        var sum = Self.halves(first) &+ Self.halves(second)
        if flags.contains(.timestamps) {
            let stamps = UInt64(TCPShared.timestampClock(now) &+ timestampOffset) &<< 32 | UInt64(timestampRecent)
            bytes.store32(TCPOptions.timestampsPrefix, at: 20)
            bytes.store64(stamps, at: 24)
            sum = sum &+ Self.halves(stamps) &+ UInt64(TCPOptions.timestampsPrefix.bigEndian)
        }
        return sum
    }

    /// Both halves of a word, as they lie in memory, for an ``InternetChecksum`` sum.
    @inline(__always) private static func halves(_ word: UInt64) -> UInt64 {
        let stored = word.bigEndian
        return (stored & 0xffff_ffff) &+ (stored &>> 32)
    }

    /// Stores the checksum of a sum over everything or, where the device is to complete it, of one over the pseudo-header.
    @inline(__always)
    func finishChecksum(_ header: PacketBytes, _ sum: UInt64, _ sums: Bool) -> FrameOffload {
        if sums {
            header.store16(InternetChecksum.fold(sum), at: TCPHeader.checksumOffset)
            return .none
        }
        header.store16(~InternetChecksum.fold(sum), at: TCPHeader.checksumOffset)
        return FrameOffload(flags: .partialChecksum, checksumOffset: UInt8(TCPHeader.checksumOffset))
    }

    /// What goes out acknowledges everything that has come.
    @inline(__always)
    mutating func noteAcknowledgementSent() {
        acknowledgementSent = receiveNext
        flags.remove(.acknowledgeNow)
        acknowledgementDeadline = .max
    }

    /// The frame queue or the heap is full: the connection goes on at the next flush.
    @inline(never)
    private mutating func block(_ shared: inout TCPShared) -> Bool {
        shared.counters.backPressure &+= 1
        flags.insert(.isBlocked)
        joinPending(&shared)
        return false
    }

    // MARK: - The receive window

    /// The window field, after moving the window's right edge as far as the free buffer allows: never left (RFC 9293, section 3.8.6), and
    /// right only by a segment or half of the buffer (section 3.8.6.2.2).
    @inline(__always)
    mutating func windowField() -> UInt16 {
        let offered = receiveEdge.distance(from: receiveNext)
        let free = freeReceiveBuffer
        var window = offered
        if free > offered, free &- offered >= min(UInt32(receiveSegmentSize), receiveLimit / 2) { window = free }
        let scale = UInt32(receiveScale)
        var field = window &>> scale
        // Rounded up where rounding down would move the edge left: RFC 7323, section 2.4.
        if field &<< scale < offered { field &+= 1 }
        field = min(field, 65_535)
        receiveEdge = receiveNext + field &<< scale
        return UInt16(truncatingIfNeeded: field)
    }

    /// Receive buffer that nothing occupies: by payload, or by half of the memory that small payloads keep.
    @inline(__always) var freeReceiveBuffer: UInt32 {
        let used = max(unreadBytes, heldBytes &>> 1)
        return used >= receiveLimit ? 0 : receiveLimit &- used
    }

    // MARK: - Acknowledgements

    /// Sends a segment without data: an acknowledgement, a window update, a challenge (RFC 5961), a keep-alive with an old `sequence`.
    @inline(never)
    mutating func sendAcknowledgement(
        _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64, duplicate: SACKBlock? = nil, sequence: SequenceNumber? = nil
    ) {
        guard ip.canSend else {
            flags.insert(.acknowledgeNow)
            _ = block(&shared)
            return
        }
        var headerLength = flags.contains(.timestamps) ? 32 : 20
        var blocks = TCPOptions()
        if flags.contains(.selectiveAcknowledgement), duplicate != nil || !reorder.isEmpty {
            if let duplicate { reorder.report(into: &blocks, duplicate: duplicate) } else { reorder.report(into: &blocks) }
            let room = flags.contains(.timestamps) ? 3 : 4
            headerLength += 4 + 8 * min(room, blocks.sackCount)
        }
        let packet = ip.makePacket(transportBytes: headerLength)
        guard !packet.isNull else {
            flags.insert(.acknowledgeNow)
            _ = block(&shared)
            return
        }
        let bytes = packet.packet
        var bits: UInt32 = 0x10
        if flags.contains(.echoesCongestion) { bits |= congestionBits(isNew: false, 0) }
        let fixedLength = flags.contains(.timestamps) ? 32 : 20
        let headerSum = writeHeader(bytes, sequence ?? sendNext, bits, headerLength, now)
        writeBlocks(blocks, bytes, from: fixedLength, to: headerLength)
        let sums = !ip.leavesChecksum(on: path)
        var sum = path.pseudoHeader(.tcp, length: headerLength)
        if sums { sum = InternetChecksum.sum(bytes.slice(from: fixedLength), initial: sum &+ headerSum) }
        let offload = finishChecksum(bytes, sum, sums)
        shared.counters.segmentsSent &+= 1
        shared.counters.pureAcknowledgements &+= 1
        noteAcknowledgementSent()
        let traffic = options.trafficClass &<< 2
        ip.send(packet, payload: .empty, on: &path, proto: 6, traffic: traffic, dontFragment: true, offload: offload, now: now)
    }

    /// Bytes of the option that reports what has come out of order, in a segment of data with this much room; 0 where there is none. RFC 2018,
    /// section 4: as many segments as possible carry it.
    @inline(never)
    private func reportBytes(_ available: Int) -> Int {
        guard flags.contains(.selectiveAcknowledgement), available >= 12 else { return 0 }
        var blocks = TCPOptions()
        reorder.report(into: &blocks)
        return 4 + 8 * min(blocks.sackCount, flags.contains(.timestamps) ? 3 : 4, (available - 4) / 8)
    }

    /// Writes that option; answers its sum where one is wanted.
    @inline(never)
    private func writeReport(_ bytes: PacketBytes, from start: Int, to end: Int, sums: Bool) -> UInt64 {
        var blocks = TCPOptions()
        reorder.report(into: &blocks)
        writeBlocks(blocks, bytes, from: start, to: end)
        return sums ? InternetChecksum.sum(bytes.slice(start, end - start)) : 0
    }

    /// NOP, NOP, SACK, behind the other options.
    private func writeBlocks(_ blocks: TCPOptions, _ bytes: PacketBytes, from start: Int, to end: Int) {
        guard end > start else { return }
        let count = (end - start - 4) / 8
        bytes.store32(0x0101_0502 &+ UInt32(count * 8), at: start)
        for index in 0..<count {
            bytes.store32(blocks.sackBlocks[index].left.rawValue, at: start + 4 + index * 8)
            bytes.store32(blocks.sackBlocks[index].right.rawValue, at: start + 8 + index * 8)
        }
    }

    // MARK: - Handshake

    /// Sends the SYN or, in SYN_RECEIVED, the SYN-ACK.
    @inline(never)
    mutating func sendSYN(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        let isAnswer = state == .synReceived
        guard ip.canSend else {
            _ = block(&shared)
            return
        }
        var offered = TCPOptions(maximumSegmentSize: localSegmentSize)
        let settings = shared.configuration
        if isAnswer ? flags.contains(.timestamps) : settings.timestamps {
            offered.timestamps = TCPTimestamps(value: TCPShared.timestampClock(now) &+ timestampOffset, echo: timestampRecent)
        }
        offered.sackPermitted = isAnswer ? flags.contains(.selectiveAcknowledgement) : settings.selectiveAcknowledgement
        if isAnswer ? flags.contains(.windowScale) : settings.windowScale { offered.windowScale = receiveScale }
        var bits: TCPFlags = isAnswer ? [.syn, .ack] : .syn
        // RFC 3168, section 6.1.1: asked with both bits, agreed with one. A SYN that was lost goes out again without: section 6.1.1.1.
        if isAnswer {
            if flags.contains(.ecn) { bits.insert(.ece) }
        } else if wantsECN(settings), handshakeRetries == 0 {
            bits.formUnion([.ece, .cwr])
        }
        // RFC 7323, section 2.2: the window of a SYN is not scaled.
        let window = min(receiveLimit, 65_535)
        let packet = ip.makePacket(transportBytes: TCPHeader.byteCount + offered.byteCount)
        guard !packet.isNull else {
            _ = block(&shared)
            return
        }
        let header = TCPHeader(
            sourcePort: UInt16(ports >> 16), destinationPort: UInt16(truncatingIfNeeded: ports), sequenceNumber: initialSendSequence,
            acknowledgmentNumber: isAnswer ? receiveNext : SequenceNumber(0), flags: bits, window: UInt16(window))
        header.emit(into: packet.packet, options: offered)
        let sums = !ip.leavesChecksum(on: path)
        let sum = path.pseudoHeader(.tcp, length: packet.byteCount)
        let offload = finishChecksum(packet.packet, sums ? InternetChecksum.sum(packet.packet, initial: sum) : sum, sums)
        if isAnswer {
            acknowledgementSent = receiveNext
            receiveEdge = receiveNext + window
        }
        shared.counters.segmentsSent &+= 1
        stalledSince = handshakeRetries == 0 ? now : stalledSince
        let traffic = options.trafficClass &<< 2
        ip.send(packet, payload: .empty, on: &path, proto: 6, traffic: traffic, dontFragment: true, offload: offload, now: now)
    }

    /// What we ask the peer to send at most: our MTU less the headers. RFC 9293, section 3.7.1; RFC 6691.
    var localSegmentSize: UInt16 { path.mtu &- (path.isIPv4 ? 40 : 60) }

    func wantsECN(_ settings: TCPConfiguration) -> Bool {
        settings.ecn || (options.congestionControl ?? settings.congestionControl) == .dctcp
    }
}
