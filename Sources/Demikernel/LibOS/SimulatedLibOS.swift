// A libOS that stands still: its clock is set from outside, its chance is given, its device is whatever the caller made. For the simulator,
// which has several of them in one thread.

extension LibOS {
    /// A libOS with a network stack over `device`, whose time moves only by ``turn(now:)``. It is not the calling thread's libOS, and there may
    /// be many of them in one thread; its calls are made after ``makeCurrent()``. Never wait in it but with a timeout of zero: no time passes
    /// there.
    ///
    /// Throws ``ConfigurationError`` for settings out of range, EINVAL for those that the stack refuses, ENOMEM, EMFILE.
    package static func simulated(
        _ configuration: Configuration, device: DeviceHandle, network: NetworkConfiguration? = nil, entropy: NetworkEntropy, now: UInt64 = 0
    ) throws -> LibOS {
        try configuration.validate()
        let settings = try network ?? NetworkConfiguration(configuration, loop: device.capabilities.isLoop)
        let parts = NetworkParts(device: device, configuration: settings, entropy: entropy)
        return LibOS(owning: try Core(configuration, network: parts, clock: .manual(start: now)))
    }

    /// Makes this libOS's heap the calling thread's: before any call of a libOS of which there are several in one thread.
    package func makeCurrent() { _ = core.heap.makeCurrent() }

    /// One turn at a time, in nanoseconds, that is not before the last one: receives, runs what is due, completes, transmits. Answers whether an
    /// operation has completed.
    @discardableResult
    package func turn(now: UInt64) -> Bool {
        makeCurrent()
        core.clock.set(now)
        let before = core.completedCount
        core.idleTurn()
        return core.completedCount != before
    }

    /// When ``turn(now:)`` next has something to do of its own accord, besides frames that come; nil for never.
    package var nextDeadline: UInt64? {
        var deadline = core.network.stack.nextDeadline() ?? .max
        if let timer = core.timers.nextDeadline() { deadline = min(deadline, timer) }
        if core.hasImmediateWork { deadline = core.turnTime }
        return deadline == .max ? nil : deadline
    }

    /// Gives the device what waits to be transmitted, without a turn.
    package func transmit() { core.network.transmit() }
}

extension Core {
    /// Whether a turn has something to do at once: tasks that are ready, or frames that the device has not taken.
    fileprivate var hasImmediateWork: Bool {
        mutating get { !scheduler.application.isEmpty || !network.stack.ip.outgoing.isEmpty }
    }
}
