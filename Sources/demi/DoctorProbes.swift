import CDemikernelShims
import Glibc

/// Looks at the machine: files of /proc and /sys, and system calls that change nothing.
enum DoctorProbes {
    // MARK: - Processor

    static func processor() -> [DoctorFinding] {
        var findings: [DoctorFinding] = []
        let information = SystemFile.lines("/proc/cpuinfo")
        let model = information.first { $0.hasPrefix("model name") }?.split(separator: ":").last.map { String($0.drop { $0 == " " }) }
        let allowed = Processors.allowed
        let online = sysconf(Int32(_SC_NPROCESSORS_ONLN))
        findings.append(
            DoctorFinding(
                "processors", "\(allowed.count) for this process, of \(online) online" + (model.map { ": \($0)" } ?? ""),
                allowed.count > 1 ? .good : .note,
                allowed.count > 1 ? nil : "A libOS that polls keeps one busy; give it one of its own, and its peer another."))
        if let quota = ControlGroup.processorQuota() {
            findings.append(
                DoctorFinding(
                    "control group", "\(quota.fixed(2)) processors", quota < 2 ? .note : .good,
                    quota < 2 ? "A libOS that polls is stopped when the quota is used up: raise it, or set wait.spin." : nil))
        } else {
            findings.append(DoctorFinding("control group", "no processor quota", .good))
        }
        let invariant = dk_timestamp_counter_is_invariant() != 0
        let source = SystemFile.text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        findings.append(
            DoctorFinding(
                "time-stamp counter", invariant ? "invariant" : "not invariant", invariant ? .good : .note,
                invariant ? nil : "The libOS takes its time from the system's clock, which is dearer."))
        // With these two, clock_gettime(2) is a system call and slow besides.
        let isSlow = source == "hpet" || source == "acpi_pm"
        findings.append(
            DoctorFinding(
                "clock source", source ?? "unknown", isSlow ? .note : .good,
                isSlow ? "Reading the clock is a system call; boot with clocksource=tsc where that is sound." : nil))
        return findings
    }

    // MARK: - Memory

    static func memory() -> [DoctorFinding] {
        var findings: [DoctorFinding] = []
        for folder in SystemFile.entries("/sys/kernel/mm/hugepages") {
            let path = "/sys/kernel/mm/hugepages/\(folder)"
            let kibibytes = Int(folder.drop { !$0.isNumber }.prefix { $0.isNumber }) ?? 0
            let total = SystemFile.number("\(path)/nr_hugepages") ?? 0
            let free = SystemFile.number("\(path)/free_hugepages") ?? 0
            let isWanted = kibibytes == 2048
            findings.append(
                DoctorFinding(
                    "huge pages, \(kibibytes / 1024) MiB", "\(free) free of \(total)", free > 0 || !isWanted ? .good : .note,
                    isWanted && free == 0 ? "The heap uses ordinary pages. For huge ones: sysctl vm.nr_hugepages=512" : nil))
        }
        if findings.isEmpty { findings.append(DoctorFinding("huge pages", "none in this kernel", .note, "The heap uses ordinary pages.")) }
        let transparent = SystemFile.text("/sys/kernel/mm/transparent_hugepage/enabled")
        let mode = transparent.flatMap { $0.split(separator: "[").last?.split(separator: "]").first.map(String.init) }
        findings.append(
            DoctorFinding(
                "transparent ones", mode ?? "not in this kernel", mode == "never" || mode == nil ? .note : .good,
                mode == "never" ? "To allow them: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" : nil))
        let locked = Limits.soft("Max locked memory")
        let mayLock = locked == .max || Capabilities.effective.contains(.ipcLock)
        findings.append(
            DoctorFinding(
                "lockable memory", locked == .max ? "unlimited" : "\(locked / 1024) KiB", mayLock || locked >= 64 << 20 ? .good : .note,
                mayLock ? nil : "Raise it with ulimit -l or memlock in limits.conf(5), or set heap.lock_pages to false."))
        return findings
    }

    // MARK: - Rights and limits

    static func rights() -> [DoctorFinding] {
        let files = Limits.soft("Max open files")
        var findings = [
            DoctorFinding(
                "open files", files == .max ? "unlimited" : "\(files)", files >= 16_384 ? .good : .note,
                files >= 16_384 ? nil : "Each connection takes one. For many: ulimit -n 65536")
        ]
        for capability in Capabilities.Capability.allCases {
            let isHeld = Capabilities.effective.contains(capability)
            let hint = "\(capability.purpose). To grant it: setcap \(capability.name.lowercased())+ep FILE"
            findings.append(DoctorFinding(capability.name, isHeld ? "held" : "not held", isHeld ? .good : .note, isHeld ? nil : hint))
        }
        return findings
    }

    // MARK: - Kernel

    static func kernel() -> [DoctorFinding] {
        var findings = [DoctorFinding("version", SystemFile.text("/proc/sys/kernel/osrelease") ?? "unknown", .good)]
        var parameters = dk_ring_parameters()
        let ring = unsafe dk_ring_setup(4, &parameters)
        if ring >= 0 { close(Int32(ring)) }
        let disabled = SystemFile.number("/proc/sys/kernel/io_uring_disabled") ?? 0
        findings.append(
            DoctorFinding(
                "io_uring", ring >= 0 ? "works" : "does not: \(errorText(Int32(-ring)))", ring >= 0 ? .good : .note,
                ring >= 0 ? nil : "Catnap's files go through a helper thread."
                    + (disabled != 0 ? " To allow it: sysctl kernel.io_uring_disabled=0" : "")))
        let epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        var event = unsafe epoll_event()
        var none = timespec()
        let waited = unsafe epoll_pwait2(epoll, &event, 1, &none, nil)
        close(epoll)
        findings.append(
            DoctorFinding(
                "epoll_pwait2", waited >= 0 ? "works" : "does not: \(errorText(errno))", waited >= 0 ? .good : .bad,
                waited >= 0 ? nil : "A libOS that sleeps needs it for its timers: Linux 5.11 or later, glibc 2.35 or later."))
        return findings
    }
}
