import CDemikernelShims
import Glibc
package import SystemPackage

/// Reads and writes files without ever blocking the thread that asks: the device under Catnap's file queues.
///
/// Requests are queued, handed over in a batch by ``submit()`` and come back, in any order, from ``reap()``; requests that must follow each
/// other (a write and its synchronisation) are therefore made one after the other. Carried out by io_uring where the kernel has it, else by
/// a helper thread; what a kernel's io_uring lacks (truncation before Linux 6.9) goes to the helper thread also.
///
/// A transfer reports what the kernel did: short ones are the caller's to resume, and a read of 0 bytes is the end of the file. The memory
/// of a transfer must live until its completion was reaped, or until ``shutdown()`` has returned.
///
/// At most ``FileEngineConfiguration/queueDepth`` requests are in flight; nothing is allocated per request, except the copy of a path.
/// Belongs to the thread that made it: the kernel cancels what is in flight when that thread ends.
package struct FileEngine: ~Copyable {
    /// The offset that stands for the descriptor's own position, as streams (pipes, terminals) have it.
    package static var currentPosition: Int64 { -1 }

    package let backend: FileEngineBackend
    /// Why io_uring is not used although it was preferred, for a person who wonders.
    package let ringRefusal: Errno?
    /// Becomes readable when completions are there; for epoll, edge- or level-triggered. It stays readable until ``drainEvent()``.
    package let eventDescriptor: Int32
    package private(set) var statistics = FileEngineStatistics()
    /// After the shutdown requests are refused.
    package private(set) var isShutDown = false

    private var table: FileRequestTable
    private let ring: FileRing?
    private let worker: FileWorker
    private let truncatesOnThread: Bool
    private var workerIsOwedWake = false

    /// An engine without requests. Throws `EINVAL` for a queue depth out of bounds, io_uring's errno where it is required and refused, and
    /// `EMFILE` where descriptors have run out.
    package init(_ configuration: FileEngineConfiguration = FileEngineConfiguration()) throws(DemikernelError) {
        guard 1...FileEngineConfiguration.queueDepthMaximum ~= configuration.queueDepth else {
            throw DemikernelError(.invalidArgument, "the file engine's queue depth is out of bounds")
        }
        let event = dk_event_create()
        guard event >= 0 else { throw DemikernelError(Errno(rawValue: errno), "no descriptor for the file engine's event") }
        let parts: Parts
        do throws(DemikernelError) {
            parts = try Parts(configuration, event: event)
        } catch {
            Glibc.close(event)
            throw error
        }
        eventDescriptor = event
        backend = parts.backend
        ringRefusal = parts.refusal
        table = parts.table
        ring = parts.ring
        worker = parts.worker
        truncatesOnThread = configuration.truncatesOnThread
    }

    deinit {
        settle()
        // Descriptors that nobody has taken.
        while let outcome = takeOutcome() {
            if outcome.result >= 0, table[outcome.slot].kind == .open { Glibc.close(outcome.result) }
        }
        Glibc.close(eventDescriptor)
    }

    // MARK: - Requests

    /// Reads up to `count` bytes at `offset`. False where the queue is full: to be retried after completions.
    package mutating func read(
        fd: Int32, into address: UnsafeMutableRawPointer, count: Int, offset: Int64, userData: UInt64
    ) -> Bool {
        queue(FileRequest(
            kind: .read, descriptor: fd, count: Self.length(count), address: UInt(bitPattern: address), offset: offset, userData: userData))
    }

    /// Writes up to `count` bytes at `offset` (at the end, where the file was opened with `O_APPEND`). A `durable` write completes when
    /// its data is on the disk, as if the file had been opened with `O_DSYNC`. A write to a pipe that nobody reads any more may raise
    /// `SIGPIPE`, as `write(2)` does. False where the queue is full.
    package mutating func write(
        fd: Int32, from address: UnsafeRawPointer, count: Int, offset: Int64, durable: Bool = false, userData: UInt64
    ) -> Bool {
        queue(FileRequest(
            kind: .write, option: durable, descriptor: fd, count: Self.length(count),
            address: UInt(bitPattern: address), offset: offset, userData: userData))
    }

    /// The most pieces of memory that one request writes.
    static var piecesMaximum: Int { FileRequestTable.piecesMaximum }

    /// Writes pieces of memory, one behind the other, with one request: `writev(2)`. `fill` is called at once, with room for ``piecesMaximum`` of
    /// them, and answers how many it has put there, at least one. Else as the write of one.
    mutating func write(
        fd: Int32, offset: Int64, durable: Bool = false, userData: UInt64, pieces fill: (UnsafeMutablePointer<iovec>) -> Int
    ) -> Bool {
        let request = FileRequest(kind: .write, option: durable, descriptor: fd, offset: offset, userData: userData)
        guard canQueue(), let slot = unsafe table.insert(request, pieces: fill) else { return false }
        start(slot)
        return true
    }

    /// Brings the file's data, and unless `dataOnly` all that the file system knows of it, to the disk: `fdatasync(2)`, `fsync(2)`.
    /// It covers the writes that have completed. False where the queue is full.
    package mutating func synchronize(fd: Int32, dataOnly: Bool = true, userData: UInt64) -> Bool {
        queue(FileRequest(kind: .synchronize, option: dataOnly, descriptor: fd, userData: userData))
    }

    /// Cuts or extends the file to `length` bytes: `ftruncate(2)`. False where the queue is full.
    package mutating func truncate(fd: Int32, length: Int64, userData: UInt64) -> Bool {
        queue(FileRequest(kind: .truncate, descriptor: fd, offset: length, userData: userData))
    }

    /// Opens a file, close-on-exec, which may have to wait for the disk: `open(2)`. The path is copied. The completion carries the
    /// descriptor; one that nobody reaps is closed with the engine. False where the queue is full.
    package mutating func open(path: UnsafePointer<CChar>, flags: Int32, mode: UInt32 = 0o666, userData: UInt64) -> Bool {
        guard canQueue() else { return false }
        // No longer than a path may be, and so too long to be one where the caller's is longer: the kernel says so.
        guard let copy = unsafe strndup(path, Int(PATH_MAX)) else { return false }
        return queue(FileRequest(
            kind: .open, descriptor: AT_FDCWD, count: mode, flags: flags | O_CLOEXEC, address: UInt(bitPattern: copy), userData: userData))
    }

    /// Closes a descriptor, which for some file systems waits for their server: `close(2)`. Nothing should be in flight on it. False where
    /// the queue is full.
    package mutating func close(fd: Int32, userData: UInt64) -> Bool {
        queue(FileRequest(kind: .close, descriptor: fd, userData: userData))
    }

    /// Asks to cancel the requests named `userData`; false where there is none left to ask for. Each still completes: with `-ECANCELED`
    /// where it had not begun or waited for a stream, with its own result where it was too late. Takes effect with ``submit()``.
    /// Complexity: O(queue depth).
    package mutating func cancel(userData: UInt64) -> Bool {
        var found = false
        var next = table.uncancelled(userData)
        while let slot = next {
            if goesToRing(table[slot].kind) {
                // As many cancellations as requests may be under way; more need the completions of these to be reaped first.
                guard ring!.cancel(slot: slot) else { return found }
                table.markCancelled(slot)
            } else {
                table.markCancelled(slot)
                worker.noticeCancellation()
            }
            found = true
            next = table.uncancelled(userData, from: slot + 1)
        }
        return found
    }

    private static func length(_ count: Int) -> UInt32 { UInt32(min(max(count, 0), FileRequest.transferMaximum)) }

    private mutating func canQueue() -> Bool {
        guard !isShutDown, table.count < table.capacity else {
            statistics.refusals += 1
            return false
        }
        return true
    }

    private mutating func queue(_ request: FileRequest) -> Bool {
        guard canQueue(), let slot = table.insert(request) else { return false }
        start(slot)
        return true
    }

    private mutating func start(_ slot: UInt32) {
        statistics.requests += 1
        if goesToRing(table[slot].kind) {
            ring!.put(table[slot], slot: slot)
        } else {
            worker.put(slot)
            workerIsOwedWake = true
        }
    }

    private func goesToRing(_ kind: FileRequest.Kind) -> Bool {
        guard backend == .ioUring, !(truncatesOnThread && kind == .truncate) else { return false }
        return ring!.offers(kind)
    }

    // MARK: - Batches and completions

    /// Requests accepted whose completions were not reaped.
    package var inFlight: Int { table.count }

    /// Whether ``submit()`` has something to hand over. Still true after it where the kernel was short of memory: to be called again.
    package var needsSubmit: Bool { workerIsOwedWake || ringIsOwedSubmission }

    private var ringIsOwedSubmission: Bool {
        guard backend == .ioUring else { return false }
        return ring!.unsubmitted() > 0
    }

    /// Hands over what is queued: one system call per batch, none where nothing is queued (or the helper thread is awake).
    ///
    /// Throws where no helper thread can be started (`EAGAIN`) or the ring was destroyed (`EBADF`); what is queued stays so.
    package mutating func submit() throws(DemikernelError) {
        guard needsSubmit else { return }
        if ringIsOwedSubmission, let refusal = ring!.submit() { throw DemikernelError(refusal, "io_uring refused the batch") }
        if workerIsOwedWake {
            do throws(Errno) { try worker.wake() } catch { throw DemikernelError(error, "no helper thread for files") }
            workerIsOwedWake = false
        }
        statistics.batches += 1
    }

    /// The next completion that is there. Never waits and makes no system call.
    package mutating func reap() -> FileCompletion? {
        guard table.count > 0, let outcome = takeOutcome() else { return nil }
        // What was interrupted in the middle was so by its cancellation: no other signal reaches who carries it out.
        let result = outcome.result == -EINTR && table.isCancelled(outcome.slot) ? -ECANCELED : outcome.result
        let request = table.remove(outcome.slot)
        statistics.completions += 1
        switch (result, request.kind) {
        case (..<0, _): statistics.failures += 1
        case (_, .read): statistics.bytesRead += UInt64(result)
        case (_, .write): statistics.bytesWritten += UInt64(result)
        default: break
        }
        return FileCompletion(userData: request.userData, result: result)
    }

    private func takeOutcome() -> FileOutcome? {
        if backend == .ioUring, let outcome = ring!.take() { return outcome }
        return worker.take()
    }

    /// Makes ``eventDescriptor`` unreadable again: to be called before reaping for the last time ahead of sleeping (not needed where epoll
    /// watches it edge-triggered). Never waits.
    package func drainEvent() {
        var count: UInt64 = 0
        unsafe _ = Glibc.read(eventDescriptor, &count, 8)
    }

    // MARK: - The end

    /// Cancels what can be cancelled and waits for the rest: when this returns nothing is written any more to the memory of requests, and
    /// their completions are there to be reaped. Further requests are refused. Waits as long as the disk takes, so a caller who wants writes
    /// to be done rather than cancelled reaps them first. The end of the engine's life does the same.
    package mutating func shutdown() {
        isShutDown = true
        settle()
    }

    private func settle() {
        worker.stop()
        guard backend == .ioUring else { return }
        ring!.drain(cancelling: 0..<UInt32(table.capacity)) { slot in
            guard table.isLive(slot), !table.isCancelled(slot), goesToRing(table[slot].kind) else { return false }
            table.markCancelled(slot)
            return true
        }
    }
}

extension FileEngine {
    /// What an engine is made of, so that a failure on the way gives everything back.
    private struct Parts: ~Copyable {
        let table: FileRequestTable
        let ring: FileRing?
        let worker: FileWorker
        let backend: FileEngineBackend
        let refusal: Errno?

        init(_ configuration: FileEngineConfiguration, event: Int32) throws(DemikernelError) {
            var refusal: Errno?
            var ring: FileRing?
            if configuration.ring != .never {
                do throws(Errno) {
                    ring = try FileRing(depth: configuration.queueDepth, event: event)
                } catch {
                    refusal = error
                }
            }
            if let refusal, configuration.ring == .require { throw DemikernelError(refusal, "io_uring is required and not available") }
            let table = FileRequestTable(capacity: configuration.queueDepth)
            do throws(Errno) {
                worker = try FileWorker(table: table, event: event)
            } catch {
                throw DemikernelError(error, "no descriptor for the helper thread for files")
            }
            self.table = table
            backend = configuration.ring != .never && refusal == nil ? .ioUring : .thread
            self.ring = ring
            self.refusal = refusal
        }
    }
}
