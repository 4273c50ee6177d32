/// One JSON object in the making, its keys in the order in which they were added.
struct JSONObject {
    private var members: [String] = []

    mutating func add(_ key: String, _ value: String) { members.append("\(Self.quoted(key)):\(Self.quoted(value))") }
    mutating func add(_ key: String, _ value: some BinaryInteger) { members.append("\(Self.quoted(key)):\(value)") }
    mutating func add(_ key: String, _ value: Bool) { members.append("\(Self.quoted(key)):\(value)") }
    mutating func add(_ key: String, _ value: [JSONObject]) {
        members.append("\(Self.quoted(key)):[\(value.map(\.text).joined(separator: ","))]")
    }
    mutating func add(_ key: String, _ value: [String]) {
        members.append("\(Self.quoted(key)):[\(value.map(Self.quoted).joined(separator: ","))]")
    }

    mutating func add(_ key: String, _ value: JSONObject) { members.append("\(Self.quoted(key)):\(value.text)") }

    var isEmpty: Bool { members.isEmpty }

    /// The object, in one line.
    var text: String { "{\(members.joined(separator: ","))}" }

    /// RFC 8259, section 7.
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}

/// Columns of text: the first ones, which are names, to the left, the others to the right.
struct Table {
    private var rows: [[String]]
    private let names: Int

    init(_ titles: [String], names: Int = 1) {
        rows = [titles]
        self.names = names
    }

    mutating func add(_ row: [String]) { rows.append(row) }

    var text: String {
        let widths = rows[0].indices.map { column in rows.map { $0.indices.contains(column) ? $0[column].count : 0 }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                if column > 0 { line += "  " }
                line += column < names ? cell.padded(to: widths[column]) : cell.paddedLeft(to: widths[column])
            }
            while line.last == " " { line.removeLast() }
            return line
        }.joined(separator: "\n")
    }
}

extension String {
    func padded(to width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
    func paddedLeft(to width: Int) -> String { String(repeating: " ", count: max(0, width - count)) + self }
}

extension BinaryInteger {
    /// With a comma after each three digits: 1,234,567.
    var grouped: String {
        var result = ""
        let digits = String(magnitude)
        for (position, digit) in digits.enumerated() {
            if position > 0 && (digits.count - position) % 3 == 0 { result += "," }
            result.append(digit)
        }
        return self < 0 ? "-" + result : result
    }
}

extension Double {
    /// With that many digits after the point.
    func fixed(_ digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        guard isFinite, abs(self) * scale < 9e15 else { return "-" }
        let scaled = Int((abs(self) * scale).rounded())
        let sign = self < 0 && scaled > 0 ? "-" : ""
        guard digits > 0 else { return sign + String(scaled) }
        let fraction = String(scaled % Int(scale))
        return "\(sign)\(scaled / Int(scale))." + fraction.paddedZero(to: digits)
    }
}

extension String {
    fileprivate func paddedZero(to width: Int) -> String { String(repeating: "0", count: max(0, width - count)) + self }
}

/// Nanoseconds as microseconds: "8.21".
func microseconds(_ nanoseconds: UInt64) -> String { (Double(nanoseconds) / 1000).fixed(2) }
