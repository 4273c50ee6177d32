import Demikernel

/// Reads settings from YAML events: sections are mappings, settings are scalars, and nothing else is taken.
///
/// The schema bounds the depth, so that hostile nesting is refused at its first level too many.
struct ConfigurationFileParser: ~Copyable {
    private var events: YAMLEvents
    private let file: String
    private var assembly: ConfigurationAssembly

    /// Adds what `bytes` say to `assembly`. `bytes` are UTF-8; `file` names them in errors.
    static func apply(_ bytes: [UInt8], file: String, to assembly: inout ConfigurationAssembly) throws(ConfigurationError) {
        guard let events = YAMLEvents(bytes) else { throw ConfigurationError(.noMemory, file: file, "not enough memory to read it") }
        var parser = ConfigurationFileParser(events: events, file: file, assembly: assembly)
        try parser.parseStream()
        assembly = parser.assembly
    }

    private init(events: consuming YAMLEvents, file: String, assembly: ConfigurationAssembly) {
        self.events = events
        self.file = file
        self.assembly = assembly
    }

    /// stream = [document]. No document at all, an empty one, and one of comments only are the defaults.
    private mutating func parseStream() throws(ConfigurationError) {
        _ = try next(under: nil)
        guard try next(under: nil).kind == .documentStart else { return }
        let root = try next(under: nil)
        switch root.kind {
        case .mappingStart: try parseSection("")
        case .scalar(_, isNull: true): break
        case .scalar(let text, isNull: false):
            throw error(root, nil, "expected sections and settings such as \"libos: catnap\", found \(text.quotedForMessage)")
        default: throw error(root, nil, "expected sections and settings such as \"libos: catnap\", found \(Self.name(of: root))")
        }
        _ = try next(under: nil)
        let end = try next(under: nil)
        if end.kind != .streamEnd { throw error(end, nil, "a second document; the settings are one document") }
    }

    /// section = { key value }, after its beginning. `prefix` is the section's path with a dot at its end, or empty.
    private mutating func parseSection(_ prefix: String) throws(ConfigurationError) {
        let section = prefix.isEmpty ? nil : String(prefix.dropLast())
        var lines: [String: Int] = [:]
        while true {
            let key = try next(under: section)
            if key.kind == .mappingEnd { return }
            guard case .scalar(let name, _) = key.kind else {
                throw error(key, section, "expected the name of a setting, found \(Self.name(of: key))")
            }
            let path = prefix + name
            if let line = lines.updateValue(key.line, forKey: name) {
                throw error(key, path.escapedForMessage, "stands here for the second time; the first is on line \(line)")
            }
            if let setting = Configuration.settings.first(where: { $0.path == path }) {
                try parseValue(of: setting, key)
            } else if Configuration.settings.contains(where: { $0.path.hasPrefix(path + ".") }) {
                try parseSectionValue(path, key)
            } else {
                throw error(key, path.escapedForMessage, "unknown key; \(Self.hint(for: name, prefix: prefix))")
            }
        }
    }

    private mutating func parseValue(of setting: ConfigurationSetting, _ key: YAMLEvent) throws(ConfigurationError) {
        let value = try next(under: setting.path)
        if case .sequenceStart = value.kind, case .list = setting.type { return try parseList(of: setting, key) }
        guard case .scalar(let text, isNull: false) = value.kind else {
            throw error(key, setting.path, "expected \(setting.type.expectation), found \(Self.name(of: value))")
        }
        try assembly.set(setting, to: text, from: .file(file, line: key.line, column: key.column))
    }

    /// list = [ word ], after its beginning.
    private mutating func parseList(of setting: ConfigurationSetting, _ key: YAMLEvent) throws(ConfigurationError) {
        var words: [String] = []
        while true {
            let word = try next(under: setting.path)
            if word.kind == .sequenceEnd { break }
            guard case .scalar(let text, isNull: false) = word.kind, !text.utf8.contains(0x2c) else {
                throw error(word, setting.path, "expected \(setting.type.expectation), found \(Self.name(of: word)) in the list")
            }
            words.append(text)
        }
        let text = words.isEmpty ? "none" : words.joined(separator: ",")
        try assembly.set(setting, to: text, from: .file(file, line: key.line, column: key.column))
    }

    /// A section without anything in it, as when all its settings are commented out, is left at the defaults.
    private mutating func parseSectionValue(_ path: String, _ key: YAMLEvent) throws(ConfigurationError) {
        let value = try next(under: path)
        switch value.kind {
        case .mappingStart: try parseSection(path + ".")
        case .scalar(_, isNull: true): break
        case .scalar(let text, isNull: false):
            throw error(key, path, "expected a section with \(Self.keys(under: path + ".")), found \(text.quotedForMessage)")
        default: throw error(key, path, "expected a section with \(Self.keys(under: path + ".")), found \(Self.name(of: value))")
        }
    }

    /// The next event that settings may have; aliases, anchors and tags are none of them.
    private mutating func next(under path: String?) throws(ConfigurationError) -> YAMLEvent {
        let event: YAMLEvent
        do {
            event = try events.next()
        } catch {
            throw ConfigurationError(file: file, line: error.line, column: error.column, key: path, error.message)
        }
        if event.kind == .alias { throw error(event, path, "an alias (*name); settings are written out, without anchors and aliases") }
        if event.hasAnchor { throw error(event, path, "an anchor (&name); settings are written out, without anchors and aliases") }
        if event.hasTag { throw error(event, path, "a tag (!name); each setting has its type already") }
        return event
    }

    private func error(_ event: YAMLEvent, _ path: String?, _ message: String) -> ConfigurationError {
        ConfigurationError(file: file, line: event.line, column: event.column, key: path, message)
    }
}

// MARK: - Words for errors

extension ConfigurationFileParser {
    private static func name(of event: YAMLEvent) -> String {
        switch event.kind {
        case .mappingStart: "a section"
        case .sequenceStart: "a list"
        case .scalar(_, isNull: true): "nothing"
        case .scalar(let text, isNull: false): text.quotedForMessage
        default: "the end"
        }
    }

    /// What stands directly under `prefix`: settings and sections, in the schema's order.
    private static func names(under prefix: String) -> [String] {
        var names: [String] = []
        for setting in Configuration.settings where setting.path.hasPrefix(prefix) {
            let name = String(setting.path.dropFirst(prefix.count).prefix { $0 != "." })
            if names.last != name { names.append(name) }
        }
        return names
    }

    private static func keys(under prefix: String) -> String { names(under: prefix).joined(separator: ", ") }

    /// What an unknown key was meant to be: a neighbour, the same key of another section, or else all that there is.
    private static func hint(for name: String, prefix: String) -> String {
        if let near = ConfigurationSuggestion.nearest(to: name, in: names(under: prefix)) { return "did you mean \(near)?" }
        let paths = Configuration.settings.map(\.path)
        let elsewhere =
            paths.first { $0 == name || $0.hasSuffix("." + name) } ?? ConfigurationSuggestion.nearest(to: prefix + name, in: paths)
        if let elsewhere {
            guard let dot = elsewhere.lastIndex(of: ".") else { return "did you mean \(elsewhere) at the top?" }
            return "did you mean \(elsewhere[elsewhere.index(after: dot)...]) in the section \(elsewhere[..<dot])?"
        }
        let place = prefix.isEmpty ? "the settings are" : "\(prefix.dropLast()) has"
        return "\(place) \(keys(under: prefix))"
    }
}
