/// A host's network stack: IPv4 and IPv6, UDP and TCP, over one device that somebody else drives.
///
/// All state in one noncopyable value; time and chance are inputs, so that the same calls have the same results bit for bit. Frames come in
/// bursts and leave in ``NetworkLayer/outgoing``; what changed on sockets is in ``events``.
package struct NetworkStack: ~Copyable {
    package var ip: NetworkLayer
    package var udp: UDP
    package var tcp: TCP
    package var events: SocketEvents

    /// Throws EINVAL, with what is wrong, for settings that contradict each other or the device, ENOMEM where there is no address space.
    package init(
        _ configuration: NetworkConfiguration, heap: HeapReference, device: NetworkDeviceCapabilities, entropy: NetworkEntropy, now: UInt64
    ) throws(DemikernelError) {
        let ip = try NetworkLayer(configuration, heap: heap, device: device, entropy: entropy, now: now)
        let udp = try UDP(configuration.udp, heap: heap, entropy: entropy)
        let tcp = try TCP(configuration.tcp, heap: heap, entropy: entropy, now: now)
        let events = try SocketEvents(tags: configuration.tagsMaximum)
        self.ip = ip
        self.udp = udp
        self.tcp = tcp
        self.events = events
    }

    /// Takes every frame of the burst (references pass to the stack); what protocols answer is in `ip.outgoing` afterwards.
    package mutating func receive(_ burst: inout FrameBurst, now: UInt64) {
        while !burst.isEmpty {
            let frame = burst.removeFirst()
            if frame.rest.isEmpty, receivePredicted(frame, now: now) { continue }
            var packet = ReceivedPacket.none
            switch ip.receiveOrdinary(frame, into: &packet) {
            case .udp: udp.receive(&packet, ip: &ip, events: &events, now: now)
            case .tcp: tcp.receive(packet, ip: &ip, events: &events, now: now)
            default:
                // Received frames are one segment: what a device brings besides is dropped, and the frame with it.
                if !frame.rest.isEmpty { frame.rest.releaseAll() }
                receiveOther(frame.head, isWhole: frame.rest.isEmpty, vouched: ip.vouches(for: frame), now: now)
            }
        }
        finish(now: now)
    }

    /// Takes what comes most, by the shortest way. False, and nothing changed, for every other frame.
    @inline(always)
    private mutating func receivePredicted(_ frame: Frame, now: UInt64) -> Bool {
        let bytes = frame.head.packet
        guard bytes.count >= 42 else { return false }
        let vouched = ip.vouches(for: frame)
        if bytes.load8(23) == IPProtocol.udp.rawValue { return udp.receivePredicted(frame.head, vouched: vouched, ip: &ip, events: &events) }
        return tcp.receivePredicted(frame.head, vouched: vouched, ip: &ip, events: &events, now: now)
    }

    /// Whether ``poll(now:)`` has something to do that does not depend on the time.
    @inline(__always)
    package var isPressed: Bool { !ip.looped.isEmpty || !ip.undeliverable.isEmpty || tcp.isPressed || !events.isEmpty }

    /// Runs the timers that are due, and what this host has sent to itself. Constant time when there is nothing.
    @inline(__always)
    package mutating func poll(now: UInt64) {
        ip.runTimers(now)
        tcp.poll(ip: &ip, events: &events, now: now)
        if !ip.looped.isEmpty || !ip.undeliverable.isEmpty { finishSlow(now: now) }
    }

    /// When `poll` next has something to do; nil for never.
    package mutating func nextDeadline() -> UInt64? {
        if !ip.looped.isEmpty || !ip.undeliverable.isEmpty { return 0 }
        let deadline = min(ip.nextDeadline(), tcp.nextDeadline(canSend: ip.canSend) ?? .max)
        return deadline == .max ? nil : deadline
    }

    /// The end of a burst.
    @inline(__always)
    private mutating func finish(now: UInt64) {
        tcp.flush(ip: &ip, now: now)
        if !ip.looped.isEmpty || !ip.undeliverable.isEmpty { finishSlow(now: now) }
    }

    /// Frames to this host itself may cause others: a bounded number is taken in, the rest with the next poll.
    @inline(never)
    private mutating func finishSlow(now: UInt64) {
        var packet = ReceivedPacket.none
        var left = 4 * ip.looped.capacity
        while !ip.looped.isEmpty, left > 0 {
            pass(ip.receiveLooped(ip.looped.removeFirst(), into: &packet, now: now), &packet, now: now)
            left -= 1
            if ip.looped.isEmpty { tcp.flush(ip: &ip, now: now) }
        }
        while !ip.undeliverable.isEmpty {
            let frame = ip.undeliverable.removeFirst()
            reportUndeliverable(frame, now: now)
            frame.release()
        }
    }

    /// A frame that is not the ordinary one.
    @inline(never)
    private mutating func receiveOther(_ head: Segment, isWhole: Bool, vouched: Bool, now: UInt64) {
        var packet = ReceivedPacket.none
        pass(ip.receiveOther(head, isWhole: isWhole, vouched: vouched, into: &packet, now: now), &packet, now: now)
    }

    @inline(never)
    private mutating func pass(_ arrival: NetworkLayer.Arrival, _ packet: inout ReceivedPacket, now: UInt64) {
        switch arrival {
        case .consumed: break
        case .udp: udp.receive(&packet, ip: &ip, events: &events, now: now)
        case .tcp: tcp.receive(packet, ip: &ip, events: &events, now: now)
        case .icmpError, .icmpv6Error: receiveError(packet, now: now)
        }
    }
}
