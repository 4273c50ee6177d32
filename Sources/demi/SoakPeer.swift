import ArgumentParser
import CDemikernelShims
import Demikernel
import DemikernelSimulator
import Glibc

/// The kernel's side of a soak, in a process of its own, which `demi soak` starts: sockets of the kernel, without a libOS.
struct SoakPeerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "soak-peer", abstract: "The kernel's side of demi soak, which starts it.", shouldDisplay: false)

    @Option var namespace: String
    @Option var interface: String
    /// What the other side says, a letter each: o, open connections; d, let them come to their end; s, say how many there are. Its end ends this.
    @Option var control: Int32
    @Option var seed: UInt64
    @Option var connections: Int
    @Option var share: Double

    func run() throws {
        let file = unsafe open(namespace, O_RDONLY | O_CLOEXEC)
        guard file >= 0, dk_network_namespace_enter(file) == 0 else { throw Failure("the network namespace \(namespace) cannot be entered") }
        close(file)
        let commands = """
            PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && ip addr add 10.117.0.1/24 dev \(interface) \
            && ip addr add fd00:117::1/64 dev \(interface) nodad
            """
        guard unsafe system(commands) == 0 else { throw Failure("the interface \(interface) gets no addresses: is there an ip (iproute2)?") }
        var peer = try SoakPeer(seed: seed, connections: connections, share: share, control: control)
        writeLine("ready")
        peer.run()
    }
}

/// One connection of the kernel's.
private struct SoakStream {
    let descriptor: Int32
    let isClient: Bool
    var plan: SoakPlan?
    var isConnecting: Bool
    var name: [UInt8] = []
    var sent = 0
    var received = 0
    /// When it goes on sending, in milliseconds of the clock.
    var pausedUntil = 0
    var hasIdled = false
    var hasFinished = false
    var hasEnded = false

    var wantsToSend: Bool { plan != nil && !hasFinished }
}

/// The loop over all of them: poll(2), as they are a few hundred.
private struct SoakPeer {
    private let seed: UInt64
    private let connections: Int
    private let control: Int32
    private let listener: Int32
    private var pace: SoakPace
    private var streams: [SoakStream] = []
    private var counts = SoakCounts()
    private var nextNumber = 1
    private var isOpening = false
    private var nextOpening = 0
    private var buffer = [UInt8](repeating: 0, count: 65_536)

    init(seed: UInt64, connections: Int, share: Double, control: Int32) throws {
        self.seed = seed
        self.connections = connections
        self.control = control
        pace = SoakPace(share: share)
        listener = try Self.socket(AF_INET6)
        _ = dk_socket_option(listener, SOL_SOCKET, SO_REUSEADDR, 1)
        let bound = unsafe Self.lending(.any(.ipv6, port: SoakHost.port)) { address, count in unsafe bind(listener, address, count) }
        guard bound == 0, listen(listener, 4_096) == 0 else { throw Failure("the kernel's server cannot listen: \(errorText(errno))") }
    }

    private static func socket(_ family: Int32) throws -> Int32 {
        let made = Glibc.socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        guard made >= 0 else { throw Failure("no socket: \(errorText(errno))") }
        return made
    }

    private static func lending(_ address: SocketAddress, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var storage = sockaddr_storage()
        return unsafe withUnsafeMutableBytes(of: &storage) {
            let count = unsafe address.write(to: $0.baseAddress!)
            return unsafe body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(count))
        }
    }

    private static var now: Int {
        var time = timespec()
        unsafe _ = clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
    }

    // MARK: - The loop

    mutating func run() {
        while true {
            // At the end nobody waits.
            let wait = isOpening ? min(100, pace.wait()) : 0
            var polls = [pollfd(fd: control, events: Int16(POLLIN), revents: 0), pollfd(fd: listener, events: Int16(POLLIN), revents: 0)]
            // Behind its share of the processor it lets everything wait but commands.
            var timeout = wait > 0 ? wait : 1_000
            let now = Self.now
            if wait == 0 {
                if isOpening, streams.count(where: { $0.isClient }) < connections { timeout = min(timeout, max(1, nextOpening - now)) }
                for stream in streams {
                    var events = stream.hasEnded || stream.isConnecting ? 0 : Int16(POLLIN)
                    if stream.isConnecting || stream.wantsToSend && stream.pausedUntil <= now { events |= Int16(POLLOUT) }
                    if stream.wantsToSend, stream.pausedUntil > now { timeout = min(timeout, stream.pausedUntil - now) }
                    polls.append(pollfd(fd: stream.descriptor, events: events, revents: 0))
                }
            } else {
                polls[1].events = 0
            }
            let count = unsafe poll(&polls, nfds_t(polls.count), Int32(timeout))
            guard count >= 0 || errno == EINTR else { return }
            if polls[0].revents != 0, !obey() { return }
            guard wait == 0 else { continue }
            if polls[1].revents != 0 { accept() }
            let time = Self.now
            for index in (0..<polls.count - 2).reversed() where polls[index + 2].revents != 0 || streams[index].pausedUntil > 0 && streams[index].pausedUntil <= time {
                serve(index, Int32(polls[index + 2].revents), time)
            }
            open(time)
        }
    }

    /// False where the other side has gone.
    private mutating func obey() -> Bool {
        var letter: UInt8 = 0
        guard unsafe Glibc.read(control, &letter, 1) == 1 else { return false }
        switch letter {
        case UInt8(ascii: "o"):
            pace.restart()
            isOpening = true
        case UInt8(ascii: "d"): isOpening = false
        default: writeLine("\(streams.count) \(counts.line)")
        }
        return true
    }

    private mutating func open(_ now: Int) {
        guard isOpening, now >= nextOpening, streams.count(where: { $0.isClient }) < connections else { return }
        // A few a turn, so that those that there are get theirs.
        nextOpening = now + 2
        let plan = SoakPlan(seed: seed, number: nextNumber)
        nextNumber += 2
        guard let descriptor = try? Self.socket(plan.isIPv4 ? AF_INET : AF_INET6) else { return counts.note("no socket: \(errorText(errno))") }
        keepAlive(descriptor)
        let address = plan.isIPv4 ? SocketAddress.ipv4(0x0a75_0002, port: SoakHost.port) : .ipv6(0xfd00_0117 << 32, 2, port: SoakHost.port)
        let result = unsafe Self.lending(address) { unsafe connect(descriptor, $0, $1) }
        guard result == 0 || errno == EINPROGRESS else {
            counts.note("connection \(plan.number) is not opened: \(errorText(errno))")
            close(descriptor)
            return
        }
        streams.append(SoakStream(descriptor: descriptor, isClient: true, plan: plan, isConnecting: true))
    }

    private mutating func accept() {
        for _ in 0..<8 {
            let descriptor = dk_accept(listener, nil, nil)
            guard descriptor >= 0 else { return }
            keepAlive(descriptor)
            counts.served += 1
            streams.append(SoakStream(descriptor: descriptor, isClient: false, plan: nil, isConnecting: false))
        }
    }

    /// A reset that was lost is found out in seconds.
    private func keepAlive(_ descriptor: Int32) {
        _ = dk_socket_option(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
        for (option, value) in [(TCP_KEEPIDLE, Int32(5)), (TCP_KEEPINTVL, 2), (TCP_KEEPCNT, 8)] {
            _ = dk_socket_option(descriptor, Int32(IPPROTO_TCP), option, value)
        }
    }

    // MARK: - A connection

    private mutating func serve(_ index: Int, _ events: Int32, _ now: Int) {
        if streams[index].isConnecting {
            guard events & Int32(POLLOUT | POLLERR | POLLHUP) != 0 else { return }
            let error = Self.error(of: streams[index].descriptor)
            guard error == 0 else { return end(index, error) }
            streams[index].isConnecting = false
            counts.opened += 1
        }
        // What a reset leaves is its error.
        if events & Int32(POLLERR) != 0 { return end(index, Self.error(of: streams[index].descriptor)) }
        if events & Int32(POLLIN | POLLHUP) != 0, !streams[index].hasEnded, !read(index) { return }
        if streams[index].wantsToSend, streams[index].pausedUntil <= now, !write(index, now) { return }
        if streams[index].hasEnded, streams[index].hasFinished { end(index, 0) }
    }

    private static func error(of descriptor: Int32) -> Int32 {
        var error: Int32 = 0
        var size = socklen_t(4)
        unsafe _ = getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &size)
        return error
    }

    /// False where the connection is at its end.
    private mutating func read(_ index: Int) -> Bool {
        let limit = streams[index].plan == nil ? SoakPlan.nameByteCount - streams[index].name.count : buffer.count
        let count = unsafe buffer.withUnsafeMutableBytes { unsafe recv(streams[index].descriptor, $0.baseAddress, limit, 0) }
        if count < 0 {
            if errno == EAGAIN || errno == EINTR { return true }
            end(index, errno)
            return false
        }
        if count == 0 {
            streams[index].hasEnded = true
            guard let plan = streams[index].plan else {
                // Its client was reset before it had said its name.
                end(index, ECONNRESET)
                return false
            }
            let total = plan.sendTotal(isClient: !streams[index].isClient)
            if plan.ending == .clean, streams[index].received != total {
                counts.note("connection \(plan.number) ended after \(streams[index].received) bytes of \(total)")
            }
            return true
        }
        counts.bytesReceived += UInt64(count)
        guard let plan = streams[index].plan else {
            streams[index].name += buffer[..<count]
            streams[index].received += count
            guard streams[index].name.count == SoakPlan.nameByteCount else { return true }
            guard let number = ScenarioPattern.connection(streams[index].name), number % 2 == 0 else {
                counts.note("a connection without a number")
                end(index, 0)
                return false
            }
            streams[index].plan = SoakPlan(seed: seed, number: number)
            return true
        }
        let pattern = plan.pattern(sentByClient: !streams[index].isClient)
        let start = streams[index].received
        let place = unsafe buffer.withUnsafeBytes { unsafe pattern.mismatch(UnsafeRawBufferPointer(rebasing: $0[..<count]), from: start) }
        if let place {
            counts.note("connection \(plan.number): a wrong byte, \(start + place) from the start")
            end(index, 0)
            return false
        }
        streams[index].received += count
        return true
    }

    /// Sends one chunk. False where the connection is at its end.
    private mutating func write(_ index: Int, _ now: Int) -> Bool {
        guard let plan = streams[index].plan else { return true }
        let isClient = streams[index].isClient
        let sent = streams[index].sent
        if let point = plan.resetPoint(isClient: isClient), sent >= point {
            var lingering = linger(l_onoff: 1, l_linger: 0)
            unsafe _ = setsockopt(streams[index].descriptor, SOL_SOCKET, SO_LINGER, &lingering, socklen_t(MemoryLayout<linger>.size))
            end(index, 0)
            return false
        }
        if let point = plan.idlePoint(isClient: isClient), sent >= point, !streams[index].hasIdled {
            streams[index].hasIdled = true
            streams[index].pausedUntil = now + plan.idleMilliseconds
            return true
        }
        let total = plan.sendTotal(isClient: isClient)
        guard sent < total else {
            streams[index].hasFinished = true
            if plan.ending == .clientLeaves, isClient {
                end(index, 0)
                return false
            }
            _ = shutdown(streams[index].descriptor, Int32(SHUT_WR))
            return true
        }
        let pattern = plan.pattern(sentByClient: isClient)
        let length = min(plan.chunk, total - sent)
        let descriptor = streams[index].descriptor
        let count = unsafe buffer.withUnsafeMutableBytes {
            let chunk = unsafe UnsafeMutableRawBufferPointer(rebasing: $0[..<length])
            unsafe pattern.fill(chunk, from: sent)
            return unsafe send(descriptor, chunk.baseAddress, length, Int32(MSG_NOSIGNAL))
        }
        if count < 0 {
            if errno == EAGAIN || errno == EINTR { return true }
            end(index, errno)
            return false
        }
        streams[index].sent += count
        counts.bytesSent += UInt64(count)
        return true
    }

    private mutating func end(_ index: Int, _ error: Int32) {
        let stream = streams[index]
        close(stream.descriptor)
        streams.swapAt(index, streams.count - 1)
        streams.removeLast()
        if stream.plan?.ending ?? .clientResets != .clean {
            counts.resets += 1
        } else if error != 0 {
            let who = stream.isClient ? "opened" : "served"
            counts.note("connection \(stream.plan?.number ?? -1), \(who) by the kernel: \(errorText(error))")
        }
    }
}
