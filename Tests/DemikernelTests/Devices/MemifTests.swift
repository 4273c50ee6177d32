import Glibc
import SystemPackage
import Testing
@testable import Demikernel

@Suite struct MemifTests {
    @Test func `frames of every size cross in both directions`() throws {
        let bench = try DeviceBench()
        do {
            var couple = try MemifCouple(server: { $0.mtu = 9000 }, client: { $0.mtu = 9000 })
            for count in [14, 15, 60, 64, 65, 127, 128, 129, 1514, 2047, 2048, 2049, 4096, 4097, 9018] {
                for parts in 0...3 {
                    for fromClient in [true, false] {
                        let isCarried = couple.carries(count, seed: count + parts, parts: parts, fromClient: fromClient, bench)
                        #expect(isCarried, "\(count) bytes in \(parts) parts, from the client: \(fromClient)")
                    }
                }
            }
            let (server, client) = (couple.server.statistics, couple.client.statistics)
            #expect(server.receivedFrames == 60 && server.transmittedFrames == 60 && server.malformed == 0)
            #expect(client.receivedBytes == server.transmittedBytes && client.transmittedBytes == server.receivedBytes)
        }
        #expect(bench.isEmpty)
    }

    @Test func `the largest frame crosses small buffers`() throws {
        let bench = try DeviceBench()
        do {
            let change = { (configuration: inout MemifConfiguration) in
                configuration.mtu = 65_535
                configuration.bufferSize = 64
                configuration.ringSize = 2048
            }
            var couple = try MemifCouple(server: change, client: change)
            for seed in 0..<6 {
                let isCarried = couple.carries(65_549, seed: seed, parts: seed, fromClient: seed % 2 == 0, bench)
                #expect(isCarried)
                // The client offers the last of its buffers when it looks after the link.
                _ = couple.client.maintain(now: couple.steps.next())
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `buffers of 64 KiB carry the largest frame whole`() throws {
        let bench = try DeviceBench()
        do {
            let change = { (configuration: inout MemifConfiguration) in
                configuration.mtu = 65_535
                configuration.bufferSize = 65_536
                configuration.ringSize = 16
            }
            var couple = try MemifCouple(server: change, client: change)
            for seed in 0..<100 {
                let isCarried = couple.carries(65_500 + seed % 50, seed: seed, parts: seed % 4, fromClient: seed % 2 == 0, bench)
                #expect(isCarried)
            }
        }
        #expect(bench.isEmpty)
    }

    @Test(arguments: 1...16) func `random bursts in both directions agree with queues`(seed: UInt64) throws {
        let bench = try DeviceBench()
        do {
            var generator = SplitMix64(seed: seed)
            let ringSize = 1 << Int.random(in: 4...8, using: &generator)
            let bufferSize = [64, 100, 512, 2048][Int.random(in: 0..<4, using: &generator)]
            let change = { (configuration: inout MemifConfiguration) in
                configuration.ringSize = ringSize
                configuration.bufferSize = bufferSize
                configuration.mtu = 700
            }
            var couple = try MemifCouple(server: change, client: change)
            var fromServer = bench.burst(capacity: 32)
            var fromClient = bench.burst(capacity: 32)
            var model: [[(Int, Int)]] = [[], []]
            var next = 0
            for _ in 0..<400 {
                let end = Int.random(in: 0...1, using: &generator)
                if Bool.random(using: &generator) {
                    let room = end == 0 ? fromServer.room : fromClient.room
                    for _ in 0..<Int.random(in: 0...room, using: &generator) {
                        let count = Int.random(in: 14...718, using: &generator)
                        let frame = bench.frame(count, seed: next, parts: Int.random(in: 0...3, using: &generator))
                        if end == 0 { fromServer.append(frame) } else { fromClient.append(frame) }
                        model[end].append((count, next))
                        next += 1
                    }
                    if end == 0 { couple.server.transmit(&fromServer) } else { couple.client.transmit(&fromClient) }
                } else {
                    var incoming = bench.burst(capacity: 1 << Int.random(in: 0...6, using: &generator))
                    if end == 0 { couple.client.receive(into: &incoming) } else { couple.server.receive(into: &incoming) }
                    while let received = incoming.takeBytes() {
                        let (count, seed) = model[end].removeFirst()
                        #expect(received == DeviceBench.contents(count, seed: seed))
                    }
                }
            }
            // Everything arrives in the end.
            for _ in 0..<Steps.limit {
                let now = couple.steps.next()
                couple.server.transmit(&fromServer)
                couple.client.transmit(&fromClient)
                for end in 0...1 {
                    var incoming = bench.burst()
                    if end == 0 { couple.client.receive(into: &incoming) } else { couple.server.receive(into: &incoming) }
                    while let received = incoming.takeBytes() {
                        let (count, seed) = model[end].removeFirst()
                        #expect(received == DeviceBench.contents(count, seed: seed))
                    }
                }
                _ = couple.client.maintain(now: now)
            }
            #expect(model[0].isEmpty && model[1].isEmpty)
            let (server, client) = (couple.server.statistics, couple.client.statistics)
            #expect(server.malformed + client.malformed + server.receiveDrops + client.receiveDrops == 0)
        }
        #expect(bench.isEmpty)
    }

    @Test func `several rings carry each flow in its order`() throws {
        let bench = try DeviceBench()
        do {
            var couple = try MemifCouple(server: { $0.rings = 8 }, client: { $0.rings = 4 })
            let (receiving, transmitting) = (couple.server.receiveRingCount, couple.server.transmitRingCount)
            #expect(receiving == 4 && transmitting == 4)
            for fromClient in [true, false] {
                var burst = bench.burst()
                for number in 0..<64 {
                    let frame = bench.frame(60, seed: 0)
                    let bytes = unsafe PacketBytes(start: frame.head.start, count: 60)
                    EthernetHeader(destination: MACAddress(1), source: MACAddress(2), etherType: .ipv4).emit(into: bytes)
                    bytes.store8(0x45, at: 14)
                    bytes.store16(0, at: 20)
                    bytes.store32(UInt32(number % 16), at: 30)  // the destination address: 16 flows
                    bytes.store32(UInt32(number), at: 50)
                    burst.append(frame)
                }
                if fromClient { couple.client.transmit(&burst) } else { couple.server.transmit(&burst) }
                let isTaken = burst.isEmpty
                #expect(isTaken)
                if fromClient { couple.server.receive(into: &burst) } else { couple.client.receive(into: &burst) }
                let count = burst.count
                #expect(count == 64)
                var last = [Int](repeating: -1, count: 16)
                while let received = burst.takeBytes() {
                    let number = Int(received[53])
                    #expect(number > last[number % 16])
                    last[number % 16] = number
                }
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `a full ring keeps the rest of the burst`() throws {
        let bench = try DeviceBench()
        do {
            var couple = try MemifCouple(client: { $0.ringSize = 16 })
            for fromClient in [true, false] {
                var burst = bench.burst()
                for seed in 0..<20 { burst.append(bench.frame(60, seed: seed)) }
                if fromClient { couple.client.transmit(&burst) } else { couple.server.transmit(&burst) }
                let left = burst.count
                let statistics = fromClient ? couple.client.statistics : couple.server.statistics
                #expect(left == 4 && statistics.transmitStalls == 1 && statistics.transmittedFrames == 16)
                burst.removeAll()
                var incoming = bench.burst()
                if fromClient { couple.server.receive(into: &incoming) } else { couple.client.receive(into: &incoming) }
                for seed in 0..<16 {
                    let received = incoming.takeBytes()
                    #expect(received == DeviceBench.contents(60, seed: seed))
                }
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `frames that are too long or too short are dropped by whom they are given to`() throws {
        let bench = try DeviceBench()
        do {
            var couple = try MemifCouple(server: { $0.mtu = 1000 }, client: { $0.mtu = 1500 })
            for count in [13, 1519, 2049] {
                let isTaken = couple.client.send(bench.frame(count, seed: 0), bench)
                #expect(isTaken)
            }
            let drops = couple.client.statistics.transmitDrops
            #expect(drops == 3)
            // A frame that the server's MTU does not allow is dropped there.
            let isTaken = couple.client.send(bench.frame(1400, seed: 0), bench)
            let received = couple.server.receiveBytes(bench)
            let statistics = couple.server.statistics
            #expect(isTaken && received == nil && statistics.receiveDrops == 1 && statistics.malformed == 0)
            let isCarried = couple.carries(1018, seed: 1, parts: 0, fromClient: true, bench)
            #expect(isCarried)
        }
        #expect(bench.isEmpty)
    }

    @Test func `a receiver without memory drops frames and goes on`() throws {
        var couple = try MemifCouple()
        let bench = try DeviceBench()
        var burst = bench.burst()
        for seed in 0..<8 { burst.append(bench.frame(1000, seed: seed)) }
        couple.client.transmit(&burst)
        bench.heap.resign()
        let small = try Heap(HeapConfiguration(limit: 2 << 20))
        small.makeCurrent()
        var hoard: [Segment] = []
        while true {
            let segment = small.allocateSegment(1000)
            if segment.isNull { break }
            hoard.append(segment)
        }
        do {
            var incoming = FrameBurst(heap: small.reference)
            couple.server.receive(into: &incoming)
            let (count, drops) = (incoming.count, couple.server.statistics.receiveDrops)
            #expect(count == 0 && drops == 8)
            for segment in hoard { segment.release() }
            hoard = []
            let frame = small.allocateSegment(100)
            var outgoing = FrameBurst(heap: small.reference)
            outgoing.append(Frame(frame))
            couple.client.transmit(&outgoing)
            couple.server.receive(into: &incoming)
            let received = incoming.count
            #expect(received == 1)
        }
        small.resign()
    }

    // MARK: Sleeping

    @Test func `a frame wakes a peer that sleeps, and only such a one`() throws {
        let bench = try DeviceBench()
        do {
            var couple = try MemifCouple()
            couple.server.wake()
            couple.client.wake()
            for fromClient in [true, false] {
                var isCarried = couple.carries(60, seed: 1, parts: 0, fromClient: fromClient, bench)
                var descriptor = fromClient ? couple.server.eventDescriptor : couple.client.eventDescriptor
                #expect(isCarried && !isReadable(descriptor))
                let isAsleep = fromClient ? couple.server.prepareToSleep() : couple.client.prepareToSleep()
                #expect(isAsleep && !isReadable(descriptor))
                isCarried = couple.carries(60, seed: 2, parts: 0, fromClient: fromClient, bench)
                descriptor = fromClient ? couple.server.eventDescriptor : couple.client.eventDescriptor
                #expect(isCarried && isReadable(descriptor))
                if fromClient { couple.server.wake() } else { couple.client.wake() }
                #expect(!isReadable(descriptor))
                // Frames that are there already keep it awake.
                _ = fromClient ? couple.client.send(bench.frame(60, seed: 3), bench) : couple.server.send(bench.frame(60, seed: 3), bench)
                let sleepsAgain = fromClient ? couple.server.prepareToSleep() : couple.client.prepareToSleep()
                #expect(!sleepsAgain)
                let received = fromClient ? couple.server.receiveBytes(bench) : couple.client.receiveBytes(bench)
                #expect(received != nil)
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `a client that comes wakes a sleeping server`() throws {
        let socket = SocketPath()
        var steps = Steps()
        var server = try MemifDevice(socket.configuration(.server))
        _ = server.maintain(now: steps.next())
        let isAsleep = server.prepareToSleep()
        #expect(isAsleep && !isReadable(server.eventDescriptor))
        var client = try MemifDevice(socket.configuration(.client))
        _ = client.maintain(now: steps.next())
        #expect(isReadable(server.eventDescriptor))
        let isConnected = connect(&server, &client, &steps)
        #expect(isConnected)
    }
}
