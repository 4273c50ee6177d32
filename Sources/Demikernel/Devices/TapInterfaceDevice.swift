import CDemikernelShims
import Glibc
import SystemPackage

/// What a ``TapInterfaceDevice`` is told when it is opened.
package struct TapInterfaceConfiguration: Sendable {
    /// The interface, by name; made, for as long as the device lives, where there is none of that name.
    package var interface: String
    /// The network namespace in which the interface is: a path, or a name of `ip netns`; empty for the thread's own.
    package var namespace = ""
    /// Our Ethernet address, 48 bits in host order; the kernel's side has another.
    package var address: UInt64
    /// The largest IP packet to send, in bytes; the interface's where that is smaller.
    package var mtu = 1_500
    /// Files of the interface, between which the kernel divides flows: 1...16. More than one takes an interface with several queues.
    package var queues = 1
    /// Consecutive segments of a connection go into the kernel as one packet (GSO).
    package var joinsSegments = true

    package init(interface: String, address: UInt64) {
        self.interface = interface
        self.address = address
    }
}

/// The other end of a TAP interface of the kernel: whatever the kernel sends on the interface comes here, and what is transmitted here the kernel
/// receives. For machines without a second interface, and for reaching the kernel of this one. The kernel's Documentation/networking/tuntap.rst.
///
/// An interface that is made here is taken up, and goes with the device. Its address, on the kernel's side, is for somebody else to set:
/// `ip addr add 10.117.0.1/24 dev NAME`. Making one takes CAP_NET_ADMIN; one that was made before (`ip tuntap add NAME mode tap user USER`)
/// takes nothing.
///
/// Each frame is a system call, and so is each look for one. Checksums are left undone in both directions, and streams cross uncut, the kernel's and ours
/// (``SegmentRun``): both ends are in this machine.
///
/// Invariant: `buffer` has room for the longest frame and virtio's header before it; the first `queueCount` of `queues` are open files.
@safe package struct TapInterfaceDevice: NetworkDevice, ~Copyable {
    package let capabilities: NetworkDeviceCapabilities
    private let configuration: TapInterfaceConfiguration
    private var traffic = NetworkDeviceStatistics()
    private var queues = InlineArray<16, Int32>(repeating: -1)
    private var queueCount = 0
    private var turn = QueueTurn()
    private var run = SegmentRun()
    private var interface: InterfaceWatch
    private let buffer: UnsafeMutableRawBufferPointer
    private let events: Int32
    /// A socket in the interface's namespace, for questions about it.
    private let control: Int32

    private static var headerByteCount: Int { MemoryLayout<dk_virtio_header>.size }

    /// Opens the device. Throws EINVAL for bad settings or an interface of another kind, EPERM without CAP_NET_ADMIN, EBUSY where another program
    /// has the interface, ENOENT without /dev/net/tun, and what entering the namespace throws.
    package init(_ configuration: TapInterfaceConfiguration) throws(DemikernelError) {
        guard 1...16 ~= configuration.queues else { throw DemikernelError(.invalidArgument, "a TAP has between 1 and 16 queues") }
        guard !configuration.interface.isEmpty, configuration.interface.utf8.count <= NetworkInterface.nameMaximum else {
            throw DemikernelError(.invalidArgument, "an interface's name has between 1 and 15 bytes")
        }
        let (control, events, files, found) = try Self.find(configuration)
        capabilities = NetworkDeviceCapabilities(
            address: configuration.address, maximumTransmissionUnit: min(configuration.mtu, found.mtu), fillsChecksums: true,
            name: found.name)
        self.configuration = configuration
        self.control = control
        self.events = events
        unsafe buffer = .allocate(byteCount: Self.headerByteCount + NetworkDeviceCapabilities.frameMaximum + 4, alignment: 64)
        interface = InterfaceWatch(found, mtuMaximum: capabilities.maximumTransmissionUnit)
        adopt(files)
    }

    deinit {
        for number in 0..<queueCount { close(queues[number]) }
        close(control)
        close(events)
        unsafe buffer.deallocate()
    }

    /// The interface, made where there is none, its files, and a socket for questions about it.
    private static func find(_ configuration: TapInterfaceConfiguration) throws(DemikernelError) -> (control: Int32, events: Int32, files: [Int32], interface: NetworkInterface) {
        let made = try NetworkNamespace.run(in: configuration.namespace) {
            let control = socket(AF_INET, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            return control < 0 ? -Int(errno) : Int(control)
        }
        guard made >= 0 else { throw DemikernelError(.negated(made), "no descriptor for questions about the interface") }
        let control = Int32(made)
        do throws(DemikernelError) {
            let isNew = NetworkInterface(name: configuration.interface, socket: control) == nil
            let events = try DeviceEvents.make()
            do throws(DemikernelError) {
                let files = try attach(configuration, events)
                if isNew { unsafe _ = dk_interface_set_up(control, configuration.interface) }
                if let found = NetworkInterface(name: configuration.interface, socket: control) { return (control, events, files, found) }
                for file in files { close(file) }
                throw DemikernelError(.noSuchAddressOrDevice, "the TAP interface has gone while it was being opened")
            } catch {
                close(events)
                throw error
            }
        } catch {
            close(control)
            throw error
        }
    }

    private static func attach(_ configuration: TapInterfaceConfiguration, _ events: Int32) throws(DemikernelError) -> [Int32] {
        var files: [Int32] = []
        do throws(DemikernelError) {
            for _ in 0..<configuration.queues {
                let file = try NetworkNamespace.run(in: configuration.namespace) {
                    let file = unsafe open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)
                    return file < 0 ? -Int(errno) : Int(file)
                }
                guard file >= 0 else {
                    throw DemikernelError(.negated(file), "/dev/net/tun cannot be opened: the kernel lacks TUN/TAP, or this user may not")
                }
                files.append(Int32(file))
                var name = InlineArray<16, CChar>(repeating: 0)
                for (place, byte) in configuration.interface.utf8.enumerated() where place < 15 { name[place] = CChar(bitPattern: byte) }
                let attached = unsafe withUnsafeMutableBytes(of: &name) {
                    unsafe dk_tap_attach(Int32(file), $0.baseAddress!.assumingMemoryBound(to: CChar.self), Int32(configuration.queues))
                }
                guard attached >= 0 else { throw refusal(.negated(attached)) }
                try DeviceEvents.add(Int32(file), to: events)
            }
            return files
        } catch {
            for file in files { close(file) }
            throw error
        }
    }

    private static func refusal(_ error: Errno) -> DemikernelError {
        switch error {
        case .notPermitted:
            DemikernelError(error, "making a TAP interface takes CAP_NET_ADMIN; or have it made: ip tuntap add NAME mode tap user USER")
        case .resourceBusy: DemikernelError(error, "another program has the TAP interface")
        case .invalidArgument:
            DemikernelError(error, "the interface is no TAP, or has another number of queues than catpowder.queues (multi_queue of ip tuntap)")
        default: DemikernelError(error, "the TAP interface cannot be had")
        }
    }

    private mutating func adopt(_ files: [Int32]) {
        for file in files {
            queues[queueCount] = file
            queueCount += 1
        }
    }

    package var statistics: NetworkDeviceStatistics { traffic }
    package var isConnected: Bool { interface.isUp }
    package var eventDescriptor: Int32? { events }

    // MARK: Frames

    package mutating func receive(into burst: inout FrameBurst) {
        guard queueCount > 0 else { return }
        var number = turn.next(of: queueCount)
        for _ in 0..<queueCount {
            receive(from: queues[number], into: &burst)
            number = QueueTurn.after(number, of: queueCount)
        }
    }

    private mutating func receive(from file: Int32, into burst: inout FrameBurst) {
        while !burst.isFull {
            let count = unsafe dk_system_call(Int(SYS_read), Int(file), Int(bitPattern: buffer.baseAddress), buffer.count, 0, 0, 0)
            guard count > 0 else {
                if count != -Int(EAGAIN), count != -Int(EINTR) { goDown() }
                return
            }
            let length = count - Self.headerByteCount
            let segment = length >= 14 ? burst.heap.allocateSegment(length) : .null
            guard !segment.isNull else {
                traffic.receiveDrops &+= 1
                continue
            }
            unsafe dk_copy_frame(segment.start, buffer.baseAddress.unsafelyUnwrapped + Self.headerByteCount, length)
            let virtio = unsafe buffer.loadUnaligned(as: dk_virtio_header.self)
            virtio.append(segment, to: &burst, &traffic)
        }
    }

    package mutating func transmit(_ burst: inout FrameBurst) {
        while !burst.isEmpty {
            guard interface.isUp, queueCount > 0 else {
                traffic.transmitDrops &+= UInt64(burst.count)
                return burst.removeAll()
            }
            let first = burst[0]
            let isRun = configuration.joinsSegments && run.join(burst, frameMaximum: interface.frameMaximum)
            let frames = isRun ? run.frameCount : 1
            let count = isRun ? run.byteCount : first.byteCount
            if isRun || (count >= 14 && count <= interface.frameMaximum) {
                let result = isRun ? run.write(to: queue(for: first)) : write(first, count)
                if result == -Int(EAGAIN) {
                    traffic.transmitStalls &+= 1
                    return
                }
                if result > 0 {
                    traffic.transmittedFrames &+= UInt64(frames)
                    traffic.transmittedBytes &+= UInt64(truncatingIfNeeded: count)
                } else {
                    traffic.transmitDrops &+= UInt64(frames)
                    // EIO: the interface is down; EBADFD: it is gone.
                    if result == -Int(EIO) || result == -Int(EBADFD) { goDown() }
                }
            } else {
                traffic.transmitDrops &+= 1
            }
            for _ in 0..<frames { burst.removeFirst().release() }
        }
    }

    /// The file by which a frame's flow goes.
    private func queue(for frame: Frame) -> Int32 { queueCount == 1 ? queues[0] : queues[Int(frame.flowHash % UInt32(queueCount))] }

    /// Bytes, or a negative errno.
    private mutating func write(_ frame: Frame, _ count: Int) -> Int {
        var virtio = dk_virtio_header(frame.offload)
        if virtio.flags != 0 {
            virtio.header_length = min(UInt16(truncatingIfNeeded: count), virtio.checksum_start + virtio.checksum_offset + 2)
        }
        unsafe buffer.storeBytes(of: virtio, as: dk_virtio_header.self)
        let target = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[Self.headerByteCount...])
        unsafe _ = frame.copyBytes(to: target)
        return unsafe dk_system_call(
            Int(SYS_write), Int(queue(for: frame)), Int(bitPattern: buffer.baseAddress), Self.headerByteCount + count, 0, 0, 0)
    }

    // MARK: Sleeping

    /// The files are readable while there are frames: nothing is to be asked for.
    package mutating func prepareToSleep() -> Bool { true }

    // MARK: The interface

    package mutating func maintain(now: UInt64) -> UInt64 {
        if interface.isDue(now) { look() }
        return interface.nextTime
    }

    private mutating func look() {
        if queueCount > 0, dk_tap_is_attached(queues[0]) == 0 {
            // Removed. One of the same name is another.
            goDown()
            closeQueues()
        }
        // The files outlive its name; whether it has gone, they tell.
        if queueCount > 0 {
            _ = interface.look(control, &traffic)
            return
        }
        guard let found = NetworkInterface(name: configuration.interface, socket: control) else { return }
        guard let files = try? Self.attach(configuration, events) else { return }
        adopt(files)
        interface.follow(found, &traffic)
    }

    private mutating func goDown() {
        if interface.isUp { interface.hurry() }
        interface.goDown(&traffic)
    }

    private mutating func closeQueues() {
        for number in 0..<queueCount {
            DeviceEvents.remove(queues[number], from: events)
            close(queues[number])
        }
        queueCount = 0
    }
}
