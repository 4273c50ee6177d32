import Demikernel
import DemikernelConfiguration
import Testing

extension ConfigurationSetting: CustomTestStringConvertible {
    public var testDescription: String { path }

    /// Texts that the setting takes, its bounds among them, for a test of any setting that is or will be.
    var samples: [String] {
        switch type {
        case .name: ["catnap", "Catnip-x_2.0+cattree", String(repeating: "a", count: 64)]
        case .boolean: ["true", "false", "yes", "no", "on", "off", "1", "0", "True", "FALSE"]
        case .choice(let choices): choices
        case .count(let range, _): ["\(range.lowerBound)", "\(range.upperBound)", "00\(range.lowerBound + 1)"]
        case .size(let range): ["\(range.lowerBound)", "\(range.upperBound)", "\(range.upperBound >> 10)KiB", "\(range.upperBound >> 20) mib"]
        case .spin(let maximum): ["forever", "0", "1ns", "3us", "7ms", "\(maximum)ns", "\(maximum / 1_000) us", "\(maximum / 1_000_000_000)s"]
        case .duration(let range): ["\(range.lowerBound)ns", "\(range.upperBound)ns", "\(range.upperBound / 1_000) us"]
        case .text(let grammar): ["none", grammar.sample]
        case .list(let grammar, _): ["none", grammar.sample]
        }
    }

    /// Texts of the right type beyond its range, and texts of none.
    var mistakes: [String] {
        let common = ["[]", "a b", "-1", "1.5", "0x10", "99999999999999999999", "4KB", "many", "FOREVER", "50", "\\u{1}"]
        switch type {
        case .name: return ["1", "-a", "a b", "a\u{7}", String(repeating: "a", count: 65), "naïve"]
        case .boolean, .choice: return common + ["2", "tru", "Prefer"]
        case .count(let range, _): return common.filter { Int($0) == nil } + ["\(range.lowerBound - 1)", "\(range.upperBound + 1)", "4KiB", "-1"]
        case .size(let range): return common.filter { Int($0) == nil } + ["\(range.lowerBound - 1)", "\(range.upperBound + 1)", "9999999999TiB", "-1"]
        case .spin(let maximum): return common + ["\(maximum + 1)ns", "50m", "us", "9999999999999s"]
        case .duration(let range): return common + ["\(range.upperBound + 1)ns", "50m", "forever"]
        case .text(.path(let length)): return ["a\u{7}", String(repeating: "a", count: length + 1)]
        case .text(.word(let length)): return ["a b", "a,b", String(repeating: "a", count: length + 1)]
        case .text: return common + ["nobody", "1.2.3.4.5", ",none"]
        case .list(let grammar, let maximum):
            let many = Array(repeating: grammar.sample, count: maximum + 1).joined(separator: ",")
            return common + ["nobody", "\(grammar.sample),", "\(grammar.sample),none", many]
        }
    }

    /// A file that says this setting alone.
    func file(_ text: String) -> String {
        let names = path.split(separator: ".")
        let sections = names.dropLast().enumerated().map { String(repeating: " ", count: $0.offset) + "\($0.element):\n" }.joined()
        return sections + String(repeating: " ", count: names.count - 1) + "\(names[names.count - 1]): \(text)\n"
    }
}

extension ConfigurationGrammar {
    /// One of them.
    var sample: String {
        switch self {
        case .interfaceAddress: "10.9.8.7/16"
        case .address: "10.9.8.1"
        case .ethernetAddress: "02:00:00:00:12:ab"
        case .neighbour: "10.9.8.2=02:00:00:00:12:ab"
        case .path: "/tmp/somewhere"
        case .word: "left"
        }
    }
}

struct SchemaTests {
    @Test func `paths and variables are unique, and no section is a setting`() {
        let paths = Configuration.settings.map(\.path)
        #expect(Set(paths).count == paths.count)
        #expect(Set(Configuration.settings.map(\.variable)).count == paths.count)
        for path in paths { #expect(!paths.contains { $0.hasPrefix(path + ".") }) }
        for setting in Configuration.settings {
            #expect(!Configuration.reservedVariablePrefixes.contains { setting.variable.hasPrefix($0) })
        }
    }

    @Test func `the defaults are valid, and nothing is set without a word`() throws {
        try Configuration().validate()
        #expect(try Configuration.environment([]) == Configuration())
        #expect(try Configuration.parse("", file: "empty") == Configuration())
        #expect(try Configuration.load(environment: []) == Configuration())
    }

    @Test(arguments: Configuration.settings)
    func `each setting takes its samples, from the file and from the environment alike`(_ setting: ConfigurationSetting) throws {
        var differs = false
        for sample in setting.samples {
            // receive_size is bounded by receive_size_maximum, and the other way round.
            let room = setting.path == "catnap.receive_size" ? ["DEMI_CATNAP_RECEIVE_SIZE_MAXIMUM=16MiB"]
                : setting.path == "catnap.receive_size_maximum" ? ["DEMI_CATNAP_RECEIVE_SIZE=64"] : []
            var expected = try Configuration.environment(room)
            let value = try #require(setting.type.parse(sample))
            setting.write(&expected, value)
            #expect(setting.read(expected) == value)
            try expected.validate()

            let fromEnvironment = try Configuration.environment(["\(setting.variable)=\(sample)"] + room)
            #expect(fromEnvironment == expected)
            var assembly = ConfigurationAssembly()
            try assembly.set(setting, to: setting.type.text(of: value), from: .variable("X"))
            #expect(setting.type.parse(setting.type.text(of: value)) == value)
            if room.isEmpty {
                #expect(try Configuration.parse(setting.file(sample), file: "f") == expected)
                #expect(try Configuration.parse(setting.file("\"\(sample)\""), file: "f") == expected)
            }
            differs = differs || setting.read(expected) != setting.read(Configuration())
        }
        #expect(differs, "the samples of a setting hold more than its default")
    }

    @Test(arguments: Configuration.settings)
    func `each setting refuses its mistakes with its name, from the file and from the environment`(_ setting: ConfigurationSetting) throws {
        for mistake in setting.mistakes {
            let variable = try #require(throws: ConfigurationError.self) { _ = try Configuration.environment(["\(setting.variable)=\(mistake)"]) }
            #expect(variable.description.hasPrefix("environment variable \(setting.variable): \(setting.path): expected \(setting.type.expectation), found "))
            #expect(variable.errno == .invalidArgument)
            let quoted = mistake.contains("\\") ? "'\(mistake)'" : "\"\(mistake.replacing("\u{7}", with: "\\a"))\""
            let file = try #require(throws: ConfigurationError.self) { _ = try Configuration.parse(setting.file(quoted), file: "f.yaml") }
            let depth = setting.path.count { $0 == "." }
            #expect(file.description.hasPrefix("f.yaml:\(depth + 1):\(depth + 1): \(setting.path): expected \(setting.type.expectation), found "))
            #expect(file.errno == .invalidArgument)
        }
    }

    @Test(arguments: Configuration.settings)
    func `each setting refuses a list, a section and nothing`(_ setting: ConfigurationSetting) throws {
        for (text, found) in [("[a]", "a list"), ("{a: b}", "a section"), ("", "nothing"), ("~", "nothing"), ("null", "nothing")] {
            if case .list = setting.type, text == "[a]" { continue }
            let error = try #require(throws: ConfigurationError.self) { _ = try Configuration.parse(setting.file(text), file: "f") }
            #expect(error.key == setting.path)
            #expect(error.message == "expected \(setting.type.expectation), found \(found)")
        }
    }

    @Test func `settings made by code are checked too`() throws {
        func check(_ message: String, _ change: (inout Configuration) -> Void) throws {
            var configuration = Configuration()
            change(&configuration)
            let error = try #require(throws: ConfigurationError.self) { try configuration.validate() }
            #expect(error.description == message)
            #expect(error.errno == .invalidArgument)
        }
        try check("heap.limit: expected a size in bytes, KiB, MiB or GiB from 2MiB to 256GiB, found \"-1\"") { $0.heap.limit = -1 }
        try check("wait.spin: expected a time in us, ms or s from 0 to 3600s, or forever, found \"-1.0 seconds\"") { $0.wait.spin = .atMost(.seconds(-1)) }
        try check("catnap.receive_size: expected at most catnap.receive_size_maximum (64), found 4096") { $0.catnap.receiveSizeMaximum = 64 }
        var unbounded = Configuration()
        unbounded.wait.spin = .atMost(.seconds(Int64.max))
        #expect(unbounded.wait.spin.nanoseconds == .max)
        #expect(throws: ConfigurationError.self) { try unbounded.validate() }
        #expect(Configuration.Wait.Spin.forever.nanoseconds == .max)
        #expect(Configuration().wait.spin.nanoseconds == 50_000)
    }
}
