import Glibc
import Synchronization
import Testing
@testable import DemikernelPacketdrill
@testable import DemikernelSimulator

/// UDP sockets, pipes, and what waits for whom.
@Suite struct PacketdrillDatagramTests {
    private typealias Base = PacketdrillTests
    private static func ends(_ isIPv6: Bool) -> (own: [UInt8], peer: [UInt8]) { isIPv6 ? (Base.local6, Base.remote6) : (Base.local, Base.remote) }
    private static func socket(_ driver: Driver, _ isIPv6: Bool, _ flags: Int32 = 0) -> Int32 { driver.socket(isIPv6 ? AF_INET6 : AF_INET, type: 2 | flags) }
    private static func any(_ isIPv6: Bool, _ port: UInt16) -> [UInt8] { Base.address([UInt8](repeating: 0, count: isIPv6 ? 16 : 4), port) }

    /// The ports and the payload of what is sent next.
    private static func next(_ driver: Driver) throws -> (source: UInt16, destination: UInt16, payload: [UInt8]) {
        let packet = try #require(driver.sniff()).packet
        #expect(Packet.proto(packet) == 17 && Packet.isIntact(packet))
        let start = Packet.start(packet)
        return (packet.bigEndian16(start), packet.bigEndian16(start + 2), Array(packet[(start + 8)...]))
    }

    @Test(arguments: [false, true])
    func `a datagram comes with its source, and is answered there`(_ isIPv6: Bool) throws {
        let (own, peer) = Self.ends(isIPv6)
        let driver = Driver()
        let socket = Self.socket(driver, isIPv6, 0x800)
        #expect(driver.bind(socket, Self.any(isIPv6, 5000)) == 0 && driver.bind(socket, Self.any(isIPv6, 5001)) == -1 && errno == EINVAL)
        #expect(driver.receive(socket, 10).count == -1 && errno == EAGAIN)
        #expect(driver.poll(socket, POLLIN | POLLOUT) == POLLOUT)
        for text in ["hello", "you", ""] {
            #expect(driver.inject(Packet.datagram(from: peer, 40_000, to: own, 5000, Array(text.utf8))) == 0)
        }
        #expect(driver.poll(socket, POLLIN) == POLLIN && driver.ioctl(socket, 0x541b) == (0, 5))
        // MSG_PEEK, then MSG_TRUNC: a datagram is taken whole, however little of it fits.
        #expect(driver.receive(socket, 100, flags: 2).bytes == Array("hello".utf8))
        let cut = driver.receive(socket, 2, flags: 0x20)
        #expect(cut.count == 5 && cut.source == Base.address(peer, 40_000))
        #expect(driver.receive(socket, 100).bytes == Array("you".utf8) && driver.receive(socket, 100).count == 0)
        #expect(driver.receive(socket, 100).count == -1 && errno == EAGAIN)

        #expect(driver.write(socket, [1]) == -1 && errno == EDESTADDRREQ)
        #expect(driver.send(socket, [1, 2, 3], to: Base.address(peer, 40_000)) == 3)
        #expect(try Self.next(driver) == (5000, 40_000, [1, 2, 3]))
        #expect(driver.send(socket, [1], to: Base.address(isIPv6 ? Base.remote : Base.remote6, 1)) == -1 && errno == EAFNOSUPPORT)
        #expect(driver.send(socket, [UInt8](repeating: 0, count: 65_508), to: Base.address(peer, 1)) == -1 && errno == EMSGSIZE)
        #expect(driver.listen(socket) == -1 && errno == EOPNOTSUPP && driver.accept(socket).descriptor == -1 && errno == EOPNOTSUPP)
        #expect(driver.close(socket) == 0 && driver.receive(socket, 1).count == -1 && errno == EBADF)
    }

    @Test(arguments: [false, true])
    func `a message in pieces is one datagram, both ways`(_ isIPv6: Bool) throws {
        let (own, peer) = Self.ends(isIPv6)
        let driver = Driver()
        let socket = Self.socket(driver, isIPv6)
        var (first, second, name) = ([UInt8](1...3), [UInt8](4...8), Base.address(peer, 7))
        #expect(driver.message(.sendmsg, socket, &first, &second, name: &name).count == 8)
        let sent = try Self.next(driver)
        #expect(sent.destination == 7 && sent.payload == [UInt8](1...8))
        #expect(driver.inject(Packet.datagram(from: peer, 7, to: own, sent.source, [UInt8](11...20))) == 0)
        name = [UInt8](repeating: 0, count: 128)
        let got = driver.message(.recvmsg, socket, &first, &second, name: &name)
        #expect(got.count == 8 && got.flags == 0x20 && first == [11, 12, 13] && second == [14, 15, 16, 17, 18])
        #expect(Array(name.prefix(got.nameCount)) == Base.address(peer, 7))
    }

    @Test(arguments: [false, true])
    func `a connected socket hears of its own peer, and of errors about what it sent`(_ isIPv6: Bool) throws {
        let (own, peer) = Self.ends(isIPv6)
        let driver = Driver()
        let socket = Self.socket(driver, isIPv6, 0x800)
        #expect(driver.shutdown(socket, Int32(SHUT_WR)) == -1 && errno == ENOTCONN)
        #expect(driver.bind(socket, Base.address(own, 5000)) == 0 && driver.connect(socket, Base.address(peer, 53)) == 0)
        #expect(driver.inject(Packet.datagram(from: peer, 54, to: own, 5000, [1])) == 0)
        #expect(driver.read(socket, 10).count == -1 && errno == EAGAIN)
        // To the stranger that nobody listens there.
        #expect(Packet.proto(try #require(driver.sniff()).packet) == (isIPv6 ? 58 : 1))

        let quoted = Packet.datagram(from: own, 5000, to: peer, 53, [9])
        let refusal = AttackFrame.icmp(from: peer, to: own, type: isIPv6 ? 1 : 3, code: isIPv6 ? 4 : 3, rest: 0, quoted)
        #expect(driver.inject(refusal) == 0)
        #expect(driver.get(socket, SOL_SOCKET, SO_ERROR, 4) == [0, 0, 0, 0])
        #expect(driver.write(socket, [9]) == 1)
        #expect(try Self.next(driver) == (5000, 53, [9]))
        #expect(driver.inject(refusal) == 0 && driver.poll(socket, POLLIN) == POLLIN | POLLERR)
        #expect(driver.get(socket, SOL_SOCKET, SO_ERROR, 4) == [UInt8(ECONNREFUSED), 0, 0, 0])
        #expect(driver.inject(refusal) == 0 && driver.write(socket, [9]) == -1 && errno == ECONNREFUSED)
        #expect(driver.write(socket, [9]) == 1)
        _ = try Self.next(driver)

        // AF_UNSPEC ends it.
        #expect(driver.connect(socket, [0, 0, 0, 0]) == 0 && driver.write(socket, [9]) == -1 && errno == EDESTADDRREQ)
        #expect(driver.inject(Packet.datagram(from: peer, 54, to: own, 5000, [7])) == 0 && driver.read(socket, 10).bytes == [7])
        #expect(driver.connect(socket, Base.address(peer, 53)) == 0 && driver.shutdown(socket, Int32(SHUT_RDWR)) == 0)
        #expect(driver.write(socket, [9]) == -1 && errno == EPIPE && driver.read(socket, 1).count == 0)
    }

    @Test func `options that are set are read back, and each protocol has its own`() {
        let driver = Driver()
        let (stream, datagram) = (driver.socket(), driver.socket(type: 2))
        for (name, value) in [(4, 60), (5, 7), (6, 3), (1, 1)] as [(Int32, UInt8)] {
            #expect(driver.set(stream, 6, name, Int32(value)) == 0 && driver.get(stream, 6, name, 4) == [value, 0, 0, 0])
            #expect(driver.set(datagram, 6, name, Int32(value)) == -1 && errno == ENOPROTOOPT)
        }
        #expect(driver.set(stream, 6, 18, 200) == 0 && driver.get(stream, 6, 18, 4) == [200, 0, 0, 0])
        for (socket, type, number) in [(stream, 1, 6), (datagram, 2, 17)] as [(Int32, UInt8, UInt8)] {
            #expect(driver.get(socket, SOL_SOCKET, 3, 4) == [type, 0, 0, 0] && driver.get(socket, SOL_SOCKET, 38, 4) == [number, 0, 0, 0])
            #expect(driver.get(socket, SOL_SOCKET, 39, 4) == [2, 0, 0, 0] && driver.get(socket, SOL_SOCKET, 30, 4) == [0, 0, 0, 0])
        }
        #expect(driver.get(datagram, 6, 11, 232) == nil && errno == ENOPROTOOPT)
        #expect(driver.get(stream, 6, 13, 16) == Array("cubic\0".utf8))
        #expect(driver.ioctl(stream, 0x5421, 1).result == 0 && driver.fcntl(stream, F_GETFL, 0) & O_NONBLOCK != 0)
        #expect(driver.ioctl(stream, 77).result == -1 && errno == ENOTTY && driver.fcntl(stream, 77, 0) == -1 && errno == EINVAL)
    }

    @Test func `a pipe carries bytes, and says when either end is gone`() {
        let driver = Driver()
        let (reader, writer) = driver.pipe()
        #expect(reader > 0 && writer > reader)
        #expect(driver.fcntl(reader, F_SETFL, Int(O_NONBLOCK)) == 0 && driver.fcntl(writer, F_SETFL, Int(O_NONBLOCK)) == 0)
        #expect(driver.read(reader, 5).count == -1 && errno == EAGAIN && driver.read(writer, 5).count == -1 && errno == EBADF)
        #expect(driver.write(writer, [UInt8](repeating: 1, count: 70_000)) == 65_536 && driver.poll(writer, POLLOUT) == 0)
        #expect(driver.ioctl(reader, 0x541b) == (0, 65_536) && driver.read(reader, 70_000).count == 65_536)
        #expect(driver.close(writer) == 0 && driver.read(reader, 5).count == 0 && driver.poll(reader, POLLIN) == POLLHUP)
        let second = driver.pipe()
        #expect(driver.close(second.reader) == 0 && driver.write(second.writer, [1]) == -1 && errno == EPIPE)
    }

    @Test func `a stream is spliced through a pipe and back`() throws {
        let driver = Driver()
        let listener = Base.listener(driver, Base.local)
        let sequence = try Base.shake(driver, own: Base.local, peer: Base.remote)
        let connection = driver.accept(listener).descriptor
        let (reader, writer) = driver.pipe()
        #expect(driver.splice(connection, writer, 100, flags: 2) == -1 && errno == EAGAIN)
        var data = Segment(from: Base.remote, 40_000, to: Base.local, 8080, Segment.psh | Segment.ack, 1, sequence)
        data.payload = Array("through".utf8)
        #expect(driver.inject(data.packet) == 0)
        #expect(driver.splice(connection, writer, 4, offset: 3) == -1 && errno == ESPIPE)
        #expect(driver.splice(connection, listener, 4) == -1 && errno == EINVAL && driver.splice(connection, reader, 4) == -1 && errno == EBADF)
        #expect(driver.splice(connection, writer, 4) == 4 && driver.splice(connection, writer, 100) == 3)
        #expect(driver.splice(reader, connection, 100) == 7)
        var sent = try Base.next(driver).segment
        while sent.payload.isEmpty { sent = try Base.next(driver).segment }
        #expect(sent.payload == data.payload && sent.acknowledgement == 8)
        #expect(driver.splice(reader, connection, 100, flags: 2) == -1 && errno == EAGAIN)
        let other = driver.socket(type: 2)
        #expect(driver.splice(other, writer, 1) == -1 && errno == EINVAL)
    }

    @Test func `who waits on the main thread moves time to what happens next`() throws {
        let driver = Driver()
        let socket = driver.socket(type: 2)
        let start = driver.time
        #expect(driver.poll(socket, POLLIN, milliseconds: 5_000) == 0)
        let after = driver.time
        #expect(after - start >= 5_000_000 && after - start < 5_001_000)
        // Nothing will ever come.
        #expect(driver.read(socket, 1).count == -1 && (errno == EAGAIN || errno == EDESTADDRREQ))
        // Nobody answers the SYNs: the stack gives up, at a time of its own.
        let client = driver.socket()
        #expect(driver.connect(client, Base.address(Base.remote, 80)) == -1 && errno == ETIMEDOUT)
        #expect(driver.time - after > 10_000_000)
        #expect(try Base.next(driver).segment.flags == Segment.syn)
    }

    @Test func `a datagram ends the waiting of another thread`() throws {
        let driver = Driver()
        let socket = driver.socket(type: 2)
        #expect(driver.bind(socket, Base.address(Base.local, 5000)) == 0)
        let result = Atomic<Int>(0)
        try withUnsafeThread {
            result.store(driver.read(socket, 10).count, ordering: .releasing)
        } whileRunning: {
            #expect(driver.inject(Packet.datagram(from: Base.remote, 1, to: Base.local, 5000, [1, 2, 3])) == 0)
        }
        #expect(result.load(ordering: .acquiring) == 3)
    }
}
