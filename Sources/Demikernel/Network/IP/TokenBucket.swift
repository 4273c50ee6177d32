/// A limit of so many a second, with bursts. RFC 4443, section 2.4(f).
///
/// Counts in time: each token pushes `emptyAt` an interval further into the future, and no further than a burst's worth of them.
struct TokenBucket: BitwiseCopyable {
    private let interval: UInt64
    private let burst: UInt64
    private var emptyAt: UInt64 = 0

    /// `rate` a second, 0 for none at all; `burst` at once.
    init(rate: UInt64, burst: UInt64) {
        interval = rate == 0 ? 0 : max(1, 1_000_000_000 / rate)
        self.burst = max(1, min(burst, 1 << 20)) &* interval
    }

    /// Whether one more may go.
    mutating func take(_ now: UInt64) -> Bool {
        let start = max(emptyAt, now)
        guard interval > 0, start &- now &+ interval <= burst else { return false }
        emptyAt = start &+ interval
        return true
    }
}
