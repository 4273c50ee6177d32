import ArgumentParser
import Demikernel
import Glibc
import SystemPackage

struct StreamCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stream", abstract: "Measures how much goes one way over one TCP connection.",
        discussion: """
            The receiver counts what it pops and, at the end of the stream, answers with the number of bytes, so that what is measured has \
            arrived.

            Examples:
              demi stream serve --memif /tmp/memif.sock --spin forever --cpu 0
              demi stream send --memif /tmp/memif.sock --spin forever --cpu 1
              demi stream serve --libos catnap --address 127.0.0.1:7000
            """,
        subcommands: [StreamServeCommand.self, StreamSendCommand.self])
}

struct StreamServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Takes streams, any number at a time, and answers each with how many bytes it had.",
        discussion: "Prints \"listening on ADDRESS:PORT\" once it does. On SIGINT or SIGTERM it says how much has come and ends.")

    @OptionGroup var options: EndpointOptions

    func run() throws {
        if let cpu = options.cpu { try Processors.pin(to: cpu) }
        let libOS = try LibOS(options.configuration(.server))
        let stop = try libOS.pop(libOS.queue())
        let mailbox = libOS.core.mailbox
        try Interruption.handle { mailbox.cancel(stop) }
        let address = options.localAddress(libOS.configuration)
        let listener: QueueDescriptor
        do throws(DemikernelError) {
            listener = try libOS.socket(address.family)
            try libOS.bind(listener, to: address)
            try libOS.listen(listener)
        } catch {
            throw Failure("cannot serve on \(address): \(error)")
        }
        writeLine("listening on \(try libOS.localAddress(of: listener))")
        var receiver = StreamReceiver(libOS, listener, stop: stop)
        try receiver.run()
        writeLine("received \(receiver.streams.grouped) streams, \(receiver.bytes.grouped) bytes")
    }
}

/// The loop of `demi stream serve`.
struct StreamReceiver: ~Copyable {
    /// What the token at the same place is for.
    private enum State {
        case stopping, accepting
        /// The pop of a connection; so many bytes have come.
        case popping(UInt64)
        /// The answer.
        case pushing
    }

    private let libOS: LibOS
    private let listener: QueueDescriptor
    private var tokens: [QToken]
    private var states: [State] = [.stopping, .accepting]
    private(set) var streams: UInt64 = 0
    private(set) var bytes: UInt64 = 0

    init(_ libOS: LibOS, _ listener: QueueDescriptor, stop: QToken) {
        self.libOS = libOS
        self.listener = listener
        tokens = [stop]
    }

    mutating func run() throws {
        tokens.append(try libOS.accept(listener))
        while true {
            let completion = try libOS.waitAny(tokens.span)
            let (place, descriptor) = (completion.offset, completion.descriptor)
            switch states[place] {
            case .stopping: return
            case .accepting:
                if let connection = try? completion.accepted() { start(connection) }
                tokens[place] = try libOS.accept(listener)
            case .popping(let count):
                do throws(DemikernelError) {
                    try take(completion.popped(), place, descriptor, count)
                } catch {
                    end(descriptor, place)
                }
            case .pushing: end(descriptor, place)
            }
        }
    }

    private mutating func start(_ connection: QueueDescriptor) {
        do throws(DemikernelError) {
            tokens.append(try libOS.pop(connection))
            states.append(.popping(0))
            streams += 1
        } catch {
            try? libOS.close(connection)
        }
    }

    @inline(__always)
    private mutating func take(_ segments: consuming ScatterGatherArray, _ place: Int, _ descriptor: QueueDescriptor, _ count: UInt64)
        throws(DemikernelError) {
        guard segments.isEmpty else {
            let more = UInt64(segments.byteCount)
            bytes &+= more
            states[place] = .popping(count &+ more)
            tokens[place] = try libOS.pop(descriptor)
            return
        }
        var answer = try libOS.allocate(8)
        var written = answer.mutableBytes
        written.storeBytes(of: count.littleEndian, as: UInt64.self)
        do throws(PushError) {
            tokens[place] = try libOS.push(descriptor, answer)
        } catch {
            return end(descriptor, place)
        }
        states[place] = .pushing
    }

    private mutating func end(_ connection: QueueDescriptor, _ place: Int) {
        try? libOS.close(connection)
        tokens.swapAt(place, tokens.count - 1)
        states.swapAt(place, states.count - 1)
        tokens.removeLast()
        states.removeLast()
    }
}
