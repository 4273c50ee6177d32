import SystemPackage

// ICMP echo over a libOS's own stack: for `demi ping`.

extension LibOS {
    /// Sends an echo request, and answers when, in nanoseconds of this libOS's clock.
    ///
    /// Throws ENOTSUP where the network is the kernel's, ENETUNREACH, EMSGSIZE, ENOMEM.
    package func sendEcho(
        to destination: IPAddress, identifier: UInt16, sequenceNumber: UInt16, dataBytes: Int
    ) throws(DemikernelError) -> UInt64 {
        guard core.network.isPresent else { throw DemikernelError(.notSupported, "the network is the kernel's, as is its ping") }
        let now = core.readTime()
        try core.network.stack.ip.sendEcho(
            to: destination, identifier: identifier, sequenceNumber: sequenceNumber, dataBytes: dataBytes, now: now)
        core.network.transmit()
        return now
    }

    /// Waits for an echo reply or an error about a request until `deadline`, in nanoseconds of this libOS's clock; nil where none has come by
    /// then, or ``waker`` was used.
    package func waitForEchoReply(until deadline: UInt64, isStopped: () -> Bool) -> EchoReply? {
        guard core.network.isPresent else { return nil }
        while true {
            if let reply = core.network.stack.ip.takeEchoReply() { return reply }
            if isStopped() || core.readTime() >= deadline { return nil }
            core.pause(until: Core.Deadline(time: deadline))
        }
    }

    /// The source address of packets to a destination. Throws ENETUNREACH; ENOTSUP where the network is the kernel's.
    package func sourceAddress(to destination: IPAddress) throws(DemikernelError) -> IPAddress {
        guard core.network.isPresent else { throw DemikernelError(.notSupported, "the network is the kernel's, as is its ping") }
        return try core.network.stack.ip.path(from: nil, to: destination).source
    }

    /// This libOS's clock, in nanoseconds.
    package var now: UInt64 { core.readTime() }
}
