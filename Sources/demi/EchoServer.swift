import Demikernel
import SystemPackage

/// The loop of `demi echo serve`, on the plain PDPIX calls: one array of tokens, in which each connection keeps its place; what completes
/// there is replaced by what comes next: pop, push, pop.
struct EchoServer: ~Copyable {
    struct Statistics {
        var connections: UInt64 = 0
        /// Pops that were echoed: of a stream, whatever came at once.
        var messages: UInt64 = 0
        var bytes: UInt64 = 0
        var errors: UInt64 = 0
    }

    /// What the token at the same place of `tokens` is for.
    private enum State {
        case stopping, accepting, pausing, popping, pushing
    }

    private(set) var statistics = Statistics()
    private let libOS: LibOS
    private let socket: QueueDescriptor
    private let transport: Transport
    private var tokens: [QToken]
    private var states: [State]

    /// A listener or a bound UDP socket, and the operation whose end ends the server.
    init(_ libOS: LibOS, _ socket: QueueDescriptor, _ transport: Transport, stop: QToken) {
        self.libOS = libOS
        self.socket = socket
        self.transport = transport
        tokens = [stop]
        states = [.stopping]
    }

    mutating func run() throws {
        switch transport {
        case .tcp: add(try libOS.accept(socket), .accepting)
        case .udp: add(try libOS.pop(socket), .popping)
        }
        while true {
            let completion = try libOS.waitAny(tokens.span)
            let place = completion.offset
            switch states[place] {
            case .popping where transport == .tcp: try echo(completion, place)
            case .popping: try echoDatagram(completion, place)
            case .pushing: try pushed(completion, place)
            case .accepting: try accepted(completion, place)
            case .pausing: replace(place, try libOS.accept(socket), .accepting)
            case .stopping: return
            }
        }
    }

    // MARK: - Messages

    /// Sends back what came on a connection.
    @inline(__always)
    private mutating func echo(_ completion: consuming Completion, _ place: Int) throws {
        let connection = completion.descriptor
        let segments: ScatterGatherArray
        do throws(DemikernelError) {
            segments = try completion.popped()
        } catch {
            statistics.errors &+= 1
            return end(connection, place)
        }
        guard !segments.isEmpty else { return end(connection, place) }
        let byteCount = segments.byteCount
        let push: QToken
        do throws(PushError) {
            push = try libOS.push(connection, segments)
        } catch {
            statistics.errors &+= 1
            return end(connection, place)
        }
        statistics.messages &+= 1
        statistics.bytes &+= UInt64(byteCount)
        try follow(push, place)
    }

    /// A push that the device took at once needs no waiting for: the next pop takes its place.
    @inline(__always)
    private mutating func follow(_ push: QToken, _ place: Int) throws {
        if let completion = try libOS.takeIfComplete(push) { try pushed(completion, place) } else { replace(place, push, .pushing) }
    }

    /// Sends a datagram back to where it came from. One that cannot be sent is lost, as datagrams are.
    private mutating func echoDatagram(_ completion: consuming Completion, _ place: Int) throws {
        switch completion.take() {
        case .popped(let segments, let source):
            let byteCount = segments.byteCount
            // Without bytes there is nothing that push would take.
            guard let source, byteCount > 0 else { break }
            let push: QToken
            do throws(PushError) {
                push = try libOS.push(socket, segments, to: source)
            } catch {
                statistics.errors &+= 1
                break
            }
            statistics.messages &+= 1
            statistics.bytes &+= UInt64(byteCount)
            return try follow(push, place)
        // An earlier answer was refused: nobody is there.
        default: statistics.errors &+= 1
        }
        replace(place, try libOS.pop(socket), .popping)
    }

    @inline(__always)
    private mutating func pushed(_ completion: consuming Completion, _ place: Int) throws {
        let queue = completion.descriptor
        if completion.isFailure {
            statistics.errors &+= 1
            if transport == .tcp { return end(queue, place) }
        }
        do throws(DemikernelError) {
            replace(place, try libOS.pop(queue), .popping)
        } catch {
            // Only a table that is full refuses: this connection goes, the others stay.
            guard transport == .tcp else { throw error }
            statistics.errors &+= 1
            end(queue, place)
        }
    }

    // MARK: - Connections

    private mutating func accepted(_ completion: consuming Completion, _ place: Int) throws {
        do throws(DemikernelError) {
            let connection = try completion.accepted()
            statistics.connections &+= 1
            try? libOS.set(.noDelay, to: true, on: connection)
            do throws(DemikernelError) {
                add(try libOS.pop(connection), .popping)
            } catch {
                statistics.errors &+= 1
                try? libOS.close(connection)
            }
        } catch {
            // No descriptor left, most likely. Tried again soon, when a connection may have ended.
            statistics.errors &+= 1
            return replace(place, try libOS.timer(after: .milliseconds(10)), .pausing)
        }
        replace(place, try libOS.accept(socket), .accepting)
    }

    private mutating func end(_ connection: QueueDescriptor, _ place: Int) {
        try? libOS.close(connection)
        // The last one moves into the hole.
        tokens.swapAt(place, tokens.count - 1)
        states.swapAt(place, states.count - 1)
        tokens.removeLast()
        states.removeLast()
    }

    // MARK: - Tokens

    private mutating func add(_ token: QToken, _ state: State) {
        tokens.append(token)
        states.append(state)
    }

    @inline(__always)
    private mutating func replace(_ place: Int, _ token: QToken, _ state: State) {
        tokens[place] = token
        states[place] = state
    }
}
