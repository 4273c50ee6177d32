import CDemikernelShims
import Glibc
@testable import Demikernel
@testable import DemikernelConfiguration

extension FuzzTarget {
    static let configuration = FuzzTarget(
        name: "configuration", summary: "settings files and the environment", lengthMaximum: 4096, runs: 600,
        seeds: {
            let example = Array(ConfigurationManual.example.utf8)
            let names = Configuration.settings.map { "\($0.variable)=\($0.defaultText)" }
            var seeds = names.map { [0] + Array($0.utf8) } + [[0] + Array(names.joined(separator: "\n").utf8)]
            seeds += Configuration.settings.map { setting in
                let path = setting.path.split(separator: ".")
                let lines = path.enumerated().map { String(repeating: " ", count: $0.offset * 2) + $0.element + ":" }
                return [1] + Array((lines.joined(separator: "\n") + " \(setting.defaultText)\n").utf8)
            }
            seeds += ["{heap: {limit: 64MiB}, libos: catnip}", "heap: &a {checked: true}\nwait: *a", "network:\n  addresses: [10.0.0.1/8, fd00::1/64]\n", "---\n...\n", "\tlibos: x", "a: |\n  b\n", "\u{feff}libos: \"catnap\"", "? a\n: b"].map { [1] + Array($0.utf8) }
            return seeds + [[2] + example.prefix(4000)]
        },
        run: ConfigurationReader.read)
}

private enum ConfigurationReader {
    /// The first byte says what the others are: variables, a text, or a file's bytes.
    static func read(_ bytes: [UInt8]) throws {
        guard let choice = bytes.first else { return }
        let rest = Array(bytes.dropFirst())
        do throws(ConfigurationError) {
            switch choice % 3 {
            case 0: try check(Configuration.environment(String(decoding: rest, as: UTF8.self).split(separator: "\n").map(String.init)))
            case 1: try check(Configuration.parse(String(decoding: rest, as: UTF8.self), file: "fuzz"))
            default: try readFile(rest)
            }
        } catch {
            require(!error.message.isEmpty && !error.description.isEmpty, "an error without words")
            if let line = error.line {
                let lines = rest.count { $0 == 10 || $0 == 13 } + 1
                // U+0085, U+2028 and U+2029 end lines as well, for YAML.
                require(line >= 1 && (line <= lines + 1 || rest.contains(0xc2) || rest.contains(0xe2)), "line \(line) of \(lines): \(error)")
            }
            if let column = error.column { require(column >= 1, "column \(column)") }
        }
    }

    private static func readFile(_ bytes: [UInt8]) throws(ConfigurationError) {
        let file = unsafe dk_memory_file_create("settings", UInt64(bytes.count))
        // An empty file cannot be made in that way.
        guard file >= 0 else { return }
        defer { close(file) }
        unsafe _ = bytes.withUnsafeBytes { unsafe pwrite(file, $0.baseAddress, $0.count, 0) }
        try check(Configuration.load(path: "/proc/self/fd/\(file)", environment: []))
    }

    /// What was read is written and read again as the same; and a stack can be told it.
    private static func check(_ configuration: Configuration) throws(ConfigurationError) {
        var text = ""
        var variables: [String] = []
        var sections: [Substring] = []
        for setting in Configuration.settings {
            let value = setting.type.text(of: setting.read(configuration))
            let names = setting.path.split(separator: ".")
            let shared = zip(sections, names.dropLast()).prefix { $0 == $1 }.count
            for depth in shared..<names.count - 1 { text += String(repeating: "  ", count: depth) + "\(names[depth]):\n" }
            sections = Array(names.dropLast())
            text += String(repeating: "  ", count: sections.count) + "\(names[names.count - 1]): '\(value.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "''"))'\n"
            variables.append("\(setting.variable)=\(value)")
        }
        let again = try? Configuration.parse(text, file: "again")
        require(again == configuration, "settings are read in another way: \(text)")
        require((try? Configuration.environment(variables)) == configuration, "variables are read in another way: \(variables)")
        _ = try NetworkConfiguration(configuration)
    }
}
