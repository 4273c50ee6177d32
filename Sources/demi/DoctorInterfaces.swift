import CDemikernelShims
import Glibc

extension DoctorProbes {
    // MARK: - Network

    static func network() -> [DoctorFinding] {
        var findings = [
            socket("AF_PACKET", 17, "raw frames: for Catpowder, and for captures"),
            tapFile(),
            socket("AF_XDP", 44, "Catpowder with catpowder.device xdp: frames past the kernel's stack"),
            xdpPrograms(),
        ]
        for name in SystemFile.entries("/sys/class/net") where SystemFile.text("/sys/class/net/\(name)/mtu") != nil {
            findings += Interface(name).findings()
        }
        return findings
    }

    /// Opens the file of TUN/TAP, which makes no interface.
    private static func tapFile() -> DoctorFinding {
        let file = unsafe open("/dev/net/tun", O_RDWR | O_CLOEXEC)
        let error = errno
        if file >= 0 { close(file) }
        guard file < 0 else { return DoctorFinding("TAP", "works", .good) }
        return DoctorFinding("TAP", "does not: \(errorText(error))", .note, "For Catpowder without a second interface. The kernel lacks TUN/TAP, or this user may not.")
    }

    private static func socket(_ name: String, _ family: Int32, _ purpose: String) -> DoctorFinding {
        let descriptor = Glibc.socket(family, Int32(SOCK_RAW.rawValue), 0)
        let error = errno
        if descriptor >= 0 { close(descriptor) }
        guard descriptor < 0 else { return DoctorFinding(name, "works", .good) }
        let reason = error == EPERM ? "Takes CAP_NET_RAW: run as root, or use setcap." : "This kernel lacks it."
        return DoctorFinding(name, "does not: \(errorText(error))", .note, "For \(purpose). \(reason)")
    }

    /// Makes a BPF map of one number, which goes at once: what loading an XDP program takes as well.
    private static func xdpPrograms() -> DoctorFinding {
        let map = dk_probe_bpf()
        if map >= 0 { close(map) }
        let error = errno
        let missing = [Capabilities.Capability.bpf, .netAdmin].filter { !Capabilities.effective.contains($0) }.map(\.name)
        if map >= 0, missing.isEmpty { return DoctorFinding("XDP programs", "can be loaded", .good) }
        if map >= 0 || error == EPERM {
            let list = missing.isEmpty ? "a right that the kernel asks for" : missing.joined(separator: " and ")
            return DoctorFinding("XDP programs", "cannot be loaded", .note, "Takes \(list): run as root, or setcap cap_net_raw,cap_net_admin,cap_bpf+ep FILE")
        }
        return DoctorFinding(
            "XDP programs", "cannot be loaded: \(errorText(error))", .note,
            error == ENOSYS ? "This kernel has no bpf(2)." : "Where memory is counted against RLIMIT_MEMLOCK (before Linux 5.11): ulimit -l unlimited")
    }

    /// One interface of the kernel's.
    private struct Interface {
        let name: String
        private let path: String

        init(_ name: String) {
            self.name = name
            path = "/sys/class/net/\(name)"
        }

        private var flags: Int { SystemFile.text("\(path)/flags").flatMap { Int($0.dropFirst(2), radix: 16) } ?? 0 }
        private var isUp: Bool { flags & 0x1 /* IFF_UP */ != 0 }
        private var isLoopback: Bool { flags & 0x8 /* IFF_LOOPBACK */ != 0 }
        private var mtu: Int { SystemFile.number("\(path)/mtu") ?? 0 }

        private var driver: String? {
            if let link = SystemFile.link("\(path)/device/driver")?.split(separator: "/").last { return String(link) }
            var name = InlineArray<32, CChar>(repeating: 0)
            return unsafe withUnsafeMutableBytes(of: &name) { bytes in
                let start = unsafe bytes.baseAddress!.assumingMemoryBound(to: CChar.self)
                guard unsafe dk_interface_driver(self.name, start) == 0 else { return nil }
                return unsafe String(cString: start)
            }
        }

        func findings() -> [DoctorFinding] {
            let queues = SystemFile.entries("\(path)/queues").count { $0.hasPrefix("rx-") }
            let link = SystemFile.text("\(path)/operstate") ?? "unknown"
            // Drivers without a cable say "unknown", and the loopback does.
            let hasNoLink = isUp && (link == "down" || link == "lowerlayerdown" || link == "dormant")
            let state = !isUp ? "down" : hasNoLink ? "up, no link" : "up"
            let hint: String? = !isUp ? "To use it: ip link set \(name) up" : hasNoLink ? "Its other end is down, or the cable is out." : nil
            var findings = [
                DoctorFinding(
                    "interface \(name)",
                    "\(state), MTU \(mtu), \(queues) receive queue\(queues == 1 ? "" : "s")" + (driver.map { ", driver \($0)" } ?? ""),
                    hint == nil ? .good : .note, hint)
            ]
            guard isUp, !isLoopback else { return findings }
            findings.append(offloads())
            if let finding = xdp(queues: queues) { findings.append(finding) }
            return findings
        }

        private func has(_ feature: Int32, bit: Int64 = .max) -> Bool {
            let value = unsafe dk_interface_value(name, UInt32(feature))
            return value > 0 && value & bit != 0
        }

        /// What the interface does to frames before a stack of ours sees them, or after: it shares the interface with the kernel's stack, for
        /// which they are meant.
        private func offloads() -> DoctorFinding {
            let merging = [("lro", has(DK_FEATURE_FLAGS, bit: 1 << 15)), ("gro", has(DK_FEATURE_GRO))].filter(\.1).map(\.0)
            let splitting = [("tso", has(DK_FEATURE_TSO)), ("gso", has(DK_FEATURE_GSO))].filter(\.1).map(\.0)
            let checksums = [("rx", has(DK_FEATURE_RX_CHECKSUM)), ("tx", has(DK_FEATURE_TX_CHECKSUM))].filter(\.1).map(\.0)
            let all = merging + splitting + (checksums.isEmpty ? [] : ["checksums (\(checksums.joined(separator: ", ")))"])
            let value = all.isEmpty ? "none" : all.joined(separator: ", ")
            let name = "offloads of \(name)"
            // A virtual interface's peer hands over what it left undone: frames of up to 64 KiB, checksums not filled in.
            let isVirtual = ["veth", "tun", "bridge"].contains(driver ?? "")
            let disturbing = merging + (isVirtual ? splitting : [])
            guard !disturbing.isEmpty else { return DoctorFinding(name, value, .good) }
            let words = disturbing.map { "\($0) off" }.joined(separator: " ")
            let peer = isVirtual ? " The same at its other end." : ""
            return DoctorFinding(
                name, value, .note,
                "Frames may come merged, longer than the MTU, which a stack on raw frames drops: ethtool -K \(self.name) \(words).\(peer)")
        }

        private func xdp(queues: Int) -> DoctorFinding? {
            let index = unsafe if_nametoindex(name)
            guard index > 0 else { return nil }
            let title = "XDP on \(name)"
            let mode = Netlink.xdpMode(index)
            if mode != .none {
                return DoctorFinding(
                    title, "a program is attached (\(mode))", .note,
                    "It sees frames before anybody else. To take it off: ip link set \(name) xdp off")
            }
            guard let features = Netlink.xdpFeatures(index) else {
                return DoctorFinding(title, "generic mode", .note, "Whether the driver has more, this kernel does not say (Linux 6.3 or later does).")
            }
            guard features.contains(.basic) else {
                return DoctorFinding(title, "generic mode alone", .note, "The driver has no XDP: frames are copied, after the kernel has made its own of them.")
            }
            // A page less what the kernel keeps there.
            if mtu > 3_498, !features.contains(.severalBuffers) {
                return DoctorFinding(title, "native mode, but not with MTU \(mtu)", .note, "To use it: ip link set \(name) mtu 3498")
            }
            // AF_XDP sockets are a queue's: with fewer of them, what comes to the other queues stays the kernel's.
            let hint = queues > 1 ? "For catpowder.device xdp: catpowder.queues \(queues), or as many queues as that says: ethtool -L \(name)" : nil
            return DoctorFinding(title, features.contains(.zeroCopy) ? "native mode, zero copy" : "native mode, with copies", .good, hint)
        }
    }
}
