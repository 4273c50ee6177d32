import Glibc
import Synchronization

/// A child process whose standard output is read.
///
/// Invariant: `output` is open and `identifier` not waited for until `finish()`.
final class Child {
    let identifier: pid_t
    private let output: Int32
    private var pending: [UInt8] = []
    private var hasEnded = false

    /// The children that live, for a signal's sake: when the parent has to go, they go first.
    private static let living = Mutex<Set<pid_t>>([])

    /// Starts `path` with arguments; standard error and the environment are this process's.
    init(_ path: String, _ arguments: [String]) throws {
        var ends: [Int32] = [0, 0]
        guard unsafe ends.withUnsafeMutableBufferPointer({ unsafe pipe($0.baseAddress!) }) == 0 else {
            throw Failure("no pipe: \(errorText(errno))")
        }
        let (reading, writing) = (ends[0], ends[1])
        defer { close(writing) }
        _ = fcntl(reading, F_SETFD, FD_CLOEXEC)
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawnattr_init(&attributes)
        defer {
            unsafe posix_spawn_file_actions_destroy(&actions)
            unsafe posix_spawnattr_destroy(&attributes)
        }
        unsafe posix_spawn_file_actions_adddup2(&actions, writing, STDOUT_FILENO)
        unsafe posix_spawn_file_actions_addclose(&actions, writing)
        // This process blocks signals and ignores SIGPIPE; its children begin as from a shell.
        var none = sigset_t()
        var defaults = sigset_t()
        unsafe sigemptyset(&none)
        unsafe sigemptyset(&defaults)
        unsafe sigaddset(&defaults, SIGPIPE)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setsigdefault(&attributes, &defaults)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))

        var texts: [UnsafeMutablePointer<CChar>?] = unsafe ([path] + arguments).map { unsafe strdup($0) } + [nil]
        defer { for unsafe text in unsafe texts { unsafe free(text) } }
        var identifier: pid_t = 0
        let error = Self.living.withLock { living in
            let error = unsafe posix_spawn(&identifier, path, &actions, &attributes, &texts, environ)
            if error == 0 { living.insert(identifier) }
            return error
        }
        guard error == 0 else {
            close(reading)
            throw Failure("cannot start \(path): \(errorText(error))")
        }
        self.identifier = identifier
        output = reading
    }

    deinit { if !hasEnded { stop() } }

    /// This program's own file.
    static func ownPath() throws -> String {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = unsafe bytes.withUnsafeMutableBytes { bytes in
            unsafe readlink("/proc/self/exe", bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        guard count > 0 else { throw Failure("cannot find this program's own file: \(errorText(errno))") }
        return String(decoding: bytes[..<count], as: UTF8.self)
    }

    /// The next line that the child writes; nil when it writes no more, or nothing for `seconds`.
    func line(within seconds: Int32) -> String? {
        while true {
            if let end = pending.firstIndex(of: 0x0a) {
                defer { pending.removeSubrange(...end) }
                return String(decoding: pending[..<end], as: UTF8.self)
            }
            var state = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
            let ready = unsafe poll(&state, 1, seconds * 1000)
            guard ready > 0 || errno == EINTR else { return nil }
            guard ready > 0 else { continue }
            var bytes = [UInt8](repeating: 0, count: 4096)
            let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(output, $0.baseAddress!, $0.count) }
            if count > 0 {
                pending += bytes[..<count]
            } else if count == 0 || errno != EINTR {
                defer { pending = [] }
                return pending.isEmpty ? nil : String(decoding: pending, as: UTF8.self)
            }
        }
    }

    /// Waits for the child's end and answers its exit status, 128 and the signal's number where one ended it.
    @discardableResult
    func finish() -> Int32 {
        guard !hasEnded else { return 0 }
        hasEnded = true
        close(output)
        // The number is taken off the list while it still is this child's: once waited for, it may be anybody's.
        var information = unsafe siginfo_t()
        while unsafe waitid(P_PID, id_t(identifier), &information, WEXITED | WNOWAIT) < 0, errno == EINTR {}
        Self.living.withLock { _ = $0.remove(identifier) }
        var status: Int32 = 0
        while unsafe waitpid(identifier, &status, 0) < 0, errno == EINTR {}
        return status & 0x7f == 0 ? status >> 8 & 0xff : 128 + status & 0x7f
    }

    /// Ends the child.
    func stop() {
        guard !hasEnded else { return }
        kill(identifier, SIGTERM)
        finish()
    }

    /// Ends every child that lives. Safe from any thread.
    static func stopAll() {
        living.withLock { for identifier in $0 { kill(identifier, SIGTERM) } }
    }
}
