public import Demikernel
import Glibc
import SystemPackage

extension Configuration {
    /// The most that a settings file may hold: 1 MiB.
    package static let fileByteCountMaximum = 1 << 20

    /// The settings of the file that `CONFIG_PATH` names, if it is set, with the environment's on top.
    ///
    /// `variables` holds `NAME=value` texts; nil stands for the process's own environment. See demikernel.yaml(5) for what both may say.
    public static func load(environment variables: [String]? = nil) throws(ConfigurationError) -> Configuration {
        let environment = ConfigurationEnvironment(variables)
        return try load(path: environment[fileVariable], namedBy: fileVariable, environment)
    }

    /// The settings of the file at `path`, with the environment's on top; `CONFIG_PATH` does not matter.
    public static func load(path: String, environment variables: [String]? = nil) throws(ConfigurationError) -> Configuration {
        try load(path: path, namedBy: nil, ConfigurationEnvironment(variables))
    }

    /// The settings that a YAML text says, the others at their defaults; the environment does not matter. `file` names the text in errors.
    public static func parse(_ text: String, file: String) throws(ConfigurationError) -> Configuration {
        guard text.utf8.count <= fileByteCountMaximum else { throw tooLarge(file, nil) }
        var assembly = ConfigurationAssembly()
        try ConfigurationFileParser.apply(Array(text.utf8), file: file, to: &assembly)
        return try assembly.finish()
    }

    private static func load(
        path: String?, namedBy variable: String?, _ environment: ConfigurationEnvironment
    ) throws(ConfigurationError) -> Configuration {
        var assembly = ConfigurationAssembly()
        if let path {
            let bytes = try contents(of: path, namedBy: variable)
            try checkEncoding(bytes, file: path)
            try ConfigurationFileParser.apply(bytes, file: path, to: &assembly)
        }
        try environment.apply(to: &assembly)
        return try assembly.finish()
    }

    /// A file's bytes. `variable` named the file, and is named in turn where the file cannot be read.
    private static func contents(of path: String, namedBy variable: String?) throws(ConfigurationError) -> [UInt8] {
        func failure() -> ConfigurationError {
            let code = Errno(rawValue: errno)
            return ConfigurationError(code, file: path, variable: variable, "\(code)")
        }
        let descriptor = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure() }
        defer { _ = Glibc.close(descriptor) }
        // One byte more than is allowed, so that a larger file is noticed.
        var bytes = [UInt8](repeating: 0, count: fileByteCountMaximum + 1)
        var count = 0
        while count < bytes.count {
            let got = unsafe bytes.withUnsafeMutableBytes { unsafe Glibc.read(descriptor, $0.baseAddress! + count, $0.count - count) }
            if got == 0 { break }
            if got > 0 { count += got } else if errno != EINTR { throw failure() }
        }
        guard count <= fileByteCountMaximum else { throw tooLarge(path, variable) }
        return Array(bytes[..<count])
    }

    private static func tooLarge(_ file: String, _ variable: String?) -> ConfigurationError {
        ConfigurationError(
            .fileTooLarge, file: file, variable: variable, "larger than \(fileByteCountMaximum) bytes, the most that settings may take")
    }

    /// libyaml would tell the byte's offset only, and would take UTF-16.
    private static func checkEncoding(_ bytes: [UInt8], file: String) throws(ConfigurationError) {
        do {
            _ = try UTF8Span(validating: bytes.span)
        } catch {
            let before = bytes[..<error.byteOffsets.lowerBound]
            let line = before.count { $0 == 0x0a } + 1
            let column = before.reversed().prefix { $0 != 0x0a }.count { $0 & 0xc0 != 0x80 } + 1
            throw ConfigurationError(.illegalByteSequence, file: file, line: line, column: column, "not UTF-8")
        }
    }
}
