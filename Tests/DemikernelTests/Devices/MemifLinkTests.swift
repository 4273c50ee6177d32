import CDemikernelShims
import Glibc
import SystemPackage
import Testing
@testable import Demikernel

@Suite struct MemifLinkTests {
    @Test func `the peers learn each other's names`() throws {
        let couple = try MemifCouple(server: { $0.name = "left" }, client: { $0.name = "right" })
        #expect(couple.server.peerName == "right" && couple.client.peerName == "left")
    }

    @Test func `a client waits for a server that comes later`() throws {
        let socket = SocketPath()
        var steps = Steps()
        var client = try MemifDevice(socket.configuration(.client))
        for _ in 0..<30 {
            let wanted = client.maintain(now: steps.next())
            #expect(wanted > steps.now && wanted <= steps.now + 100_000_000)
        }
        let isEarly = client.isConnected
        #expect(!isEarly)
        var server = try MemifDevice(socket.configuration(.server))
        let isConnected = connect(&server, &client, &steps)
        #expect(isConnected)
    }

    @Test func `frames for a peer that is not there are dropped and counted`() throws {
        let bench = try DeviceBench()
        do {
            let socket = SocketPath()
            var server = try MemifDevice(socket.configuration(.server))
            let isTaken = server.send(bench.frame(60, seed: 1), bench)
            let received = server.receiveBytes(bench)
            #expect(isTaken && received == nil && server.statistics.transmitDrops == 1)
        }
        #expect(bench.isEmpty)
    }

    @Test func `a server takes the next client when one has gone, with what it had sent`() throws {
        let bench = try DeviceBench()
        do {
            let socket = SocketPath()
            var steps = Steps()
            var server = try MemifDevice(socket.configuration(.server))
            for round in 1...5 {
                do {
                    var client = try MemifDevice(socket.configuration(.client))
                    try #require(connect(&server, &client, &steps))
                    let isTaken = client.send(bench.frame(60, seed: round), bench)
                    #expect(isTaken)
                    if round > 2 { _ = server.receiveBytes(bench) }
                }
                #expect(isReadable(server.eventDescriptor))
                _ = server.maintain(now: steps.next())
                let statistics = server.statistics
                #expect(!server.isConnected && statistics.disconnections == UInt64(round))
                #expect(statistics.receiveDrops == UInt64(min(round, 2)))
            }
            #expect(server.disconnectReason == "the peer says: closed")
        }
        #expect(bench.isEmpty)
    }

    @Test func `a client finds its server again`() throws {
        let bench = try DeviceBench()
        do {
            let socket = SocketPath()
            var steps = Steps()
            var client = try MemifDevice(socket.configuration(.client))
            for round in 1...3 {
                do {
                    var server = try MemifDevice(socket.configuration(.server))
                    try #require(connect(&server, &client, &steps))
                    let isTaken = client.send(bench.frame(60, seed: round), bench)
                    let received = server.receiveBytes(bench)
                    #expect(isTaken && received == DeviceBench.contents(60, seed: round))
                }
                _ = client.maintain(now: steps.next())
                #expect(!client.isConnected && client.statistics.disconnections == UInt64(round))
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `a second client is refused while the first is connected`() throws {
        let bench = try DeviceBench()
        do {
            var couple = try MemifCouple()
            var second = try MemifDevice(couple.socket.configuration(.client))
            for _ in 0..<10 {
                let now = couple.steps.next()
                _ = second.maintain(now: now)
                _ = couple.server.maintain(now: now)
            }
            #expect(!second.isConnected && second.disconnectReason == "the peer says: already connected")
            let isCarried = couple.carries(60, seed: 1, parts: 0, fromClient: true, bench)
            #expect(isCarried)
        }
        #expect(bench.isEmpty)
    }

    @Test func `identifier and secret have to agree`() throws {
        func reason(
            _ change: (inout MemifConfiguration) -> Void, _ clientChange: (inout MemifConfiguration) -> Void
        ) throws -> String? {
            let socket = SocketPath()
            var steps = Steps()
            var server = try MemifDevice(socket.configuration(.server, change))
            var client = try MemifDevice(socket.configuration(.client, clientChange))
            for _ in 0..<20 {
                let now = steps.next()
                _ = client.maintain(now: now)
                _ = server.maintain(now: now)
            }
            return client.isConnected ? nil : client.disconnectReason
        }
        let longest = "abcdefghijklmnopqrstuvwx"
        #expect(try reason({ $0.interfaceIdentifier = 1 }, { _ in }) == "the peer says: no interface with this identifier")
        #expect(try reason({ $0.secret = "word" }, { _ in }) == "the peer says: the secret is wrong")
        #expect(try reason({ $0.secret = longest }, { $0.secret = longest.dropLast() + "y" }) == "the peer says: the secret is wrong")
        #expect(try reason({ $0.secret = longest }, { $0.secret = longest }) == nil)
        #expect(try reason({ _ in }, { $0.secret = "word" }) == nil)
        #expect(try reason({ $0.interfaceIdentifier = .max }, { $0.interfaceIdentifier = .max }) == nil)
    }

    @Test func `a peer that says nothing makes room for the next`() throws {
        let socket = SocketPath()
        var steps = Steps()
        var server = try MemifDevice(socket.configuration(.server))
        let silent = try #require(MemifSocket.connect(socket.path))
        _ = server.maintain(now: steps.next())
        let deadline = server.maintain(now: steps.next())
        #expect(deadline != .max)
        _ = server.maintain(now: deadline + 1)
        #expect(server.disconnectReason == "the peer took too long to connect")
        close(silent)
        var client = try MemifDevice(socket.configuration(.client))
        let isConnected = connect(&server, &client, &steps)
        #expect(isConnected)
    }

    // MARK: The socket's file

    @Test func `the file goes with its server, and one that a dead server left is replaced`() throws {
        let socket = SocketPath()
        do { _ = try MemifDevice(socket.configuration(.server)) }
        #expect(unsafe access(socket.path, F_OK) != 0)
        // What a killed server leaves behind.
        let dead = abandonedSocket(to: socket.path)
        close(dead)
        #expect(unsafe access(socket.path, F_OK) == 0)
        _ = try MemifDevice(socket.configuration(.server))
    }

    @Test func `a socket that is served, or a file that is no socket, is left alone`() throws {
        func errorOf(_ configuration: MemifConfiguration) -> Errno? {
            do throws(DemikernelError) {
                _ = try MemifDevice(configuration)
                return nil
            } catch { return error.errno }
        }
        let socket = SocketPath()
        do {
            var server = try MemifDevice(socket.configuration(.server))
            #expect(errorOf(socket.configuration(.server)) == .addressInUse)
            var client = try MemifDevice(socket.configuration(.client))
            var steps = Steps()
            let isConnected = connect(&server, &client, &steps)
            #expect(isConnected)
        }
        close(unsafe open(socket.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0o600))
        #expect(errorOf(socket.configuration(.server)) == .addressInUse)
        #expect(unsafe access(socket.path, F_OK) == 0)
        #expect(errorOf(socket.configuration(.server) { $0.socketPath = "/nonexistent/folder/socket" }) == .noSuchFileOrDirectory)
    }

    @Test func `a name in the abstract namespace needs no file`() throws {
        let name = "@demikernel-test-\(getpid())"
        var steps = Steps()
        let socket = SocketPath()
        var server = try MemifDevice(socket.configuration(.server) { $0.socketPath = name })
        var client = try MemifDevice(socket.configuration(.client) { $0.socketPath = name })
        let isConnected = connect(&server, &client, &steps)
        #expect(isConnected)
    }

    @Test(arguments: [
        { $0.socketPath = "" }, { $0.socketPath = String(repeating: "a", count: 108) }, { $0.secret = String(repeating: "a", count: 25) },
        { $0.rings = 0 }, { $0.rings = 17 }, { $0.ringSize = 1 }, { $0.ringSize = 1000 }, { $0.ringSize = 32_768 },
        { $0.bufferSize = 63 }, { $0.bufferSize = 65_537 }, { $0.mtu = 67 }, { $0.mtu = 65_536 },
        {
            $0.ringSize = 16_384
            $0.bufferSize = 65_536
        },
        {
            $0.ringSize = 2
            $0.bufferSize = 1024
        },
    ] as [@Sendable (inout MemifConfiguration) -> Void])
    func `settings out of bounds are refused`(change: @Sendable (inout MemifConfiguration) -> Void) {
        var error: DemikernelError?
        do throws(DemikernelError) { _ = try MemifDevice(SocketPath().configuration(.client, change)) } catch let thrown { error = thrown }
        #expect(error?.errno == .invalidArgument || error?.errno == .fileNameTooLong)
    }
}

/// A bound socket that nobody will serve.
private func abandonedSocket(to path: String) -> Int32 {
    let descriptor = socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    unsafe withUnsafePointer(to: &address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            unsafe _ = bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
    }
    return descriptor
}
