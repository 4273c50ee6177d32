/// One row of the schema: all that the file reader, the environment, the checks, the help text and the manual know about a setting.
package struct ConfigurationSetting: Sendable {
    /// Its place in the file: `heap.limit` is `limit` in the section `heap`.
    package let path: String
    package let type: ConfigurationSettingType
    /// What it does, in one or two sentences.
    package let summary: String
    package let read: @Sendable (Configuration) -> ConfigurationValue
    /// Stores a value of the setting's type. Ranges were checked before.
    package let write: @Sendable (inout Configuration, ConfigurationValue) -> Void

    /// The environment variable that sets it: `DEMI_HEAP_LIMIT` for `heap.limit`, except for `LIBOS`, which PDPIX programs know.
    package var variable: String {
        path == "libos" ? "LIBOS" : Configuration.variablePrefix + String(path.uppercased().map { $0 == "." ? "_" : $0 })
    }

    /// Its default, as text.
    package var defaultText: String { type.text(of: read(Configuration())) }
}

extension Configuration {
    static let variablePrefix = "DEMI_"

    /// The schema: every setting, section by section. A new setting is a property and a row here; the file reader, the environment, the
    /// checks, the help, the example file, the manual's table and their tests follow from the row.
    package static let settings: [ConfigurationSetting] = [
        .name("libos", \.libOS, "The libOS, by its name in the registry; demi doctor lists what this build has."),

        .size("heap.limit", \.heap.limit, 2 << 20...256 << 30,
            "The most that the DMA-capable heap grows to. It grows by whole groups of 2 MiB; a remainder is not used."),
        .choice("heap.huge_pages", \.heap.hugePages,
            "Whether the heap lies on huge pages of 2 MiB. With require, starting fails where the system grants none."),
        .boolean("heap.lock_pages", \.heap.lockPages,
            "Whether ordinary pages of the heap are locked in memory, as kernel-bypass devices need."),
        .boolean("heap.checked", \.heap.checked,
            "Whether freed objects are poisoned, and double frees, foreign pointers and leaks are reported. Slow; for finding mistakes."),

        .spin("wait.spin", \.wait.spin, maximum: 3_600_000_000_000,
            "How long a wait polls before it sleeps. With 0 it sleeps at once, with forever it never does and keeps one core busy."),

        .count("queues.memory_queue_capacity", \.queues.memoryQueueCapacity, 1...1 << 20, unit: "elements",
            "What a memory queue holds before a push waits for a pop."),

        .count("operations.capacity", \.operations.capacity, 64...262_144, unit: "operations",
            "The most operations in flight at any one time."),

        .count("descriptors.capacity", \.descriptors.capacity, 16...262_144, unit: "descriptors",
            "The most queue descriptors open at any one time."),

        .choice("clock.tsc", \.clock.tsc,
            "Whether the processor's time-stamp counter is the clock where it runs at one rate, instead of a system call."),

        .count("catnap.direct_poll_limit", \.catnap.directPollLimit, 0...1_024, unit: "descriptors",
            "The most sockets that each poll tries directly. With more, readiness comes from epoll."),
        .size("catnap.receive_size", \.catnap.receiveSize, 64...16 << 20,
            "What a connection's first read asks for. It doubles while reads come back full."),
        .size("catnap.receive_size_maximum", \.catnap.receiveSizeMaximum, 64...16 << 20, "The most that one read asks for."),
        .count("catnap.backlog_maximum", \.catnap.backlogMaximum, 1...65_535, unit: "connections",
            "The most connections that wait for an accept. A larger backlog is lowered to this."),
        .choice("catnap.batch_sends", \.catnap.batchSends,
            "Whether answers to requests that came together are sent together, through io_uring. With require, starting fails where the kernel lacks it."),
        .choice("catnap.files.io_uring", \.catnap.files.ioUring,
            "Whether files go through io_uring rather than a helper thread. With require, starting fails where the kernel lacks it."),
        .count("catnap.files.queue_depth", \.catnap.files.queueDepth, 1...4_096, unit: "operations",
            "The most file operations in the kernel's hands at any one time. Further ones wait their turn."),
    ] + networkSettings + controlSettings

    private static let controlSettings: [ConfigurationSetting] = [
        .text("control.socket", \.control.socket, .path(107),
            "Where demi netstat, demi dump and Prometheus ask: with auto, a Unix socket of each process in a folder of its user's; a path, or a folder for such sockets."),
        .count("control.metrics_port", \.control.metricsPort, 0...65_535, unit: "a port",
            "A TCP port of 127.0.0.1 at which everybody on this machine may read the counters, as Prometheus does. 0 is none."),
    ]

    /// What no row can say alone: settings that bind each other. Each has the path that is to blame.
    func crossProblem() -> (path: String, message: String)? {
        if catnap.receiveSize > catnap.receiveSizeMaximum {
            let message = "expected at most catnap.receive_size_maximum (\(catnap.receiveSizeMaximum)), found \(catnap.receiveSize)"
            return ("catnap.receive_size", message)
        }
        return networkProblem()
    }

    /// The first setting that is out of range, and why.
    func firstProblem() -> (path: String, message: String)? {
        for setting in Self.settings {
            if let message = setting.type.problem(with: setting.read(self)) { return (setting.path, message) }
        }
        return crossProblem()
    }

    /// Checks every setting's range. Whether this build has the libOS is the registry's to say.
    ///
    /// Throws `EINVAL` with the path of the first setting that is out of range. Complexity: O(settings).
    public func validate() throws(ConfigurationError) {
        if let (path, message) = firstProblem() { throw ConfigurationError(key: path, message) }
    }
}

// MARK: - Rows

typealias ConfigurationPath<Value> = any WritableKeyPath<Configuration, Value> & Sendable

extension ConfigurationSetting {
    static func name(_ path: String, _ property: ConfigurationPath<String>, _ summary: String) -> ConfigurationSetting {
        ConfigurationSetting(path: path, type: .name, summary: summary, read: { .text($0[keyPath: property]) }) { configuration, value in
            if case .text(let text) = value { configuration[keyPath: property] = text }
        }
    }

    static func boolean(_ path: String, _ property: ConfigurationPath<Bool>, _ summary: String) -> ConfigurationSetting {
        ConfigurationSetting(path: path, type: .boolean, summary: summary, read: { .boolean($0[keyPath: property]) }) {
            configuration, value in
            if case .boolean(let flag) = value { configuration[keyPath: property] = flag }
        }
    }

    static func choice<Choice>(_ path: String, _ property: ConfigurationPath<Choice>, _ summary: String) -> ConfigurationSetting
    where Choice: RawRepresentable<String> & CaseIterable & Sendable {
        let type = ConfigurationSettingType.choice(Choice.allCases.map(\.rawValue))
        return ConfigurationSetting(path: path, type: type, summary: summary, read: { .text($0[keyPath: property].rawValue) }) {
            configuration, value in
            if case .text(let word) = value, let choice = Choice(rawValue: word) { configuration[keyPath: property] = choice }
        }
    }

    static func count(
        _ path: String, _ property: ConfigurationPath<Int>, _ range: ClosedRange<Int>, unit: String, _ summary: String
    ) -> ConfigurationSetting {
        integer(path, property, .count(range, unit: unit), summary)
    }

    static func size(
        _ path: String, _ property: ConfigurationPath<Int>, _ range: ClosedRange<Int>, _ summary: String
    ) -> ConfigurationSetting {
        integer(path, property, .size(range), summary)
    }

    static func integer(
        _ path: String, _ property: ConfigurationPath<Int>, _ type: ConfigurationSettingType, _ summary: String
    ) -> ConfigurationSetting {
        ConfigurationSetting(path: path, type: type, summary: summary, read: { .integer($0[keyPath: property]) }) {
            configuration, value in
            if case .integer(let number) = value { configuration[keyPath: property] = number }
        }
    }

    static func spin(
        _ path: String, _ property: ConfigurationPath<Configuration.Wait.Spin>, maximum: UInt64, _ summary: String
    ) -> ConfigurationSetting {
        ConfigurationSetting(path: path, type: .spin(maximum: maximum), summary: summary, read: { .spin($0[keyPath: property]) }) {
            configuration, value in
            if case .spin(let spin) = value { configuration[keyPath: property] = spin }
        }
    }

    static func duration(
        _ path: String, _ property: ConfigurationPath<Duration>, _ range: ClosedRange<UInt64>, _ summary: String
    ) -> ConfigurationSetting {
        ConfigurationSetting(path: path, type: .duration(range), summary: summary, read: { .duration($0[keyPath: property]) }) {
            configuration, value in
            if case .duration(let duration) = value { configuration[keyPath: property] = duration }
        }
    }

    static func text(
        _ path: String, _ property: ConfigurationPath<String>, _ grammar: ConfigurationGrammar, _ summary: String
    ) -> ConfigurationSetting {
        ConfigurationSetting(path: path, type: .text(grammar), summary: summary, read: { .text($0[keyPath: property]) }) {
            configuration, value in
            if case .text(let text) = value { configuration[keyPath: property] = text }
        }
    }

    static func list(
        _ path: String, _ property: ConfigurationPath<[String]>, _ grammar: ConfigurationGrammar, maximum: Int, _ summary: String
    ) -> ConfigurationSetting {
        ConfigurationSetting(path: path, type: .list(grammar, maximum: maximum), summary: summary, read: { .list($0[keyPath: property]) }) {
            configuration, value in
            if case .list(let words) = value { configuration[keyPath: property] = words }
        }
    }
}
