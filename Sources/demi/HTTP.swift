import ArgumentParser
import Demikernel
import Glibc
import SystemPackage

struct HTTPCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "http", abstract: "Serves files over HTTP/1.1, and takes uploads in.",
        discussion: """
            GET and HEAD of the regular files below a folder; with --writable PUT, which stores what comes under that name, through the libOS's \
            files. Prints "listening on ADDRESS:PORT" once it does, and ends on SIGINT or SIGTERM. For tests and demonstrations: it has no \
            access control, and follows symbolic links.

            Examples:
              demi http --address 127.0.0.1:8080 --root /srv/files
              curl -O http://127.0.0.1:8080/disk.img
              demi http --address 127.0.0.1:8080 --root /srv/files --writable
              curl -T disk.img http://127.0.0.1:8080/disk.img
            """)

    @OptionGroup var options: EndpointOptions

    @Option(help: ArgumentHelp("The folder whose files are served. Without it there are none.", valueName: "folder"))
    var root: String?

    @Flag(help: "Store what is sent with PUT.") var writable = false

    mutating func validate() throws {
        if writable, root == nil { throw ValidationError("--writable takes --root, the folder to store in") }
    }

    func run() throws {
        if let cpu = options.cpu { try Processors.pin(to: cpu) }
        let configuration = try options.configuration(.server)
        let (root, isWritable) = (root, writable)
        try TaskLibOS.serve(configuration, on: options.localAddress(configuration)) { connection, here in
            var conversation = HTTPConversation(connection, here, root: root, isWritable: isWritable)
            // A client that goes away in the middle is its own affair.
            try? await conversation.run()
        }
    }
}

/// One client's requests, one after the other.
struct HTTPConversation: ~Copyable {
    private let connection: Connection
    private let here: TaskLibOS
    private let root: String?
    private let isWritable: Bool
    /// What came behind the request that is being answered.
    private var pending: Buffer?

    init(_ connection: Connection, _ here: TaskLibOS, root: String?, isWritable: Bool) {
        self.connection = connection
        self.here = here
        self.root = root
        self.isWritable = isWritable
        try? connection.set(.noDelay, to: true)
    }

    mutating func run() async throws {
        do {
            while let head = try await head() {
                let request = try HTTPRequest(head)
                try await answer(request)
                if request.isLast { break }
            }
        } catch let status as HTTPStatus {
            let text = "\(status.code) \(status.reason)\n"
            let allow = status.code == 405 ? "Allow: GET, HEAD\(isWritable ? ", PUT" : "")\r\n" : ""
            try await respond(status, fields: "Content-Type: text/plain\r\nConnection: close\r\n" + allow, length: UInt64(text.utf8.count), text)
        }
        try await leave()
    }

    /// Ends our direction, and reads on for a while: a connection that is closed with bytes unread is reset, which may take the answer away from the
    /// client (RFC 9112, section 9.6).
    private mutating func leave() async throws {
        try connection.shutdown(.send)
        var left = 1 << 20
        while left > 0, let buffer = try await connection.pop() { left -= buffer.count }
    }

    // MARK: What comes

    private mutating func next() async throws(DemikernelError) -> Buffer? {
        if let buffer = pending.take() { return buffer }
        return try await connection.pop()
    }

    /// The next request's head; nil where the client has ended instead.
    private mutating func head() async throws -> [UInt8]? {
        var head: [UInt8] = []
        while var buffer = try await next() {
            let count = Self.append(buffer.bytes, to: &head)
            guard head.count <= HTTPRequest.headMaximum else { throw HTTPStatus.fieldsTooLarge }
            if Self.isWhole(head) {
                try buffer.trimFirst(count)
                if !buffer.isEmpty { pending = consume buffer }
                return head
            }
        }
        guard head.isEmpty else { throw HTTPStatus.badRequest }
        return nil
    }

    /// Up to the empty line; answers how many of the bytes that were.
    private static func append(_ bytes: RawSpan, to head: inout [UInt8]) -> Int {
        for offset in 0..<bytes.byteCount {
            head.append(bytes.byte(at: offset))
            if isWhole(head) || head.count > HTTPRequest.headMaximum { return offset + 1 }
        }
        return bytes.byteCount
    }

    private static func isWhole(_ head: [UInt8]) -> Bool {
        guard head.last == UInt8(ascii: "\n") else { return false }
        return head.suffix(4).elementsEqual("\r\n\r\n".utf8) || head.suffix(2).elementsEqual("\n\n".utf8)
    }

    // MARK: What goes

    private func respond(_ status: HTTPStatus, fields: String = "", length: UInt64, _ body: String = "") async throws(DemikernelError) {
        let text = "HTTP/1.1 \(status.code) \(status.reason)\r\nServer: demi\r\nContent-Length: \(length)\r\n\(fields)\r\n\(body)"
        try await connection.push(Array(text.utf8), here)
    }

    private mutating func answer(_ request: HTTPRequest) async throws {
        switch request.method {
        case "GET", "HEAD":
            // A body has no meaning there; it would be taken for the next request.
            guard !request.hasTransferEncoding, request.contentLength ?? 0 == 0 else { throw HTTPStatus.badRequest }
            try await send(request)
        case "PUT" where isWritable:
            guard !request.hasTransferEncoding, let length = request.contentLength else { throw HTTPStatus.lengthRequired }
            if request.awaitsContinue { try await connection.push(Array("HTTP/1.1 100 Continue\r\n\r\n".utf8), here) }
            try await receive(request.path, length)
        default: throw HTTPStatus.methodNotAllowed
        }
    }

    private func send(_ request: HTTPRequest) async throws {
        guard let root else { throw HTTPStatus.notFound }
        let path = root + request.path
        var status = stat()
        // A path of the libOS names a regular file; one of a FIFO would wait for its other end.
        guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { throw HTTPStatus.notFound }
        guard let file = try? here.libOS.file(FilePath(path), .readOnly), let end = try? file.seek(to: 0, from: .end) else { throw HTTPStatus.notFound }
        try file.seek(to: 0)
        var left = UInt64(clamping: end)
        try await respond(.ok, fields: "Content-Type: application/octet-stream\r\n", length: left)
        guard request.method == "GET" else { return }
        // What is left of a push goes with the next one, up to the last.
        try? connection.set(.noDelay, to: false)
        defer { try? connection.set(.noDelay, to: true) }
        while left > 0 {
            // A file that has become shorter: the client sees that bytes are missing.
            guard var buffer = try await file.pop() else { throw DemikernelError(.invalidArgument, "the file became shorter") }
            if UInt64(buffer.count) > left { try buffer.trimLast(buffer.count - Int(left)) }
            left -= UInt64(buffer.count)
            try await connection.push(buffer)
        }
    }

    private static var writeBytes: Int { 1 << 16 }
    private static var writeBuffers: Int { 64 }

    /// What was written when the client goes away in the middle stays: it knows that it was not told otherwise.
    private mutating func receive(_ path: String, _ length: UInt64) async throws {
        guard let root, let file = try? here.libOS.file(FilePath(root + path), [.create, .truncate]) else { throw HTTPStatus.notFound }
        var left = length
        while left > 0 {
            var buffers = ScatterGatherArray()
            // A write takes much longer than a segment takes to come: many in one.
            while left > 0, buffers.byteCount < Self.writeBytes, buffers.count < Self.writeBuffers, var buffer = try await next() {
                if UInt64(buffer.count) > left { pending = try buffer.split(at: Int(left)) }
                left -= UInt64(buffer.count)
                guard buffers.append(buffer) == nil else { throw HTTPStatus.serverError }
            }
            guard !buffers.isEmpty else { throw HTTPStatus.badRequest }
            do throws(PushError) {
                try await file.push(buffers)
            } catch {
                throw HTTPStatus.serverError
            }
        }
        let text = "\(length) bytes\n"
        try await respond(.created, fields: "Content-Type: text/plain\r\n", length: UInt64(text.utf8.count), text)
    }
}

extension RawSpan {
    /// The byte at an offset that is within.
    @inline(__always)
    fileprivate func byte(at offset: Int) -> UInt8 { unsafe unsafeLoad(fromByteOffset: offset, as: UInt8.self) }
}
