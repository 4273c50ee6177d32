import ArgumentParser
import Demikernel
import SystemPackage

struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Answers every message with itself, for any number of clients.",
        discussion: """
            Prints "listening on ADDRESS:PORT" once it does. On SIGINT or SIGTERM it says how much it has echoed and ends.

            Examples:
              demi echo serve
              demi echo serve --address 0.0.0.0:7000 --spin forever --cpu 0
              demi echo serve --transport udp --address 127.0.0.1:0
              demi echo serve --memif /tmp/memif.sock --spin forever
              echo hello | nc -N 127.0.0.1 7000
            """)

    @OptionGroup var options: EndpointOptions

    @Option(help: "tcp or udp.")
    var transport = Transport.tcp

    @Flag(help: "Say how much was echoed as one JSON object.") var json = false

    func run() throws {
        if let cpu = options.cpu { try Processors.pin(to: cpu) }
        let libOS = try LibOS(options.configuration(.server))
        // What a signal cancels: the pop of a queue to which nothing is ever pushed.
        let stop = try libOS.pop(libOS.queue())
        let mailbox = libOS.core.mailbox
        try Interruption.handle { mailbox.cancel(stop) }
        let socket = try open(libOS)
        writeLine("listening on \(try libOS.localAddress(of: socket))")
        var server = EchoServer(libOS, socket, transport, stop: stop)
        try server.run()
        report(server.statistics, libOS.configuration.libOS)
    }

    private func open(_ libOS: LibOS) throws -> QueueDescriptor {
        let address = options.localAddress(libOS.configuration)
        do throws(DemikernelError) {
            let socket = try libOS.socket(address.family, transport.socketType)
            try libOS.bind(socket, to: address)
            if transport == .tcp { try libOS.listen(socket, backlog: 4096) }
            return socket
        } catch {
            throw Failure("cannot serve on \(address): \(error)")
        }
    }

    private func report(_ statistics: EchoServer.Statistics, _ libOS: String) {
        guard json else {
            let connections = transport == .tcp ? "\(statistics.connections.grouped) connections, " : ""
            return writeLine("served \(connections)\(statistics.messages.grouped) messages, \(statistics.bytes.grouped) bytes")
        }
        var object = JSONObject()
        object.add("libos", libOS)
        object.add("transport", transport.rawValue)
        object.add("connections", statistics.connections)
        object.add("messages", statistics.messages)
        object.add("bytes", statistics.bytes)
        object.add("errors", statistics.errors)
        writeLine(object.text)
    }
}
