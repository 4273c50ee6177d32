import CDemikernelShims
import Glibc
import SystemPackage
import Testing
import TestSupport
@testable import Demikernel

/// Frame by frame over a virtual Ethernet: AF_XDP at the near end, a packet socket at the far one.
@Suite(.serialized, .enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2")) struct XDPTests {
    private static func near(_ link: VirtualLink, _ bench: DeviceBench, _ adjust: (inout XDPConfiguration) -> Void = { _ in }) throws -> XDPDevice {
        var configuration = XDPConfiguration(interface: "near0")
        configuration.namespace = link.near
        configuration.address = LinkEnds.ours
        configuration.memory = 8 << 20
        configuration.ringSize = 128
        adjust(&configuration)
        return try XDPDevice(configuration, heap: bench.heap.reference)
    }

    /// Nothing is left in the heap but what the device has for frames to come, once what it transmits is back.
    private static func expectEmpty(_ device: inout XDPDevice, _ bench: DeviceBench) {
        var burst = bench.burst()
        while true {
            device.receive(into: &burst)
            burst.removeAll()
            if bench.heap.statistics.liveObjects == device.statistics.heldBuffers { return }
            sched_yield()
        }
    }

    @Test(arguments: [nil, true, false] as [Bool?], [Configuration.Catpowder.XDPMode.auto, .generic])
    func `frames of every size come whole and in their order, both ways, from one segment and from several`(
        _ segments: Bool?, _ mode: Configuration.Catpowder.XDPMode
    ) throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try Self.near(link, bench) {
            $0.transmitsSegments = segments
            $0.mode = mode
        }
        let isGeneric = near.isGeneric
        #expect(isGeneric == (mode == .generic))
        var far = try LinkEnds.far(link)
        var sent: [[UInt8]] = []
        var burst = bench.burst()
        for isOutwards in [true, false] {
            for round in 0..<300 {
                let frame = LinkEnds.frame(
                    bench, 14 + 50 + (round * 37) % 1_451, seed: round, parts: round % 4, to: isOutwards ? LinkEnds.others : LinkEnds.ours)
                sent.append(bytes(of: frame))
                burst.append(frame)
                guard burst.isFull || round == 299 else { continue }
                while !burst.isEmpty { if isOutwards { near.transmit(&burst) } else { far.transmit(&burst) } }
                let taken = isOutwards ? LinkEnds.take(sent.count, from: &far, bench).map(\.bytes) : LinkEnds.take(sent.count, from: &near, bench).map(\.bytes)
                #expect(taken == sent)
                sent = []
            }
        }
        let statistics = near.statistics
        #expect(statistics.transmittedFrames == 300 && statistics.transmitDrops == 0 && statistics.malformed == 0)
        #expect(statistics.receivedFrames >= 300 && statistics.receiveDrops == 0)
        Self.expectEmpty(&near, bench)
        Self.end(near)
        #expect(bench.isEmpty)
    }

    @Test func `frames longer than a page go and come in several chunks`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink(mtu: 9_000)
        var near = try Self.near(link, bench) { $0.mtu = 9_000 }
        let mtu = near.capabilities.maximumTransmissionUnit
        #expect(mtu == 9_000)
        var configuration = PacketSocketConfiguration(interface: "far0")
        configuration.namespace = link.far
        configuration.address = LinkEnds.others
        configuration.mtu = 9_000
        var far = try PacketSocketDevice(configuration)
        var burst = bench.burst()
        for (round, count) in [9_014, 4_000, 5_000, 3_840, 3_841, 64, 8_192].enumerated() {
            for parts in 0..<3 {
                let out = LinkEnds.frame(bench, count, seed: round, parts: parts, to: LinkEnds.others)
                let sent = bytes(of: out)
                burst.append(out)
                near.transmit(&burst)
                let outwards = LinkEnds.take(1, from: &far, bench).map(\.bytes)
                #expect(outwards == [sent], "\(count) bytes")
                let back = LinkEnds.frame(bench, count, seed: round, parts: parts, to: LinkEnds.ours)
                let returned = bytes(of: back)
                burst.append(back)
                far.transmit(&burst)
                let inwards = LinkEnds.take(1, from: &near, bench).map(\.bytes)
                #expect(inwards == [returned], "\(count) bytes")
            }
        }
        Self.expectEmpty(&near, bench)
    }

    @Test func `frames in memory that is not registered are copied, both ways`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try Self.near(link, bench) { $0.memory = 2 << 20 }
        var far = try LinkEnds.far(link)
        // All that is registered is taken.
        var held: [Segment] = []
        while bench.heap.statistics.groups < 3 { held.append(bench.heap.reference.allocateSegment(2_048)) }
        var burst = bench.burst()
        for round in 0..<200 {
            let out = LinkEnds.frame(bench, 64 + round * 7, seed: round, parts: round % 3, to: LinkEnds.others)
            let back = LinkEnds.frame(bench, 64 + round * 7, seed: round, parts: round % 3, to: LinkEnds.ours)
            let (sent, returned) = (bytes(of: out), bytes(of: back))
            burst.append(out)
            while !burst.isEmpty { near.transmit(&burst) }
            let outwards = LinkEnds.take(1, from: &far, bench).map(\.bytes)
            #expect(outwards == [sent])
            burst.append(back)
            far.transmit(&burst)
            let inwards = LinkEnds.take(1, from: &near, bench).map(\.bytes)
            #expect(inwards == [returned])
        }
        for segment in held { segment.release() }
        Self.expectEmpty(&near, bench)
    }

    @Test func `what is for the interface's own address stays the kernel's, and what is for groups is ours`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        try link.succeed("ip link set near0 address 02:00:00:00:00:77", in: link.near)
        var near = try Self.near(link, bench)
        var far = try LinkEnds.far(link)
        var burst = bench.burst()
        for destination in [0x0200_0000_0077, 0x0200_0000_0099, 0xffff_ffff_ffff, LinkEnds.ours, 0x3333_0000_0001] as [UInt64] {
            burst.append(LinkEnds.frame(bench, 100, seed: 1, to: destination))
        }
        far.transmit(&burst)
        let destinations = LinkEnds.take(3, from: &near, bench).map(\.bytes).map { Array($0[..<6]) }
        #expect(destinations == [[255, 255, 255, 255, 255, 255], [2, 0, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]])
    }

    @Test func `an exhausted heap loses frames, and no more`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try Self.near(link, bench)
        var far = try LinkEnds.far(link)
        var burst = bench.burst()
        burst.append(LinkEnds.frame(bench, 1_000, seed: 1, to: LinkEnds.ours))
        var held: [Segment] = []
        while case let segment = bench.heap.reference.allocateSegment(2_048), !segment.isNull { held.append(segment) }
        far.transmit(&burst)
        while near.statistics.receiveDrops == 0 {
            near.receive(into: &burst)
            sched_yield()
        }
        for segment in held { segment.release() }
        burst.removeAll()
        let frame = LinkEnds.frame(bench, 1_000, seed: 2, to: LinkEnds.ours)
        let sent = bytes(of: frame)
        burst.append(frame)
        far.transmit(&burst)
        let taken = LinkEnds.take(1, from: &near, bench).map(\.bytes)
        #expect(taken == [sent])
    }

    @Test func `frames that do not fit are dropped and counted, those without room wait`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try Self.near(link, bench) { $0.ringSize = 16 }
        var burst = bench.burst(capacity: 256)
        for round in 0..<3 { burst.append(LinkEnds.frame(bench, 1_519 + round, seed: round, to: LinkEnds.others)) }
        near.transmit(&burst)
        for round in 0..<256 { burst.append(LinkEnds.frame(bench, 1_000, seed: round, to: LinkEnds.others)) }
        while !burst.isEmpty { near.transmit(&burst) }
        let statistics = near.statistics
        #expect(statistics.transmittedFrames == 256 && statistics.transmitDrops == 3 && statistics.transmitStalls > 0)
        Self.expectEmpty(&near, bench)
    }

    @Test func `whoever sleeps is woken by a frame, and not without one`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        try link.succeed("echo 1 > /proc/sys/net/ipv6/conf/far0/disable_ipv6", in: link.far)
        var near = try Self.near(link, bench)
        var far = try LinkEnds.far(link)
        var burst = bench.burst()
        for round in 0..<20 {
            while !near.prepareToSleep() {
                near.receive(into: &burst)
                burst.removeAll()
            }
            let event = near.eventDescriptor
            #expect(!isReadable(event))
            burst.append(LinkEnds.frame(bench, 200, seed: round, to: LinkEnds.ours))
            far.transmit(&burst)
            waitUntilReadable(near.eventDescriptor)
            near.wake()
            let maySleep = near.prepareToSleep()
            #expect(!maySleep)
            _ = LinkEnds.take(1, from: &near, bench)
        }
    }

    @Test func `an interface that goes down wakes once, and comes back`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        try link.succeed("echo 1 > /proc/sys/net/ipv6/conf/far0/disable_ipv6", in: link.far)
        var near = try Self.near(link, bench)
        var far = try LinkEnds.far(link)
        var burst = bench.burst()
        _ = near.maintain(now: 1)
        try link.succeed("ip link set near0 down", in: link.near)
        waitUntilReadable(near.eventDescriptor)
        near.wake()
        let event = near.eventDescriptor
        #expect(!isReadable(event))
        let next = near.maintain(now: 2)
        var (isConnected, statistics) = (near.isConnected, near.statistics)
        #expect(!isConnected && next < .max && statistics.disconnections == 1)
        burst.append(LinkEnds.frame(bench, 100, seed: 1, to: LinkEnds.others))
        near.transmit(&burst)
        statistics = near.statistics
        #expect(statistics.transmitDrops == 1)
        try link.succeed("ip link set near0 up", in: link.near)
        _ = near.maintain(now: next)
        isConnected = near.isConnected
        #expect(isConnected)
        burst.append(LinkEnds.frame(bench, 100, seed: 2, to: LinkEnds.others))
        near.transmit(&burst)
        _ = LinkEnds.take(1, from: &far, bench)
    }

    // MARK: - Queues, and who has them

    /// Ends a device here: a value that nobody looks at any more may end earlier.
    @inline(never) private static func end(_ device: consuming XDPDevice) { _ = device.isConnected }

    @Test func `each of several queues is received from, and one too few or too many is refused`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        try link.succeed("ip link del near0; ip link add near0 numrxqueues 4 numtxqueues 4 type veth peer name far0 numrxqueues 4 numtxqueues 4 netns \(link.far)", in: link.near)
        try link.succeed("ip link set near0 up", in: link.near)
        try link.succeed("ip link set far0 up; ip addr add 10.117.0.1/24 dev far0", in: link.far)
        #expect(Self.refusal(link, bench) == .invalidArgument)
        #expect(Self.refusal(link, bench) { $0.queues = 5 } == .invalidArgument)
        var near = try Self.near(link, bench) {
            $0.queues = 4
            $0.ringSize = 64
        }
        try link.succeed("ip neigh add 10.117.0.9 lladdr 02:00:00:00:00:01 dev far0", in: link.far)
        // Flows of the far kernel's, which its hash divides between the queues.
        let socket = try link.socket(AF_INET, Int32(SOCK_DGRAM.rawValue))
        defer { close(socket) }
        var burst = bench.burst()
        var ports: Set<UInt16> = []
        for port in 9_000..<9_064 as Range<UInt16> {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            address.sin_addr.s_addr = UInt32(0x0a75_0009).bigEndian
            let sent = unsafe withUnsafePointer(to: &address) {
                unsafe sendto(socket, "x", 1, 0, UnsafeRawPointer($0).assumingMemoryBound(to: sockaddr.self), socklen_t(MemoryLayout<sockaddr_in>.size))
            }
            #expect(sent == 1)
        }
        while ports.count < 64 {
            near.receive(into: &burst)
            while !burst.isEmpty {
                let frame = burst.removeFirst()
                let content = bytes(of: frame)
                if content[12] == 8, content[13] == 0, content[23] == 17 {
                    #expect(frame.offload == FrameOffload(flags: .partialChecksum, checksumStart: 34, checksumOffset: 6))
                    ports.insert(UInt16(content[36]) << 8 | UInt16(content[37]))
                }
                frame.release()
            }
        }
    }

    private static func refusal(
        _ link: VirtualLink?, _ bench: DeviceBench, _ adjust: (inout XDPConfiguration) -> Void = { _ in }
    ) -> Errno? {
        var configuration = XDPConfiguration(interface: "near0")
        if let link { configuration.namespace = link.near }
        configuration.memory = 8 << 20
        configuration.ringSize = 64
        adjust(&configuration)
        do throws(XDPFailure) {
            _ = try XDPDevice(configuration, heap: bench.heap.reference)
            return nil
        } catch {
            return error.errno
        }
    }

    @Test func `an interface that somebody else has is refused, and free again when he has gone, also by kill -9`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        let owner = try Self.near(link, bench)
        #expect(Self.refusal(link, bench) == .resourceBusy)
        let child = Self.childThatDoesNothing()
        #expect(child > 0)
        Self.end(owner)
        #expect(Self.refusal(link, bench) == .resourceBusy)
        #expect(link.run("ip link show near0 | grep -q xdp", in: link.near) == 0)
        kill(child, SIGKILL)
        var status: Int32 = 0
        unsafe _ = waitpid(child, &status, 0)
        #expect(link.run("ip link show near0 | grep -q xdp", in: link.near) != 0)
        #expect(Self.refusal(link, bench) == nil)
        // A program that nobody's descriptor keeps.
        #expect(Self.refusal(link, bench) { $0.mode = .zeroCopy } == .notSupportedOnSocket)
        #expect(Self.refusal(link, bench) { $0.mode = .copy } == nil)
        #expect(bench.isEmpty)
    }

    /// A process that has this one's descriptors, and does nothing that it could undo when it is killed. Here, so that no value of the caller's ends in it.
    @inline(never) private static func childThatDoesNothing() -> pid_t {
        let child = pid_t(truncatingIfNeeded: dk_system_call(Int(SYS_clone), Int(SIGCHLD), 0, 0, 0, 0, 0))
        if child == 0 { while true { pause() } }
        return child
    }

    @Test func `a program that the kernel does not take is told with the verifier's words`() throws {
        // Ends without a result.
        let exit = XDPProgram.Instruction.exit.word
        do throws(XDPFailure) {
            _ = try XDPProgram.load([exit], takesSegments: false)
            Issue.record("the program was taken")
        } catch {
            #expect(error.detail.contains("R0 !read_ok"), "\(error)")
        }
    }

    @Test func `bad settings are refused`() throws {
        let bench = try DeviceBench()
        #expect(Self.refusal(nil, bench) { $0.queues = 0 } == .invalidArgument)
        #expect(Self.refusal(nil, bench) { $0.queues = 17 } == .invalidArgument)
        #expect(Self.refusal(nil, bench) { $0.ringSize = 8 } == .invalidArgument)
        #expect(Self.refusal(nil, bench) { $0.mtu = 67 } == .invalidArgument)
        #expect(Self.refusal(nil, bench) { $0.interface = "" } == .invalidArgument)
        #expect(Self.refusal(nil, bench) { $0.interface = "sixteen-letters!" } == .invalidArgument)
        #expect(Self.refusal(nil, bench) { $0.interface = "no-such" } == .noSuchAddressOrDevice)
        #expect(Self.refusal(nil, bench) { $0.interface = "lo" } == .noSuchAddressOrDevice)
        #expect(Self.refusal(nil, bench) { $0.namespace = "/nowhere" } == .noSuchFileOrDirectory)
    }
}
