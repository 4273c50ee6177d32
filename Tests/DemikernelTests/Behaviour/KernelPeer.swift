import Glibc
import SystemPackage
import Testing
import TestSupport
@testable import Demikernel

/// A libOS on one end of a link and the kernel, which knows nothing of it, on the other: by a packet socket or AF_XDP on a virtual Ethernet, or by
/// a TAP.
final class KernelPeer: Sendable {
    enum Way: Sendable, CaseIterable {
        case packetSocket
        case tap
        case xdp
    }

    let link: VirtualLink
    let way: Way
    private let adjust: @Sendable (inout Configuration) -> Void

    init(_ way: Way = .packetSocket, adjusting adjust: @escaping @Sendable (inout Configuration) -> Void = { _ in }) throws {
        link = try VirtualLink()
        self.way = way
        self.adjust = adjust
        // The TAP is made first and attached to, so that the kernel's side is ready when the libOS is.
        if way == .tap {
            try link.succeed(
                "ip tuntap add tap0 mode tap && ip link set tap0 up && ip addr add 10.117.0.1/24 dev tap0 && "
                    + "ip addr add fd00:117::1/64 dev tap0 nodad", in: link.near)
        }
    }

    /// The kernel's namespace, and its interface there.
    var namespace: String { way == .tap ? link.near : link.far }

    static func address(ofLibOS family: AddressFamily, port: UInt16) -> SocketAddress {
        family == .ipv4 ? .ipv4(0x0a75_0002, port: port) : .ipv6(0xfd00_0117_0000_0000, 2, port: port)
    }

    static func address(ofKernel family: AddressFamily, port: UInt16) -> SocketAddress {
        family == .ipv4 ? .ipv4(0x0a75_0001, port: port) : .ipv6(0xfd00_0117_0000_0000, 1, port: port)
    }

    var configuration: Configuration {
        var configuration = Configuration()
        configuration.libOS = "catpowder"
        configuration.heap.limit = 256 << 20
        configuration.heap.lockPages = false
        configuration.operations.capacity = 4_096
        configuration.descriptors.capacity = 1_024
        configuration.catpowder.device = switch way {
        case .packetSocket: .packetSocket
        case .tap: .tap
        case .xdp: .xdp
        }
        configuration.catpowder.interface = way == .tap ? "tap0" : "near0"
        configuration.catpowder.namespace = link.near
        adjust(&configuration)
        return configuration
    }

    /// Runs both at the same time, each on a thread of its own: the libOS's part, and the kernel's once the libOS is there. The libOS goes on until the
    /// kernel's part has ended.
    func run(
        at location: SourceLocation = #_sourceLocation, libOS body: @escaping @Sendable (LibOS) throws -> Void,
        kernel: @escaping @Sendable (KernelPeer) throws -> Void
    ) async throws {
        let (isReady, isDone) = (Shared<Bool>(false), Shared<Bool>(false))
        let settings = configuration
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                try await onOwnThread {
                    defer { isReady.withLock { $0 = true } }
                    let libOS = try LibOS(settings)
                    isReady.withLock { $0 = true }
                    try body(libOS)
                    while !isDone.withLock({ $0 }) { libOS.turn(1) }
                    try libOS.expectNothingLeft(at: location)
                }
            }
            group.addTask {
                try await onOwnThread {
                    defer { isDone.withLock { $0 = true } }
                    // Polled: the libOS's thread has nothing that this one could sleep on.
                    while !isReady.withLock({ $0 }) { usleep(1_000) }
                    try kernel(self)
                }
            }
            try await group.waitForAll()
        }
    }

    func socket(_ family: AddressFamily, _ type: SocketType) throws -> KernelSocket { try KernelSocket(family, type, in: namespace) }

    /// A connection of the kernel to a listener of the libOS, which may not be there yet.
    func connected(to address: SocketAddress) throws -> KernelSocket {
        for _ in 0..<2_000 {
            let client = try socket(address.family, .stream)
            do {
                try client.connect(to: address)
                return client
            } catch {
                client.close()
                // Refused: only another attempt shows whether there is a listener now.
                usleep(5_000)
            }
        }
        throw Unexpected(description: "the libOS does not take the connection")
    }
}

extension LibOS {
    /// Takes one connection and sends back what comes, until it ends; answers how many bytes that were.
    @discardableResult
    func echoOneConnection(on address: SocketAddress) throws -> Int {
        let (listener, _) = try listening(on: address)
        guard case .accepted(let connection) = try outcome(accept(listener)) else { throw Unexpected(description: "accept failed") }
        try close(listener)
        return try echo(connection)
    }

    /// Sends back what comes, until it ends, with as much under way as the connection takes.
    func echo(_ connection: QueueDescriptor) throws -> Int {
        var count = 0
        while true {
            let completion = try wait(pop(connection), timeout: .patience)
            guard case .popped(let segments, _) = completion.take() else { throw Unexpected(description: "pop failed") }
            guard segments.byteCount > 0 else { break }
            count += segments.byteCount
            guard try outcome(push(connection, segments)) == .pushed else { throw Unexpected(description: "push failed") }
        }
        try close(connection)
        return count
    }
}
