import Demikernel

/// One end of a real connection that the attacker has opened to a host, which sends it something.
struct HostilePeer {
    let victim: Int
    let manner: Manner
    let initial: UInt32
    /// RCV.NXT, once there is one.
    var next: UInt32 = 0
    var isOpen = false
    /// Segments answered.
    var answers = 0

    /// What is wrong with it.
    enum Manner: CaseIterable {
        /// Its window is closed from the beginning, or closes after a while, for ever.
        case zeroWindow
        /// It takes a byte at a time.
        case smallWindow
        /// It acknowledges what it has not got, and what was never sent. Savage et al., 1999.
        case optimistic
        /// It reports blocks at random.
        case nonsenseReports
        /// It takes its window back.
        case shrinkingWindow
        /// It says nothing more.
        case silent
        /// It acknowledges each segment in many pieces. Savage et al., 1999.
        case splitAcknowledgements
        /// It repeats one acknowledgement.
        case duplicateAcknowledgements
    }
}

extension ScenarioAttacker {
    /// Connections that it keeps to all hosts together.
    private static var peersMaximum: Int { 48 }

    func connectHostile(_ victim: Int) {
        guard peers.count < Self.peersMaximum, nextPeerPort < 30_000 else { return }
        let manners = HostilePeer.Manner.allCases
        let peer = HostilePeer(victim: victim, manner: manners[random.number(in: 0...manners.count - 1)], initial: number())
        peers[nextPeerPort] = peer
        sendPeer(nextPeerPort, peer, flags: 0x02, sequence: peer.initial, options: [2, 4, 5, 0xb4, 1, 1, 4, 2])
        nextPeerPort += 1
    }

    private func sendPeer(
        _ port: UInt16, _ peer: HostilePeer, flags: UInt8 = 0x10, sequence: UInt32? = nil, acknowledgment: UInt32? = nil, window: UInt16 = 65_535,
        options: [UInt8] = [], payload: [UInt8] = []
    ) {
        send(
            to: peer.victim,
            AttackFrame.tcp(
                .init(
                    source: address(Self.number, isIPv4: true), destination: address(peer.victim, isIPv4: true), sourcePort: port,
                    destinationPort: 80, sequence: sequence ?? peer.initial &+ 1, acknowledgment: acknowledgment ?? peer.next, flags: flags,
                    window: window, options: options, payload: payload)))
    }

    /// What comes to its own address: it says where it is, and misbehaves on its connections.
    func answer(_ frame: [UInt8]) {
        guard isActive, frame.count >= 42 else { return }
        let own = address(Self.number, isIPv4: true)
        if frame.bigEndian16(12) == 0x0806, frame.bigEndian16(20) == 1, Array(frame[38..<42]) == own {
            return send(
                AttackFrame.arp(operation: 2, from: Self.station, own, to: frame.address(22), Array(frame[28..<32]), in: frame.address(6)))
        }
        guard frame.count >= 54, frame.bigEndian16(12) == 0x0800, frame[14] == 0x45, frame[23] == 6, Array(frame[30..<34]) == own else { return }
        let port = frame.bigEndian16(36)
        guard var peer = peers[port], station(of: peer.victim) == frame.address(6) else { return }
        defer { peers[port] = peers[port] == nil ? nil : peer }
        let flags = frame[47]
        guard flags & 0x04 == 0 else { return peers[port] = nil }
        let sequence = UInt32(frame.bigEndian16(38)) << 16 | UInt32(frame.bigEndian16(40))
        let length = UInt32(max(0, Int(frame.bigEndian16(16)) - 20 - Int(frame[46] >> 4) * 4))
        if flags & 0x02 != 0 {
            peer.next = sequence &+ 1
            let isFirst = !peer.isOpen
            peer.isOpen = true
            // Bytes that are no connection's of the scenario: the server knows by them, and by the address, whom it has before it.
            return sendPeer(port, peer, flags: 0x18, window: peer.manner == .zeroWindow ? 0 : 4096, payload: isFirst ? garbage(8) : [])
        }
        guard peer.isOpen, length > 0 else { return }
        peer.answers += 1
        let start = peer.next
        if sequence == peer.next, peer.manner != .zeroWindow { peer.next = sequence &+ length }
        let after = peer.initial &+ 9
        switch peer.manner {
        case .silent: return
        case .zeroWindow: sendPeer(port, peer, sequence: after, window: 0)
        case .smallWindow: sendPeer(port, peer, sequence: after, window: 1)
        case .shrinkingWindow: sendPeer(port, peer, sequence: after, window: UInt16(random.number(in: 0...4096)))
        case .optimistic:
            sendPeer(port, peer, sequence: after, acknowledgment: peer.next &+ UInt32(random.number(in: 1...100_000)))
            sendPeer(port, peer, sequence: after)
        case .nonsenseReports:
            sendPeer(port, peer, sequence: after, acknowledgment: start, options: [1, 1, 5, 34] + garbage(32))
            let far = AttackFrame.bytes(UInt64(start &+ UInt32(random.number(in: 0...9000))), 4)
            sendPeer(port, peer, sequence: after, options: [1, 1, 5, 10] + far + far)
        case .splitAcknowledgements:
            for piece in 1...4 { sendPeer(port, peer, sequence: after, acknowledgment: start &+ (peer.next &- start) / 4 * UInt32(piece)) }
            sendPeer(port, peer, sequence: after)
        case .duplicateAcknowledgements: for _ in 0..<5 { sendPeer(port, peer, sequence: after, acknowledgment: start) }
        }
    }
}
