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
        Entry(name: "catnap", summary: "kernel sockets and files, for development and for machines without special hardware")
    ]

    /// Throws ENODEV where this build has no libOS of that name.
    static func require(_ name: String) throws(ConfigurationError) {
        guard !entries.contains(where: { $0.name == name }) else { return }
        let names = entries.map(\.name).joined(separator: ", ")
        throw ConfigurationError(
            .operationNotSupportedByDevice, key: "libos", "there is no libOS named \"\(name)\"; this build has: \(names)")
    }
}
