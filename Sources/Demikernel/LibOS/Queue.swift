/// What a queue descriptor stands for: closed, so that every call is a switch.
package enum QueueKind: UInt8, BitwiseCopyable {
    case free
    /// A memory queue: ``Core/queue()``.
    case memory
    /// A kernel TCP socket, before and after it is connected.
    case kernelStream
    case kernelListener
    case kernelDatagram
    case kernelFile
    /// A TCP socket of the libOS's own network stack, before and after it is connected.
    case networkStream
    case networkListener
    case networkDatagram

    /// Whether the libOS's own network stack is behind it.
    @inline(__always) var isNetwork: Bool { rawValue >= QueueKind.networkStream.rawValue }
    var isDatagram: Bool { self == .kernelDatagram || self == .networkDatagram }
    var isStream: Bool { self == .kernelStream || self == .networkStream }
}

/// Where a socket stands (RFC 9293 and POSIX words).
package enum SocketState: UInt8, BitwiseCopyable {
    case unbound, bound, listening, connecting, connected
}

/// One queue: what a queue descriptor names, whichever device is behind it.
package struct Queue: BitwiseCopyable {
    package struct Flags: OptionSet, BitwiseCopyable {
        package let rawValue: UInt16
        package init(rawValue: UInt16) { self.rawValue = rawValue }
        /// The device may have something to read (to accept): worth a system call.
        static let readable = Flags(rawValue: 1)
        /// The device may take more.
        static let writable = Flags(rawValue: 2)
        /// The peer has closed or reset: reading never blocks again.
        static let hangup = Flags(rawValue: 4)
        /// The descriptor is in the epoll set, so `readable` and `writable` can be believed.
        static let registered = Flags(rawValue: 8)
        /// `shutdown` for sending was asked for.
        static let sendShutdown = Flags(rawValue: 16)
        /// A write through io_uring is in flight (files push one at a time, in order).
        static let writing = Flags(rawValue: 32)
        static let reading = Flags(rawValue: 64)
        /// The application bound the socket: its address outlives a failed connect.
        static let bound = Flags(rawValue: 128)
        /// The first writer waits for others, to be sent with them in one system call (``BatchedSends``).
        static let deferred = Flags(rawValue: 256)
    }

    var kind: QueueKind
    var state: SocketState
    var family: AddressFamily
    var flags: Flags
    /// Goes up each time the slot is given to a new queue.
    var generation: UInt32
    /// The kernel's file descriptor, or -1.
    var fileDescriptor: Int32
    /// Where the queue stands in the device's list of queues with blocked operations, or `Operation.none`.
    var blockedIndex: UInt32
    /// Pending pops or accepts; only the first is tried.
    var readers: OperationList
    /// Pending pushes, or the connect; only the first is tried.
    var writers: OperationList
    /// How much the next read asks for: follows what the peer sends.
    var receiveSize: UInt32
    /// Memory queues: what is stored.
    var ring: SegmentRing
    /// Files: where `pop` reads.
    var cursor: Int64

    /// Sockets of the network stack: their slot and generation there, in the place of the kernel's descriptor and the size of its reads.
    @inline(__always) var stackSlot: UInt32 {
        get { UInt32(bitPattern: fileDescriptor) }
        set { fileDescriptor = Int32(bitPattern: newValue) }
    }
    @inline(__always) var stackGeneration: UInt32 {
        get { receiveSize }
        set { receiveSize = newValue }
    }
}

/// All queues, addressed by index; the descriptor is ``QueueDescriptor/first`` plus the index, the lowest free one first.
///
/// Invariant: slots that `free` does not contain hold a queue whose kind is not `.free`.
@safe
package struct QueueTable: ~Copyable {
    private let slots: MappedMemory<Queue>
    private var free: Bitmap
    package private(set) var count = 0
    /// One past the highest index that was ever open, for walking over all queues.
    package private(set) var end: UInt32 = 0

    package init(capacity: Int) throws(DemikernelError) {
        let capacity = min(capacity, Bitmap.capacityMaximum)
        slots = try MappedMemory(count: capacity)
        free = Bitmap(capacity: capacity)
        for index in 0..<UInt32(capacity) { free.insert(index) }
    }

    package var capacity: Int { slots.count }

    package subscript(index: UInt32) -> Queue {
        @inline(__always) unsafeAddress {
            assert(Int(index) < slots.count)
            return unsafe UnsafePointer(slots.base + Int(index))
        }
        @inline(__always) nonmutating unsafeMutableAddress {
            assert(Int(index) < slots.count)
            return unsafe slots.base + Int(index)
        }
    }

    /// The index of a descriptor that is open; nil for any other number.
    @inline(__always)
    package func index(of descriptor: QueueDescriptor) -> UInt32? {
        let index = Int(descriptor.rawValue) &- Int(QueueDescriptor.first.rawValue)
        guard index >= 0, index < slots.count, self[UInt32(truncatingIfNeeded: index)].kind != .free else { return nil }
        return UInt32(truncatingIfNeeded: index)
    }

    @inline(__always)
    package func descriptor(of index: UInt32) -> QueueDescriptor {
        QueueDescriptor(rawValue: QueueDescriptor.first.rawValue &+ Int32(truncatingIfNeeded: index))
    }

    /// Opens the lowest free queue; nil where all are open.
    package mutating func insert(_ kind: QueueKind, family: AddressFamily = .ipv4, fileDescriptor: Int32 = -1) -> UInt32? {
        guard let index = free.first else { return nil }
        free.remove(index)
        end = max(end, index + 1)
        let generation = self[index].generation &+ 1
        self[index] = Queue(
            kind: kind, state: .unbound, family: family, flags: [.readable, .writable], generation: generation,
            fileDescriptor: fileDescriptor, blockedIndex: Operation.none, readers: OperationList(), writers: OperationList(),
            receiveSize: 0, ring: .none, cursor: 0)
        count += 1
        return index
    }

    package mutating func remove(_ index: UInt32) {
        assert(self[index].kind != .free)
        self[index].kind = .free
        free.insert(index)
        count -= 1
    }
}

/// The bounded FIFO of a memory queue. Trivially copyable: the queue that holds it owns it and ends it with `destroy`.
///
/// Invariant: `storage` is nil or holds `mask + 1` slots, a power of two, of which `count` from `head` on are initialised.
@safe
package struct SegmentRing: BitwiseCopyable {
    private let storage: UnsafeMutablePointer<SegmentList>?
    private let mask: UInt32
    private let limit: UInt32
    private var head: UInt32 = 0
    private(set) var count: UInt32 = 0

    static var none: SegmentRing { SegmentRing() }
    private init() {
        unsafe storage = nil
        mask = 0
        limit = 0
    }

    /// Room for `limit` elements.
    init(limit: Int) {
        var capacity = 1
        while capacity < limit { capacity *= 2 }
        unsafe storage = .allocate(capacity: capacity)
        mask = UInt32(capacity - 1)
        self.limit = UInt32(limit)
    }

    var isEmpty: Bool { @inline(__always) get { count == 0 } }
    var isFull: Bool { @inline(__always) get { count == limit } }

    @inline(__always)
    mutating func append(_ element: SegmentList) {
        assert(!isFull)
        unsafe storage.unsafelyUnwrapped[Int((head &+ count) & mask)] = element
        count &+= 1
    }

    @inline(__always)
    mutating func popFirst() -> SegmentList {
        assert(!isEmpty)
        let element = unsafe storage.unsafelyUnwrapped[Int(head)]
        head = (head &+ 1) & mask
        count &-= 1
        return element
    }

    /// Releases what is stored, and the storage.
    mutating func destroy() {
        while !isEmpty { popFirst().releaseAll() }
        unsafe storage?.deallocate()
        self = .none
    }
}
