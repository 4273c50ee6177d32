import ArgumentParser
import Demikernel
import Glibc
import SystemPackage

struct ChurnCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "churn", abstract: "Opens and closes TCP connections to an echo server, as many a second as can be.",
        discussion: """
            Each connection is opened, ended in both directions, and closed; then the next one takes its place. The side that ends first \
            keeps the ports for a while (TIME_WAIT): with the kernel's sockets, or over catnip without a short --time-wait, a client runs \
            out of ports after some 28,000 connections.

            Examples:
              demi echo serve --memif /tmp/memif.sock --spin forever --cpu 0
              demi churn --memif /tmp/memif.sock --spin forever --cpu 1 --time-wait 1ms
              demi churn --libos catnap --count 10000

            Exit status: 0 every connection was opened and closed, 1 it failed, 2 wrong usage, 130 interrupted.
            """)

    @OptionGroup var options: EndpointOptions

    @Option(help: ArgumentHelp("Connections that are measured.", valueName: "number"))
    var count = 20_000

    @Option(help: ArgumentHelp("Connections at a time.", valueName: "number"))
    var clients = 32

    @Option(help: ArgumentHelp("How long catnip keeps a closed connection's ports, instead of what the settings say.", valueName: "time"))
    var timeWait: TimeSpan?

    @Flag(help: "Print one JSON object.") var json = false

    mutating func validate() throws {
        guard 1...1 << 40 ~= count else { throw ValidationError("--count: expected a number from 1, found \(count)") }
        guard 1...10_000 ~= clients else { throw ValidationError("--clients: expected a number from 1 to 10000, found \(clients)") }
        guard options.address?.port != 0 else { throw ValidationError("--address: a port is needed, as in 127.0.0.1:7000") }
    }

    func run() throws {
        if let cpu = options.cpu { try Processors.pin(to: cpu) }
        var configuration = try options.configuration(.client)
        if let timeWait { configuration.network.timers.timeWait = timeWait.duration }
        let libOS = try LibOS(configuration)
        let stop = try libOS.pop(libOS.queue())
        let mailbox = libOS.core.mailbox
        try Interruption.handle { mailbox.cancel(stop) }
        let address = options.remoteAddress(configuration)
        var churn = Churn(libOS, address, count: count, stop: stop)
        do throws(DemikernelError) {
            try churn.run(clients: min(clients, count))
        } catch {
            let ports = error.errno == .addressNotAvailable ? "; closed connections keep their ports: see --time-wait" : ""
            throw Failure("connection \(churn.completed + 1) to \(address) failed: \(error)\(ports)\(libOS.missingPeer)")
        }
        report(churn, configuration.libOS)
        if churn.wasInterrupted { throw Failure.quiet(ExitStatus.interrupted) }
    }

    private func report(_ churn: borrowing Churn, _ libOS: String) {
        let perSecond = churn.elapsed == 0 ? 0 : UInt64(Double(churn.completed) * 1e9 / Double(churn.elapsed))
        guard json else {
            return writeLine(
                "\(libOS) tcp: \(churn.completed.grouped) connections opened and closed, \(clients) at a time, \(perSecond.grouped) a second")
        }
        var object = JSONObject()
        object.add("libos", libOS)
        object.add("measurement", "churn")
        object.add("transport", "tcp")
        object.add("clients", clients)
        object.add("count", churn.completed)
        object.add("perSecond", perSecond)
        object.add("errors", 0)
        writeLine(object.text)
    }
}

/// The loop of `demi churn`: each place of `tokens` is one connection's connect, and then its pop of the end of the stream.
struct Churn: ~Copyable {
    private let libOS: LibOS
    private let address: SocketAddress
    private let count: Int
    private var clock = Clock()
    private var tokens: [QToken]
    private var isConnecting = [false]
    private var started = 0
    private(set) var completed = 0
    private(set) var elapsed: UInt64 = 0
    private(set) var wasInterrupted = false

    init(_ libOS: LibOS, _ address: SocketAddress, count: Int, stop: QToken) {
        self.libOS = libOS
        self.address = address
        self.count = count
        tokens = [stop]
    }

    mutating func run(clients: Int) throws(DemikernelError) {
        let began = clock.now()
        defer { elapsed = clock.now() &- began }
        for _ in 0..<clients {
            tokens.append(try connect())
            isConnecting.append(true)
        }
        while completed < count {
            let completion = try libOS.waitAny(tokens.span, timeout: .seconds(10))
            let (place, connection) = (completion.offset, completion.descriptor)
            guard place > 0 else {
                wasInterrupted = true
                return
            }
            if isConnecting[place] {
                try completion.get()
                try libOS.shutdown(connection, .send)
                tokens[place] = try libOS.pop(connection)
                isConnecting[place] = false
            } else {
                _ = try completion.popped()
                try libOS.close(connection)
                completed += 1
                try replace(place)
            }
        }
    }

    /// The next connection, or none where enough have begun.
    private mutating func replace(_ place: Int) throws(DemikernelError) {
        if started < count {
            tokens[place] = try connect()
            isConnecting[place] = true
        } else {
            tokens.swapAt(place, tokens.count - 1)
            isConnecting.swapAt(place, isConnecting.count - 1)
            tokens.removeLast()
            isConnecting.removeLast()
        }
    }

    private mutating func connect() throws(DemikernelError) -> QToken {
        started += 1
        return try libOS.connect(try libOS.socket(address.family), to: address)
    }
}
