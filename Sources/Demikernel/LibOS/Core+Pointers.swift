import CDemikernelShims
import Glibc
import SystemPackage

// The core's face for callers that hold memory by pointer, which is the C ABI: references are counted as in the Swift face, but by hand.

extension Core {
    /// The turn that a call gives the scheduler where it does nothing that gives one anyway.
    package mutating func turn() { submissionTurn() }

    // MARK: - Tokens for slots

    package mutating func acceptToken(_ descriptor: QueueDescriptor) throws(DemikernelError) -> QToken {
        operations.token(of: try accept(descriptor))
    }

    package mutating func connectToken(_ descriptor: QueueDescriptor, to address: SocketAddress) throws(DemikernelError) -> QToken {
        operations.token(of: try connect(descriptor, to: address))
    }

    package mutating func popToken(_ descriptor: QueueDescriptor) throws(DemikernelError) -> QToken {
        operations.token(of: try pop(descriptor))
    }

    /// As ``take(_:)-(UInt32)``, for the token of an operation that has completed.
    package mutating func take(completed token: QToken) -> RawCompletion { take(token.slot) }

    // MARK: - Push

    /// Pushes `count` bytes at `start`, which lie in the object of this heap that begins at `allocation` and that the application holds. The
    /// operation takes a reference of its own; the caller keeps the application's.
    ///
    /// Throws what ``push(_:_:to:)`` throws, and EINVAL for other memory.
    package mutating func push(
        _ descriptor: QueueDescriptor, allocation: UnsafeRawPointer?, start: UnsafeRawPointer?, count: Int, to address: SocketAddress?
    ) throws(DemikernelError) -> QToken {
        guard let allocation = unsafe allocation, let start = unsafe start else { throw .foreignMemory }
        let segment = unsafe heap.segment(containing: start, count: count)
        guard !segment.isNull, unsafe UnsafeRawPointer(segment.object) == allocation else {
            segment.release()
            throw .foreignMemory
        }
        return try push(descriptor, releasingWhereRefused: .single(segment), to: address)
    }

    /// Pushes `count` pieces, which the array of `struct iovec` at `pieces` names, as one. Pieces of length 0 are skipped; each other lies in an
    /// object of this heap that the application holds.
    ///
    /// Throws what ``push(_:_:to:)`` throws, and EINVAL for other memory, no piece or more than 1,024. Complexity: O(`count`).
    package mutating func push(_ descriptor: QueueDescriptor, pieces: UnsafeRawPointer, count: Int) throws(DemikernelError) -> QToken {
        guard 1...SegmentList.maximumCount ~= count else { throw DemikernelError(.invalidArgument, "a push takes 1 to 1,024 pieces") }
        var list = SegmentList.empty
        for index in 0..<count {
            let piece = unsafe pieces.loadUnaligned(fromByteOffset: index * MemoryLayout<iovec>.stride, as: iovec.self)
            guard unsafe piece.iov_len != 0 else { continue }
            let segment = if let start = unsafe piece.iov_base { unsafe heap.segment(containing: start, count: piece.iov_len) } else { Segment.null }
            guard !segment.isNull else {
                list.releaseAll()
                throw .foreignMemory
            }
            guard unsafe list.append(segment, in: heap.state) else {
                segment.release()
                list.releaseAll()
                throw DemikernelError(.noMemory, "there is no memory for the list of the pieces")
            }
        }
        if list.count > SegmentVector.capacity, isDatagramSocket(descriptor) { list = try joined(list) }
        return try push(descriptor, releasingWhereRefused: list, to: nil)
    }

    @inline(__always)
    private mutating func push(
        _ descriptor: QueueDescriptor, releasingWhereRefused segments: SegmentList, to address: SocketAddress?
    ) throws(DemikernelError) -> QToken {
        do throws(DemikernelError) {
            return operations.token(of: try push(descriptor, segments, to: address))
        } catch {
            segments.releaseAll()
            throw error
        }
    }

    private mutating func isDatagramSocket(_ descriptor: QueueDescriptor) -> Bool {
        guard let index = queues.index(of: descriptor) else { return false }
        return queues[index].kind.isDatagram
    }

    /// Copies a list, whose references it takes over, to one object. Throws ENOMEM.
    private mutating func joined(_ list: SegmentList) throws(DemikernelError) -> SegmentList {
        defer { list.releaseAll() }
        let segment = heap.allocateSegment(list.byteCount)
        guard !segment.isNull else { throw Heap.exhausted }
        _ = unsafe list.copyBytes(to: segment.bytes)
        return .single(segment)
    }

    // MARK: - Pop

    /// What a pop brought, as one object that the application holds; takes over the references of `segments`. Many segments are copied
    /// together; none, the end of a stream, becomes an object of which no byte is used, so that every pop's memory is freed alike. Null where
    /// the heap is exhausted.
    package mutating func applicationSegment(adopting segments: SegmentList) -> Segment {
        if segments.count == 1 {
            let object = unsafe segments.first.object.unsafelyUnwrapped
            unsafe Superblock(of: object).convert(object, toLibOS: false)
            return segments.first
        }
        defer { segments.releaseAll() }
        guard let object = unsafe heap.allocateRaw(max(1, segments.byteCount)) else { return .null }
        let segment = unsafe Segment(unchecked: object, offset: 0, count: UInt32(truncatingIfNeeded: segments.byteCount))
        _ = unsafe segments.copyBytes(to: segment.bytes)
        return segment
    }
}

extension DemikernelError {
    fileprivate static var foreignMemory: DemikernelError {
        DemikernelError(.invalidArgument, "the memory is not inside an allocation of this thread's heap that the application holds")
    }
}
