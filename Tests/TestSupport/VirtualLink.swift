import CDemikernelShims
import Demikernel
import Glibc

/// Two network namespaces and a virtual cable between them: `near0` in the one, `far0` in the other, whose kernel has the addresses 10.117.0.1/24 and
/// fd00:117::1/64 there.
///
/// The namespaces have no names: they and the cable go with the last descriptor and socket in them, however the process ends.
public final class VirtualLink: Sendable {
    /// The namespaces, as paths.
    public let near: String
    public let far: String
    private let files: (near: Int32, far: Int32)

    /// Why no link can be made here; nil where one can.
    public static let obstacle: String? = {
        guard geteuid() == 0 else { return "network namespaces take root" }
        guard unsafe access("/usr/sbin/ip", X_OK) == 0 || access("/sbin/ip", X_OK) == 0 else { return "there is no ip (iproute2)" }
        do {
            _ = try VirtualLink()
            return nil
        } catch {
            return "\(error)"
        }
    }()

    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// Makes the namespaces and the cable, and takes both ends up.
    public init(mtu: Int = 1_500) throws {
        files = (try NetworkNamespace.make(), try NetworkNamespace.make())
        near = "/proc/\(getpid())/fd/\(files.near)"
        far = "/proc/\(getpid())/fd/\(files.far)"
        try succeed("ip link add near0 mtu \(mtu) type veth peer name far0 mtu \(mtu) netns \(far)", in: near)
        try succeed("ip link set lo up; ip link set near0 up", in: near)
        try succeed("ip link set lo up && ip link set far0 up && ip addr add 10.117.0.1/24 dev far0 && ip addr add fd00:117::1/64 dev far0 nodad", in: far)
    }

    deinit {
        close(files.near)
        close(files.far)
    }

    /// Runs a shell's command in a namespace and answers its exit status, -1 where it has not come to one.
    @discardableResult
    public func run(_ command: String, in namespace: String) -> Int32 {
        let status = (try? NetworkNamespace.run(in: namespace) { unsafe Int(system(command)) }) ?? -1
        return status >= 0 && status & 0x7f == 0 ? Int32(status >> 8) : -1
    }

    public func succeed(_ command: String, in namespace: String) throws {
        let status = run("PATH=$PATH:/usr/sbin:/sbin; " + command, in: namespace)
        guard status == 0 else { throw Failure(description: "exit status \(status): \(command)") }
    }

    /// A socket of the kernel at the far end.
    public func socket(_ family: Int32, _ type: Int32, _ number: Int32 = 0) throws -> Int32 {
        let made = try NetworkNamespace.run(in: far) {
            let descriptor = Glibc.socket(family, type | Int32(SOCK_CLOEXEC.rawValue), number)
            return descriptor < 0 ? -Int(errno) : Int(descriptor)
        }
        guard made >= 0 else { throw Failure(description: "no socket: errno \(-made)") }
        return Int32(made)
    }
}
