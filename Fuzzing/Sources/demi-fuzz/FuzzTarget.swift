/// Something that is fuzzed: what it does with an input, the inputs that it begins with, and how much of it `make test` does.
struct FuzzTarget: Sendable {
    let name: String
    /// What is looked for, in a line.
    let summary: String
    /// The longest input, in bytes.
    let lengthMaximum: Int
    /// Inputs tried in `make test`.
    let runs: Int
    /// Inputs to begin with: what a well-behaved peer sends.
    let seeds: @Sendable () throws -> [[UInt8]]
    /// Takes one input; ends the process where something that must hold does not.
    let run: @Sendable ([UInt8]) throws -> Void

    static let all: [FuzzTarget] = parsers + [datagramRun, segmentRun, stack, connection, memifMessages, memifRings, control, configuration]

    static func named(_ name: String) -> FuzzTarget? { all.first { $0.name == name } }
}

/// Ends the process unless `holds`: a crash is how libFuzzer is told of a finding, and what makes it keep the input. Nobody's server runs this.
func require(_ holds: Bool, _ what: @autoclosure () -> String) {
    if !holds { fatalError("broken: \(what())") }
}

/// An input that is taken apart from its beginning. Behind its end there are zeros.
struct FuzzInput {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var isAtEnd: Bool { position >= bytes.count }

    mutating func byte() -> UInt8 {
        defer { position += 1 }
        return position < bytes.count ? bytes[position] : 0
    }

    mutating func word() -> UInt16 { UInt16(byte()) << 8 | UInt16(byte()) }
    mutating func word32() -> UInt32 { UInt32(word()) << 16 | UInt32(word()) }

    /// `count` bytes, or as many as there are.
    mutating func take(_ count: Int) -> [UInt8] {
        let start = min(position, bytes.count)
        let end = min(start + count, bytes.count)
        position = end
        return Array(bytes[start..<end])
    }
}
