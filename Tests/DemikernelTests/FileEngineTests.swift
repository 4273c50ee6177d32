import Glibc
import SystemPackage
import Testing
@testable import Demikernel

/// What a file engine must do whichever back-end carries it out.
@Suite(.timeLimit(.minutes(2))) struct FileEngineTests {
    @Test(arguments: FileBackendUnderTest.available)
    func `what is written is read back`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let file = try TemporaryFile()
        let sent = Bytes(Array("demikernel".utf8))
        let received = Bytes(count: 10)
        #expect(engine.write(file.descriptor, sent, at: 5))
        #expect(try engine.result() == 10)
        #expect(engine.read(file.descriptor, received, at: 5))
        #expect(try engine.result() == 10)
        #expect(received.array == sent.array)
        #expect(file.contents == [0, 0, 0, 0, 0] + sent.array)
        #expect(engine.statistics.bytesRead == 10 && engine.statistics.bytesWritten == 10)
        #expect(engine.inFlight == 0)
    }

    @Test(arguments: FileBackendUnderTest.available, [1, 2, FileEngine.piecesMaximum])
    func `pieces of memory are written behind each other by one request`(backend: FileBackendUnderTest, count: Int) throws {
        let engine = try makeEngine(backend)
        let file = try TemporaryFile()
        let sent = Bytes((0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) })
        #expect(engine.write(file.descriptor, sent, pieces: count, at: 7, durable: count == 2))
        #expect(try engine.result() == 100_000)
        let isSame = file.contents == [UInt8](repeating: 0, count: 7) + sent.array
        #expect(isSame)
        #expect(engine.statistics.requests == 1 && engine.statistics.bytesWritten == 100_000)
        #expect(engine.write(-1, sent, pieces: count))
        #expect(try engine.result() == -EBADF)
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `a read is short at the end of the file and empty past it`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let file = try TemporaryFile(contents: [1, 2, 3])
        let bytes = Bytes(count: 8, filledWith: 9)
        for (offset, expected) in [(1, 2), (3, 0), (1 << 40, 0)] as [(Int64, Int32)] {
            #expect(engine.read(file.descriptor, bytes, at: offset))
            #expect(try engine.result() == expected)
        }
        #expect(bytes.array == [2, 3, 9, 9, 9, 9, 9, 9])
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `every request on a closed descriptor fails with EBADF`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let bytes = Bytes(count: 8)
        for closed in [-1, 1 << 20] as [Int32] {
            let accepted = [
                engine.read(closed, bytes, userData: 1),
                engine.write(closed, bytes, userData: 2),
                engine.synchronize(closed, userData: 3),
                engine.truncate(closed, length: 0, userData: 4),
                engine.close(closed, userData: 5),
            ]
            #expect(accepted == [true, true, true, true, true])
            #expect(try engine.complete(5) == (1...5).map { FileCompletion(userData: $0, result: -EBADF) })
        }
        #expect(engine.statistics.failures == 10)
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `what cannot be done is answered with the errno of the system call`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let bytes = Bytes(count: 8)
        let file = try TemporaryFile()
        let pipe = try Pipe()
        let directory = unsafe Glibc.open("/tmp", O_RDONLY | O_DIRECTORY)
        let readOnly = unsafe Glibc.open(file.path, O_RDONLY)
        defer {
            Glibc.close(directory)
            Glibc.close(readOnly)
        }
        let accepted = [
            engine.read(directory, bytes, userData: 1),
            engine.write(readOnly, bytes, userData: 2),
            engine.truncate(file.descriptor, length: -1, userData: 3),
            engine.synchronize(pipe.readEnd, userData: 4),
            engine.truncate(pipe.writeEnd, length: 0, userData: 5),
            engine.writeNonsense(file.descriptor, address: 8, count: 8, userData: 6),
            engine.read(file.descriptor, bytes, at: -2, userData: 7),
            engine.writeNonsense(file.descriptor, address: 8, count: -1, userData: 8),
        ]
        #expect(!accepted.contains(false))
        let results = try engine.complete(8).map(\.result)
        #expect(results == [-EISDIR, -EBADF, -EINVAL, -EINVAL, -EINVAL, -EFAULT, -EINVAL, 0])
        #expect(file.contents.isEmpty)
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `a full queue refuses, and accepts again after completions`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend, depth: 5)
        let file = try TemporaryFile(contents: [7])
        let bytes = (0..<6).map { _ in Bytes(count: 1) }
        for round in 0..<3 {
            for index in 0..<5 {
                #expect(engine.read(file.descriptor, bytes[index], userData: UInt64(index)))
            }
            let accepted = [
                engine.read(file.descriptor, bytes[5]), engine.synchronize(file.descriptor, userData: 1),
                engine.open(file.path, O_RDONLY),
            ]
            #expect(accepted == [false, false, false])
            #expect(engine.inFlight == 5)
            #expect(try engine.complete(5).map(\.userData) == [0, 1, 2, 3, 4])
            #expect(engine.statistics.refusals == UInt64(round + 1) * 3)
        }
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `durable writes and O_DSYNC files write the same bytes`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let plain = try TemporaryFile()
        let synchronous = try TemporaryFile(flags: O_DSYNC)
        let bytes = Bytes((0..<200).map { UInt8($0) })
        let accepted = [engine.write(plain.descriptor, bytes, durable: true, userData: 1), engine.write(synchronous.descriptor, bytes, userData: 2)]
        #expect(accepted == [true, true])
        #expect(try engine.complete(2).map(\.result) == [200, 200])
        let synchronized = [engine.synchronize(plain.descriptor, userData: 1), engine.synchronize(plain.descriptor, dataOnly: false, userData: 2)]
        #expect(synchronized == [true, true])
        #expect(try engine.complete(2).map(\.result) == [0, 0])
        #expect(plain.contents == bytes.array && synchronous.contents == bytes.array)
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `transfers of 8 MiB arrive whole`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let file = try TemporaryFile()
        let size = 8 << 20
        let sent = Bytes((0..<size).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 13) })
        let received = Bytes(count: size)
        var done = 0
        while done < size {
            let accepted = engine.write(file.descriptor, sent, from: done, at: Int64(done))
            #expect(accepted)
            let result = try engine.result()
            try #require(result > 0)
            done += Int(result)
        }
        done = 0
        while done < size {
            let accepted = engine.read(file.descriptor, received, from: done, at: Int64(done))
            #expect(accepted)
            let result = try engine.result()
            try #require(result > 0)
            done += Int(result)
        }
        #expect(unsafe memcmp(sent.base, received.base, size) == 0)
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `1000 requests in flight each transfer their own bytes`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend, depth: 1000)
        let blocks = 2000
        let file = try TemporaryFile(contents: (0..<blocks).flatMap { block in (0..<64).map { UInt8(truncatingIfNeeded: block &* 31 &+ $0) } })
        var generator = FileTestGenerator(seed: 42)
        var order = Array(0..<blocks)
        order.shuffle(using: &generator)
        let memory = (0..<1000).map { _ in Bytes(count: 64) }
        for index in 0..<500 {
            #expect(engine.read(file.descriptor, memory[index], at: Int64(order[index]) * 64, userData: UInt64(index)))
        }
        for index in 500..<1000 {
            unsafe memory[index].memory.copyBytes(from: [UInt8](repeating: UInt8(truncatingIfNeeded: index), count: 64))
            #expect(engine.write(file.descriptor, memory[index], at: Int64(order[index]) * 64, userData: UInt64(index)))
        }
        #expect(engine.inFlight == 1000)
        #expect(try engine.complete(1000) == (0..<1000).map { FileCompletion(userData: $0, result: 64) })
        #expect(engine.statistics.batches == 1)
        for index in 0..<500 { #expect(memory[index].array == (0..<64).map { UInt8(truncatingIfNeeded: order[index] &* 31 &+ $0) }) }
        let contents = file.contents
        for index in 500..<1000 {
            let start = order[index] * 64
            #expect(contents[start..<start + 64].allSatisfy { $0 == UInt8(truncatingIfNeeded: index) })
        }
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `truncation cuts and extends`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let file = try TemporaryFile(contents: [1, 2, 3, 4])
        for (length, expected) in [(2, [1, 2]), (5, [1, 2, 0, 0, 0]), (0, [])] as [(Int64, [UInt8])] {
            #expect(engine.truncate(file.descriptor, length: length, userData: 1))
            #expect(try engine.result() == 0)
            #expect(file.contents == expected)
        }
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `an appending file ignores the offset, and the current position moves on`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let appending = try TemporaryFile(flags: O_APPEND, contents: [1])
        let plain = try TemporaryFile(contents: [1, 2, 3])
        let bytes = Bytes([8, 9])
        lseek(plain.descriptor, 0, SEEK_SET)
        for _ in 0..<2 {
            let accepted = [
                engine.write(appending.descriptor, bytes, at: 0, userData: 1),
                engine.write(plain.descriptor, bytes, at: FileEngine.currentPosition, userData: 2),
            ]
            #expect(accepted == [true, true])
            #expect(try engine.complete(2).map(\.result) == [2, 2])
        }
        #expect(appending.contents == [1, 8, 9, 8, 9])
        #expect(plain.contents == [8, 9, 8, 9])
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `the event descriptor tells of completions until it is drained`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        let file = try TemporaryFile()
        #expect(!engine.isSignalled())
        #expect(engine.synchronize(file.descriptor, userData: 1))
        #expect(!engine.isSignalled(), "nothing was submitted")
        #expect(try engine.result() == 0)
        engine.drainEvent()
        engine.drainEvent()
        #expect(!engine.isSignalled())
    }

    @Test(arguments: FileBackendUnderTest.available)
    func `nothing queued is nothing submitted or reaped`(backend: FileBackendUnderTest) throws {
        let engine = try makeEngine(backend)
        #expect(!engine.needsSubmit)
        try engine.submit()
        #expect(engine.reap() == nil)
        #expect(!engine.cancel(0))
        #expect(engine.statistics == FileEngineStatistics())
    }

    @Test func `a queue depth out of bounds is refused`() {
        for depth in [Int.min, -1, 0, FileEngineConfiguration.queueDepthMaximum + 1, .max] {
            #expect(throws: DemikernelError(.invalidArgument, "")) { _ = try FileEngine(FileEngineConfiguration(queueDepth: depth)) }
        }
    }

    @Test func `the default engine can always be made and says what it is`() throws {
        let engine = EngineUnderTest(try FileEngine())
        #expect((engine.backend == .ioUring) == (engine.ringRefusal == nil))
        let threaded = try makeEngine(.thread)
        #expect(threaded.backend == .thread && threaded.ringRefusal == nil)
    }
}
