import CDemikernelShims
import Glibc
import SystemPackage

// The data path of Catnap's sockets: pushes and pops are tried at once and, where the kernel has nothing or no room, again when the fast
// path finds that they may succeed.

extension Core {
    // MARK: - Submission

    /// Puts a reader in line; tries it at once where it is the first and a system call may succeed.
    @inline(__always)
    mutating func submitReader(_ index: UInt32, _ slot: UInt32) {
        let isFirst = queues[index].readers.isEmpty
        queues[index].readers.append(slot, in: operations)
        if isFirst && isWorthTrying(index, .readable) && pollReader(index, slot) { return }
        block(index)
    }

    /// Puts a writer in line; likewise.
    @inline(__always)
    mutating func submitWriter(_ index: UInt32, _ slot: UInt32) {
        let isFirst = queues[index].writers.isEmpty
        queues[index].writers.append(slot, in: operations)
        if isFirst && isWorthTrying(index, .writable) && pollWriter(index, slot) { return }
        block(index)
    }

    /// A descriptor outside the epoll set is always worth a system call, one inside it when an event said so.
    @inline(__always)
    func isWorthTrying(_ index: UInt32, _ flag: Queue.Flags) -> Bool {
        let flags = queues[index].flags
        return !flags.contains(.registered) || flags.contains(flag)
    }

    // MARK: - Polling

    /// Tries what a socket's first reader and first writer are blocked on, and what stands in line behind them: after an event what it
    /// promises, else `regardless` of what events have said.
    mutating func pollKernelSocket(_ index: UInt32, regardless: Bool) {
        if queues[index].state == .connecting {
            if !queues[index].writers.isEmpty { pollConnect(index, queues[index].writers.first) }
            if queues[index].state == .connecting { return }
        }
        if !queues[index].flags.contains(.deferred) { pollWriters(index, regardless: regardless) }
        var isWorthIt = regardless || isWorthTrying(index, .readable)
        while !queues[index].readers.isEmpty, isWorthIt, pollReader(index, queues[index].readers.first) {
            isWorthIt = isWorthTrying(index, .readable)
        }
        settle(index)
    }

    /// Tries a socket's first writer, and what stands in line behind it.
    @inline(__always)
    mutating func pollWriters(_ index: UInt32, regardless: Bool) {
        var isWorthIt = regardless || isWorthTrying(index, .writable)
        while !queues[index].writers.isEmpty, isWorthIt, pollWriter(index, queues[index].writers.first) {
            isWorthIt = isWorthTrying(index, .writable)
        }
    }

    /// One try for a queue's first reader; true where it completed.
    @inline(__always)
    private mutating func pollReader(_ index: UInt32, _ slot: UInt32) -> Bool {
        switch queues[index].kind {
        case .kernelStream: receiveStream(index, slot)
        case .kernelDatagram: receiveDatagram(index, slot)
        default: pollAccept(index, slot)
        }
    }

    /// One try for a queue's first writer; true where it completed.
    @inline(__always)
    private mutating func pollWriter(_ index: UInt32, _ slot: UInt32) -> Bool {
        if operations[slot].kind == .connect {
            pollConnect(index, slot)
            return operations[slot].phase == .complete
        }
        guard queues[index].kind == .kernelStream else { return sendDatagram(index, slot) }
        guard sendStream(index, slot) else { return false }
        finishShutdown(index)
        return true
    }

    // MARK: - Receiving

    /// `recv(2)` into a heap buffer of the size that the peer's messages have had lately.
    @inline(__always)
    private mutating func receiveStream(_ index: UInt32, _ slot: UInt32) -> Bool {
        let limit = Int(operations[slot].limit)
        let size = limit == 0 ? Int(queues[index].receiveSize) : min(limit, configuration.catnap.receiveSizeMaximum)
        var segment = heap.allocateSegment(size)
        guard !segment.isNull else {
            // What the peer sent stays in the kernel; the application may free memory and pop again.
            completeReader(index, slot, errno: Errno.noMemory.rawValue)
            return true
        }
        let count = unsafe dk_receive(queues[index].fileDescriptor, segment.start, size)
        if count > 0 {
            segment.trimLast(size &- count)
            operations[slot].segments = .single(segment)
            if count == size {
                if limit == 0 { growReceiveSize(index) }
            } else {
                // A short read has emptied the socket (epoll(7)): the next bytes bring a new event. After a hang-up none will come.
                if !queues[index].flags.contains(.hangup) { queues[index].flags.remove(.readable) }
                if limit == 0 && count &* 8 < size { shrinkReceiveSize(index) }
            }
            completeReader(index, slot)
            return true
        }
        segment.release()
        if count == 0 {
            // The end of the stream: a completed pop without bytes. It stays readable, so each further pop says the same.
            completeReader(index, slot)
            return true
        }
        return receiveFailed(index, slot, Errno(rawValue: Int32(truncatingIfNeeded: -count)))
    }

    private mutating func receiveFailed(_ index: UInt32, _ slot: UInt32, _ error: Errno) -> Bool {
        switch error {
        case .wouldBlock:
            queues[index].flags.remove(.readable)
            return false
        case .interrupted: return false
        default:
            completeReader(index, slot, errno: error.rawValue)
            return true
        }
    }

    private mutating func growReceiveSize(_ index: UInt32) {
        let size = Int(queues[index].receiveSize) * 2
        queues[index].receiveSize = UInt32(min(size, configuration.catnap.receiveSizeMaximum))
    }

    private mutating func shrinkReceiveSize(_ index: UInt32) {
        let size = Int(queues[index].receiveSize) / 2
        if size >= configuration.catnap.receiveSize { queues[index].receiveSize = UInt32(size) }
    }

    /// A datagram of up to this many bytes is copied into a buffer of its size, so that it does not hold the 64 KiB that any may need.
    private static var datagramCopyMaximum: Int { 4096 }

    /// `recvfrom(2)`: one datagram, whole.
    private mutating func receiveDatagram(_ index: UInt32, _ slot: UInt32) -> Bool {
        var segment = heap.allocateSegment(65_536)
        guard !segment.isNull else {
            completeReader(index, slot, errno: Errno.noMemory.rawValue)
            return true
        }
        var source: SocketAddress?
        let count = unsafe receivingSocketAddress(into: &source) {
            unsafe recvfrom(queues[index].fileDescriptor, segment.start, 65_536, Int32(MSG_DONTWAIT), $0, $1)
        }
        guard count >= 0 else {
            segment.release()
            return receiveFailed(index, slot, .last)
        }
        segment.trimLast(65_536 &- count)
        if count <= Self.datagramCopyMaximum {
            var small = heap.allocateSegment(max(1, count))
            if !small.isNull {
                unsafe small.start.copyMemory(from: segment.start, byteCount: count)
                small.trimLast(Int(small.count) &- count)
                segment.release()
                segment = small
            }
        }
        // A pop with a limit takes the datagram's beginning; the rest is lost, as with recv(2).
        let limit = Int(operations[slot].limit)
        if limit > 0 && count > limit { segment.trimLast(count &- limit) }
        operations[slot].segments = .single(segment)
        if let source { operations[slot].setAddress(source) }
        completeReader(index, slot)
        return true
    }

    // MARK: - Sending

    /// `send(2)` of what is left of a push; true where it completed.
    @inline(__always)
    private mutating func sendStream(_ index: UInt32, _ slot: UInt32) -> Bool {
        if operations[slot].segments.count == 1 && operations[slot].progress == 0 {
            let segment = operations[slot].segments.first
            let count = unsafe dk_send(queues[index].fileDescriptor, segment.start, Int(segment.count))
            if count == Int(segment.count) {
                completeWriter(index, slot)
                return true
            }
            if count < 0 { return sendFailed(index, slot, Errno(rawValue: Int32(truncatingIfNeeded: -count))) }
            operations[slot].progress = count
        }
        return sendRest(index, slot)
    }

    /// `sendmsg(2)` until everything has gone or the kernel takes no more.
    private mutating func sendRest(_ index: UInt32, _ slot: UInt32) -> Bool {
        let total = operations[slot].segments.byteCount
        while operations[slot].progress < total {
            let vector = SegmentVector(operations[slot].segments, from: operations[slot].progress)
            let count = vector.send(queues[index].fileDescriptor, to: nil)
            if count < 0 { return sendFailed(index, slot, .last) }
            operations[slot].progress &+= count
        }
        completeWriter(index, slot)
        return true
    }

    /// `sendto(2)`: one datagram.
    private mutating func sendDatagram(_ index: UInt32, _ slot: UInt32) -> Bool {
        let vector = SegmentVector(operations[slot].segments, from: 0)
        let count = vector.send(queues[index].fileDescriptor, to: operations[slot].flags.contains(.hasAddress) ? operations[slot].address : nil)
        if count < 0 { return sendFailed(index, slot, .last) }
        completeWriter(index, slot)
        return true
    }

    mutating func sendFailed(_ index: UInt32, _ slot: UInt32, _ error: Errno) -> Bool {
        switch error {
        case .wouldBlock:
            queues[index].flags.remove(.writable)
            return false
        case .interrupted: return false
        default:
            // What was not sent stays with the operation, so that a Swift caller gets it back.
            completeWriter(index, slot, errno: error.rawValue)
            return true
        }
    }
}

/// Up to 16 segments as the `struct iovec` array of `sendmsg(2)`.
///
/// Invariant: the first `count` of `vectors` address memory that the operation's reference keeps alive for the call.
@safe
struct SegmentVector {
    static var capacity: Int { 16 }
    private var vectors: InlineArray<16, iovec> = unsafe InlineArray(repeating: iovec())
    private var count = 0

    /// The segments from byte `start` on, as far as there is room.
    init(_ segments: SegmentList, from start: Int) {
        var skip = start
        var position = 0
        while position < segments.count && count < 16 {
            let segment = segments[position]
            position += 1
            guard skip < Int(segment.count) else {
                skip -= Int(segment.count)
                continue
            }
            unsafe vectors[count] = iovec(iov_base: segment.start + skip, iov_len: Int(segment.count) - skip)
            skip = 0
            count += 1
        }
    }

    /// `sendmsg(2)`, never blocking. Answers the bytes sent, or -1 with `errno`.
    func send(_ descriptor: Int32, to address: SocketAddress?) -> Int {
        var vectors = unsafe vectors
        var span = unsafe vectors.mutableSpan
        return unsafe span.withUnsafeMutableBufferPointer { vectors in
            var message = unsafe msghdr()
            unsafe message.msg_iov = vectors.baseAddress
            unsafe message.msg_iovlen = count
            let flags = Int32(MSG_DONTWAIT | MSG_NOSIGNAL)
            guard let address else { return unsafe sendmsg(descriptor, &message, flags) }
            return unsafe withSocketAddress(address) { name, size in
                unsafe message.msg_name = UnsafeMutableRawPointer(mutating: name)
                unsafe message.msg_namelen = size
                return unsafe sendmsg(descriptor, &message, flags)
            }
        }
    }
}
