/// Who talks with whom: what names a connection. 40 bytes, plain data.
package struct ConnectionTuple: BitwiseCopyable, Hashable, Sendable {
    package var local: IPAddress
    package var remote: IPAddress
    package var localPort: UInt16
    package var remotePort: UInt16

    @inline(__always)
    package init(local: IPAddress, localPort: UInt16, remote: IPAddress, remotePort: UInt16) {
        self.local = local
        self.remote = remote
        self.localPort = localPort
        self.remotePort = remotePort
    }

    @inline(__always) var ports: UInt64 { UInt64(localPort) &<< 16 | UInt64(remotePort) }

    /// One comparison's worth of branches: the parts are compared together.
    @inline(__always) package static func == (left: ConnectionTuple, right: ConnectionTuple) -> Bool {
        (left.local.low ^ right.local.low) | (left.remote.low ^ right.remote.low) | (left.local.high ^ right.local.high)
            | (left.remote.high ^ right.remote.high) | (left.ports ^ right.ports) == 0
    }
}

/// A keyed hash that is fast rather than proven: for tables whose keys a stranger may choose and whose hashes nobody outside sees.
///
/// Two or three folded multiplications (the halves of a 64 × 64 → 128 bit product, exclusive-ored), each of words masked with the secret: a
/// stranger who does not know the 128 bits cannot construct colliding tuples. What leaves the machine (sequence numbers, cookies) is made
/// with ``SipHash`` instead.
package struct KeyedHash: BitwiseCopyable, Sendable {
    private let first: UInt64
    private let second: UInt64

    package init(secret: (UInt64, UInt64)) {
        first = secret.0
        second = secret.1
    }

    @inline(__always) private static func fold(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let product = left.multipliedFullWidth(by: right)
        return product.high ^ product.low
    }

    /// 64 well-mixed bits of a tuple. Complexity: two multiplications for IPv4, three for IPv6.
    @inline(__always) package func hash(_ tuple: ConnectionTuple) -> UInt64 {
        var mixed = Self.fold(tuple.local.low ^ first, tuple.remote.low ^ second)
        if tuple.local.high | tuple.remote.high != 0 {
            mixed ^= Self.fold(tuple.local.high ^ ~second, tuple.remote.high ^ ~first)
        }
        // A constant that is no key's: two zero words would otherwise make the product 0 for every secret.
        return Self.fold(mixed ^ second, tuple.ports ^ first ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// 64 well-mixed bits of two words: a listener's address and port, say.
    @inline(__always) package func hash(_ left: UInt64, _ right: UInt64) -> UInt64 {
        Self.fold(Self.fold(left ^ first, right ^ second) ^ second, first ^ 0x9e37_79b9_7f4a_7c15)
    }
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012): a keyed hash that is safe to show to strangers. Words are taken in, not bytes: the input's
/// length is fixed by each use, and goes into the last word as the algorithm demands.
package struct SipHash: BitwiseCopyable {
    /// 128 secret bits.
    package struct Key: BitwiseCopyable, Sendable {
        package let first: UInt64
        package let second: UInt64

        package init(_ first: UInt64, _ second: UInt64) {
            self.first = first
            self.second = second
        }
    }

    private var v0: UInt64
    private var v1: UInt64
    private var v2: UInt64
    private var v3: UInt64
    private var words: UInt64 = 0

    @inline(__always) package init(_ key: Key) {
        v0 = key.first ^ 0x736f_6d65_7073_6575
        v1 = key.second ^ 0x646f_7261_6e64_6f6d
        v2 = key.first ^ 0x6c79_6765_6e65_7261
        v3 = key.second ^ 0x7465_6462_7974_6573
    }

    @inline(__always) private static func rotate(_ value: UInt64, _ bits: UInt64) -> UInt64 { value &<< bits | value &>> (64 &- bits) }

    @inline(__always) private mutating func round() {
        v0 &+= v1
        v1 = Self.rotate(v1, 13) ^ v0
        v0 = Self.rotate(v0, 32)
        v2 &+= v3
        v3 = Self.rotate(v3, 16) ^ v2
        v0 &+= v3
        v3 = Self.rotate(v3, 21) ^ v0
        v2 &+= v1
        v1 = Self.rotate(v1, 17) ^ v2
        v2 = Self.rotate(v2, 32)
    }

    /// Takes in eight bytes of the message, as a little-endian word.
    @inline(__always) package mutating func append(_ word: UInt64) {
        v3 ^= word
        round()
        round()
        v0 ^= word
        words &+= 1
    }

    /// The hash of the words taken in and of `rest`, the 0 to 7 bytes behind them as the low bytes of a little-endian word.
    @inline(__always) package mutating func finish(_ rest: UInt64 = 0, byteCount: UInt64 = 0) -> UInt64 {
        append((words &* 8 &+ byteCount) &<< 56 | rest)
        v2 ^= 0xff
        round()
        round()
        round()
        round()
        return v0 ^ v1 ^ v2 ^ v3
    }

    /// The hash of a tuple and one word more. Complexity: 16 rounds.
    package static func hash(_ key: Key, _ tuple: ConnectionTuple, _ more: UInt64 = 0) -> UInt64 {
        var state = SipHash(key)
        state.append(tuple.local.high)
        state.append(tuple.local.low)
        state.append(tuple.remote.high)
        state.append(tuple.remote.low)
        state.append(more)
        return state.finish(tuple.ports, byteCount: 4)
    }
}
