import CDemikernelShims
import Glibc
import SystemPackage
import Testing
import TestSupport
@testable import Demikernel

// Datagrams that the kernel's side sends with one call, several at a time: UDP_SEGMENT, udp(7).

extension PDPIXBehaviour {
    @Suite(.enabled(if: VirtualLink.obstacle == nil, "needs root and iproute2")) struct KernelPeerDatagrams {
        /// Bytes of each datagram, and of all that one call sends. 128 are the most that a kernel of 2025 takes, and more than go into one burst.
        static let runs = [(1_000, 4_300), (1_452, 58_080), (1_400, 1_401), (37, 37 * 64), (11, 11 * 127 + 3), (1_200, 700)]

        @Test(arguments: KernelPeer.Way.allCases, KernelPeers.families)
        func `datagrams that one call sends arrive as they were meant, one by one`(_ way: KernelPeer.Way, _ family: AddressFamily) async throws {
            let address = KernelPeer.address(ofLibOS: family, port: 7)
            let peer = try KernelPeer(way)
            let runs = Self.runs.filter { $0.1 <= 64 * $0.0 || Self.kernelTakesMany }
            try await peer.run { libOS in
                let (datagrams, _) = try libOS.datagramSocketBound(to: address)
                for round in 0..<3 * runs.count {
                    let (size, total) = runs[round % runs.count]
                    let bytes = pattern(total, seed: UInt64(round))
                    var client = address
                    for start in stride(from: 0, to: total, by: size) {
                        guard case .datagram(let datagram, let source) = try libOS.outcome(libOS.pop(datagrams)) else { throw Unexpected(description: "no datagram") }
                        let isSame = datagram == Array(bytes[start..<min(total, start + size)])
                        #expect(isSame, "\(datagram.count) bytes, \(start) from the start of \(total) by \(size)")
                        client = source
                    }
                    // The next ones are sent when these have come: sockets' queues have an end.
                    try libOS.send(datagrams, [UInt8(round)], to: client)
                }
                #expect(libOS.core.network.stack.udp.counters.badChecksum == 0)
            } kernel: { peer in
                let socket = try peer.socket(family, .datagram)
                defer { socket.close() }
                // The neighbour is asked for once, before there are many who would wait for it.
                try socket.connect(to: address)
                for round in 0..<3 * runs.count {
                    let (size, total) = runs[round % runs.count]
                    #expect(dk_socket_option(socket.descriptor, Int32(IPPROTO_UDP), 103 /* UDP_SEGMENT */, Int32(size)) == 0)
                    try socket.send(pattern(total, seed: UInt64(round)))
                    #expect(try socket.receive() == [UInt8(round)])
                }
            }
        }

        /// Linux 6.9: 128 datagrams with a call, before 64.
        private static let kernelTakesMany: Bool = {
            let socket = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
            defer { close(socket) }
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            address.sin_port = UInt16(9).bigEndian
            let bytes = [UInt8](repeating: 0, count: 65)
            guard dk_socket_option(socket, Int32(IPPROTO_UDP), 103, 1) == 0 else { return false }
            return unsafe withUnsafeBytes(of: &address) {
                unsafe sendto(socket, bytes, bytes.count, 0, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count)) == bytes.count
            }
        }()
    }
}
