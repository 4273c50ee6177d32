import Glibc
import SystemPackage
import Testing
@testable import Demikernel

/// What carries out the requests of a test.
enum FileBackendUnderTest {
    case ring
    /// A ring that cannot truncate, so that the helper thread works beside it.
    case ringAndThread
    case thread

    /// Those that this machine can run; the suite takes each of them.
    static let available: [FileBackendUnderTest] = {
        if let _ = try? FileEngine(FileEngineConfiguration(ring: .require, queueDepth: 1)) { return [.ring, .ringAndThread, .thread] }
        return [.thread]
    }()
}

func makeEngine(_ backend: FileBackendUnderTest, depth: Int = 64) throws -> EngineUnderTest {
    var configuration = FileEngineConfiguration(ring: backend == .thread ? .never : .require, queueDepth: depth)
    configuration.truncatesOnThread = backend == .ringAndThread
    return EngineUnderTest(try FileEngine(configuration))
}

/// A file (or a named pipe) that disappears with the test.
final class TemporaryFile {
    let path: String
    let descriptor: Int32

    init(flags: Int32 = 0, contents: [UInt8] = []) throws {
        var name = Array("/tmp/demikernel-files-XXXXXX".utf8CString)
        let made = unsafe mkstemp(&name)
        try #require(made >= 0)
        Glibc.close(made)
        path = String(decoding: name.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        descriptor = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | flags)
        try #require(descriptor >= 0)
        unsafe #expect(Glibc.write(descriptor, contents, contents.count) == contents.count)
    }

    deinit {
        Glibc.close(descriptor)
        unsafe unlink(path)
    }

    var contents: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(lseek(descriptor, 0, SEEK_END)))
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, $0.count, 0) }
        return Array(bytes.prefix(max(0, count)))
    }
}

/// The two ends of a pipe.
final class Pipe {
    private(set) var readEnd: Int32 = -1
    private(set) var writeEnd: Int32 = -1

    init() throws {
        var ends: [Int32] = [-1, -1]
        try #require(unsafe pipe(&ends) == 0)
        (readEnd, writeEnd) = (ends[0], ends[1])
    }

    deinit {
        Glibc.close(readEnd)
        Glibc.close(writeEnd)
    }
}

/// Memory that transfers use, at an address that stays.
@safe final class Bytes {
    let memory: UnsafeMutableRawBufferPointer

    init(_ bytes: [UInt8]) {
        unsafe memory = .allocate(byteCount: max(1, bytes.count), alignment: 64)
        unsafe memory.copyBytes(from: bytes)
    }

    convenience init(count: Int, filledWith byte: UInt8 = 0) { self.init([UInt8](repeating: byte, count: count)) }
    deinit { unsafe memory.deallocate() }

    var base: UnsafeMutableRawPointer { unsafe memory.baseAddress! }
    var count: Int { unsafe memory.count }
    var array: [UInt8] { unsafe Array(memory) }
}

/// A file engine that `#expect` can take, which a noncopyable value it cannot.
final class EngineUnderTest {
    private var engine: FileEngine
    /// The memory of requests, which outlives the engine.
    private var memory: [Bytes] = []
    init(_ engine: consuming FileEngine) { self.engine = engine }

    var backend: FileEngineBackend { engine.backend }
    var ringRefusal: Errno? { engine.ringRefusal }
    var statistics: FileEngineStatistics { engine.statistics }
    var inFlight: Int { engine.inFlight }
    var needsSubmit: Bool { engine.needsSubmit }
    func submit() throws { try engine.submit() }
    func reap() -> FileCompletion? { engine.reap() }
    func cancel(_ userData: UInt64) -> Bool { engine.cancel(userData: userData) }
    func drainEvent() { engine.drainEvent() }
    func shutdown() { engine.shutdown() }

    func read(_ file: Int32, _ bytes: Bytes, from start: Int = 0, at offset: Int64 = 0, userData: UInt64 = 1) -> Bool {
        memory.append(bytes)
        return unsafe engine.read(fd: file, into: bytes.base + start, count: bytes.count - start, offset: offset, userData: userData)
    }

    func write(
        _ file: Int32, _ bytes: Bytes, from start: Int = 0, at offset: Int64 = 0, durable: Bool = false, userData: UInt64 = 1
    ) -> Bool {
        memory.append(bytes)
        return unsafe engine.write(
            fd: file, from: bytes.base + start, count: bytes.count - start, offset: offset, durable: durable, userData: userData)
    }

    /// Writes the same bytes as that many pieces of memory, about equal.
    func write(
        _ file: Int32, _ bytes: Bytes, pieces count: Int, at offset: Int64 = 0, durable: Bool = false, userData: UInt64 = 1
    ) -> Bool {
        memory.append(bytes)
        return unsafe engine.write(fd: file, offset: offset, durable: durable, userData: userData) { pieces in
            for index in 0..<count {
                let (start, end) = (bytes.count * index / count, bytes.count * (index + 1) / count)
                unsafe (pieces + index).initialize(to: iovec(iov_base: bytes.base + start, iov_len: end - start))
            }
            return count
        }
    }

    /// Writes memory that there is not, or as many bytes as there cannot be.
    func writeNonsense(_ file: Int32, address: UInt, count: Int, userData: UInt64) -> Bool {
        unsafe engine.write(fd: file, from: UnsafeRawPointer(bitPattern: address)!, count: count, offset: 0, userData: userData)
    }

    func synchronize(_ file: Int32, dataOnly: Bool = true, userData: UInt64 = 1) -> Bool {
        engine.synchronize(fd: file, dataOnly: dataOnly, userData: userData)
    }

    func truncate(_ file: Int32, length: Int64, userData: UInt64 = 1) -> Bool {
        engine.truncate(fd: file, length: length, userData: userData)
    }

    func open(_ path: String, _ flags: Int32, mode: UInt32 = 0o600, userData: UInt64 = 1) -> Bool {
        unsafe engine.open(path: path, flags: flags, mode: mode, userData: userData)
    }

    func close(_ file: Int32, userData: UInt64 = 1) -> Bool { engine.close(fd: file, userData: userData) }

    /// Submits and sleeps on the event descriptor until `count` completions have come, ordered by user data.
    func complete(_ count: Int) throws -> [FileCompletion] {
        var completions: [FileCompletion] = []
        try submit()
        while true {
            drainEvent()
            while let completion = reap() { completions.append(completion) }
            guard completions.count < count else { return completions.sorted { $0.userData < $1.userData } }
            try submit()
            var question = pollfd(fd: engine.eventDescriptor, events: Int16(POLLIN), revents: 0)
            unsafe _ = poll(&question, 1, -1)
        }
    }

    /// Submits what is queued, which must be one request, and answers how it ended.
    func result() throws -> Int32 {
        let completions = try complete(1)
        #expect(completions.count == 1)
        return completions[0].result
    }

    /// Whether the event descriptor is readable now.
    func isSignalled() -> Bool {
        var question = pollfd(fd: engine.eventDescriptor, events: Int16(POLLIN), revents: 0)
        return unsafe poll(&question, 1, 0) == 1
    }
}

/// The same numbers for the same seed: SplitMix64.
struct FileTestGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
