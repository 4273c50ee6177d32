import Glibc
import SystemPackage
import Testing
import TestSupport
@testable import Demikernel

// The stack against the kernel's own, which nobody here wrote: over a virtual Ethernet and a TAP.

extension PDPIXBehaviour {
    @Suite(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2")) struct KernelPeers {
        static let families: [AddressFamily] = [.ipv4, .ipv6]

        @Test(arguments: KernelPeer.Way.allCases, families)
        func `the kernel's messages come back over TCP and UDP`(_ way: KernelPeer.Way, _ family: AddressFamily) async throws {
            for spin in [Configuration.Wait.Spin.forever, .atMost(.zero)] {
                let address = KernelPeer.address(ofLibOS: family, port: 7)
                try await KernelPeer(way) { $0.wait.spin = spin }.run { libOS in
                    let (datagrams, _) = try libOS.datagramSocketBound(to: address)
                    for _ in 0..<100 {
                        guard case .datagram(let bytes, let client) = try libOS.outcome(libOS.pop(datagrams)) else { throw Unexpected(description: "no datagram") }
                        try libOS.send(datagrams, bytes, to: client)
                    }
                    #expect(try libOS.echoOneConnection(on: address) == (1...200).reduce(0) { $0 + $1 * 37 })
                } kernel: { peer in
                    let datagrams = try peer.socket(family, .datagram)
                    defer { datagrams.close() }
                    for round in 0..<100 {
                        let message = pattern(1 + round * 14, seed: UInt64(round))
                        try datagrams.send(message, to: address)
                        #expect(try datagrams.receive() == message)
                    }
                    let stream = try peer.connected(to: address)
                    defer { stream.close() }
                    for round in 1...200 {
                        let message = pattern(round * 37, seed: UInt64(round))
                        try stream.send(message)
                        #expect(try stream.receive(exactly: message.count) == message)
                    }
                    stream.finish()
                    #expect(try stream.receive().isEmpty)
                }
            }
        }

        @Test(arguments: KernelPeer.Way.allCases, families)
        func `the libOS's messages come back from the kernel`(_ way: KernelPeer.Way, _ family: AddressFamily) async throws {
            let address = KernelPeer.address(ofKernel: family, port: 7)
            let isListening = Shared<Bool>(false)
            try await KernelPeer(way).run { libOS in
                while !isListening.withLock({ $0 }) { libOS.turn(1) }
                let stream = try libOS.socket(family, .stream)
                #expect(try libOS.outcome(libOS.connect(stream, to: address)) == .connected)
                for round in 1...200 {
                    let message = pattern(round * 37, seed: UInt64(round))
                    try libOS.send(stream, message)
                    #expect(try libOS.receive(stream, exactly: message.count) == message)
                }
                try libOS.shutdown(stream, .send)
                #expect(try libOS.receive(stream).isEmpty)
                let (datagrams, _) = try libOS.datagramSocketBound(to: KernelPeer.address(ofLibOS: family, port: 0))
                try libOS.send(datagrams, "datagram", to: address)
                #expect(try libOS.receiveText(datagrams) == "datagram")
                // Nobody listens there: the kernel resets, and says so of the datagram.
                let refused = KernelPeer.address(ofKernel: family, port: 9)
                let other = try libOS.socket(family, .stream)
                #expect(try libOS.outcome(libOS.connect(other, to: refused)) == .failed(.connectionRefused))
            } kernel: { peer in
                let listener = try peer.socket(family, .stream)
                let datagrams = try peer.socket(family, .datagram)
                defer {
                    listener.close()
                    datagrams.close()
                }
                try listener.bind(to: address)
                try listener.listen()
                try datagrams.bind(to: address)
                isListening.withLock { $0 = true }
                let connection = try listener.accept()
                defer { connection.close() }
                while case let bytes = try connection.receive(), !bytes.isEmpty { try connection.send(bytes) }
                connection.finish()
                let (message, source) = try datagrams.receiveDatagram()
                try datagrams.send(message, to: source)
            }
        }
    }
}
