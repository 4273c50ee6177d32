/// Makes a good device a bad one: frames are lost, late, out of order, doubled, damaged and slow, as the settings say, each direction by its
/// own (``FaultSettings``). The same seed, frames and times give the same faults.
package struct FaultyDevice<Device: NetworkDevice & ~Copyable>: NetworkDevice, ~Copyable {
    private var device: Device
    private let clock: DeviceClock
    private let heap: HeapReference
    private var inbound: FaultyLink
    private var outbound: FaultyLink
    private var arrived: FrameBurst
    private var departing: FrameBurst

    /// `heap` is where the frames get their memory, the libOS's own. Throws EINVAL for settings out of bounds.
    package init(
        _ device: consuming Device, inbound: FaultSettings, outbound: FaultSettings, seed: UInt64, clock: DeviceClock = .monotonic,
        heap: HeapReference
    ) throws(DemikernelError) {
        try inbound.validate()
        try outbound.validate()
        self.device = device
        self.clock = clock
        self.heap = heap
        self.inbound = FaultyLink(inbound, seed: seed)
        self.outbound = FaultyLink(outbound, seed: seed ^ 0x5555_5555_5555_5555)
        arrived = FrameBurst(heap: heap)
        departing = FrameBurst(heap: heap)
    }

    /// The same in both directions.
    package init(
        _ device: consuming Device, faults: FaultSettings, seed: UInt64, clock: DeviceClock = .monotonic, heap: HeapReference
    ) throws(DemikernelError) {
        try self.init(device, inbound: faults, outbound: faults, seed: seed, clock: clock, heap: heap)
    }

    package var inboundCounters: FaultCounters { inbound.counters }
    package var outboundCounters: FaultCounters { outbound.counters }

    package var capabilities: NetworkDeviceCapabilities {
        var capabilities = device.capabilities
        // It no longer is: checksums are to be verified.
        capabilities.isReliable = false
        return capabilities
    }
    package var statistics: NetworkDeviceStatistics { mutating get { device.statistics } }
    package var isConnected: Bool { device.isConnected }
    package var eventDescriptor: Int32? { device.eventDescriptor }

    package mutating func receive(into burst: inout FrameBurst) {
        let now = clock.now()
        depart(now)
        device.receive(into: &arrived)
        while !arrived.isEmpty { inbound.send(arrived.removeFirst(), now: now, heap: heap) }
        while !burst.isFull, let frame = inbound.receive(now: now) { burst.append(frame) }
    }

    /// Takes every frame; what is too much for the link is lost.
    package mutating func transmit(_ burst: inout FrameBurst) {
        let now = clock.now()
        while !burst.isEmpty { outbound.send(burst.removeFirst(), now: now, heap: heap) }
        depart(now)
    }

    private mutating func depart(_ now: UInt64) {
        repeat {
            while !departing.isFull, let frame = outbound.receive(now: now) { departing.append(frame) }
            guard !departing.isEmpty else { return }
            device.transmit(&departing)
        } while departing.isEmpty
    }

    package mutating func prepareToSleep() -> Bool {
        guard inbound.nextDue > clock.now(), departing.isEmpty else { return false }
        return device.prepareToSleep()
    }

    package mutating func wake() { device.wake() }

    package mutating func maintain(now: UInt64) -> UInt64 {
        depart(clock.now())
        return min(device.maintain(now: now), inbound.nextDue, outbound.nextDue)
    }
}
