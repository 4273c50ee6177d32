import Testing
@testable import Demikernel

@Suite struct KeyedHashTests {
    /// The vectors of the authors' reference implementation: key 00 01 … 0f, messages 00 01 02 … of 8 bytes, 16 bytes and 15 bytes.
    @Test func `SipHash-2-4 agrees with its authors' vectors`() {
        let key = SipHash.Key(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908)
        var empty = SipHash(key)
        #expect(empty.finish() == 0x726f_db47_dd0e_0e31)
        var eight = SipHash(key)
        eight.append(0x0706_0504_0302_0100)
        #expect(eight.finish() == 0x93f5_f579_9a93_2462)
        var fifteen = SipHash(key)
        fifteen.append(0x0706_0504_0302_0100)
        #expect(fifteen.finish(0x000e_0d0c_0b0a_0908, byteCount: 7) == 0xa129_ca61_49be_45e5)
    }

    static func tuple(_ generator: inout SplitMix64, ipv4: Bool) -> ConnectionTuple {
        let local = ipv4 ? IPAddress(ipv4: .random(in: 0 ... .max, using: &generator)) : IPAddress(high: generator.next(), low: generator.next())
        let remote = ipv4 ? IPAddress(ipv4: .random(in: 0 ... .max, using: &generator)) : IPAddress(high: generator.next(), low: generator.next())
        return ConnectionTuple(
            local: local, localPort: .random(in: 0 ... .max, using: &generator), remote: remote,
            remotePort: .random(in: 0 ... .max, using: &generator))
    }

    /// Neighbouring ports and addresses are what tables hold.
    @Test(arguments: [true, false], 1...3 as ClosedRange<UInt64>)
    func `neighbouring tuples fall evenly into the table`(ipv4: Bool, seed: UInt64) {
        var generator = SplitMix64(seed: seed)
        let keyed = KeyedHash(secret: (generator.next(), generator.next()))
        let base = Self.tuple(&generator, ipv4: ipv4)
        var buckets = [Int](repeating: 0, count: 1024)
        var low = [Int](repeating: 0, count: 1024)
        for host in 0..<64 as Range<UInt64> {
            for port in 0..<256 as Range<UInt16> {
                var tuple = base
                tuple.remote = IPAddress(high: base.remote.high, low: base.remote.low ^ host)
                tuple.remotePort = base.remotePort &+ port
                let hash = UInt32(truncatingIfNeeded: keyed.hash(tuple))
                buckets[Int(hash >> 22)] += 1
                low[Int(hash & 1023)] += 1
            }
        }
        // 16 expected each; a Poisson variable exceeds 45 once in 10^9.
        #expect((buckets.max() ?? 0) < 45 && (low.max() ?? 0) < 45)
        #expect(buckets.filter { $0 == 0 }.count < 5)
    }

    @Test func `every bit of the tuple and of the secret changes the hash`() {
        var generator = SplitMix64(seed: 5)
        let secret = (generator.next(), generator.next())
        let tuple = Self.tuple(&generator, ipv4: false)
        let hash = KeyedHash(secret: secret).hash(tuple)
        let slow = SipHash.hash(SipHash.Key(secret.0, secret.1), tuple)
        for bit in 0..<64 as Range<UInt64> {
            var changed = [tuple, tuple, tuple, tuple, tuple]
            changed[0].local = IPAddress(high: tuple.local.high ^ 1 << bit, low: tuple.local.low)
            changed[1].local = IPAddress(high: tuple.local.high, low: tuple.local.low ^ 1 << bit)
            changed[2].remote = IPAddress(high: tuple.remote.high ^ 1 << bit, low: tuple.remote.low)
            changed[3].remote = IPAddress(high: tuple.remote.high, low: tuple.remote.low ^ 1 << bit)
            if bit < 16 { changed[4].localPort ^= 1 << UInt16(bit) } else { changed[4].remotePort ^= 1 << UInt16(bit % 16) }
            for other in changed {
                #expect(KeyedHash(secret: secret).hash(other) != hash)
                #expect(SipHash.hash(SipHash.Key(secret.0, secret.1), other) != slow)
                #expect(other != tuple)
            }
            #expect(KeyedHash(secret: (secret.0 ^ 1 << bit, secret.1)).hash(tuple) != hash)
            #expect(KeyedHash(secret: (secret.0, secret.1 ^ 1 << bit)).hash(tuple) != hash)
            #expect(SipHash.hash(SipHash.Key(secret.0 ^ 1 << bit, secret.1), tuple) != slow)
        }
    }

    @Test func `initial sequence numbers grow with the clock and differ by tuple and by key`() {
        var generator = SplitMix64(seed: 9)
        let sequence = InitialSequence(key: SipHash.Key(generator.next(), generator.next()))
        let other = InitialSequence(key: SipHash.Key(generator.next(), generator.next()))
        let tuple = Self.tuple(&generator, ipv4: true)
        var now: UInt64 = 0
        var last = sequence.next(for: tuple, now: now)
        // Once round the sequence space, in steps of 2 minutes.
        for _ in 0..<150 {
            now += 120_000_000_000
            let next = sequence.next(for: tuple, now: now)
            #expect(next.distance(from: last) == 30_000_000)
            last = next
        }
        var neighbour = tuple
        neighbour.remotePort ^= 1
        let first = sequence.next(for: tuple, now: 0)
        #expect(sequence.next(for: neighbour, now: 0) != first)
        #expect(other.next(for: tuple, now: 0) != first)
        #expect(sequence.timestampOffset(for: tuple) != sequence.timestampOffset(for: neighbour))
        #expect(sequence.timestampOffset(for: tuple) != first.rawValue)
    }
}
