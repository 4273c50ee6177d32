package import Demikernel

/// A network stack as a node: frames of its links go in, what it wants to send goes out, and its timers run at the times that it asks for.
///
/// Its heap is its own, or one that all of a simulation share. Its program is called back with events.
package final class StackHost: SimulatedNode {
    package let name: String
    package unowned let simulation: Simulation
    /// What happens on its sockets.
    package var onEvent: ((SocketEvent) -> Void)?
    /// After each turn: what the program does of its own accord.
    package var onTurn: (() -> Void)?
    /// Frames that the device takes at a time; the others wait for it, as behind a full ring.
    package var transmitMaximum = Int.max
    /// How long the host takes to notice a frame: those that come meanwhile are one burst.
    package var reactionNanoseconds: UInt64 = 0
    /// Turns at one moment, with the stack asking for another each time, that are taken for a stack that spins.
    package static var turnsMaximum: Int { 10_000 }
    /// The heap of this host alone, to be this thread's whenever the host does anything; nil where all share one, which is.
    package var heap: SimulatedHeap?
    /// The stack asks again and again to be polled at one moment.
    package private(set) var isSpinning = false

    private var stack: NetworkStack
    private var burst: FrameBurst
    private var port: SimulatedPort?
    private var arrived: [[UInt8]] = []
    private var wakeTime: UInt64?
    private var ticket: UInt64 = 0
    private var turnTime: UInt64 = 0
    private var turns = 0
    private var isInTurn = false

    /// A host over a device with these capabilities. Throws what the stack refuses.
    package init(
        _ simulation: Simulation, name: String, _ configuration: NetworkConfiguration, device: NetworkDeviceCapabilities,
        heap: HeapReference, entropy: NetworkEntropy
    ) throws(DemikernelError) {
        self.simulation = simulation
        self.name = name
        stack = try NetworkStack(configuration, heap: heap, device: device, entropy: entropy, now: simulation.now)
        burst = FrameBurst(capacity: 64, heap: heap)
    }

    package func connected(_ port: SimulatedPort) {
        self.port = port
        wake(at: simulation.now)
    }

    package func receive(_ frame: [UInt8], from port: SimulatedPort) {
        arrived.append(frame)
        wake(at: simulation.now &+ reactionNanoseconds)
    }

    /// Has the host take a turn at `time` at the latest.
    package func wake(at time: UInt64) {
        if let wakeTime, wakeTime <= time { return }
        wakeTime = time
        ticket = simulation.wake(self, at: time)
    }

    package func wake(ticket: UInt64) {
        guard ticket == self.ticket else { return }
        wakeTime = nil
        turn()
    }

    /// Lends out the stack for calls; what it wants to send goes out at once, and its deadline is asked for again.
    package func use<Result, Failure: Error>(_ body: (inout NetworkStack) throws(Failure) -> Result) throws(Failure) -> Result {
        // A turn looks by itself at what is to be sent, and when the stack wants the next one.
        defer { if !isInTurn { wake(at: simulation.now) } }
        heap?.take()
        return try body(&stack)
    }

    /// Lends out the stack for questions.
    package func ask<Result>(_ body: (inout NetworkStack) -> Result) -> Result {
        heap?.take()
        return body(&stack)
    }

    private func turn() {
        heap?.take()
        let now = simulation.now
        turns = now == turnTime ? turns + 1 : 0
        turnTime = now
        isInTurn = true
        defer { isInTurn = false }
        if turns > Self.turnsMaximum {
            isSpinning = true
            return
        }
        for frame in arrived {
            // Where the heap is exhausted the frame is lost, as with a device.
            _ = unsafe burst.append(byteCount: frame.count) { target in unsafe target.copyBytes(from: frame) }
            if burst.isFull { stack.receive(&burst, now: now) }
        }
        arrived.removeAll(keepingCapacity: true)
        if !burst.isEmpty { stack.receive(&burst, now: now) }
        stack.poll(now: now)
        while let event = stack.events.popFirst() { onEvent?(event) }
        onTurn?()
        transmit()
        if !stack.ip.outgoing.isEmpty { wake(at: now &+ 10_000) }
        if let deadline = stack.nextDeadline() { wake(at: max(deadline, now)) }
    }

    private func transmit() {
        var left = transmitMaximum
        while left > 0, !stack.ip.outgoing.isEmpty {
            let frame = stack.ip.outgoing.removeFirst()
            var bytes = [UInt8](repeating: 0, count: frame.byteCount)
            _ = unsafe bytes.withUnsafeMutableBytes { unsafe frame.copyBytes(to: $0) }
            if frame.offload.flags.contains(.partialChecksum) {
                let start = Int(frame.offload.checksumStart)
                let sum = bytes.checksum(start..<bytes.count)
                bytes.store16(sum == 0 ? 0xffff : sum, at: start + Int(frame.offload.checksumOffset))
            }
            frame.release()
            port?.transmit(bytes)
            left -= 1
        }
    }
}
