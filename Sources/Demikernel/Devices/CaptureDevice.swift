/// Writes every frame that passes a device to a capture (``PcapngWriter``), and changes nothing else.
///
/// A frame is captured when it was received, and when it is first given to the device to be transmitted: one that the device had no room for
/// is not captured again. Its blocks are written when 64 KiB have gathered, and by ``maintain(now:)`` once a second.
package struct CaptureDevice<Device: NetworkDevice & ~Copyable>: NetworkDevice, ~Copyable {
    private var device: Device
    package private(set) var writer: PcapngWriter
    private let clock: DeviceClock
    private let interface: Int
    /// Frames at the front of the burst that were captured and not taken.
    private var captured = 0
    private var flushTime: UInt64 = 0

    /// `clock` stamps the frames, in nanoseconds since 1970; `snapLength` bytes of each are kept.
    package init(
        _ device: consuming Device, writer: consuming PcapngWriter, clock: DeviceClock = .wall,
        snapLength: Int = PcapngWriter.snapLengthMaximum
    ) {
        self.device = device
        self.writer = writer
        self.clock = clock
        interface = self.writer.addInterface(name: self.device.capabilities.name, snapLength: snapLength)
    }

    package var capabilities: NetworkDeviceCapabilities { device.capabilities }
    package var statistics: NetworkDeviceStatistics { mutating get { device.statistics } }
    package var isConnected: Bool { device.isConnected }
    package var eventDescriptor: Int32? { device.eventDescriptor }

    package mutating func receive(into burst: inout FrameBurst) {
        let before = burst.count
        device.receive(into: &burst)
        guard burst.count > before else { return }
        let now = clock.now()
        for index in before..<burst.count { writer.put(burst[index], interface: interface, direction: .inbound, time: now) }
    }

    package mutating func transmit(_ burst: inout FrameBurst) {
        guard !burst.isEmpty else { return }
        let count = burst.count
        if captured < count {
            let now = clock.now()
            for index in captured..<count { writer.put(burst[index], interface: interface, direction: .outbound, time: now) }
        }
        device.transmit(&burst)
        captured = burst.count
    }

    /// Writes what has been captured so far.
    package mutating func flush() { writer.flush() }

    package mutating func prepareToSleep() -> Bool {
        guard device.prepareToSleep() else { return false }
        writer.flush()
        return true
    }

    package mutating func wake() { device.wake() }

    package mutating func maintain(now: UInt64) -> UInt64 {
        if now >= flushTime {
            writer.flush()
            flushTime = Clock.deadline(after: 1_000_000_000, from: now)
        }
        return device.maintain(now: now)
    }
}
