/// Bytes of the DMA-capable heap that the application owns.
///
/// A buffer is a noncopyable value with one *application reference* to a heap object: pushing consumes it, a completion gives one back, and
/// letting go of it drops the reference. The object is reused only when the application's and the libOS's references are all gone, so memory
/// may be pushed and then forgotten. Demikernel paper (SOSP 2021), section 5.3.
///
/// Several buffers may refer to the same object (``split(at:)``, ``slice(_:)``); they never copy. Buffers made by `split` do not overlap.
/// Those made by `slice` share bytes with their origin on purpose: what one writes, the other reads.
///
/// **Threads.** A buffer may be sent to another thread and used and dropped there: no other thread than the heap's owner touches an object's
/// reference count, what they take and drop travels in a separate atomic word and comes back through the heap's return queue. That is why the
/// type is `Sendable`. What the compiler cannot see is that two buffers of one object (from `slice`) share bytes: writing through one of
/// them on one thread while another thread reads through the other is a data race, as it would be with any shared memory.
///
/// Invariant: `segment` is not null and this value holds one application reference to its object.
@safe public struct Buffer: ~Copyable, @unchecked Sendable {
    package internal(set) var segment: Segment

    /// Takes over one application reference.
    @inline(__always) init(owning segment: Segment) { self.segment = segment }

    /// Takes over one libOS reference, which becomes the application's. The segment is not null.
    @inline(__always) package init(adopting segment: Segment) {
        let object = unsafe segment.object.unsafelyUnwrapped
        unsafe Superblock(of: object).convert(object, toLibOS: false)
        self.segment = segment
    }

    deinit {
        let object = unsafe segment.object.unsafelyUnwrapped
        unsafe Superblock(of: object).release(object, ReferenceUnit.application)
    }

    /// The application's reference becomes the libOS's.
    @inline(__always) package consuming func intoSegment() -> Segment {
        let segment = self.segment
        discard self
        let object = unsafe segment.object.unsafelyUnwrapped
        unsafe Superblock(of: object).convert(object, toLibOS: true)
        return segment
    }

    /// Gives up the reference without dropping it.
    @inline(__always) consuming func leak() -> Segment {
        let segment = self.segment
        discard self
        return segment
    }

    // MARK: Shape

    /// The bytes in use.
    public var count: Int { Int(segment.count) }
    public var isEmpty: Bool { segment.count == 0 }
    /// Bytes before the first and after the last one, up to the object's bounds. Where the object was split or sliced they may be another
    /// buffer's.
    public var headroom: Int { segment.headroom }
    public var tailroom: Int { segment.tailroom }

    /// Forgets the first bytes. EINVAL where there are fewer. Complexity: O(1).
    public mutating func trimFirst(_ length: Int) throws(DemikernelError) {
        guard length >= 0, length <= count else { throw Buffer.outside }
        segment.trimFirst(length)
    }

    /// Forgets the last bytes. EINVAL where there are fewer. Complexity: O(1).
    public mutating func trimLast(_ length: Int) throws(DemikernelError) {
        guard length >= 0, length <= count else { throw Buffer.outside }
        segment.trimLast(length)
    }

    /// Begins `length` bytes earlier, for a header. ENOBUFS without that much headroom. Complexity: O(1).
    public mutating func prepend(_ length: Int) throws(DemikernelError) {
        guard segment.prepend(length) else { throw DemikernelError(.noBufferSpace, "the buffer has not that much headroom") }
    }

    /// Ends `length` bytes later; their contents are undefined. ENOBUFS without that much tailroom. Complexity: O(1).
    public mutating func append(_ length: Int) throws(DemikernelError) {
        guard segment.append(length) else { throw Buffer.noTailroom }
    }

    /// Cuts the buffer in two: it keeps the first `index` bytes, the rest is returned. EINVAL outside of `0...count`, EOVERFLOW beyond 65,534
    /// references to one object; the buffer is unchanged then. Complexity: O(1).
    public mutating func split(at index: Int) throws(DemikernelError) -> Buffer {
        guard index >= 0, index <= count else { throw Buffer.outside }
        let rest = try slice(index..<count)
        segment.trimLast(count - index)
        return rest
    }

    /// A second buffer over some of the same bytes. Errors and complexity as of ``split(at:)``.
    public borrowing func slice(_ range: Range<Int>) throws(DemikernelError) -> Buffer {
        guard range.lowerBound >= 0, range.upperBound <= count else { throw Buffer.outside }
        let object = unsafe segment.object.unsafelyUnwrapped
        guard unsafe Superblock(of: object).retainApplication(object) else {
            throw DemikernelError(.overflow, "the memory has too many references")
        }
        return unsafe Buffer(
            owning: Segment(unchecked: object, offset: segment.offset + UInt32(range.lowerBound), count: UInt32(range.count)))
    }

    static var outside: DemikernelError { DemikernelError(.invalidArgument, "the range is not inside the buffer") }
    static var noTailroom: DemikernelError { DemikernelError(.noBufferSpace, "the buffer has not that much tailroom") }
}

extension Superblock {
    /// False where the count is full.
    @inline(__always) func retainApplication(_ object: UnsafeMutableRawPointer) -> Bool {
        if isOwnedByThisThread {
            let record = unsafe self.record(index(of: object))
            if unsafe record.pointee.references & 0xffff < ReferenceUnit.stuck &- 1 {
                unsafe record.pointee.references &+= ReferenceUnit.application
                return true
            }
        }
        return unsafe change(object, .retainApplication)
    }
}
