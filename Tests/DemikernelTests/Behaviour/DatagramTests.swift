import Glibc
import SystemPackage
import Testing
@testable import Demikernel

extension PDPIXBehaviour {
    @Suite struct Datagrams {
        @Test(arguments: LibOSUnderTest.all)
        func `a datagram arrives whole, with its sender`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let (first, firstAddress) = try libOS.datagramSocketBound(to: subject.address(family))
                    let (second, secondAddress) = try libOS.datagramSocketBound(to: subject.address(family))
                    let pop = try libOS.pop(second)
                    #expect(try libOS.isPending(pop))
                    try libOS.send(first, "ping", to: secondAddress)
                    #expect(try libOS.outcome(pop) == .datagram([UInt8]("ping".utf8), from: firstAddress))
                    try libOS.send(second, "pong", to: firstAddress)
                    #expect(try libOS.outcome(libOS.pop(first)) == .datagram([UInt8]("pong".utf8), from: secondAddress))
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `an unbound socket gets a port with its first push, and can pop then`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let (server, address) = try libOS.datagramSocketBound(to: subject.address(family))
                    let client = try libOS.socket(family, .datagram)
                    try libOS.send(client, "from nowhere", to: address)
                    guard case .datagram(_, let source) = try libOS.outcome(libOS.pop(server)) else { throw Unexpected(description: "no datagram") }
                    #expect(source.port != 0)
                    #expect(try libOS.localAddress(of: client).port == source.port)
                    let pop = try libOS.pop(client)
                    try libOS.send(server, "and back", to: source)
                    #expect(try libOS.outcome(pop) == .datagram([UInt8]("and back".utf8), from: address))
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `datagrams of every size up to 65,507 bytes arrive, larger ones are refused`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let (client, source) = try libOS.datagramSocketBound(to: subject.address(family))
                    let (server, address) = try libOS.datagramSocketBound(to: subject.address(family))
                    for size in [1, 2, 63, 64, 1_472, 1_473, 4_096, 4_097, 32_768, 65_506, 65_507] {
                        let bytes = pattern(size, seed: UInt64(size))
                        try libOS.send(client, bytes, to: address)
                        #expect(try libOS.outcome(libOS.pop(server)) == .datagram(bytes, from: source))
                    }
                    for size in [65_508, 65_536, 1 << 20] {
                        #expect(try libOS.refusal(of: pattern(size), on: client, to: address) == .messageTooLong)
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `the segments of a push are one datagram`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, source) = try libOS.datagramSocketBound(to: subject.address())
                let (server, address) = try libOS.datagramSocketBound(to: subject.address())
                for count in [2, 5, 16] {
                    var segments = ScatterGatherArray()
                    for position in 0..<count { _ = segments.append(try libOS.buffer(.init(repeating: UInt8(position), count: position + 1))) }
                    let bytes = segments.copyToArray()
                    #expect(try libOS.outcome(libOS.push(client, segments, to: address)) == .pushed)
                    #expect(try libOS.outcome(libOS.pop(server)) == .datagram(bytes, from: source))
                }
                var tooMany = ScatterGatherArray()
                for _ in 0..<17 { _ = tooMany.append(try libOS.buffer([1])) }
                do throws(PushError) {
                    _ = try libOS.push(client, tooMany, to: address)
                    Issue.record("17 segments are too many for a datagram")
                } catch {
                    #expect(error.reason.errno == .messageTooLong)
                    let count = error.takeBuffers()?.count
                    #expect(count == 17)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `datagrams come in the order in which they were sent`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, _) = try libOS.datagramSocketBound(to: subject.address())
                let (server, address) = try libOS.datagramSocketBound(to: subject.address())
                for number in 0..<50 { try libOS.send(client, "datagram \(number)", to: address) }
                let pops = try (0..<50).map { _ in try libOS.pop(server) }
                for (number, token) in pops.enumerated() {
                    guard case .datagram(let bytes, _) = try libOS.outcome(token) else { throw Unexpected(description: "no datagram") }
                    #expect(String(decoding: bytes, as: UTF8.self) == "datagram \(number)")
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `pops that wait get one datagram each`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, source) = try libOS.datagramSocketBound(to: subject.address())
                let (server, address) = try libOS.datagramSocketBound(to: subject.address())
                let pops = try (0..<10).map { _ in try libOS.pop(server) }
                #expect(try libOS.isPending(pops[0]))
                for number in 0..<10 { try libOS.send(client, "\(number)", to: address) }
                for (number, token) in pops.enumerated() {
                    #expect(try libOS.outcome(token) == .datagram([UInt8]("\(number)".utf8), from: source))
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a pop's limit takes a datagram's beginning, the rest is lost`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, source) = try libOS.datagramSocketBound(to: subject.address())
                let (server, address) = try libOS.datagramSocketBound(to: subject.address())
                try libOS.send(client, "abcdef", to: address)
                try libOS.send(client, "next", to: address)
                #expect(try libOS.outcome(libOS.pop(server, limit: 2)) == .datagram([UInt8]("ab".utf8), from: source))
                #expect(try libOS.outcome(libOS.pop(server, limit: 100)) == .datagram([UInt8]("next".utf8), from: source))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a connected socket pushes without an address and hears its peer alone`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let (server, address) = try libOS.datagramSocketBound(to: subject.address(family))
                    let (stranger, _) = try libOS.datagramSocketBound(to: subject.address(family))
                    let client = try libOS.socket(family, .datagram)
                    #expect(try libOS.outcome(libOS.connect(client, to: address)) == .connected)
                    #expect(try libOS.remoteAddress(of: client) == address)
                    let local = try libOS.localAddress(of: client)
                    try libOS.send(client, "hello")
                    #expect(try libOS.outcome(libOS.pop(server)) == .datagram([UInt8]("hello".utf8), from: local))
                    try libOS.send(stranger, "intrusion", to: local)
                    try libOS.send(server, "answer", to: local)
                    #expect(try libOS.outcome(libOS.pop(client)) == .datagram([UInt8]("answer".utf8), from: address))
                    // It may be connected anew.
                    let (other, otherAddress) = try libOS.datagramSocketBound(to: subject.address(family))
                    #expect(try libOS.outcome(libOS.connect(client, to: otherAddress)) == .connected)
                    try libOS.send(client, "elsewhere")
                    #expect(try libOS.receiveText(other) == "elsewhere")
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.datagramRefusal) })
        func `a closed port fails a later operation of a connected socket, which goes on afterwards`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (server, address) = try libOS.datagramSocketBound(to: subject.address())
                try libOS.close(server)
                let client = try libOS.socket(.ipv4, .datagram)
                #expect(try libOS.outcome(libOS.connect(client, to: address)) == .connected)
                let pop = try libOS.pop(client)
                try libOS.send(client, "anyone?")
                #expect(try libOS.outcome(pop) == .failed(.connectionRefused))
                let (again, _) = try libOS.datagramSocketBound(to: address)
                try libOS.send(client, "now?")
                #expect(try libOS.receiveText(again) == "now?")
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a closed port is no matter to a socket that is not connected`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (closed, address) = try libOS.datagramSocketBound(to: subject.address())
                try libOS.close(closed)
                let (client, own) = try libOS.datagramSocketBound(to: subject.address())
                let pop = try libOS.pop(client)
                for _ in 0..<5 { try libOS.send(client, "anyone?", to: address) }
                libOS.turn()
                #expect(try libOS.isPending(pop))
                try libOS.send(client, "myself", to: own)
                #expect(try libOS.outcome(pop) == .datagram([UInt8]("myself".utf8), from: own))
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.kernelPeer) })
        func `an empty datagram is a datagram, not an end`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (server, address) = try libOS.datagramSocketBound(to: subject.address())
                // A push has bytes, so it comes from outside.
                let outsider = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
                defer { Glibc.close(outsider) }
                let pop = try libOS.pop(server)
                for _ in 0..<2 {
                    let sent = unsafe withSocketAddress(address) { unsafe sendto(outsider, nil, 0, 0, $0, $1) }
                    #expect(sent == 0)
                }
                for token in [pop, try libOS.pop(server)] {
                    guard case .datagram(let bytes, let source) = try libOS.outcome(token) else { throw Unexpected(description: "no datagram") }
                    #expect(bytes.isEmpty && source.port != 0)
                }
                let next = try libOS.pop(server)
                #expect(try libOS.isPending(next))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `one burst of datagrams fills what there is, and memory stays bounded`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let (client, _) = try libOS.datagramSocketBound(to: subject.address())
                let (server, address) = try libOS.datagramSocketBound(to: subject.address())
                // A stack in the libOS holds what has come of a datagram until its other fragments have, or 30 s: there, one frame each.
                let size = subject.capabilities.contains(.kernelBuffers) ? 8_000 : 1_400
                for _ in 0..<300 { try libOS.send(client, pattern(size), to: address) }
                if subject.capabilities.contains(.kernelBuffers) { libOS.expectLiveObjects(0) }
                // Some were dropped: UDP. Those that come are whole.
                var count = 0
                while true {
                    let pop = try libOS.pop(server)
                    if try libOS.isPending(pop) { break }
                    guard case .datagram(let bytes, _) = try libOS.outcome(pop) else { throw Unexpected(description: "no datagram") }
                    #expect(bytes == pattern(size))
                    count += 1
                }
                #expect(count > 0 && count <= 300)
            }
        }
    }
}
