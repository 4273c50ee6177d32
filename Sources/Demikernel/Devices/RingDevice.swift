import CDemikernelShims
import Glibc
import SystemPackage

/// An Ethernet without a wire, inside one process: a device connected to itself (``loop(capacity:address:mtu:name:)``), or two on two threads
/// connected to each other (``pair(capacity:addresses:mtu:)``).
///
/// A frame of one segment is handed over as it is, its memory with it; one with further slices is copied once, by the receiver, because
/// received frames are one segment. Checksums may be left undone (`partialChecksum`): the receiver sees the same mark.
package struct RingDevice: NetworkDevice, ~Copyable {
    package let capabilities: NetworkDeviceCapabilities
    package private(set) var statistics = NetworkDeviceStatistics()
    private let incoming: FrameRing
    private let outgoing: FrameRing
    /// Keeps both rings for as long as either end lives.
    private let wire: RingWire
    private let event: Int32
    private let otherEvent: Int32
    /// Our positions in the rings, and the others' as last seen.
    private var received: UInt64 = 0
    private var seenPut: UInt64 = 0
    private var transmitted: UInt64 = 0
    private var seenTaken: UInt64 = 0

    private init(_ wire: RingWire, end: Int, _ capabilities: NetworkDeviceCapabilities) {
        self.wire = wire
        event = wire.events[end]
        otherEvent = capabilities.isLoop ? event : wire.events[1 - end]
        incoming = wire.rings[end]
        outgoing = wire.rings[capabilities.isLoop ? end : 1 - end]
        self.capabilities = capabilities
    }

    deinit {
        incoming.announceEnd()
        outgoing.announceEnd()
        if !capabilities.isLoop { dk_event_signal(otherEvent) }
    }

    /// A device that receives what it transmits: everything on one thread, without atomic operations. `capacity` is in frames, 1...65,536,
    /// rounded up to a power of two. Throws EINVAL for a capacity or an MTU out of bounds, EMFILE where descriptors have run out.
    package static func loop(
        capacity: Int = 1024, address: UInt64, mtu: Int = 65_535, name: String = "loop"
    ) throws(DemikernelError) -> RingDevice {
        let wire = try RingWire(capacity: capacity, mtu: mtu, ends: 1)
        return RingDevice(wire, end: 0, NetworkDeviceCapabilities(
            address: address, maximumTransmissionUnit: mtu, fillsChecksums: true, isReliable: true, isLoop: true, name: name))
    }

    /// Two devices, each of which receives what the other transmits and may live on a thread of its own. Likewise.
    package static func pair(
        capacity: Int = 1024, addresses: (UInt64, UInt64), mtu: Int = 1500
    ) throws(DemikernelError) -> RingPair {
        let wire = try RingWire(capacity: capacity, mtu: mtu, ends: 2)
        func end(_ number: Int, _ address: UInt64) -> RingDevice {
            RingDevice(wire, end: number, NetworkDeviceCapabilities(
                address: address, maximumTransmissionUnit: mtu, fillsChecksums: true, isReliable: true, name: "ring\(number)"))
        }
        return RingPair(end(0, addresses.0), end(1, addresses.1))
    }

    package var isConnected: Bool { !outgoing.isEnded }

    /// A loop's is never readable: what it receives it was given on the same thread.
    package var eventDescriptor: Int32? { event }

    package mutating func receive(into burst: inout FrameBurst) {
        if received == seenPut {
            seenPut = incoming.loadPut()
            guard received != seenPut else { return }
        }
        let ring = incoming
        let end = received &+ min(seenPut &- received, UInt64(truncatingIfNeeded: burst.room))
        while received != end {
            let slot = unsafe ring.slot(received)
            received &+= 1
            guard unsafe slot.pointee.rest.isEmpty else {
                unsafe gather(slot.pointee, into: &burst)
                continue
            }
            statistics.receivedFrames &+= 1
            statistics.receivedBytes &+= unsafe UInt64(truncatingIfNeeded: slot.pointee.head.byteCount)
            unsafe burst.append(moving: slot)
        }
        ring.storeTaken(end)
    }

    /// A frame in several pieces; dropped where the heap is exhausted.
    @inline(never)
    private mutating func gather(_ frame: Frame, into burst: inout FrameBurst) {
        guard let whole = frame.inOneSegment(of: burst.heap) else {
            statistics.receiveDrops &+= 1
            return
        }
        statistics.receivedFrames &+= 1
        statistics.receivedBytes &+= UInt64(truncatingIfNeeded: whole.byteCount)
        burst.append(whole)
    }

    package mutating func transmit(_ burst: inout FrameBurst) {
        guard !burst.isEmpty else { return }
        guard isConnected else { return dropAll(&burst) }
        let ring = outgoing
        if ring.capacity &- (transmitted &- seenTaken) < burst.count { seenTaken = ring.loadTaken() }
        let limit = capabilities.frameByteCountMaximum
        let end = seenTaken &+ ring.capacity
        while transmitted != end, !burst.isEmpty {
            let count = burst.firstByteCount
            guard count <= limit, count >= 14 else {
                dropFirst(of: &burst)
                continue
            }
            unsafe burst.removeFirst(movingTo: ring.slot(transmitted))
            transmitted &+= 1
            statistics.transmittedFrames &+= 1
            statistics.transmittedBytes &+= UInt64(truncatingIfNeeded: count)
        }
        if !burst.isEmpty { statistics.transmitStalls &+= 1 }
        if capabilities.isLoop {
            ring.storePut(transmitted)
        } else if ring.publish(transmitted) {
            dk_event_signal(otherEvent)
        }
    }

    /// A frame that is no frame of this Ethernet.
    @inline(never)
    private mutating func dropFirst(of burst: inout FrameBurst) {
        statistics.transmitDrops &+= 1
        burst.removeFirst().release()
    }

    @inline(never)
    private mutating func dropAll(_ burst: inout FrameBurst) {
        statistics.transmitDrops &+= UInt64(burst.count)
        burst.removeAll()
    }

    package mutating func prepareToSleep() -> Bool {
        if capabilities.isLoop { return received == transmitted }
        incoming.announceSleep(true)
        if incoming.loadPut() == received { return true }
        incoming.announceSleep(false)
        return false
    }

    package mutating func wake() {
        guard !capabilities.isLoop else { return }
        incoming.announceSleep(false)
        dk_event_drain(event)
    }
}

/// The two ends of a pair, each of which is taken once, by the thread that is to have it.
package struct RingPair: ~Copyable {
    private var first: RingDevice?
    private var second: RingDevice?

    fileprivate init(_ first: consuming RingDevice, _ second: consuming RingDevice) {
        self.first = consume first
        self.second = consume second
    }

    /// The first end; nil where it was taken.
    package mutating func takeFirst() -> RingDevice? { first.take() }
    /// The second end; nil where it was taken.
    package mutating func takeSecond() -> RingDevice? { second.take() }
}

/// What the ends of a ring share: freed when the last of them has gone. Constants only.
private final class RingWire: Sendable {
    let rings: [FrameRing]
    let events: [Int32]

    init(capacity: Int, mtu: Int, ends: Int) throws(DemikernelError) {
        guard 1...65_536 ~= capacity else { throw DemikernelError(.invalidArgument, "a ring holds between 1 and 65,536 frames") }
        guard 68...65_535 ~= mtu else { throw DemikernelError(.invalidArgument, "an MTU is between 68 and 65,535 bytes") }
        var events: [Int32] = []
        for _ in 0..<ends {
            let event = dk_event_create()
            guard event >= 0 else {
                let error = Errno(rawValue: errno)
                for event in events { close(event) }
                throw DemikernelError(error, "no descriptor for a ring's event (eventfd)")
            }
            events.append(event)
        }
        self.events = events
        rings = (0..<ends).map { _ in FrameRing(capacity: capacity) }
    }

    deinit {
        for ring in rings { ring.deallocate() }
        for event in events { close(event) }
    }
}
