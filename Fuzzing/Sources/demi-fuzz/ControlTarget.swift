import Glibc
import Synchronization
@testable import Demikernel

extension FuzzTarget {
    static let control = FuzzTarget(
        name: "control", summary: "requests at the control socket of a running libOS", lengthMaximum: 256, runs: 3_000,
        seeds: {
            [
                "status\n", "sockets\n", "netstat\r\n", "dump libos=1 snap=64\n", "dump\n", "dump libos=9\n", "dump snap=0\n", "what\n",
                "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /metrics?a=b HTTP/1.0\n\n", "GET / HTTP/1.1\r\n\r\n", "POST /metrics HTTP/1.1\r\n\r\n", "status",
            ].map { Array($0.utf8) }
        },
        run: ControlClient.ask)
}

/// A client of the control socket, on the thread that serves it: what is asked is written first, what was answered is read after.
private enum ControlClient {
    /// A libOS on a thread of its own, for as long as the process lives; the place at which it is asked.
    private static let place: ControlEndpoint.Place = {
        let path = "@demikernel-fuzz-control-\(getpid())"
        let isReady = Lock(false)
        let started = ControlThread.start {
            do {
                var configuration = Configuration()
                configuration.libOS = "catloop"
                configuration.heap.limit = 16 << 20
                configuration.heap.hugePages = .never
                configuration.heap.lockPages = false
                configuration.operations.capacity = 64
                configuration.descriptors.capacity = 64
                configuration.wait.spin = .atMost(.zero)
                configuration.control.socket = path
                let libOS = try LibOS(configuration)
                let listener = try libOS.socket()
                try libOS.bind(listener, to: .any(port: 80))
                try libOS.listen(listener)
                let token = try libOS.accept(listener)
                isReady.withLock { $0 = true }
                while (try? libOS.wait(token, timeout: .seconds(3600))) == nil {}
            } catch {
                // Nothing can be fuzzed then; a crash is what libFuzzer hears of.
                fatalError("the libOS does not start: \(error)")
            }
        }
        require(started != nil, "no thread for the libOS")
        // Once, before the first input: polled, for the libOS's thread has nothing that this one could sleep on.
        while !isReady.withLock({ $0 }) { usleep(1000) }
        return .path(path)
    }()

    static func ask(_ request: [UInt8]) throws {
        let place = Self.place
        var ends: (Int32, Int32) = (-1, -1)
        let made = unsafe withUnsafeMutableBytes(of: &ends) { unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, $0.baseAddress!.assumingMemoryBound(to: Int32.self)) }
        require(made == 0, "no sockets")
        var size: Int32 = 1 << 20
        unsafe _ = setsockopt(ends.1, SOL_SOCKET, SO_SNDBUF, &size, 4)
        unsafe _ = request.withUnsafeBytes { unsafe send(ends.0, $0.baseAddress, $0.count, 0) }
        shutdown(ends.0, Int32(SHUT_WR))
        ControlSession(ends.1, at: place).run()
        close(ends.1)
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe recv(ends.0, $0.baseAddress, $0.count, 0) }
            guard count > 0 else { break }
            answer += buffer[..<count]
        }
        close(ends.0)
        check(answer, to: request)
    }

    /// An answer is records up to `end` or `error`, pcapng behind a record `dump`, or HTTP with its length.
    private static func check(_ answer: [UInt8], to request: [UInt8]) {
        guard let end = request.firstIndex(of: 10) else { return require(answer.isEmpty, "an answer to no request") }
        guard !answer.isEmpty else {
            // The head of an HTTP request that does not end.
            let word = request[..<end].filter { $0 != 13 }.split(separator: 32).last ?? []
            return require(word.starts(with: Array("HTTP/1.".utf8)), "no answer")
        }
        let text = String(decoding: answer, as: UTF8.self)
        if text.hasPrefix("HTTP/1.1 ") {
            let head = text.split(separator: "\r\n", omittingEmptySubsequences: false).prefix { !$0.isEmpty }
            let length = head.first { $0.hasPrefix("Content-Length: ") }.flatMap { Int($0.dropFirst(16)) }
            let headBytes = head.reduce(2) { $0 + $1.utf8.count + 2 }
            return require(length == answer.count - headBytes, "an HTTP answer of \(answer.count) bytes, of which \(length ?? -1)")
        }
        if text.hasPrefix("dump\t") {
            let start = (answer.firstIndex(of: 10) ?? 0) + 1
            return require(answer[start...].starts(with: [0x0a, 0x0d, 0x0d, 0x0a]), "a dump that is no pcapng")
        }
        require(text.last == "\n", "an answer that ends within a line")
        let records = text.split(separator: "\n").map { ControlRecord(line: $0) }
        require(records.allSatisfy { $0 != nil }, "an answer that is not records")
        require(["end", "error"].contains(records.last??.kind), "an answer without its end")
    }
}
