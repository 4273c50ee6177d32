import Glibc

/// Shows every frame that passes a device to somebody: a function, or a reader of lines of text. Changes nothing.
///
/// Frames appear when they were received, and when they are first given to the device to be transmitted. A line is `TIME < FRAME` for received frames, `TIME > FRAME` for
/// transmitted ones, with seconds of the given clock and ``FrameText``; where the reader is slow the device waits for it, so traces are for
/// finding faults, captures (``CaptureDevice``) for going along.
package struct TracingDevice<Device: NetworkDevice & ~Copyable>: NetworkDevice, ~Copyable {
    private var device: Device
    private let tracer: FrameTracer
    private let clock: DeviceClock
    /// Frames at the front of the burst that were shown and not taken.
    private var shown = 0

    package init(_ device: consuming Device, tracer: FrameTracer, clock: DeviceClock = .monotonic) {
        self.device = device
        self.tracer = tracer
        self.clock = clock
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
        for index in before..<burst.count { tracer.show(burst[index], .inbound, now) }
    }

    package mutating func transmit(_ burst: inout FrameBurst) {
        let count = burst.count
        if shown < count {
            let now = clock.now()
            for index in shown..<count { tracer.show(burst[index], .outbound, now) }
        }
        device.transmit(&burst)
        shown = burst.count
    }

    package mutating func prepareToSleep() -> Bool { device.prepareToSleep() }
    package mutating func wake() { device.wake() }
    package mutating func maintain(now: UInt64) -> UInt64 { device.maintain(now: now) }
}

/// Who looks at the frames of a ``TracingDevice``.
///
/// Invariant: `context` is what `function` expects, for as long as the tracer is used.
@safe package struct FrameTracer {
    /// Gets the frame's bytes, which it must not keep, their number, the direction and the time.
    package typealias Function = @convention(c) (
        _ context: UnsafeMutableRawPointer?, _ bytes: UnsafeRawPointer, _ count: Int, _ direction: UInt32, _ time: UInt64
    ) -> Void

    private let function: Function?
    private let context: UnsafeMutableRawPointer?
    private let descriptor: Int32

    /// Calls `function` for each frame, on the device's thread. The direction is ``PcapngWriter/Direction``'s number.
    package init(_ function: Function, context: UnsafeMutableRawPointer?) {
        unsafe self.function = function
        unsafe self.context = context
        descriptor = -1
    }

    /// Writes a line for each frame to `descriptor`, standard error for instance.
    package init(descriptor: Int32) {
        unsafe function = nil
        unsafe context = nil
        self.descriptor = descriptor
    }

    func show(_ frame: Frame, _ direction: PcapngWriter.Direction, _ time: UInt64) {
        unsafe withUnsafeTemporaryAllocation(byteCount: max(frame.byteCount, 1), alignment: 8) { copy in
            let count = unsafe frame.copyBytes(to: copy)
            let bytes = copy.baseAddress!
            if let function = unsafe function { return unsafe function(context, bytes, count, direction.rawValue, time) }
            let fraction = String(time % 1_000_000_000 / 1000)
            let arrow = direction == .inbound ? "<" : ">"
            let zeros = String(repeating: "0", count: 6 - fraction.utf8.count)
            let packet = unsafe PacketBytes(start: bytes, count: count)
            var line = "\(time / 1_000_000_000).\(zeros)\(fraction) \(arrow) \(FrameText(packet))\n"
            line.withUTF8 { unsafe _ = write(descriptor, $0.baseAddress!, $0.count) }
        }
    }
}
