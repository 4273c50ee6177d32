/// What UDP has done. Each datagram that is dropped is counted once.
package struct UDPCounters: BitwiseCopyable, Sendable {
    package var datagramsReceived: UInt64 = 0
    package var datagramsSent: UInt64 = 0
    package var malformed: UInt64 = 0
    package var badChecksum: UInt64 = 0
    package var noPort: UInt64 = 0
    /// The socket's queue was full, or all of them together.
    package var receiveDrops: UInt64 = 0
    /// Sends that were refused because frames wait for the device.
    package var sendStalls: UInt64 = 0
    package var errorsReceived: UInt64 = 0

    package init() {}
}
