import CDemikernelShims
import Glibc
import SystemPackage

/// A live capture: the libOS puts frames into a ``CaptureQueue``, and this, on a thread of its own, writes them to the client as pcapng. A client
/// that reads too slowly fills the queue; what does not fit is dropped there, and counted in the capture's last block.
struct ControlDump {
    /// How long, in milliseconds, it sleeps while nothing passes: what a capture that is looked at live lags behind.
    private static let interval: Int32 = 10

    private let client: ControlStream
    private let members: [ControlService.Member]
    private let arguments: [Substring]

    init(_ client: ControlStream, _ members: [ControlService.Member], _ arguments: some Sequence<Substring>) {
        self.client = client
        self.members = members
        self.arguments = Array(arguments)
    }

    /// A number that the request gives; nil where it gives none of that name.
    private func number(_ name: String) throws(DemikernelError) -> Int? {
        guard let argument = arguments.first(where: { $0.hasPrefix("\(name)=") }) else { return nil }
        guard let number = Int(argument.dropFirst(name.count + 1)), number > 0 else {
            throw DemikernelError(.invalidArgument, "a number of the request is none, or below 1")
        }
        return number
    }

    func run() {
        do throws(DemikernelError) {
            let member = try chooseMember()
            guard case .status(let status)? = ControlSession.ask(member, .status) else {
                throw DemikernelError(.timedOut, "the libOS does not answer: its program is not waiting for it")
            }
            let queue = try CaptureQueue(snapLength: try number("snap") ?? PcapngWriter.snapLengthMaximum)
            switch ControlSession.ask(member, .capture(queue)) {
            case .done?: break
            case .refused(let error)?: throw error
            case .ended?: throw DemikernelError(.noSuchProcess, "the libOS has ended")
            default:
                // It may yet begin: that it ends again is asked as well.
                _ = ControlSession.ask(member, .capture(nil))
                throw DemikernelError(.timedOut, "the libOS does not answer: its program is not waiting for it")
            }
            var record = ControlRecord("dump")
            record.add("libos", member.number)
            record.add("name", status.libOS)
            let stop = { _ = ControlSession.ask(member, .capture(nil)) }
            guard client.send(record), client.flush() else { return stop() }
            write(queue, status.network?.capabilities.name ?? status.libOS, stop: stop)
        } catch {
            client.refuse("\(error)")
        }
    }

    /// The libOS that is named, or the only one whose frames are its own.
    private func chooseMember() throws(DemikernelError) -> ControlService.Member {
        if let number = try number("libos") {
            guard let member = members.first(where: { $0.number == number }) else {
                throw DemikernelError(.noSuchProcess, "the process has no libOS of that number")
            }
            return member
        }
        let withFrames = members.filter { member in
            guard case .status(let status)? = ControlSession.ask(member, .status) else { return true }
            return status.network != nil
        }
        guard withFrames.count < 2 else { throw DemikernelError(.invalidArgument, "the process has several libOSes: choose one by its number") }
        guard let member = withFrames.first ?? members.first else { throw DemikernelError(.noSuchProcess, "the process has no libOS") }
        return member
    }

    /// Writes until the client closes its end or one direction of it, or the libOS ends; `stop` ends the capture.
    private func write(_ queue: CaptureQueue, _ name: String, stop: () -> Void) {
        // A reader may stop for as long as it likes, as with ^Z.
        client.makeBlocking(seconds: 0)
        var writer = PcapngWriter(descriptor: client.descriptor)
        let interface = writer.addInterface(name: name, snapLength: queue.snapLength)
        writer.flush()
        while writer.error == nil {
            let isClosed = queue.isClosed
            let count = queue.drain { writer.put($0, interface: interface) }
            writer.flush()
            if isClosed { break }
            var poll = pollfd(fd: client.descriptor, events: Int16(POLLIN), revents: 0)
            if unsafe Glibc.poll(&poll, 1, count > 0 ? 1 : Self.interval) > 0 { break }
        }
        stop()
        queue.drain { writer.put($0, interface: interface) }
        writer.putStatistics(interface: interface, time: DeviceClock.wall.now(), received: queue.frames, dropped: queue.drops)
        writer.flush()
        _ = shutdown(client.descriptor, Int32(SHUT_WR))
    }
}

extension PcapngWriter {
    fileprivate mutating func put(_ entry: CaptureQueue.Entry, interface: Int) {
        unsafe put(
            copying: entry.bytes, interface: interface, direction: entry.direction, time: entry.time, originalByteCount: entry.frameByteCount)
    }
}
