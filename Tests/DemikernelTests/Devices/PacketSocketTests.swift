import Glibc
import SystemPackage
import Testing
import TestSupport
@testable import Demikernel

/// Frame by frame over a virtual Ethernet: two packet sockets, one at each end.
@Suite(.serialized, .enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2")) struct PacketSocketTests {
    @Test func `frames of every size come whole and in their order, from one segment and from several`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link)
        var far = try LinkEnds.far(link)
        var sent: [[UInt8]] = []
        var burst = bench.burst()
        for round in 0..<300 {
            let frame = LinkEnds.frame(bench, 14 + 50 + (round * 37) % 1_451, seed: round, parts: round % 3)
            sent.append(bytes(of: frame))
            burst.append(frame)
            guard burst.isFull || round == 299 else { continue }
            while !burst.isEmpty { near.transmit(&burst) }
            let taken = LinkEnds.take(sent.count, from: &far, bench)
            #expect(taken.map(\.bytes) == sent)
            sent = []
        }
        let (transmitted, received) = (near.statistics, far.statistics)
        #expect(transmitted.transmittedFrames == 300 && transmitted.transmitDrops == 0)
        #expect(received.receivedFrames >= 300 && received.receiveDrops == 0)
        #expect(bench.isEmpty)
    }

    @Test func `the interface tells its MTU and address, and a device with the interface's own is not promiscuous`() throws {
        let link = try VirtualLink(mtu: 1_400)
        try link.succeed("ip link set near0 address 02:00:00:00:00:77", in: link.near)
        let near = try LinkEnds.near(link) { $0.address = nil }
        let (capabilities, isConnected) = (near.capabilities, near.isConnected)
        #expect(capabilities.address == 0x0200_0000_0077 && capabilities.maximumTransmissionUnit == 1_400)
        #expect(capabilities.name == "near0" && capabilities.fillsChecksums && isConnected)
        #expect(link.run("ip -d link show near0 | grep -q 'promiscuity 1'", in: link.near) != 0)
        let other = try LinkEnds.near(link)
        let address = other.capabilities.address
        #expect(address == LinkEnds.ours)
        #expect(link.run("ip -d link show near0 | grep -q 'promiscuity 1'", in: link.near) == 0)
    }

    @Test func `frames to other stations stay out, those to groups come in, and our own are not heard`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link)
        var far = try LinkEnds.far(link)
        var burst = bench.burst()
        for destination in [0x0200_0000_0099, 0xffff_ffff_ffff, LinkEnds.others, 0x3333_0000_0001] as [UInt64] {
            burst.append(LinkEnds.frame(bench, 100, seed: Int(destination & 0xff), to: destination))
        }
        near.transmit(&burst)
        let destinations = LinkEnds.take(3, from: &far, bench).map { Array($0.bytes[..<6]) }
        #expect(destinations == [[255, 255, 255, 255, 255, 255], [2, 0, 0, 0, 0, 2], [0x33, 0x33, 0, 0, 0, 1]])
        near.receive(into: &burst)
        while let content = burst.takeBytes() { #expect(content[6...11] != [2, 0, 0, 0, 0, 1], "its own frame") }
    }

    @Test func `a VLAN's tag, which the kernel keeps beside the frame, comes within it again`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link)
        var far = try LinkEnds.far(link)
        var burst = bench.burst()
        let frame = LinkEnds.frame(bench, 1_518, seed: 5, type: 0x8100)
        unsafe frame.head.bytes.storeBytes(of: UInt32(0x6005_88b5).bigEndian, toByteOffset: 14, as: UInt32.self)
        let sent = bytes(of: frame)
        burst.append(frame)
        near.transmit(&burst)
        let taken = LinkEnds.take(1, from: &far, bench)[0].bytes
        #expect(taken == sent)
    }

    @Test func `a checksum that was left undone is marked so at the other end`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link)
        var far = try LinkEnds.far(link)
        // A UDP datagram to nobody, of which the checksum field holds the sum of the pseudo-header.
        var frame = LinkEnds.frame(bench, 14 + 20 + 8 + 30, seed: 1, type: 0x0800)
        let header: [UInt8] = [0x45, 0, 0, 58, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 117, 0, 9, 10, 117, 0, 8, 0, 7, 0, 7, 0, 38, 0, 0]
        unsafe frame.head.bytes[14...].copyBytes(from: header)
        frame.offload = FrameOffload(flags: .partialChecksum, checksumStart: 34, checksumOffset: 6)
        var burst = bench.burst()
        let sent = bytes(of: frame)
        burst.append(frame)
        near.transmit(&burst)
        let taken = LinkEnds.take(1, from: &far, bench)[0]
        #expect(taken.offload == FrameOffload(flags: .partialChecksum, checksumStart: 34, checksumOffset: 6))
        #expect(taken.bytes == sent)
    }

    @Test func `frames that do not fit are dropped and counted, those without room wait`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link) { $0.ringSize = 16 }
        var burst = bench.burst(capacity: 256)
        for round in 0..<3 { burst.append(LinkEnds.frame(bench, 1_519 + round, seed: round)) }
        burst.append(LinkEnds.frame(bench, 1_518, seed: 9, type: 0x8100))
        near.transmit(&burst)
        var (isEmpty, statistics) = (burst.isEmpty, near.statistics)
        #expect(isEmpty && statistics.transmitDrops == 3 && statistics.transmittedFrames == 1)
        for round in 0..<256 { burst.append(LinkEnds.frame(bench, 1_000, seed: round)) }
        while !burst.isEmpty { near.transmit(&burst) }
        (isEmpty, statistics) = (bench.isEmpty, near.statistics)
        #expect(statistics.transmittedFrames == 257 && statistics.transmitDrops == 3 && isEmpty)
    }

    @Test func `what the ring has no room for is counted`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link)
        var far = try LinkEnds.far(link) { $0.ringSize = 16 }
        var burst = bench.burst(capacity: 256)
        for round in 0..<256 { burst.append(LinkEnds.frame(bench, 1_000, seed: round)) }
        while !burst.isEmpty { near.transmit(&burst) }
        while far.statistics.receiveDrops == 0 { sched_yield() }
        _ = LinkEnds.take(8, from: &far, bench)
    }

    @Test func `an exhausted heap loses frames, and no more`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link)
        var far = try LinkEnds.far(link)
        var burst = bench.burst()
        burst.append(LinkEnds.frame(bench, 1_000, seed: 1))
        var held: [Segment] = []
        while case let segment = bench.heap.reference.allocateSegment(1_024), !segment.isNull { held.append(segment) }
        near.transmit(&burst)
        while far.statistics.receiveDrops == 0 {
            far.receive(into: &burst)
            sched_yield()
        }
        for segment in held { segment.release() }
        burst.removeAll()
        let frame = LinkEnds.frame(bench, 1_000, seed: 2)
        let sent = bytes(of: frame)
        burst.append(frame)
        near.transmit(&burst)
        let taken = LinkEnds.take(1, from: &far, bench)[0].bytes
        #expect(taken == sent)
    }

    @Test(arguments: [1, 4]) func `whoever sleeps is woken by a frame, and not without one`(_ rings: Int) throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        try link.succeed("echo 1 > /proc/sys/net/ipv6/conf/far0/disable_ipv6", in: link.far)
        try link.succeed("echo 1 > /proc/sys/net/ipv6/conf/near0/disable_ipv6", in: link.near)
        var near = try LinkEnds.near(link)
        var far = try LinkEnds.far(link) { $0.rings = rings }
        var burst = bench.burst()
        for round in 0..<20 {
            while !far.prepareToSleep() {
                far.receive(into: &burst)
                burst.removeAll()
            }
            let event = far.eventDescriptor
            #expect(!isReadable(event))
            burst.append(LinkEnds.frame(bench, 200, seed: round))
            near.transmit(&burst)
            waitUntilReadable(far.eventDescriptor)
            far.wake()
            let maySleep = far.prepareToSleep()
            #expect(!maySleep)
            _ = LinkEnds.take(1, from: &far, bench)
        }
    }

    @Test func `an interface that goes down wakes once, and comes back`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        // The kernels say nothing of themselves.
        try link.succeed("echo 1 > /proc/sys/net/ipv6/conf/far0/disable_ipv6", in: link.far)
        try link.succeed("echo 1 > /proc/sys/net/ipv6/conf/near0/disable_ipv6", in: link.near)
        var near = try LinkEnds.near(link)
        var far = try LinkEnds.far(link)
        var burst = bench.burst()
        _ = near.maintain(now: 1)
        try link.succeed("ip link set near0 down", in: link.near)
        waitUntilReadable(near.eventDescriptor)
        near.wake()
        near.receive(into: &burst)
        burst.removeAll()
        let event = near.eventDescriptor
        #expect(!isReadable(event))
        let next = near.maintain(now: 2)
        var (isConnected, statistics) = (near.isConnected, near.statistics)
        #expect(!isConnected && next < .max && statistics.disconnections == 1)
        burst.append(LinkEnds.frame(bench, 100, seed: 1))
        near.transmit(&burst)
        statistics = near.statistics
        #expect(statistics.transmitDrops == 1)
        try link.succeed("ip link set near0 up", in: link.near)
        _ = near.maintain(now: next)
        isConnected = near.isConnected
        #expect(isConnected)
        burst.append(LinkEnds.frame(bench, 100, seed: 2))
        near.transmit(&burst)
        _ = LinkEnds.take(1, from: &far, bench)
    }

    @Test func `bad settings are refused`() throws {
        func refusal(_ adjust: (inout PacketSocketConfiguration) -> Void) -> Errno? {
            var configuration = PacketSocketConfiguration(interface: "near0")
            adjust(&configuration)
            do throws(DemikernelError) {
                _ = try PacketSocketDevice(configuration)
                return nil
            } catch {
                return error.errno
            }
        }
        #expect(refusal { $0.rings = 0 } == .invalidArgument)
        #expect(refusal { $0.rings = 17 } == .invalidArgument)
        #expect(refusal { $0.ringSize = 8 } == .invalidArgument)
        #expect(refusal { $0.mtu = 67 } == .invalidArgument)
        #expect(refusal { $0.interface = "" } == .invalidArgument)
        #expect(refusal { $0.interface = "sixteen-letters!" } == .invalidArgument)
        #expect(refusal { $0.namespace = "/nowhere" } == .noSuchFileOrDirectory)
    }
}
