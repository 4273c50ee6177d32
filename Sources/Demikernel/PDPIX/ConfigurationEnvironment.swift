// `environ` is a C global, which Swift cannot check; it is read here alone, in one pass.
@unsafe @preconcurrency import Glibc

extension Configuration {
    /// The variable that names the settings file.
    package static let fileVariable = "CONFIG_PATH"

    /// Beginnings of `DEMI_` names that belong to the tool, its benchmarks and the tests: not settings, and left alone.
    package static let reservedVariablePrefixes = [
        "DEMI_TOOL_", "DEMI_BENCH_", "DEMI_DEMO_", "DEMI_DOCTOR_", "DEMI_ECHO_", "DEMI_TEST_", "DEMI_PRELOAD_",
    ]

    /// The defaults with what the environment says: `LIBOS`, and `DEMI_<SECTION>_<KEY>` for each setting, as in `DEMI_HEAP_LIMIT=1GiB`.
    ///
    /// `variables` holds `NAME=value` texts; nil stands for the process's own environment, which must not change meanwhile. A variable
    /// with an empty value counts as unset. Throws `EINVAL` for a value that its setting cannot have and for a `DEMI_` name that is no
    /// setting, and `ENOTSUP` where `CONFIG_PATH` names a file: the core has no YAML reader, `DemikernelConfiguration` has.
    public static func environment(_ variables: [String]? = nil) throws(ConfigurationError) -> Configuration {
        let environment = ConfigurationEnvironment(variables)
        if let file = environment[fileVariable] {
            throw ConfigurationError(.notSupported, file: file, variable: fileVariable,
                "reading a settings file takes Configuration.load() of the module DemikernelConfiguration")
        }
        var assembly = ConfigurationAssembly()
        try environment.apply(to: &assembly)
        return try assembly.finish()
    }
}

/// The environment, as settings see it.
package struct ConfigurationEnvironment {
    private let variables: [(name: String, value: String)]

    /// `NAME=value` texts; nil stands for the process's own environment.
    package init(_ variables: [String]? = nil) {
        self.variables = (variables ?? Self.ofProcess).compactMap { text in
            guard let equals = text.firstIndex(of: "="), text.index(after: equals) < text.endIndex else { return nil }
            return (String(text[..<equals]), String(text[text.index(after: equals)...]))
        }
    }

    /// The value of `name`; nil where it is unset or empty. As with `getenv(3)`, the first of several counts.
    package subscript(name: String) -> String? { variables.first { $0.name == name }?.value }

    /// Sets every setting that has a variable, and refuses `DEMI_` names that nothing owns.
    package func apply(to assembly: inout ConfigurationAssembly) throws(ConfigurationError) {
        for variable in variables where variable.name.hasPrefix(Configuration.variablePrefix) {
            let name = variable.name
            if Configuration.settings.contains(where: { $0.variable == name }) { continue }
            if Configuration.reservedVariablePrefixes.contains(where: { name.hasPrefix($0) }) { continue }
            let known = Configuration.settings.map(\.variable)
            let near = ConfigurationSuggestion.nearest(to: name, in: known)
                ?? ConfigurationSuggestion.nearest(to: String(name.dropFirst(Configuration.variablePrefix.count)), in: known)
            let hint = near.map { "did you mean \($0)?" } ?? "demikernel.yaml(5) lists the settings"
            throw ConfigurationError(variable: name.escapedForMessage, "no such setting; \(hint)")
        }
        for setting in Configuration.settings {
            guard let value = self[setting.variable] else { continue }
            try assembly.set(setting, to: value, from: .variable(setting.variable))
        }
    }

    private static var ofProcess: [String] {
        var texts: [String] = []
        // Null after clearenv(3).
        let first: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = unsafe environ
        guard var entry = unsafe first else { return texts }
        while let text = unsafe entry.pointee {
            texts.append(unsafe String(cString: text))
            unsafe entry += 1
        }
        return texts
    }
}
