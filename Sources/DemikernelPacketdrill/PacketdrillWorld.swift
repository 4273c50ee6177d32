import Demikernel
import Glibc

/// One network stack in virtual time, between packetdrill's threads and nothing else: raw IP packets go in and come out.
///
/// Time moves when packetdrill asks for it: `usleep` moves it that far, each `gettimeofday` by a microsecond, because packetdrill spins before
/// each event, and waiting for a packet moves it on to whatever the stack does next.
///
/// Invariant: everything below `mutex` is touched only by the thread that holds it, which has the heap as its own meanwhile (``enter(_:)``).
/// Sendable unchecked for that reason.
@safe
final class PacketdrillWorld: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let changed: UnsafeMutablePointer<pthread_cond_t>
    private let heap: Heap
    private var stack: NetworkStack
    private var burst: FrameBurst
    /// Nanoseconds.
    private(set) var now: UInt64 = 1_000_000_000
    private var outgoing: [(packet: [UInt8], time: UInt64)] = []
    var descriptors = PacketdrillDescriptors()
    private let settings: PacketdrillSettings

    /// packetdrill's main thread: the one that moves time, and waits for nobody.
    private let mainThread = pthread_self()

    /// How long, in milliseconds of real time, a call blocks before it is given up: whoever should end the waiting has gone.
    private static let patience = 10_000
    /// How long, likewise, time stands still before a call on packetdrill's second thread moves it: the script has nothing more to do than to wait for
    /// it, which packetdrill does for a second.
    private static let stillnessMaximum = 300
    /// What the stack may do at one moment before it is taken for one that spins.
    private static let turnsMaximum = 100_000

    init(_ settings: PacketdrillSettings) throws(DemikernelError) {
        let heap = try Heap(HeapConfiguration(limit: 1 << 30, hugePages: .never, lockPages: false))
        heap.makeCurrent()
        let device = NetworkDeviceCapabilities(address: settings.ownStation.rawValue, maximumTransmissionUnit: settings.mtu, name: "packetdrill")
        let stack = try NetworkStack(
            settings.network, heap: heap.reference, device: device, entropy: NetworkEntropy(seed: settings.seed), now: 1_000_000_000)
        burst = FrameBurst(capacity: 64, heap: heap.reference)
        heap.resign()
        self.heap = heap
        self.stack = stack
        self.settings = settings
        unsafe mutex = .allocate(capacity: 1)
        unsafe mutex.initialize(to: pthread_mutex_t())
        unsafe pthread_mutex_init(mutex, nil)
        unsafe changed = .allocate(capacity: 1)
        unsafe changed.initialize(to: pthread_cond_t())
        unsafe pthread_cond_init(changed, nil)
    }

    deinit {
        // The stack's buffers are the heap's, which has to be this thread's when they go.
        heap.makeCurrent()
        unsafe pthread_cond_destroy(changed)
        unsafe pthread_mutex_destroy(mutex)
        unsafe changed.deallocate()
        unsafe mutex.deallocate()
    }

    // MARK: - Calls

    /// Calls `body` with the stack, which nobody else has meanwhile; what it has sent is taken out, and whoever waits looks again.
    func enter<Result>(_ body: (borrowing PacketdrillWorld, inout NetworkStack) -> Result) -> Result {
        unsafe pthread_mutex_lock(mutex)
        heap.makeCurrent()
        defer {
            collect()
            heap.resign()
            unsafe pthread_cond_broadcast(changed)
            unsafe pthread_mutex_unlock(mutex)
        }
        heap.drainReturns()
        return body(self, &stack)
    }

    /// Calls `body` again and again, each time that something has changed, until it has an answer; with `isBlocking` false once. nil where there is
    /// none, or none in time.
    func wait<Result>(isBlocking: Bool, _ body: (borrowing PacketdrillWorld, inout NetworkStack) -> Result?) -> Result? {
        var stillness = Stillness()
        for _ in 0..<Self.patience {
            if let result = enter(body) { return result }
            guard isBlocking, letPass(until: .max, &stillness) else { return nil }
        }
        return nil
    }

    /// For how many rounds of waiting time has stood still.
    struct Stillness {
        fileprivate var now: UInt64 = 0
        fileprivate var rounds = 0
    }

    /// Waits until something changes, a millisecond of real time at most. A call on packetdrill's main thread has nobody else to move time: it moves to
    /// the stack's next timer, `limit` at most. False where there is no such moment.
    func letPass(until limit: UInt64, _ stillness: inout Stillness) -> Bool {
        let isMain = pthread_equal(pthread_self(), mainThread) != 0
        let now = enter { world, _ in world.now }
        stillness.rounds = now == stillness.now ? stillness.rounds + 1 : 0
        stillness.now = now
        if isMain || stillness.rounds > Self.stillnessMaximum {
            stillness.rounds = 0
            let moved = enter { world, stack in
                let target = min(stack.nextDeadline() ?? .max, limit)
                guard target < .max else { return false }
                world.advance(to: max(target, world.now), &stack)
                return true
            }
            if moved || isMain { return moved }
        }
        unsafe pthread_mutex_lock(mutex)
        var end = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &end)
        end.tv_nsec += 1_000_000
        if end.tv_nsec >= 1_000_000_000 { (end.tv_sec, end.tv_nsec) = (end.tv_sec + 1, end.tv_nsec - 1_000_000_000) }
        unsafe pthread_cond_timedwait(changed, mutex, &end)
        unsafe pthread_mutex_unlock(mutex)
        return true
    }

    /// A buffer of the heap with these bytes; nil where it is exhausted. Within ``enter(_:)``.
    func segment(_ bytes: UnsafeRawBufferPointer) -> SegmentList? {
        let segment = heap.allocateSegment(bytes.count)
        guard !segment.isNull else { return nil }
        unsafe segment.bytes.copyMemory(from: bytes)
        return .single(segment)
    }

    private func collect() {
        takeOut(&stack)
        while let event = stack.events.popFirst() { descriptors.note(event) }
    }

    // MARK: - Time

    /// The time of virtual `gettimeofday(2)`, in microseconds, which moves on by one each time.
    func time() -> UInt64 {
        enter { world, stack in
            world.advance(to: world.now + 1_000, &stack)
            return world.now / 1_000
        }
    }

    func sleep(microseconds: UInt32) { enter { world, stack in world.advance(to: world.now + UInt64(microseconds) * 1_000, &stack) } }

    /// Lets the stack do what is due up to `target`, each at its time.
    private func advance(to target: UInt64, _ stack: inout NetworkStack) {
        var turns = 0
        while let deadline = stack.nextDeadline(), deadline <= target, turns < Self.turnsMaximum {
            now = max(now, deadline)
            stack.poll(now: now)
            turns += 1
            takeOut(&stack)
        }
        now = target
        stack.poll(now: now)
    }

    /// Takes over what the stack sends, with the time at which it does.
    private func takeOut(_ stack: inout NetworkStack) {
        while !stack.ip.outgoing.isEmpty {
            let frame = stack.ip.outgoing.removeFirst()
            var bytes = [UInt8](repeating: 0, count: frame.byteCount)
            _ = unsafe bytes.withUnsafeMutableBytes { unsafe frame.copyBytes(to: $0) }
            frame.release()
            if let packet = PacketdrillPacket.outbound(bytes, settings) { outgoing.append((packet, now)) }
        }
    }

    // MARK: - Packets

    /// Takes an IP packet in. False for one that is none, or where the heap is exhausted.
    func receive(_ packet: UnsafeRawBufferPointer) -> Bool {
        enter { world, stack in
            guard let frame = unsafe PacketdrillPacket.inbound(packet, world.settings) else { return false }
            guard unsafe world.burst.append(byteCount: frame.count, fill: { target in unsafe target.copyBytes(from: frame) }) else { return false }
            stack.receive(&world.burst, now: world.now)
            return true
        }
    }

    /// The next packet that the stack sends, with its time in microseconds. Where there is none, time moves on to the stack's next timer, or, where
    /// there is none of these either, somebody else may still do something: nil, to be asked again.
    func nextPacket() -> (packet: [UInt8], microseconds: UInt64)? {
        for attempt in 0..<2 {
            // Another thread of packetdrill's may be about to make the call that sends: time waits for it a moment.
            if attempt > 0 { usleep(2_000) }
            let found = enter { world, stack -> (packet: [UInt8], microseconds: UInt64)? in
                world.takeOut(&stack)
                if world.outgoing.isEmpty, attempt > 0, let deadline = stack.nextDeadline() { world.advance(to: max(deadline, world.now), &stack) }
                world.takeOut(&stack)
                guard !world.outgoing.isEmpty else { return nil }
                let first = world.outgoing.removeFirst()
                return (first.packet, first.time / 1_000)
            }
            if let found { return found }
        }
        return nil
    }
}
