/// A configuration on its way from text: each value is checked as it comes, and remembers where it came from, so that what is found out
/// last, when settings are compared with each other, can still be told with its file and line.
package struct ConfigurationAssembly {
    /// Where a value was written.
    package enum Origin: Sendable, Equatable {
        case file(String, line: Int, column: Int)
        case variable(String)

        package func error(_ key: String?, _ message: String) -> ConfigurationError {
            switch self {
            case .file(let file, let line, let column): ConfigurationError(file: file, line: line, column: column, key: key, message)
            case .variable(let variable): ConfigurationError(variable: variable, key: key, message)
            }
        }
    }

    private var configuration = Configuration()
    private var origins: [String: Origin] = [:]

    /// Starts from the defaults.
    package init() {}

    /// Takes one setting's text; a later one goes before an earlier one.
    package mutating func set(_ setting: ConfigurationSetting, to text: String, from origin: Origin) throws(ConfigurationError) {
        guard let value = setting.type.parse(text) else {
            throw origin.error(setting.path, "expected \(setting.type.expectation), found \(text.quotedForMessage)")
        }
        if let message = setting.type.problem(with: value) { throw origin.error(setting.path, message) }
        setting.write(&configuration, value)
        origins[setting.path] = origin
    }

    /// The whole, after the checks that need all of it.
    package func finish() throws(ConfigurationError) -> Configuration {
        guard let (path, message) = configuration.crossProblem() else { return configuration }
        guard let origin = origins[path] else { throw ConfigurationError(key: path, message) }
        throw origin.error(path, message)
    }
}
