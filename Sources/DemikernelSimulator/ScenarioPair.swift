import Demikernel

/// Two hosts that talk over connected UDP sockets, and a third socket that is connected and says nothing, while an attacker forges ICMP errors about
/// all of them.
///
/// What has to hold (RFC 1122, section 4.1.3.3; RFC 8085, section 5.2; RFC 8201, section 4): who never sent is told nothing; who sent is told what
/// somebody said about exactly that pair of ports and addresses, or what its own host found out; after any of it the exchange goes on; and no
/// forgery takes a path's MTU below the least that there is.
final class ScenarioPair: CustomStringConvertible {
    /// Which of the three sockets.
    enum Role: Int, CaseIterable {
        case caller, answerer, silent

        var port: UInt16 { 5001 + UInt16(rawValue) }
    }

    /// A request for which an answer has to come.
    private(set) var isAwaited = false
    private unowned let world: ScenarioWorld
    /// The caller's host, and the answerer's.
    private let number: Int
    private let peer: Int
    private let isIPv4: Bool
    private var sockets: [UDPSocket] = []
    /// Datagrams that each socket has sent.
    private var sent = [0, 0, 0]
    private var highestAnswer = -1
    private var awaited = 0
    private var end: UInt64 = 0
    private var random: SimulationRandom

    private static var retryNanoseconds: UInt64 { 200_000_000 }
    private static var firstTag: UInt32 { 4 }

    init(_ world: ScenarioWorld, _ number: Int, isIPv4: Bool) throws(DemikernelError) {
        self.world = world
        self.number = number
        self.isIPv4 = isIPv4
        peer = (number + 1) % world.plan.hostCount
        random = SimulationRandom(seed: world.settings.seed, part: 5 << 32 + UInt64(number * 2 + (isIPv4 ? 0 : 1)))
        for role in Role.allCases {
            let (own, other) = role == .answerer ? (peer, number) : (number, peer)
            let remotePort = role == .silent ? role.port : Role.caller.port + Role.answerer.port - role.port
            sockets.append(try world.hosts[own].stack.use { stack throws(DemikernelError) in
                let local = ScenarioPlan.address(own, isIPv4: isIPv4, port: role.port)
                let socket = try stack.bindUDP(local, tag: Self.firstTag + UInt32(2 * role.rawValue) + (isIPv4 ? 0 : 1))
                try stack.connectUDP(socket, to: ScenarioPlan.address(other, isIPv4: isIPv4, port: remotePort))
                return socket
            })
        }
    }

    /// Where the pair is among all, for the host on which a socket has this tag.
    static func index(host: Int, tag: UInt32, hostCount: Int) -> Int {
        let isAnswerer = (tag - firstTag) / 2 == UInt32(Role.answerer.rawValue)
        return (isAnswerer ? (host + hostCount - 1) % hostCount : host) * 2 + Int(tag & 1)
    }

    var description: String { "\(number) to \(peer) over \(isIPv4 ? "IPv4" : "IPv6"), \(sent[0]) sent, the last answer \(highestAnswer)" }

    private func host(_ role: Role) -> Int { role == .answerer ? peer : number }
    private func stack(_ role: Role) -> StackHost { world.hosts[host(role)].stack }

    // MARK: - The exchange

    func start(until end: UInt64) {
        self.end = end
        schedule()
    }

    private func schedule() {
        let time = world.simulation.now + random.below(world.plan.pause)
        guard time < end else { return }
        world.simulation.schedule(at: time) { [unowned self] in
            send(.caller, sent[0])
            schedule()
        }
    }

    /// Asks, and asks again, until there is an answer: on a network that is well, where nobody attacks any more.
    func startLastExchange() {
        isAwaited = true
        awaited = sent[0]
        ask()
    }

    private func ask() {
        guard isAwaited, world.report.failure == nil else { return }
        send(.caller, sent[0])
        world.simulation.schedule(at: world.simulation.now + Self.retryNanoseconds) { [unowned self] in ask() }
    }

    func close() { for role in Role.allCases { stack(role).use { $0.closeUDP(sockets[role.rawValue]) } } }

    private static func header(_ index: Int) -> UInt64 { 0xda7b << 48 | UInt64(index & 0xffff_ffff) }

    private func pattern(_ role: Role, _ index: Int) -> ScenarioPattern { ScenarioPattern(connection: index, isClient: role == .caller) }

    private func send(_ role: Role, _ index: Int) {
        let segment = world.hosts[host(role)].heap.allocateSegment(random.number(in: 8...1400))
        guard !segment.isNull else { return }
        unsafe pattern(role, index).fill(segment.bytes, from: 0)
        unsafe segment.bytes.storeBytes(of: Self.header(index).littleEndian, as: UInt64.self)
        let now = world.simulation.now
        do throws(DemikernelError) {
            try stack(role).use { stack throws(DemikernelError) in
                try stack.sendUDP(sockets[role.rawValue], .single(segment), to: nil, now: now)
            }
            sent[role.rawValue] += 1
            world.report.datagramsSent += 1
        } catch {
            segment.release()
        }
        checkPath(role)
    }

    func handle(_ event: SocketEvent) { for role in Role.allCases { drain(role) } }

    private func drain(_ role: Role) {
        while world.report.failure == nil {
            let reading = stack(role).use { $0.udp.read(sockets[role.rawValue]) }
            if reading.errno != 0 {
                judge(reading.errno, role)
                continue
            }
            guard !reading.segment.isNull else { return }
            defer { reading.segment.release() }
            take(reading.segment, role)
        }
    }

    private func take(_ segment: Segment, _ role: Role) {
        let bytes = unsafe UnsafeRawBufferPointer(segment.bytes)
        let header = unsafe bytes.count < 8 ? 0 : UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        let index = Int(header & 0xffff_ffff)
        guard role != .silent, header == Self.header(index), index < sent[0],
            unsafe pattern(role == .caller ? .answerer : .caller, index).mismatch(UnsafeRawBufferPointer(rebasing: bytes[8...]), from: 8) == nil
        else { return world.fail("a datagram of \(bytes.count) bytes that nobody sent, in the exchange \(self) at the \(role)") }
        world.report.datagramsReceived += 1
        if role == .answerer { return send(.answerer, index) }
        highestAnswer = max(highestAnswer, index)
        if isAwaited, highestAnswer >= awaited { isAwaited = false }
    }

    // MARK: - What must hold

    /// Whether this host may be told that.
    private func judge(_ errno: Int32, _ role: Role) {
        guard sent[role.rawValue] > 0 else { return world.fail("error \(errno) at the \(role) of the exchange \(self), which has sent nothing") }
        // Its own host says so where the neighbour does not answer.
        if errno == ScenarioError.noRoute { return }
        guard world.attacker?.quoted.contains(.init(host: host(role), port: role.port, isIPv4: isIPv4)) == true else {
            return world.fail("error \(errno) at the \(role) of the exchange \(self), of which nobody has said anything")
        }
    }

    private func checkPath(_ role: Role) {
        let target = ScenarioPlan.address(role == .answerer ? number : peer, isIPv4: isIPv4, port: 0)
        guard let path = stack(role).ask({ try? $0.ip.path(from: nil, to: IPAddress(target)) }) else { return }
        if path.mtu < (isIPv4 ? 576 : 1280) { world.fail("the path of the exchange \(self) is said to take \(path.mtu) bytes") }
    }
}
