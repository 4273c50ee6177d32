public import SystemPackage

/// Why a PDPIX call failed: the errno that C callers see, the call, and what was wrong in words.
///
/// Making one allocates nothing; `reason` is a literal.
public struct DemikernelError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The positive errno that the C ABI answers.
    public let errno: Errno
    /// What was wrong, for a person.
    public var reason: String { "\(text)" }

    let text: StaticString

    /// An error with the errno that the C ABI answers and a literal that says what was wrong.
    public init(_ errno: Errno, _ text: StaticString) {
        self.errno = errno
        self.text = text
    }

    public static func == (left: DemikernelError, right: DemikernelError) -> Bool { left.errno == right.errno }
    public var description: String { "\(text) (\(errno))" }
}
