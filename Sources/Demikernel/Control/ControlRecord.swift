/// One line of the control protocol: what it is of, and named values, between tabs, as `socket⇥state=established⇥local=10.0.0.1:7000`.
///
/// A person can read it, `cut` and `grep` can take it apart, and a reader skips what it does not know. Names and values have no control
/// characters: in values they become question marks.
package struct ControlRecord: Sendable, Equatable {
    /// One value.
    package struct Field: Sendable, Equatable {
        package let name: String
        package let value: String
    }

    package let kind: String
    package private(set) var fields: [Field] = []

    package init(_ kind: String) { self.kind = kind }

    package mutating func add(_ name: String, _ value: String) { fields.append(Field(name: name, value: value)) }
    package mutating func add(_ name: String, _ value: some BinaryInteger) { fields.append(Field(name: name, value: "\(value)")) }
    package mutating func add(_ name: String, _ value: Bool) { fields.append(Field(name: name, value: value ? "true" : "false")) }

    /// A value; nil where the record has none of that name.
    package subscript(name: String) -> String? { fields.first { $0.name == name }?.value }

    /// The record as it is sent, without the end of the line.
    package var line: String {
        fields.reduce(into: kind) { line, field in
            line += "\t\(field.name)="
            // Scalars, so that a carriage return before a line feed is two of them.
            for scalar in field.value.unicodeScalars { line.unicodeScalars.append(scalar.value < 0x20 || scalar.value == 0x7f ? "?" : scalar) }
        }
    }

    /// Reads a line; nil for one that is none of ours.
    package init?(line: some StringProtocol) {
        let parts = line.split(separator: "\t", omittingEmptySubsequences: false)
        guard let kind = parts.first, !kind.isEmpty else { return nil }
        self.init(String(kind))
        for part in parts.dropFirst() {
            guard let equals = part.firstIndex(of: "=") else { return nil }
            add(String(part[..<equals]), String(part[part.index(after: equals)...]))
        }
    }
}
