import CDemikernelShims
import Demikernel
import Glibc

/// A process whose libOSes can be asked, by its control socket.
struct ControlledProcess {
    /// Its number; 0 where only the socket is known.
    let number: Int
    let path: String

    /// The process's name; empty where nobody says.
    var name: String { number > 0 ? SystemFile.text("/proc/\(number)/comm") ?? "" : "" }

    /// "process 4711 (demi)".
    var title: String {
        guard number > 0 else { return "socket \(path)" }
        return name.isEmpty ? "process \(number)" : "process \(number) (\(name))"
    }

    /// The processes that are meant: the one of a number or a socket, or all. Throws where there is none.
    static func chosen(pid: Int?, socket: String?) throws -> [ControlledProcess] {
        if let socket { return [ControlledProcess(number: 0, path: socket)] }
        let all = ControlPath.running().map { ControlledProcess(number: $0.process, path: $0.path) }
        if let pid {
            guard let found = all.first(where: { $0.number == pid }) else {
                throw Failure("process \(pid) has no control socket of this user's: it has ended, runs no libOS, or has control.socket set otherwise (--socket PATH)")
            }
            return [found]
        }
        guard !all.isEmpty else { throw Failure("no process of this user runs a libOS that can be asked (looked in \(ControlPath.folders.joined(separator: ", ")))") }
        return all
    }

    /// Connects and sends a request.
    func ask(_ request: String) throws -> ControlAnswerReader {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure("no socket: \(errorText(errno))") }
        guard unsafe dk_unix_connect(descriptor, path) == 0 else {
            let error = errno
            close(descriptor)
            throw Failure("\(title): cannot connect to \(path): \(errorText(error))")
        }
        let reader = ControlAnswerReader(descriptor, title)
        reader.send(request + "\n")
        return reader
    }

    /// Asks for records. Throws what the process refuses, and where it does not answer.
    func records(_ request: String) throws -> [ControlRecord] {
        let reader = try ask(request)
        var records: [ControlRecord] = []
        while let line = try reader.line(seconds: 5) {
            guard let record = ControlRecord(line: line) else { throw Failure("\(title): its answer cannot be read") }
            switch record.kind {
            case "end": return records
            case "error": throw Failure("\(title): \(record["text"] ?? "refused")")
            default: records.append(record)
            }
        }
        throw Failure("\(title): its answer breaks off")
    }
}

/// What a process answers.
final class ControlAnswerReader {
    let descriptor: Int32
    private let title: String
    private var bytes: [UInt8] = []
    private var start = 0

    init(_ descriptor: Int32, _ title: String) {
        self.descriptor = descriptor
        self.title = title
    }

    deinit { close(descriptor) }

    func send(_ text: String) {
        let bytes = Array(text.utf8)
        _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }

    /// The next line; nil at the end. Throws where nothing comes for so long.
    func line(seconds: Int32) throws -> String? {
        while true {
            if let end = bytes[start...].firstIndex(of: 0x0a) {
                defer { start = end + 1 }
                return String(decoding: bytes[start..<end], as: UTF8.self)
            }
            bytes.removeFirst(start)
            start = 0
            var poll = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = unsafe Glibc.poll(&poll, 1, seconds * 1000)
            if ready < 0, errno == EINTR { continue }
            guard ready > 0 else { throw Failure("\(title) does not answer") }
            let chunk = read(65_536)
            if chunk.isEmpty { return nil }
            bytes += chunk
        }
    }

    /// What is left over after the lines that were read.
    func takeRest() -> [UInt8] {
        defer { (bytes, start) = ([], 0) }
        return Array(bytes[start...])
    }

    /// What has come, at most `count` bytes; empty at the end. Waits where nothing has.
    func read(_ count: Int) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, used in
            var result = 0
            repeat { result = unsafe recv(descriptor, buffer.baseAddress, count, 0) } while result < 0 && errno == EINTR
            used = max(0, result)
        }
    }
}
