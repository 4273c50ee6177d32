import Demikernel
import Glibc

/// What the application does in a script, and what it checks.
enum ScriptCall {
    case listen(name: String, at: SocketAddress, backlog: Int, TCPSocketOptions)
    case connect(name: String, to: SocketAddress, from: SocketAddress?, flow: String, TCPSocketOptions, Outcome)
    case accept(listener: String, name: String?)
    case push(name: String, bytes: Content, Outcome)
    case pop(name: String, limit: Int, Outcome)
    case shutdown(name: String, isSend: Bool)
    case close(name: String, isAbort: Bool)
    case option(name: String, TCPSocketOptions)
    case events(name: String, SocketEvent.Kinds)
    case udpBind(name: String, SocketAddress, Outcome)
    case udpConnect(name: String, SocketAddress)
    case udpSend(name: String, Content, to: SocketAddress?, Outcome)
    case udpReceive(name: String, Outcome, from: SocketAddress?)
    case udpError(name: String, Outcome)
    case assertState(name: String, String)
    case assertValue(of: String, field: String, comparison: String, Int)
    case nothing(until: ScriptTime)

    enum Content {
        case pattern(Int)
        case text([UInt8])

        var count: Int {
            switch self {
            case .pattern(let count): count
            case .text(let bytes): bytes.count
            }
        }
    }

    /// What a call answers.
    enum Outcome: Equatable, CustomStringConvertible {
        case success
        case bytes(Int)
        case text([UInt8])
        case end, empty, full
        case failed(String)

        var description: String {
            switch self {
            case .success: "success"
            case .bytes(let count): "\(count) bytes"
            case .text(let bytes): "\"\(String(decoding: bytes, as: UTF8.self))\""
            case .end: "eof"
            case .empty: "none"
            case .full: "full"
            case .failed(let name): name
            }
        }
    }
}

extension ScriptCall {
    init(_ name: String, _ tokens: inout ScriptTokens, _ configuration: ScriptConfiguration) throws {
        let isIPv6 = configuration.isIPv6
        switch name {
        case "listen":
            let name = try tokens.word("a name")
            let place = try Self.address(&tokens, isIPv6)
            let backlog = tokens.take("backlog") ? try tokens.number("the backlog") : 16
            self = .listen(name: name, at: place, backlog: backlog, try Self.options(&tokens))
        case "connect":
            let name = try tokens.word("a name")
            guard tokens.take("to") else { throw ScriptSyntaxError("'to' is missing") }
            let to = try Self.address(&tokens, isIPv6)
            let from = tokens.take("from") ? try Self.address(&tokens, isIPv6) : nil
            let flow = tokens.take("as") ? try tokens.word("the flow") : ""
            let options = try Self.options(&tokens)
            self = .connect(name: name, to: to, from: from, flow: flow, options, try Self.outcome(&tokens) ?? .success)
        case "accept":
            let listener = try tokens.word("the listener")
            if tokens.take("as") { self = .accept(listener: listener, name: try tokens.word("a name")) } else {
                guard try Self.outcome(&tokens) == .empty else { throw ScriptSyntaxError("accept LISTENER as NAME, or -> none") }
                self = .accept(listener: listener, name: nil)
            }
        case "push":
            let name = try tokens.word("the socket")
            let content = try Self.content(&tokens)
            self = .push(name: name, bytes: content, try Self.outcome(&tokens) ?? .success)
        case "pop":
            let name = try tokens.word("the socket")
            let limit = tokens.take("limit") ? try tokens.number("the limit") : 0
            guard let outcome = try Self.outcome(&tokens) else { throw ScriptSyntaxError("pop SOCKET -> …") }
            self = .pop(name: name, limit: limit, outcome)
        case "shutdown":
            let name = try tokens.word("the socket")
            let direction = try tokens.word("send or receive")
            guard direction == "send" || direction == "receive" else { throw ScriptSyntaxError("send or receive, not \(direction)") }
            self = .shutdown(name: name, isSend: direction == "send")
        case "close": self = .close(name: try tokens.word("the socket"), isAbort: false)
        case "abort": self = .close(name: try tokens.word("the socket"), isAbort: true)
        case "option": self = .option(name: try tokens.word("the socket"), try Self.options(&tokens))
        case "events":
            let name = try tokens.word("the socket")
            guard tokens.take("->") else { throw ScriptSyntaxError("'->' is missing") }
            var kinds: SocketEvent.Kinds = []
            while case .word(let text)? = tokens.peek {
                _ = tokens.next()
                guard let kind = Self.kinds.first(where: { $0.0 == text }) else { throw ScriptSyntaxError("no kind of event: \(text)") }
                kinds.insert(kind.1)
            }
            self = .events(name: name, kinds)
        case "udp":
            let name = try tokens.word("a name")
            if tokens.take("connect") {
                self = .udpConnect(name: name, try Self.address(&tokens, isIPv6))
            } else {
                guard tokens.take("bind") else { throw ScriptSyntaxError("udp NAME bind ADDRESS, or connect ADDRESS") }
                let address = try Self.address(&tokens, isIPv6)
                self = .udpBind(name: name, address, try Self.outcome(&tokens) ?? .success)
            }
        case "send":
            let name = try tokens.word("the socket")
            let content = try Self.content(&tokens)
            let to = tokens.take("to") ? try Self.address(&tokens, isIPv6) : nil
            self = .udpSend(name: name, content, to: to, try Self.outcome(&tokens) ?? .success)
        case "receive":
            let name = try tokens.word("the socket")
            guard let outcome = try Self.outcome(&tokens) else { throw ScriptSyntaxError("receive SOCKET -> …") }
            self = .udpReceive(name: name, outcome, from: tokens.take("from") ? try Self.address(&tokens, isIPv6) : nil)
        case "error":
            let name = try tokens.word("the socket")
            guard let outcome = try Self.outcome(&tokens) else { throw ScriptSyntaxError("error SOCKET -> …") }
            self = .udpError(name: name, outcome)
        case "assert":
            switch try tokens.word("state, counter or info") {
            case "state": self = .assertState(name: try tokens.word("the socket"), try tokens.word("the state"))
            case "counter":
                let field = try tokens.word("the counter")
                self = .assertValue(of: "", field: field, comparison: try tokens.word("a comparison"), try tokens.number("a number"))
            case "info":
                let name = try tokens.word("the socket")
                let field = try tokens.word("the field")
                self = .assertValue(of: name, field: field, comparison: try tokens.word("a comparison"), try tokens.number("a number"))
            case let word: throw ScriptSyntaxError("nothing to assert: \(word)")
            }
        case "expect":
            guard tokens.take("nothing"), tokens.take("until") else { throw ScriptSyntaxError("expect nothing until TIME") }
            let text = try tokens.word("the time")
            guard let time = ScriptTime(text), !time.isAny, time.until == nil else { throw ScriptSyntaxError("no time: \(text)") }
            self = .nothing(until: time)
        default: throw ScriptSyntaxError("no call: \(name)")
        }
        try tokens.end()
    }

    static let kinds: [(String, SocketEvent.Kinds)] = [
        ("readable", .readable), ("writable", .writable), ("connected", .connected), ("failed", .failed), ("acceptable", .acceptable),
        ("closed", .closed), ("none", []),
    ]

    static func text(_ kinds: SocketEvent.Kinds) -> String {
        kinds.isEmpty ? "none" : Self.kinds.filter { !$0.1.isEmpty && kinds.contains($0.1) }.map(\.0).joined(separator: " ")
    }

    /// `80` (on the stack's own wildcard address), `ADDRESS:80` or `[ADDRESS]:80`.
    private static func address(_ tokens: inout ScriptTokens, _ isIPv6: Bool) throws -> SocketAddress {
        if case .attributes(let inner)? = tokens.peek {
            _ = tokens.next()
            let rest = try tokens.word("the port")
            guard let address = SocketAddress("[\(inner)]\(rest)") else { throw ScriptSyntaxError("no address: [\(inner)]\(rest)") }
            return address
        }
        let text = try tokens.word("an address")
        if let port = UInt16(text) { return .any(isIPv6 ? .ipv6 : .ipv4, port: port) }
        guard let address = SocketAddress(text) else { throw ScriptSyntaxError("no address: \(text)") }
        return address
    }

    private static func content(_ tokens: inout ScriptTokens) throws -> Content {
        if let text = tokens.literal() { return .text(text) }
        return .pattern(try tokens.number("the bytes"))
    }

    private static func outcome(_ tokens: inout ScriptTokens) throws -> Outcome? {
        guard tokens.take("->") else { return nil }
        if let text = tokens.literal() { return .text(text) }
        let word = try tokens.word("the outcome")
        if let count = Int(word) {
            _ = tokens.take("bytes")
            return .bytes(count)
        }
        switch word {
        case "eof": return .end
        case "none", "empty": return .empty
        case "full": return .full
        case "ok": return .success
        default:
            guard ScriptErrno.names.values.contains(word) else { throw ScriptSyntaxError("no outcome: \(word)") }
            return .failed(word)
        }
    }

    private static func options(_ tokens: inout ScriptTokens) throws -> TCPSocketOptions {
        var options = TCPSocketOptions()
        while case .word(let word)? = tokens.peek, word != "->" {
            _ = tokens.next()
            switch word {
            case "noDelay": options.noDelay = try tokens.flag()
            case "keepAlive":
                options.keepAlive = true
                options.keepAliveIdle = try tokens.time()
                options.keepAliveInterval = try tokens.time()
                options.keepAliveProbes = UInt8(try tokens.number("probes"))
            case "sendBuffer": options.sendBuffer = try tokens.number("bytes")
            case "receiveBuffer": options.receiveBuffer = try tokens.number("bytes")
            case "reuse": options.reuseAddress = true
            case "userTimeout": options.userTimeout = try tokens.time()
            default: throw ScriptSyntaxError("no option: \(word)")
            }
        }
        return options
    }
}

/// Errors by the names that scripts use.
enum ScriptErrno {
    static let names: [Int32: String] = [
        ECONNRESET: "ECONNRESET", ECONNREFUSED: "ECONNREFUSED", ETIMEDOUT: "ETIMEDOUT", EHOSTUNREACH: "EHOSTUNREACH",
        ENETUNREACH: "ENETUNREACH", EPIPE: "EPIPE", EADDRINUSE: "EADDRINUSE", EADDRNOTAVAIL: "EADDRNOTAVAIL", EINVAL: "EINVAL",
        ENOTCONN: "ENOTCONN", EBADF: "EBADF", EMSGSIZE: "EMSGSIZE", ENOMEM: "ENOMEM", ECONNABORTED: "ECONNABORTED", EAGAIN: "EAGAIN",
        ENOBUFS: "ENOBUFS", ENOPROTOOPT: "ENOPROTOOPT", EPROTO: "EPROTO", EDESTADDRREQ: "EDESTADDRREQ", EISCONN: "EISCONN",
        EACCES: "EACCES", EAFNOSUPPORT: "EAFNOSUPPORT",
    ]

    static func name(_ number: Int32) -> String { number == 0 ? "none" : names[number] ?? "errno \(number)" }
}
