/// What an operation does; decides how its task is polled.
package enum OperationKind: UInt8, BitwiseCopyable {
    case accept, connect, push, pop
    /// Completes when its time has come.
    case timer
    /// A background probe of the scheduler's cost: yields each time it is polled.
    case yield

    /// The name that errors use.
    var name: StaticString {
        switch self {
        case .accept: "accept"
        case .connect: "connect"
        case .push: "push"
        case .pop: "pop"
        case .timer: "timer"
        case .yield: "yield"
        }
    }
}

/// One submitted operation: the application task that a qtoken names.
///
/// Two cache lines. The first holds what submission, completion and `wait` touch and is set whole at submission; the second, which most
/// operations never touch, what only some of them have: each of its fields is set by whoever needs it.
package struct Operation: BitwiseCopyable {
    package enum Phase: UInt8, BitwiseCopyable { case free, pending, complete }

    struct Flags: OptionSet, BitwiseCopyable {
        let rawValue: UInt8
        /// A `waitAny` has looked at the completion and found it elsewhere (``CompletionList``).
        static let parked = Flags(rawValue: 1)
        /// `address` is set.
        static let hasAddress = Flags(rawValue: 2)
        /// The device works on the operation's memory: it completes only when the device says so.
        static let inFlight = Flags(rawValue: 4)
        /// `continuation` is set: a Swift task awaits the operation.
        static let awaited = Flags(rawValue: 8)
        /// The operation completed while a Swift task awaited it: it is that task's alone, and in no list.
        static let unlisted = Flags(rawValue: 16)
        /// The task that awaited the operation was cancelled and has gone; the device goes on with it. Nobody will wait for it.
        static let abandoned = Flags(rawValue: 32)
        /// A pop of a stream that is to bring no more than one segment.
        static let single = Flags(rawValue: 64)
    }

    // First line.
    /// Odd while the operation lives.
    var generation: UInt32
    var phase: Phase
    var kind: OperationKind
    var flags: Flags
    /// The positive errno of a failed operation, else 0.
    var errno: Int32
    /// The offset at which the token stood in the array of the last `waitAny`: only ever a guess, always checked.
    var hint: UInt32
    /// Neighbours in the list that the operation is in: its queue's waiting operations, the completions, or the free slots.
    var next: UInt32
    var previous: UInt32
    /// The queue that the operation is on, as an index into the queue table.
    var queue: UInt32
    /// `accept`: the new queue.
    var accepted: UInt32
    /// `push`: what is sent; `pop`: what was received. The references are the libOS's.
    var segments: SegmentList

    // Second line.
    /// The continuation of the Swift task that awaits the operation, and, for whoever cancels that task on another thread, the mailbox
    /// (unmanaged) and the slot.
    var continuation: UInt
    var mailbox: UInt
    var slot: UInt32
    /// `pop` from a device: the most bytes wanted, 0 for no limit.
    var limit: UInt32
    /// `push` to a device: bytes that it has taken.
    var progress: Int
    /// `connect`, `pushTo`: the destination. `accept`, `pop` of a datagram: the source.
    var address: SocketAddress
    /// `timer`: its entry in the wheel.
    var timer: TimerKey

    static var none: UInt32 { .max }
    var isInFlight: Bool { flags.contains(.inFlight) }

    mutating func setAddress(_ address: SocketAddress) {
        self.address = address
        flags.insert(.hasAddress)
    }
}

/// All live operations, addressed by slot: a slab in lazily committed memory.
///
/// Insertion, removal and lookup take constant time and allocate nothing.
///
/// Invariant: slots below `fresh` hold an initialised `Operation`; those with an even generation form the free list that `firstFree` heads
/// through `next`.
@safe
package struct OperationTable: ~Copyable {
    private let slots: MappedMemory<Operation>
    private var firstFree = Operation.none
    private var fresh: UInt32 = 0
    package let capacity: Int
    package private(set) var count = 0

    /// An empty table. Complexity: O(1). Throws ENOMEM where the system has no address space.
    package init(capacity: Int) throws(DemikernelError) {
        self.capacity = capacity
        slots = try MappedMemory(count: capacity)
    }

    /// The operation in a slot that is known to be live or complete.
    package subscript(slot: UInt32) -> Operation {
        @inline(__always) unsafeAddress {
            assert(slot < fresh)
            return unsafe UnsafePointer(slots.base + Int(slot))
        }
        @inline(__always) nonmutating unsafeMutableAddress {
            assert(slot < fresh)
            return unsafe slots.base + Int(slot)
        }
    }

    /// The operation in a slot, in place until it is removed. For several accesses in a row: through the subscript each of them loads the
    /// table's address, which the stores in between could have changed as far as the compiler can tell.
    @unsafe @inline(__always) func pointer(to slot: UInt32) -> UnsafeMutablePointer<Operation> {
        assert(slot < fresh)
        return unsafe slots.base + Int(slot)
    }

    /// Where the operation lies, until it is removed.
    @unsafe func address(of slot: UInt32) -> UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(slots.base + Int(slot)) }

    /// Whether `token` names a live operation.
    @inline(__always)
    package func contains(_ token: QToken) -> Bool {
        token.slot < fresh && token.generation & 1 == 1 && self[token.slot].generation == token.generation
    }

    @inline(__always)
    package func token(of slot: UInt32) -> QToken { QToken(slot: slot, generation: self[slot].generation) }

    /// Starts a pending operation, to which the references of `segments` pass, and answers its slot; nil where every slot is taken.
    @inline(__always)
    package mutating func insert(_ kind: OperationKind, queue: UInt32, segments: SegmentList = .empty) -> UInt32? {
        var slot = firstFree
        if slot != Operation.none {
            firstFree = self[slot].next
        } else {
            guard Int(fresh) < capacity else { return nil }
            slot = fresh
            fresh &+= 1
            self[slot].generation = 0
        }
        count &+= 1
        let place = unsafe slots.base + Int(slot)
        unsafe place.pointee.generation &+= 1
        unsafe place.pointee.phase = .pending
        unsafe place.pointee.kind = kind
        unsafe place.pointee.flags = []
        unsafe place.pointee.errno = 0
        unsafe place.pointee.hint = Operation.none
        unsafe place.pointee.next = Operation.none
        unsafe place.pointee.previous = Operation.none
        unsafe place.pointee.queue = queue
        unsafe place.pointee.segments = segments
        if kind == .push { unsafe place.pointee.progress = 0 }
        return slot
    }

    /// Ends the operation: its tokens and wakers are dead from here on.
    @inline(__always)
    package mutating func remove(_ slot: UInt32) {
        let operation = unsafe pointer(to: slot)
        assert(unsafe operation.pointee.phase != .free)
        unsafe operation.pointee.generation &+= 1
        unsafe operation.pointee.phase = .free
        unsafe operation.pointee.next = firstFree
        firstFree = slot
        count &-= 1
    }

    /// Slots that were ever in use, for walking over all live operations at shutdown.
    var slotsUsed: UInt32 { fresh }
}

/// A doubly linked FIFO of operations, through their `next` and `previous`. An operation is in one list at most.
package struct OperationList: BitwiseCopyable {
    package private(set) var first = Operation.none
    private var last = Operation.none

    package init() {}

    package var isEmpty: Bool { @inline(__always) get { first == Operation.none } }

    @inline(__always)
    package mutating func append(_ slot: UInt32, in table: borrowing OperationTable) {
        let operation = unsafe table.pointer(to: slot)
        unsafe operation.pointee.next = Operation.none
        unsafe operation.pointee.previous = last
        if last == Operation.none { first = slot } else { table[last].next = slot }
        last = slot
    }

    @inline(__always)
    package mutating func remove(_ slot: UInt32, in table: borrowing OperationTable) {
        let next = table[slot].next
        let previous = table[slot].previous
        if previous == Operation.none { first = next } else { table[previous].next = next }
        if next == Operation.none { last = previous } else { table[next].previous = previous }
    }
}

/// Completed operations that nobody has waited for yet, oldest first: the completion ring.
///
/// Those before the boundary were looked at by a `waitAny` and stood elsewhere than their remembered offset said (*parked*); those behind
/// it are new. `waitAny` looks at each new one once, so its cost follows completions, not tokens.
package struct CompletionList: BitwiseCopyable {
    private var all = OperationList()
    private var firstNew = Operation.none
    package private(set) var parkedCount = 0

    package init() {}

    package var first: UInt32? { all.isEmpty ? nil : all.first }
    package var nextNew: UInt32? { @inline(__always) get { firstNew == Operation.none ? nil : firstNew } }

    @inline(__always)
    package mutating func append(_ slot: UInt32, in table: borrowing OperationTable) {
        all.append(slot, in: table)
        if firstNew == Operation.none { firstNew = slot }
    }

    /// Moves the boundary behind the oldest new completion.
    package mutating func parkNextNew(in table: borrowing OperationTable) {
        let slot = firstNew
        assert(slot != Operation.none)
        firstNew = table[slot].next
        table[slot].flags.insert(.parked)
        parkedCount &+= 1
    }

    @inline(__always)
    package mutating func remove(_ slot: UInt32, in table: borrowing OperationTable) {
        if table[slot].flags.contains(.parked) { parkedCount &-= 1 } else if firstNew == slot { firstNew = table[slot].next }
        all.remove(slot, in: table)
    }
}
