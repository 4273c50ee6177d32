import Demikernel

// The network stack as programs use it: both ends of a conversation in one libOS, one thread, over a device that brings back what is sent.

extension Benchmark {
    static let network = [
        Benchmark(name: "tcp.round-trip-loop", libOS: "catloop", reach: 300, measure: streamRoundTrip),
        Benchmark(name: "udp.round-trip-loop", libOS: "catloop", reach: 160, measure: datagramRoundTrip),
    ]
}

private let roundTrips = 10_000

/// The address that catloop has by default.
private func loopAddress(port: UInt16) -> SocketAddress { .ipv4(0x0a75_0001, port: port) }

private func streamRoundTrip(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    let listener = try libOS.socket()
    try libOS.bind(listener, to: loopAddress(port: 7))
    try libOS.listen(listener)
    let client = try libOS.socket()
    let connecting = try libOS.connect(client, to: loopAddress(port: 7))
    let server = try libOS.wait(try libOS.accept(listener)).accepted()
    try libOS.wait(connecting).get()
    defer { for queue in [client, server, listener] { try? libOS.close(queue) } }
    var held: ScatterGatherArray? = ScatterGatherArray(try libOS.allocate(64))
    return try repeated(repetitions, operations: roundTrips) {
        for _ in 0..<roundTrips {
            try libOS.wait(try libOS.push(client, held.take()!)).get()
            try libOS.wait(try libOS.push(server, try libOS.wait(try libOS.pop(server)).popped())).get()
            held = try libOS.wait(try libOS.pop(client)).popped()
        }
    }
}

private func datagramRoundTrip(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    let server = try libOS.socket(.ipv4, .datagram)
    try libOS.bind(server, to: loopAddress(port: 7))
    let client = try libOS.socket(.ipv4, .datagram)
    try libOS.bind(client, to: loopAddress(port: 8))
    defer { for queue in [client, server] { try? libOS.close(queue) } }
    try libOS.wait(try libOS.connect(client, to: loopAddress(port: 7))).get()
    try libOS.wait(try libOS.connect(server, to: loopAddress(port: 8))).get()
    var held: ScatterGatherArray? = ScatterGatherArray(try libOS.allocate(64))
    return try repeated(repetitions, operations: roundTrips) {
        for _ in 0..<roundTrips {
            try libOS.wait(try libOS.push(client, held.take()!)).get()
            try libOS.wait(try libOS.push(server, try libOS.wait(try libOS.pop(server)).popped())).get()
            held = try libOS.wait(try libOS.pop(client)).popped()
        }
    }
}
