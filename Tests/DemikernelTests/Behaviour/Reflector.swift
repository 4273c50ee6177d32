import Glibc
import Testing
@testable import Demikernel

/// The other end of a memif, or of a virtual Ethernet: a thread that sends every frame back as it came, so that a libOS whose packets for its own addresses go to the
/// device talks to itself across it. Takes one libOS after the other, for as long as the process lives.
enum Reflector {
    /// The socket at which it listens. Starts it, once.
    static let socket: String = {
        let socket = "@demikernel-reflector-\(getpid())"
        var thread = pthread_t()
        let status = unsafe pthread_create(&thread, nil, { _ in
            Reflector.run()
            return nil
        }, nil)
        precondition(status == 0, "the system has no thread for a test")
        pthread_detach(thread)
        return socket
    }()

    /// A virtual Ethernet at whose far end one listens. Makes it and starts the reflector, once; nil, with a word about it, where that cannot be.
    static let link: VirtualLink? = {
        if let obstacle = VirtualLink.obstacle {
            print("catpowder is not tested: \(obstacle)")
            return nil
        }
        guard let link = try? VirtualLink() else { return nil }
        farEnd.withLock { $0 = link.far }
        var thread = pthread_t()
        let status = unsafe pthread_create(&thread, nil, { _ in
            Reflector.runPacketSocket()
            return nil
        }, nil)
        precondition(status == 0, "the system has no thread for a test")
        pthread_detach(thread)
        // Open by then: a test may take all descriptors away.
        while farEnd.withLock({ !$0.isEmpty }) { usleep(1_000) }
        return link
    }()

    /// Where the reflector's interface is, until it has opened it.
    private static let farEnd = Lock("")

    private static func run() {
        reflectForever { () throws in
            let settings = MemifConfiguration(role: .server, socketPath: "@demikernel-reflector-\(getpid())", address: 0x0200_0000_00ff)
            return try MemifDevice(settings)
        }
    }

    private static func runPacketSocket() {
        reflectForever { () throws in
            var settings = PacketSocketConfiguration(interface: "far0")
            settings.namespace = farEnd.withLock { $0 }
            settings.takesAll = true
            defer { farEnd.withLock { $0 = "" } }
            return try PacketSocketDevice(settings)
        }
    }

    private static func reflectForever<Device: NetworkDevice & ~Copyable>(_ open: () throws -> Device) {
        do {
            var configuration = HeapConfiguration()
            configuration.limit = 64 << 20
            configuration.lockPages = false
            let heap = try Heap(configuration)
            _ = heap.makeCurrent()
            var device = try open()
            // Forever: the heap is lent, so that it lives as long.
            while true { reflect(&device, heap) }
        } catch {
            Issue.record("the reflector cannot start: \(error)")
        }
    }

    private static func reflect<Device: NetworkDevice & ~Copyable>(_ device: inout Device, _ heap: borrowing Heap) {
        var frames = FrameBurst(heap: heap.reference)
        var idle = 0
        for _ in 0..<1_000_000 {
            device.receive(into: &frames)
            if !frames.isEmpty {
                device.transmit(&frames)
                idle = 0
                continue
            }
            idle += 1
            guard idle > 200 else { continue }
            idle = 0
            _ = device.maintain(now: monotonicNanoseconds())
            guard device.prepareToSleep(), let event = device.eventDescriptor else { continue }
            var wanted = pollfd(fd: event, events: Int16(POLLIN), revents: 0)
            _ = unsafe poll(&wanted, 1, 100)
            device.wake()
            _ = device.maintain(now: monotonicNanoseconds())
        }
    }
}
