import Glibc
import SystemPackage
import Testing
import TestSupport
@testable import Demikernel

// Many bytes between the stack and the kernel, and what befalls them on the way.

extension PDPIXBehaviour {
    @Suite(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2")) struct KernelPeerStreams {
        static let mebibytes16 = 16 << 20

        /// The kernel sends and reads back at the same time, which takes a thread each, and compares.
        private static func exchange(
            _ peer: KernelPeer, _ family: AddressFamily, byteCount: Int, malformed: Int? = nil,
            meanwhile: @escaping @Sendable (KernelPeer, KernelSocket) throws -> Void = { _, _ in }
        ) async throws {
            let address = KernelPeer.address(ofLibOS: family, port: 7)
            try await peer.run { libOS in
                let count = try libOS.echoOneConnection(on: address)
                #expect(count == byteCount)
                if let malformed { #expect(libOS.core.network.stack.ip.counters.packetsMalformed == malformed) }
            } kernel: { peer in
                let stream = try peer.connected(to: address)
                defer { stream.close() }
                let bytes = pattern(byteCount)
                let sender = PlainThread {
                    try stream.send(bytes)
                    stream.finish()
                }
                try meanwhile(peer, stream)
                // Not by `#expect`, which would print them.
                let isSame = try stream.receive(exactly: byteCount) == bytes
                #expect(isSame)
                #expect(try stream.receive().isEmpty)
                try sender.join()
            }
        }

        @Test(arguments: KernelPeer.Way.allCases, KernelPeers.families)
        func `16 MiB go to and from the kernel and are the same`(_ way: KernelPeer.Way, _ family: AddressFamily) async throws {
            try await Self.exchange(KernelPeer(way), family, byteCount: Self.mebibytes16)
        }

        @Test func `16 MiB go to and from the kernel with small rings, several queues and checksums in software`() async throws {
            let peer = try KernelPeer {
                $0.catpowder.ringSize = 16
                $0.catpowder.queues = 3
                $0.catpowder.bypassQueueing = true
                $0.network.checksumOffload = false
            }
            try await Self.exchange(peer, .ipv4, byteCount: Self.mebibytes16)
        }

        @Test(arguments: [5_000, 50_000]) func `a stream is whole over a bad network`(_ lossPerMillion: Int) async throws {
            let peer = try KernelPeer {
                $0.network.faults.loss = lossPerMillion
                $0.network.faults.reorder = 10_000
                $0.network.faults.duplicate = 10_000
                $0.network.faults.corrupt = 1_000
            }
            try await Self.exchange(peer, .ipv4, byteCount: 2 << 20)
        }

        @Test func `the interface's own Ethernet address serves as well, and its kernel keeps out of it`() async throws {
            let peer = try KernelPeer { $0.network.mac = "02:12:34:56:78:9a" }
            try peer.link.succeed("ip link set near0 address 02:12:34:56:78:9a", in: peer.link.near)
            try await Self.exchange(peer, .ipv4, byteCount: 2 << 20)
            try await Self.exchange(peer, .ipv6, byteCount: 2 << 20)
        }

        @Test func `an interface with a large MTU carries large frames`() async throws {
            let peer = try KernelPeer { $0.network.mtu = 9_000 }
            try peer.link.succeed("ip link set near0 mtu 9000", in: peer.link.near)
            try peer.link.succeed("ip link set far0 mtu 9000", in: peer.link.far)
            try await Self.exchange(peer, .ipv4, byteCount: 4 << 20)
        }

        @Test func `a stream goes on after the cable was cut, and a new name for the interface is no matter`() async throws {
            // Frames longer than a slot lie beside the ring: not one is taken for another after the error that the interface leaves.
            try await Self.exchange(KernelPeer(), .ipv4, byteCount: 2 << 20, malformed: 0) { peer, _ in
                try peer.link.succeed("ip link set near0 down", in: peer.link.near)
                // The cable stays cut long enough for a retransmission to be lost as well (RFC 6298: 200 ms at least here).
                usleep(300_000)
                try peer.link.succeed("ip link set near0 name other0", in: peer.link.near)
                try peer.link.succeed("ip link set other0 up", in: peer.link.near)
            }
        }

        @Test func `several connections at once, over several queues`() async throws {
            let address = KernelPeer.address(ofLibOS: .ipv4, port: 7)
            try await KernelPeer { $0.catpowder.queues = 4 }.run { libOS in
                let (listener, _) = try libOS.listening(on: address)
                var connections: [QueueDescriptor] = []
                for _ in 0..<16 {
                    guard case .accepted(let connection) = try libOS.outcome(libOS.accept(listener)) else { throw Unexpected(description: "accept failed") }
                    connections.append(connection)
                }
                for connection in connections { #expect(try libOS.echo(connection) == 100_000) }
            } kernel: { peer in
                let streams = try (0..<16).map { _ in try peer.connected(to: address) }
                for (number, stream) in streams.enumerated() {
                    try stream.send(pattern(100_000, seed: UInt64(number)))
                    stream.finish()
                }
                for (number, stream) in streams.enumerated() {
                    let isSame = try stream.receive(exactly: 100_000) == pattern(100_000, seed: UInt64(number))
                    #expect(isSame)
                    stream.close()
                }
            }
        }
    }
}
