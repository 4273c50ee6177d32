import Demikernel

/// What is written about the settings, made from the schema: a help text, the table of demikernel.yaml(5), and the example file.
package enum ConfigurationManual {
    /// Every setting with its variable, its default and what it takes, in lines of at most 100 characters.
    package static var help: String {
        var text = "Settings, by their names in the file (CONFIG_PATH) and in the environment, which goes first:\n"
        for setting in Configuration.settings {
            text += "\n  \(setting.path) = \(setting.defaultText)    \(setting.variable)\n"
            text += wrapped("\(setting.summary) Takes \(setting.type.expectation).", prefix: "      ")
        }
        return text
    }

    /// The list of demikernel.yaml(5), in mdoc(7).
    package static var manualTable: String {
        var text = ".Bl -tag -width Ds\n"
        for setting in Configuration.settings {
            text += ".It Cm \(setting.path) Pq Ev \(setting.variable) ; default Cm \(setting.defaultText)\n"
            for sentence in sentences(setting.summary) { text += sentence + "\n" }
            text += "Takes \(setting.type.expectation).\n"
        }
        return text + ".El\n"
    }

    /// A settings file with every setting at its default, and a comment on each.
    package static var example: String {
        var text = """
            # Settings of a Demikernel libOS: every one, at its default. Point CONFIG_PATH at this file.
            # What is left out keeps its default; the variable in brackets goes before the file. See demikernel.yaml(5).

            """
        var sections: [Substring] = []
        for setting in Configuration.settings {
            let names = setting.path.split(separator: ".")
            let shared = zip(sections, names.dropLast()).prefix { $0 == $1 }.count
            if shared == 0 { text += "\n" }
            for depth in shared..<names.count - 1 { text += indent(depth) + "\(names[depth]):\n" }
            sections = Array(names.dropLast())
            let place = indent(sections.count)
            text += wrapped(setting.summary, prefix: place + "# ")
            text += wrapped("Takes \(setting.type.expectation). [\(setting.variable)]", prefix: place + "# ")
            text += place + "\(names[names.count - 1]): \(setting.defaultText)\n"
        }
        return text
    }

    private static func indent(_ depth: Int) -> String { String(repeating: "  ", count: depth) }

    /// `text` in lines of at most 100 characters, each beginning with `prefix`.
    private static func wrapped(_ text: String, prefix: String) -> String {
        var lines = ""
        var line = prefix
        for word in text.split(separator: " ") {
            if line.count > prefix.count, line.count + 1 + word.count > 100 {
                lines += line + "\n"
                line = prefix
            }
            line += (line.count > prefix.count ? " " : "") + word
        }
        return lines + line + "\n"
    }

    /// mdoc wants each sentence on a line of its own.
    private static func sentences(_ text: String) -> [String] {
        var sentences: [String] = []
        var sentence = ""
        for character in text {
            if character == " ", sentence.last == "." {
                sentences.append(sentence)
                sentence = ""
            } else {
                sentence.append(character)
            }
        }
        return sentence.isEmpty ? sentences : sentences + [sentence]
    }
}
