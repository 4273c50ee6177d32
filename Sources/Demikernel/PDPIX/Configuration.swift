/// Everything a libOS can be told before it starts; each setting has a default, so `Configuration()` is ready to use.
///
/// Three faces set the same settings: this structure, the environment (``environment(_:)``) and a YAML file (`Configuration.load()` of the
/// module `DemikernelConfiguration`). The environment goes before the file, the file before the defaults. Names, units, ranges and meaning
/// stand in one table, `Configuration.settings`; demikernel.yaml(5) is made from it.
public struct Configuration: Sendable, Equatable {
    /// The libOS, by its name in the registry: `libos`, `LIBOS`. Whether this build has it is the registry's to say.
    public var libOS = "catnap"
    public var heap = Heap()
    public var wait = Wait()
    public var queues = Queues()
    public var operations = Operations()
    public var descriptors = Descriptors()
    public var clock = Clock()
    public var catnap = Catnap()
    public var network = Network()
    public var memif = Memif()
    public var catloop = Catloop()
    public var catpowder = Catpowder()
    public var control = Control()

    /// Every setting at its default.
    public init() {}

    /// Whether something that a machine may lack is used.
    public enum Preference: String, Sendable, CaseIterable {
        /// Used where the machine has it.
        case prefer
        /// Not used.
        case never
        /// Used; starting fails where the machine lacks it.
        case require
    }

    /// The DMA-capable heap.
    public struct Heap: Sendable, Equatable {
        /// The most that the heap grows to, in bytes, 4 GiB by default. It grows by whole groups of 2 MiB; a remainder is not used.
        /// What lies beyond is `ENOMEM`.
        public var limit = 4 << 30
        /// Whether superblock groups lie on huge pages of 2 MiB: preferred by default.
        public var hugePages = Preference.prefer
        /// Whether ordinary pages are locked in memory (`mlock(2)`), as kernel-bypass devices need: true by default. Huge pages always are.
        public var lockPages = true
        /// Whether freed objects are poisoned, and double frees, foreign pointers and leaks reported: false by default. Slow.
        public var checked = false
        public init() {}
    }

    /// How `wait` passes the time when nothing is ready.
    public struct Wait: Sendable, Equatable {
        /// How long it polls before it sleeps on the devices' file descriptors: 50 microseconds by default.
        public var spin = Spin.atMost(.microseconds(50))
        public init() {}

        /// For how long a wait polls.
        public enum Spin: Sendable, Equatable {
            /// Polls and never sleeps: least latency, one core.
            case forever
            /// Polls that long, then sleeps; zero sleeps at once.
            case atMost(Duration)

            /// The time to poll in nanoseconds; `UInt64.max` for ``forever``.
            public var nanoseconds: UInt64 {
                guard case .atMost(let duration) = self else { return .max }
                let (seconds, attoseconds) = duration.components
                guard seconds >= 0, attoseconds >= 0 else { return 0 }
                let (whole, isTooLong) = UInt64(seconds).multipliedReportingOverflow(by: 1_000_000_000)
                let (sum, isTooLongBySubseconds) = whole.addingReportingOverflow(UInt64(attoseconds / 1_000_000_000))
                return isTooLong || isTooLongBySubseconds ? .max : sum
            }
        }
    }

    /// Memory queues.
    public struct Queues: Sendable, Equatable {
        /// The elements that a memory queue holds before a push waits for a pop: 1,024 by default.
        public var memoryQueueCapacity = 1_024
        public init() {}
    }

    /// Operations in flight, each named by a qtoken.
    public struct Operations: Sendable, Equatable {
        /// The most at any one time, 262,144 by default: 64³, what the scheduler's three-level bitmap spans. One more is `ENOMEM`.
        public var capacity = 262_144
        public init() {}
    }

    /// Queue descriptors.
    public struct Descriptors: Sendable, Equatable {
        /// The most open at any one time: 65,536 by default. One more is `EMFILE`.
        public var capacity = 65_536
        public init() {}
    }

    /// The clock behind timeouts and timers.
    public struct Clock: Sendable, Equatable {
        /// Whether the processor's time-stamp counter is read where it is invariant, instead of `clock_gettime(2)`: preferred by default.
        public var tsc = TimestampCounter.prefer
        public init() {}

        /// Whether the time-stamp counter is the clock where it can be trusted.
        public enum TimestampCounter: String, Sendable, CaseIterable {
            case prefer
            case never
        }
    }

    /// Catnap, the libOS over the kernel's sockets and files.
    public struct Catnap: Sendable, Equatable {
        /// The most sockets that each poll tries directly, 4 by default; with more, readiness comes from epoll.
        public var directPollLimit = 4
        /// The bytes that a connection's first read asks for: 4,096 by default. It doubles while reads come back full.
        public var receiveSize = 4_096
        /// The most bytes that one read asks for: 65,536 by default.
        public var receiveSizeMaximum = 65_536
        /// The most connections that `listen` lets wait for an accept: 4,096 by default. A larger backlog is lowered to this.
        public var backlogMaximum = 4_096
        /// Whether answers to requests that came together are sent together, through io_uring(7): preferred by default.
        public var batchSends = Preference.prefer
        public var files = Files()
        public init() {}

        /// Catnap's files.
        public struct Files: Sendable, Equatable {
            /// Whether files go through io_uring(7) rather than a helper thread: preferred by default.
            public var ioUring = Preference.prefer
            /// The file operations in the kernel's hands at any one time: 128 by default. Further ones wait their turn.
            public var queueDepth = 128
            public init() {}
        }
    }

    /// What others on this machine may ask a running libOS: `demi netstat`, `demi dump`, Prometheus.
    public struct Control: Sendable, Equatable {
        /// The Unix socket at which this user and root may ask: `auto` by default, a socket of each process in a folder that is its user's alone;
        /// else a path, or a folder for sockets of that kind; empty for none. A socket that `auto` cannot make is done without.
        ///
        /// On by default, because whoever needs it has a program before him that was started without: a socket and a thread that sleeps until
        /// somebody comes are all that it costs.
        public var socket = "auto"
        /// A TCP port of 127.0.0.1 that answers `GET /metrics` with the counters, for Prometheus; 0, the default, for none. Everybody on this
        /// machine may ask there.
        public var metricsPort = 0
        public init() {}
    }
}
