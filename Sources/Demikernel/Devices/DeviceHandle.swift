/// A device behind one indirect call per burst: what lets a libOS hold whichever device its settings name, and middleware wrap any.
///
/// A closed set of devices would be an enum; this set is open (``NetworkDevice`` is public). The class has constants only, and its holder keeps
/// it alive, so that calling it costs no retain and no exclusivity check.
package class DeviceHandle {
    package let capabilities: NetworkDeviceCapabilities
    package let eventDescriptor: Int32?

    fileprivate init(_ capabilities: NetworkDeviceCapabilities, _ eventDescriptor: Int32?) {
        self.capabilities = capabilities
        self.eventDescriptor = eventDescriptor
    }

    package var statistics: NetworkDeviceStatistics { NetworkDeviceStatistics() }
    package var isConnected: Bool { false }
    package func receive(into burst: inout FrameBurst) {}
    package func transmit(_ burst: inout FrameBurst) {}
    package func prepareToSleep() -> Bool { false }
    package func wake() {}
    package func maintain(now: UInt64) -> UInt64 { .max }

    /// Wraps a device, which the handle owns from here on.
    package static func holding<Device: NetworkDevice & ~Copyable>(_ device: consuming Device) -> DeviceHandle {
        let capabilities = device.capabilities
        let eventDescriptor = device.eventDescriptor
        return DeviceHolder(device, capabilities, eventDescriptor)
    }
}

/// Invariant: `device` is initialised until `deinit`.
@safe private final class DeviceHolder<Device: NetworkDevice & ~Copyable>: DeviceHandle {
    private let device: UnsafeMutablePointer<Device>

    init(_ device: consuming Device, _ capabilities: NetworkDeviceCapabilities, _ eventDescriptor: Int32?) {
        unsafe self.device = .allocate(capacity: 1)
        unsafe self.device.initialize(to: device)
        super.init(capabilities, eventDescriptor)
    }

    deinit {
        unsafe device.deinitialize(count: 1)
        unsafe device.deallocate()
    }

    override var statistics: NetworkDeviceStatistics { unsafe device.pointee.statistics }
    override var isConnected: Bool { unsafe device.pointee.isConnected }
    override func receive(into burst: inout FrameBurst) { unsafe device.pointee.receive(into: &burst) }
    override func transmit(_ burst: inout FrameBurst) { unsafe device.pointee.transmit(&burst) }
    override func prepareToSleep() -> Bool { unsafe device.pointee.prepareToSleep() }
    override func wake() { unsafe device.pointee.wake() }
    override func maintain(now: UInt64) -> UInt64 { unsafe device.pointee.maintain(now: now) }
}
