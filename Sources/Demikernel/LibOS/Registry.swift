import Glibc
import SystemPackage

/// The libOSes that this build has, by name.
public enum Registry {
    /// One libOS.
    public struct Entry: Sendable {
        /// What `LIBOS` names it by.
        public let name: String
        /// What it is, in a line.
        public let summary: String
    }

    /// What `LIBOS` may be set to.
    public static let entries = [
        Entry(name: "catnap", summary: "kernel sockets and files, for development and for machines without special hardware"),
        Entry(name: "catnip", summary: "its own TCP/IP over memif: shared memory with another process, a switch (VPP) or DPDK"),
        Entry(name: "catloop", summary: "its own TCP/IP inside one process: with itself, or two libOSes with each other"),
        Entry(name: "catpowder", summary: "its own TCP/IP over a network interface of the kernel, by a packet socket (AF_PACKET), AF_XDP or a TAP"),
    ]

    /// Settings with which a libOS starts on any machine, for whoever tries it: every default but those that it cannot do without.
    package static func trial(of name: String) -> Configuration {
        var configuration = Configuration()
        configuration.libOS = name
        configuration.memif.role = .server
        configuration.memif.socket = "@demikernel-trial-\(getpid())"
        // A TAP of its own, for as long as it lives: nothing is sent on any network.
        configuration.catpowder.device = .tap
        configuration.catpowder.interface = "demi\(getpid())"
        return configuration
    }

    /// Throws ENODEV where this build has no libOS of that name.
    static func require(_ name: String) throws(ConfigurationError) {
        guard !entries.contains(where: { $0.name == name }) else { return }
        let names = entries.map(\.name).joined(separator: ", ")
        throw ConfigurationError(
            .operationNotSupportedByDevice, key: "libos", "there is no libOS named \"\(name)\"; this build has: \(names)")
    }
}
