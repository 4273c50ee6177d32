import CDemikernelShims
import Glibc
import Synchronization
import SystemPackage

/// What another thread may ask of a libOS.
package enum ControlQuestion: Sendable {
    /// How it stands: names, settings, counters.
    case status
    /// The next of its sockets: a bounded number, so that the libOS is not held up for long.
    case sockets(from: ControlCursor)
    /// Have every frame put into this queue too; nil ends that.
    case capture(CaptureQueue?)
}

package enum ControlAnswer: Sendable {
    case status(ControlStatus)
    case sockets(ControlSocketPage)
    case done
    case refused(DemikernelError)
    /// The libOS has ended, or is about to.
    case ended
}

/// One question on its way to the libOS's thread, and the answer on its way back: whoever asks sleeps meanwhile, the libOS never does.
///
/// The libOS learns of it by the flag of its ``Mailbox``, which it looks at once a turn anyway: questions cost the datapath nothing.
package final class ControlExchange: Sendable {
    package let question: ControlQuestion
    private let answer = Lock<ControlAnswer?>(nil)
    private let event: Int32

    /// Throws EMFILE where descriptors have run out.
    package init(_ question: ControlQuestion) throws(DemikernelError) {
        self.question = question
        event = dk_event_create()
        guard event >= 0 else { throw DemikernelError(.last, "no descriptor for a question to the libOS") }
    }

    deinit { close(event) }

    /// The libOS's side.
    package func complete(_ answer: ControlAnswer) {
        self.answer.withLock { $0 = answer }
        dk_event_signal(event)
    }

    /// Waits for the answer; nil where none came in time, as from a program that has not called its libOS for so long.
    package func wait(milliseconds: Int32) -> ControlAnswer? {
        var poll = pollfd(fd: event, events: Int16(POLLIN), revents: 0)
        while unsafe Glibc.poll(&poll, 1, milliseconds) < 0, errno == EINTR {}
        return answer.withLock { $0 }
    }
}

/// Where a walk over a libOS's sockets goes on.
package struct ControlCursor: Sendable, Equatable {
    /// What is walked over.
    package enum Stage: Sendable {
        case queues
        /// Connections that no queue stands for: half open, not yet accepted, or closed by the application and not yet by the peer.
        case connections
        case timeWaits
    }

    package var stage = Stage.queues
    package var index: UInt32 = 0
    package static var start: ControlCursor { ControlCursor() }
}

/// Some of a libOS's sockets, and where the next ones are.
package struct ControlSocketPage: Sendable {
    package var sockets: [ControlSocket] = []
    package var next: ControlCursor?
}

/// One socket as it is now. Sizes in bytes.
package struct ControlSocket: Sendable {
    package enum Transport: String, Sendable { case tcp, udp }

    package var transport: Transport
    /// Whose stack it is in: the kernel's or the libOS's.
    package var isKernel = false
    /// The queue descriptor; nil where the application has none (yet, or any more).
    package var descriptor: Int32?
    package var local: SocketAddress?
    package var remote: SocketAddress?
    /// What waits to be popped; of a listener, connections that wait to be accepted.
    package var receiveQueue = 0
    /// What is not yet acknowledged or not yet sent; of a listener, its backlog.
    package var sendQueue = 0
    /// Of UDP: datagrams that found the queue full.
    package var drops: UInt64 = 0
    package var tcp: TCPInformation?

    package init(_ transport: Transport) { self.transport = transport }

    /// As netstat(8) and RFC 9293 name it.
    package var stateName: String {
        guard transport == .tcp else { return remote == nil ? "unconnected" : "connected" }
        return (tcp?.state ?? .closed).name
    }
}

extension TCPState {
    /// RFC 9293's name in small letters: `syn-sent`.
    package var name: String {
        switch self {
        case .closed: "closed"
        case .listen: "listen"
        case .synSent: "syn-sent"
        case .synReceived: "syn-received"
        case .established: "established"
        case .finWait1: "fin-wait-1"
        case .finWait2: "fin-wait-2"
        case .closeWait: "close-wait"
        case .closing: "closing"
        case .lastAcknowledgement: "last-ack"
        case .timeWait: "time-wait"
        }
    }
}

/// How a libOS stands.
package struct ControlStatus: Sendable {
    package struct Network: Sendable {
        package var capabilities: NetworkDeviceCapabilities
        package var isConnected: Bool
        package var device: NetworkDeviceStatistics
        package var addresses: [NetworkConfiguration.InterfaceAddress]
        package var ip: NetworkCounters
        package var udp: UDPCounters
        package var tcp: TCPCounters
        package var connections: Int
        package var timeWaits: Int
        package var udpSockets: Int
        package var isCaptured: Bool
    }

    package var libOS: String
    package var queues: Int
    package var operations: Int
    package var completed: UInt64
    package var heap: HeapSummary
    /// nil for a libOS whose network is the kernel's.
    package var network: Network?
}
