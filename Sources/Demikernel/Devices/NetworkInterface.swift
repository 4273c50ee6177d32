import CDemikernelShims
import Glibc
import SystemPackage

/// A network interface of the kernel as it was when it was asked for: netdevice(7).
package struct NetworkInterface: Sendable, Equatable {
    /// Its number, which it keeps when it is renamed; another interface of the same name has another.
    package let index: Int32
    package let name: String
    /// The largest IP packet, in bytes.
    package let mtu: Int
    /// The Ethernet address, 48 bits in host order.
    package let address: UInt64
    /// Whether it was taken up: `ip link set NAME up`.
    package let isUp: Bool
    /// Whether its frames have Ethernet headers; those of `lo` and of a TUN do not.
    package let isEthernet: Bool

    /// The longest name, in bytes: IFNAMSIZ without the zero.
    package static var nameMaximum: Int { Int(IFNAMSIZ) - 1 }

    /// The interface of this number in the socket's network namespace. Throws ENODEV where it is gone, and EAGAIN while it is being renamed.
    package init(index: Int32, socket: Int32) throws(DemikernelError) {
        var found = dk_interface()
        let result = unsafe dk_interface_describe(socket, index, &found)
        guard result == 0 else { throw DemikernelError(.negated(result), "the kernel does not describe the network interface") }
        self.index = index
        name = unsafe withUnsafeBytes(of: &found.name) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        mtu = Int(found.mtu)
        address = found.address
        isUp = found.flags & UInt32(IFF_UP) != 0
        isEthernet = found.type == UInt32(ARPHRD_ETHER) && found.flags & UInt32(IFF_LOOPBACK) == 0
    }

    /// The interface of this name in the socket's network namespace; nil where there is none, or it is about to have another.
    package init?(name: String, socket: Int32) {
        let index = unsafe dk_interface_index(socket, name)
        guard index > 0, let found = try? NetworkInterface(index: Int32(index), socket: socket) else { return nil }
        self = found
    }

    /// The interface of this name for a device to be opened on it. Throws ENXIO where there is none or it is no Ethernet, ENETDOWN where it is down.
    static func usable(_ name: String, socket: Int32) throws(DemikernelError) -> NetworkInterface {
        guard let interface = NetworkInterface(name: name, socket: socket) else {
            throw DemikernelError(.noSuchAddressOrDevice, "there is no network interface of that name; ip link lists those that there are")
        }
        guard interface.isEthernet else {
            throw DemikernelError(.noSuchAddressOrDevice, "the network interface is not an Ethernet: its frames have no addresses")
        }
        guard interface.isUp else {
            throw DemikernelError(.networkDown, "the network interface is down; to take it up: ip link set NAME up")
        }
        return interface
    }
}

/// Network namespaces: network_namespaces(7). A socket stays in the one that its thread was in when it was made.
package enum NetworkNamespace {
    /// Runs `open`, which answers a descriptor or a negative errno, in the namespace of a file, or one that `ip netns` has named, or where the
    /// path is empty here. Throws what entering it throws: ENOENT, EPERM without CAP_SYS_ADMIN, EINVAL for a file of another kind.
    package static func run(in path: String, _ open: @Sendable @escaping () -> Int) throws(DemikernelError) -> Int {
        guard !path.isEmpty else { return open() }
        let file = unsafe Glibc.open(path.contains("/") ? path : "/run/netns/" + path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw DemikernelError(.last, "the network namespace cannot be opened; ip netns lists those with names") }
        defer { close(file) }
        // On a thread of its own, because a thread that could not come back would be lost to the program.
        let visit = Visit(file, open)
        var thread = pthread_t()
        let context = unsafe Unmanaged.passUnretained(visit).toOpaque()
        let status = unsafe pthread_create(&thread, nil, { context in
            unsafe Unmanaged<Visit>.fromOpaque(context.unsafelyUnwrapped).takeUnretainedValue().run()
            return nil
        }, context)
        guard status == 0 else { throw DemikernelError(Errno(rawValue: status), "no thread to enter the network namespace with") }
        pthread_join(thread, nil)
        let (entered, result) = withExtendedLifetime(visit) { visit.outcome.withLock { $0 } }
        guard entered == 0 else {
            throw DemikernelError(
                Errno(rawValue: Int32(-entered)), "the network namespace cannot be entered: it takes CAP_SYS_ADMIN, and a file that is one")
        }
        return result
    }

    /// A new namespace without a name: it goes with the descriptor that this answers, and with the last socket in it. Throws EPERM without
    /// CAP_SYS_ADMIN.
    package static func make() throws(DemikernelError) -> Int32 {
        // By way of a thread that is entered, and left behind in the new one.
        let file = try run(in: "/proc/self/ns/net") {
            let made = dk_system_call(Int(SYS_unshare), 0x4000_0000 /* CLONE_NEWNET */, 0, 0, 0, 0, 0)
            guard made == 0 else { return made }
            let file = unsafe open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
            return file < 0 ? -Int(errno) : Int(file)
        }
        guard file >= 0 else { throw DemikernelError(.negated(file), "no network namespace can be made: it takes CAP_SYS_ADMIN") }
        return Int32(file)
    }

    private final class Visit: Sendable {
        let file: Int32
        let open: @Sendable () -> Int
        let outcome = Lock((entered: 0, result: 0))

        init(_ file: Int32, _ open: @escaping @Sendable () -> Int) {
            self.file = file
            self.open = open
        }

        func run() {
            let entered = dk_network_namespace_enter(file)
            let result = entered == 0 ? open() : 0
            outcome.withLock { $0 = (entered, result) }
        }
    }
}

extension Errno {
    /// Of what a system call has answered: a negative errno.
    static func negated(_ result: Int) -> Errno { Errno(rawValue: Int32(-result)) }
}
