import Testing
import TestSupport
@testable import Demikernel

/// What becomes of a device whose interface is renamed, removed and made again while it is in use.
@Suite(.serialized, .enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2")) struct InterfaceWatchTests {
    @Test func `a packet socket follows its interface`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var near = try LinkEnds.near(link)
        try Self.follow(&near, link, bench)
    }

    @Test func `AF_XDP follows its interface`() throws {
        let bench = try DeviceBench()
        let link = try VirtualLink()
        var configuration = XDPConfiguration(interface: "near0")
        configuration.namespace = link.near
        configuration.address = LinkEnds.ours
        configuration.memory = 8 << 20
        configuration.ringSize = 128
        var near = try XDPDevice(configuration, heap: bench.heap.reference)
        try Self.follow(&near, link, bench)
    }

    @Test func `an interface that is being renamed is not taken for one that has gone`() throws {
        let link = try VirtualLink()
        let socket = try KernelSocket(.ipv4, .datagram, in: link.near)
        defer { socket.close() }
        // Some kernels rename only what is down.
        try link.succeed("ip link set near0 down", in: link.near)
        let index = try #require(NetworkInterface(name: "near0", socket: socket.descriptor)).index
        let isDone = Lock(false)
        let renaming = PlainThread {
            defer { isDone.withLock { $0 = true } }
            let commands = "link set near0 name near9\nlink set near9 name near0"
            try link.succeed("for round in $(seq 2000); do echo '\(commands)'; done | ip -batch -", in: link.near)
        }
        var (found, unsure, gone) = (0, 0, 0)
        while !isDone.withLock({ $0 }) {
            do throws(DemikernelError) {
                let interface = try NetworkInterface(index: index, socket: socket.descriptor)
                if interface.isEthernet, ["near0", "near9"].contains(interface.name) { found += 1 }
            } catch {
                if error.errno == .resourceTemporarilyUnavailable { unsure += 1 } else { gone += 1 }
            }
        }
        try renaming.join()
        #expect(found > 0 && gone == 0, "found \(found) times, unsure \(unsure), gone \(gone)")
    }

    private static func follow<Device: NetworkDevice & ~Copyable>(_ near: inout Device, _ link: VirtualLink, _ bench: DeviceBench) throws {
        var far = try LinkEnds.far(link)
        var now: UInt64 = 1
        exchange(&near, &far, bench, seed: 1)
        // Some kernels rename only what is down.
        try link.succeed("ip link set near0 down && ip link set near0 name near9 && ip link set near9 up", in: link.near)
        look(&near, &far, &now)
        exchange(&near, &far, bench, seed: 2)
        // Another takes its name: that is not it.
        try link.succeed("ip link add near0 type veth peer name other0 && ip link set near0 up && ip link set other0 up", in: link.near)
        look(&near, &far, &now)
        exchange(&near, &far, bench, seed: 3)
        try link.succeed("ip link del near0", in: link.near)
        // With it, the cable's other end.
        try link.succeed("ip link del near9", in: link.near)
        look(&near, &far, &now)
        let (isNearUp, isFarUp) = (near.isConnected, far.isConnected)
        #expect(!isNearUp && !isFarUp)
        var burst = bench.burst()
        burst.append(LinkEnds.frame(bench, 100, seed: 4))
        near.transmit(&burst)
        let drops = near.statistics.transmitDrops
        #expect(drops >= 1)
        try link.succeed("ip link add near0 type veth peer name far0 netns \(link.far) && ip link set near0 up", in: link.near)
        try link.succeed("ip link set far0 up", in: link.far)
        look(&near, &far, &now)
        exchange(&near, &far, bench, seed: 5)
    }

    private static func look<Near: NetworkDevice & ~Copyable>(_ near: inout Near, _ far: inout PacketSocketDevice, _ now: inout UInt64) {
        for _ in 0..<2 {
            now += 1_000_000_000
            near.wake()
            far.wake()
            _ = near.maintain(now: now)
            _ = far.maintain(now: now)
        }
    }

    /// A frame each way.
    private static func exchange<Near: NetworkDevice & ~Copyable>(_ near: inout Near, _ far: inout PacketSocketDevice, _ bench: DeviceBench, seed: Int) {
        let (isNearUp, isFarUp) = (near.isConnected, far.isConnected)
        #expect(isNearUp && isFarUp, "round \(seed)")
        guard isNearUp, isFarUp else { return }
        for isOutwards in [true, false] {
            var burst = bench.burst()
            let frame = LinkEnds.frame(bench, 600, seed: seed, to: isOutwards ? LinkEnds.others : LinkEnds.ours)
            let sent = bytes(of: frame)
            burst.append(frame)
            if isOutwards { near.transmit(&burst) } else { far.transmit(&burst) }
            let taken = isOutwards ? LinkEnds.take(1, from: &far, bench) : LinkEnds.take(1, from: &near, bench)
            #expect(taken.first?.bytes == sent, "round \(seed)")
        }
    }
}
