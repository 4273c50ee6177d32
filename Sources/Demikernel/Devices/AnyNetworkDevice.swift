import Glibc

/// Whichever device a handle holds, as a device: what middleware wraps where the device is chosen at run time.
package struct AnyNetworkDevice: NetworkDevice, ~Copyable {
    private let handle: DeviceHandle

    package init(_ handle: DeviceHandle) { self.handle = handle }

    package var capabilities: NetworkDeviceCapabilities { handle.capabilities }
    package var statistics: NetworkDeviceStatistics { handle.statistics }
    package var isConnected: Bool { handle.isConnected }
    package var eventDescriptor: Int32? { handle.eventDescriptor }
    package mutating func receive(into burst: inout FrameBurst) { handle.receive(into: &burst) }
    package mutating func transmit(_ burst: inout FrameBurst) { handle.transmit(&burst) }
    package mutating func prepareToSleep() -> Bool { handle.prepareToSleep() }
    package mutating func wake() { handle.wake() }
    package mutating func maintain(now: UInt64) -> UInt64 { handle.maintain(now: now) }
}

/// Where a device that needs the time between two calls gets it, in nanoseconds: a function and what it is called with, so that a simulator's
/// virtual time serves as well.
///
/// Invariant: `context` is what `read` expects, for as long as the clock is used.
@safe package struct DeviceClock: BitwiseCopyable {
    private let read: @convention(c) (UnsafeMutableRawPointer?) -> UInt64
    private let context: UnsafeMutableRawPointer?

    package init(_ read: @convention(c) (UnsafeMutableRawPointer?) -> UInt64, context: UnsafeMutableRawPointer? = nil) {
        unsafe self.read = read
        unsafe self.context = context
    }

    @inline(__always) package func now() -> UInt64 { unsafe read(context) }

    /// CLOCK_MONOTONIC: what ``NetworkDevice/maintain(now:)`` is called with.
    package static var monotonic: DeviceClock { unsafe DeviceClock { _ in DeviceClock.time(CLOCK_MONOTONIC) } }
    /// Nanoseconds since 1970: what captures are stamped with.
    package static var wall: DeviceClock { unsafe DeviceClock { _ in DeviceClock.time(CLOCK_REALTIME) } }

    private static func time(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(clock, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }
}
