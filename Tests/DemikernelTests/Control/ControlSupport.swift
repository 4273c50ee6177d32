import CDemikernelShims
import Glibc
import Synchronization
import Testing
@testable import Demikernel

/// A libOS on a thread of its own, which waits until the test has seen enough.
final class ServedLibOS: Sendable {
    private let stop = Atomic<Bool>(false)
    private let state = Lock<(mailbox: Mailbox?, error: String?)>((nil, nil))

    /// Runs `body` on the libOS's thread and then waits there, while the caller runs `test`. Throws what starting the libOS throws, as text.
    static func run(
        _ configuration: Configuration, _ body: @escaping @Sendable (LibOS) throws -> Void = { _ in }, test: (ServedLibOS) throws -> Void
    ) throws {
        let served = ServedLibOS()
        let ready = Atomic<Bool>(false)
        try withoutActuallyEscaping(test) { test in
            let thread = TestThread { [served] in served.serve(configuration, body) }
            defer { served.end() }
            while served.state.withLock({ $0.mailbox == nil && $0.error == nil }) { sched_yield() }
            ready.store(true, ordering: .relaxed)
            let error = served.state.withLock { $0.error }
            #expect(error == nil)
            if error == nil { try test(served) }
            served.end()
            _ = consume thread
        }
    }

    private func end() {
        stop.store(true, ordering: .releasing)
        state.withLock { $0.mailbox }?.wake()
    }

    private func serve(_ configuration: Configuration, _ body: (LibOS) throws -> Void) {
        do {
            let libOS = try LibOS(configuration)
            try body(libOS)
            state.withLock { $0.mailbox = libOS.core.mailbox }
            while !stop.load(ordering: .acquiring) { libOS.core.pause(until: libOS.core.deadline(after: 10_000_000)) }
        } catch {
            state.withLock { $0.error = "\(error)" }
        }
    }

    /// Small, and asked at a socket of the test's own.
    static func configuration(_ folder: TestFolder, libOS: String = "catloop") -> Configuration {
        var configuration = Configuration()
        configuration.libOS = libOS
        configuration.heap.limit = 64 << 20
        configuration.heap.hugePages = .never
        configuration.heap.lockPages = false
        configuration.operations.capacity = 4_096
        configuration.descriptors.capacity = 1_024
        configuration.wait.spin = .atMost(.zero)
        configuration.control.socket = folder.path + "/control.sock"
        return configuration
    }
}

/// A folder that goes with the test.
final class TestFolder: Sendable {
    let path: String

    init() {
        var template = Array("/tmp/demikernel-test-XXXXXX\0".utf8CString)
        path = unsafe template.withUnsafeMutableBufferPointer { unsafe String(cString: mkdtemp($0.baseAddress!)) }
    }

    deinit {
        for name in names { unsafe _ = unlink("\(path)/\(name)") }
        unsafe _ = rmdir(path)
    }

    var names: [String] {
        guard let folder = unsafe opendir(path) else { return [] }
        defer { unsafe _ = closedir(folder) }
        var names: [String] = []
        while let entry = unsafe readdir(folder) {
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }
}

/// A client of a control socket, as rude as the test wants it.
final class TestClient {
    let descriptor: Int32

    init?(path: String) {
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        if unsafe dk_unix_connect(descriptor, path) != 0 { return nil }
    }

    init?(port: UInt16) {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = unsafe withUnsafeMutableBytes(of: &address) {
            unsafe connect(descriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
        }
        if result != 0 { return nil }
    }

    deinit { close(descriptor) }

    func send(_ bytes: [UInt8]) { unsafe bytes.withUnsafeBytes { unsafe _ = Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) } }
    func finish() { _ = shutdown(descriptor, Int32(SHUT_WR)) }

    /// Everything until the end.
    func readAll() -> [UInt8] {
        var all: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, 0) }
            if count <= 0 { return all }
            all += buffer[..<count]
        }
    }

    /// The answer to a request, as records.
    static func ask(_ path: String, _ request: String) throws -> [ControlRecord] {
        let client = try #require(TestClient(path: path))
        client.send(Array((request + "\n").utf8))
        let text = String(decoding: client.readAll(), as: UTF8.self)
        return try text.split(separator: "\n").map { try #require(ControlRecord(line: $0)) }
    }
}
