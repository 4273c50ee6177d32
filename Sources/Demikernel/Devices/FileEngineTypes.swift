/// How a request to a ``FileEngine`` ended.
package struct FileCompletion: BitwiseCopyable, Equatable, Sendable {
    /// What the caller named the request by.
    package var userData: UInt64
    /// Bytes transferred, the new descriptor (`open`) or 0; a negative errno where the request failed, `-ECANCELED` where it was cancelled.
    package var result: Int32

    package init(userData: UInt64, result: Int32) {
        self.userData = userData
        self.result = result
    }
}

/// When a ``FileEngine`` uses io_uring.
package enum RingPolicy: Sendable {
    /// Where the kernel has it and lets this process use it, else a helper thread.
    case prefer
    /// Never: a helper thread.
    case never
    /// Always: without it the engine is not made.
    case require
}

/// What carries out the requests of a ``FileEngine``.
package enum FileEngineBackend: Sendable {
    case ioUring
    case thread
}

/// The settings of a ``FileEngine``.
package struct FileEngineConfiguration: Sendable {
    package var ring: RingPolicy
    /// Requests in flight at most, 1 to ``FileEngineConfiguration/queueDepthMaximum``.
    package var queueDepth: Int
    /// Truncates on the helper thread even where io_uring could, as on kernels before Linux 6.9: for tests of that way.
    var truncatesOnThread = false

    /// io_uring takes 32,768 entries, and every request has room for itself and its cancellation.
    package static var queueDepthMaximum: Int { 8192 }

    package init(ring: RingPolicy = .prefer, queueDepth: Int = 256) {
        self.ring = ring
        self.queueDepth = queueDepth
    }
}

/// What a ``FileEngine`` has done since it was made.
package struct FileEngineStatistics: BitwiseCopyable, Equatable, Sendable {
    /// Requests accepted.
    package var requests: UInt64 = 0
    /// Requests refused because as many as the queue holds were in flight.
    package var refusals: UInt64 = 0
    /// Requests that ended, failed ones included.
    package var completions: UInt64 = 0
    /// Requests that ended in an error, cancelled ones included.
    package var failures: UInt64 = 0
    /// Batches handed over by ``FileEngine/submit()``.
    package var batches: UInt64 = 0
    package var bytesRead: UInt64 = 0
    package var bytesWritten: UInt64 = 0
}

/// One request as the engine keeps it from the call to its completion.
struct FileRequest: BitwiseCopyable {
    enum Kind: UInt8 {
        case read, write, synchronize, truncate, open, close
    }

    var kind: Kind
    /// `synchronize`: data only; `write`: durable before it completes (`RWF_DSYNC`).
    var option = false
    var descriptor: Int32
    /// Bytes to transfer; the mode of `open`.
    var count: UInt32 = 0
    /// The flags of `open`.
    var flags: Int32 = 0
    /// Where to read to or to write from; the path of `open`, which the engine owns.
    var address: UInt = 0
    /// `write`: how many pieces (`struct iovec`) lie at `address`, in the table; 0 where the bytes themselves do.
    var pieces: UInt32 = 0
    /// Where in the file, or ``FileEngine/currentPosition``; the length for `truncate`.
    var offset: Int64 = 0
    var userData: UInt64

    @unsafe var pointer: UnsafeMutableRawPointer? { unsafe UnsafeMutableRawPointer(bitPattern: address) }

    /// The kernel transfers no more than this at once (`MAX_RW_COUNT`), so that any count is legal and the transfer merely short.
    static var transferMaximum: Int { 0x7fff_f000 }
}

/// How the request of a slot ended, as a back-end reports it.
struct FileOutcome: BitwiseCopyable {
    var slot: UInt32
    var result: Int32
}
