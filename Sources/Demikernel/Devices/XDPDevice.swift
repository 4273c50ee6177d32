import CDemikernelShims
import Glibc
import SystemPackage

/// An interface of the kernel, by AF_XDP sockets: the kernel's Documentation/networking/af_xdp.rst. The driver, or in generic mode the kernel just above
/// it, runs a program of ours for each frame that comes, which hands ours over before the kernel's stack sees them.
///
/// The beginning of the heap is the memory that the kernel receives to and transmits from (``XDPMemory``): frames of more than 256 bytes come to the
/// application where the kernel has put them, and one-segment frames are read by it where they lie. A frame in several segments goes as it is where the
/// card reads memory itself (zero copy); where the kernel copies anyway, it is gathered first, because the kernel takes a page for each further piece.
///
/// The interface's kernel goes on receiving what is for its own Ethernet address, but no broadcasts and multicasts: those are ours. Checksums are
/// computed and verified in software, but for those that a kernel peer over a virtual Ethernet leaves undone: ``FrameOffload/leftUndone(in:)``. Frames
/// come one by one, never joined.
///
/// An interface that is taken down, or removed, leaves the device open and not connected: frames that are transmitted meanwhile are dropped and
/// counted. It goes on when the interface is up again, or one of the name that it had at the start exists again. The program goes with its last
/// descriptor, so that a process that is killed leaves nothing behind.
///
/// Invariant: `queues` has room for 16 queues, of which the first `queueCount` are open; the first of them transmits. They are closed before `memory` goes.
@safe package struct XDPDevice: NetworkDevice, ~Copyable {
    package let capabilities: NetworkDeviceCapabilities
    private let configuration: XDPConfiguration
    private var traffic = NetworkDeviceStatistics()
    private let queues: UnsafeMutablePointer<XDPQueue>
    private var queueCount = 0
    private var turn = QueueTurn()
    private var memory: XDPMemory
    private var attachment: XDPAttachment
    /// Hears what befalls the interface.
    private var watcher: Int32
    private var interface: InterfaceWatch
    private let events: Int32

    private static var queuesMaximum: Int { 16 }

    /// Opens the device; `heap` is the one of whoever calls it. Throws EINVAL for bad settings and queues that the interface has not, ENODEV where there
    /// is no such interface, ENETDOWN where it is down, EPERM without rights, EBUSY where another program is attached or has the queue, EOPNOTSUPP where
    /// the driver has not what the mode asks for, ENOMEM and ENOBUFS without memory, and what entering the namespace throws.
    package init(_ configuration: XDPConfiguration, heap: HeapReference) throws(XDPFailure) {
        try configuration.validate()
        let events = try XDPFailure.wrapping { () throws(DemikernelError) in try DeviceEvents.make() }
        let queues = UnsafeMutablePointer<XDPQueue>.allocate(capacity: Self.queuesMaximum)
        var watcher: Int32 = -1
        do throws(XDPFailure) {
            let place = try XDPSockets.find(configuration)
            watcher = place.watcher
            let memory = try XDPMemory.registered(configuration, heap: heap, chunk: XDPSockets.chunkByteCount(place.interface.mtu))
            try XDPFailure.wrapping { () throws(DemikernelError) in try DeviceEvents.add(place.watcher, to: events) }
            let attachment = try unsafe XDPSockets.open(configuration, place, memory, into: queues, events, waits: true)
            // Longer frames would need more than a chunk.
            let longest = unsafe queues[0].usesSegments ? Int.max : memory.chunkByteCount - XDPMemory.headroom - 18
            capabilities = NetworkDeviceCapabilities(
                address: configuration.address ?? place.interface.address,
                maximumTransmissionUnit: min(configuration.mtu, place.interface.mtu, longest), name: place.interface.name)
            self.memory = memory
            self.attachment = attachment
            interface = InterfaceWatch(place.interface, mtuMaximum: capabilities.maximumTransmissionUnit)
        } catch {
            unsafe queues.deallocate()
            if watcher >= 0 { close(watcher) }
            close(events)
            throw error
        }
        self.watcher = watcher
        self.events = events
        self.configuration = configuration
        unsafe self.queues = queues
        queueCount = configuration.queues
    }

    deinit {
        var attachment = attachment
        attachment.close()
        unsafe queues.deinitialize(count: queueCount)
        unsafe queues.deallocate()
        if watcher >= 0 { close(watcher) }
        close(events)
    }

    /// Whether the card reads and writes the memory itself; else the kernel copies.
    package var isZeroCopy: Bool { unsafe queueCount > 0 && queues[0].isZeroCopy }
    /// Whether the kernel runs the program, not the driver.
    package var isGeneric: Bool { attachment.isGeneric }

    package var statistics: NetworkDeviceStatistics {
        mutating get {
            var all = traffic
            for number in 0..<queueCount { addCounts(of: number, to: &all) }
            all.heldBuffers = memory.objectCount
            return all
        }
    }

    /// What the kernel has counted for a queue.
    private func addCounts(of number: Int, to all: inout NetworkDeviceStatistics) {
        var counts = xdp_statistics()
        guard unsafe dk_xdp_statistics(queues[number].descriptor, &counts) == 0 else { return }
        all.receiveDrops &+= counts.rx_dropped &+ counts.rx_ring_full
        all.malformed &+= counts.rx_invalid_descs &+ counts.tx_invalid_descs
    }

    package var isConnected: Bool { interface.isUp }
    package var eventDescriptor: Int32? { events }

    // MARK: Frames

    package mutating func receive(into burst: inout FrameBurst) {
        // The pointer apart: with the thread sanitizer the compiler (6.3.1) takes using it through `self` for a change of all of `self`.
        let queues = unsafe queues
        if queueCount == 1 {
            unsafe queues[0].receive(into: &burst, &memory, &traffic)
        } else if queueCount > 1 {
            var number = turn.next(of: queueCount)
            for _ in 0..<queueCount {
                unsafe queues[number].receive(into: &burst, &memory, &traffic)
                number = QueueTurn.after(number, of: queueCount)
            }
        } else {
            return
        }
        if unsafe queues[0].isTransmitting, interface.isUp { interface.note(unsafe queues[0].finish(&memory, &traffic), &traffic) }
    }

    package mutating func transmit(_ burst: inout FrameBurst) {
        guard !burst.isEmpty else { return }
        guard interface.isUp else {
            traffic.transmitDrops &+= UInt64(burst.count)
            return burst.removeAll()
        }
        let queues = unsafe queues
        let error = unsafe queues[0].transmit(&burst, frameMaximum: interface.frameMaximum, &memory, &traffic)
        interface.note(error, &traffic)
        if !burst.isEmpty { traffic.transmitStalls &+= 1 }
    }

    // MARK: Sleeping

    package mutating func prepareToSleep() -> Bool {
        let queues = unsafe queues
        for number in 0..<queueCount where unsafe queues[number].hasFrames { return false }
        return unsafe queueCount == 0 || !interface.isUp || !queues[0].isUnsent
    }

    package mutating func wake() {
        let queues = unsafe queues
        // An interface that goes leaves an error, which would wake for ever.
        if watcher >= 0, dk_socket_take_error(watcher) != 0 { interface.hurry() }
        for number in 0..<queueCount {
            if dk_socket_take_error(unsafe queues[number].descriptor) != 0 { interface.hurry() }
        }
    }

    // MARK: The interface

    package mutating func maintain(now: UInt64) -> UInt64 {
        if interface.isDue(now) {
            if queueCount > 0 { look() } else { reopen() }
        }
        return interface.nextTime
    }

    /// Whether the interface is still there, and up.
    private mutating func look() {
        if !interface.look(watcher, &traffic) { closeQueues() }
    }

    private mutating func closeQueues() {
        let queues = unsafe queues
        var counts = traffic
        for number in 0..<queueCount {
            addCounts(of: number, to: &counts)
            DeviceEvents.remove(unsafe queues[number].descriptor, from: events)
        }
        traffic = counts
        attachment.close()
        unsafe queues.deinitialize(count: queueCount)
        queueCount = 0
        DeviceEvents.remove(watcher, from: events)
        close(watcher)
        watcher = -1
    }

    /// Looks for an interface of the name that ours had.
    private mutating func reopen() {
        guard let place = try? XDPSockets.find(configuration) else { return }
        let queues = unsafe queues
        do throws(XDPFailure) {
            try XDPFailure.wrapping { () throws(DemikernelError) in try DeviceEvents.add(place.watcher, to: events) }
            attachment = try unsafe XDPSockets.open(configuration, place, memory, into: queues, events, waits: false)
        } catch {
            // Closing it takes it out of the events as well.
            close(place.watcher)
            return
        }
        watcher = place.watcher
        queueCount = configuration.queues
        interface.follow(place.interface, &traffic)
    }
}
