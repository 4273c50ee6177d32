// What happens by itself.

extension NetworkLayer {
    /// When ``runTimers(_:)`` next has something to do; `UInt64.max` for never. Constant time.
    @inline(__always)
    mutating func nextDeadline() -> UInt64 {
        min(min(neighbours.nextDeadline(), announcement.deadline), min(pathMTUs.nextDeadline(), reassembly.nextDeadline))
    }

    /// Runs what is due. Constant time when nothing is.
    @inline(__always)
    mutating func runTimers(_ now: UInt64) {
        if nextDeadline() <= now { runTimersSlow(now) }
    }

    @inline(never)
    private mutating func runTimersSlow(_ now: UInt64) {
        runNeighbourTimers(now)
        expireDatagrams(now)
        if pathMTUs.expire(now) { advanceEpoch() }
        if announcement.deadline <= now { announceAll(now) }
    }

    /// Twice, two seconds apart: ANNOUNCE_NUM and ANNOUNCE_INTERVAL of RFC 5227, section 1.1. IPv6 addresses are asked for once: DupAddrDetectTransmits
    /// of RFC 4862, section 5.1; they are used from the start (RFC 4429), because they are configured.
    private mutating func announceAll(_ now: UInt64) {
        let isFirst = announcement.left == 2
        announcement.left -= 1
        announcement.deadline = announcement.left == 0 ? .max : now &+ 2_000_000_000
        for number in 0..<addressCount {
            let address = addresses[number].address
            if address.isIPv4 {
                announce(address.ipv4)
            } else if isFirst {
                sendDuplicateProbe(for: address)
            }
        }
    }

    /// Notes that a packet of `length` bytes, of which `quoted` is the beginning, does not fit. Answers the path's MTU; nil where the message cannot be true. RFC 8201, section 4; RFC 5927,
    /// section 7.
    mutating func notePathMTU(_ quoted: QuotedPacket, length: Int, mtu stated: Int, now: UInt64) -> UInt16? {
        var mtu = stated
        if quoted.destination.isIPv4 {
            // RFC 1191, section 5: an old router does not say how much fits: the next smaller plateau.
            if mtu == 0 { mtu = plateau(below: length) }
            // RFC 1191, section 3 has 68 as the bound, which makes an attacker's work easy; RFC 5927 and others hold 552 or more.
            mtu = max(mtu, 576)
        } else {
            // No link has less: the message is to be discarded.
            guard mtu >= IPv6Header.linkMTUMinimum else { return nil }
        }
        guard isOwn(quoted.source), mtu < Int(self.mtu), mtu < length else { return nil }
        guard pathMTUs.insert(quoted.destination, mtu: UInt16(mtu), now: now) else { return pathMTUs.find(quoted.destination) }
        counters.pathMTUUpdates &+= 1
        advanceEpoch()
        return UInt16(mtu)
    }

    /// RFC 1191, section 7.
    private func plateau(below length: Int) -> Int {
        if length > 32_000 { return 32_000 }
        if length > 17_914 { return 17_914 }
        if length > 8166 { return 8166 }
        if length > 4352 { return 4352 }
        if length > 2002 { return 2002 }
        if length > 1492 { return 1492 }
        if length > 1006 { return 1006 }
        return 576
    }
}
