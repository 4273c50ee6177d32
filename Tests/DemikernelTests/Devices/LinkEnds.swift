import Glibc
import TestSupport
@testable import Demikernel

/// Devices and frames at the two ends of a ``VirtualLink``.
enum LinkEnds {
    /// The stations at the near and the far end, unless a test says otherwise.
    static let ours: UInt64 = 0x0200_0000_0001
    static let others: UInt64 = 0x0200_0000_0002

    static func near(_ link: VirtualLink, _ adjust: (inout PacketSocketConfiguration) -> Void = { _ in }) throws -> PacketSocketDevice {
        try packetSocket("near0", link.near, ours, adjust)
    }

    static func far(_ link: VirtualLink, _ adjust: (inout PacketSocketConfiguration) -> Void = { _ in }) throws -> PacketSocketDevice {
        try packetSocket("far0", link.far, others, adjust)
    }

    private static func packetSocket(
        _ interface: String, _ namespace: String, _ address: UInt64, _ adjust: (inout PacketSocketConfiguration) -> Void
    ) throws -> PacketSocketDevice {
        var configuration = PacketSocketConfiguration(interface: interface)
        configuration.namespace = namespace
        configuration.address = address
        adjust(&configuration)
        return try PacketSocketDevice(configuration)
    }

    /// A frame from the other end to `destination`, of a type that no kernel answers (IEEE 802, local experiments) unless a test says otherwise.
    static func frame(_ bench: DeviceBench, _ count: Int, seed: Int, parts: Int = 0, to destination: UInt64 = others, type: UInt16 = 0x88b5) -> Frame {
        let frame = bench.frame(count, seed: seed, parts: parts)
        unsafe frame.head.bytes.storeBytes(of: (destination << 16).bigEndian, as: UInt64.self)
        unsafe frame.head.bytes.storeBytes(of: ((destination == ours ? others : ours) << 16).bigEndian, toByteOffset: 6, as: UInt64.self)
        unsafe frame.head.bytes.storeBytes(of: type.bigEndian, toByteOffset: 12, as: UInt16.self)
        return frame
    }

    /// Receives until so many frames of the tests' own types have come, and takes them out; others, which kernels send of themselves, are dropped.
    static func take<Device: NetworkDevice & ~Copyable>(
        _ count: Int, from device: inout Device, _ bench: DeviceBench
    ) -> [(bytes: [UInt8], offload: FrameOffload)] {
        var taken: [(bytes: [UInt8], offload: FrameOffload)] = []
        var burst = bench.burst()
        while taken.count < count {
            device.receive(into: &burst)
            if burst.isEmpty { sched_yield() }
            while !burst.isEmpty {
                let frame = burst.removeFirst()
                let content = bytes(of: frame)
                if [0x88, 0x81].contains(content[12]) || frame.offload.flags.contains(.partialChecksum) { taken.append((content, frame.offload)) }
                frame.release()
            }
        }
        return taken
    }
}
