import CDemikernelShims
import Glibc
package import SystemPackage

/// Catnap's files: the engine, started with the first file, and how it is woken.
package struct FileBackend: ~Copyable {
    private var engine: FileEngine?
    private let configuration: FileEngineConfiguration
    private var isStarted = false
    private var isWatched = false

    init(_ configuration: Configuration.Catnap) {
        let ring: RingPolicy = switch configuration.files.ioUring {
        case .prefer: .prefer
        case .never: .never
        case .require: .require
        }
        self.configuration = FileEngineConfiguration(ring: ring, queueDepth: configuration.files.queueDepth)
    }

    /// Requests that the engine has and that were not reaped.
    private(set) var inFlight = 0
    private var eventDescriptor: Int32 = -1

    /// The engine, started where it was not. Throws what starting it throws.
    mutating func start() throws(DemikernelError) {
        guard !isStarted else { return }
        let engine = try FileEngine(configuration)
        eventDescriptor = engine.eventDescriptor
        self.engine = consume engine
        isStarted = true
    }

    mutating func read(_ file: Int32, _ segment: Segment, count: Int, offset: Int64, token: QToken) -> Bool {
        let isQueued = unsafe engine!.read(fd: file, into: segment.start, count: count, offset: offset, userData: token.rawValue)
        inFlight += isQueued ? 1 : 0
        return isQueued
    }

    /// Appends what comes after the first `skip` bytes, or as much of it as one request takes.
    mutating func write(_ file: Int32, _ segments: SegmentList, after skip: Int, token: QToken) -> Bool {
        var (position, start) = (0, skip)
        while start >= Int(segments[position].count) {
            start -= Int(segments[position].count)
            position += 1
        }
        let first = segments[position]
        let isQueued = unsafe if position + 1 == segments.count {
            unsafe engine!.write(
                fd: file, from: first.start + start, count: Int(first.count) - start, offset: FileEngine.currentPosition, userData: token.rawValue)
        } else {
            unsafe engine!.write(fd: file, offset: FileEngine.currentPosition, userData: token.rawValue) { pieces in
                let count = min(segments.count - position, FileEngine.piecesMaximum)
                unsafe pieces.initialize(to: iovec(iov_base: first.start + start, iov_len: Int(first.count) - start))
                for index in 1..<count {
                    let segment = segments[position + index]
                    unsafe (pieces + index).initialize(to: iovec(iov_base: segment.start, iov_len: Int(segment.count)))
                }
                return count
            }
        }
        inFlight += isQueued ? 1 : 0
        return isQueued
    }

    /// Hands over what is queued. Trouble shows as operations that stay in flight, and is tried again with the next turn.
    mutating func submit() { try? engine?.submit() }
    mutating func reap() -> FileCompletion? {
        guard let completion = engine?.reap() else { return nil }
        inFlight -= 1
        return completion
    }
    mutating func cancel(_ token: QToken) { _ = engine?.cancel(userData: token.rawValue) }

    /// Adds the engine's event to an epoll set, once: edge-triggered, so that nobody has to drain it and a sleep after it does sleep.
    mutating func watch(in epoll: Int32) {
        guard !isWatched, isStarted else { return }
        isWatched = Catnap.add(eventDescriptor, to: epoll, data: Catnap.filesData, events: EPOLLIN.rawValue | EPOLLET.rawValue)
    }
}

// The log of the paper's section 6.4 over a kernel file: push appends, pop reads at the cursor, seek moves it, truncate cuts.

extension Core {
    /// `open(2)`: a file as a queue; every push appends. `flags` are the system's, of which O_APPEND, O_NONBLOCK and O_CLOEXEC are always
    /// set; O_DSYNC makes a push complete when its bytes are durable. Throws ENOENT, EACCES, EISDIR, EMFILE …; EINVAL for what is no
    /// regular file.
    package mutating func open(_ path: borrowing FilePath, flags: Int32, mode: UInt16) throws(DemikernelError) -> UInt32 {
        submissionTurn()
        try catnap.files.start()
        let descriptor = unsafe path.withPlatformString {
            unsafe Glibc.open($0, flags | O_APPEND | O_NONBLOCK | O_CLOEXEC, mode_t(mode))
        }
        guard descriptor >= 0 else { throw DemikernelError(.last, "the file cannot be opened") }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            Glibc.close(descriptor)
            throw DemikernelError(.invalidArgument, "the path names no regular file")
        }
        guard let index = queues.insert(.kernelFile, fileDescriptor: descriptor) else {
            Glibc.close(descriptor)
            throw DemikernelError(.tooManyOpenFiles, "every queue descriptor is in use: close some, or raise descriptors.capacity")
        }
        queues[index].state = .connected
        return index
    }

    private mutating func fileIndex(_ descriptor: QueueDescriptor) throws(DemikernelError) -> UInt32 {
        guard let index = queues.index(of: descriptor) else { throw .badDescriptor }
        guard queues[index].kind == .kernelFile else { throw DemikernelError(.illegalSeek, "the descriptor is no file") }
        return index
    }

    /// Moves the cursor of ``pop(_:limit:)`` and answers where it is then: `lseek(2)`. Throws ESPIPE for what is no file, EINVAL for a
    /// place before the beginning or an unknown `whence`, EBUSY while a pop is pending.
    package mutating func seek(_ descriptor: QueueDescriptor, offset: Int64, whence: Int32) throws(DemikernelError) -> Int64 {
        submissionTurn()
        let index = try fileIndex(descriptor)
        guard queues[index].readers.isEmpty else { throw DemikernelError(.resourceBusy, "a pop is pending on the file") }
        let base: Int64
        switch whence {
        case SEEK_SET: base = 0
        case SEEK_CUR: base = queues[index].cursor
        case SEEK_END: base = try fileSize(index)
        default: throw DemikernelError(.invalidArgument, "whence is none of SEEK_SET, SEEK_CUR and SEEK_END")
        }
        let (place, overflow) = base.addingReportingOverflow(offset)
        guard !overflow, place >= 0 else { throw DemikernelError(.invalidArgument, "the place lies before the file's beginning") }
        queues[index].cursor = place
        return place
    }

    private mutating func fileSize(_ index: UInt32) throws(DemikernelError) -> Int64 {
        var status = stat()
        guard unsafe fstat(queues[index].fileDescriptor, &status) == 0 else { throw DemikernelError(.last, "the file has no size") }
        return Int64(status.st_size)
    }

    /// `ftruncate(2)`. The cursor stays where it is, but not behind the end. Throws ESPIPE, EINVAL for a negative length or a file that is
    /// not open for writing, EBUSY while a push is pending.
    package mutating func truncate(_ descriptor: QueueDescriptor, length: Int64) throws(DemikernelError) {
        submissionTurn()
        let index = try fileIndex(descriptor)
        guard length >= 0 else { throw DemikernelError(.invalidArgument, "the length is negative") }
        guard queues[index].writers.isEmpty else { throw DemikernelError(.resourceBusy, "a push is pending on the file") }
        guard ftruncate(queues[index].fileDescriptor, off_t(length)) == 0 else { throw DemikernelError(.last, "the file cannot be truncated") }
        queues[index].cursor = min(queues[index].cursor, length)
    }

    // MARK: - push and pop

    /// Bytes that a pop without a limit reads at most.
    private static var fileReadLength: Int { 65_536 }

    mutating func pushFile(_ index: UInt32, _ segments: SegmentList) throws(DemikernelError) -> UInt32 {
        let slot = try begin(.push, on: index, segments)
        queues[index].writers.append(slot, in: operations)
        pollFile(index)
        return slot
    }

    mutating func popFile(_ index: UInt32, limit: UInt32) throws(DemikernelError) -> UInt32 {
        let slot = try begin(.pop, on: index)
        operations[slot].limit = limit
        queues[index].readers.append(slot, in: operations)
        pollFile(index)
        return slot
    }

    /// Hands a file's first push and first pop to the engine, where they are not there yet: one of each at a time, so that they stay in
    /// order.
    mutating func pollFile(_ index: UInt32) {
        if !queues[index].writers.isEmpty { startWrite(index, queues[index].writers.first) }
        if !queues[index].readers.isEmpty { startRead(index, queues[index].readers.first) }
        catnap.files.submit()
    }

    private mutating func startWrite(_ index: UInt32, _ slot: UInt32) {
        guard !operations[slot].isInFlight else { return }
        let isQueued = catnap.files.write(
            queues[index].fileDescriptor, operations[slot].segments, after: operations[slot].progress, token: operations.token(of: slot))
        if isQueued { operations[slot].flags.insert(.inFlight) } else { starve(slot) }
    }

    private mutating func startRead(_ index: UInt32, _ slot: UInt32) {
        guard !operations[slot].isInFlight else { return }
        let count = operations[slot].limit == 0 ? Self.fileReadLength : Int(operations[slot].limit)
        if operations[slot].segments.count == 0 {
            let segment = heap.allocateSegment(count)
            guard !segment.isNull else { return completeReader(index, slot, errno: Errno.noMemory.rawValue) }
            operations[slot].segments = .single(segment)
        }
        let isQueued = catnap.files.read(
            queues[index].fileDescriptor, operations[slot].segments.first, count: count, offset: queues[index].cursor,
            token: operations.token(of: slot))
        if isQueued { operations[slot].flags.insert(.inFlight) } else { starve(slot) }
    }

    /// The engine is full: the operation's task runs again with the next turn after a completion.
    private mutating func starve(_ slot: UInt32) { scheduler.application.wake(slot) }

    /// Takes the engine's completions.
    mutating func reapFiles() {
        catnap.files.submit()
        while let completion = catnap.files.reap() {
            let token = QToken(rawValue: completion.userData)
            assert(operations.contains(token), "an operation cannot end while its memory is the device's")
            finishFile(token.slot, result: completion.result)
        }
    }

    private mutating func finishFile(_ slot: UInt32, result: Int32) {
        operations[slot].flags.remove(.inFlight)
        let index = operations[slot].queue
        if operations[slot].kind == .push { finishWrite(index, slot, result) } else { finishRead(index, slot, result) }
        pollFile(index)
    }

    private mutating func finishWrite(_ index: UInt32, _ slot: UInt32, _ result: Int32) {
        guard result > 0 else { return completeWriter(index, slot, errno: result == 0 ? Errno.noSpace.rawValue : -result) }
        operations[slot].progress += Int(result)
        if operations[slot].progress == operations[slot].segments.byteCount { completeWriter(index, slot) }
    }

    private mutating func finishRead(_ index: UInt32, _ slot: UInt32, _ result: Int32) {
        if result <= 0 {
            // Nothing was read: the end of the file is a completed pop without bytes.
            operations[slot].segments.releaseAll()
            operations[slot].segments = .empty
        } else {
            var segment = operations[slot].segments.first
            segment.trimLast(segment.byteCount - Int(result))
            operations[slot].segments = .single(segment)
            queues[index].cursor += Int64(result)
        }
        completeReader(index, slot, errno: max(0, -result))
    }

    // MARK: - Ending

    mutating func cancelInFlight(_ slot: UInt32) {
        catnap.files.cancel(operations.token(of: slot))
        catnap.files.submit()
    }

    /// Closes a file. What the engine is working on is cancelled or, where that is too late, waited for: its memory must not outlive it.
    mutating func closeFile(_ index: UInt32) {
        failWaiting(index, from: queues[index].writers.first)
        failWaiting(index, from: queues[index].readers.first)
        for list in [queues[index].writers, queues[index].readers] where !list.isEmpty { cancelInFlight(list.first) }
        while !queues[index].writers.isEmpty || !queues[index].readers.isEmpty {
            let before = completedCount
            reapFiles()
            if completedCount == before { sched_yield() }
        }
        Glibc.close(queues[index].fileDescriptor)
        queues.remove(index)
    }

    /// Fails the operations of a list that the engine has not been given.
    private mutating func failWaiting(_ index: UInt32, from first: UInt32) {
        var next = first
        while next != Operation.none {
            let slot = next
            next = operations[slot].next
            guard !operations[slot].isInFlight else { continue }
            guard operations[slot].kind == .pop else {
                completeWriter(index, slot, errno: Errno.canceled.rawValue)
                continue
            }
            operations[slot].segments.releaseAll()
            operations[slot].segments = .empty
            completeReader(index, slot, errno: Errno.canceled.rawValue)
        }
    }
}
