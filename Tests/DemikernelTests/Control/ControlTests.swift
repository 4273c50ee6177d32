import CDemikernelShims
import Glibc
import SystemPackage
import Testing
@testable import Demikernel

/// The control socket: what it says, to whom, and that nobody can harm a libOS with it. Serialised, because it is one for the process.
@Suite(.serialized) struct ControlTests {
    private let folder = TestFolder()
    private var path: String { folder.path + "/control.sock" }

    // MARK: Records

    @Test func `a record is read back as it was written`() throws {
        var record = ControlRecord("socket")
        record.add("local", "[fd00::1]:7000")
        record.add("queue", 17)
        record.add("empty", "")
        record.add("equation", "a=b=c")
        record.add("isTrue", true)
        #expect(record.line == "socket\tlocal=[fd00::1]:7000\tqueue=17\tempty=\tequation=a=b=c\tisTrue=true")
        #expect(ControlRecord(line: record.line) == record)
        #expect(record["equation"] == "a=b=c" && record["none"] == nil)
    }

    @Test func `a value cannot begin a new line or a new field`() throws {
        var record = ControlRecord("libos")
        record.add("name", "x\ty=1\r\nend\u{7f}")
        #expect(record.line == "libos\tname=x?y=1??end?")
        #expect(ControlRecord(line: record.line)?.fields.count == 1)
    }

    @Test(arguments: ["", "\tname=x", "socket\tname", "socket\t\tname=x"])
    func `what is no record is not taken for one`(_ line: String) { #expect(ControlRecord(line: line) == nil) }

    // MARK: Answers

    @Test func `the sockets of a stack are shown as they are`() throws {
        let server = SocketAddress.ipv4(0x0a75_0001, port: 7)
        try ServedLibOS.run(ServedLibOS.configuration(folder)) { libOS in
            let listener = try libOS.socket()
            try libOS.bind(listener, to: server)
            try libOS.listen(listener, backlog: 9)
            let client = try libOS.socket()
            let connecting = try libOS.connect(client, to: server)
            try libOS.wait(connecting).get()
            let connection = try libOS.wait(libOS.accept(listener)).accepted()
            let buffer = try libOS.allocate(1000)
            try libOS.wait(libOS.push(client, buffer)).get()
            // A second connection waits to be accepted, and 1,000 bytes to be popped.
            let other = try libOS.socket()
            try libOS.wait(libOS.connect(other, to: server)).get()
            let datagrams = try libOS.socket(.ipv4, .datagram)
            try libOS.bind(datagrams, to: .ipv4(0x0a75_0001, port: 53))
            _ = try libOS.queue()
            _ = try libOS.socket(.ipv6, .stream)
            _ = connection
        } test: { _ in
            let records = try TestClient.ask(path, "netstat")
            #expect(records.last == ControlRecord("end"))
            let libOS = try #require(records.first)
            #expect(libOS.kind == "libos" && libOS["name"] == "catloop" && libOS["answers"] == "true")
            #expect(libOS["queues"] == "7" && libOS["tcp_connections"] == "4" && libOS["addresses"]?.hasPrefix("10.117.0.1/24") == true)
            let sockets = records.filter { $0.kind == "socket" }
            let listener = try #require(sockets.first { $0["state"] == "listen" })
            #expect(listener["local"] == "10.117.0.1:7" && listener["remote"] == "*")
            #expect(listener["receiveQueue"] == "1" && listener["sendQueue"] == "9")
            let established = sockets.filter { $0["state"] == "established" }
            #expect(established.count == 4)
            // One of them has no descriptor: nobody has accepted it.
            #expect(established.filter { $0["descriptor"] == nil }.map { $0["local"] } == ["10.117.0.1:7"])
            let reader = try #require(established.first { $0["receiveQueue"] == "1000" })
            #expect(reader["local"] == "10.117.0.1:7" && reader["options"] == "timestamps,sack,wscale" && reader["retransmissions"] == "0")
            let segment = try #require(reader["segmentSize"].flatMap { Int($0) })
            #expect(segment > 1_000 && (Int(reader["congestionWindow"] ?? "") ?? 0) >= segment)
            #expect(sockets.contains { $0["transport"] == "udp" && $0["local"] == "10.117.0.1:53" && $0["state"] == "unconnected" })
            #expect(sockets.contains { $0["state"] == "closed" && $0["local"] == "[::]:0" })
            #expect(sockets.count == 7)
            let counters = records.filter { $0.kind == "counter" }
            #expect(counters.first { $0["layer"] == "tcp" && $0["name"] == "connectionsAccepted" }?["value"] == "1")
        }
    }

    @Test func `the kernel's sockets are shown too`() throws {
        try ServedLibOS.run(ServedLibOS.configuration(folder, libOS: "catnap")) { libOS in
            let listener = try libOS.socket()
            try libOS.bind(listener, to: .loopback(port: 0))
            try libOS.listen(listener, backlog: 5)
            let client = try libOS.socket()
            try libOS.wait(libOS.connect(client, to: libOS.localAddress(of: listener))).get()
            try libOS.wait(libOS.push(client, libOS.allocate(300))).get()
            let datagrams = try libOS.socket(.ipv4, .datagram)
            try libOS.bind(datagrams, to: .loopback(port: 0))
        } test: { _ in
            let sockets = try TestClient.ask(path, "sockets").filter { $0.kind == "socket" }
            #expect(sockets.map { $0["stack"] } == ["kernel", "kernel", "kernel"])
            #expect(sockets.map { $0["state"] } == ["listen", "established", "unconnected"])
            #expect(sockets[0]["receiveQueue"] == "1" && sockets[0]["sendQueue"] == "5")
            #expect(sockets[1]["remote"] == sockets[0]["local"] && (Int(sockets[1]["congestionWindow"] ?? "") ?? 0) > 0)
        }
    }

    @Test func `more sockets than an answer holds are all shown, each once`() throws {
        let count = 600
        try ServedLibOS.run(ServedLibOS.configuration(folder)) { libOS in
            for _ in 0..<count { try libOS.bind(libOS.socket(.ipv4, .datagram), to: .any(port: 0)) }
        } test: { _ in
            let ports = try TestClient.ask(path, "sockets").filter { $0.kind == "socket" }.compactMap { $0["local"] }
            #expect(ports.count == count && Set(ports).count == count)
        }
    }

    @Test func `connections in TIME_WAIT are shown`() throws {
        let server = SocketAddress.ipv4(0x0a75_0001, port: 7)
        try ServedLibOS.run(ServedLibOS.configuration(folder)) { libOS in
            let listener = try libOS.socket()
            try libOS.bind(listener, to: server)
            try libOS.listen(listener)
            let client = try libOS.socket()
            try libOS.wait(libOS.connect(client, to: server)).get()
            let connection = try libOS.wait(libOS.accept(listener)).accepted()
            try libOS.close(client)
            try libOS.wait(libOS.pop(connection)).get()
            try libOS.close(connection)
        } test: { _ in
            var states: [String] = []
            // The last acknowledgements may still be under way.
            while !states.contains("time-wait") { states = try TestClient.ask(path, "sockets").compactMap { $0["state"] } }
            #expect(states.sorted() == ["listen", "time-wait"] || states.contains("last-ack"))
        }
    }

    // MARK: Whom it answers, and where

    @Test func `the socket is its owner's alone, and goes with the last libOS that it is for`() throws {
        try ServedLibOS.run(ServedLibOS.configuration(folder)) { _ in } test: { _ in
            var status = stat()
            #expect(unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK && status.st_mode & 0o777 == 0o600)
            // A second libOS takes part in the same socket.
            try ServedLibOS.run(ServedLibOS.configuration(folder, libOS: "catnap")) { _ in } test: { _ in
                let names = try TestClient.ask(path, "status").filter { $0.kind == "libos" }.map { $0["name"] }
                #expect(names == ["catloop", "catnap"])
            }
            let names = try TestClient.ask(path, "status").filter { $0.kind == "libos" }.map { $0["name"] }
            #expect(names == ["catloop"])
        }
        #expect(folder.names.isEmpty)
    }

    @Test func `a folder holds a socket of each process, and one that nobody serves makes room`() throws {
        var configuration = ServedLibOS.configuration(folder)
        configuration.control.socket = folder.path
        let name = "\(getpid()).sock"
        for _ in 0..<2 {
            try ServedLibOS.run(configuration) { _ in } test: { _ in #expect(folder.names == [name]) }
            #expect(folder.names.isEmpty)
            // What a process that was killed leaves behind.
            let left = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            #expect(bindUnix(left, "\(folder.path)/\(name)") == 0)
            close(left)
        }
    }

    @Test func `a place that another process serves, or that cannot be, is refused with its reason`() throws {
        let other = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        #expect(bindUnix(other, path) == 0 && listen(other, 1) == 0)
        defer { close(other) }
        #expect(throws: DemikernelError.self) { try LibOS(ServedLibOS.configuration(folder)) }
        var configuration = ServedLibOS.configuration(folder)
        configuration.control.socket = "/nonexistent/control.sock"
        #expect { try LibOS(configuration) } throws: { ($0 as? DemikernelError)?.errno == .noSuchFileOrDirectory }
        // Nothing of it is left: the thread can start another.
        configuration.control.socket = ""
        _ = try LibOS(configuration)
    }

    @Test func `with none there is no socket, and with auto one that is listed`() throws {
        var configuration = ServedLibOS.configuration(folder)
        configuration.control.socket = ""
        try ServedLibOS.run(configuration) { _ in } test: { _ in #expect(folder.names.isEmpty) }
        configuration.control.socket = "auto"
        try ServedLibOS.run(configuration) { _ in } test: { _ in
            let own = try #require(ControlPath.running().first { $0.process == Int(getpid()) })
            #expect(try TestClient.ask(own.path, "status").contains { $0["name"] == "catloop" })
        }
    }

    // MARK: Harm

    @Test func `requests that are none are refused, and the libOS goes on`() throws {
        try ServedLibOS.run(ServedLibOS.configuration(folder)) { _ in } test: { _ in
            var random = SplitMix64(seed: 11)
            for request in ["nonsense\n", "\n", "netstatt\n", "dump libos=77\n", "dump libos=-1 snap=x\n", "dump libos=99999999999999999999\n", "dump snap=\n"] {
                let client = try #require(TestClient(path: path))
                client.send(Array(request.utf8))
                let answer = String(decoding: client.readAll().prefix(400), as: UTF8.self)
                #expect(answer.hasPrefix("error\ttext="), "\(request): \(answer)")
            }
            for round in 0..<200 {
                let client = try #require(TestClient(path: path))
                let bytes = (0..<Int(random.next() % 300)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                client.send(bytes)
                if round % 3 == 0 { client.finish() }
                // Some go at once, some look at the answer.
                if round % 6 == 0 { _ = client.readAll() }
            }
            // More than a request may have.
            let client = try #require(TestClient(path: path))
            client.send([UInt8](repeating: 0x78, count: 100_000))
            client.finish()
            #expect(client.readAll().isEmpty)
            // The places of those who went are free again, as soon as their threads have seen it.
            var answer: [ControlRecord] = []
            while answer.last?.kind != "end" { answer = (try? TestClient.ask(path, "netstat")) ?? [] }
            #expect(answer.first?["answers"] == "true")
        }
    }

    @Test func `a question to a libOS that has ended is answered, and so is one that it ends upon`() throws {
        let mailbox = try Mailbox()
        let waiting = try ControlExchange(.status)
        mailbox.ask(waiting)
        mailbox.refuseQuestions()
        guard case .ended? = waiting.wait(milliseconds: 0) else { throw Unanswered() }
        let late = try ControlExchange(.status)
        mailbox.ask(late)
        guard case .ended? = late.wait(milliseconds: 0) else { throw Unanswered() }
    }

    private struct Unanswered: Error {}

    @Test func `a libOS whose program does not wait is said not to answer`() throws {
        var configuration = ServedLibOS.configuration(folder)
        configuration.libOS = "catnap"
        // On this thread, and never given a turn.
        let libOS = try LibOS(configuration)
        let record = try #require(try TestClient.ask(path, "status").first)
        #expect(record["answers"] == "false")
        _ = libOS.configuration
    }

    // MARK: Prometheus

    @Test func `counters are served as Prometheus reads them, at the socket and at a port`() throws {
        var configuration = ServedLibOS.configuration(folder)
        configuration.control.metricsPort = 39_117
        try ServedLibOS.run(configuration) { libOS in
            let socket = try libOS.socket(.ipv4, .datagram)
            try libOS.bind(socket, to: .any(port: 53))
            for _ in 0..<3 { try libOS.wait(libOS.push(socket, libOS.allocate(10), to: .ipv4(0x0a75_0001, port: 53))).get() }
        } test: { _ in
            for client in [try #require(TestClient(path: path)), try #require(TestClient(port: 39_117))] {
                client.send(Array("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n".utf8))
                let text = String(decoding: client.readAll(), as: UTF8.self)
                #expect(text.hasPrefix("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"))
                let body = try #require(text.split(separator: "\r\n\r\n", maxSplits: 1).last)
                #expect(text.contains("Content-Length: \(body.utf8.count)\r\n"))
                var described: Set<Substring> = []
                for line in body.split(separator: "\n") {
                    let words = line.split(separator: " ")
                    if words[0] == "#" {
                        if words[1] == "TYPE" { #expect(described.insert(words[2]).inserted && ["counter", "gauge"].contains(words[3])) }
                    } else {
                        let name = words[0].prefix { $0 != "{" }
                        #expect(described.contains(name) && Int(words[1]) != nil && words[0].hasSuffix(",name=\"catloop\"}"), "\(line)")
                    }
                }
                #expect(body.contains("\ndemikernel_ip_frames_of_other_vlans_total{"))
                let datagrams = body.split(separator: "\n").first { $0.hasPrefix("demikernel_udp_datagrams_sent_total{") }
                #expect(datagrams?.hasSuffix(" 3") == true)
            }
            // The port has the metrics and nothing else.
            for (request, answer) in [("GET /other HTTP/1.1\r\n\r\n", "HTTP/1.1 404"), ("POST /metrics HTTP/1.0\r\n\r\n", "HTTP/1.1 405"), ("netstat\n", "")] {
                let client = try #require(TestClient(port: 39_117))
                client.send(Array(request.utf8))
                let text = String(decoding: client.readAll().prefix(12), as: UTF8.self)
                #expect(text == answer)
            }
        }
    }

    @Test(arguments: [("framesReceived", "frames_received"), ("framesOfOtherVLANs", "frames_of_other_vlans"), ("fastPath", "fast_path"), ("packetsBadSource", "packets_bad_source")])
    func `names become snakes`(_ name: String, _ snake: String) { #expect(PrometheusText.snakeCase(name) == snake) }
}

private func bindUnix(_ descriptor: Int32, _ path: String) -> Int32 {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    return unsafe withUnsafeMutableBytes(of: &address) {
        unsafe bind(descriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
    }
}
