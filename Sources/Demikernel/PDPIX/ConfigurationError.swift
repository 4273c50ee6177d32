public import SystemPackage

/// Why a configuration was not taken: where it stands, which setting, and what is wrong in words.
///
/// Its description is for a person, and has up to three parts: `demikernel.yaml:12:3: catnap.receive_size: expected a size in bytes, …`.
public struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What the C ABI answers: `EINVAL` for what a setting cannot be, the system's own for a file that cannot be read, `EFBIG` for one that
    /// is too large, `EILSEQ` for one that is not UTF-8, `ENOTSUP` for a file where no reader is linked.
    public let errno: Errno
    /// The file, as it was named; nil where the value came from the environment or from code.
    public let file: String?
    /// Line in the file, from 1.
    public let line: Int?
    /// Column in the line, in characters, from 1.
    public let column: Int?
    /// The environment variable that the value came from.
    public let variable: String?
    /// The setting's path, such as `heap.limit`, as far as it is known.
    public let key: String?
    /// What is wrong.
    public let message: String

    /// An error that stands in a file, in an environment variable, or (with neither) in a ``Configuration`` made by code.
    public init(
        _ errno: Errno = .invalidArgument, file: String? = nil, line: Int? = nil, column: Int? = nil, variable: String? = nil,
        key: String? = nil, _ message: String
    ) {
        self.errno = errno
        self.file = file
        self.line = line
        self.column = column
        self.variable = variable
        self.key = key
        self.message = message
    }

    public var description: String {
        var text = ""
        if let variable { text += "environment variable \(variable): " }
        if let file {
            text += file
            if let line { text += ":\(line)" }
            if line != nil, let column { text += ":\(column)" }
            text += ": "
        }
        if let key { text += "\(key): " }
        return text + message
    }
}
