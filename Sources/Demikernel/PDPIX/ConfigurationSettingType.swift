/// What a setting can be: a grammar with its range.
///
/// Text becomes a ``ConfigurationValue`` by ``parse(_:)``, a value becomes canonical text by ``text(of:)``, and ``problem(with:)`` says why
/// a value is out of range, whichever face it came by.
package enum ConfigurationSettingType: Sendable, Equatable {
    /// A libOS's name.
    case name
    case boolean
    /// One word of several.
    case choice([String])
    /// A number of `unit`, such as "descriptors".
    case count(ClosedRange<Int>, unit: String)
    /// A size in bytes.
    case size(ClosedRange<Int>)
    /// A time up to `maximum` nanoseconds, or `forever`.
    case spin(maximum: UInt64)
    /// A time of so many nanoseconds.
    case duration(ClosedRange<UInt64>)
    /// A word, or `none`.
    case text(ConfigurationGrammar)
    /// Words between commas, or `none`.
    case list(ConfigurationGrammar, maximum: Int)

    /// Reads a value; nil where the text is none of this type. Ranges are ``problem(with:)``'s.
    package func parse(_ text: String) -> ConfigurationValue? {
        switch self {
        case .name: .text(text)
        case .boolean: Self.booleans[text.lowercased()].map(ConfigurationValue.boolean)
        case .choice(let choices): choices.contains(text) ? .text(text) : nil
        case .count: Self.number(text[...]).map(ConfigurationValue.integer)
        case .size: Self.scaled(text, by: Self.sizeUnits).map(ConfigurationValue.integer)
        case .spin: text == "forever" ? .spin(.forever) : Self.duration(text).map { .spin(.atMost($0)) }
        case .duration: Self.duration(text).map(ConfigurationValue.duration)
        case .text: .text(text == Self.none ? "" : text)
        case .list: .list(text == Self.none ? [] : Self.words(text))
        }
    }

    /// Why `value` is out of range, or nil.
    package func problem(with value: ConfigurationValue) -> String? {
        let allowed: Bool =
            switch (self, value) {
            case (.name, .text(let name)): Self.isName(name)
            case (.boolean, .boolean): true
            case (.choice(let choices), .text(let word)): choices.contains(word)
            case (.count(let range, _), .integer(let number)), (.size(let range), .integer(let number)): range.contains(number)
            case (.spin, .spin(.forever)): true
            case (.spin(let maximum), .spin(.atMost(let duration))):
                duration >= .zero && ConfigurationValue.spin(.atMost(duration)).nanoseconds <= maximum
            case (.duration(let range), .duration(let duration)): duration >= .zero && range.contains(duration.nanosecondsClamped)
            case (.text(let grammar), .text(let word)): word.isEmpty || grammar.matches(word)
            case (.list(let grammar, let maximum), .list(let words)): words.count <= maximum && words.allSatisfy(grammar.matches)
            default: false
            }
        return allowed ? nil : "expected \(expectation), found \(text(of: value).quotedForMessage)"
    }

    /// What is expected, for messages and manuals: "a size in bytes, KiB, MiB or GiB from 64 to 16MiB".
    package var expectation: String {
        switch self {
        case .name: "a name of at most \(Self.nameLengthMaximum) letters, digits and -_.+ that begins with a letter"
        case .boolean: "true or false"
        case .choice(let choices): choices.dropLast().joined(separator: ", ") + " or " + (choices.last ?? "")
        case .count(let range, let unit): "a number of \(unit) from \(range.lowerBound) to \(range.upperBound)"
        case .size(let range):
            "a size in bytes, KiB, MiB or GiB from \(Self.sizeText(range.lowerBound)) to \(Self.sizeText(range.upperBound))"
        case .spin(let maximum): "a time in us, ms or s from 0 to \(Self.durationText(maximum)), or forever"
        case .duration(let range): "a time in us, ms or s from \(Self.durationText(range.lowerBound)) to \(Self.durationText(range.upperBound))"
        case .text(let grammar): "\(grammar.expectation), or none"
        case .list(let grammar, let maximum): "up to \(maximum) \(grammar.listExpectation), or none"
        }
    }

    /// The shortest text that ``parse(_:)`` reads back as `value`.
    package func text(of value: ConfigurationValue) -> String {
        switch (self, value) {
        case (.size, .integer(let bytes)): Self.sizeText(bytes)
        case (_, .integer(let number)): "\(number)"
        case (_, .boolean(let flag)): flag ? "true" : "false"
        case (.text, .text("")): Self.none
        case (_, .text(let word)): word
        case (_, .list(let words)): words.isEmpty ? Self.none : words.joined(separator: ",")
        case (_, .duration(let duration)): duration < .zero ? "\(duration)" : Self.durationText(duration.nanosecondsClamped)
        case (_, .spin(.forever)): "forever"
        case (_, .spin(.atMost(let duration))): duration < .zero ? "\(duration)" : Self.durationText(value.nanoseconds)
        }
    }
}

/// One setting's value, by type.
package enum ConfigurationValue: Sendable, Equatable {
    case text(String)
    case boolean(Bool)
    case integer(Int)
    case spin(Configuration.Wait.Spin)
    case duration(Duration)
    case list([String])

    var nanoseconds: UInt64 {
        guard case .spin(let spin) = self else { return 0 }
        return spin.nanoseconds
    }
}

// MARK: - Grammars

extension ConfigurationSettingType {
    /// YAML 1.2's core schema, and the words that people write besides.
    private static let booleans: [String: Bool] = [
        "true": true, "yes": true, "on": true, "1": true, "false": false, "no": false, "off": false, "0": false,
    ]
    /// Largest first, as ``text(of:)`` wants them. KB and MB are not here: they mean two things.
    private static let sizeUnits: [(name: String, scale: Int)] = [
        ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1),
    ]
    private static let durationUnits: [(name: String, scale: Int)] = [
        ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("µs", 1_000), ("ns", 1),
    ]
    static let nameLengthMaximum = 64
    /// The word for what is not set.
    private static let none = "none"

    /// What stands between commas, without the spaces around it.
    private static func words(_ text: String) -> [String] {
        text.split(separator: ",", omittingEmptySubsequences: false).map { word in
            let start = word.drop { $0 == " " }
            return String(start.prefix(start.count - start.reversed().prefix { $0 == " " }.count))
        }
    }


    private static func isName(_ text: String) -> Bool {
        guard text.utf8.count <= nameLengthMaximum, let first = text.utf8.first, isLetter(first) else { return false }
        return text.utf8.allSatisfy { isLetter($0) || isDigit($0) || $0 == 0x2d || $0 == 0x5f || $0 == 0x2e || $0 == 0x2b }
    }

    private static func isLetter(_ byte: UInt8) -> Bool { (0x61...0x7a).contains(byte | 0x20) }
    private static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

    /// Decimal digits, which fit an `Int`.
    private static func number(_ text: Substring) -> Int? {
        guard !text.isEmpty, text.utf8.allSatisfy(isDigit) else { return nil }
        return Int(text)
    }

    /// Decimal digits and a unit, with or without spaces between them.
    private static func scaled(_ text: String, by units: [(name: String, scale: Int)]) -> Int? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let name = text[digits.endIndex...].drop { $0 == " " }
        guard let number = number(digits), let unit = units.first(where: { $0.name.lowercased() == name.lowercased() }) else { return nil }
        let (product, overflow) = number.multipliedReportingOverflow(by: unit.scale)
        return overflow ? nil : product
    }

    /// A number without a unit is a time only where it is 0.
    private static func duration(_ text: String) -> Duration? {
        text == "0" ? .zero : scaled(text, by: durationUnits).map { .nanoseconds($0) }
    }

    private static func sizeText(_ bytes: Int) -> String {
        guard bytes > 0, let unit = sizeUnits.first(where: { bytes % $0.scale == 0 }), unit.scale > 1 else { return "\(bytes)" }
        return "\(bytes / unit.scale)\(unit.name)"
    }

    private static func durationText(_ nanoseconds: UInt64) -> String {
        guard nanoseconds > 0, let unit = durationUnits.first(where: { nanoseconds % UInt64($0.scale) == 0 }) else { return "0" }
        return "\(nanoseconds / UInt64(unit.scale))\(unit.name)"
    }
}

extension String {
    /// This text without control characters and cut at 64, so that a message stays one line on a terminal.
    package var escapedForMessage: String {
        var text = ""
        for scalar in unicodeScalars.prefix(64) {
            switch scalar.value {
            case 0x0a: text += "\\n"
            case 0x09: text += "\\t"
            case ..<0x20, 0x7f...0x9f, 0x2028...0x202e, 0x2066...0x2069: text += "\\u{\(String(scalar.value, radix: 16))}"
            default: text.unicodeScalars.append(scalar)
            }
        }
        return unicodeScalars.count > 64 ? text + "…" : text
    }

    /// The same in quotation marks.
    package var quotedForMessage: String { "\"\(escapedForMessage)\"" }
}
