/// What goes wrong on one direction of a ``FaultyDevice``. Probabilities are 0...1, times in nanoseconds; without settings nothing does.
package struct FaultSettings: Sendable, Equatable {
    /// The frame is lost.
    package var loss = 0.0
    /// The frame comes twice.
    package var duplicate = 0.0
    /// One to three bits of the frame are changed.
    package var corrupt = 0.0
    /// The frame is held back for `reorderDelay`, so that those behind it overtake.
    package var reorder = 0.0
    package var reorderDelay: UInt64 = 100_000
    /// How long every frame takes, and how much longer it may take, evenly distributed. Jitter alone does not change the order.
    package var delay: UInt64 = 0
    package var jitter: UInt64 = 0
    /// The link's rate; 0 for no limit.
    package var bytesPerSecond: UInt64 = 0
    /// The most frames on their way, 1...65,536; more are lost.
    package var queueLimit = 1000

    package init() {}

    /// Throws EINVAL where something is out of bounds.
    package func validate() throws(DemikernelError) {
        for probability in [loss, duplicate, corrupt, reorder] where !(0...1).contains(probability) {
            throw DemikernelError(.invalidArgument, "a fault's probability is between 0 and 1")
        }
        guard 1...65_536 ~= queueLimit else { throw DemikernelError(.invalidArgument, "a faulty link queues 1 to 65,536 frames") }
        guard max(delay, jitter, reorderDelay) <= 3_600_000_000_000 else {
            throw DemikernelError(.invalidArgument, "a faulty link's times are up to an hour")
        }
    }
}

/// What went wrong, in frames.
package struct FaultCounters: Sendable, Equatable {
    package var lost: UInt64 = 0
    package var duplicated: UInt64 = 0
    package var corrupted: UInt64 = 0
    package var reordered: UInt64 = 0
    /// Lost because too many were on their way, or there was no memory for a copy.
    package var overflowed: UInt64 = 0
}

/// Frames on their way over a bad link, in the order in which they arrive: chance decides, reproducibly, by the seed.
///
/// Complexity: O(log frames on their way) for each.
///
/// Invariant: `queue` has room for `settings.queueLimit + 1` entries, of which the first `count` are a binary heap by time, then by number.
@safe struct FaultyLink: ~Copyable {
    private struct Entry: BitwiseCopyable {
        let due: UInt64
        let number: UInt64
        let frame: Frame

        func isBefore(_ other: Entry) -> Bool { due != other.due ? due < other.due : number < other.number }
    }

    private let settings: FaultSettings
    private let queue: UnsafeMutablePointer<Entry>
    private(set) var count = 0
    private(set) var counters = FaultCounters()
    private var state: UInt64
    private var number: UInt64 = 0
    /// When the link has sent what it was given.
    private var idleTime: UInt64 = 0
    /// When the last frame that kept its place arrives.
    private var lastDue: UInt64 = 0

    init(_ settings: FaultSettings, seed: UInt64) {
        self.settings = settings
        state = seed
        unsafe queue = .allocate(capacity: settings.queueLimit + 1)
    }

    deinit {
        for index in 0..<count { unsafe queue[index].frame.release() }
        unsafe queue.deallocate()
    }

    /// When the next frame arrives; `UInt64.max` where none is on its way.
    var nextDue: UInt64 { count == 0 ? .max : unsafe queue[0].due }

    /// Takes over the frame's references.
    mutating func send(_ frame: Frame, now: UInt64, heap: HeapReference) {
        if happens(settings.loss) {
            counters.lost += 1
            return frame.release()
        }
        if happens(settings.duplicate) {
            let copy = frame.flattened(in: heap)
            if copy.isNull {
                counters.overflowed += 1
            } else {
                counters.duplicated += 1
                enqueue(Frame(copy, offload: frame.offload), now)
            }
        }
        guard happens(settings.corrupt) else { return enqueue(frame, now) }
        guard let frame = corrupted(frame, heap) else {
            counters.overflowed += 1
            return
        }
        counters.corrupted += 1
        enqueue(frame, now)
    }

    /// The first frame that has arrived by `now`, and its references; nil where none has.
    mutating func receive(now: UInt64) -> Frame? {
        guard count > 0, unsafe queue[0].due <= now else { return nil }
        let first = unsafe queue[0].frame
        count -= 1
        if count > 0 { siftDown(unsafe queue[count]) }
        return first
    }

    // MARK: Chance

    /// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    private mutating func random() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value &>> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value &>> 31)
    }

    private mutating func random(below bound: UInt64) -> UInt64 { random().multipliedFullWidth(by: bound).high }

    private mutating func happens(_ probability: Double) -> Bool {
        probability > 0 && Double(random() &>> 11) * 0x1p-53 < probability
    }

    /// A copy of the frame with bits changed, in place of the frame: the original may be the application's memory. Its checksum is nobody's
    /// to trust.
    private mutating func corrupted(_ frame: Frame, _ heap: HeapReference) -> Frame? {
        let copy = frame.flattened(in: heap)
        frame.release()
        guard !copy.isNull, copy.byteCount > 0 else { return nil }
        let bytes = unsafe PacketBytes(start: copy.start, count: copy.byteCount)
        // Different bits, so that none is changed back.
        let first = random(below: UInt64(copy.byteCount * 8))
        for extra in 0...random(below: 3) {
            let bit = Int((first + extra * 9) % UInt64(copy.byteCount * 8))
            bytes.store8(bytes.load8(bit / 8) ^ 1 << UInt8(bit % 8), at: bit / 8)
        }
        return Frame(copy)
    }

    // MARK: Time

    private mutating func enqueue(_ frame: Frame, _ now: UInt64) {
        guard count < settings.queueLimit else {
            counters.overflowed += 1
            return frame.release()
        }
        if settings.bytesPerSecond > 0 {
            // Less than 2³⁰ bytes times 10⁹.
            idleTime = max(idleTime, now) &+ UInt64(frame.byteCount) &* 1_000_000_000 / settings.bytesPerSecond
        }
        var due = max(now, idleTime) &+ settings.delay
        if settings.jitter > 0 { due &+= random(below: settings.jitter + 1) }
        if happens(settings.reorder) {
            counters.reordered += 1
            due &+= settings.reorderDelay
        } else {
            due = max(due, lastDue)
            lastDue = due
        }
        number += 1
        siftUp(Entry(due: due, number: number, frame: frame))
    }

    private mutating func siftUp(_ entry: Entry) {
        var index = count
        count += 1
        while index > 0, unsafe entry.isBefore(queue[(index - 1) / 2]) {
            unsafe (queue + index).initialize(to: queue[(index - 1) / 2])
            index = (index - 1) / 2
        }
        unsafe (queue + index).initialize(to: entry)
    }

    private mutating func siftDown(_ entry: Entry) {
        var index = 0
        while true {
            var child = 2 * index + 1
            guard child < count else { break }
            if child + 1 < count, unsafe queue[child + 1].isBefore(queue[child]) { child += 1 }
            guard unsafe queue[child].isBefore(entry) else { break }
            unsafe (queue + index).initialize(to: queue[child])
            index = child
        }
        unsafe (queue + index).initialize(to: entry)
    }
}
