import ArgumentParser
import Demikernel
import Glibc
import SystemPackage

struct StreamSendCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "send", abstract: "Sends for a while, and says how much has arrived a second.",
        discussion: "Exit status: 0 every byte arrived, 1 it failed, 2 wrong usage, 130 interrupted.")

    @OptionGroup var options: EndpointOptions

    @Option(help: ArgumentHelp("Bytes of a push.", valueName: "bytes"))
    var pushSize = 65_536

    @Option(help: ArgumentHelp("Seconds to send for.", valueName: "number"))
    var seconds = 2.0

    @Flag(help: "Print one JSON object.") var json = false

    mutating func validate() throws {
        guard 1...16 << 20 ~= pushSize else { throw ValidationError("--push-size: expected a number from 1 to \(16 << 20), found \(pushSize)") }
        guard 0.01...86_400 ~= seconds else { throw ValidationError("--seconds: expected a number from 0.01 to 86400, found \(seconds)") }
        guard options.address?.port != 0 else { throw ValidationError("--address: a port is needed, as in 127.0.0.1:7000") }
    }

    func run() throws {
        if let cpu = options.cpu { try Processors.pin(to: cpu) }
        let libOS = try LibOS(options.configuration(.client))
        let stop = try libOS.pop(libOS.queue())
        let mailbox = libOS.core.mailbox
        try Interruption.handle { mailbox.cancel(stop) }
        let address = options.remoteAddress(libOS.configuration)
        var sender = StreamSender(libOS, pushSize: pushSize, nanoseconds: UInt64(seconds * 1e9), stop: stop)
        do throws(DemikernelError) {
            try sender.run(to: address)
        } catch {
            throw Failure("the stream to \(address) failed: \(error)\(libOS.missingPeer)")
        }
        report(sender, libOS.configuration.libOS)
        if sender.wasInterrupted { throw Failure.quiet(ExitStatus.interrupted) }
        guard sender.arrived == sender.sent else {
            throw Failure("\(sender.sent.grouped) bytes were sent, and \(sender.arrived.grouped) arrived")
        }
    }

    private func report(_ sender: borrowing StreamSender, _ libOS: String) {
        let perSecond = sender.elapsed == 0 ? 0 : Double(sender.arrived) * 8e9 / Double(sender.elapsed)
        guard json else {
            return writeLine(
                "\(libOS) tcp stream, pushes of \(pushSize.grouped) B: \((perSecond / 1e9).fixed(2)) Gbit/s, \(sender.arrived.grouped) bytes in "
                    + "\((Double(sender.elapsed) / 1e9).fixed(2)) s")
        }
        var object = JSONObject()
        object.add("libos", libOS)
        object.add("measurement", "stream")
        object.add("transport", "tcp")
        object.add("size", pushSize)
        object.add("bytes", sender.arrived)
        object.add("nanoseconds", sender.elapsed)
        object.add("bitsPerSecond", UInt64(perSecond))
        object.add("errors", sender.arrived == sender.sent || sender.wasInterrupted ? 0 : 1)
        writeLine(object.text)
    }
}

/// Keeps some pushes under way until the time is over, and then asks how much has arrived.
struct StreamSender: ~Copyable {
    private static var underWayMaximum: Int { 16 }

    private let libOS: LibOS
    private let pushSize: Int
    private let duration: UInt64
    private let stop: QToken
    private var clock = Clock()
    private(set) var sent: UInt64 = 0
    private(set) var arrived: UInt64 = 0
    private(set) var elapsed: UInt64 = 0
    private(set) var wasInterrupted = false

    init(_ libOS: LibOS, pushSize: Int, nanoseconds: UInt64, stop: QToken) {
        self.libOS = libOS
        self.pushSize = pushSize
        self.stop = stop
        duration = nanoseconds
    }

    mutating func run(to address: SocketAddress) throws(DemikernelError) {
        let connection = try libOS.socket(address.family)
        try libOS.wait(try libOS.connect(connection, to: address), timeout: .seconds(5)).get()
        let began = clock.now()
        try send(connection, until: began &+ duration)
        guard !wasInterrupted else { return }
        try libOS.shutdown(connection, .send)
        var answer: UInt64 = 0
        var received = 0
        while received < 8 {
            var segments = try libOS.wait(try libOS.pop(connection), timeout: .seconds(30)).popped()
            guard !segments.isEmpty else { throw DemikernelError(.connectionReset, "the receiver ended without an answer") }
            while let buffer = segments.removeFirst() {
                for offset in 0..<min(buffer.count, 8 - received) {
                    answer |= unsafe UInt64(buffer.bytes.unsafeLoad(fromByteOffset: offset, as: UInt8.self)) << UInt64(8 * received)
                    received += 1
                }
            }
        }
        elapsed = clock.now() &- began
        arrived = answer
        try libOS.close(connection)
    }

    private mutating func send(_ connection: QueueDescriptor, until deadline: UInt64) throws(DemikernelError) {
        var tokens = [stop]
        while clock.now() < deadline {
            while tokens.count <= Self.underWayMaximum, clock.now() < deadline {
                let push = try push(connection)
                if let completion = try libOS.takeIfComplete(push) { try completion.get() } else { tokens.append(push) }
            }
            guard tokens.count > 1 else { continue }
            try next(&tokens)
            if wasInterrupted { return }
        }
        while tokens.count > 1, !wasInterrupted { try next(&tokens) }
    }

    /// Waits for one push to be done.
    private mutating func next(_ tokens: inout [QToken]) throws(DemikernelError) {
        let completion = try libOS.waitAny(tokens.span, timeout: .seconds(30))
        let place = completion.offset
        guard place > 0 else {
            wasInterrupted = true
            return
        }
        tokens.swapAt(place, tokens.count - 1)
        tokens.removeLast()
        try completion.get()
    }

    /// Whatever the memory holds: nobody looks at it.
    private mutating func push(_ connection: QueueDescriptor) throws(DemikernelError) -> QToken {
        let buffer = try libOS.allocate(pushSize)
        do throws(PushError) {
            let token = try libOS.push(connection, buffer)
            sent &+= UInt64(pushSize)
            return token
        } catch {
            throw error.reason
        }
    }
}
