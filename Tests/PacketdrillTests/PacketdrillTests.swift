import Glibc
import Synchronization
import Testing
@testable import DemikernelPacketdrill

/// The adapter as packetdrill drives it: raw packets, virtual time, POSIX answers.
@Suite struct PacketdrillTests {
    static let local: [UInt8] = [192, 168, 0, 1]
    static let remote: [UInt8] = [192, 0, 2, 1]
    static let local6: [UInt8] = [0xfd, 0x3d, 0xfa, 0x7b, 0xd1, 0x7d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    static let remote6: [UInt8] = [0x20, 0x01, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 11) + [1]
    private static let options: [UInt8] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 100, 0, 0, 0, 0, 1, 3, 3, 7]

    static func address(_ bytes: [UInt8], _ port: UInt16) -> [UInt8] {
        let head = [UInt8(bytes.count == 16 ? AF_INET6 : AF_INET), 0, UInt8(port >> 8), UInt8(truncatingIfNeeded: port)]
        return bytes.count == 16 ? head + [0, 0, 0, 0] + bytes + [0, 0, 0, 0] : head + bytes + [UInt8](repeating: 0, count: 8)
    }

    static func listener(_ driver: Driver, _ own: [UInt8]) -> Int32 {
        let listener = driver.socket(own.count == 16 ? AF_INET6 : AF_INET)
        #expect(driver.set(listener, SOL_SOCKET, SO_REUSEADDR, 1) == 0)
        #expect(driver.bind(listener, address(own, 8080)) == 0)
        #expect(driver.listen(listener) == 0)
        return listener
    }

    /// What the stack sends next, with its time.
    static func next(_ driver: Driver) throws -> (segment: Segment, time: Int64) {
        let sniffed = try #require(driver.sniff())
        return (try #require(Segment(sniffed.packet)), sniffed.time)
    }

    /// The handshake of a peer; answers our segment's sequence number.
    static func shake(_ driver: Driver, own: [UInt8], peer: [UInt8], options: [UInt8] = []) throws -> UInt32 {
        var syn = Segment(from: peer, 40_000, to: own, 8080, Segment.syn, 0)
        syn.options = options
        #expect(driver.inject(syn.packet) == 0)
        let answer = try Self.next(driver).segment
        #expect(answer.flags == Segment.syn | Segment.ack && answer.acknowledgement == 1 && answer.sourcePort == 8080)
        var ack = Segment(from: peer, 40_000, to: own, 8080, Segment.ack, 1, answer.sequence + 1)
        if !options.isEmpty { ack.options = [1, 1, 8, 10, 0, 0, 0, 101] + answer.options[8..<12] }
        #expect(driver.inject(ack.packet) == 0)
        return answer.sequence + 1
    }

    @Test func `every word of the table is filled in`() { #expect(Driver().words.allSatisfy { $0 != 0 }) }

    @Test(arguments: [false, true])
    func `a server accepts, reads, writes and retransmits`(_ isIPv6: Bool) throws {
        let (own, peer) = isIPv6 ? (Self.local6, Self.remote6) : (Self.local, Self.remote)
        let driver = Driver()
        let listener = Self.listener(driver, own)
        #expect(driver.fcntl(listener, F_SETFL, Int(O_NONBLOCK)) == 0)
        #expect(driver.fcntl(listener, F_GETFL, 0) & O_NONBLOCK != 0)
        #expect(driver.accept(listener).descriptor == -1 && errno == EAGAIN)
        #expect(driver.poll(listener, POLLIN) == 0)
        let first = try Self.shake(driver, own: own, peer: peer)
        #expect(driver.poll(listener, POLLIN) == POLLIN)
        let (connection, from) = driver.accept(listener)
        #expect(connection > listener && from == Self.address(peer, 40_000))

        var data = Segment(from: peer, 40_000, to: own, 8080, Segment.psh | Segment.ack, 1, first)
        data.payload = Array("hello".utf8)
        #expect(driver.inject(data.packet) == 0)
        #expect(driver.read(connection, 100).bytes == Array("hello".utf8))

        let start = driver.time
        #expect(driver.write(connection, Array("goodbye".utf8)) == 7)
        let sent = try Self.next(driver)
        let segment = sent.segment
        #expect(segment.payload == Array("goodbye".utf8) && segment.sequence == first && segment.acknowledgement == 6)
        #expect(sent.time >= start && sent.time <= driver.time)
        // Nobody acknowledges: time moves on to the retransmission, and no further.
        let again = try Self.next(driver)
        #expect(again.segment.payload == segment.payload)
        #expect(again.time - sent.time >= 10_000 && again.time - sent.time < 3_000_000)

        let information = try #require(driver.get(connection, Int32(IPPROTO_TCP), 11, 232))
        #expect(information.count == 232 && information[0] == 1 && information[24] == 1 && information[100] >= 1)
        #expect(driver.set(connection, Int32(IPPROTO_TCP), 1, 1) == 0 && driver.get(connection, Int32(IPPROTO_TCP), 1, 4) == [1, 0, 0, 0])
        #expect(driver.set(connection, 77, 77, 1) == -1 && errno == ENOPROTOOPT)

        let ack = Segment(from: peer, 40_000, to: own, 8080, Segment.ack, 6, first + 7)
        #expect(driver.inject(ack.packet) == 0)
        #expect(driver.close(connection) == 0)
        var last = try Self.next(driver).segment
        while last.flags & Segment.fin == 0 { last = try Self.next(driver).segment }
        #expect(last.sequence == first + 7)
        #expect(driver.read(connection, 1).count == -1 && errno == EBADF)
        #expect(driver.close(listener) == 0)
    }

    @Test func `a client connects without blocking, and is refused by a reset`() throws {
        let driver = Driver()
        let client = driver.socket(type: 1 | 0x800)
        #expect(driver.connect(client, Self.address(Self.remote, 80)) == -1 && errno == EINPROGRESS)
        let syn = try Self.next(driver).segment
        #expect(syn.flags == Segment.syn && syn.destination == Self.remote && syn.source == Self.local)
        // Linux's order: segment size, SACK permitted, timestamps, NOP, window scale.
        #expect(syn.options.prefix(8) == [2, 4, 5, 0xb4, 4, 2, 8, 10] && syn.options[16..<19] == [1, 3, 3])
        #expect(driver.connect(client, Self.address(Self.remote, 80)) == -1 && errno == EALREADY)
        let reset = Segment(from: Self.remote, 80, to: Self.local, syn.sourcePort, Segment.rst | Segment.ack, 0, syn.sequence + 1)
        #expect(driver.inject(reset.packet) == 0)
        #expect(driver.poll(client, POLLOUT) & POLLERR != 0)
        #expect(driver.get(client, SOL_SOCKET, SO_ERROR, 4) == [UInt8(ECONNREFUSED), 0, 0, 0])
        #expect(driver.close(client) == 0)
    }

    @Test func `a call that blocks on another thread ends when the packet has come`() throws {
        let driver = Driver()
        let listener = Self.listener(driver, Self.local)
        let result = Atomic<Int32>(0)
        try withUnsafeThread {
            result.store(driver.accept(listener).descriptor, ordering: .releasing)
        } whileRunning: {
            _ = try Self.shake(driver, own: Self.local, peer: Self.remote, options: Self.options)
        }
        #expect(result.load(ordering: .acquiring) > listener)
    }

    @Test func `time is virtual: it moves as far as was slept, and each look moves it`() {
        let driver = Driver()
        let start = driver.time
        #expect(driver.time > start)
        let before = driver.time
        #expect(driver.sleep(3_600_000_000) == 0)
        let after = driver.time
        #expect(after - before >= 3_600_000_000 && after - before < 3_600_000_100)
    }

    @Test func `options go out in the order that the flags give`() throws {
        let driver = Driver("local=10.1.0.1/24,gateway=10.1.0.254,options=mss+nop+ws+nop+nop+ts+sackok+eol")
        let client = driver.socket(type: 1 | 0x800)
        #expect(driver.connect(client, Self.address(Self.remote, 80)) == -1 && errno == EINPROGRESS)
        let syn = try Self.next(driver).segment
        #expect(syn.source == [10, 1, 0, 1])
        #expect(syn.options.prefix(12) == [2, 4, 5, 0xb4, 1, 3, 3, syn.options[7], 1, 1, 8, 10] && syn.options.suffix(4) == [4, 2, 0, 1])
        #expect(syn.options.count == 24)
    }

    @Test func `what is no packet is refused, and changes nothing`() {
        let driver = Driver()
        for packet in [[], [0x45], [UInt8](repeating: 0, count: 40), [UInt8](repeating: 0x45, count: 65_600)] as [[UInt8]] {
            #expect(driver.inject(packet) == -1)
        }
        #expect(driver.inject([0x45] + [UInt8](repeating: 7, count: 60)) == 0)
        #expect(driver.sniff(attempts: 3) == nil)
        #expect(driver.socket(AF_UNIX) == -1 && errno == EAFNOSUPPORT)
        #expect(driver.bind(77, Self.address(Self.local, 1)) == -1 && errno == EBADF)
    }
}

/// Runs `body` on a thread of its own while `other` runs here, and waits for it.
func withUnsafeThread(_ body: @escaping @Sendable () -> Void, whileRunning other: () throws -> Void) throws {
    final class Work: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    let context = unsafe Unmanaged.passRetained(Work(body)).toOpaque()
    let status = unsafe pthread_create(&thread, nil, { context in
        unsafe Unmanaged<Work>.fromOpaque(context!).takeRetainedValue().body()
        return nil
    }, context)
    try #require(status == 0)
    defer { pthread_join(thread, nil) }
    try other()
}
