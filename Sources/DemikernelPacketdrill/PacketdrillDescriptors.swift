import Demikernel
import Glibc

/// What packetdrill's file descriptors stand for.
///
/// Numbers begin far from those of the process's own files, so that a script's mistake finds none of them.
struct PacketdrillDescriptors {
    struct Socket {
        enum State { case unbound, bound, listening, connecting, connected }

        var state = State.unbound
        var isNonblocking = false
        var family: AddressFamily
        var local: SocketAddress?
        var options = TCPSocketOptions()
        /// SO_LINGER; nil is off.
        var linger: Int32?
        var handle: TCPSocket?
        /// Of SOCK_DGRAM; opened by the first call that needs it.
        var isDatagram = false
        var datagram: UDPSocket?
        /// What MSG_PEEK has taken out.
        var held: PacketdrillDatagram?
        /// What shutdown(2) has ended of a datagram socket.
        var readsNoMore = false
        var writesNoMore = false
        /// What happened to the connect under way.
        var hasFailed = false
    }

    static let first: Int32 = 10_000
    private(set) var sockets: [Int32: Socket] = [:]
    /// Pipes by their reading ends' numbers, and to which of them an end belongs.
    var pipes: [Int32: PacketdrillPipe] = [:]
    private(set) var pipeEnds: [Int32: (pipe: Int32, isWriter: Bool)] = [:]
    var polls: [Int32: [Int32: (events: UInt32, data: UInt64)]] = [:]
    private var next = first

    mutating func insert(_ socket: Socket) -> Int32 {
        defer { next += 1 }
        sockets[next] = socket
        return next
    }

    mutating func insertPoll() -> Int32 {
        defer { next += 1 }
        polls[next] = [:]
        return next
    }

    /// The reading end and the writing end of a new pipe.
    mutating func insertPipe() -> (reader: Int32, writer: Int32) {
        defer { next += 2 }
        pipes[next] = PacketdrillPipe()
        pipeEnds[next] = (next, false)
        pipeEnds[next + 1] = (next, true)
        return (next, next + 1)
    }

    mutating func remove(_ descriptor: Int32) {
        sockets[descriptor] = nil
        polls[descriptor] = nil
        if let end = pipeEnds.removeValue(forKey: descriptor) {
            if end.isWriter { pipes[end.pipe]?.hasWriter = false } else { pipes[end.pipe]?.hasReader = false }
            if pipes[end.pipe].map({ !$0.hasReader && !$0.hasWriter }) == true { pipes[end.pipe] = nil }
        }
        for poll in polls.keys { polls[poll]?[descriptor] = nil }
    }

    subscript(descriptor: Int32) -> Socket? {
        get { sockets[descriptor] }
        set { if sockets[descriptor] != nil { sockets[descriptor] = newValue } }
    }

    /// What the stack calls a descriptor's socket in its events.
    func tag(_ descriptor: Int32) -> UInt32 { UInt32(descriptor - Self.first) }

    mutating func note(_ event: SocketEvent) {
        let descriptor = Int32(truncatingIfNeeded: event.tag) &+ Self.first
        guard var socket = sockets[descriptor], socket.state == .connecting else { return }
        if event.kinds.contains(.connected) {
            socket.state = .connected
        } else if !event.kinds.isDisjoint(with: [.failed, .closed]) {
            socket.hasFailed = true
        }
        sockets[descriptor] = socket
    }
}

/// A datagram that has come.
struct PacketdrillDatagram {
    var bytes: [UInt8]
    var source: SocketAddress
}

/// A pipe(2): 64 KiB between two descriptors.
struct PacketdrillPipe {
    static let capacity = 65_536

    var bytes: [UInt8] = []
    var hasReader = true
    var hasWriter = true
    var readerIsNonblocking = false
    var writerIsNonblocking = false

    var room: Int { Self.capacity - bytes.count }
}
