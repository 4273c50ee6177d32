import Demikernel

/// A packet as a script writes it. What is nil was not said: automatic where the packet is injected, ignored where it is expected.
struct ScriptPacket {
    var attributes: [String: String] = [:]
    /// The flow's name; nil for the default one.
    var flow: String?
    var body: Body

    indirect enum Body {
        case tcp(ScriptTCP)
        case udp(source: UInt16, destination: UInt16, count: Int, literal: [UInt8]?)
        case icmp(ScriptICMP)
        case arp(isReply: Bool, sender: IPAddress, target: IPAddress?, hardware: MACAddress?)
        case ndp(ScriptNDP)
        /// A part of a packet's IP payload.
        case fragment(identification: UInt32?, range: Range<Int>, of: Body)
        case raw([UInt8])
    }
}

struct ScriptTCP {
    /// Letters: S F R P . U E W A.
    var flags: String
    var sequence: Int?
    var count = 0
    var acknowledgment: Int?
    var window: Int?
    /// nil: not said.
    var options: [ScriptTCPOption]?
    /// `...` among the options: there may be more.
    var mayHaveMoreOptions = false
    var literal: [UInt8]?
}

enum ScriptTCPOption: Equatable {
    case nop, end, sackPermitted
    case maximumSegmentSize(Int?)
    case windowScale(Int?)
    /// nil: `*`. `last`: the newest that the other end has sent.
    case timestamps(value: ScriptTimestamp, echo: ScriptTimestamp)
    case sack([Range<Int>])
    case other(kind: UInt8, bytes: [UInt8])

    /// What two lists of options are compared in: without padding, in a fixed order.
    var rank: Int {
        switch self {
        case .nop, .end: 0
        case .maximumSegmentSize: 2
        case .windowScale: 3
        case .sackPermitted: 4
        case .sack: 5
        case .timestamps: 8
        case .other(let kind, _): Int(kind) + 300
        }
    }
}

enum ScriptTimestamp: Equatable {
    case any, last
    case value(Int)
}

struct ScriptICMP {
    enum Kind: Equatable {
        case echoRequest, echoReply
        /// `code`: net, host, protocol, port, admin, frag-needed (with an MTU).
        case unreachable(String)
        case tooBig
        case timeExceeded(reassembly: Bool)
        case parameterProblem(code: Int, pointer: Int?)
        case other(type: UInt8, code: UInt8)
    }
    var kind: Kind
    var identifier: Int?
    var sequence: Int?
    var mtu: Int?
    /// Payload bytes behind the ICMP header; nil: not said.
    var count: Int?
    /// Quotes the packet that the stack sent last (or, where expected, that was injected last).
    var quotesLast = false
    /// Quotes a segment of the flow with this relative sequence number.
    var quotedSequence: Int?
}

struct ScriptNDP {
    enum Kind: String {
        case solicit, advertise
        case routerSolicit = "router-solicit"
        case routerAdvertise = "router-advertise"
        case redirect
    }
    var kind: Kind
    var target: IPAddress?
    /// Source or target link-layer address option.
    var hardware: MACAddress?
    /// R, S, O of an advertisement.
    var flags: String?
    var lifetime = 1800
    var mtu: Int?
}

// MARK: - Parsing

extension ScriptPacket {
    init(_ tokens: inout ScriptTokens) throws {
        body = .raw([])
        if case .attributes(let text)? = tokens.peek {
            _ = tokens.next()
            for part in text.split(separator: ",") {
                let words = part.split(separator: " ", maxSplits: 1)
                guard let key = words.first.map(String.init) else { continue }
                guard Self.attributeNames.contains(key) else { throw ScriptSyntaxError("no attribute \(key)") }
                attributes[key] = words.count > 1 ? String(words[1]) : ""
            }
        }
        if case .word(let name)? = tokens.peek, name.count > 1, name.hasSuffix(":") {
            _ = tokens.next()
            flow = String(name.dropLast())
        }
        body = try Self.body(&tokens)
        try tokens.end()
    }

    static let attributeNames: Set<String> = [
        "from", "to", "ttl", "tos", "ect0", "ect1", "ce", "noecn", "df", "nodf", "id", "smac", "dmac", "vlan", "badchecksum", "badipchecksum",
        "nochecksum", "cut", "pad", "iplen", "ipoptions", "hopbyhop", "routing", "destination", "version", "new", "urgent", "dataoffset",
        "udplen", "nomore", "more", "sender", "protocol",
    ]

    private static func body(_ tokens: inout ScriptTokens) throws -> Body {
        let first = try tokens.word("the packet")
        switch first {
        case "udp":
            let source = try port(tokens.word("the source port"))
            guard tokens.take(">") else { throw ScriptSyntaxError("'>' is missing between the ports") }
            let destination = try port(tokens.word("the destination port"))
            let count = try Self.count(&tokens)
            let literal = tokens.literal()
            return .udp(source: source, destination: destination, count: count ?? literal?.count ?? 0, literal: literal)
        case "icmp": return .icmp(try ScriptICMP(&tokens))
        case "ndp": return .ndp(try ScriptNDP(&tokens))
        case "arp":
            switch try tokens.word("who-has or reply") {
            case "who-has":
                let target = try address(&tokens)
                guard tokens.take("tell") else { throw ScriptSyntaxError("'tell' is missing") }
                return .arp(isReply: false, sender: try address(&tokens), target: target, hardware: nil)
            case "reply":
                let sender = try address(&tokens)
                guard tokens.take("is-at") else { throw ScriptSyntaxError("'is-at' is missing") }
                return .arp(isReply: true, sender: sender, target: nil, hardware: try hardware(&tokens))
            case let word: throw ScriptSyntaxError("no kind of ARP: \(word)")
            }
        case "frag":
            var identification: UInt32?
            if tokens.take("id") { identification = UInt32(try tokens.number("the identification")) }
            let parts = try tokens.word("the fragment's bytes").split(separator: ":")
            guard parts.count == 2, let from = Int(parts[0]), let to = Int(parts[1]), from <= to else {
                throw ScriptSyntaxError("a fragment is FROM:TO of PACKET")
            }
            guard tokens.take("of") else { throw ScriptSyntaxError("'of' is missing") }
            return .fragment(identification: identification, range: from..<to, of: try body(&tokens))
        case "raw":
            var bytes: [UInt8] = []
            while case .word(let text)? = tokens.next() { bytes += try hexadecimal(text) }
            return .raw(bytes)
        default:
            guard first.allSatisfy({ "SFRP.UEWA".contains($0) }) else { throw ScriptSyntaxError("no packet: \(first)") }
            return .tcp(try ScriptTCP(flags: first, &tokens))
        }
    }

    static func hexadecimal(_ text: String) throws -> [UInt8] {
        let digits = Array(text)
        guard digits.count % 2 == 0 else { throw ScriptSyntaxError("an odd number of hexadecimal digits: \(text)") }
        return try stride(from: 0, to: digits.count, by: 2).map {
            guard let byte = UInt8(String(digits[$0..<$0 + 2]), radix: 16) else { throw ScriptSyntaxError("not hexadecimal: \(text)") }
            return byte
        }
    }

    static func port(_ text: String) throws -> UInt16 {
        guard let port = UInt16(text) else { throw ScriptSyntaxError("no port: \(text)") }
        return port
    }

    static func address(_ tokens: inout ScriptTokens) throws -> IPAddress {
        let text = try tokens.word("an address")
        guard let address = IPAddress(text) else { throw ScriptSyntaxError("no address: \(text)") }
        return address
    }

    static func hardware(_ tokens: inout ScriptTokens) throws -> MACAddress {
        let text = try tokens.word("an Ethernet address")
        guard let address = MACAddress(text) else { throw ScriptSyntaxError("no Ethernet address: \(text)") }
        return address
    }

    /// `(N)`, if that is next.
    static func count(_ tokens: inout ScriptTokens) throws -> Int? {
        guard case .word(let text)? = tokens.peek, text.hasPrefix("("), text.hasSuffix(")") else { return nil }
        guard let count = Int(text.dropFirst().dropLast()) else { throw ScriptSyntaxError("no number of bytes: \(text)") }
        _ = tokens.next()
        return count
    }
}

extension ScriptTCP {
    init(flags: String, _ tokens: inout ScriptTokens) throws {
        self.flags = flags
        if case .word(let text)? = tokens.peek, let colon = text.firstIndex(of: ":") {
            _ = tokens.next()
            guard let open = text.firstIndex(of: "("), text.hasSuffix(")"), let start = Int(text[..<colon]),
                let end = Int(text[text.index(after: colon)..<open]), let length = Int(text[text.index(after: open)...].dropLast()),
                end - start == length
            else { throw ScriptSyntaxError("sequence numbers are FROM:TO(LENGTH), found \(text)") }
            sequence = start
            count = length
        }
        while let token = tokens.next() {
            switch token {
            case .word("ack"):
                let word = try tokens.word("the acknowledgment")
                if word != "*" {
                    guard let number = Int(word) else { throw ScriptSyntaxError("no acknowledgment number: \(word)") }
                    acknowledgment = number
                }
            case .word("win"):
                let word = try tokens.word("the window")
                if word != "*" {
                    guard let number = Int(word) else { throw ScriptSyntaxError("no window: \(word)") }
                    window = number
                }
            case .options(let text):
                options = []
                for part in text.split(separator: ",") {
                    let words = part.split(separator: " ").map(String.init)
                    if words == ["..."] { mayHaveMoreOptions = true } else { options?.append(try ScriptTCPOption(words)) }
                }
            case .literal(let text): literal = Array(text.utf8)
            default: throw ScriptSyntaxError("unexpected: \(token)")
            }
        }
    }
}

extension ScriptTCPOption {
    init(_ words: [String]) throws {
        func number(_ index: Int) throws -> Int? {
            guard index < words.count else { throw ScriptSyntaxError("an option without its value: \(words)") }
            if words[index] == "*" { return nil }
            guard let number = Int(words[index]) else { throw ScriptSyntaxError("no number: \(words[index])") }
            return number
        }
        func timestamp(_ index: Int) throws -> ScriptTimestamp {
            guard index < words.count else { return .last }
            if words[index] == "last" { return .last }
            return try number(index).map { .value($0) } ?? .any
        }
        switch words.first {
        case "nop": self = .nop
        case "eol": self = .end
        case "sackOK": self = .sackPermitted
        case "mss": self = .maximumSegmentSize(try number(1))
        case "wscale": self = .windowScale(try number(1))
        case "TS":
            guard words.count >= 3, words[1] == "val", words.count == 3 || words[3] == "ecr" else {
                throw ScriptSyntaxError("timestamps are TS val N ecr N")
            }
            self = .timestamps(value: try timestamp(2), echo: try timestamp(4))
        case "sack":
            self = .sack(
                try words.dropFirst().map { block in
                    let ends = block.split(separator: ":").compactMap { Int($0) }
                    guard ends.count == 2, ends[0] <= ends[1] else { throw ScriptSyntaxError("a SACK block is FROM:TO, found \(block)") }
                    return ends[0]..<ends[1]
                })
        case "option":
            guard words.count >= 2, let kind = UInt8(words[1]) else { throw ScriptSyntaxError("option KIND HEX") }
            self = .other(kind: kind, bytes: try words.dropFirst(2).flatMap { try ScriptPacket.hexadecimal($0) })
        default: throw ScriptSyntaxError("no TCP option: \(words.joined(separator: " "))")
        }
    }
}

extension ScriptICMP {
    init(_ tokens: inout ScriptTokens) throws {
        let name = try tokens.word("the kind of ICMP message")
        switch name {
        case "echo-request": kind = .echoRequest
        case "echo-reply": kind = .echoReply
        case "unreachable": kind = .unreachable(try tokens.word("the code"))
        case "too-big": kind = .tooBig
        case "time-exceeded": kind = .timeExceeded(reassembly: tokens.take("reassembly"))
        case "parameter-problem":
            let code = tokens.take("code") ? try tokens.number("the code") : 0
            kind = .parameterProblem(code: code, pointer: tokens.take("pointer") ? try tokens.number("the pointer") : nil)
        case "type":
            let type = UInt8(truncatingIfNeeded: try tokens.number("the type"))
            guard tokens.take("code") else { throw ScriptSyntaxError("'code' is missing") }
            kind = .other(type: type, code: UInt8(truncatingIfNeeded: try tokens.number("the code")))
        default: throw ScriptSyntaxError("no kind of ICMP message: \(name)")
        }
        while !tokens.isEmpty {
            if let count = try ScriptPacket.count(&tokens) { self.count = count; continue }
            switch try tokens.word("a field") {
            case "id": identifier = try tokens.number("the identifier")
            case "seq": sequence = try tokens.number("the sequence number")
            case "mtu": mtu = try tokens.number("the MTU")
            case "about":
                if tokens.take("last") { quotesLast = true } else { quotedSequence = try tokens.number("a sequence number") }
            case let word: throw ScriptSyntaxError("no field of ICMP: \(word)")
            }
        }
    }
}

extension ScriptNDP {
    init(_ tokens: inout ScriptTokens) throws {
        let name = try tokens.word("the kind of NDP message")
        guard let kind = Kind(rawValue: name) else { throw ScriptSyntaxError("no kind of NDP message: \(name)") }
        self.kind = kind
        if kind == .solicit || kind == .advertise || kind == .redirect { target = try ScriptPacket.address(&tokens) }
        while !tokens.isEmpty {
            switch try tokens.word("a field") {
            case "slla", "tlla": hardware = try ScriptPacket.hardware(&tokens)
            case "flags": flags = try tokens.word("the flags")
            case "lifetime": lifetime = try tokens.number("the lifetime")
            case "mtu": mtu = try tokens.number("the MTU")
            case let word: throw ScriptSyntaxError("no field of NDP: \(word)")
            }
        }
    }
}
