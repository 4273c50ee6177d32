import Glibc
import SystemPackage
import Testing
@testable import Demikernel

// Files as queues: push appends, pop reads at the cursor (paper, section 6.4).

extension PDPIXBehaviour {
    @Suite struct FileQueues {
        @Test(arguments: LibOSUnderTest.withFiles)
        func `push appends, and pop reads on from the cursor to the end`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                #expect(try libOS.outcome(libOS.pop(file)) == .popped([]))
                try libOS.send(file, "first ")
                try libOS.send(file, "second ")
                #expect(try libOS.receiveText(file) == "first second ")
                for _ in 0..<3 { #expect(try libOS.outcome(libOS.pop(file)) == .popped([])) }
                try libOS.send(file, "third")
                #expect(try libOS.receiveText(file) == "third")
                #expect(contents(of: path) == [UInt8]("first second third".utf8))
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `the cursor goes where seek says`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                try libOS.send(file, "0123456789")
                #expect(try libOS.receive(file, limit: 4) == [UInt8]("0123".utf8))
                #expect(try libOS.seek(file, to: 0, from: .cursor) == 4)
                #expect(try libOS.seek(file, to: -3, from: .cursor) == 1)
                #expect(try libOS.receive(file, limit: 2) == [UInt8]("12".utf8))
                #expect(try libOS.seek(file, to: -2, from: .end) == 8)
                #expect(try libOS.receiveText(file) == "89")
                #expect(try libOS.seek(file, to: 5, from: .end) == 15)
                #expect(try libOS.receive(file) == [])
                #expect(try libOS.seek(file, to: 3) == 3)
                expect(.invalidArgument) { try libOS.seek(file, to: -1) }
                expect(.invalidArgument) { try libOS.seek(file, to: -4, from: .cursor) }
                expect(.invalidArgument) { try libOS.seek(file, to: -11, from: .end) }
                expect(.invalidArgument) { try libOS.seek(file, to: .max, from: .cursor) }
                expect(.invalidArgument) { try libOS.seek(file, to: .min) }
                #expect(try libOS.receiveText(file) == "3456789")
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `truncate cuts and extends, and the cursor is never behind the end that it made`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                try libOS.send(file, "0123456789")
                try libOS.seek(file, to: 8)
                try libOS.truncate(file, to: 6)
                #expect(contents(of: path) == [UInt8]("012345".utf8))
                #expect(try libOS.seek(file, to: 0, from: .cursor) == 6)
                try libOS.send(file, "ab")
                #expect(try libOS.receiveText(file) == "ab")
                try libOS.truncate(file, to: 10)
                #expect(try libOS.receive(file) == [0, 0])
                try libOS.truncate(file, to: 0)
                #expect(try libOS.receive(file) == [])
                for length in [-1, Int64.min] { expect(.invalidArgument) { try libOS.truncate(file, to: length) } }
                try libOS.send(file, "new")
                #expect(contents(of: path) == [UInt8]("new".utf8))
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `many pushes and pops that are outstanding keep their order`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                let records = (0..<300).map { pattern(1 + $0 % 50, seed: UInt64($0)) }
                let pushes = try records.map { try libOS.push(file, libOS.buffer($0)) }
                var order: [QToken] = []
                while order.count < pushes.count {
                    try libOS.waitNext(.max, timeout: .patience) { completion in
                        order.append(completion.token)
                        #expect(OperationOutcome(completion) == .pushed)
                    }
                }
                #expect(order == pushes)
                let all = Array(records.joined())
                #expect(contents(of: path) == all)
                let pops = try (0..<200).map { _ in try libOS.pop(file, limit: 7) }
                var read: [UInt8] = []
                for token in pops {
                    guard case .popped(let bytes) = try libOS.outcome(token) else { throw Unexpected(description: "pop failed") }
                    read += bytes
                }
                #expect(read == Array(all.prefix(1_400)))
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `large pushes and many segments are appended whole`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                let large = pattern(3 << 20)
                try libOS.send(file, large)
                var segments = ScatterGatherArray()
                for number in 0..<500 { _ = segments.append(try libOS.buffer(pattern(1 + number % 100, seed: UInt64(number)))) }
                let small = segments.copyToArray()
                #expect(try libOS.outcome(libOS.push(file, segments)) == .pushed)
                #expect(try libOS.receive(file, exactly: large.count) == large)
                #expect(try libOS.receive(file, exactly: small.count) == small)
                #expect(try libOS.receive(file) == [])
                libOS.expectLiveObjects(0)
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `a log that was pushed durably is there when it is opened again`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let log = try libOS.open(path, [.create, .exclusive, .dataSync])
                for number in 0..<10 { try libOS.send(log, "record \(number);") }
                try libOS.close(log)
                expect(.fileExists) { _ = try libOS.open(path, [.create, .exclusive]) }
                let again = try libOS.open(path)
                try libOS.send(again, "record 10;")
                #expect(try libOS.receiveText(again) == (0...10).map { "record \($0);" }.joined())
                let emptied = try libOS.open(path, .truncate)
                #expect(try libOS.receive(emptied) == [])
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `two queues of one file both append and each has its own cursor`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let first = try libOS.create(path), second = try libOS.open(path)
                try libOS.send(first, "a")
                try libOS.send(second, "b")
                try libOS.send(first, "c")
                #expect(try libOS.receiveText(first) == "abc")
                #expect(try libOS.receive(second, limit: 1) == [UInt8]("a".utf8))
                #expect(try libOS.receiveText(second) == "bc")
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `open names what is wrong`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let directory = path.removingLastComponent()
                expect(.noSuchFileOrDirectory) { _ = try libOS.open(path) }
                expect(.noSuchFileOrDirectory) { _ = try libOS.open("") }
                expect(.noSuchFileOrDirectory) { _ = try libOS.create(directory.appending("no/such/place")) }
                expect(.isDirectory) { _ = try libOS.open(directory) }
                expect(.invalidArgument) { _ = try libOS.open(directory, .readOnly) }
                expect(.invalidArgument) { _ = try libOS.open("/dev/null") }
                expect(.fileNameTooLong) { _ = try libOS.open(FilePath(String(repeating: "x", count: 10_000))) }
                let first = try libOS.create(path)
                #expect(first.rawValue == 500)
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `a file that is open for reading fails pushes and gives their bytes back`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let writer = try libOS.create(path)
                try libOS.send(writer, "read me")
                let reader = try libOS.open(path, .readOnly)
                #expect(try libOS.outcome(libOS.push(reader, "no")) == .failed(.badFileDescriptor, returned: [UInt8]("no".utf8)))
                expect(.invalidArgument) { try libOS.truncate(reader, to: 0) }
                #expect(try libOS.receiveText(reader) == "read me")
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `a file is no socket, and takes neither addresses nor empty pushes`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                expect(.notSocket) { try libOS.bind(file, to: subject.address()) }
                expect(.notSocket) { try libOS.listen(file) }
                expect(.notSocket) { _ = try libOS.accept(file) }
                expect(.notSocket) { _ = try libOS.connect(file, to: subject.address(port: 7)) }
                expect(.notSocket) { try libOS.shutdown(file, .send) }
                expect(.notSocket) { _ = try libOS.localAddress(of: file) }
                #expect(try libOS.refusal(of: [1], on: file, to: subject.address(port: 7)) == .notSupportedOnSocket)
                #expect(try libOS.refusal(of: [], on: file) == .invalidArgument)
                expect(.invalidArgument) { _ = try libOS.pop(file, limit: 0) }
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `the cursor does not move under a pop, nor the end under a push`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                try libOS.send(file, "0123456789")
                let pops = try (0..<3).map { _ in try libOS.pop(file, limit: 2) }
                expect(.resourceBusy) { try libOS.seek(file, to: 0) }
                for token in pops { #expect(try libOS.outcome(token) != .popped([])) }
                let pushes = try (0..<3).map { try libOS.push(file, "\($0)") }
                expect(.resourceBusy) { try libOS.truncate(file, to: 0) }
                for token in pushes { #expect(try libOS.outcome(token) == .pushed) }
                #expect(try libOS.seek(file, to: 0, from: .cursor) == 6)
                try libOS.truncate(file, to: 0)
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `a file closes with operations pending, and each of them says what became of it`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                for _ in 0..<10 {
                    let file = try libOS.create(path)
                    let text = [UInt8](repeating: 7, count: 10_000)
                    let pushes = try (0..<20).map { _ in try libOS.push(file, libOS.buffer(text)) }
                    let pops = try (0..<20).map { _ in try libOS.pop(file, limit: 1_000) }
                    try libOS.close(file)
                    var written = 0
                    for token in pushes {
                        switch try libOS.outcome(token) {
                        case .pushed: written += text.count
                        case .failed(.canceled, let returned): #expect(returned == text)
                        case let other: Issue.record("a push: \(other)")
                        }
                    }
                    for token in pops {
                        switch try libOS.outcome(token) {
                        case .popped(let bytes): #expect(bytes.allSatisfy { $0 == 7 })
                        case .failed(.canceled, _): break
                        case let other: Issue.record("a pop: \(other)")
                        }
                    }
                    #expect(contents(of: path).count >= written)
                    libOS.expectLiveObjects(0)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `operations that wait for their turn can be cancelled`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                let pushes = try (0..<5).map { try libOS.push(file, "\($0)") }
                try libOS.cancel(pushes[2])
                for (number, token) in pushes.enumerated() where number != 2 { #expect(try libOS.outcome(token) == .pushed) }
                #expect(try libOS.outcome(pushes[2]) == .failed(.canceled, returned: [UInt8]("2".utf8)))
                #expect(contents(of: path) == [UInt8]("0134".utf8))
                let pops = try (0..<3).map { _ in try libOS.pop(file, limit: 1) }
                try libOS.cancel(pops[1])
                #expect(try libOS.outcome(pops[1]) == .failed(.canceled))
                #expect(try libOS.outcome(pops[0]) == .popped([UInt8]("0".utf8)))
                #expect(try libOS.outcome(pops[2]) == .popped([UInt8]("1".utf8)))
                // Cancelling what is in the kernel's hands ends one way or the other.
                let late = try libOS.pop(file, limit: 1)
                try libOS.cancel(late)
                let ending = try libOS.outcome(late)
                #expect(ending == .failed(.canceled) || ending == .popped([UInt8]("3".utf8)))
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `more operations than the device takes wait their turn`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile(adjusting: { $0.catnap.files.queueDepth = 2 }) { libOS, path in
                let files = try (0..<8).map { try libOS.create(path.removingLastComponent().appending("\($0)")) }
                for _ in 0..<5 {
                    let pushes = try files.flatMap { [try libOS.push($0, "ab"), try libOS.push($0, "cd")] }
                    try libOS.waitAll(pushes, timeout: .patience) { #expect(OperationOutcome($0) == .pushed) }
                    let pops = try files.map { try libOS.pop($0) }
                    try libOS.waitAll(pops, timeout: .patience) { #expect(OperationOutcome($0) == .popped([UInt8]("abcd".utf8))) }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.withFiles)
        func `files, sockets, queues and timers share one waitAny`(_ subject: LibOSUnderTest) async throws {
            try await subject.runWithFile { libOS, path in
                let file = try libOS.create(path)
                let pair = try libOS.pair(subject.address())
                let timer = try libOS.timer(after: .seconds(1_000)), queued = try libOS.pop(libOS.queue())
                // An echo that keeps a log.
                for round in 0..<50 {
                    let pop = try libOS.pop(pair.server)
                    try libOS.send(pair.client, "round \(round);")
                    #expect(try libOS.waitAny([timer, queued, pop], timeout: .patience).offset == 2)
                    let record = try libOS.push(file, "round \(round);")
                    #expect(try libOS.waitAny([timer, record, queued], timeout: .patience).offset == 1)
                }
                #expect(try libOS.receiveText(file) == (0..<50).map { "round \($0);" }.joined())
                try libOS.cancel(timer)
                #expect(try libOS.outcome(timer) == .failed(.canceled))
            }
        }
    }
}

extension LibOSUnderTest {
    /// As ``run(at:adjusting:faults:_:)``, with a path in a directory of its own that is gone afterwards.
    fileprivate func runWithFile(
        at location: SourceLocation = #_sourceLocation, adjusting: (@Sendable (inout Configuration) -> Void)? = nil,
        _ body: @escaping @Sendable (LibOS, FilePath) throws -> Void
    ) async throws {
        let directory = try temporaryDirectory()
        defer { removeDirectory(directory) }
        try await run(at: location, adjusting: adjusting) { try body($0, directory.appending("file")) }
    }
}

/// A directory that nobody else uses.
func temporaryDirectory() throws -> FilePath {
    var template = Array("/tmp/demikernel-behaviour-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else { throw Unexpected(description: "no temporary directory") }
    return FilePath(String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self))
}

private func removeDirectory(_ path: FilePath) {
    for name in ["file"] + (0..<8).map(String.init) { unsafe unlink(path.appending(name).string) }
    unsafe rmdir(path.string)
}

/// A file's bytes, read past the libOS.
private func contents(of path: FilePath) -> [UInt8] {
    guard let file = try? FileDescriptor.open(path, .readOnly) else { return [] }
    defer { try? file.close() }
    var bytes = [UInt8](repeating: 0, count: 8 << 20)
    let count = (try? unsafe bytes.withUnsafeMutableBytes { unsafe try file.read(into: $0) }) ?? 0
    return Array(bytes.prefix(count))
}
