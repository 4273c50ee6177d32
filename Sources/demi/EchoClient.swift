import Demikernel
import Histogram
import SystemPackage

/// The loop of `demi echo ping`, on the plain PDPIX calls: one thread, one array of tokens, one message under way for each client.
///
/// A client's pop keeps its place in the array; its push, which mostly completes at once, stands at the end until then. The memory of an
/// answer becomes the next message, so that in steady state nothing is allocated or copied.
struct EchoClient: ~Copyable {
    struct Plan {
        let address: SocketAddress
        let transport: Transport
        let size: Int
        let count: UInt64
        let clients: Int
        let warmup: UInt64
        /// Nanoseconds that an answer may take.
        let timeout: UInt64
        let showsProgress: Bool
    }

    static let sizeMaximum = 64 << 20
    static let datagramSizeMaximum = 65_507
    /// The most bytes of all messages that are under way.
    static let memoryMaximum = 1 << 30
    /// A UDP client that loses so many messages in a row has nobody to talk to.
    private static let lossesMaximum = 10

    /// One client.
    private struct Peer {
        let descriptor: QueueDescriptor
        /// Stamped on each message, so that a late answer is told from the one that is waited for.
        var sequence: UInt64 = 0
        /// When the message under way was pushed.
        var began: UInt64 = 0
        /// Bytes of the answer that have come.
        var received = 0
        var roundTrips: UInt64 = 0
        var losses = 0
        var isAlive = true
    }

    /// Whose token stands at the same place of `tokens`.
    private enum Owner: Equatable {
        case stop, tick
        /// A push.
        case push
        /// The pop, or before that the connect, of a client.
        case peer(Int32)
    }

    private let libOS: LibOS
    private let plan: Plan
    private var clock = Clock()
    private var tokens: [QToken] = []
    private var owners: [Owner] = []
    private var peers: [Peer] = []
    /// The message of each client, one after the other.
    private var messages: [UInt8]
    private var histogram = Histogram<UInt64>(highestTrackableValue: 3_600_000_000_000, numberOfSignificantValueDigits: .three)

    private var alive = 0
    private var completed: UInt64 = 0
    private var isMeasuring = false
    private var measurementBegan: UInt64 = 0
    private var measurementEnded: UInt64 = 0
    private var lost: UInt64 = 0
    private var failures = 0
    private var wasInterrupted = false
    private var progress: Progress
    /// Why a client failed, the last time that one did.
    private var failure: String?

    init(_ libOS: LibOS, _ plan: Plan, stop: QToken) {
        self.libOS = libOS
        self.plan = plan
        messages = [UInt8](repeating: 0, count: plan.clients * plan.size)
        for client in 0..<plan.clients {
            for offset in 0..<plan.size { messages[client &* plan.size &+ offset] = UInt8(truncatingIfNeeded: offset &* 7 &+ client) }
        }
        progress = Progress(plan)
        add(stop, .stop)
    }

    /// Connects, warms up, measures. Throws where no client could connect.
    mutating func run() throws {
        defer { progress.clear() }
        try connect()
        guard !wasInterrupted else { return }
        add(try libOS.timer(after: tickInterval), .tick)
        let now = clock.now()
        if plan.warmup == 0 { beginMeasuring(now) }
        for index in peers.indices where peers[index].isAlive {
            add(try libOS.pop(peers[index].descriptor), .peer(Int32(truncatingIfNeeded: index)))
            begin(index, clock.now(), reusing: nil)
        }
        while alive > 0 && !(isMeasuring && completed == plan.count) {
            let completion = try libOS.waitAny(tokens.span)
            let place = completion.offset
            switch owners[place] {
            case .peer(let index): receive(Int(index), completion, place)
            // What became of a push shows in the answer, or in that there is none.
            case .push: remove(place)
            case .tick: try tick(place)
            case .stop:
                wasInterrupted = true
                measurementEnded = clock.now()
                return
            }
        }
        if measurementEnded == 0 { measurementEnded = clock.now() }
    }

    // MARK: - Connecting

    private mutating func connect() throws {
        for index in 0..<plan.clients {
            let descriptor = try libOS.socket(plan.address.family, plan.transport.socketType)
            peers.append(Peer(descriptor: descriptor))
            alive += 1
            if plan.transport == .tcp { try libOS.set(.noDelay, to: true, on: descriptor) }
            add(try libOS.connect(descriptor, to: plan.address), .peer(Int32(truncatingIfNeeded: index)))
        }
        while tokens.count > 1 {
            let completion: Completion
            do throws(DemikernelError) {
                completion = try libOS.waitAny(tokens.span, timeout: .nanoseconds(Int64(clamping: max(plan.timeout, 5_000_000_000))))
            } catch {
                throw Failure("cannot connect to \(plan.address): \(error)\(libOS.missingPeer)")
            }
            let place = completion.offset
            guard case .peer(let index) = owners[place] else {
                wasInterrupted = true
                return
            }
            remove(place)
            do throws(DemikernelError) {
                try completion.get()
            } catch {
                fail(Int(index), "\(error)")
            }
        }
        if alive == 0 { throw Failure("cannot connect to \(plan.address): \(failure ?? "")\(libOS.missingPeer)") }
    }

    // MARK: - Round trips

    /// Sends a client's next message, in the memory of its answer where there is one.
    @inline(__always)
    private mutating func begin(_ index: Int, _ now: UInt64, reusing answer: consuming Buffer?) {
        peers[index].sequence &+= 1
        peers[index].received = 0
        peers[index].began = now
        let sequence = peers[index].sequence
        let first = index &* plan.size
        for offset in 0..<min(8, plan.size) { messages[first &+ offset] = UInt8(truncatingIfNeeded: sequence &>> (8 &* UInt64(offset))) }
        do {
            switch consume answer {
            case .some(var buffer):
                // The answer was the last message, which differs from this one in its stamp alone.
                if plan.size >= 8 {
                    var bytes = buffer.mutableBytes
                    bytes.storeBytes(of: sequence.littleEndian, as: UInt64.self)
                } else {
                    try fill(&buffer, index)
                }
                try follow(try libOS.push(peers[index].descriptor, buffer))
            case nil:
                var buffer = try libOS.allocate(plan.size)
                try fill(&buffer, index)
                try follow(try libOS.push(peers[index].descriptor, buffer))
            }
        } catch {
            fail(index, "\(error)")
        }
    }

    /// A push that the device took at once needs no waiting for. What became of it shows in the answer, or in that there is none.
    @inline(__always)
    private mutating func follow(_ push: QToken) throws(DemikernelError) {
        guard case nil = try libOS.takeIfComplete(push) else { return }
        add(push, .push)
    }

    /// Writes a client's message.
    private func fill(_ buffer: inout Buffer, _ index: Int) throws(DemikernelError) {
        let first = index &* plan.size
        try buffer.replaceContents(with: unsafe messages.span.bytes.extracting(first..<first &+ plan.size))
    }

    /// Takes what came for a client.
    @inline(__always)
    private mutating func receive(_ index: Int, _ completion: consuming Completion, _ place: Int) {
        // Its connection was closed, and this is the pop that closing cancelled.
        guard peers[index].isAlive else { return remove(place) }
        var segments: ScatterGatherArray
        do throws(DemikernelError) {
            segments = try completion.popped()
        } catch {
            guard plan.transport == .udp else { return fail(index, "\(error)", place) }
            // Nobody listens there, or not yet: the message is lost, which the next ticks find.
            return popAgain(index, place)
        }
        if segments.isEmpty && plan.transport == .tcp { return fail(index, "the server ended the connection", place) }
        var answer: Buffer?
        while let buffer = segments.removeFirst() {
            let first = index &* plan.size &+ peers[index].received
            let end = peers[index].received &+ buffer.count
            guard end <= plan.size, unsafe buffer.contentsEqual(messages.span.bytes.extracting(first..<first &+ buffer.count)) else {
                guard plan.transport == .udp else { return fail(index, "an answer differs from what was sent", place) }
                // The late answer to a message that was given up for lost, or a stranger's.
                peers[index].received = 0
                return popAgain(index, place)
            }
            peers[index].received = end
            answer = buffer.count == plan.size ? consume buffer : nil
        }
        guard peers[index].received == plan.size else {
            if plan.transport == .udp { peers[index].received = 0 }
            return popAgain(index, place)
        }
        let now = clock.now()
        guard !finished(index, now) else { return }
        begin(index, now, reusing: answer)
        if peers[index].isAlive { popAgain(index, place) } else { remove(place) }
    }

    /// Counts a round trip; answers whether it was the last.
    @inline(__always)
    private mutating func finished(_ index: Int, _ now: UInt64) -> Bool {
        completed &+= 1
        peers[index].losses = 0
        if completed & 1023 == 0 { progress.show(completed, isMeasuring, now) }
        guard isMeasuring else {
            if completed >= plan.warmup { beginMeasuring(now) }
            return false
        }
        histogram.record(now &- peers[index].began)
        peers[index].roundTrips &+= 1
        guard completed == plan.count else { return false }
        measurementEnded = now
        return true
    }

    private mutating func beginMeasuring(_ now: UInt64) {
        isMeasuring = true
        measurementBegan = now
        completed = 0
        lost = 0
    }

    @inline(__always)
    private mutating func popAgain(_ index: Int, _ place: Int) {
        do throws(DemikernelError) {
            tokens[place] = try libOS.pop(peers[index].descriptor)
        } catch {
            fail(index, "\(error)", place)
        }
    }

    // MARK: - Time

    /// Nanoseconds between two looks at what has not been answered.
    private var tickInterval: Duration { .nanoseconds(Int64(clamping: min(max(plan.timeout / 4, 1_000_000), 250_000_000))) }

    /// Finds what has not been answered in time.
    private mutating func tick(_ place: Int) throws {
        let now = clock.now()
        progress.show(completed, isMeasuring, now)
        for index in peers.indices where peers[index].isAlive && now &- peers[index].began > plan.timeout {
            guard plan.transport == .udp else {
                fail(index, "no answer within the timeout")
                continue
            }
            lost += 1
            peers[index].losses += 1
            if peers[index].losses < Self.lossesMaximum {
                begin(index, now, reusing: nil)
            } else {
                fail(index, "\(Self.lossesMaximum) messages in a row were lost")
            }
        }
        tokens[place] = try libOS.timer(after: tickInterval)
    }

    // MARK: - Clients and tokens

    /// Gives a client up. `place` is where its token stood, if that is spent; otherwise the cancelled pop is still to come.
    @inline(never)
    private mutating func fail(_ index: Int, _ reason: String, _ place: Int? = nil) {
        if let place { remove(place) }
        guard peers[index].isAlive else { return }
        peers[index].isAlive = false
        alive -= 1
        failures += 1
        failure = reason
        try? libOS.close(peers[index].descriptor)
    }

    @inline(__always)
    private mutating func add(_ token: QToken, _ owner: Owner) {
        tokens.append(token)
        owners.append(owner)
    }

    /// The last token moves into the hole.
    @inline(__always)
    private mutating func remove(_ place: Int) {
        tokens.swapAt(place, tokens.count &- 1)
        owners.swapAt(place, owners.count &- 1)
        tokens.removeLast()
        owners.removeLast()
    }

    /// Closes what is open.
    mutating func close() {
        for index in peers.indices where peers[index].isAlive { try? libOS.close(peers[index].descriptor) }
    }

    // MARK: - Outcome

    func outcome() -> EchoOutcome {
        let counts = peers.map(\.roundTrips)
        let elapsed = isMeasuring ? measurementEnded &- measurementBegan : 0
        return EchoOutcome(
            count: isMeasuring ? completed : 0, p50: percentile(50), p99: percentile(99), p999: percentile(99.9),
            minimum: histogram.totalCount == 0 ? 0 : histogram.min, maximum: histogram.totalCount == 0 ? 0 : histogram.max,
            perSecond: elapsed == 0 ? 0 : UInt64((Double(completed) * 1e9 / Double(elapsed)).rounded()),
            lost: lost, failures: failures, failure: failure, clientMinimum: counts.min() ?? 0, clientMaximum: counts.max() ?? 0,
            wasInterrupted: wasInterrupted)
    }

    private func percentile(_ percentile: Double) -> UInt64 {
        histogram.totalCount == 0 ? 0 : histogram.valueAtPercentile(percentile)
    }
}
