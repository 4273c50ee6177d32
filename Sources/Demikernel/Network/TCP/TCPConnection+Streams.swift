// The application's end of a connection: data in and out of the queues.

extension TCPConnection {
    /// Takes data into the send queue. The last segment is the cheapest: one entry, no copy.
    @inline(__always)
    mutating func send(_ segments: SegmentList, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) -> SendResult {
        guard state == .established || state == .closeWait, !flags.contains(.sendIsShut) else { return refuseToSend(segments, &shared) }
        let waiting = sendEnd.distance(from: sendUnacknowledged)
        guard waiting < sendLimit, segments.byteCount < 1 << 30 else {
            flags.insert(.wantsToWrite)
            return .full
        }
        if segments.count == 1, segments.first.count > 0 {
            guard queue.append(segments.first, at: sendEnd, in: shared.heap) else { return .failed(SocketError.noMemory) }
            sendEnd += segments.first.count
            if sendPredicted(segments.first, &shared, ip: &ip, now: now) { return .taken }
        } else if !appendAll(segments, shared) {
            return .failed(SocketError.noMemory)
        }
        transmit(&shared, ip: &ip, now: now)
        return .taken
    }

    /// Before the handshake is done data waits outside; afterwards there is a reason why not.
    @inline(never)
    private func refuseToSend(_ segments: SegmentList, _ shared: inout TCPShared) -> SendResult {
        if error != 0 { return .failed(error) }
        if state == .synSent || state == .synReceived { return .failed(SocketError.notConnected) }
        return .failed(SocketError.brokenPipe)
    }

    /// All segments or none.
    @inline(never)
    private mutating func appendAll(_ segments: SegmentList, _ shared: borrowing TCPShared) -> Bool {
        var list = segments
        let before = sendEnd
        for index in 0..<list.count where list[index].count > 0 {
            guard queue.append(list[index], at: sendEnd, in: shared.heap) else {
                while sendEnd != before { sendEnd -= queue.removeLast().count }
                return false
            }
            sendEnd += list[index].count
        }
        // The references are the queue's now, but for those of empty segments and of the list's own records.
        while !list.isEmpty {
            let segment = list.removeFirst()
            if segment.count == 0 { segment.release() }
        }
        return true
    }

    /// Takes what has come out of the receive queue.
    @inline(__always)
    mutating func read(limit: Int, isSingle: Bool, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) -> ReceiveResult {
        guard !received.isEmpty else { return whyEmpty() }
        if received.count == 1, limit == 0 || received[0].byteCount <= limit {
            let segment = received.removeFirst()
            received.shrinkIfEmpty()
            unreadBytes = 0
            heldBytes = 0
            flags.remove(.tailIsOurs)
            openWindow(&shared, ip: &ip, now: now)
            return .segments(.single(segment))
        }
        return readMany(limit: limit, atMost: isSingle ? 1 : 16, &shared, ip: &ip, now: now)
    }

    @inline(never)
    private mutating func readMany(
        limit: Int, atMost segments: Int, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64
    ) -> ReceiveResult {
        var list = SegmentList.empty
        var left = limit == 0 ? Int.max : limit
        while left > 0, list.count < segments, !received.isEmpty {
            let segment = received[0]
            let isWhole = segment.byteCount <= left
            let piece = isWhole ? segment : segment.slice(0, count: left)
            guard shared.heap.append(piece, to: &list) else {
                if !isWhole { piece.release() }
                break
            }
            left -= piece.byteCount
            unreadBytes &-= piece.count
            if isWhole {
                received.removeFirst()
                heldBytes &-= min(heldBytes, UInt32(truncatingIfNeeded: segment.capacity))
                if received.isEmpty { flags.remove(.tailIsOurs) }
            } else {
                received[0].trimFirst(piece.byteCount)
            }
        }
        if received.isEmpty { heldBytes = 0 }
        received.shrinkIfEmpty()
        guard !list.isEmpty else { return .failed(SocketError.noMemory) }
        openWindow(&shared, ip: &ip, now: now)
        return .segments(list)
    }

    /// Whether `read` has nothing to answer, neither data nor an end, before an event says so.
    @inline(__always) var isDrained: Bool {
        received.isEmpty && state == .established && flags.isDisjoint(with: [.finIsReceived, .receiveIsShut])
    }

    private func whyEmpty() -> ReceiveResult {
        if error != 0 { return .failed(error) }
        if flags.contains(.finIsReceived) || flags.contains(.receiveIsShut) { return .endOfStream }
        switch state {
        case .synSent, .synReceived, .established, .finWait1, .finWait2: return .empty
        default: return .endOfStream
        }
    }

    /// Tells the peer of room that it can use: RFC 9293, section 3.8.6.2.2.
    @inline(__always)
    private mutating func openWindow(_ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        let offered = receiveEdge.distance(from: receiveNext)
        // While there is a good deal on offer, and two segments at least, the next acknowledgement is soon enough.
        guard offered < min(receiveLimit / 2, max(32_768, UInt32(receiveSegmentSize) &* 2)) else { return }
        updateWindow(offered, &shared, ip: &ip, now: now)
    }

    @inline(never)
    private mutating func updateWindow(_ offered: UInt32, _ shared: inout TCPShared, ip: inout NetworkLayer, now: UInt64) {
        let free = freeReceiveBuffer
        let step = min(receiveLimit / 2, max(UInt32(receiveSegmentSize) * 2, receiveLimit / 8))
        let least = offered < UInt32(receiveSegmentSize) ? min(receiveLimit / 2, UInt32(receiveSegmentSize)) : step
        guard free > offered, free - offered >= least, !flags.contains(.finIsReceived), !flags.contains(.isDetached) else { return }
        guard state == .established || state == .finWait1 || state == .finWait2 else { return }
        sendAcknowledgement(&shared, ip: &ip, now: now)
    }

    // MARK: - Settings

    static func receiveLimit(_ options: TCPSocketOptions, _ settings: TCPConfiguration) -> UInt32 {
        UInt32(min(max(options.receiveBuffer != 0 ? options.receiveBuffer : settings.receiveBuffer, 2_048), 1 << 30))
    }

    static func sendLimit(_ options: TCPSocketOptions, _ settings: TCPConfiguration) -> UInt32 {
        UInt32(min(max(options.sendBuffer != 0 ? options.sendBuffer : settings.sendBuffer, 2_048), 1 << 30))
    }

    /// The shift with which a window of `limit` fits its field: RFC 7323, section 2.3.
    static func scale(for limit: UInt32) -> UInt8 {
        var shift: UInt8 = 0
        while shift < 14, limit >> UInt32(shift) > 65_535 { shift += 1 }
        return shift
    }

    init(
        _ path: NetworkPath, _ tuple: ConnectionTuple, _ options: TCPSocketOptions, _ settings: TCPConfiguration,
        initialSequence: SequenceNumber, timestampOffset: UInt32
    ) {
        self.path = path
        discovery = PathMTUDiscovery(mtu: path.mtu, isIPv4: path.isIPv4)
        self.options = options
        receiveLimit = Self.receiveLimit(options, settings)
        sendLimit = Self.sendLimit(options, settings)
        congestion = CongestionControl(options.congestionControl ?? settings.congestionControl)
        roundTrip = RoundTripEstimator()
        ports = UInt32(tuple.localPort) << 16 | UInt32(tuple.remotePort)
        initialSendSequence = initialSequence
        sendUnacknowledged = initialSequence
        // The SYN takes the first number; data follows it.
        sendNext = initialSequence + 1
        sendEnd = initialSequence + 1
        self.timestampOffset = timestampOffset
        receiveScale = Self.scale(for: receiveLimit)
        quickAcknowledgements = UInt8(min(settings.quickAcknowledgements, 255))
        if options.noDelay ?? settings.noDelay { flags.insert(.noDelay) }
        if options.keepAlive { flags.insert(.keepAlive) }
        self.options.trafficClass &= 63
    }

    mutating func set(_ options: TCPSocketOptions, _ shared: inout TCPShared, now: UInt64) {
        let settings = shared.configuration
        self.options = options
        self.options.trafficClass &= 63
        receiveLimit = Self.receiveLimit(options, settings)
        sendLimit = Self.sendLimit(options, settings)
        if options.noDelay ?? settings.noDelay { flags.insert(.noDelay) } else { flags.remove(.noDelay) }
        if options.keepAlive {
            flags.insert(.keepAlive)
            if idleDeadline == .max, state == .established || state == .closeWait { startKeepAlive(&shared, now: now) }
        } else {
            flags.remove(.keepAlive)
        }
    }

    mutating func information(_ limits: TimeoutLimits) -> TCPInformation {
        var result = TCPInformation()
        result.state = state
        result.smoothedRoundTrip = roundTrip.smoothed
        result.roundTripVariation = roundTrip.variation
        result.minimumRoundTrip = roundTrip.minimum
        result.retransmissionTimeout = roundTrip.timeout(limits)
        result.congestionWindow = congestion.window
        result.slowStartThreshold = congestion.slowStartThreshold
        result.sendWindow = Int(sendWindow)
        result.receiveWindow = Int(receiveEdge.distance(from: receiveNext))
        result.maximumSegmentSize = Int(segmentSize)
        result.bytesInFlight = Int(flightSize)
        result.bytesUnsent = sendNext == sendEnd + 1 ? 0 : Int(sendEnd.distance(from: sendNext))
        result.bytesUnread = Int(unreadBytes)
        result.bytesOutOfOrder = reorder.byteCount
        result.retransmissions = Int(totalRetransmissions)
        result.backOff = Int(backOff)
        result.isInRecovery = !flags.isDisjoint(with: [.isInRecovery, .isAfterTimeout])
        result.hasTimestamps = flags.contains(.timestamps)
        result.hasSelectiveAcknowledgement = flags.contains(.selectiveAcknowledgement)
        result.hasWindowScale = flags.contains(.windowScale)
        result.hasECN = flags.contains(.ecn)
        return result
    }
}
