import Testing
import TestSupport
@testable import Demikernel

@Suite struct TCPOptionsTests {
    /// Any options that fit.
    static func random(_ generator: inout SplitMix64) -> TCPOptions {
        var options = TCPOptions(
            maximumSegmentSize: generator.flag() ? generator.value() : nil, windowScale: generator.flag() ? generator.value() : nil,
            sackPermitted: generator.flag(),
            timestamps: generator.flag() ? TCPTimestamps(value: generator.value(), echo: generator.value()) : nil)
        let room = (TCPOptions.byteCountMaximum - options.byteCount - 4) / 8
        for _ in 0..<Int.random(in: 0...max(0, min(4, room)), using: &generator) {
            options.appendSACK(SACKBlock(left: generator.sequence(), right: generator.sequence()))
        }
        return options
    }

    private func emitted(_ options: TCPOptions) -> [UInt8] { written(options.byteCount) { options.emit(into: $0) } }

    @Test func `options come back as they were written`() {
        var generator = SplitMix64(seed: 101)
        for _ in 0..<5000 {
            let options = Self.random(&generator)
            let bytes = emitted(options)
            #expect(bytes.count % 4 == 0 && bytes.count <= 40)
            #expect(withPacket(bytes) { TCPOptions(parsing: $0) } == options)
        }
    }

    @Test func `the layouts are Linux's`() {
        var options = TCPOptions(
            maximumSegmentSize: 1460, windowScale: 10, sackPermitted: true, timestamps: TCPTimestamps(value: 0x6932_dc03, echo: 0))
        #expect(emitted(options) == hex("020405b4 0402080a6932dc0300000000 0103030a"))
        options.timestamps = nil
        #expect(emitted(options) == hex("020405b4 01010402 0103030a"))
        #expect(emitted(TCPOptions(timestamps: TCPTimestamps(value: 1, echo: 2))) == hex("0101080a 00000001 00000002"))
        #expect(written(12) { TCPOptions.emit(TCPTimestamps(value: 1, echo: 2), into: $0) } == hex("0101080a 00000001 00000002"))
        var sack = TCPOptions(timestamps: TCPTimestamps(value: 1, echo: 2))
        sack.appendSACK(SACKBlock(left: SequenceNumber(3), right: SequenceNumber(4)))
        #expect(emitted(sack) == hex("0101080a 00000001 00000002 0101050a 00000003 00000004"))
        #expect(emitted(TCPOptions()) == [])
    }

    @Test func `blocks for which there is no room are left out`() {
        var options = TCPOptions(timestamps: TCPTimestamps(value: 1, echo: 2))
        for index in 0..<5 {
            let isTaken = options.appendSACK(SACKBlock(left: SequenceNumber(UInt32(index)), right: SequenceNumber(9)))
            #expect(isTaken == (index < 4))
        }
        #expect(options.sackCountThatFits == 3 && options.byteCount == 40)
        let parsed = withPacket(emitted(options)) { TCPOptions(parsing: $0) }
        #expect(parsed.sackCount == 3)
        #expect(parsed.sackBlocks[2].left == SequenceNumber(2))
        options.timestamps = nil
        #expect(options.sackCountThatFits == 4 && options.byteCount == 36)
        var full = TCPOptions(
            maximumSegmentSize: 1, windowScale: 1, sackPermitted: true, timestamps: TCPTimestamps(value: 1, echo: 2))
        for _ in 0..<4 { full.appendSACK(SACKBlock(left: SequenceNumber(1), right: SequenceNumber(2))) }
        #expect(full.byteCount == 40 && full.sackCountThatFits == 2)
    }

    @Test func `unknown options, and known ones of another length, are skipped`() {
        // Kind 254 of 6 bytes, a segment size of 3, a window scale of 4, timestamps of 6, SACK of 9; then a good segment size.
        let bytes = hex("fe0601020304 020305 03040506 080601020304 0509 00112233445566 020405b4 01 00 0204ffff")
        let options = withPacket(bytes) { TCPOptions(parsing: $0) }
        #expect(options == TCPOptions(maximumSegmentSize: 1460))
    }

    @Test(arguments: ["02", "0200", "0201", "020405b4 08", "020405b4 080b000000000000", "020405b4 fe00", "020405b4 05ff"])
    func `a length that cannot be ends the parse and is said`(text: String) {
        let options = withPacket(hex(text)) { TCPOptions(parsing: $0) }
        #expect(options.isMalformed)
        #expect(options.maximumSegmentSize == (text.hasPrefix("020405b4") ? 1460 : nil))
    }

    @Test func `what follows the end of options is not read`() {
        let options = withPacket(hex("01 00 0200 ffff")) { TCPOptions(parsing: $0) }
        #expect(options == TCPOptions())
    }

    @Test func `the fast path is for its layout alone, and says the same`() throws {
        func segment(_ options: String) -> [UInt8] {
            let bytes = hex(options)
            return [UInt8](repeating: 0, count: 12) + [UInt8((20 + bytes.count) / 4) << 4] + [UInt8](repeating: 0, count: 7) + bytes
        }
        let cases: [(String, Bool)] = [
            ("0101080a 00000001 00000002", true), ("080a00000001 00000002 0101", false), ("0101080a 00000001 00000002 01010101", false),
            ("01010101", false), ("", false),
        ]
        for (text, isFast) in cases {
            try withPacket(segment(text)) { packet in
                let view = try #require(TCPHeaderView(packet))
                #expect(view.hasOnlyTimestamps == isFast)
                #expect(TCPOptions(view) == TCPOptions(parsing: view.options))
            }
        }
    }

    @Test(arguments: 0..<8)
    func `garbage traps nowhere and ends`(seed: UInt64) {
        var generator = SplitMix64(seed: 110 + seed)
        for round in 0..<4000 {
            var bytes = generator.bytes(Int.random(in: 0...40, using: &generator))
            if round % 2 == 0 {
                // Small kinds and lengths, so that parsing gets far.
                for index in bytes.indices { bytes[index] = UInt8.random(in: 0...12, using: &generator) }
            }
            let options = withPacket(bytes) { TCPOptions(parsing: $0) }
            #expect(options.sackCount <= 4)
            #expect(options.byteCount <= 40)
        }
    }

    @Test func `good options are found again behind and before noise`() {
        var generator = SplitMix64(seed: 120)
        for _ in 0..<2000 {
            let size: UInt16 = generator.value()
            let noise = [UInt8(0xfd), 6] + generator.bytes(4)
            let bytes = noise + [2, 4, UInt8(size >> 8), UInt8(size & 255)] + [1] + noise
            let options = withPacket(bytes) { TCPOptions(parsing: $0) }
            #expect(options == TCPOptions(maximumSegmentSize: size))
        }
    }
}
