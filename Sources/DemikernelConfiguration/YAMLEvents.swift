import CYaml

/// One event of a YAML stream and where it begins, counted from 1.
struct YAMLEvent {
    enum Kind: Equatable {
        case streamStart, streamEnd, documentStart, documentEnd, mappingStart, mappingEnd, sequenceStart, sequenceEnd
        case alias
        /// `isNull`: nothing, `~` or `null`, and not in quotation marks.
        case scalar(String, isNull: Bool)
    }

    let kind: Kind
    let line: Int
    let column: Int
    let hasAnchor: Bool
    let hasTag: Bool
}

/// What libyaml found wrong with a text, in its words.
struct YAMLSyntaxError: Error {
    let message: String
    let line: Int
    let column: Int
}

/// The events of a YAML text, one after the other, from libyaml.
///
/// Invariant: `parser` is initialised and stays at its address, which libyaml keeps inside it; `input` holds `count` initialised bytes,
/// which the parser reads until it is deleted.
@safe
struct YAMLEvents: ~Copyable {
    private let parser: UnsafeMutablePointer<yaml_parser_t>
    private let input: UnsafeMutablePointer<UInt8>
    private let count: Int

    /// `bytes` is UTF-8. Fails where memory is short.
    init?(_ bytes: [UInt8]) {
        unsafe parser = .allocate(capacity: 1)
        guard unsafe yaml_parser_initialize(parser) == 1 else {
            unsafe parser.deallocate()
            return nil
        }
        count = bytes.count
        unsafe input = .allocate(capacity: max(1, bytes.count))
        _ = unsafe UnsafeMutableBufferPointer(start: input, count: count).initialize(fromContentsOf: bytes)
        unsafe yaml_parser_set_input_string(parser, input, count)
    }

    deinit {
        unsafe yaml_parser_delete(parser)
        unsafe parser.deallocate()
        unsafe input.deallocate()
    }

    /// The next event. After ``YAMLEvent/Kind/streamEnd`` it is that one again.
    mutating func next() throws(YAMLSyntaxError) -> YAMLEvent {
        var event = unsafe yaml_event_t()
        guard unsafe yaml_parser_parse(parser, &event) == 1 else { throw syntaxError() }
        defer { unsafe yaml_event_delete(&event) }
        let mark = unsafe event.start_mark
        let (kind, anchor, tag) = unsafe Self.content(of: event)
        return YAMLEvent(kind: kind, line: Int(mark.line) + 1, column: Int(mark.column) + 1, hasAnchor: anchor, hasTag: tag)
    }

    /// The part of an event that depends on its type, which says what the union holds.
    private static func content(of event: borrowing yaml_event_t) -> (kind: YAMLEvent.Kind, hasAnchor: Bool, hasTag: Bool) {
        switch unsafe event.type {
        case YAML_STREAM_START_EVENT: return (.streamStart, false, false)
        case YAML_DOCUMENT_START_EVENT: return (.documentStart, false, false)
        case YAML_DOCUMENT_END_EVENT: return (.documentEnd, false, false)
        case YAML_ALIAS_EVENT: return (.alias, false, false)
        case YAML_SCALAR_EVENT:
            let scalar = unsafe event.data.scalar
            let text = unsafe String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self)
            let isNull = unsafe scalar.style == YAML_PLAIN_SCALAR_STYLE && ["", "~", "null", "Null", "NULL"].contains(text)
            return unsafe (.scalar(text, isNull: isNull), scalar.anchor != nil, scalar.tag != nil)
        case YAML_SEQUENCE_START_EVENT:
            return unsafe (.sequenceStart, event.data.sequence_start.anchor != nil, event.data.sequence_start.tag != nil)
        case YAML_SEQUENCE_END_EVENT: return (.sequenceEnd, false, false)
        case YAML_MAPPING_START_EVENT:
            return unsafe (.mappingStart, event.data.mapping_start.anchor != nil, event.data.mapping_start.tag != nil)
        case YAML_MAPPING_END_EVENT: return (.mappingEnd, false, false)
        default: return (.streamEnd, false, false)
        }
    }

    private func syntaxError() -> YAMLSyntaxError {
        let state = unsafe parser.pointee
        var message = unsafe state.problem.map { unsafe String(cString: $0) } ?? "not enough memory"
        if unsafe state.error == YAML_READER_ERROR {
            let (line, column) = position(ofByte: unsafe state.problem_offset)
            return YAMLSyntaxError(message: message, line: line, column: column)
        }
        if let context = unsafe state.context { unsafe message += " (\(String(cString: context)), line \(state.context_mark.line + 1))" }
        let mark = unsafe state.problem_mark
        if isIndentedByTab(line: Int(mark.line)) { message += "; YAML indents with spaces, not tabs" }
        return YAMLSyntaxError(message: message, line: Int(mark.line) + 1, column: Int(mark.column) + 1)
    }

    /// Line and column of a byte; a column is a character, that is, a byte that continues none.
    private func position(ofByte offset: Int) -> (line: Int, column: Int) {
        var line = 1
        var column = 1
        for i in 0..<min(offset, count) {
            let byte = unsafe input[i]
            if byte == 0x0a {
                line += 1
                column = 1
            } else if byte & 0xc0 != 0x80 {
                column += 1
            }
        }
        return (line, column)
    }

    /// Whether a tab stands in the white space that begins a line, counted from 0.
    private func isIndentedByTab(line: Int) -> Bool {
        let text = unsafe UnsafeBufferPointer(start: input, count: count)
        let lines = unsafe text.split(separator: 0x0a, maxSplits: line + 1, omittingEmptySubsequences: false)
        guard unsafe line < lines.count else { return false }
        return unsafe lines[line].prefix { $0 == 0x20 || $0 == 0x09 }.contains(0x09)
    }
}
