import Glibc

/// What is compared.
enum DemoSide: String, CaseIterable {
    case catnip
    case frames = "memif frames"
    case catnap
    case epoll
    case sleepingEpoll = "epoll, sleeping"

    /// Whether it is the program in C.
    var isBaseline: Bool { self == .epoll || self == .sleepingEpoll }
}

/// One line of the demonstration.
struct DemoScenario {
    let transport: Transport
    let size: Int
    let clients: Int
    let sleeps: Bool
    let count: Int

    var name: String { "\(transport.rawValue) \(size) B, \(clients) client\(clients == 1 ? "" : "s"), \(sleeps ? "sleeping" : "polling")" }
    func waiting(_ side: DemoSide) -> String { sleeps || side == .sleepingEpoll ? "sleeping" : "polling" }

    var sides: [DemoSide] {
        if sleeps || clients > 1 { return [.catnip, .catnap, .epoll] }
        return size == 64 ? DemoSide.allCases : [.catnip, .frames, .catnap, .epoll]
    }

    /// Bytes of the frame that carries the message: Ethernet, IPv4 and UDP, or TCP with timestamps.
    var frameByteCount: Int { size + 14 + 20 + (transport == .udp ? 8 : 32) }

    static let all =
        [64, 1024].flatMap { size in
            [Transport.tcp, .udp].map { DemoScenario(transport: $0, size: size, clients: 1, sleeps: false, count: 20_000) }
        } + [
            DemoScenario(transport: .tcp, size: 64, clients: 32, sleeps: false, count: 100_000),
            DemoScenario(transport: .tcp, size: 64, clients: 1, sleeps: true, count: 10_000),
        ]
}

/// What is measured besides echoes.
enum DemoMeasurement: String, CaseIterable {
    case stream
    case churn
    case idle

    var sides: [DemoSide] { self == .idle ? [.catnip] : [.catnip, .catnap] }
}

/// A folder for a socket.
struct TemporaryFolder {
    private let path: String
    var socket: String { "\(path)/memif.sock" }

    init() throws {
        let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        var template = Array("\(parent)/demi-XXXXXX".utf8CString)
        let isMade = unsafe template.withUnsafeMutableBufferPointer { unsafe mkdtemp($0.baseAddress!) != nil }
        guard isMade else { throw Failure("no temporary folder in \(parent): \(errorText(errno))") }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        // What a sockaddr_un holds.
        guard socket.utf8.count <= 107 else {
            unsafe rmdir(path)
            throw Failure("TMPDIR is too long a path for a Unix socket: \(parent)")
        }
    }

    func remove() {
        unsafe unlink(socket)
        unsafe rmdir(path)
    }
}

/// Runs one server and one client after the other.
struct DemoRunner {
    let demi: String
    let baseline: String?
    let processors: [Int]
    /// Where memif's ends meet.
    let socket: String

    /// A round takes a second or two; one that takes this long has stalled.
    private static let roundSecondsMaximum: Int32 = 60

    /// One round.
    func measure(_ side: DemoSide, _ scenario: DemoScenario, count: Int) throws -> DemoResult {
        // Our own stack makes ten round trips in the time of one of the kernel's.
        let count = [.catnip, .frames].contains(side) ? count * 5 : count
        let spin = scenario.sleeps ? "0" : "forever"
        let warmup = "\(max(count / 10, scenario.clients))"
        let messages = ["--size", "\(scenario.size)", "--count", "\(count)", "--clients", "\(scenario.clients)", "--warmup", warmup, "--json"]
        let transport = ["--transport", scenario.transport.rawValue]
        let line: String
        switch side {
        case .frames:
            line = try run(side, demi, ["frames", "serve", "--memif", socket], { _ in
                ["frames", "ping", "--memif", socket, "--size", "\(scenario.frameByteCount)", "--count", "\(count)", "--warmup", warmup, "--json"]
            })
        case .catnip, .catnap:
            line = try run(side, demi, ["echo", "serve"] + endpoint(side, spin) + transport + listening(side), { address in
                ["echo", "ping"] + endpoint(side, spin) + transport + ["--address", address, "--timeout", "10s"] + messages
            })
        case .epoll, .sleepingEpoll:
            let waiting = scenario.waiting(side) == "sleeping" ? "--block" : "--poll"
            line = try run(side, baseline ?? demi, ["serve", waiting] + transport + ["--address", "127.0.0.1:0"], { address in
                ["ping", waiting] + transport + ["--address", address] + messages
            })
        }
        guard let result = side == .frames ? DemoResult(frames: line, scenario) : DemoResult(side, line) else {
            throw Failure("the \(side.rawValue) client did not finish")
        }
        return result
    }

    /// One round of something else; answers the client's line.
    func measure(_ measurement: DemoMeasurement, _ side: DemoSide, isQuick: Bool) throws -> String {
        let ends = endpoint(side, "forever")
        let serve = measurement == .stream ? ["stream", "serve"] : ["echo", "serve"]
        return try run(side, demi, serve + ends + listening(side), { address in
            let common = ends + ["--address", address, "--json"]
            switch measurement {
            case .stream: return ["stream", "send", "--seconds", isQuick ? "0.1" : "1"] + common
            case .churn:
                let timeWait = side == .catnip ? ["--time-wait", "1ms"] : []
                return ["churn", "--count", isQuick ? "1000" : side == .catnip ? "100000" : "5000"] + timeWait + common
            case .idle:
                return ["echo", "ping", "--idle", isQuick ? "500" : "10000", "--count", isQuick ? "5000" : "100000", "--timeout", "10s"] + common
            }
        })
    }

    private func endpoint(_ side: DemoSide, _ spin: String) -> [String] {
        (side == .catnip ? ["--memif", socket] : ["--libos", "catnap"]) + ["--spin", spin]
    }

    private func listening(_ side: DemoSide) -> [String] { ["--address", side == .catnip ? "10.117.0.1:7000" : "127.0.0.1:0"] }

    /// Starts a server, which says where it listens, and then a client; answers the line that the client says.
    private func run(_ side: DemoSide, _ program: String, _ server: [String], _ client: (_ address: String) -> [String]) throws -> String {
        let serving = try Child(program, server + pinned(0))
        defer { serving.stop() }
        // "listening on ADDRESS", or of frames "serving PATH".
        guard let line = serving.line(within: 10), let address = line.split(separator: " ").last else {
            throw Failure("the \(side.rawValue) server did not start")
        }
        let asking = try Child(program, client(String(address)) + pinned(1))
        defer { asking.stop() }
        guard let answer = asking.line(within: Self.roundSecondsMaximum), answer.hasPrefix("{"), answer.hasSuffix("}") else {
            throw Failure("the \(side.rawValue) client did not finish")
        }
        return answer
    }

    private func pinned(_ place: Int) -> [String] { processors.count > 1 ? ["--cpu", "\(processors[place])"] : [] }
}
