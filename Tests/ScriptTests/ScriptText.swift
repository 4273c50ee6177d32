/// Why a script did not run to its end: `file:line: what`.
struct ScriptError: Error, CustomStringConvertible {
    let file: String
    let line: Int
    let text: String

    var description: String { "\(file):\(line): \(text)" }
}

/// A word of a line: plain, `<…>`, `[…]` or `"…"`.
enum ScriptToken: Equatable {
    case word(String)
    /// What is between angle brackets: TCP options.
    case options(String)
    /// What is between square brackets: attributes of the packet.
    case attributes(String)
    case literal(String)
}

/// What is wrong with a line, before it is known which line that is.
struct ScriptSyntaxError: Error {
    let text: String
    init(_ text: String) { self.text = text }
}

/// The words of a line, taken from the front.
struct ScriptTokens {
    private var tokens: ArraySlice<ScriptToken>

    init(_ line: String) throws {
        var tokens: [ScriptToken] = []
        var rest = Substring(line)
        func bracketed(_ end: Character) throws -> String {
            rest = rest.dropFirst()
            guard let index = rest.firstIndex(of: end) else { throw ScriptSyntaxError("'\(end)' is missing") }
            defer { rest = rest[rest.index(after: index)...] }
            return String(rest[..<index])
        }
        while let first = rest.first {
            switch first {
            case " ": rest = rest.dropFirst()
            case "#": rest = ""
            case "\"": tokens.append(.literal(try bracketed("\"")))
            case "[": tokens.append(.attributes(try bracketed("]")))
            case "<" where rest.dropFirst().first.map { $0 != " " && $0 != "=" } == true && tokens.count > 1: tokens.append(.options(try bracketed(">")))
            default:
                let end = rest.firstIndex(of: " ") ?? rest.endIndex
                tokens.append(.word(String(rest[..<end])))
                rest = rest[end...]
            }
        }
        self.tokens = tokens[...]
    }

    var isEmpty: Bool { tokens.isEmpty }
    var peek: ScriptToken? { tokens.first }

    mutating func next() -> ScriptToken? { tokens.popFirst() }

    /// Takes the next word if it is `word`.
    mutating func take(_ word: String) -> Bool {
        guard tokens.first == .word(word) else { return false }
        tokens.removeFirst()
        return true
    }

    mutating func word(_ what: String) throws -> String {
        guard case .word(let word)? = tokens.popFirst() else { throw ScriptSyntaxError("\(what) is missing") }
        return word
    }

    mutating func number(_ what: String) throws -> Int {
        let word = try word(what)
        guard let number = word.hasPrefix("0x") ? Int(word.dropFirst(2), radix: 16) : Int(word) else {
            throw ScriptSyntaxError("\(what) is no number: \(word)")
        }
        return number
    }

    mutating func literal() -> [UInt8]? {
        guard case .literal(let text)? = tokens.first else { return nil }
        tokens.removeFirst()
        return Array(text.utf8)
    }

    mutating func end() throws {
        guard let extra = tokens.first else { return }
        throw ScriptSyntaxError("unexpected: \(extra)")
    }
}

/// When something happens: `0.5`, `+0.5`, `+0.9~1.1` (of expected packets: within), `*` (whenever).
struct ScriptTime: Equatable {
    var isRelative: Bool
    var from: UInt64
    /// The end of a window, counted as `from` is.
    var until: UInt64?
    var isAny: Bool

    init?(_ text: String) {
        if text == "*" {
            (isRelative, from, until, isAny) = (true, 0, nil, true)
            return
        }
        isAny = false
        isRelative = text.hasPrefix("+")
        let parts = text.split(separator: "~", omittingEmptySubsequences: false)
        guard parts.count <= 2, let first = Self.nanoseconds(parts[0].drop { $0 == "+" }) else { return nil }
        from = first
        until = nil
        if parts.count == 2 {
            guard let last = Self.nanoseconds(parts[1].drop { $0 == "+" }), last >= first else { return nil }
            until = last
        }
    }

    /// Decimal seconds as nanoseconds, exactly.
    static func nanoseconds(_ text: Substring) -> UInt64? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count <= 2, let seconds = UInt64(parts[0].isEmpty && parts.count == 2 ? "0" : parts[0]) else { return nil }
        guard parts.count == 2 else { return seconds * 1_000_000_000 }
        guard parts[1].count <= 9, let fraction = UInt64(parts[1] + String(repeating: "0", count: 9 - parts[1].count)) else { return nil }
        return seconds * 1_000_000_000 + fraction
    }

    static func text(_ nanoseconds: UInt64) -> String {
        let fraction = String(nanoseconds % 1_000_000_000)
        return "\(nanoseconds / 1_000_000_000)." + String(repeating: "0", count: 9 - fraction.count) + fraction
    }
}
