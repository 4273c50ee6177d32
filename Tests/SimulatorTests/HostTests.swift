import Demikernel
import DemikernelSimulator
import Testing

@Suite(.serialized) struct `Simulated hosts` {
    /// A PDPIX echo over a bad link: what the client got back, and the run's hash.
    private func echo(seed: UInt64, loss: Double) throws -> (String, UInt64) {
        let simulation = Simulation(seed: seed)
        let server = try SimulatedHost(simulation, name: "server", address: "10.0.0.1/24")
        let client = try SimulatedHost(simulation, name: "client", address: "10.0.0.2/24")
        simulation.connect(server, client, LinkConditions(delay: .milliseconds(2), loss: loss))

        let listener = try server.libOS.socket()
        try server.libOS.bind(listener, to: .any(port: 7))
        try server.libOS.listen(listener)
        var accepting: QToken? = try server.libOS.accept(listener)
        var popping: QToken?
        var connection: QueueDescriptor?
        server.program = { host in
            if let token = accepting, let completion = try host.completion(of: token) {
                accepting = nil
                connection = try completion.accepted()
                popping = try host.libOS.pop(connection!)
            }
            if let token = popping, let completion = try host.completion(of: token) {
                popping = nil
                let message = try completion.popped()
                guard !message.isEmpty else { return try host.libOS.close(connection!) }
                _ = try host.libOS.push(connection!, message)
                popping = try host.libOS.pop(connection!)
            }
        }

        let socket = try client.libOS.socket()
        var connecting: QToken? = try client.libOS.connect(socket, to: .ipv4(0x0a00_0001, port: 7))
        var answer: QToken?
        var text = ""
        client.program = { host in
            if let token = connecting, let completion = try host.completion(of: token) {
                connecting = nil
                try completion.get()
                var greeting = try host.libOS.allocate(5)
                try greeting.replaceContents(with: "hello")
                _ = try host.libOS.push(socket, greeting)
                answer = try host.libOS.pop(socket)
            }
            if let token = answer, let completion = try host.completion(of: token) {
                answer = nil
                text = String(decoding: try completion.popped().copyToArray(), as: UTF8.self)
                try host.libOS.close(socket)
            }
        }
        simulation.run(for: .seconds(30))
        #expect(server.failure == nil && client.failure == nil)
        return (text, simulation.hash)
    }

    @Test func `a PDPIX echo runs in virtual time`() throws {
        #expect(try echo(seed: 1, loss: 0).0 == "hello")
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>) func `a PDPIX echo gets through a link that loses frames, and replays`(_ seed: UInt64) throws {
        let first = try echo(seed: seed, loss: 0.03)
        #expect(first.0 == "hello")
        #expect(try echo(seed: seed, loss: 0.03) == first)
    }
}
