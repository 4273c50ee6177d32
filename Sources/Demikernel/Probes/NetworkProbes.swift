import Glibc

// What `demi bench` measures between a device and an application: a libOS with a network stack, and a peer that is a stack of its own. Frames are
// made and taken away outside of the measured time, as a device does it.

/// A peer of a libOS that is not on its device. The libOS has a stack, and the address 10.117.0.1.
///
/// Invariant: `singles` has room for `singlesMaximum` bursts, all initialised.
@safe struct ProbePeer: ~Copyable {
    static var libOSAddress: UInt32 { 0x0a75_0001 }
    static var address: UInt32 { 0x0a75_0002 }
    /// Pushes between two readings of the clock: with one more the libOS would give them to its device.
    static var pushes: Int { 7 }

    var stack: NetworkStack
    let clock = ProbeClock()
    private var frames: FrameBurst
    /// Bursts of one frame each, empty between two deliveries.
    private let singles: UnsafeMutablePointer<FrameBurst>
    private static var singlesMaximum: Int { 16 }
    private let heap: HeapReference

    /// Makes it, and has the libOS leave checksums to its device where `fillsChecksums`.
    init(_ libOS: LibOS, fillsChecksums: Bool) throws(DemikernelError) {
        let heap = libOS.core.heap.reference
        var configuration = NetworkConfiguration(addresses: [.init(IPAddress(ipv4: Self.address), prefixLength: 24)])
        configuration.announcesAddresses = false
        let device = NetworkDeviceCapabilities(address: 0x0200_0000_0099, fillsChecksums: fillsChecksums, name: "probe")
        let stack = try NetworkStack(configuration, heap: heap, device: device, entropy: NetworkEntropy(seed: 1), now: libOS.core.readTime())
        self.stack = stack
        self.heap = heap
        frames = FrameBurst(capacity: 256, heap: heap)
        unsafe singles = .allocate(capacity: Self.singlesMaximum)
        for number in 0..<Self.singlesMaximum { unsafe (singles + number).initialize(to: FrameBurst(capacity: 1, heap: heap)) }
        libOS.core.network.stack.ip.offloadsChecksums = fillsChecksums
    }

    deinit {
        unsafe singles.deinitialize(count: Self.singlesMaximum)
        unsafe singles.deallocate()
    }

    /// Takes what has to be complete.
    static func taken(_ libOS: LibOS, _ token: QToken) throws(DemikernelError) -> RawCompletion {
        guard libOS.hasCompleted(token) else { throw DemikernelError(.ioError, "the probe's packets did not arrive") }
        return libOS.core.take(completed: token)
    }

    /// Everything that either has to send is received by the other.
    mutating func exchange(_ libOS: LibOS) {
        let now = libOS.core.readTime()
        while !libOS.core.network.stack.ip.outgoing.isEmpty, !frames.isFull { frames.append(libOS.core.network.stack.ip.outgoing.removeFirst()) }
        if !frames.isEmpty { stack.receive(&frames, now: now) }
        while !stack.ip.outgoing.isEmpty, !frames.isFull { frames.append(stack.ip.outgoing.removeFirst()) }
        if !frames.isEmpty { libOS.core.network.stack.receive(&frames, now: now) }
        libOS.core.takeNetworkEvents(now: now)
        // No turn of a device during the probe: it would take the frames away.
        libOS.core.calls = 0
    }

    /// Gives the libOS what the peer has sent, `expected` frames, one after the other, each with its poll and its events; answers the nanoseconds
    /// that this has taken.
    mutating func deliver(_ libOS: LibOS, _ now: UInt64, expected: Int) throws(DemikernelError) -> UInt64 {
        guard stack.ip.outgoing.count == expected, expected <= Self.singlesMaximum else {
            throw DemikernelError(.ioError, "the probe's packets were not sent at once")
        }
        let singles = unsafe singles
        for number in 0..<expected { unsafe singles[number].append(stack.ip.outgoing.removeFirst()) }
        let start = ProbeClock.now()
        for number in 0..<expected {
            unsafe libOS.core.network.stack.receive(&singles[number], now: now)
            libOS.core.network.stack.poll(now: now)
            libOS.core.takeNetworkEvents(now: now)
        }
        return clock.elapsed(since: start)
    }

    /// 64 bytes.
    func payload() throws(DemikernelError) -> Segment {
        let segment = heap.allocateSegment(64)
        guard !segment.isNull else { throw .heapExhausted }
        segment.packet.clear(0, 64)
        return segment
    }
}

extension LibOS {
    /// Has a peer for as long as `body` takes; afterwards checksums are left to whom they were left before. Throws EINVAL for a libOS without a stack.
    func withProbePeer(
        fillsChecksums: Bool, _ body: (consuming ProbePeer) throws(DemikernelError) -> [Double]
    ) throws(DemikernelError) -> [Double] {
        guard core.network.isPresent else { throw DemikernelError(.invalidArgument, "the libOS has no network stack") }
        let offloads = core.network.stack.ip.offloadsChecksums
        defer { core.network.stack.ip.offloadsChecksums = offloads }
        return try body(try ProbePeer(self, fillsChecksums: fillsChecksums))
    }

    /// While something is complete that nobody has taken, what is pushed waits for a batch: no device takes the probe's frames. Answers what is to be
    /// taken in the end.
    func holdPushes() throws(DemikernelError) -> QToken {
        let untaken = try submitIdle()
        completeIdle(untaken)
        return untaken
    }
}

/// Monotonic nanoseconds, less what reading them takes: with a few operations between two readings, that would be a nanosecond or three of each.
struct ProbeClock {
    private let overhead: UInt64

    init() {
        var least = UInt64.max
        for _ in 0..<256 {
            let start = Self.now()
            least = min(least, Self.now() - start)
        }
        overhead = least
    }

    static func now() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    func elapsed(since start: UInt64) -> UInt64 {
        let taken = Self.now() - start
        return taken > overhead ? taken - overhead : 0
    }
}
