import Demikernel

// The attacks, a frame at a time.

extension ScenarioAttacker {
    private static var serverPort: UInt16 { 80 }

    func floodSYN(_ victim: Int) {
        let isIPv4 = random.chance(0.7)
        send(
            to: victim,
            AttackFrame.tcp(
                .init(
                    source: spoofed(isIPv4: isIPv4, notAs: victim), destination: address(victim, isIPv4: isIPv4),
                    sourcePort: UInt16(random.number(in: 1...65_535)), destinationPort: Self.serverPort, sequence: number(), acknowledgment: 0,
                    flags: 0x02, options: random.chance(0.5) ? [2, 4, 5, 0xb4] : [2, 4, 5, 0xb4, 4, 2, 8, 10] + garbage(4) + [0, 0, 0, 0, 1, 3, 3, 7])))
    }

    /// A segment that looks as if it came from the other end. Either its sequence number or its acknowledgement number is one that RFC 5961 does not
    /// believe, and a reset's is never the next.
    func injectSegment() {
        guard let live = liveDirection() else { return }
        let numbers = live.numbers
        // Beyond everything that will ever be sent, or behind what has been received: near, yet neither now nor soon the next.
        let near = random.chance(0.5)
            ? numbers.receiveNext &+ live.incoming &+ UInt32(random.number(in: 0...100_000))
            : numbers.receiveNext &- 1 &- UInt32(random.number(in: 0...100_000))
        let sequence = random.chance(0.7) ? near : number()
        // Of data never sent, or far too old.
        let acknowledgment = random.chance(0.5)
            ? numbers.sendNext &+ live.outgoing &+ UInt32(random.number(in: 0...1_000_000_000))
            : numbers.sendUnacknowledged &- (1 << 30) &- 1 &- UInt32(random.number(in: 0...500_000_000))
        // A SYN without ACK that meets one on its way looks like a simultaneous open, which asks for no number: RFC 9293, section 3.5.
        let flags: UInt8 = numbers.state == .synSent
            ? [0x04, 0x14, 0x02, 0x12, 0x10][random.number(in: 0...4)]
            : [0x04, 0x14, 0x02, 0x12, 0x10, 0x18, 0x11, 0x00, 0x3f, 0x20][random.number(in: 0...9)]
        send(
            to: live.victim,
            AttackFrame.tcp(
                .init(
                    source: address(live.peer, isIPv4: live.isIPv4), destination: address(live.victim, isIPv4: live.isIPv4),
                    sourcePort: numbers.remotePort, destinationPort: numbers.localPort, sequence: sequence, acknowledgment: acknowledgment,
                    flags: flags, window: UInt16(truncatingIfNeeded: random.next()),
                    options: random.chance(0.5) ? [] : [1, 1, 8, 10] + garbage(8), payload: random.chance(0.5) ? [] : garbage(random.number(in: 1...600)))))
    }

    func floodFragment(_ victim: Int) {
        let isIPv4 = random.chance(0.6)
        let source = spoofed(isIPv4: isIPv4, notAs: victim)
        let offset: Int
        switch random.number(in: 0...3) {
        case 0: offset = 0
        case 1: offset = random.number(in: 0...20) * 8
        case 2: offset = random.number(in: 0...180) * 8
        default: offset = random.number(in: 8100...8191) * 8
        }
        // Few identifications, so that pieces meet and overlap.
        let fragment = AttackFrame.Fragment(
            identification: UInt32(random.number(in: 0...(random.chance(0.5) ? 3 : 60_000))), offset: offset, more: random.chance(0.7))
        let proto: UInt8 = [17, 6, 1, 58, 44, 0, 255][random.number(in: 0...6)]
        let count = random.chance(0.8) ? random.number(in: 1...150) * 8 : random.number(in: 0...1200)
        send(
            to: victim,
            AttackFrame.packet(from: source, to: address(victim, isIPv4: isIPv4), proto: proto, garbage(count), fragment: fragment))
    }

    func stormNeighbours(_ victim: Int) {
        let stranger = random.number(in: 64...250)
        let broadcast: UInt64 = 0xffff_ffff_ffff
        if random.chance(0.6) {
            let target = address(random.chance(0.5) ? victim : stranger, isIPv4: true)
            let sender = random.chance(0.1) ? [0, 0, 0, 0] : address(random.number(in: 64...250), isIPv4: true)
            send(
                AttackFrame.arp(
                    operation: random.chance(0.05) ? random.below(65_536) : UInt64(random.number(in: 1...2)), from: Self.station, sender,
                    to: random.next() & 0xffff_ffff_ffff, target, in: random.chance(0.5) ? broadcast : station(of: victim)))
            return
        }
        // Solicitation, advertisement, router advertisement, redirect; hop limits and options right or wrong.
        let type: UInt8 = [135, 136, 134, 137, 133][random.number(in: 0...4)]
        let source = random.chance(0.1) ? [UInt8](repeating: 0, count: 16) : address(stranger, isIPv4: false)
        let target = address(type == 135 && random.chance(0.7) ? victim : stranger, isIPv4: false)
        let option: [UInt8] = [type == 135 ? 1 : 2, random.chance(0.9) ? 1 : UInt8(random.number(in: 0...3))] + AttackFrame.bytes(Self.station, 6)
        send(
            to: victim,
            AttackFrame.icmp(
                from: source, to: address(victim, isIPv4: false), type: type, code: random.chance(0.95) ? 0 : 1,
                rest: number() & 0xe000_0000, target + (random.chance(0.8) ? option : []), hopLimit: random.chance(0.9) ? 255 : 64))
    }

    func poison(_ victim: Int) {
        let claimed = random.chance(0.1) ? victim : (victim + 1 + random.number(in: 0...world.plan.hostCount - 2)) % world.plan.hostCount
        if random.chance(0.6) {
            send(
                AttackFrame.arp(
                    operation: UInt64(random.number(in: 1...2)), from: Self.station, address(claimed, isIPv4: true), to: station(of: victim),
                    address(victim, isIPv4: true), in: station(of: victim)))
        } else {
            send(
                to: victim,
                AttackFrame.icmp(
                    from: address(claimed, isIPv4: false), to: address(victim, isIPv4: false), type: 136, code: 0,
                    rest: [0x2000_0000, 0x6000_0000, 0][random.number(in: 0...2)],
                    address(claimed, isIPv4: false) + [2, 1] + AttackFrame.bytes(Self.station, 6), hopLimit: 255))
        }
    }

    /// Errors about a segment of a live connection that is not out.
    func forgeError() {
        guard let live = liveDirection() else { return }
        let numbers = live.numbers
        let quoted = AttackFrame.bytes(UInt64(numbers.localPort), 2) + AttackFrame.bytes(UInt64(numbers.remotePort), 2)
            + AttackFrame.bytes(
                UInt64(
                    random.chance(0.5)
                        ? numbers.sendUnacknowledged &- 1 &- UInt32(random.number(in: 0...100_000))
                        : numbers.sendNext &+ live.outgoing &+ UInt32(random.number(in: 0...100_000))), 4)
        let victim = address(live.victim, isIPv4: live.isIPv4)
        let peer = address(live.peer, isIPv4: live.isIPv4)
        sendError(
            to: live.victim, about: AttackFrame.packet(from: victim, to: peer, proto: 6, quoted + garbage(random.chance(0.5) ? 12 : 0)),
            isIPv4: live.isIPv4, by: peer)
    }

    /// Errors about datagrams: of sockets that talk, of one that is connected and has sent nothing, of one that has no peer, of one that has another,
    /// and of none.
    func forgeDatagramError(_ victim: Int) {
        let isIPv4 = random.chance(0.6)
        let count = world.plan.hostCount
        let (next, previous) = ((victim + 1) % count, (victim + count - 1) % count)
        let (caller, answerer, silent) = (ScenarioPair.Role.caller.port, ScenarioPair.Role.answerer.port, ScenarioPair.Role.silent.port)
        let (port, peer, peerPort): (UInt16, Int, UInt16)
        switch random.number(in: 0...6) {
        case 0: (port, peer, peerPort) = (caller, next, answerer)
        case 1: (port, peer, peerPort) = (answerer, previous, caller)
        case 2: (port, peer, peerPort) = (silent, next, silent)
        case 3: (port, peer, peerPort) = (5000, next, 5000)
        case 4: (port, peer, peerPort) = (caller, next, silent)
        case 5: (port, peer, peerPort) = (caller, 70, answerer)
        default: (port, peer, peerPort) = (UInt16(random.number(in: 6_000...65_535)), next, answerer)
        }
        if (port == caller && peer == next && peerPort == answerer) || (port == answerer && peer == previous && peerPort == caller) {
            quoted.insert(Quoted(host: victim, port: port, isIPv4: isIPv4))
        }
        let (from, to) = (address(victim, isIPv4: isIPv4), address(peer, isIPv4: isIPv4))
        let datagram = AttackFrame.udp(from: from, port: port, to: to, port: peerPort, garbage(random.chance(0.5) ? 1_400 : 8))
        sendError(to: victim, about: AttackFrame.packet(from: from, to: to, proto: 17, datagram), isIPv4: isIPv4, by: to)
    }

    /// Sends one error of any kind about a packet, by its receiver or by a router that nobody knows.
    private func sendError(to victim: Int, about inner: [UInt8], isIPv4: Bool, by peer: [UInt8]) {
        let kinds: [(UInt8, UInt8, UInt32)] = isIPv4
            ? [(3, 3, 0), (3, 2, 0), (3, 1, 0), (3, 13, 0), (3, 4, 68), (3, 4, 0), (11, 0, 0), (12, 0, 0), (5, 1, number()), (4, 0, 0)]
            : [(1, 4, 0), (1, 1, 0), (1, 0, 0), (2, 0, 100), (2, 0, 1280), (3, 0, 0), (4, 1, 40), (4, 0, 0)]
        let kind = kinds[random.number(in: 0...kinds.count - 1)]
        let body = random.chance(0.1) ? Array(inner.prefix(random.number(in: 0...inner.count))) : inner
        let source = random.chance(0.5) ? peer : address(70, isIPv4: isIPv4)
        send(
            to: victim,
            AttackFrame.icmp(from: source, to: address(victim, isIPv4: isIPv4), type: kind.0, code: kind.1, rest: kind.2, body))
    }

    func sendGarbageOptions(_ victim: Int) {
        let isIPv4 = random.chance(0.7)
        let source = address(70, isIPv4: isIPv4)
        let target = address(victim, isIPv4: isIPv4)
        let options = optionGarbage(random.number(in: 1...10) * 4)
        if isIPv4, random.chance(0.4) {
            send(to: victim, AttackFrame.packet(from: source, to: target, proto: UInt8(truncatingIfNeeded: random.next()), garbage(64), options: options))
            return
        }
        // A port that is closed answers, one that listens opens; a source that nobody has comes to nothing.
        send(
            to: victim,
            AttackFrame.tcp(
                .init(
                    source: source, destination: target, sourcePort: UInt16(random.number(in: 0...65_535)),
                    destinationPort: random.chance(0.7) ? Self.serverPort : 9, sequence: number(), acknowledgment: number(),
                    flags: random.chance(0.6) ? 0x02 : UInt8(truncatingIfNeeded: random.next()), options: options)))
    }

    /// Option kinds and lengths that are there, that are not, and that lie.
    func optionGarbage(_ count: Int) -> [UInt8] {
        var options: [UInt8] = []
        while options.count < count {
            options.append([0, 1, 2, 3, 4, 5, 8, 19, 34, 131, 137, 7, UInt8(truncatingIfNeeded: random.next())][random.number(in: 0...12)])
            options.append(UInt8(truncatingIfNeeded: random.chance(0.8) ? random.below(13) : random.next()))
            options += garbage(random.number(in: 0...8))
        }
        return Array(options.prefix(count))
    }

    func mutate(_ victim: Int) {
        guard !seen.isEmpty, random.chance(0.9) else {
            let types: [UInt64] = [0x0800, 0x86dd, 0x0806, 0x8100, 0x88cc, UInt64(random.number(in: 0...1500))]
            return send(
                AttackFrame.ethernet(
                    to: station(of: victim), from: Self.station, type: types[random.number(in: 0...5)], garbage(random.number(in: 0...1500))))
        }
        var frame = seen[random.number(in: 0...seen.count - 1)]
        // In its own name on the wire: who steals a station's place at the switch needs no stack to be wrong.
        for (index, byte) in (AttackFrame.bytes(station(of: victim), 6) + AttackFrame.bytes(Self.station, 6)).enumerated() where index < frame.count {
            frame[index] = byte
        }
        switch random.number(in: 0...3) {
        case 0 where frame.count > 20: guard frame.corrupt(random.next()) else { return }
        case 1: frame = Array(frame.prefix(random.number(in: 0...frame.count)))
        case 2: frame += garbage(random.number(in: 1...64))
        default: break
        }
        send(frame)
    }

    func reflect(_ victim: Int) {
        let isIPv4 = random.chance(0.7)
        let source = spoofed(isIPv4: isIPv4, notAs: victim)
        let target = address(victim, isIPv4: isIPv4)
        if random.chance(0.5) {
            let body = garbage(random.number(in: 0...1400))
            send(to: victim, AttackFrame.icmp(from: source, to: target, type: isIPv4 ? 8 : 128, code: 0, rest: number(), body))
        } else {
            let datagram = AttackFrame.udp(
                from: source, port: UInt16(random.number(in: 1...65_535)), to: target, port: UInt16(random.number(in: 6_000...65_535)),
                garbage(random.number(in: 0...200)))
            send(to: victim, AttackFrame.packet(from: source, to: target, proto: 17, datagram))
        }
    }
}
