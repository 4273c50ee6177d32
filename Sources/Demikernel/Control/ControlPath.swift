import CDemikernelShims
import Glibc
import SystemPackage

/// Where control sockets are: one for each process, `PID.sock`, in a folder that is its owner's alone.
package enum ControlPath {
    /// The setting's word for ``automatic()``.
    package static let automaticWord = "auto"

    /// Folders of this user, the first that can be used first: `$XDG_RUNTIME_DIR/demikernel`, `/run/user/UID/demikernel`,
    /// `/tmp/demikernel-UID`. Sockets may be in any of them, as programs start with different environments.
    package static var folders: [String] {
        let user = geteuid()
        var result: [String] = []
        if let runtime = unsafe getenv("XDG_RUNTIME_DIR") {
            let path = unsafe String(cString: runtime)
            if path.hasPrefix("/") { result.append("\(path)/demikernel") }
        }
        for path in ["/run/user/\(user)/demikernel", "/tmp/demikernel-\(user)"] where !result.contains(path) { result.append(path) }
        return result
    }

    /// The path of this process's socket in the first folder that can be used, which is made where it is missing. Throws what is wrong with the
    /// last one.
    package static func automatic() throws(DemikernelError) -> String {
        var refusal = DemikernelError(.noSuchFileOrDirectory, "no folder for control sockets")
        for folder in folders {
            do throws(DemikernelError) {
                try makeFolder(folder)
                return "\(folder)/\(getpid()).sock"
            } catch {
                refusal = error
            }
        }
        throw refusal
    }

    /// Makes a folder that only its owner can enter, or checks that what is there is one: in /tmp anybody may have come first.
    private static func makeFolder(_ path: String) throws(DemikernelError) {
        if unsafe mkdir(path, 0o700) != 0, errno != EEXIST { throw DemikernelError(.last, "the folder of control sockets cannot be made") }
        guard isOwn(path) else { throw DemikernelError(.permissionDenied, "the folder of control sockets is somebody else's, or open to others") }
    }

    /// Whether the path is a folder of this user that nobody else can enter.
    package static func isOwn(_ path: String) -> Bool {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else { return false }
        return status.st_mode & S_IFMT == S_IFDIR && status.st_uid == geteuid() && status.st_mode & 0o077 == 0
    }

    /// The control sockets of this user's processes, with the processes' numbers, in their order. Those that nobody serves any more are removed.
    package static func running() -> [(process: Int, path: String)] {
        var found: [(process: Int, path: String)] = []
        for folder in folders where isOwn(folder) {
            guard let entries = unsafe opendir(folder) else { continue }
            defer { unsafe _ = closedir(entries) }
            while let entry = unsafe readdir(entries) {
                let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                    unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
                }
                guard name.hasSuffix(".sock"), let process = Int(name.dropLast(5)), process > 0 else { continue }
                let path = "\(folder)/\(name)"
                if isAbandoned(path) { unsafe _ = unlink(path) } else { found.append((process, path)) }
            }
        }
        return found.sorted { $0.process < $1.process }
    }

    /// Whether the path is a socket that refuses connections: its process has ended without removing it.
    static func isAbandoned(_ path: String) -> Bool {
        var status = stat()
        guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return false }
        let probe = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        guard probe >= 0 else { return false }
        defer { close(probe) }
        return unsafe dk_unix_connect(probe, path) != 0 && errno == ECONNREFUSED
    }
}
