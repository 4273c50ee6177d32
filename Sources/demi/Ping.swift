import ArgumentParser
import Demikernel
import Glibc
import Synchronization

struct EchoRequestCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ping", abstract: "Sends ICMP echo requests from our own network stack, as ping(8) does from the kernel's.",
        discussion: """
            Over IPv4 and IPv6, and any libOS that has a stack of its own. Without --count it goes on until it is interrupted. Every reply's
            data is compared with what was sent. Times are of this libOS's clock, from the request's way into the stack to the turn that
            found the reply.

            Examples:
              demi ping --memif /tmp/memif.sock 10.117.0.1
              demi ping --memif /tmp/memif.sock fd00:117::1 --count 5 --interval 200ms
              demi ping --memif /tmp/memif.sock 10.117.0.1 --size 1472 --interval 0 --count 100000 --quiet

            Exit status: 0 there were replies, 1 there were none (or with --deadline fewer than --count), 2 another error, wrong usage too.
            """)

    @Argument(help: ArgumentHelp("An IPv4 or IPv6 address. Without it the other end of the memif.", valueName: "address"))
    var destination: String?

    @OptionGroup var options: LibOSOptions

    @Option(name: [.customShort("c"), .long], help: ArgumentHelp("End after so many requests.", valueName: "number"))
    var count: Int?

    @Option(name: [.customShort("i"), .long], help: ArgumentHelp(
        "The time between two requests, 1s by default; with 0 each follows the reply to the one before.", valueName: "time"))
    var interval = PingTime(.seconds(1))

    @Option(name: [.customShort("s"), .long], help: ArgumentHelp("Bytes of data in a request, 56 by default; 65,000 at most.", valueName: "bytes"))
    var size = 56

    @Option(name: [.customShort("W"), .long], help: ArgumentHelp("How long a reply may take, 1s by default.", valueName: "time"))
    var timeout = PingTime(.seconds(1))

    @Option(name: [.customShort("w"), .long], help: ArgumentHelp("End after so long, however many requests there were.", valueName: "time"))
    var deadline: PingTime?

    @Flag(name: [.customShort("q"), .long], help: "The statistics alone.") var quiet = false

    @Flag(help: "Print the statistics as one JSON object.") var json = false

    mutating func validate() throws {
        if let destination, IPAddress(destination) == nil { throw ValidationError("expected an IPv4 or IPv6 address, found \(destination.quotedForMessage)") }
        if let count, !(1...1_000_000_000).contains(count) { throw ValidationError("--count: expected 1 to 1000000000, found \(count)") }
        guard 0...65_000 ~= size else { throw ValidationError("--size: expected 0 to 65000 bytes, found \(size)") }
        guard timeout.nanoseconds > 0 else { throw ValidationError("--timeout: expected a time above 0") }
    }

    func run() throws {
        do {
            try ping()
        } catch let error as DemikernelError {
            throw Failure("\(error)", status: ExitStatus.usage)
        } catch let error as ConfigurationError {
            throw Failure("\(error)", status: ExitStatus.usage)
        }
    }

    private func ping() throws {
        if let cpu = options.cpu { try Processors.pin(to: cpu) }
        let configuration = try options.configuration(.client)
        guard configuration.libOS != "catnap" else {
            throw Failure("catnap's network is the kernel's: use ping(8), or another libOS (--libos, --memif)", status: ExitStatus.usage)
        }
        let libOS = try LibOS(configuration)
        let target = destination.flatMap { IPAddress($0) } ?? IPAddress(EndpointOptions.peer(of: configuration))
        var session = PingSession(libOS, target, size: size, timeout: timeout.nanoseconds, isQuiet: quiet || json)
        try session.handleSignals()
        if !json {
            let name = libOS.networkDeviceName.map { " on \($0)" } ?? ""
            writeLine("PING \(target) from \(try libOS.sourceAddress(to: target)), \(configuration.libOS)\(name): \(size) data bytes")
        }
        try session.run(count: count ?? .max, interval: interval.nanoseconds, deadline: deadline?.nanoseconds)
        writeLine(json ? session.statistics.object(target).text : session.statistics.text(target))
        let isShort = deadline != nil && count.map { session.statistics.received < $0 } ?? false
        guard session.statistics.received > 0 else {
            throw libOS.missingPeer.isEmpty ? Failure.quiet(ExitStatus.failed) : Failure("no reply\(libOS.missingPeer)")
        }
        if isShort { throw Failure.quiet(ExitStatus.failed) }
    }
}

/// A time on the command line, 0 included.
struct PingTime: ExpressibleByArgument {
    let nanoseconds: UInt64

    init(_ duration: Duration) { nanoseconds = duration.nanosecondsClamped }

    init?(argument: String) {
        // Seconds without a unit too, as ping(8) has them.
        if let seconds = Double(argument), (0...86_400).contains(seconds) {
            nanoseconds = UInt64(seconds * 1e9)
            return
        }
        guard case .spin(.atMost(let duration))? = ConfigurationSettingType.spin(maximum: 0).parse(argument) else { return nil }
        guard duration >= .zero, duration <= .seconds(86_400) else { return nil }
        nanoseconds = duration.nanosecondsClamped
    }
}

/// One run of requests and replies.
struct PingSession {
    private static let stop = Atomic<Bool>(false)

    private let libOS: LibOS
    private let target: IPAddress
    private let size: Int
    private let timeout: UInt64
    private let isQuiet: Bool
    private let identifier: UInt16
    /// When the requests of the last 65,536 were sent; 0 for none, and for those that were answered.
    private var sent = [UInt64](repeating: 0, count: 65_536)
    /// Those that have been answered.
    private var answered = [Bool](repeating: false, count: 65_536)
    private(set) var statistics = PingStatistics()

    init(_ libOS: LibOS, _ target: IPAddress, size: Int, timeout: UInt64, isQuiet: Bool) {
        self.libOS = libOS
        self.target = target
        self.size = size
        self.timeout = timeout
        self.isQuiet = isQuiet
        identifier = UInt16(truncatingIfNeeded: getpid())
    }

    func handleSignals() throws {
        let waker = libOS.waker
        try Interruption.handle {
            Self.stop.store(true, ordering: .relaxed)
            waker.wake()
        }
    }

    private var isStopped: Bool { Self.stop.load(ordering: .relaxed) }

    mutating func run(count: Int, interval: UInt64, deadline: UInt64?) throws {
        let start = libOS.now
        let end = deadline.map { Clock.deadline(after: $0, from: start) } ?? .max
        var next = start
        while statistics.transmitted < count, !isStopped, libOS.now < end {
            try send()
            next = Clock.deadline(after: interval, from: next)
            if statistics.transmitted == count { break }
            if interval == 0 {
                let before = statistics.received + statistics.errors
                let limit = min(end, Clock.deadline(after: timeout, from: libOS.now))
                while statistics.received + statistics.errors == before, libOS.now < limit, !isStopped { take(until: limit) }
            } else {
                while libOS.now < min(next, end), !isStopped { take(until: min(next, end)) }
            }
        }
        // What was sent last may still come.
        let limit = min(end, Clock.deadline(after: timeout, from: libOS.now))
        while statistics.received + statistics.errors < statistics.transmitted, libOS.now < limit, !isStopped { take(until: limit) }
        statistics.elapsed = libOS.now &- start
    }

    private mutating func send() throws {
        let number = UInt16(truncatingIfNeeded: statistics.transmitted + 1)
        answered[Int(number)] = false
        sent[Int(number)] = try libOS.sendEcho(to: target, identifier: identifier, sequenceNumber: number, dataBytes: size)
        statistics.transmitted += 1
    }

    private mutating func take(until limit: UInt64) {
        guard let reply = libOS.waitForEchoReply(until: limit, isStopped: { isStopped }) else { return }
        guard reply.identifier == identifier, sent[Int(reply.sequenceNumber)] != 0 else { return }
        let number = Int(reply.sequenceNumber)
        if let error = reply.error {
            guard !answered[number] else { return }
            answered[number] = true
            statistics.errors += 1
            return say("From \(reply.source): icmp_seq=\(number) \(error.pingText)")
        }
        let time = reply.receivedAt > sent[number] ? reply.receivedAt - sent[number] : 0
        var line = "\(reply.dataBytes + 8) bytes from \(reply.source): icmp_seq=\(number) ttl=\(reply.hopLimit) time=\((Double(time) / 1e6).fixed(3)) ms"
        if !reply.isIntact || reply.dataBytes != size {
            statistics.wrong += 1
            line += " (wrong data!)"
        }
        if answered[number] {
            statistics.duplicates += 1
            line += " (DUP!)"
        } else {
            answered[number] = true
            statistics.add(time)
        }
        say(line)
    }

    private func say(_ line: String) { if !isQuiet { writeLine(line) } }
}

/// What ping(8) prints at its end.
struct PingStatistics {
    var transmitted = 0
    private(set) var received = 0
    var duplicates = 0
    var errors = 0
    var wrong = 0
    var elapsed: UInt64 = 0
    private var least = UInt64.max
    private var most: UInt64 = 0
    private var sum = 0.0
    private var squares = 0.0

    mutating func add(_ time: UInt64) {
        received += 1
        least = min(least, time)
        most = max(most, time)
        sum += Double(time)
        squares += Double(time) * Double(time)
    }

    private var mean: Double { received == 0 ? 0 : sum / Double(received) }
    private var deviation: Double { received == 0 ? 0 : max(0, squares / Double(received) - mean * mean).squareRoot() }

    func text(_ target: IPAddress) -> String {
        var counts = "\(transmitted) packets transmitted, \(received) received"
        for (number, name) in [(duplicates, "duplicates"), (wrong, "corrupted"), (errors, "errors")] where number > 0 { counts += ", +\(number) \(name)" }
        let loss = transmitted == 0 ? 0 : Double(transmitted - received) * 100 / Double(transmitted)
        let lossText = loss == loss.rounded() ? "\(Int(loss))" : loss.fixed(2)
        var text = "\n--- \(target) ping statistics ---\n\(counts), \(lossText)% packet loss, time \(elapsed / 1_000_000)ms"
        if received > 0 {
            let times = [Double(least), mean, Double(most), deviation].map { ($0 / 1e6).fixed(3) }
            text += "\nrtt min/avg/max/mdev = \(times.joined(separator: "/")) ms"
        }
        return text
    }

    func object(_ target: IPAddress) -> JSONObject {
        var object = JSONObject()
        object.add("address", "\(target)")
        object.add("transmitted", transmitted)
        object.add("received", received)
        object.add("duplicates", duplicates)
        object.add("corrupted", wrong)
        object.add("errors", errors)
        object.add("nanoseconds", elapsed)
        if received > 0 {
            object.add("minimum", least)
            object.add("mean", UInt64(mean))
            object.add("maximum", most)
            object.add("deviation", UInt64(deviation))
        }
        return object
    }
}

extension ICMPError {
    /// As ping(8) says it.
    fileprivate var pingText: String {
        switch self {
        case .unreachable(.network): "Destination Net Unreachable"
        case .unreachable(.host): "Destination Host Unreachable"
        case .unreachable(.protocol): "Destination Protocol Unreachable"
        case .unreachable(.port): "Destination Port Unreachable"
        case .unreachable(.administratively): "Packet filtered"
        case .packetTooBig(let mtu): "Frag needed (mtu = \(mtu))"
        case .timeExceeded: "Time to live exceeded"
        case .parameterProblem: "Parameter problem"
        }
    }
}

extension LibOS {
    /// What the device calls itself; nil for the kernel's.
    fileprivate var networkDeviceName: String? { core.network.isPresent ? core.network.capabilities.name : nil }
}
