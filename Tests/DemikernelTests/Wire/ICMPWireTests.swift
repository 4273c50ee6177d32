import Testing
import TestSupport
@testable import Demikernel

@Suite struct ICMPWireTests {
    private func randomICMPv4(_ generator: inout SplitMix64) -> ICMPv4 {
        switch Int.random(in: 0..<6, using: &generator) {
        case 0: .echoRequest(identifier: generator.value(), sequenceNumber: generator.value())
        case 1: .echoReply(identifier: generator.value(), sequenceNumber: generator.value())
        case 2: .destinationUnreachable(.fragmentationNeeded, nextHopMTU: generator.value())
        case 3: .destinationUnreachable(.init(rawValue: [0, 1, 2, 3, 5, 13].randomElement(using: &generator)!), nextHopMTU: 0)
        case 4: generator.flag() ? .timeExceeded(code: generator.value()) : .parameterProblem(code: generator.value(), pointer: generator.value())
        default: .other(type: UInt8.random(in: 13...255, using: &generator), code: generator.value(), rest: generator.value())
        }
    }

    private func randomICMPv6(_ generator: inout SplitMix64) -> ICMPv6 {
        switch Int.random(in: 0..<7, using: &generator) {
        case 0: .echoRequest(identifier: generator.value(), sequenceNumber: generator.value())
        case 1: .echoReply(identifier: generator.value(), sequenceNumber: generator.value())
        case 2: .destinationUnreachable(.init(rawValue: generator.value()))
        case 3: .packetTooBig(mtu: generator.value())
        case 4: .timeExceeded(code: generator.value())
        case 5: .parameterProblem(.init(rawValue: generator.value()), pointer: generator.value())
        default: .other(type: UInt8.random(in: 130...255, using: &generator), code: generator.value(), rest: generator.value())
        }
    }

    @Test func `an ICMP message comes back as it was written`() {
        var generator = SplitMix64(seed: 71)
        for _ in 0..<3000 {
            let message = randomICMPv4(&generator)
            let payload = generator.bytes(Int.random(in: 0...40, using: &generator))
            let bytes = written(8 + payload.count) { packet in
                withPacket(payload) { packet.copy(from: $0, at: 8) }
                message.emit(into: packet)
            }
            withPacket(bytes) { packet in
                let view = ICMPView(packet)
                #expect(view.map { ICMPv4($0) } == message)
                #expect(view?.checksumIsValid == true)
                #expect(view?.payload.count == payload.count)
            }
            #expect(lengthsAccepted(of: bytes, below: 8) { ICMPView($0) == nil } == [])
        }
    }

    @Test func `an ICMPv6 message comes back as it was written`() {
        var generator = SplitMix64(seed: 72)
        for _ in 0..<3000 {
            let message = randomICMPv6(&generator)
            let (source, destination) = (generator.ipv6(), generator.ipv6())
            let payload = generator.bytes(Int.random(in: 0...40, using: &generator))
            let bytes = written(8 + payload.count) { packet in
                withPacket(payload) { packet.copy(from: $0, at: 8) }
                message.emit(into: packet, source: source, destination: destination)
            }
            withPacket(bytes) { packet in
                let view = ICMPView(packet)
                #expect(view.map { ICMPv6($0) } == message)
                #expect(view?.checksumIsValid(source: source, destination: destination) == true)
                // The addresses are covered; their order is not, by the sum's nature.
                let other = IPAddress(high: source.high, low: source.low ^ 0x0100)
                #expect(view?.checksumIsValid(source: other, destination: destination) == false)
            }
            #expect(lengthsAccepted(of: bytes, below: 8) { ICMPView($0) == nil } == [])
        }
    }

    @Test func `errors are told from what may be answered`() {
        #expect(ICMPv4.other(type: 5, code: 0, rest: 0).isError && ICMPv4.other(type: 4, code: 0, rest: 0).isError)
        #expect(!ICMPv4.other(type: 13, code: 0, rest: 0).isError && !ICMPv4.echoRequest(identifier: 0, sequenceNumber: 0).isError)
        #expect(ICMPv6.packetTooBig(mtu: 1280).isError && ICMPv6.other(type: 100, code: 0, rest: 0).isError)
        #expect(!ICMPv6.echoReply(identifier: 0, sequenceNumber: 0).isError && !ICMPv6.other(type: 135, code: 0, rest: 0).isError)
    }

    // MARK: Neighbour discovery

    private func randomOptions(_ generator: inout SplitMix64) -> NDPOptions {
        var options = NDPOptions(
            sourceLinkLayerAddress: generator.flag() ? generator.mac() : nil,
            targetLinkLayerAddress: generator.flag() ? generator.mac() : nil, mtu: generator.flag() ? generator.value() : nil)
        for _ in 0..<Int.random(in: 0...4, using: &generator) {
            options.appendPrefix(
                .init(
                    prefix: generator.ipv6(), prefixLength: generator.value(), isOnLink: generator.flag(), isAutonomous: generator.flag(),
                    validLifetimeSeconds: generator.value(), preferredLifetimeSeconds: generator.value()))
        }
        return options
    }

    private func randomMessage(_ generator: inout SplitMix64) -> NDPMessage {
        let options = randomOptions(&generator)
        let target = IPAddress(high: 0x2001_0db8 << 32, low: generator.value())
        switch Int.random(in: 0..<4, using: &generator) {
        case 0: return .routerSolicitation(options)
        case 1:
            let advertisement = NDPMessage.RouterAdvertisement(
                hopLimit: generator.value(), isManaged: generator.flag(), hasOtherConfiguration: generator.flag(),
                lifetimeSeconds: generator.value(), reachableTimeMilliseconds: generator.value(),
                retransmissionMilliseconds: generator.value())
            return .routerAdvertisement(advertisement, options)
        case 2: return .neighbourSolicitation(target: target, options)
        default:
            let advertisement = NDPMessage.NeighbourAdvertisement(
                target: target, isRouter: generator.flag(), isSolicited: generator.flag(), overrides: generator.flag())
            return .neighbourAdvertisement(advertisement, options)
        }
    }

    @Test func `a message of neighbour discovery comes back as it was written`() {
        var generator = SplitMix64(seed: 73)
        for _ in 0..<1500 {
            let message = randomMessage(&generator)
            let (source, destination) = (generator.ipv6(), generator.ipv6())
            let bytes = written(message.byteCount) { message.emit(into: $0, source: source, destination: destination) }
            withPacket(bytes) { packet in
                let view = ICMPView(packet)
                #expect(view.flatMap { NDPMessage($0) } == message)
                #expect(view?.isNeighbourDiscovery == true)
                #expect(view?.checksumIsValid(source: source, destination: destination) == true)
            }
            // Cut between options a message is whole, with fewer of them; anywhere else it is refused.
            let withoutOptions = message.byteCount - message.options.byteCount
            for length in 0..<bytes.count {
                let parsed = withPacket(Array(bytes[..<length])) { ICMPView($0).flatMap { NDPMessage($0) } }
                if length < withoutOptions || length % 8 != 0 { #expect(parsed == nil) }
                if let parsed { #expect(parsed.byteCount == length) }
            }
        }
    }

    @Test func `an option of length 0 spoils the message (RFC 4861, section 4.6)`() {
        let message = NDPMessage.routerSolicitation(NDPOptions(sourceLinkLayerAddress: MACAddress(5)))
        var bytes = written(message.byteCount) { message.emit(into: $0, source: .ipv6Unspecified, destination: .allRouters) }
        bytes[9] = 0
        #expect(withPacket(bytes) { ICMPView($0).flatMap { NDPMessage($0) } } == nil)
        bytes[9] = 2
        #expect(withPacket(bytes) { ICMPView($0).flatMap { NDPMessage($0) } } == nil)
    }

    @Test func `unknown options are passed over, prefixes beyond the fourth dropped`() throws {
        var options = NDPOptions(mtu: 1500)
        for index in 0..<5 {
            let isTaken = options.appendPrefix(
                .init(
                    prefix: .allNodes, prefixLength: UInt8(index), isOnLink: true, isAutonomous: false, validLifetimeSeconds: 1,
                    preferredLifetimeSeconds: 1))
            #expect(isTaken == (index < 4))
        }
        let known = written(options.byteCount) { options.emit(into: $0) }
        let prefix = Array(known[8..<40])
        let unknown = hex("19 01 000000000000")
        let parsed = try #require(withPacket(unknown + known + prefix + unknown) { NDPOptions(parsing: $0) })
        #expect(parsed == options)
    }

    @Test func `another code, a group as target or an IPv4-mapped target spoil the message`() {
        let target = IPAddress(high: 0x2001_0db8 << 32, low: 1)
        let bytes = written(24) {
            NDPMessage.neighbourSolicitation(target: target, NDPOptions()).emit(into: $0, source: target, destination: .allNodes)
        }
        func isRefused(_ change: (inout [UInt8]) -> Void) -> Bool {
            var bytes = bytes
            change(&bytes)
            return withPacket(bytes) { ICMPView($0).flatMap { NDPMessage($0) } == nil }
        }
        #expect(!isRefused { _ in })
        #expect(isRefused { $0[1] = 1 })
        #expect(isRefused { $0[8] = 0xff })
        #expect(isRefused { $0.replaceSubrange(8..<24, with: hex("00000000000000000000 ffff 0a000001")) })
        #expect(isRefused { $0[0] = 137 })
    }

    @Test(arguments: 0..<4)
    func `random bytes behind a type trap nowhere`(seed: UInt64) {
        var generator = SplitMix64(seed: 80 + seed)
        for _ in 0..<3000 {
            var bytes = generator.bytes(Int.random(in: 8...100, using: &generator))
            bytes[0] = UInt8.random(in: 133...137, using: &generator)
            bytes[1] = 0
            for offset in stride(from: 8, to: bytes.count - 1, by: 8) where generator.flag() {
                bytes[offset] = UInt8.random(in: 0...6, using: &generator)
                bytes[offset + 1] = UInt8.random(in: 0...4, using: &generator)
            }
            let parsed = withPacket(bytes) { ICMPView($0).flatMap { NDPMessage($0) } }
            if let parsed { #expect(parsed.byteCount <= bytes.count && bytes.count % 8 == 0) }
        }
    }
}
