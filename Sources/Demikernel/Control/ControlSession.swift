import CDemikernelShims
import Glibc
import SystemPackage

/// One client of the control socket: a request in one line, an answer, the end.
///
/// | request | answer |
/// |---|---|
/// | `status` | a record `libos` for each libOS, and its records `counter` |
/// | `sockets` | the same records `libos`, and `socket` for each socket |
/// | `netstat` | both |
/// | `dump libos=N snap=BYTES` | a record `dump`, then pcapng until either side ends |
/// | `GET /metrics` (HTTP) | the counters in Prometheus' text form |
///
/// Answers in records end with a record `end`; what is wrong is a record `error` with its `text`. A client that says nothing for five seconds,
/// or more than 8 KiB, is left.
struct ControlSession {
    private static let patience: Int32 = 5
    private static let requestMaximum = 8_192
    /// How long, in milliseconds, a libOS may take to answer: its program may be computing.
    private static let answerTime: Int32 = 2_000

    private let client: ControlStream
    private let place: ControlEndpoint.Place

    /// Serves the client behind `descriptor`, which stays the caller's. At a port it gets the metrics alone.
    init(_ descriptor: Int32, at place: ControlEndpoint.Place) {
        client = ControlStream(descriptor)
        self.place = place
    }

    private var members: [ControlService.Member] { ControlService.shared.members(at: place) }

    func run() {
        client.makeBlocking(seconds: Self.patience)
        guard let request = client.readRequest(maximum: Self.requestMaximum, seconds: Self.patience) else { return }
        let words = request.split(separator: " ", omittingEmptySubsequences: true)
        if ControlStream.isHTTP(request) { return answerHTTP(words) }
        guard case .path = place else { return }
        switch words.first {
        case "status": answerRecords(counters: true, sockets: false)
        case "sockets": answerRecords(counters: false, sockets: true)
        case "netstat": answerRecords(counters: true, sockets: true)
        case "dump": ControlDump(client, members, words.dropFirst()).run()
        default: client.refuse("unknown request; there are status, sockets, netstat, dump and GET /metrics")
        }
    }

    // MARK: - Asking

    /// Asks a libOS; nil where it has not answered in time.
    static func ask(_ member: ControlService.Member, _ question: ControlQuestion) -> ControlAnswer? {
        guard let exchange = try? ControlExchange(question) else { return nil }
        member.mailbox.ask(exchange)
        return exchange.wait(milliseconds: answerTime)
    }

    private static func status(of member: ControlService.Member) -> ControlStatus? {
        guard case .status(let status)? = ask(member, .status) else { return nil }
        return status
    }

    // MARK: - Records

    private func answerRecords(counters: Bool, sockets: Bool) {
        for member in members {
            guard let status = Self.status(of: member) else {
                var record = ControlRecord("libos")
                record.add("libos", member.number)
                record.add("answers", false)
                guard client.send(record) else { return }
                continue
            }
            guard client.send(status.record(of: member.number)) else { return }
            if counters {
                for counter in status.counters where !client.send(counter.record(of: member.number)) { return }
            }
            if sockets, !sendSockets(of: member) { return }
        }
        if client.send(ControlRecord("end")) { client.flush() }
    }

    /// False where the client has gone.
    private func sendSockets(of member: ControlService.Member) -> Bool {
        var cursor: ControlCursor? = .start
        while let from = cursor {
            guard case .sockets(let page)? = Self.ask(member, .sockets(from: from)) else {
                client.refuse("libOS \(member.number) has stopped to answer")
                return false
            }
            for socket in page.sockets where !client.send(socket.record(of: member.number)) { return false }
            cursor = page.next
        }
        return true
    }

    // MARK: - Prometheus

    private func answerHTTP(_ words: [Substring]) {
        guard words.first == "GET" else { return sendHTTP("405 Method Not Allowed", "only GET\n") }
        let path = words.count > 1 ? words[1].prefix { $0 != "?" } : ""
        guard path == "/metrics" else { return sendHTTP("404 Not Found", "the counters are at /metrics\n") }
        let statuses = members.compactMap { member in Self.status(of: member).map { (member.number, $0) } }
        sendHTTP("200 OK", PrometheusText.of(statuses))
    }

    private func sendHTTP(_ status: String, _ body: String) {
        let head = "HTTP/1.1 \(status)\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: \(body.utf8.count)\r\n"
        if client.send(text: head + "Connection: close\r\n\r\n" + body) { client.flush() }
    }
}

/// A client's socket, and what waits to be sent to it. Everything may take as long as the socket's timeouts say: these threads are nobody else's.
final class ControlStream {
    let descriptor: Int32
    private var pending: [UInt8] = []

    init(_ descriptor: Int32) { self.descriptor = descriptor }

    /// Lets calls wait so long; for ever with 0.
    func makeBlocking(seconds: Int32) {
        _ = dk_descriptor_make_blocking(descriptor)
        _ = dk_socket_timeouts(descriptor, seconds)
    }

    /// The first line; of an HTTP request once the whole head is there. nil where there is none within so many seconds and `maximum` bytes.
    func readRequest(maximum: Int, seconds: Int32) -> String? {
        var bytes: [UInt8] = []
        // Not only of each piece: a byte every few seconds would be for ever.
        let deadline = DeviceClock.monotonic.now() &+ UInt64(seconds) &* 1_000_000_000
        var buffer = InlineArray<1024, UInt8>(repeating: 0)
        while bytes.count <= maximum {
            let count = unsafe withUnsafeMutableBytes(of: &buffer) { unsafe recv(descriptor, $0.baseAddress, $0.count, 0) }
            if count < 0, errno == EINTR { continue }
            guard count > 0, DeviceClock.monotonic.now() < deadline else { return nil }
            for index in 0..<count { bytes.append(buffer[index]) }
            guard let end = bytes.firstIndex(of: 0x0a) else { continue }
            let line = String(decoding: bytes[..<end].filter { $0 != 0x0d }, as: UTF8.self)
            // An empty line ends the head; answering before it is read would reset the connection.
            if !Self.isHTTP(line) || bytes.suffix(4) == [0x0d, 0x0a, 0x0d, 0x0a] || bytes.suffix(2) == [0x0a, 0x0a] { return line }
        }
        return nil
    }

    /// Whether a request's last word is HTTP's. (Looking for a string within a string would link the regular expressions, 1.5 MB.)
    static func isHTTP(_ line: String) -> Bool { line.split(separator: " ").last?.hasPrefix("HTTP/1.") ?? false }

    /// False where the client has gone or does not read.
    func send(_ record: ControlRecord) -> Bool { send(text: record.line + "\n") }

    func send(text: String) -> Bool {
        pending.append(contentsOf: text.utf8)
        return pending.count < 16_384 || flush()
    }

    func refuse(_ text: String) {
        var record = ControlRecord("error")
        record.add("text", text)
        if send(record) { flush() }
    }

    @discardableResult
    func flush() -> Bool {
        defer { pending.removeAll(keepingCapacity: true) }
        var sent = 0
        while sent < pending.count {
            let count = unsafe pending.withUnsafeBytes { unsafe Glibc.send(descriptor, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL)) }
            if count > 0 { sent += count } else if errno != EINTR { return false }
        }
        return true
    }
}
