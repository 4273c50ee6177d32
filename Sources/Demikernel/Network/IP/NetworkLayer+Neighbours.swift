// Neighbour unreachability detection, for ARP and NDP alike. RFC 4861, section 7.3; RFC 1122, section 2.3.2.

extension NetworkLayer {
    /// Sends a frame to a neighbour, or keeps it until the neighbour is found.
    mutating func dispatch(_ frame: Frame, to slot: UInt32, now: UInt64) {
        switch neighbours[slot].state {
        case .permanent, .delay, .probe: break
        case .reachable where neighbours[slot].freshUntil > now: break
        case .reachable, .stale:
            // RFC 4861, section 7.3.3: use it, and see whether the transport hears from the neighbour; ask otherwise.
            let deadline = now &+ neighbourConfiguration.delayTime
            neighbours[slot].state = .delay
            neighbours[slot].freshUntil = deadline
            neighbours.move(slot, to: .delayed, deadline: deadline)
        case .unresolved:
            beginResolution(slot, now: now)
            return keep(frame, slot)
        case .incomplete: return keep(frame, slot)
        }
        push(frame)
    }

    /// The link has come back, perhaps with another host or another network card at its other end: whoever is needed is asked for anew, and told
    /// of this host (RFC 5227, section 2.3), which would otherwise take half a minute of neighbour unreachability detection.
    mutating func linkCameBack(now: UInt64) {
        neighbours.forgetAddresses()
        advanceEpoch()
        if announcesAddresses { announcement = Announcement(left: 2, deadline: now) }
    }

    private mutating func keep(_ frame: Frame, _ slot: UInt32) {
        if let oldest = neighbours.enqueue(frame, slot) {
            counters.pendingDrops &+= 1
            oldest.release()
        }
    }

    private mutating func beginResolution(_ slot: UInt32, now: UInt64) {
        neighbours[slot].state = .incomplete
        neighbours[slot].freshUntil = 0
        neighbours[slot].attempts = 1
        neighbours.move(slot, to: .timed, deadline: now &+ neighbourConfiguration.retransmitTime)
        solicit(slot)
    }

    /// Asks the neighbour: everybody while its Ethernet address is not known, itself where it is to be confirmed.
    private mutating func solicit(_ slot: UInt32) {
        let neighbour = neighbours[slot]
        let target = neighbour.state == .probe ? neighbour.linkAddress : nil
        if neighbour.address.isIPv4 {
            sendARPRequest(for: neighbour.address.ipv4, to: target)
        } else {
            sendNeighbourSolicitation(for: neighbour.address, to: target)
        }
    }

    /// The neighbour has answered, or is known to have received what was sent: RFC 4861, section 7.3.1.
    mutating func confirm(_ slot: UInt32, now: UInt64) {
        let base = neighbourConfiguration.reachableTime
        neighbours[slot].state = .reachable
        neighbours[slot].freshUntil = now &+ base / 2 &+ random.next(below: max(1, base))
        neighbours.move(slot, to: .idle)
    }

    /// What a transport knows: data that was sent this way has arrived. Nobody has to be asked then: RFC 4861, section 7.3.1.
    @inline(__always)
    package mutating func confirmReachability(on path: NetworkPath, now: UInt64) {
        guard path.epoch == epoch, path.neighbour < NetworkPath.multicast, neighbours[path.neighbour].isInDoubt(now) else { return }
        confirmInDoubt(path.neighbour, now: now)
    }

    @inline(never)
    private mutating func confirmInDoubt(_ slot: UInt32, now: UInt64) { confirm(slot, now: now) }

    /// The neighbour has said where it is, but not in answer to us: the address is used and confirmed on its next use.
    mutating func learn(_ slot: UInt32, _ address: MACAddress, now: UInt64) {
        if neighbours[slot].linkAddress != address {
            neighbours[slot].linkAddress = address
            neighbours[slot].changedAt = now
        }
        neighbours[slot].state = .stale
        neighbours[slot].freshUntil = 0
        neighbours.move(slot, to: .idle)
    }

    /// Sends what waited for the neighbour.
    mutating func sendPending(_ slot: UInt32, now: UInt64) {
        while let frame = neighbours.dequeue(slot) {
            frame.head.packet.storeMAC(neighbours[slot].linkAddress, at: 0)
            dispatch(frame, to: slot, now: now)
        }
    }

    /// Runs the timers of neighbours that are due.
    mutating func runNeighbourTimers(_ now: UInt64) {
        while let slot = neighbours.due(now) {
            switch neighbours[slot].state {
            case .delay:
                neighbours[slot].state = .probe
                neighbours[slot].attempts = 1
            case .incomplete, .probe:
                guard Int(neighbours[slot].attempts) < neighbourConfiguration.attemptsMaximum else {
                    fail(slot)
                    continue
                }
                neighbours[slot].attempts += 1
            case .unresolved, .reachable, .stale, .permanent:
                neighbours.move(slot, to: .idle)
                continue
            }
            let deadline = now &+ neighbourConfiguration.retransmitTime
            if neighbours[slot].state == .probe { neighbours[slot].freshUntil = deadline }
            neighbours.move(slot, to: .timed, deadline: deadline)
            solicit(slot)
        }
    }

    /// Nobody answers: what waits cannot be delivered. The next frame asks again.
    private mutating func fail(_ slot: UInt32) {
        counters.neighboursFailed &+= 1
        neighbours[slot].state = .unresolved
        neighbours[slot].freshUntil = 0
        neighbours.move(slot, to: .idle)
        while let frame = neighbours.dequeue(slot) {
            counters.pendingDrops &+= 1
            if undeliverable.isFull { frame.release() } else { undeliverable.append(frame) }
        }
    }
}
