import ArgumentParser
import Demikernel
import Glibc
import Synchronization
import SystemPackage

struct PingCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ping", abstract: "Measures round trips to an echo server.",
        discussion: """
            All clients share one thread, each with one message under way. Every answer is compared with what was sent. A datagram that \
            is not answered in time counts as lost and is sent again; a connection that is not answered in time counts as failed. \
            SIGINT ends the measurement and prints what there is.

            Times are in nanoseconds in JSON. A round trip ends when the whole answer has arrived, and the next one begins there.

            Examples:
              demi echo ping
              demi echo ping --size 1024 --clients 32 --count 1000000 --json
              demi echo ping --transport udp --address 192.0.2.1:7000 --timeout 200ms
              demi echo ping --spin 0        sleep instead of polling
              demi echo ping --memif /tmp/memif.sock --spin forever
              demi echo ping --memif /tmp/memif.sock --idle 10000

            Exit status: 0 all round trips were made, 1 some client failed or was answered wrongly, 2 wrong usage, 130 interrupted.
            """)

    @OptionGroup var options: EndpointOptions

    @Option(help: "tcp or udp.")
    var transport = Transport.tcp

    @Option(help: ArgumentHelp("Bytes of a message.", valueName: "bytes"))
    var size = 64

    @Option(help: ArgumentHelp("Round trips that are measured, over all clients.", valueName: "number"))
    var count = 100_000

    @Option(help: ArgumentHelp("Connections, or UDP sockets, with one message under way on each.", valueName: "number"))
    var clients = 1

    @Option(help: ArgumentHelp("Round trips before the first that is measured. Without it a tenth of the count.", valueName: "number"))
    var warmup: Int?

    @Option(help: ArgumentHelp("How long an answer may take, such as 200ms.", valueName: "time"))
    var timeout = TimeSpan(.seconds(1))

    @Option(
        help: ArgumentHelp("Measure, open this many connections more that stay idle, and measure again: TCP alone.", valueName: "number"))
    var idle = 0

    @Flag(help: "Print one JSON object.") var json = false

    mutating func validate() throws {
        let sizeMaximum = transport == .udp ? EchoClient.datagramSizeMaximum : EchoClient.sizeMaximum
        try Self.check("--size", size, 1...sizeMaximum)
        try Self.check("--count", count, 1...1 << 40)
        try Self.check("--clients", clients, 1...60_000)
        if let warmup { try Self.check("--warmup", warmup, 0...1 << 40) }
        guard clients * size <= EchoClient.memoryMaximum else {
            throw ValidationError("--clients times --size is above \(EchoClient.memoryMaximum.grouped) bytes")
        }
        try Self.check("--idle", idle, 0...60_000)
        guard idle == 0 || transport == .tcp else { throw ValidationError("--idle: only TCP has connections") }
        guard options.address?.port != 0 else { throw ValidationError("--address: a port is needed, as in 127.0.0.1:7000") }
    }

    private static func check(_ option: String, _ value: Int, _ range: ClosedRange<Int>) throws {
        guard range.contains(value) else {
            throw ValidationError("\(option): expected a number from \(range.lowerBound) to \(range.upperBound), found \(value)")
        }
    }

    func run() throws {
        if let cpu = options.cpu { try Processors.pin(to: cpu) }
        let libOS = try LibOS(options.configuration(.client))
        let stop = try libOS.pop(libOS.queue())
        let mailbox = libOS.core.mailbox
        try Interruption.handle { mailbox.cancel(stop) }
        let plan = EchoClient.Plan(
            address: options.remoteAddress(libOS.configuration), transport: transport, size: size, count: UInt64(count), clients: clients,
            warmup: UInt64(warmup ?? count / 10), timeout: timeout.nanoseconds, showsProgress: isatty(STDERR_FILENO) == 1)
        var alone: EchoOutcome?
        if idle > 0 {
            alone = try measure(libOS, plan, stop)
            try openIdleConnections(libOS, plan.address)
        }
        let outcome = try measure(libOS, plan, stop)
        let name = libOS.configuration.libOS
        writeLine(json ? outcome.json(plan, name, idle: idle, alone: alone) : outcome.text(plan, name, idle: idle, alone: alone))
        if outcome.wasInterrupted { throw Failure.quiet(ExitStatus.interrupted) }
        try check(outcome, libOS)
    }

    private func measure(_ libOS: LibOS, _ plan: EchoClient.Plan, _ stop: QToken) throws -> EchoOutcome {
        var client = EchoClient(libOS, plan, stop: stop)
        try client.run()
        client.close()
        return client.outcome()
    }

    private func check(_ outcome: EchoOutcome, _ libOS: LibOS) throws {
        guard let reason = outcome.failure else { return }
        throw Failure("\(outcome.failures) of \(clients) clients failed: \(reason)\(libOS.missingPeer)")
    }

    /// So many connections, of which nothing is asked. They stay open until the process ends.
    private func openIdleConnections(_ libOS: LibOS, _ address: SocketAddress) throws {
        /// Fewer than a server's backlog.
        let atOnce = 256
        var opened = 0
        do throws(DemikernelError) {
            while opened < idle {
                var tokens: [QToken] = []
                for _ in 0..<min(atOnce, idle - opened) {
                    tokens.append(try libOS.connect(try libOS.socket(address.family, .stream), to: address))
                }
                for token in tokens { try libOS.wait(token, timeout: .seconds(5)).get() }
                opened += tokens.count
            }
        } catch {
            throw Failure("cannot open idle connection \(opened + 1) of \(idle): \(error)\(libOS.missingPeer)")
        }
    }
}

/// A time on the command line: 200ms, 50us, 2s.
struct TimeSpan: ExpressibleByArgument {
    let duration: Duration

    init(_ duration: Duration) { self.duration = duration }

    init?(argument: String) {
        guard case .spin(.atMost(let duration))? = ConfigurationSettingType.spin(maximum: 0).parse(argument) else { return nil }
        guard duration >= .milliseconds(1), duration <= .seconds(3600) else { return nil }
        self.duration = duration
    }

    var nanoseconds: UInt64 { Configuration.Wait.Spin.atMost(duration).nanoseconds }
    var defaultValueDescription: String { "\(duration.components.seconds)s" }
}
