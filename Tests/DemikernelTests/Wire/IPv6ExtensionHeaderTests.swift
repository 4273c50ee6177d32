import Testing
import TestSupport
@testable import Demikernel

/// RFC 8200, section 4. Pointers count from the IPv6 header, whose 40 bytes are not among those that are walked.
@Suite struct IPv6ExtensionHeaderTests {
    private func walk(_ bytes: [UInt8], _ first: IPProtocol, isReassembled: Bool = false) -> String {
        withPacket(bytes) { describe(IPv6ExtensionHeaders.walk($0, nextHeader: first, isReassembled: isReassembled)) }
    }

    private func describe(_ outcome: IPv6ExtensionHeaders.Outcome) -> String {
        switch outcome {
        case .upperLayer(let upper, let offset, let pointer): "\(upper.rawValue) at \(offset), named at \(pointer)"
        case .fragment(let header, let offset): "fragment of \(header.nextHeader.rawValue) at \(offset)"
        case .malformed(let pointer): "malformed at \(pointer)"
        case .unrecognised(let pointer, let code, let answersMulticast):
            "unrecognised at \(pointer), code \(code)\(answersMulticast ? ", to groups too" : "")"
        case .discard: "discard"
        }
    }

    @Test func `without extension headers the upper layer is at the start`() {
        #expect(walk([], .tcp) == "6 at 0, named at 6")
        #expect(walk([], .noNext) == "59 at 0, named at 6")
        #expect(walk(hex("0102"), IPProtocol(rawValue: 253)) == "253 at 0, named at 6")
    }

    @Test func `a chain of every kind is walked to its end`() {
        let hopByHop = hex("3c 00 0104 00000000")  // PadN, next: destination options
        let destination = hex("2b 01 010c 000000000000000000000000")  // 16 bytes, next: routing
        let routing = hex("06 00 04 00 00000000")  // type 4, no segments left, next: TCP
        #expect(walk(hopByHop + destination + routing + [1, 2], .hopByHop) == "6 at 32, named at 64")
    }

    @Test func `a fragment header ends the walk`() {
        let destination = hex("2c 00 0104 00000000")
        #expect(walk(destination + hex("11 00 0009 00000001") + [1], .destinationOptions) == "fragment of 17 at 16")
        #expect(walk(hex("11 00 0009 00000001"), .fragment) == "fragment of 17 at 8")
    }

    @Test func `hop-by-hop options anywhere but first are an unknown header`() {
        #expect(walk(hex("00 00 0104 00000000 3b 00 0104 00000000"), .destinationOptions) == "unrecognised at 40, code 1")
        #expect(walk(hex("00 00 0104 00000000 3b 00 0104 00000000"), .hopByHop) == "unrecognised at 40, code 1")
        #expect(walk(hex("3b 00 0104 00000000"), .hopByHop, isReassembled: true) == "unrecognised at 6, code 1")
        #expect(walk(hex("3b 00 0104 00000000"), .destinationOptions, isReassembled: true) == "59 at 8, named at 40")
    }

    @Test(arguments: [(UInt8(0x05), "59 at 8, named at 40"), (0x1e, "59 at 8, named at 40"), (0x45, "discard"),
        (0x85, "unrecognised at 42, code 2, to groups too"), (0xc2, "unrecognised at 42, code 2")])
    func `an option's two high bits say what to do`(type: UInt8, outcome: String) {
        #expect(walk([59, 0, type, 2, 0, 0, 0, 0], .destinationOptions) == outcome)
        #expect(walk([59, 0, type, 2, 0, 0, 0, 0], .hopByHop) == outcome)
    }

    @Test func `the first option that matters counts, by its own place`() {
        #expect(walk(hex("3b 01 00 00 0501aa 8500 4500 000000 0000"), .destinationOptions) == "unrecognised at 47, code 2, to groups too")
    }

    @Test func `options that run over are malformed`() {
        #expect(walk(hex("3b 00 0105 00000000"), .destinationOptions) == "malformed at 43")
        #expect(walk(hex("3b 00 0103 00000001"), .destinationOptions) == "malformed at 47")
        #expect(walk(hex("3b 00 01ff 00000000"), .hopByHop) == "malformed at 43")
    }

    @Test func `routing type 0, or any other, is refused with segments left, passed over without (RFC 5095)`() {
        for type: UInt8 in [0, 1, 2, 4, 253] {
            #expect(walk([59, 0, type, 1, 0, 0, 0, 0], .routing) == "malformed at 42")
            #expect(walk([59, 0, type, 0, 0, 0, 0, 0], .routing) == "59 at 8, named at 40")
        }
    }

    @Test func `a header that is longer than the packet is malformed`() {
        #expect(walk([], .hopByHop) == "malformed at 6")
        #expect(walk(hex("3b 00 0104 000000"), .destinationOptions) == "malformed at 6")
        #expect(walk(hex("3b 01 0104 00000000"), .destinationOptions) == "malformed at 41")
        #expect(walk(hex("3c 00 0104 00000000 3b ff 0104 00000000"), .destinationOptions) == "malformed at 49")
        #expect(walk(hex("3b 00 0104 0000"), .fragment) == "malformed at 6")
    }

    @Test func `a chain has an end`() {
        let link = hex("3c 00 0104 00000000")
        let limit = IPv6ExtensionHeaders.headerCountMaximum
        let last = hex("06 00 0104 00000000")
        let longest = Array(repeatElement(link, count: limit - 1).joined()) + last
        #expect(walk(longest, .destinationOptions) == "6 at \(limit * 8), named at \(40 + limit * 8 - 8)")
        let longer = Array(repeatElement(link, count: limit).joined()) + last
        #expect(walk(longer, .destinationOptions) == "malformed at \(40 + limit * 8 - 8)")
    }

    @Test(arguments: 0..<8)
    func `random chains trap nowhere and stay inside`(seed: UInt64) {
        var generator = SplitMix64(seed: 60 + seed)
        let kinds: [UInt8] = [0, 43, 44, 60, 60, 60, 6, 59]
        for _ in 0..<3000 {
            var bytes = generator.bytes(Int.random(in: 0...120, using: &generator))
            // Make them look like headers often enough to get deep.
            for offset in stride(from: 0, to: bytes.count - 7, by: 8) where generator.flag() {
                bytes.replaceSubrange(offset..<offset + 4, with: [kinds.randomElement(using: &generator)!, 0, 1, 4])
            }
            withPacket(bytes) { packet in
                for first in kinds {
                    switch IPv6ExtensionHeaders.walk(packet, nextHeader: IPProtocol(rawValue: first)) {
                    case .upperLayer(let upper, let offset, let pointer):
                        #expect(offset >= 0 && offset <= packet.count && offset % 8 == 0)
                        #expect(pointer == 6 ? offset == 0 : packet.load8(pointer - 40) == upper.rawValue)
                    case .fragment(_, let offset): #expect(offset >= 8 && offset <= packet.count)
                    case .malformed(let pointer), .unrecognised(let pointer, _, _):
                        #expect(pointer == 6 || pointer >= 40 && pointer < 40 + packet.count)
                    case .discard: break
                    }
                }
            }
        }
    }
}
