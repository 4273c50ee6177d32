/// All the chance that a stack is given: keys of hashes and of initial sequence numbers, and the seed of its generator.
///
/// The stack never draws a random number itself: a libOS passes what the kernel gives, the simulator passes a seed, so that a run replays.
package struct NetworkEntropy: BitwiseCopyable {
    package var words: (UInt64, UInt64, UInt64, UInt64)

    package init(words: (UInt64, UInt64, UInt64, UInt64)) { self.words = words }

    /// For simulation and tests: 32 bytes that follow from `seed`.
    package init(seed: UInt64) {
        var generator = NetworkRandom(seed: seed)
        words = (generator.next(), generator.next(), generator.next(), generator.next())
    }

    /// 32 bytes from the kernel, `getrandom(2)`. For a libOS alone.
    package static func system() -> NetworkEntropy {
        var generator = SystemRandomNumberGenerator()
        return NetworkEntropy(words: (generator.next(), generator.next(), generator.next(), generator.next()))
    }
}

/// A stack's generator: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). For ports, identifications and
/// jitter; what has to withstand analysis (initial sequence numbers) is a keyed hash instead.
package struct NetworkRandom: BitwiseCopyable {
    private var state: UInt64

    @inline(__always) package init(seed: UInt64) { state = seed }

    @inline(__always) package mutating func next() -> UInt64 {
        state = state &+ 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value &>> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value &>> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value &>> 31)
    }

    /// Below `bound`, which is not 0. The bias is below 2⁻³² for bounds below 2³².
    @inline(__always) package mutating func next(below bound: UInt64) -> UInt64 { next().multipliedFullWidth(by: bound).high }
}

/// The keyed hash of the stack's own tables: nobody who does not know the key can make entries collide.
package struct NetworkHash: BitwiseCopyable {
    private let first: UInt64
    private let second: UInt64

    @inline(__always) package init(_ first: UInt64, _ second: UInt64) {
        // A multiplication by zero would forget the other factor.
        self.first = first | 1
        self.second = second | 1
    }

    /// Folded products, as wyhash mixes (Wang Yi, 2019).
    @inline(__always) package func callAsFunction(_ a: UInt64, _ b: UInt64) -> UInt64 {
        let product = (a ^ first).multipliedFullWidth(by: b ^ second)
        let mixed = (product.high ^ product.low ^ second).multipliedFullWidth(by: first)
        return mixed.high ^ mixed.low
    }

    @inline(__always) package func callAsFunction(_ address: IPAddress) -> UInt64 { self(address.high, address.low) }
}
