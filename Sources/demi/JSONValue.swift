/// What a JSON text says (RFC 8259), for the little that the tool reads of others' making.
enum JSONValue {
    case null
    case boolean(Bool)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// Nil for what is no JSON, or nested more than 16 deep.
    init?(_ text: [UInt8]) {
        var parser = Parser(rest: text[...])
        guard let value = parser.value(depth: 0), parser.isAtEnd else { return nil }
        self = value
    }

    subscript(name: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members[name]
    }

    var boolean: Bool? { if case .boolean(let value) = self { value } else { nil } }
    /// A number without a fraction that fits.
    var integer: Int? { if case .number(let value) = self { Int(exactly: value) } else { nil } }
    var number: Double? { if case .number(let value) = self { value } else { nil } }
    var elements: [JSONValue] { if case .array(let values) = self { values } else { [] } }

    private struct Parser {
        private static let depthMaximum = 16
        var rest: ArraySlice<UInt8>

        private mutating func skipBlanks() { rest = rest.drop { [0x20, 0x09, 0x0a, 0x0d].contains($0) } }

        var isAtEnd: Bool {
            mutating get {
                skipBlanks()
                return rest.isEmpty
            }
        }

        private mutating func take(_ text: StaticString) -> Bool {
            let bytes = String(describing: text).utf8
            guard rest.starts(with: bytes) else { return false }
            rest = rest.dropFirst(bytes.count)
            return true
        }

        mutating func value(depth: Int) -> JSONValue? {
            skipBlanks()
            guard depth < Self.depthMaximum, let first = rest.first else { return nil }
            switch first {
            case UInt8(ascii: "{"): return object(depth)
            case UInt8(ascii: "["): return array(depth)
            case UInt8(ascii: "\""): return string().map(JSONValue.string)
            case UInt8(ascii: "t"): return take("true") ? .boolean(true) : nil
            case UInt8(ascii: "f"): return take("false") ? .boolean(false) : nil
            case UInt8(ascii: "n"): return take("null") ? .null : nil
            default: return number()
            }
        }

        private mutating func number() -> JSONValue? {
            let digits = rest.prefix { "+-.0123456789eE".utf8.contains($0) }
            rest = rest.dropFirst(digits.count)
            return Double(String(decoding: digits, as: UTF8.self)).map(JSONValue.number)
        }

        private mutating func array(_ depth: Int) -> JSONValue? {
            rest.removeFirst()
            var values: [JSONValue] = []
            skipBlanks()
            if take("]") { return .array(values) }
            while let value = value(depth: depth + 1) {
                values.append(value)
                skipBlanks()
                if take("]") { return .array(values) }
                guard take(",") else { return nil }
            }
            return nil
        }

        private mutating func object(_ depth: Int) -> JSONValue? {
            rest.removeFirst()
            var members: [String: JSONValue] = [:]
            skipBlanks()
            if take("}") { return .object(members) }
            while true {
                skipBlanks()
                guard rest.first == UInt8(ascii: "\""), let name = string() else { return nil }
                skipBlanks()
                guard take(":"), let value = value(depth: depth + 1) else { return nil }
                members[name] = value
                skipBlanks()
                if take("}") { return .object(members) }
                guard take(",") else { return nil }
            }
        }

        /// Escapes other than those of one character stand for themselves: nothing that is read here has them.
        private mutating func string() -> String? {
            rest.removeFirst()
            var bytes: [UInt8] = []
            while let byte = rest.popFirst() {
                switch byte {
                case UInt8(ascii: "\""): return String(decoding: bytes, as: UTF8.self)
                case UInt8(ascii: "\\"):
                    guard let escaped = rest.popFirst() else { return nil }
                    switch escaped {
                    case UInt8(ascii: "n"): bytes.append(0x0a)
                    case UInt8(ascii: "t"): bytes.append(0x09)
                    case UInt8(ascii: "r"): bytes.append(0x0d)
                    case UInt8(ascii: "u"): bytes += [byte, escaped]
                    default: bytes.append(escaped)
                    }
                default: bytes.append(byte)
                }
            }
            return nil
        }
    }
}
