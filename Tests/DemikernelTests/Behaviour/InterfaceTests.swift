import CDemikernelShims
import Glibc
import SystemPackage
import Testing
import TestSupport
@testable import Demikernel

// What befalls an interface: before a libOS starts, and while it runs.

extension PDPIXBehaviour {
    @Suite(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2")) struct Interfaces {
        /// What starting a libOS says; the errno and the words.
        private static func refusal(_ peer: KernelPeer, adjusting: @escaping @Sendable (inout Configuration) -> Void = { _ in }) async throws -> (Errno, String) {
            var configuration = peer.configuration
            adjusting(&configuration)
            let settings = configuration
            return try await onOwnThread {
                do {
                    _ = try LibOS(settings)
                } catch let error as ConfigurationError {
                    return (error.errno, "\(error)")
                }
                throw Unexpected(description: "the libOS started")
            }
        }

        @Test func `an interface that cannot be used is named, with what to do about it`() async throws {
            let peer = try KernelPeer()
            let none = try await Self.refusal(peer) { $0.catpowder.interface = "" }
            #expect(none.0 == .invalidArgument && none.1.hasPrefix("catpowder.interface: expected the network interface"), "\(none)")
            let missing = try await Self.refusal(peer) { $0.catpowder.interface = "eth77" }
            #expect(missing.0 == .noSuchAddressOrDevice && missing.1.contains("eth77: there is no network interface of that name"), "\(missing)")
            let loopback = try await Self.refusal(peer) { $0.catpowder.interface = "lo" }
            #expect(loopback.0 == .noSuchAddressOrDevice && loopback.1.contains("not an Ethernet"), "\(loopback)")
            let namespace = try await Self.refusal(peer) { $0.catpowder.namespace = "no-such-namespace" }
            #expect(namespace.0 == .noSuchFileOrDirectory && namespace.1.contains("ip netns"), "\(namespace)")
            let file = try await Self.refusal(peer) { $0.catpowder.namespace = "/dev/null" }
            #expect(file.0 == .invalidArgument && file.1.contains("CAP_SYS_ADMIN"), "\(file)")
            try peer.link.succeed("ip link set near0 down", in: peer.link.near)
            let down = try await Self.refusal(peer)
            #expect(down.0 == .networkDown && down.1.contains("ip link set NAME up"), "\(down)")
        }

        @Test func `an interface that is no TAP, or somebody else's, is not taken for one`() async throws {
            let peer = try KernelPeer(.tap)
            let other = try await Self.refusal(peer) { $0.catpowder.interface = "near0" }
            #expect(other.0 == .invalidArgument && other.1.contains("no TAP"), "\(other)")
            let queues = try await Self.refusal(peer) { $0.catpowder.queues = 2 }
            #expect(queues.0 == .invalidArgument && queues.1.contains("catpowder.queues"), "\(queues)")
            var settings = TapInterfaceConfiguration(interface: "tap0", address: 0x0200_0000_0001)
            settings.namespace = peer.link.near
            let holder = try TapInterfaceDevice(settings)
            let busy = try await Self.refusal(peer)
            #expect(busy.0 == .resourceBusy && busy.1.contains("another program"), "\(busy)")
            #expect(holder.capabilities.name == "tap0")
        }

        @Test(arguments: KernelPeer.Way.allCases)
        func `a user without privileges is told which`(_ way: KernelPeer.Way) async throws {
            let peer = try KernelPeer(way)
            var configuration = peer.configuration
            // The thread's own namespace, which is entered before: a new one of its own.
            configuration.catpowder.namespace = ""
            if way == .tap { configuration.catpowder.interface = "new0" }
            let settings = configuration
            let refusal = try await onOwnThread { () throws -> (Errno, String) in
                // This thread alone, which ends after that: the system call, not glibc's, which changes all threads.
                let changed = dk_system_call(Int(SYS_setresuid), 65_534, 65_534, 65_534, 0, 0, 0)
                guard changed == 0 else { throw Unexpected(description: "setresuid") }
                do {
                    _ = try LibOS(settings)
                } catch let error as ConfigurationError {
                    return (error.errno, "\(error)")
                }
                throw Unexpected(description: "the libOS started")
            }
            #expect(refusal.0 == .notPermitted && refusal.1.contains(way == .tap ? "CAP_NET_ADMIN" : "CAP_NET_RAW"), "\(refusal)")
        }

        @Test(arguments: KernelPeer.Way.allCases, [true, false])
        func `an interface that was removed is found again when there is one of its name`(_ way: KernelPeer.Way, isSleeping: Bool) async throws {
            let address = KernelPeer.address(ofLibOS: .ipv4, port: 7)
            try await KernelPeer(way) { $0.wait.spin = isSleeping ? .atMost(.zero) : .forever }.run { libOS in
                let (datagrams, _) = try libOS.datagramSocketBound(to: address)
                var hasLost = false
                while true {
                    guard case .datagram(let bytes, let client) = try libOS.outcome(libOS.pop(datagrams)) else { throw Unexpected(description: "no datagram") }
                    if bytes == [UInt8]("end".utf8) { break }
                    try libOS.send(datagrams, bytes, to: client)
                    guard !hasLost else { continue }
                    // What is sent while there is no interface is lost, no more.
                    while libOS.networkStatistics?.device.disconnections == 0 { libOS.turn(1) }
                    try libOS.send(datagrams, "lost", to: client)
                    hasLost = true
                }
                let statistics = try #require(libOS.networkStatistics)
                #expect(statistics.isConnected && statistics.device.disconnections > 0)
            } kernel: { peer in
                func exchange(_ message: String, attempts: Int) throws {
                    let datagrams = try peer.socket(.ipv4, .datagram)
                    defer { datagrams.close() }
                    try datagrams.connect(to: address)
                    var patience = timeval(tv_sec: 0, tv_usec: 300_000)
                    unsafe _ = setsockopt(datagrams.descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
                    for _ in 0..<attempts {
                        // Until the interface has been found there is no answer, or even ENETUNREACH.
                        try? datagrams.send([UInt8](message.utf8))
                        if let back = try? datagrams.receive() { return #expect(String(decoding: back, as: UTF8.self) == message) }
                    }
                    throw Unexpected(description: "no answer to \(message)")
                }
                let datagrams = try peer.socket(.ipv4, .datagram)
                defer { datagrams.close() }
                let name = peer.way == .tap ? "tap0" : "far0"
                try exchange("before", attempts: 100)
                let remake = peer.way == .tap
                    ? "ip link del tap0 && sleep 0.3 && ip tuntap add tap0 mode tap && ip link set tap0 up"
                    : "ip link del near0 && sleep 0.3 && ip link add near0 type veth peer name far0 netns \(peer.link.far) && ip link set near0 up"
                try peer.link.succeed(remake, in: peer.link.near)
                // With another Ethernet address than before.
                let set = "ip link set \(name) up && ip addr add 10.117.0.1/24 dev \(name)"
                try peer.link.succeed(set, in: peer.namespace)
                try exchange("after", attempts: 100)
                try datagrams.send([UInt8]("end".utf8), to: address)
            }
        }

        @Test func `a TAP that the libOS makes is up, and goes with it`() async throws {
            let address = KernelPeer.address(ofLibOS: .ipv4, port: 7)
            let peer = try KernelPeer(.tap) { $0.catpowder.interface = "made0" }
            try await peer.run { libOS in
                let (datagrams, _) = try libOS.datagramSocketBound(to: address)
                guard case .datagram(let bytes, let client) = try libOS.outcome(libOS.pop(datagrams)) else { throw Unexpected(description: "no datagram") }
                try libOS.send(datagrams, bytes, to: client)
            } kernel: { peer in
                try peer.link.succeed("ip addr del 10.117.0.1/24 dev tap0 && ip addr add 10.117.0.1/24 dev made0", in: peer.link.near)
                let datagrams = try peer.socket(.ipv4, .datagram)
                defer { datagrams.close() }
                try datagrams.send([1, 2, 3], to: address)
                #expect(try datagrams.receive() == [1, 2, 3])
            }
            #expect(peer.link.run("ip link show made0 2>/dev/null >&2", in: peer.link.near) != 0)
        }

        @Test(arguments: KernelPeer.Way.allCases, KernelPeers.families)
        func `the kernel's ping is answered`(_ way: KernelPeer.Way, _ family: AddressFamily) async throws {
            try await KernelPeer(way).run { _ in } kernel: { peer in
                let ping = try KernelSocket(icmp: family, in: peer.namespace)
                defer { ping.close() }
                // Echo request, identifier 0x1234, sequence 1; the kernel fills in ICMPv6's checksum, not ICMP's (RFC 792, RFC 4443).
                var request: [UInt8] = [family == .ipv4 ? 8 : 128, 0, 0, 0, 0x12, 0x34, 0, 1] + [UInt8](repeating: 0x55, count: 56)
                if family == .ipv4 {
                    let checksum = unsafe request.withUnsafeMutableBytes {
                        unsafe InternetChecksum.fold(InternetChecksum.sum(PacketBytes(start: $0.baseAddress!, count: $0.count)))
                    }
                    request[2] = UInt8(checksum >> 8)
                    request[3] = UInt8(checksum & 0xff)
                }
                try ping.send(request, to: KernelPeer.address(ofLibOS: family, port: 0))
                // The kernel's own messages come by as well: neighbour discovery.
                while true {
                    let message = Array(try ping.receive().dropFirst(family == .ipv4 ? 20 : 0))
                    guard message[0] == (family == .ipv4 ? 0 : 129) else { continue }
                    #expect(message[4...] == request[4...])
                    break
                }
            }
        }
    }
}
