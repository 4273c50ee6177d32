import CDemikernelShims
import SystemPackage

/// Pushes that wait for others, so that one system call sends them all.
///
/// While events of a batch of epoll's are still to be looked at, the answer to one of them will soon be followed by others. A short push on
/// a stream is then deferred: its operation stays pending, the first of its queue's writers, and its queue is marked. All are sent when there
/// are ``SendRing/capacity`` of them, when the last event was taken, before a sleep, and before anything that their queue's sending side is
/// asked. One push alone, and every push while few queues are polled directly, is sent at once.
///
/// Two things end it for a while: a program that takes long between two requests (its peers must not wait for one another), and one that
/// waits for each push (there is nothing to be gained).
package struct BatchedSends: ~Copyable {
    private enum State { case untried, refused, ready }

    /// Pushes longer than this take longer to copy than to submit.
    static var sizeMaximum: Int { 4096 }
    /// Pushes that are sent at once after a batch that took longer, and after one that came to a single push.
    private static var pauseAfterDelay: UInt32 { 256 }
    private static var pauseAfterSingle: UInt32 { 32 }

    /// How long the first push of a batch may have waited, in nanoseconds, for those of the next to be deferred too.
    var patience: UInt64 = 200_000
    private var ring = SendRing()
    private var state: State
    /// Pushes that are deferred.
    private(set) var count = 0
    /// Pushes still to be sent at once.
    var pause: UInt32 = 0
    /// When the first push of the batch was deferred.
    private var began: UInt64 = 0
    /// Batches that were sent in one system call since the start.
    private(set) var batchCount: UInt64 = 0

    /// Throws, where batches are required, what the kernel says against io_uring. Otherwise the ring is made with the first batch.
    init(_ preference: Configuration.Preference) throws(DemikernelError) {
        state = preference == .never ? .refused : .untried
        guard preference == .require else { return }
        do throws(Errno) {
            try ring.open()
            state = .ready
        } catch {
            throw DemikernelError(error, "catnap.batch_sends is require, and the kernel gives no io_uring that sends")
        }
    }

    /// Whether the next push may be deferred.
    @inline(__always)
    fileprivate mutating func mayDefer() -> Bool {
        if pause > 0 {
            pause &-= 1
            return false
        }
        return state == .ready || start()
    }

    @inline(never)
    private mutating func start() -> Bool {
        guard state == .untried else { return false }
        do throws(Errno) {
            try ring.open()
            state = .ready
        } catch {
            state = .refused
        }
        return state == .ready
    }

    /// Defers a push that ``mayDefer()`` allowed; true where it makes the batch full.
    @inline(__always)
    fileprivate mutating func append(_ socket: Int32, _ segment: Segment, slot: UInt32, at now: UInt64) -> Bool {
        if count == 0 { began = now }
        unsafe ring.append(socket, segment.start, segment.count, slot: slot)
        count &+= 1
        return count == SendRing.capacity
    }

    fileprivate mutating func remove(_ slot: UInt32) {
        ring.remove(slot: slot)
        count = ring.count
    }

    /// Ends the batch, where more than one push is deferred, in one system call; ``takeResult()`` says what became of each.
    @inline(__always)
    fileprivate mutating func submit(at now: UInt64) {
        if now &- began > patience { pause = Self.pauseAfterDelay }
        batchCount &+= 1
        if !ring.submit() { pause = Self.pauseAfterDelay }
        count = ring.count
    }

    @inline(__always)
    fileprivate mutating func takeResult() -> (slot: UInt32, result: Int)? { ring.take() }

    /// Takes back the push that was deferred first, to be sent alone.
    fileprivate mutating func takeFirst() -> UInt32 {
        let slot = ring.first
        remove(slot)
        return slot
    }

    fileprivate mutating func noteSingle() { pause = max(pause, Self.pauseAfterSingle) }
}

extension Core {
    /// Puts a push on a stream in line: tried at once, or with those that follow.
    @inline(__always)
    mutating func submitStream(_ index: UInt32, _ slot: UInt32) {
        // Without events left there is nobody to wait for, but those that wait already.
        if !catnap.events.isEmpty || catnap.sends.count > 0, deferSend(index, slot) { return }
        submitWriter(index, slot)
    }

    /// Defers a push, if it is one that may be.
    @inline(never)
    private mutating func deferSend(_ index: UInt32, _ slot: UInt32) -> Bool {
        // A Swift task that awaits its push would have to be suspended for it, which costs what batches gain.
        guard !isRunningTasks, queues[index].writers.isEmpty, isWorthTrying(index, .writable) else { return false }
        guard operations[slot].segments.count == 1, operations[slot].segments.byteCount <= BatchedSends.sizeMaximum else { return false }
        guard catnap.sends.mayDefer() else { return false }
        queues[index].writers.append(slot, in: operations)
        queues[index].flags.insert(.deferred)
        let now = catnap.sends.count == 0 ? clock.now() : 0
        let isFull = catnap.sends.append(queues[index].fileDescriptor, operations[slot].segments.first, slot: slot, at: now)
        if isFull || catnap.events.isEmpty { sendDeferredNow() }
        return true
    }

    /// Sends what is deferred.
    @inline(__always)
    mutating func sendDeferred() {
        if catnap.sends.count > 0 { sendDeferredNow() }
    }

    @inline(never)
    private mutating func sendDeferredNow() {
        if catnap.sends.count > 1 {
            catnap.sends.submit(at: clock.now())
            while let (slot, result) = catnap.sends.takeResult() { finishDeferred(slot, result) }
        } else {
            catnap.sends.noteSingle()
        }
        // One alone, or what the kernel did not take.
        while catnap.sends.count > 0 {
            let slot = catnap.sends.takeFirst()
            let index = operations[slot].queue
            queues[index].flags.remove(.deferred)
            goOnSending(index)
        }
    }

    /// What `send(2)` would have answered decides what becomes of the push, as if it had been asked for it alone.
    @inline(__always)
    private mutating func finishDeferred(_ slot: UInt32, _ result: Int) {
        let index = operations[slot].queue
        queues[index].flags.remove(.deferred)
        if result == operations[slot].segments.byteCount {
            completeWriter(index, slot)
            if queues[index].writers.isEmpty { return settle(index) }
        } else if result >= 0 {
            operations[slot].progress = result
        } else {
            _ = sendFailed(index, slot, Errno(rawValue: Int32(truncatingIfNeeded: -result)))
        }
        goOnSending(index)
    }

    /// Tries what stands in line on a queue of which nothing is deferred any more.
    private mutating func goOnSending(_ index: UInt32) {
        pollWriters(index, regardless: false)
        if queues[index].writers.isEmpty { settle(index) } else { block(index) }
    }

    /// Before a queue's sending side is asked for anything: what is deferred on it has been sent.
    @inline(__always)
    mutating func sendDeferred(of index: UInt32) {
        if queues[index].flags.contains(.deferred) { sendDeferredNow() }
    }

    /// Cancels a pending push on a socket. Of one that is deferred nothing has gone; what stands in line behind it has no event to wait for.
    mutating func cancelPush(_ index: UInt32, _ slot: UInt32) {
        let wasDeferred = queues[index].flags.contains(.deferred) && queues[index].writers.first == slot
        if wasDeferred {
            catnap.sends.remove(slot)
            queues[index].flags.remove(.deferred)
        }
        completeWriter(index, slot, errno: Errno.canceled.rawValue)
        if wasDeferred { pollWriters(index, regardless: false) }
        if queues[index].kind == .kernelStream { finishShutdown(index) } else if queues[index].kind == .networkStream { finishNetworkShutdown(index) }
    }
}
