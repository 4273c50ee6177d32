/// Chance, from a seed: xoshiro256** (Blackman and Vigna, 2018), seeded by SplitMix64.
///
/// The same seed gives the same numbers on every machine and in every version of this package that keeps its simulations' hashes.
public struct SimulationRandom: RandomNumberGenerator, Sendable {
    private var words: (UInt64, UInt64, UInt64, UInt64)

    /// A generator whose numbers depend on `seed` alone.
    public init(seed: UInt64) {
        var state = seed
        words = (Self.split(&state), Self.split(&state), Self.split(&state), Self.split(&state))
    }

    /// A generator of its own for part number `part` of what `seed` began, so that more chance in one part changes nothing in another.
    public init(seed: UInt64, part: UInt64) { self.init(seed: Self.mix(seed) ^ Self.mix(part &+ 0x5bd1_e995)) }

    private static func split(_ state: inout UInt64) -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        return mix(state)
    }

    /// SplitMix64's finaliser: each bit of the result depends on each of `value`.
    @inline(__always) package static func mix(_ value: UInt64) -> UInt64 {
        var mixed = value
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    public mutating func next() -> UInt64 {
        let product = words.1 &* 5
        let result = ((product &<< 7) | (product &>> 57)) &* 9
        let shifted = words.1 &<< 17
        words.2 ^= words.0
        words.3 ^= words.1
        words.1 ^= words.2
        words.0 ^= words.3
        words.2 ^= shifted
        words.3 = (words.3 &<< 45) | (words.3 &>> 19)
        return result
    }

    /// A number in `0..<bound`; 0 where the bound is. The bias is below 2⁻³² for bounds below 2³².
    public mutating func below(_ bound: UInt64) -> UInt64 { bound == 0 ? 0 : next().multipliedFullWidth(by: bound).high }

    /// A number in `range`.
    public mutating func number(in range: ClosedRange<Int>) -> Int {
        range.lowerBound + Int(truncatingIfNeeded: below(UInt64(range.upperBound - range.lowerBound) + 1))
    }

    /// True with that probability. Draws a number in any case, so that a changed probability leaves what follows alone.
    public mutating func chance(_ probability: Double) -> Bool { Double(next() >> 11) * 0x1p-53 < probability }
}
