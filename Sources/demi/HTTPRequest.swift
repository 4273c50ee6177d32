/// What a server answers a request with, by its number and words: RFC 9110, section 15.
struct HTTPStatus: Error {
    let code: Int
    let reason: String

    static let ok = HTTPStatus(code: 200, reason: "OK")
    static let created = HTTPStatus(code: 201, reason: "Created")
    static let badRequest = HTTPStatus(code: 400, reason: "Bad Request")
    static let notFound = HTTPStatus(code: 404, reason: "Not Found")
    static let methodNotAllowed = HTTPStatus(code: 405, reason: "Method Not Allowed")
    static let lengthRequired = HTTPStatus(code: 411, reason: "Length Required")
    static let fieldsTooLarge = HTTPStatus(code: 431, reason: "Request Header Fields Too Large")
    static let serverError = HTTPStatus(code: 500, reason: "Internal Server Error")
    static let versionNotSupported = HTTPStatus(code: 505, reason: "HTTP Version Not Supported")
}

/// The head of a request, as much of it as a server of files needs: RFC 9112, sections 2 to 6.
struct HTTPRequest {
    /// The most bytes of a head.
    static let headMaximum = 16_384

    let method: String
    /// The path, its percent-encoding undone: it begins with a slash and leaves no folder (`..`).
    let path: String
    /// Bytes of the body; nil where the request does not say so.
    private(set) var contentLength: UInt64?
    /// It waits for "100 Continue" before it sends the body.
    private(set) var awaitsContinue = false
    /// The connection ends with the answer.
    private(set) var isLast: Bool
    private(set) var hasTransferEncoding = false

    /// Reads a head, its empty line included. Throws what the client is to be told.
    init(_ head: [UInt8]) throws(HTTPStatus) {
        var lines = head.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).map { line in
            line.last == UInt8(ascii: "\r") ? line.dropLast() : line
        }[...]
        // Empty lines before a request are to be ignored (section 2.2).
        while lines.first?.isEmpty == true { lines.removeFirst() }
        guard let first = lines.popFirst() else { throw .badRequest }
        let words = first.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
        guard words.count == 3, !words[0].isEmpty, let path = Self.path(words[1]) else { throw .badRequest }
        method = String(decoding: words[0], as: UTF8.self)
        self.path = path
        switch String(decoding: words[2], as: UTF8.self) {
        case "HTTP/1.1": isLast = false
        case "HTTP/1.0": isLast = true
        case let version where version.hasPrefix("HTTP/"): throw .versionNotSupported
        default: throw .badRequest
        }
        for line in lines where !line.isEmpty { try field(line) }
    }

    private mutating func field(_ line: ArraySlice<UInt8>) throws(HTTPStatus) {
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")), colon > line.startIndex, line.first != UInt8(ascii: " ") else { throw .badRequest }
        let name = String(decoding: line[..<colon], as: UTF8.self).lowercased()
        let blanks: [UInt8] = [UInt8(ascii: " "), UInt8(ascii: "\t")]
        let spaced = line[(colon + 1)...].drop { blanks.contains($0) }
        let value = String(decoding: spaced.reversed().drop { blanks.contains($0) }.reversed(), as: UTF8.self)
        switch name {
        case "content-length":
            // Two that differ are how requests are smuggled (section 6.3).
            guard value.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let length = UInt64(value),
                contentLength == nil || contentLength == length
            else { throw .badRequest }
            contentLength = length
        case "transfer-encoding": hasTransferEncoding = true
        case "expect": awaitsContinue = value.lowercased() == "100-continue"
        case "connection":
            let options = value.lowercased().split { $0 == "," || $0 == " " }
            if options.contains("close") { isLast = true } else if options.contains("keep-alive") { isLast = false }
        default: break
        }
    }

    /// Without the query, and only what stays within the folder that it starts from.
    private static func path(_ target: ArraySlice<UInt8>) -> String? {
        guard target.first == UInt8(ascii: "/") else { return nil }
        var bytes: [UInt8] = []
        var rest = target.prefix { $0 != UInt8(ascii: "?") }
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard let high = rest.popFirst(), let low = rest.popFirst(), let value = UInt8(String(decoding: [high, low], as: UTF8.self), radix: 16) else {
                return nil
            }
            bytes.append(value)
        }
        guard !bytes.contains(0) else { return nil }
        let path = String(decoding: bytes, as: UTF8.self)
        return path.split(separator: "/").contains("..") ? nil : path
    }
}
