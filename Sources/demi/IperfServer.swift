import Demikernel

/// The tests that are under way, by their cookies.
///
/// Sendable unchecked: it is used on the libOS's thread alone, on which all tasks of `LibOS.run` run.
final class IperfServer: @unchecked Sendable {
    private static let testsMaximum = 64
    private var tests: [IperfCookie: IperfTest] = [:]
    private let json: Bool

    init(json: Bool) { self.json = json }

    /// A connection: the first with its cookie controls a test, the others are its streams.
    func take(_ connection: Connection, _ here: TaskLibOS) async {
        do throws(DemikernelError) {
            let cookie = IperfCookie(bytes: try await connection.bytes(IperfCookie.byteCount))
            let control = IperfControl(connection: connection, here: here)
            if let test = tests[cookie] {
                await test.add(connection)
            } else if tests.count < Self.testsMaximum {
                try await conduct(cookie, control)
            } else {
                try await control.send(.accessDenied)
            }
        } catch {
            writeError("iperf: \(connection.remoteAddress): \(error)\n")
        }
    }

    private func conduct(_ cookie: IperfCookie, _ control: IperfControl) async throws(DemikernelError) {
        try? control.connection.set(.noDelay, to: true)
        try await control.send(.settings)
        let settings = try await control.settings()
        guard settings.isPossible else {
            // 13 is iperf's IEUNIMP, "an option that is not implemented": the client says so to its user and ends, instead of waiting.
            return try await control.refuse(13)
        }
        let test = IperfTest(settings, control)
        tests[cookie] = test
        defer {
            test.end()
            tests[cookie] = nil
        }
        try await control.send(.createStreams)
        while true {
            switch try await control.state() {
            case .testEnd: break
            case .clientTerminate: return
            default: throw DemikernelError(.invalidArgument, "the iperf client says something at the wrong time")
            }
            test.end()
            try await control.send(.exchangeResults)
            _ = try await control.text()
            try await control.send(test.results)
            try await control.send(.displayResults)
            // Its last word may be the end of the connection.
            _ = try? await control.state()
            return report(test, control.connection.remoteAddress)
        }
    }

    private func report(_ test: IperfTest, _ client: SocketAddress) {
        guard !json else { return writeLine(test.summary(client).text) }
        func rate(_ bytes: UInt64) -> String { test.elapsed == 0 ? "-" : (Double(bytes) * 8 / Double(test.elapsed)).fixed(2) }
        writeLine(
            "\(client): \(test.settings.streams) streams, \((Double(test.elapsed) / 1e9).fixed(2)) s: received \(test.received.grouped) bytes "
                + "(\(rate(test.received)) Gbit/s), sent \(test.sent.grouped) bytes (\(rate(test.sent)) Gbit/s)")
    }
}

/// One client's test. Sendable unchecked, as ``IperfServer`` is and for its reason.
final class IperfTest: @unchecked Sendable {
    private struct Stream {
        let connection: Connection
        let isSender: Bool
        var bytes: UInt64 = 0
    }

    let settings: IperfSettings
    private let control: IperfControl
    private var streams: [Stream] = []
    private var clock = Clock()
    private var began: UInt64 = 0
    private(set) var elapsed: UInt64 = 0
    private var hasEnded = false

    init(_ settings: IperfSettings, _ control: IperfControl) {
        self.settings = settings
        self.control = control
    }

    var received: UInt64 { streams.reduce(0) { $1.isSender ? $0 : $0 + $1.bytes } }
    var sent: UInt64 { streams.reduce(0) { $1.isSender ? $0 + $1.bytes : $0 } }

    /// Takes a stream in. With the last one the test begins, in the task of that one, which goes on until the test's end.
    func add(_ connection: Connection) async {
        guard streams.count < settings.connections, !hasEnded else { return }
        // As the client's own sockets: without -N what is left of a push goes with the next one.
        try? connection.set(.noDelay, to: settings.hasNoDelay)
        // Of the two halves of a test in both directions, the client's sending streams come first.
        let isSender = settings.isBidirectional ? streams.count >= settings.streams : settings.isReverse
        streams.append(Stream(connection: connection, isSender: isSender))
        guard streams.count == settings.connections else { return }
        do throws(DemikernelError) {
            try await control.send(.testStart)
            try await control.send(.testRunning)
        } catch {
            return end()
        }
        began = clock.now()
        await withDiscardingTaskGroup { group in
            for number in streams.indices { group.addTask { await self.run(number) } }
        }
    }

    /// Until the connection ends, or ``end()`` closes it.
    private func run(_ number: Int) async {
        let connection = streams[number].connection
        do {
            guard streams[number].isSender else {
                while let buffer = try await connection.pop() { streams[number].bytes &+= UInt64(buffer.count) }
                return
            }
            let buffer = try control.here.libOS.allocate(settings.length)
            while !hasEnded {
                // Always the same memory: nobody looks at it.
                try await connection.push(try buffer.slice(0..<buffer.count))
                streams[number].bytes &+= UInt64(buffer.count)
            }
        } catch {
            // What has come and gone stands in the results.
        }
    }

    func end() {
        guard !hasEnded else { return }
        hasEnded = true
        if began > 0 { elapsed = clock.now() &- began }
        for stream in streams { try? stream.connection.close() }
    }

    /// What the client is told. Streams are numbered 1, 3, 4, …, as iperf has it.
    var results: String {
        let seconds = (Double(elapsed) / 1e9).fixed(6)
        let list = streams.enumerated().map { number, stream in
            "{\"id\":\(number == 0 ? 1 : number + 2),\"bytes\":\(stream.bytes),\"retransmits\":-1,\"jitter\":0,\"errors\":0,\"packets\":0,"
                + "\"start_time\":0,\"end_time\":\(seconds)}"
        }
        return "{\"cpu_util_total\":0,\"cpu_util_user\":0,\"cpu_util_system\":0,\"sender_has_retransmits\":0,\"streams\":[\(list.joined(separator: ","))]}"
    }

    func summary(_ client: SocketAddress) -> JSONObject {
        var object = JSONObject()
        object.add("client", "\(client)")
        object.add("streams", settings.streams)
        object.add("nanoseconds", elapsed)
        object.add("received", received)
        object.add("sent", sent)
        return object
    }
}
