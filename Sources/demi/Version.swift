import ArgumentParser
import Demikernel

/// What this build is.
enum Version {
    /// The one place where the number stands.
    static let number = "0.1.0"

    static var line: String { "demi \(number) (swift-demikernel)" }

    /// The compiler's version, as far as conditional compilation tells it.
    static var compiler: String {
        #if compiler(>=6.5)
        "6.5 or later"
        #elseif compiler(>=6.4)
        "6.4"
        #elseif compiler(>=6.3)
        "6.3"
        #else
        "6.2"
        #endif
    }

    static var mode: String {
        #if DEBUG
        "debug"
        #else
        "release"
        #endif
    }
}

struct VersionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "version", abstract: "Says what this build is: its version, its compiler, its libOSes.",
        discussion: """
            Examples:
              demi version
              demi version --json
            """)

    @Flag(help: "Print one JSON object.") var json = false

    func run() throws {
        let names = Registry.entries.map(\.name)
        guard json else {
            writeLine(Version.line)
            writeLine("compiled with Swift \(Version.compiler), \(Version.mode) build")
            for entry in Registry.entries { writeLine("libOS \(entry.name): \(entry.summary)") }
            return
        }
        var object = JSONObject()
        object.add("name", "demi")
        object.add("version", Version.number)
        object.add("swift", Version.compiler)
        object.add("mode", Version.mode)
        object.add("libOSes", names)
        writeLine(object.text)
    }
}
