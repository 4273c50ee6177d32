import Demikernel
import DemikernelConfiguration
import Foundation
import Testing

/// The files that are written about the schema, beside the schema. `DEMI_TEST_REGENERATE=1` rewrites them.
struct ManualTests {
    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    static let example = root.appending(path: "Examples/demikernel.yaml")
    static let manual = root.appending(path: "Documentation/man/man5/demikernel.yaml.5")

    /// Rewrites the generated part of a file where that was asked for.
    static func regenerate(_ file: URL, _ edit: (String) -> String) throws {
        guard ProcessInfo.processInfo.environment["DEMI_TEST_REGENERATE"] == "1" else { return }
        let text = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
        try edit(text).write(to: file, atomically: true, encoding: .utf8)
    }

    @Test func `the example file is the schema's, and every setting in it is the default`() throws {
        try Self.regenerate(Self.example) { _ in ConfigurationManual.example }
        let text = try String(contentsOf: Self.example, encoding: .utf8)
        #expect(text == ConfigurationManual.example, "DEMI_TEST_REGENERATE=1 swift test --filter ManualTests rewrites it")
        #expect(try Configuration.parse(text, file: "demikernel.yaml") == Configuration())
        #expect(try Configuration.load(path: Self.example.path, environment: []) == Configuration())
        for setting in Configuration.settings {
            let name = try #require(setting.path.split(separator: ".").last)
            #expect(text.contains("\(name): \(setting.defaultText)\n"))
            #expect(text.contains("[\(setting.variable)]"))
        }
    }

    @Test func `the manual page lists every setting as the schema has it`() throws {
        let begin = ".\\\" SETTINGS BEGIN: made from the schema by ManualTests\n"
        let end = ".\\\" SETTINGS END\n"
        try Self.regenerate(Self.manual) { text in
            let parts = text.components(separatedBy: begin)
            let rest = parts[1].components(separatedBy: end)
            return parts[0] + begin + ConfigurationManual.manualTable + end + rest[1]
        }
        let text = try String(contentsOf: Self.manual, encoding: .utf8)
        #expect(text.contains(begin + ConfigurationManual.manualTable + end), "DEMI_TEST_REGENERATE=1 swift test --filter ManualTests rewrites it")
        for setting in Configuration.settings {
            #expect(text.contains(".It Cm \(setting.path) Pq Ev \(setting.variable) "))
        }
        for prefix in Configuration.reservedVariablePrefixes { #expect(text.contains(prefix)) }
    }

    @Test func `the help text names every setting, its variable and its default`() {
        for setting in Configuration.settings {
            #expect(ConfigurationManual.help.contains("  \(setting.path) = \(setting.defaultText)    \(setting.variable)\n"))
        }
    }
}
