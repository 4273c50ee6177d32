import Demikernel

/// One line of a script.
struct ScriptStep {
    let line: Int
    let source: String
    let time: ScriptTime
    let action: Action

    enum Action {
        case inject(ScriptPacket)
        case expect(ScriptPacket)
        case call(ScriptCall)
    }
}

/// A conversation that was read from a file.
struct Script {
    /// The last parts of the path.
    let file: String
    private(set) var configuration = ScriptConfiguration()
    private(set) var steps: [ScriptStep] = []

    /// Reads a script. Throws ``ScriptError`` for a line that makes no sense, and for a file that does not name in its first line the rule that
    /// it shows: `# RFC 9293 §3.10.7.4: what`.
    init(_ text: String, file: String) throws {
        self.file = file
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        guard let header = lines.first(where: { !$0.isEmpty }), Self.isHeader(header) else {
            throw ScriptError(file: file, line: 1, text: "the first line names no rule: # RFC 9293 §3.10.7.4: what is shown")
        }
        for (number, line) in lines.enumerated() {
            let trimmed = line.drop { $0 == " " }
            guard !trimmed.isEmpty, !trimmed.hasPrefix("#") else { continue }
            do {
                try read(String(trimmed), number + 1)
            } catch let error as ScriptSyntaxError {
                throw ScriptError(file: file, line: number + 1, text: error.text)
            }
        }
        guard !steps.isEmpty else { throw ScriptError(file: file, line: lines.count, text: "nothing happens in it") }
    }

    /// `# RFC 1122 §3.2.2.1: text`, or IEEE.
    private static func isHeader(_ line: String) -> Bool {
        let words = line.split(separator: " ", maxSplits: 3).map(String.init)
        guard words.count == 4, words[0] == "#", words[1] == "RFC" || words[1] == "IEEE" else { return false }
        if words[2].hasSuffix(":") { return words[2].dropLast().first?.isNumber == true }
        guard words[2].first?.isNumber == true, words[3].hasPrefix("§"), let colon = words[3].firstIndex(of: ":") else { return false }
        return words[3][colon...].count > 2
    }

    /// The same with another thing to happen at a step, for those who doubt that it would be noticed.
    func replacing(_ index: Int, with action: ScriptStep.Action) -> Script {
        var changed = self
        let old = steps[index]
        changed.steps[index] = ScriptStep(line: old.line, source: old.source, time: old.time, action: action)
        return changed
    }

    /// The same with one step more at the end, right after the last.
    func appending(_ action: ScriptStep.Action) -> Script {
        var changed = self
        changed.steps.append(ScriptStep(line: steps.last!.line + 1, source: "(added)", time: ScriptTime("+0")!, action: action))
        return changed
    }

    private mutating func read(_ line: String, _ number: Int) throws {
        var tokens = try ScriptTokens(line)
        guard case .word(let first)? = tokens.peek, let time = ScriptTime(first) else {
            guard steps.isEmpty else { throw ScriptSyntaxError("settings come before the first timed line") }
            return try configuration.take(&tokens)
        }
        _ = tokens.next()
        let action: ScriptStep.Action
        switch try tokens.word("what happens") {
        case "<": action = .inject(try ScriptPacket(&tokens))
        case ">": action = .expect(try ScriptPacket(&tokens))
        case let name: action = .call(try ScriptCall(name, &tokens, configuration))
        }
        if case .expect = action {} else if time.isAny || time.until != nil {
            throw ScriptSyntaxError("only an expected packet has a window of time")
        }
        steps.append(ScriptStep(line: number, source: line, time: time, action: action))
    }
}
