import Testing
@testable import Demikernel

@Suite struct SYNCookieTests {
    private static let second: UInt64 = 1_000_000_000

    private static func tuple(ipv4: Bool) -> ConnectionTuple {
        let local = ipv4 ? IPAddress(ipv4: 0x0a00_0001) : IPAddress(high: 0xfe80 << 48, low: 1)
        let remote = ipv4 ? IPAddress(ipv4: 0x0a00_0002) : IPAddress(high: 0xfe80 << 48, low: 2)
        return ConnectionTuple(local: local, localPort: 80, remote: remote, remotePort: 50_000)
    }

    @Test(arguments: [true, false])
    func `a cookie brings back the segment size, rounded down`(ipv4: Bool) throws {
        let cookie = SYNCookie(key: SipHash.Key(1, 2))
        let tuple = Self.tuple(ipv4: ipv4)
        let peer = SequenceNumber(0xffff_fff0)
        var last: UInt16 = 0
        for size in stride(from: 256 as UInt16, through: 9_500, by: 4) {
            let number = cookie.make(for: tuple, peerSequence: peer, segmentSize: size, now: 500 * Self.second)
            let found = try #require(cookie.check(number, for: tuple, peerSequence: peer, now: 501 * Self.second))
            #expect(found <= max(size, 536) && found >= last)
            last = found
        }
        #expect(last == (ipv4 ? 8_960 : 8_940))
        for size in ipv4 ? [536, 1_460, 8_960] as [UInt16] : [1_220, 1_440, 8_940] {
            let number = cookie.make(for: tuple, peerSequence: peer, segmentSize: size, now: 0)
            #expect(cookie.check(number, for: tuple, peerSequence: peer, now: 0) == size)
        }
    }

    @Test func `a cookie is valid for one minute at least and two at most`() {
        let cookie = SYNCookie(key: SipHash.Key(3, 4))
        let tuple = Self.tuple(ipv4: true)
        let peer = SequenceNumber(7)
        for start in [0, 1, 59, 60, 61, 1_000_000] as [UInt64] {
            let number = cookie.make(for: tuple, peerSequence: peer, segmentSize: 1_460, now: start * Self.second)
            for age in [0, 1, 30, 60] as [UInt64] {
                #expect(cookie.check(number, for: tuple, peerSequence: peer, now: (start + age) * Self.second) == 1_460)
            }
            for age in [120, 121, 600, 86_400] as [UInt64] {
                #expect(cookie.check(number, for: tuple, peerSequence: peer, now: (start + age) * Self.second) == nil)
            }
        }
    }

    @Test func `a cookie of another connection, another SYN, another stack or of nobody is refused`() {
        let cookie = SYNCookie(key: SipHash.Key(5, 6))
        let tuple = Self.tuple(ipv4: true)
        let peer = SequenceNumber(99)
        let now = 10_000 * Self.second
        let number = cookie.make(for: tuple, peerSequence: peer, segmentSize: 1_460, now: now)
        var other = tuple
        other.remotePort ^= 1
        #expect(cookie.check(number, for: other, peerSequence: peer, now: now) == nil)
        other = tuple
        other.local = IPAddress(ipv4: 0x0a00_0003)
        #expect(cookie.check(number, for: other, peerSequence: peer, now: now) == nil)
        #expect(cookie.check(number, for: tuple, peerSequence: peer + 1 as SequenceNumber, now: now) == nil)
        #expect(SYNCookie(key: SipHash.Key(5, 7)).check(number, for: tuple, peerSequence: peer, now: now) == nil)
        // By chance a guess is right once in 2²⁸.
        var generator = SplitMix64(seed: 8)
        var accepted = 0
        for _ in 0..<50_000 {
            let guess = SequenceNumber(UInt32.random(in: 0 ... .max, using: &generator))
            if cookie.check(guess, for: tuple, peerSequence: peer, now: now) != nil { accepted += 1 }
        }
        #expect(accepted == 0)
        // Of the neighbours of a valid one, only those that name another segment size.
        var valid = 0
        for bit in 0..<32 as Range<UInt32> where cookie.check(SequenceNumber(number.rawValue ^ 1 << bit), for: tuple, peerSequence: peer, now: now) != nil {
            valid += 1
            #expect(bit < 3)
        }
        #expect(valid == 3)
    }

    @Test func `a timestamp brings back the other options and is not ahead of its clock`() {
        var generator = SplitMix64(seed: 4)
        for _ in 0..<2_000 {
            let clock = UInt32.random(in: 0 ... .max, using: &generator)
            let scale: UInt8? = Bool.random(using: &generator) ? UInt8.random(in: 0...20, using: &generator) : nil
            let sack = Bool.random(using: &generator)
            let ecn = Bool.random(using: &generator)
            let value = SYNCookie.encode(windowScale: scale, sackPermitted: sack, ecn: ecn, in: clock)
            #expect(clock &- value < 64)
            let options = SYNCookie.decode(value)
            #expect(options.windowScale == scale.map { min($0, 14) } && options.sackPermitted == sack && options.ecn == ecn)
        }
    }
}
