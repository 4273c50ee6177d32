import Glibc
import Testing
@testable import Demikernel

/// A socket path that nothing else uses; removed at the end.
final class SocketPath {
    let path: String

    init() {
        var template = Array("/tmp/demikernel-memif-XXXXXX".utf8CString)
        unsafe template.withUnsafeMutableBufferPointer { unsafe _ = mkdtemp($0.baseAddress!) }
        path = unsafe template.withUnsafeBufferPointer { unsafe String(cString: $0.baseAddress!) } + "/socket"
    }

    deinit {
        unsafe _ = unlink(path)
        unsafe _ = rmdir(String(path.dropLast("/socket".utf8.count)))
    }

    func configuration(_ role: MemifConfiguration.Role, _ change: (inout MemifConfiguration) -> Void = { _ in }) -> MemifConfiguration {
        var configuration = MemifConfiguration(role: role, socketPath: path, address: role == .server ? 1 : 2)
        change(&configuration)
        return configuration
    }
}

/// Time that moves as the test says, ten milliseconds a step, so that retries come soon and handshakes do not run out.
struct Steps {
    private(set) var now: UInt64 = 1_000_000_000
    static var limit: Int { 200 }

    mutating func next() -> UInt64 {
        now += 10_000_000
        return now
    }
}

extension MemifDevice {
    /// Sends one frame; whether it was taken.
    mutating func send(_ frame: Frame, _ bench: DeviceBench) -> Bool {
        var burst = bench.burst(capacity: 1)
        burst.append(frame)
        transmit(&burst)
        return burst.isEmpty
    }

    /// The next frame that has come, as bytes.
    mutating func receiveBytes(_ bench: DeviceBench) -> [UInt8]? {
        var burst = bench.burst(capacity: 1)
        receive(into: &burst)
        return burst.takeBytes()
    }
}

/// Looks after both links until both are up; false where they do not come up.
func connect(_ first: inout MemifDevice, _ second: inout MemifDevice, _ steps: inout Steps) -> Bool {
    for _ in 0..<Steps.limit {
        if first.isConnected, second.isConnected { return true }
        let now = steps.next()
        _ = first.maintain(now: now)
        _ = second.maintain(now: now)
    }
    return false
}

/// A server and a client on one thread, connected.
struct MemifCouple: ~Copyable {
    let socket = SocketPath()
    var server: MemifDevice
    var client: MemifDevice
    var steps: Steps

    init(
        server change: (inout MemifConfiguration) -> Void = { _ in }, client clientChange: (inout MemifConfiguration) -> Void = { _ in }
    ) throws {
        var server = try MemifDevice(socket.configuration(.server, change))
        var client = try MemifDevice(socket.configuration(.client, clientChange))
        var steps = Steps()
        let isConnected = connect(&server, &client, &steps)
        try #require(isConnected)
        self.server = server
        self.client = client
        self.steps = steps
    }

    /// Sends `count` bytes from one end and answers whether the other end received them.
    mutating func carries(_ count: Int, seed: Int, parts: Int, fromClient: Bool, _ bench: DeviceBench) -> Bool {
        let frame = bench.frame(count, seed: seed, parts: parts)
        let isTaken = fromClient ? client.send(frame, bench) : server.send(frame, bench)
        let received = fromClient ? server.receiveBytes(bench) : client.receiveBytes(bench)
        return isTaken && received == DeviceBench.contents(count, seed: seed)
    }
}
