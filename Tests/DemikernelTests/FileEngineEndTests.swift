import Glibc
import SystemPackage
import Testing
@testable import Demikernel

/// Requests that do not end by themselves, cancellation, opening and closing, and the engine's own end.
@Suite(.timeLimit(.minutes(2))) struct FileEngineEndTests {
    // MARK: - Streams and cancellation

    @Test(arguments: FileBackendUnderTest.available)
    func `a read of an empty pipe waits without holding up files, and ends when bytes come`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let pipe = try Pipe()
        let file = try TemporaryFile(contents: [1, 2, 3])
        let waiting = Bytes(count: 8)
        let bytes = Bytes(count: 3)
        #expect(engine.read(pipe.readEnd, waiting, userData: 1))
        for round in 0..<3 {
            #expect(engine.read(file.descriptor, bytes, userData: UInt64(10 + round)))
            #expect(try engine.result() == 3)
        }
        #expect(engine.inFlight == 1)
        #expect(engine.write(pipe.writeEnd, bytes, userData: 2))
        #expect(try engine.complete(2) == [FileCompletion(userData: 1, result: 3), FileCompletion(userData: 2, result: 3)])
        #expect(waiting.array == [1, 2, 3, 0, 0, 0, 0, 0])
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `a cancelled read of an empty pipe ends as cancelled and takes no bytes`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let pipe = try Pipe()
        let first = Bytes(count: 8)
        let second = Bytes(count: 8)
        #expect(engine.read(pipe.readEnd, first, userData: 1))
        #expect(engine.read(pipe.readEnd, second, at: FileEngine.currentPosition, userData: 2))
        try engine.submit()
        #expect(engine.cancel(1))
        #expect(!engine.cancel(1), "asked already")
        #expect(!engine.cancel(3), "no such request")
        #expect(try engine.complete(1) == [FileCompletion(userData: 1, result: -ECANCELED)])
        #expect(engine.write(pipe.writeEnd, Bytes([5, 6]), userData: 3))
        #expect(try engine.complete(2) == [FileCompletion(userData: 2, result: 2), FileCompletion(userData: 3, result: 2)])
        #expect(first.array == [0, 0, 0, 0, 0, 0, 0, 0])
        #expect(second.array == [5, 6, 0, 0, 0, 0, 0, 0])
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `one cancellation reaches every request of its name`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend, depth: 8)
        let pipe = try Pipe()
        let memory = (0..<8).map { _ in Bytes(count: 8) }
        for round in 0..<20 {
            for index in 0..<8 { #expect(engine.read(pipe.readEnd, memory[index], userData: UInt64(index % 2))) }
            // Before the submission in every other round: what is only queued can be cancelled as well.
            if round % 2 == 0 { try engine.submit() }
            #expect(engine.cancel(1))
            #expect(try engine.complete(4) == [FileCompletion](repeating: FileCompletion(userData: 1, result: -ECANCELED), count: 4))
            #expect(engine.cancel(0))
            #expect(try engine.complete(4) == [FileCompletion](repeating: FileCompletion(userData: 0, result: -ECANCELED), count: 4))
        }
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `a cancellation that comes too late leaves the result as it is`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let file = try TemporaryFile(contents: [1, 2, 3])
        let bytes = Bytes(count: 3)
        for _ in 0..<50 {
            #expect(engine.read(file.descriptor, bytes))
            try engine.submit()
            #expect(engine.cancel(1))
            let result = try engine.result()
            #expect(result == 3 || result == -ECANCELED)
            #expect(engine.inFlight == 0)
        }
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `a write to a full pipe waits for room`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let pipe = try Pipe()
        let page = Bytes(count: 4096, filledWith: 7)
        #expect(fcntl(pipe.writeEnd, 1031 /* F_SETPIPE_SZ */, 4096) == 4096)
        #expect(engine.write(pipe.writeEnd, page, userData: 1))
        #expect(try engine.result() == 4096)
        #expect(engine.write(pipe.writeEnd, page, userData: 2))
        try engine.submit()
        #expect(engine.read(pipe.readEnd, Bytes(count: 4096), userData: 3))
        #expect(try engine.complete(2).map(\.result) == [4096, 4096])
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `a non-blocking pipe is waited for like any other`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let pipe = try Pipe()
        #expect(fcntl(pipe.readEnd, F_SETFL, O_NONBLOCK) == 0)
        #expect(engine.read(pipe.readEnd, Bytes(count: 8), userData: 1))
        try engine.submit()
        #expect(engine.write(pipe.writeEnd, Bytes([1, 2]), userData: 2))
        #expect(try engine.complete(2).map(\.result) == [2, 2])
    }

    // MARK: - Opening and closing

    @Test(arguments: FileBackendUnderTest.available)
    func `a file is created, written, closed and found again`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let path = "/tmp/demikernel-files-\(getpid())-\(backend)"
        defer { unsafe _ = unlink(path) }
        #expect(engine.open(path, O_CREAT | O_EXCL | O_RDWR, mode: 0o600))
        let descriptor = try engine.result()
        try #require(descriptor >= 0)
        #expect(fcntl(descriptor, F_GETFD) & FD_CLOEXEC != 0)
        #expect(fcntl(descriptor, F_GETFL) & O_NONBLOCK == 0)
        var status = stat()
        #expect(unsafe fstat(descriptor, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        #expect(engine.write(descriptor, Bytes([4, 5])))
        #expect(try engine.result() == 2)
        #expect(engine.close(descriptor))
        #expect(try engine.result() == 0)
        #expect(fcntl(descriptor, F_GETFD) == -1 || isDescriptor(descriptor, of: path) == false)

        #expect(engine.open(path, O_CREAT | O_EXCL | O_RDWR))
        #expect(try engine.result() == -EEXIST)
        #expect(engine.open(path, O_RDONLY))
        let again = try engine.result()
        let bytes = Bytes(count: 2)
        #expect(engine.read(again, bytes))
        #expect(try engine.result() == 2)
        #expect(bytes.array == [4, 5])
        Glibc.close(again)
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `a path that cannot be opened is answered with its errno`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let file = try TemporaryFile()
        let cases: [(String, Int32, Int32)] = [
            ("/tmp/demikernel-no-such-file", O_RDONLY, -ENOENT), ("", O_RDONLY, -ENOENT), ("/tmp", O_RDWR, -EISDIR),
            (file.path + "/x", O_RDONLY, -ENOTDIR), ("/tmp/" + String(repeating: "x", count: 300), O_RDONLY, -ENAMETOOLONG),
            (String(repeating: "/tmp", count: 4000), O_RDONLY, -ENAMETOOLONG),
        ]
        for (index, (path, flags, _)) in cases.enumerated() { #expect(engine.open(path, flags, userData: UInt64(index))) }
        #expect(try engine.complete(cases.count).map(\.result) == cases.map(\.2))
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `a descriptor that nobody takes is closed with the engine`(backend: FileBackendUnderTest) throws {
        let file = try TemporaryFile()
        let before = descriptors(of: file.path)
        do {
            let engine = try makeEngine(backend)
            for index in 0..<10 { #expect(engine.open(file.path, O_RDONLY, userData: UInt64(index))) }
            try engine.submit()
        }
        #expect(descriptors(of: file.path) == before)
    }

    // MARK: - The end

    @Test(arguments: FileBackendUnderTest.available)
    func `shutdown ends everything in flight, and no memory is written after it`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend, depth: 128)
        let pipe = try Pipe()
        let file = try TemporaryFile(contents: [UInt8](repeating: 1, count: 1 << 20))
        let memory = (0..<128).map { _ in Bytes(count: 1 << 16) }
        for index in 0..<128 {
            let descriptor = index % 4 == 0 ? pipe.readEnd : file.descriptor
            #expect(engine.read(descriptor, memory[index], at: Int64(index) << 12, userData: UInt64(index)))
            if index == 63 { try engine.submit() } // the other half is only queued
        }
        engine.shutdown()
        // Bytes that the reads of the pipe must not take any more.
        #expect(unsafe Glibc.write(pipe.writeEnd, "late", 4) == 4)
        var results: [UInt64: Int32] = [:]
        while let completion = engine.reap() { results[completion.userData] = completion.result }
        #expect(results.count == 128 && engine.inFlight == 0)
        for index in 0..<128 {
            let result = try #require(results[UInt64(index)])
            if index % 4 == 0 {
                #expect(result == -ECANCELED)
            } else {
                #expect(result > 0 || result == -ECANCELED)
            }
            let written = memory[index].array.count { $0 != 0 }
            #expect(written == max(0, Int(result)))
        }
        #expect(!engine.read(file.descriptor, memory[0]), "refused after the shutdown")
        #expect(!engine.open(file.path, O_RDONLY), "refused after the shutdown")
        engine.shutdown()
        try engine.submit()
        #expect(engine.reap() == nil)
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `an engine may go with requests queued, submitted, cancelled and unreaped`(backend: FileBackendUnderTest) throws {
        let pipe = try Pipe()
        let file = try TemporaryFile(contents: [1])
        let bytes = Bytes(count: 8)
        for stage in 0..<4 {
            let engine = try makeEngine(backend, depth: 4)
            #expect(engine.read(pipe.readEnd, bytes, userData: 1))
            #expect(engine.read(file.descriptor, bytes, userData: 2))
            #expect(engine.open(file.path, O_RDONLY, userData: 3))
            #expect(engine.truncate(file.descriptor, length: 1, userData: 4))
            if stage > 0 { try engine.submit() }
            if stage > 1 { #expect(engine.cancel(1)) }
            if stage > 2 { try engine.submit() }
        }
        #expect(descriptors(of: file.path).count == 1)
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `opening a named pipe that nobody writes to does not outlive the shutdown`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let path = "/tmp/demikernel-fifo-\(getpid())-\(backend)"
        defer { unsafe _ = unlink(path) }
        try #require(unsafe mkfifo(path, 0o600) == 0)
        #expect(engine.open(path, O_RDONLY))
        try engine.submit()
        engine.shutdown()
        let completion = try #require(engine.reap())
        if completion.result >= 0 { Glibc.close(completion.result) } else { #expect(completion.result == -ECANCELED) }
    }

    private func isDescriptor(_ descriptor: Int32, of path: String) -> Bool { descriptors(of: path).contains(descriptor) }

    /// The descriptors of this process that lead to `path`.
    private func descriptors(of path: String) -> [Int32] {
        (0..<1024).filter { descriptor in
            var target = [CChar](repeating: 0, count: 256)
            let length = unsafe readlink("/proc/self/fd/\(descriptor)", &target, target.count)
            return length > 0 && String(decoding: target.prefix(length).map(UInt8.init(bitPattern:)), as: UTF8.self) == path
        }
    }
}
