import ArgumentParser
import Demikernel
import Glibc

struct IperfCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "iperf", abstract: "Serves iperf3: how much goes over TCP between it and an iperf3 client.",
        discussion: """
            The client says how: one stream or many (-P), from it or to it (-R), both at once (--bidir), with pushes of a size (-l), whose \
            ends wait for the next one or not (-N). Tests may run at the same time. Prints "listening on ADDRESS:PORT" once it \
            does, and a line for each test; ends on SIGINT or SIGTERM.

            Examples:
              demi iperf --address 127.0.0.1:5201
              iperf3 -c 127.0.0.1 -P 8 -R
            """)

    @OptionGroup var options: EndpointOptions

    @Flag(help: "Print each test as one JSON object.") var json = false

    func run() throws {
        if let cpu = options.cpu { try Processors.pin(to: cpu) }
        let configuration = try options.configuration(.server)
        let isLoopback = configuration.libOS == "catnap"
        let server = IperfServer(json: json)
        try TaskLibOS.serve(configuration, on: options.address ?? (isLoopback ? .loopback(port: 5201) : .any(port: 5201))) { connection, here in
            await server.take(connection, here)
        }
    }
}
