import Glibc
import Synchronization
import SystemPackage

/// Frames on their way from a libOS to whoever records them: bytes in a ring of fixed size, from one thread to one other, without locks. A frame
/// for which there is no room is dropped and counted: the libOS never waits.
///
/// Invariant: `base` addresses `capacity` bytes, a power of two, until `deinit`. The bytes from `head` to `tail` (both count for ever; modulo
/// `capacity` they are places) hold whole records, each at a multiple of 8 and in one piece, and belong to the reader; the others belong to the
/// writer. Only the writer moves `tail`, only the reader `head`. Sendable unchecked for that reason.
@safe
package final class CaptureQueue: @unchecked Sendable {
    /// What stands before a frame's bytes.
    private struct Header: BitwiseCopyable {
        /// Of the record, header and padding included.
        var byteCount: UInt32
        /// Of the frame, as it was, and as much of it as follows.
        var frameByteCount: UInt32
        var keptByteCount: UInt32
        /// ``PcapngWriter/Direction``, or `padding` for a record that only fills the ring's end.
        var direction: UInt32
        var time: UInt64

        static var padding: UInt32 { .max }
    }

    /// One frame, as the reader sees it.
    @safe package struct Entry {
        package let bytes: UnsafeRawBufferPointer
        package let frameByteCount: Int
        package let direction: PcapngWriter.Direction
        package let time: UInt64
    }

    private let base: UnsafeMutableRawPointer
    private let capacity: UInt64
    /// The most bytes of a frame that are kept.
    package let snapLength: Int
    private let head = Atomic<UInt64>(0)
    private let tail = Atomic<UInt64>(0)
    private let frameCount = Atomic<UInt64>(0)
    private let dropCount = Atomic<UInt64>(0)
    private let closed = Atomic<Bool>(false)

    /// Room for `capacity` bytes, rounded up to a power of two. Throws ENOMEM.
    package init(capacity: Int = 16 << 20, snapLength: Int = PcapngWriter.snapLengthMaximum) throws(DemikernelError) {
        var rounded = 1 << 16
        while rounded < capacity, rounded < 1 << 30 { rounded *= 2 }
        // A frame takes a quarter of the ring at the most, so that one always fits into an empty one, wherever that begins.
        self.snapLength = max(1, min(snapLength, rounded / 4, PcapngWriter.snapLengthMaximum))
        let mapping = unsafe mmap(nil, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let mapping = unsafe mapping, unsafe mapping != MAP_FAILED else { throw DemikernelError(.noMemory, "no memory for captured frames") }
        unsafe base = mapping
        self.capacity = UInt64(rounded)
    }

    deinit { unsafe _ = munmap(base, Int(capacity)) }

    /// Frames that were put, and frames for which there was no room.
    package var frames: UInt64 { frameCount.load(ordering: .relaxed) }
    package var drops: UInt64 { dropCount.load(ordering: .relaxed) }

    /// Nothing more comes: what is in the queue is the end. Safe from any thread.
    package func close() { closed.store(true, ordering: .releasing) }
    package var isClosed: Bool { closed.load(ordering: .acquiring) }

    // MARK: - The writer's side

    /// Puts a copy of a frame, where there is room. `time` is in nanoseconds since 1970.
    func put(_ frame: Frame, direction: PcapngWriter.Direction, time: UInt64) {
        frameCount.wrappingAdd(1, ordering: .relaxed)
        let whole = frame.byteCount
        let kept = min(whole, snapLength)
        let size = UInt64(MemoryLayout<Header>.size + kept + 7) & ~7
        let end = tail.load(ordering: .relaxed)
        let place = end & (capacity - 1)
        // A record that does not fit before the ring's end begins at its start; what is left there is skipped.
        let skipped = place + size > capacity ? capacity - place : 0
        guard end - head.load(ordering: .acquiring) + skipped + size <= capacity else {
            dropCount.wrappingAdd(1, ordering: .relaxed)
            return
        }
        if skipped > 0, skipped >= UInt64(MemoryLayout<Header>.size) {
            let header = Header(byteCount: UInt32(skipped), frameByteCount: 0, keptByteCount: 0, direction: Header.padding, time: 0)
            unsafe base.storeBytes(of: header, toByteOffset: Int(place), as: Header.self)
        }
        let start = (end + skipped) & (capacity - 1)
        let header = Header(
            byteCount: UInt32(size), frameByteCount: UInt32(whole), keptByteCount: UInt32(kept), direction: direction.rawValue, time: time)
        unsafe base.storeBytes(of: header, toByteOffset: Int(start), as: Header.self)
        let target = unsafe UnsafeMutableRawBufferPointer(start: base + Int(start) + MemoryLayout<Header>.size, count: kept)
        unsafe _ = frame.copyBytes(to: target)
        tail.store(end + skipped + size, ordering: .releasing)
    }

    // MARK: - The reader's side

    /// Calls `body` with each frame that is there, oldest first; the bytes are valid for the call. Answers how many there were.
    @discardableResult
    package func drain(_ body: (Entry) -> Void) -> Int {
        var start = head.load(ordering: .relaxed)
        let end = tail.load(ordering: .acquiring)
        var count = 0
        while start != end {
            let place = start & (capacity - 1)
            // Too little at the ring's end for a header was skipped without one.
            guard capacity - place >= UInt64(MemoryLayout<Header>.size) else {
                start += capacity - place
                continue
            }
            let header = unsafe base.load(fromByteOffset: Int(place), as: Header.self)
            if header.direction != Header.padding {
                let bytes = unsafe UnsafeRawBufferPointer(start: base + Int(place) + MemoryLayout<Header>.size, count: Int(header.keptByteCount))
                body(unsafe Entry(
                    bytes: bytes, frameByteCount: Int(header.frameByteCount),
                    direction: PcapngWriter.Direction(rawValue: header.direction) ?? .unknown, time: header.time))
                count += 1
            }
            start += UInt64(header.byteCount)
            head.store(start, ordering: .releasing)
        }
        head.store(start, ordering: .releasing)
        return count
    }
}

/// Puts every frame that passes a device into a ``CaptureQueue`` too, and changes nothing else. It is put around the device when somebody
/// begins to look, and taken away when they end: a libOS that nobody looks at pays nothing.
struct CaptureTap: NetworkDevice, ~Copyable {
    private let device: DeviceHandle
    private let queue: CaptureQueue
    /// Frames at the front of the burst that were put and not taken by the device.
    private var seen = 0

    init(_ device: DeviceHandle, queue: CaptureQueue) {
        self.device = device
        self.queue = queue
    }

    deinit { queue.close() }

    var capabilities: NetworkDeviceCapabilities { device.capabilities }
    var statistics: NetworkDeviceStatistics { device.statistics }
    var isConnected: Bool { device.isConnected }
    var eventDescriptor: Int32? { device.eventDescriptor }

    mutating func receive(into burst: inout FrameBurst) {
        let before = burst.count
        device.receive(into: &burst)
        guard burst.count > before else { return }
        let now = DeviceClock.wall.now()
        for index in before..<burst.count { queue.put(burst[index], direction: .inbound, time: now) }
    }

    mutating func transmit(_ burst: inout FrameBurst) {
        let count = burst.count
        if seen < count {
            let now = DeviceClock.wall.now()
            for index in seen..<count { queue.put(burst[index], direction: .outbound, time: now) }
        }
        device.transmit(&burst)
        seen = burst.count
    }

    mutating func prepareToSleep() -> Bool { device.prepareToSleep() }
    mutating func wake() { device.wake() }
    mutating func maintain(now: UInt64) -> UInt64 { device.maintain(now: now) }
}
