import Glibc

/// Small files of /proc and /sys.
enum SystemFile {
    /// A file's text without white space at its ends; nil where it cannot be read.
    static func text(_ path: String) -> String? {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 65_536)
        var count = 0
        while count < bytes.count {
            let got = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress! + count, $0.count - count) }
            guard got > 0 else { break }
            count += got
        }
        let text = String(decoding: bytes[..<count], as: UTF8.self)
        guard let first = text.firstIndex(where: { !$0.isWhitespace }),
            let last = text.lastIndex(where: { !$0.isWhitespace })
        else { return "" }
        return String(text[first...last])
    }

    static func lines(_ path: String) -> [String] { text(path)?.split(separator: "\n").map(String.init) ?? [] }

    static func number(_ path: String) -> Int? { text(path).flatMap { Int($0) } }

    /// The names in a folder, sorted.
    static func entries(_ path: String) -> [String] {
        guard let folder = unsafe opendir(path) else { return [] }
        defer { unsafe closedir(folder) }
        var names: [String] = []
        while let entry = unsafe readdir(folder) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                unsafe tuple.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Where a symbolic link leads.
    static func link(_ path: String) -> String? {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = unsafe bytes.withUnsafeMutableBytes { bytes in
            unsafe readlink(path, bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        return count > 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
    }
}

/// The limits of this process, as `/proc/self/limits` names them.
enum Limits {
    /// The limit that holds now; `.max` for none.
    static func soft(_ name: String) -> UInt64 {
        guard let line = SystemFile.lines("/proc/self/limits").first(where: { $0.hasPrefix(name) }) else { return 0 }
        let value = line.dropFirst(name.count).split(separator: " ").first ?? "0"
        return value == "unlimited" ? .max : UInt64(value) ?? 0
    }
}

/// The rights of this process beyond those of its user: capabilities(7).
enum Capabilities {
    enum Capability: Int, CaseIterable {
        case netAdmin = 12
        case netRaw = 13
        case ipcLock = 14
        case sysAdmin = 21
        case sysNice = 23
        case bpf = 39

        var name: String {
            switch self {
            case .netAdmin: "CAP_NET_ADMIN"
            case .netRaw: "CAP_NET_RAW"
            case .ipcLock: "CAP_IPC_LOCK"
            case .sysAdmin: "CAP_SYS_ADMIN"
            case .sysNice: "CAP_SYS_NICE"
            case .bpf: "CAP_BPF"
            }
        }

        var purpose: String {
            switch self {
            case .netAdmin: "Configures interfaces and attaches XDP programs"
            case .netRaw: "Opens AF_PACKET and AF_XDP sockets"
            case .ipcLock: "Locks memory beyond the limit"
            case .sysAdmin: "Binds devices to user space (VFIO, huge pages on older kernels)"
            case .sysNice: "Raises priorities"
            case .bpf: "Loads XDP programs"
            }
        }
    }

    static var effective: Set<Capability> {
        let line = SystemFile.lines("/proc/self/status").first { $0.hasPrefix("CapEff:") }
        let digits = line?.dropFirst("CapEff:".count).filter { !$0.isWhitespace } ?? ""
        let mask = UInt64(digits, radix: 16) ?? 0
        return Set(Capability.allCases.filter { mask >> UInt64($0.rawValue) & 1 == 1 })
    }
}

/// What the control group grants: cgroups(7).
enum ControlGroup {
    /// Processors' worth of time; nil where there is no quota.
    static func processorQuota() -> Double? {
        for line in SystemFile.lines("/proc/self/cgroup") {
            // HIERARCHY:CONTROLLERS:PATH; version 2 has hierarchy 0 and no controllers.
            let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard parts.count == 3 else { continue }
            if parts[1].isEmpty {
                if let quota = version2("/sys/fs/cgroup\(parts[2])/cpu.max") ?? version2("/sys/fs/cgroup/cpu.max") { return quota }
            } else if parts[1].split(separator: ",").contains("cpu") {
                let folders = ["/sys/fs/cgroup/\(parts[1])\(parts[2])", "/sys/fs/cgroup/cpu\(parts[2])", "/sys/fs/cgroup/cpu"]
                if let quota = folders.lazy.compactMap(version1).first { return quota }
            }
        }
        return nil
    }

    private static func version2(_ path: String) -> Double? {
        guard let parts = SystemFile.text(path)?.split(separator: " "), parts.count == 2 else { return nil }
        return quota(Int(parts[0]), Int(parts[1]))
    }

    private static func version1(_ folder: String) -> Double? {
        quota(SystemFile.number("\(folder)/cpu.cfs_quota_us"), SystemFile.number("\(folder)/cpu.cfs_period_us"))
    }

    private static func quota(_ time: Int?, _ period: Int?) -> Double? {
        guard let time, let period, time > 0, period > 0 else { return nil }
        return Double(time) / Double(period)
    }
}
