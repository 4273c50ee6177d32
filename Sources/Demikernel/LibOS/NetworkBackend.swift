import SystemPackage

/// What the libOS keeps of a socket of its stack beside the queue: seldom touched.
struct NetworkSocket: BitwiseCopyable {
    /// The address that `bind` gave, while no socket of the stack holds it.
    var local: SocketAddress
    var options = TCPSocketOptions()
    var isAddressReused = false
    var isPortShared = false
    /// SO_LINGER: -1 is off.
    var lingerSeconds: Int32 = -1

    init(_ family: AddressFamily) {
        local = .any(family, port: 0)
    }
}

/// The device and the network stack of a libOS that has its own; nothing for Catnap, whose stack is the kernel's.
///
/// Everything lies behind pointers, so that a core without a stack pays for two words, and calls lend out several parts of the stack at once.
///
/// Invariant: with `isPresent`, both pointers address initialised values until `deinit`; without, nothing, and nothing else is asked for.
@safe
package struct NetworkBackend: ~Copyable {
    @safe private struct State: ~Copyable {
        var burst: FrameBurst
        var device: Unmanaged<DeviceHandle>
        /// The device itself, while a ``CaptureTap`` is around it.
        var tapped: Unmanaged<DeviceHandle>?
        let sockets: MappedMemory<NetworkSocket>
        /// When the device's control work is due.
        var maintenance: UInt64 = 0
        /// Whether the device was connected when it was last asked.
        var wasConnected: Bool
        /// Frames that no call of the application waits for are given to the device when there are this many.
        let batch: Int
    }

    private let stackPointer: UnsafeMutablePointer<NetworkStack>
    private let state: UnsafeMutablePointer<State>
    /// Whether there is a stack. The pointers are not optional instead: the compiler (6.3.1) cannot make the thread sanitizer's code for those.
    package let isPresent: Bool

    /// How often, in nanoseconds, a device that is polled gets time for its control work: what its event descriptor would say while nobody
    /// sleeps on it.
    private static var maintenanceInterval: UInt64 { 1_000_000 }
    /// How long a libOS sleeps, in nanoseconds, while the device has no room for what is to be transmitted.
    private static var fullInterval: UInt64 { 100_000 }
    /// Frames that wait to be transmitted together while the application answers what has come.
    private static var transmitBatch: Int { 8 }

    /// None: for Catnap.
    init() {
        unsafe stackPointer = UnsafeMutablePointer(bitPattern: MemoryLayout<NetworkStack>.alignment).unsafelyUnwrapped
        unsafe state = UnsafeMutablePointer(bitPattern: MemoryLayout<State>.alignment).unsafelyUnwrapped
        isPresent = false
    }

    /// Makes the stack over a device. Throws what the stack refuses: EINVAL for settings that cannot be, ENOMEM.
    init(_ parts: NetworkParts, heap: HeapReference, queues: Int, now: UInt64) throws(DemikernelError) {
        var configuration = parts.configuration
        configuration.tagsMaximum = queues
        let stack = try NetworkStack(configuration, heap: heap, device: parts.device.capabilities, entropy: parts.entropy, now: now)
        let sockets = try MappedMemory<NetworkSocket>(count: queues)
        let stackPointer = UnsafeMutablePointer<NetworkStack>.allocate(capacity: 1)
        unsafe stackPointer.initialize(to: stack)
        let state = UnsafeMutablePointer<State>.allocate(capacity: 1)
        unsafe state.initialize(
            to: State(burst: FrameBurst(heap: heap), device: .passRetained(parts.device), sockets: sockets, wasConnected: parts.device.isConnected, batch: Self.transmitBatch))
        unsafe self.stackPointer = stackPointer
        unsafe self.state = state
        isPresent = true
    }

    /// What `parts` make, or nothing; the device wakes whoever sleeps on `epoll`. Throws what starting the stack throws.
    static func make(
        _ parts: NetworkParts?, heap: HeapReference, queues: Int, now: UInt64, watchedBy epoll: Int32
    ) throws(DemikernelError) -> NetworkBackend {
        guard let parts else { return NetworkBackend() }
        if let event = parts.device.eventDescriptor, !Catnap.add(event, to: epoll, data: Catnap.networkData, events: 1 /* EPOLLIN */) {
            throw DemikernelError(.last, "the network device's event descriptor cannot be watched")
        }
        return try NetworkBackend(parts, heap: heap, queues: queues, now: now)
    }

    deinit {
        guard isPresent else { return }
        unsafe stackPointer.deinitialize(count: 1)
        unsafe stackPointer.deallocate()
        unsafe state.pointee.device.release()
        unsafe state.pointee.tapped?.release()
        unsafe state.deinitialize(count: 1)
        unsafe state.deallocate()
    }

    /// The stack, in place.
    package var stack: NetworkStack {
        @inline(__always) unsafeAddress { unsafe UnsafePointer(stackPointer) }
        @inline(__always) nonmutating unsafeMutableAddress { unsafe stackPointer }
    }

    /// What is kept of the socket behind a queue.
    subscript(index: UInt32) -> NetworkSocket {
        unsafeAddress { unsafe UnsafePointer(state.pointee.sockets.base + Int(index)) }
        nonmutating unsafeMutableAddress { unsafe state.pointee.sockets.base + Int(index) }
    }

    // MARK: - The device

    /// The device. The backend's reference keeps it alive: no call counts another.
    @inline(__always) private func device<Result>(_ body: (DeviceHandle) -> Result) -> Result {
        unsafe state.pointee.device._withUnsafeGuaranteedRef(body)
    }

    package var capabilities: NetworkDeviceCapabilities { device { $0.capabilities } }
    package var deviceStatistics: NetworkDeviceStatistics { device { $0.statistics } }
    package var isConnected: Bool { device { $0.isConnected } }
    var eventDescriptor: Int32? { device { $0.eventDescriptor } }

    /// Gives the device what waits to be transmitted.
    @inline(__always)
    func transmit() {
        guard isPresent, !stack.ip.outgoing.isEmpty else { return }
        transmitSlowly()
    }

    /// The same where a batch has come together or, with `atOnce`, there is anything.
    @inline(__always)
    func transmitBatch(atOnce: Bool) {
        if isPresent, unsafe stack.ip.outgoing.count >= (atOnce ? 1 : state.pointee.batch) { transmitSlowly() }
    }

    @inline(never)
    private func transmitSlowly() { device { $0.transmit(&stack.ip.outgoing) } }

    /// Has the device bring one burst; whether there is any frame in it.
    @inline(__always)
    func receive() -> Bool {
        let state = unsafe state
        device { unsafe $0.receive(into: &state.pointee.burst) }
        return unsafe !state.pointee.burst.isEmpty
    }

    /// Passes that burst to the stack.
    @inline(__always)
    func takeBurst(now: UInt64) {
        let state = unsafe state
        if unsafe !state.pointee.burst.isEmpty { unsafe stack.receive(&state.pointee.burst, now: now) }
    }

    /// The device's control work, where it is due.
    @inline(__always)
    func maintain(now: UInt64) {
        if unsafe now >= state.pointee.maintenance { maintainSlowly(now: now) }
    }

    @inline(never)
    private func maintainSlowly(now: UInt64) {
        let wanted = maintainDevice(now: now)
        unsafe state.pointee.maintenance = min(wanted, Clock.deadline(after: Self.maintenanceInterval, from: now))
    }

    /// Answers when the device wants its next turn, and tells the stack of a link that has come back.
    private func maintainDevice(now: UInt64) -> UInt64 {
        let wanted = device { $0.maintain(now: now) }
        let isConnected = isConnected
        if unsafe isConnected != state.pointee.wasConnected {
            unsafe state.pointee.wasConnected = isConnected
            if isConnected { stack.ip.linkCameBack(now: now) }
        }
        return wanted
    }

    // MARK: - Capturing

    /// Whether somebody looks at the frames.
    var isTapped: Bool { unsafe state.pointee.tapped != nil }

    /// Has every frame put into `queue` too; nil ends that. Between two calls of the device, and never in one.
    func tap(_ queue: CaptureQueue?) {
        if let device = unsafe state.pointee.tapped {
            unsafe state.pointee.device.release()
            unsafe state.pointee.device = device
            unsafe state.pointee.tapped = nil
        }
        guard let queue else { return }
        let device = unsafe state.pointee.device
        unsafe state.pointee.tapped = device
        unsafe state.pointee.device = .passRetained(.holding(CaptureTap(device.takeUnretainedValue(), queue: queue)))
    }

    // MARK: - Sleeping

    /// Whether something wakes a libOS that sleeps: a device without an event descriptor is polled for ever, except one that only ever brings
    /// what this libOS has sent.
    var canSleep: Bool { !isPresent || device { $0.eventDescriptor != nil || $0.capabilities.isLoop } }

    /// Has the device tell of the next frame. Answers until when there is time to sleep at the most; nil where there is none.
    func prepareToSleep(now: UInt64) -> UInt64? {
        transmit()
        var limit = maintainDevice(now: now)
        if let deadline = stack.nextDeadline() { limit = min(limit, deadline) }
        if !stack.ip.outgoing.isEmpty { limit = min(limit, Clock.deadline(after: Self.fullInterval, from: now)) }
        guard limit > now, device({ $0.prepareToSleep() }) else { return nil }
        return limit
    }

    /// Ends what ``prepareToSleep(now:)`` began.
    func wake() {
        device { $0.wake() }
        // The event may have been one of the device's control channel.
        unsafe state.pointee.maintenance = 0
    }
}
