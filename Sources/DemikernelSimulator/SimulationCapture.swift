public import Demikernel

/// A capture of links in a simulation, as pcapng with virtual times: for Wireshark, tshark and tcpdump.
///
///     let capture = try SimulationCapture(path: "seed-7.pcapng")
///     link.capture(to: capture)
///
/// The file is whole when ``close()`` was called or the capture has gone.
public final class SimulationCapture {
    private var writer: PcapngWriter

    /// Creates or truncates the file. Throws what `open(2)` says.
    public init(path: String) throws(DemikernelError) { writer = try PcapngWriter(path: path) }

    /// Why writing ended early; nil where it did not.
    public var error: String? { writer.error.map { "\($0)" } }

    /// Writes what has gathered.
    public func close() { writer.flush() }

    fileprivate func add(_ name: String) -> Int { writer.addInterface(name: name) }

    fileprivate func put(_ frame: [UInt8], _ interface: Int, _ direction: SimulatedLink.Direction, _ time: UInt64) {
        unsafe frame.withUnsafeBytes { bytes in
            unsafe writer.put(copying: bytes, interface: interface, direction: direction == .forward ? .outbound : .inbound, time: time)
        }
    }
}

extension SimulatedLink {
    /// Captures what this link delivers in either direction (forward as outbound), from now on.
    public func capture(to capture: SimulationCapture) {
        let interface = capture.add(name)
        observe { frame, time, direction in capture.put(frame, interface, direction, time) }
    }
}
