import Demikernel
import DemikernelConfiguration
import Glibc

// Sends 64 bytes to an echo server and waits for them, 10,000 times, then says how long a round trip took on average.

func ping(_ server: SocketAddress, count: Int, byteCount: Int) throws -> Duration {
    try LibOS(.load()).run { libOS in
        let connection = try await libOS.connection(to: server)
        try connection.set(.noDelay, to: true)
        let payload = [UInt8](repeating: 0x2a, count: byteCount)
        return try await ContinuousClock().measure {
            for _ in 0..<count {
                var message = try libOS.allocate(byteCount)
                try message.replaceContents(with: payload)
                try await connection.push(message)
                // A stream has no messages: the answer may come in parts.
                var missing = byteCount
                while missing > 0 {
                    guard let answer = try await connection.pop(limit: missing) else {
                        throw DemikernelError(.connectionReset, "the server closed the connection")
                    }
                    missing -= answer.count
                }
            }
        }
    }
}

guard CommandLine.arguments.count <= 2, let server = SocketAddress(CommandLine.arguments.dropFirst().first ?? "127.0.0.1:7000") else {
    print("usage: ping [ADDRESS:PORT]     127.0.0.1:7000 if nothing is said")
    exit(2)
}
do {
    let elapsed = try ping(server, count: 10_000, byteCount: 64)
    print("10,000 round trips of 64 bytes with \(server): \(elapsed / 10_000) each")
} catch {
    print("ping: \(server): \(error)")
    exit(1)
}
