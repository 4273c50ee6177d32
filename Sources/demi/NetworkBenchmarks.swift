import Demikernel
import Glibc

// The network stack as programs use it: both ends of a conversation in one libOS, one thread, over a device that brings back what is sent.

extension Benchmark {
    static let network = [
        Benchmark(name: "tcp.in", libOS: "catloop", reach: 53) { try $0.measureTCPIn(repetitions: $1) },
        Benchmark(name: "tcp.in-checksum", libOS: "catloop", reach: 70) { try $0.measureTCPIn(repetitions: $1, verifies: true) },
        Benchmark(name: "tcp.out", libOS: "catloop", reach: 60) { try $0.measureTCPOut(repetitions: $1) },
        Benchmark(name: "tcp.out-checksum", libOS: "catloop") { try $0.measureTCPOut(repetitions: $1, fills: false) },
        Benchmark(name: "udp.in", libOS: "catloop", reach: 35) { try $0.measureUDPIn(repetitions: $1) },
        Benchmark(name: "udp.in-checksum", libOS: "catloop") { try $0.measureUDPIn(repetitions: $1, verifies: true) },
        Benchmark(name: "udp.out", libOS: "catloop", reach: 35) { try $0.measureUDPOut(repetitions: $1) },
        Benchmark(name: "udp.out-checksum", libOS: "catloop") { try $0.measureUDPOut(repetitions: $1, fills: false) },
        Benchmark(name: "tcp.round-trip-loop", libOS: "catloop", reach: 300, measure: streamRoundTrip),
        Benchmark(name: "udp.round-trip-loop", libOS: "catloop", reach: 160, measure: datagramRoundTrip),
        Benchmark(name: "tcp.bytes-per-idle-connection", libOS: "catloop", unit: "bytes", reach: 1_024, measure: idleConnectionBytes),
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

/// What an established connection takes that nobody uses: its slots and table entries, its queue and, on the side that accepted, the pop that
/// waits. Both ends are in this process, so that 10,000 connections are 20,000 ends, and the share of one is answered. One measurement: the
/// tables do not shrink.
///
/// Memory is what the process has resident, less what of that is the heap's, whose groups come whole, and with what of the heap is in use.
private func idleConnectionBytes(_ libOS: LibOS, _ repetitions: Int) throws -> [Double] {
    let count = 10_000
    let listener = try libOS.socket()
    try libOS.bind(listener, to: loopAddress(port: 9))
    try libOS.listen(listener, backlog: 128)
    var queues: [QueueDescriptor] = [listener]
    var pops: [QToken] = []
    queues.reserveCapacity(2 * count + 1)
    pops.reserveCapacity(count)
    // Their own pages are not the connections'.
    for _ in 0..<count { pops.append(try libOS.timer(after: .zero)) }
    for _ in 0..<2 * count { queues.append(listener) }
    for token in pops { _ = try libOS.wait(token) }
    pops.removeAll(keepingCapacity: true)
    queues.removeLast(2 * count)

    let before = try idleMemory(libOS)
    for _ in 0..<count {
        let client = try libOS.socket()
        let connecting = try libOS.connect(client, to: loopAddress(port: 9))
        let server = try libOS.wait(try libOS.accept(listener)).accepted()
        try libOS.wait(connecting).get()
        pops.append(try libOS.pop(server))
        queues.append(client)
        queues.append(server)
    }
    let after = try idleMemory(libOS)
    for queue in queues.reversed() { try libOS.close(queue) }
    for token in pops { _ = try libOS.wait(token) }
    return [Double(after - before) / Double(2 * count)]
}

/// Bytes that are resident but not the heap's, and bytes of the heap that are in use.
private func idleMemory(_ libOS: LibOS) throws -> Int {
    let descriptor = unsafe open("/proc/self/statm", O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw Failure("cannot read /proc/self/statm: \(errorText(errno))") }
    defer { Glibc.close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 256)
    let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress!, $0.count) }
    let fields = String(decoding: bytes[..<max(0, count)], as: UTF8.self).split(separator: " ")
    guard fields.count > 1, let pages = Int(fields[1]) else { throw Failure("/proc/self/statm has no second number") }
    let heap = libOS.core.heap.statistics
    return pages * sysconf(Int32(_SC_PAGESIZE)) - heap.residentBytes + heap.usedBytes
}
