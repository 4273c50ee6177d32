import CDemikernelShims
import Glibc

/// Questions to the kernel over netlink(7), one message and one answer each.
enum Netlink {
    /// rtnetlink(7)'s family, and the generic one.
    private static let route: Int32 = 0
    private static let generic: Int32 = 16

    /// An XDP program on an interface.
    enum XDPMode: UInt8 {
        case none, native, generic, hardware, several
    }

    /// What XDP means to an interface's driver: NETDEV_XDP_ACT_… of linux/netdev.h.
    struct XDPFeatures: OptionSet {
        let rawValue: UInt64
        static let basic = XDPFeatures(rawValue: 1)
        static let redirect = XDPFeatures(rawValue: 2)
        static let zeroCopy = XDPFeatures(rawValue: 8)
        /// Frames in several buffers: larger MTUs.
        static let severalBuffers = XDPFeatures(rawValue: 32)
    }

    /// What the driver can do; nil where the kernel does not say (before Linux 6.3).
    static func xdpFeatures(_ interface: UInt32) -> XDPFeatures? {
        guard let family = family("netdev") else { return nil }
        // NETDEV_CMD_DEV_GET with NETDEV_A_DEV_IFINDEX; NETDEV_A_DEV_XDP_FEATURES.
        guard let answer = ask(generic, type: family, header: [1, 1, 0, 0], attributes: [(1, bytes(interface))]) else { return nil }
        return attributes(answer.dropFirst(4)).first { $0.type == 3 }.map { XDPFeatures(rawValue: number($0.value)) }
    }

    /// Whether an XDP program is on the interface.
    static func xdpMode(_ interface: UInt32) -> XDPMode {
        let header = [0, 0, 0, 0] + bytes(interface) + [UInt8](repeating: 0, count: 8)
        // RTM_GETLINK; IFLA_XDP with IFLA_XDP_ATTACHED within.
        guard let answer = ask(route, type: 18, header: header, attributes: []),
            let xdp = attributes(answer.dropFirst(16)).first(where: { $0.type == 43 }),
            let attached = attributes(xdp.value[...]).first(where: { $0.type == 2 })?.value.first
        else { return .none }
        return XDPMode(rawValue: attached) ?? .none
    }

    /// The number of a generic family: CTRL_CMD_GETFAMILY with CTRL_ATTR_FAMILY_NAME; CTRL_ATTR_FAMILY_ID.
    private static func family(_ name: String) -> UInt16? {
        guard let answer = ask(generic, type: 16, header: [3, 1, 0, 0], attributes: [(2, Array(name.utf8) + [0])]) else { return nil }
        return attributes(answer.dropFirst(4)).first { $0.type == 1 }.map { UInt16(truncatingIfNeeded: number($0.value)) }
    }

    // MARK: Messages

    /// Sends a request and answers the payload of the first message that is no error; nil where there is none.
    private static func ask(_ family: Int32, type: UInt16, header: [UInt8], attributes: [(type: UInt16, value: [UInt8])]) -> [UInt8]? {
        let descriptor = socket(AF_NETLINK, Int32(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), family)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var body = header
        for attribute in attributes {
            body += bytes(UInt16(4 + attribute.value.count)) + bytes(attribute.type) + attribute.value
            while body.count % 4 != 0 { body.append(0) }
        }
        // Flags: NLM_F_REQUEST; sequence 1, port 0.
        let request = bytes(UInt32(16 + body.count)) + bytes(type) + bytes(UInt16(1)) + bytes(UInt32(1)) + bytes(UInt32(0)) + body
        guard unsafe request.withUnsafeBytes({ unsafe send(descriptor, $0.baseAddress, $0.count, 0) }) == request.count else { return nil }
        var answer = [UInt8](repeating: 0, count: 65_536)
        // The kernel answers before `send` returns: what has not come will not.
        let count = unsafe answer.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT)) }
        guard count >= 16 else { return nil }
        let length = Int(number(Array(answer[0..<4])))
        // NLMSG_ERROR is 2.
        guard length >= 16, length <= count, number(Array(answer[4..<6])) != 2 else { return nil }
        return Array(answer[16..<length])
    }

    private static func attributes(_ payload: ArraySlice<UInt8>) -> [(type: UInt16, value: [UInt8])] {
        var result: [(type: UInt16, value: [UInt8])] = []
        var rest = Array(payload)
        while rest.count >= 4 {
            let length = Int(number(Array(rest[0..<2])))
            guard length >= 4, length <= rest.count else { break }
            // The two upper bits are flags.
            result.append((UInt16(number(Array(rest[2..<4]))) & 0x3fff, Array(rest[4..<length])))
            rest.removeFirst(min(rest.count, (length + 3) & ~3))
        }
        return result
    }

    private static func bytes(_ value: some FixedWidthInteger) -> [UInt8] {
        (0..<value.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    /// Little-endian, as this machine's, of up to 8 bytes.
    private static func number(_ bytes: [UInt8]) -> UInt64 {
        bytes.prefix(8).enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }
    }
}
