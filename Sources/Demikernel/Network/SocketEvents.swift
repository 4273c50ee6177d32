/// What has changed on one socket.
package struct SocketEvent: BitwiseCopyable, Equatable {
    package struct Kinds: OptionSet, BitwiseCopyable, Sendable {
        package let rawValue: UInt8
        @inline(__always) package init(rawValue: UInt8) { self.rawValue = rawValue }
        /// There is something to receive, or the end of the stream.
        @inline(__always) package static var readable: Kinds { Kinds(rawValue: 1) }
        /// A send that was refused for want of room may be tried again.
        @inline(__always) package static var writable: Kinds { Kinds(rawValue: 2) }
        @inline(__always) package static var connected: Kinds { Kinds(rawValue: 4) }
        /// The socket has an error: ask it.
        @inline(__always) package static var failed: Kinds { Kinds(rawValue: 8) }
        /// A listener has a connection to accept.
        @inline(__always) package static var acceptable: Kinds { Kinds(rawValue: 16) }
        @inline(__always) package static var closed: Kinds { Kinds(rawValue: 32) }
        /// What has come is with the event: ``SocketEvents/takeDelivery(tag:)``. Only where the libOS had said that a reader waits.
        @inline(__always) package static var delivered: Kinds { Kinds(rawValue: 64) }
    }

    /// The number that the socket was opened with: the libOS's queue.
    package let tag: UInt32
    package let kinds: Kinds

    @inline(__always) package init(tag: UInt32, kinds: Kinds) {
        self.tag = tag
        self.kinds = kinds
    }
}

/// What has come for a reader that waited: without a stay in the socket's queue. The reference is the taker's.
package struct SocketDelivery: BitwiseCopyable {
    package let segment: Segment
    /// Of a datagram.
    package let source: IPAddress
    package let port: UInt16
}

/// What has changed, for whoever polls the stack: each tag once, with all that has happened since it was last looked at.
///
/// Appending and taking are O(1) and allocate nothing; there can never be more entries than tags.
///
/// Invariant: `pending[tag]` has the `isQueued` bit exactly when the tag is in the ring, so the ring, which has room for all tags, never
/// overflows. `deliveries[tag]` is initialised where `pending[tag]` says `delivered`.
package struct SocketEvents: ~Copyable {
    private static var isQueued: UInt8 { 0x80 }

    private var pending: MappedMemory<UInt8>
    private var ring: MappedMemory<UInt32>
    private var deliveries: MappedMemory<SocketDelivery>
    private let mask: Int
    private var head = 0
    private var queued = 0

    /// For tags `0..<tags`. Throws ENOMEM.
    package init(tags: Int) throws(DemikernelError) {
        var size = 64
        while size < tags { size *= 2 }
        let pending = try MappedMemory<UInt8>(count: size)
        let ring = try MappedMemory<UInt32>(count: size)
        let deliveries = try MappedMemory<SocketDelivery>(count: size)
        self.deliveries = deliveries
        self.pending = pending
        self.ring = ring
        mask = size - 1
    }

    /// Whether there is certainly nothing to take.
    @inline(__always) package var isEmpty: Bool { queued == 0 }

    /// Notes what has happened to the socket of `tag`. A tag beyond the table is nobody's and ignored.
    @inline(__always) package mutating func append(_ kinds: SocketEvent.Kinds, tag: UInt32) {
        guard Int(tag) <= mask else { return }
        let before = pending[Int(tag)]
        pending[Int(tag)] = before | kinds.rawValue | Self.isQueued
        if before & Self.isQueued == 0 {
            ring[(head &+ queued) & mask] = tag
            queued &+= 1
        }
    }

    /// Hands what has come to the reader that waits on the socket of `tag`. There is no delivery to it yet.
    @inline(__always) package mutating func deliver(_ delivery: SocketDelivery, tag: UInt32) {
        assert(Int(tag) <= mask && pending[Int(tag)] & SocketEvent.Kinds.delivered.rawValue == 0)
        deliveries[Int(tag)] = delivery
        append(.delivered, tag: tag)
    }

    /// What an event with ``SocketEvent/Kinds/delivered`` has brought.
    @inline(__always) package func takeDelivery(tag: UInt32) -> SocketDelivery { deliveries[Int(tag)] }

    /// Takes the event of the socket that has waited longest; nil where there is none.
    @inline(__always) package mutating func popFirst() -> SocketEvent? {
        while queued > 0 {
            let tag = ring[head]
            head = (head &+ 1) & mask
            queued &-= 1
            let kinds = pending[Int(tag)] & ~Self.isQueued
            pending[Int(tag)] = 0
            if kinds != 0 { return SocketEvent(tag: tag, kinds: SocketEvent.Kinds(rawValue: kinds)) }
        }
        return nil
    }

    /// Forgets what has happened to a tag whose socket is closed, before the number is given to another.
    @inline(__always) package mutating func forget(tag: UInt32) {
        guard Int(tag) <= mask else { return }
        pending[Int(tag)] &= Self.isQueued
    }
}
