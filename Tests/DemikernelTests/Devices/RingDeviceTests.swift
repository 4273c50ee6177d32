import Glibc
import Testing
@testable import Demikernel

@Suite struct RingDeviceTests {
    @Test func `a frame of one segment comes back from a loop as it is`() throws {
        let bench = try DeviceBench()
        do {
            var device = try RingDevice.loop(capacity: 8, address: 1, mtu: 1500)
            var burst = bench.burst()
            let offload = FrameOffload(flags: .partialChecksum, checksumStart: 34, checksumOffset: 6)
            let frame = bench.frame(64, seed: 1, offload: offload)
            burst.append(frame)
            device.transmit(&burst)
            let isTaken = burst.isEmpty
            #expect(isTaken)
            device.receive(into: &burst)
            let count = burst.count
            try #require(count == 1)
            let received = burst.removeFirst()
            #expect(received.head.address == frame.head.address && received.offload == offload)
            #expect(bytes(of: received) == DeviceBench.contents(64, seed: 1))
            received.release()
            let statistics = device.statistics
            #expect(statistics.transmittedFrames == 1 && statistics.receivedFrames == 1 && statistics.receivedBytes == 64)
        }
        #expect(bench.isEmpty)
    }

    @Test func `a gathered frame is received in one segment`() throws {
        let bench = try DeviceBench()
        do {
            var device = try RingDevice.loop(address: 1)
            var burst = bench.burst()
            for parts in 1...5 { burst.append(bench.frame(1000 + parts, seed: parts, parts: parts)) }
            device.transmit(&burst)
            device.receive(into: &burst)
            for parts in 1...5 {
                let frame = burst.removeFirst()
                #expect(frame.rest.isEmpty && bytes(of: frame) == DeviceBench.contents(1000 + parts, seed: parts))
                frame.release()
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `frames that do not fit stay in the burst in their order`() throws {
        let bench = try DeviceBench()
        do {
            var device = try RingDevice.loop(capacity: 4, address: 1)
            var burst = bench.burst()
            for seed in 0..<6 { burst.append(bench.frame(60, seed: seed)) }
            device.transmit(&burst)
            let left = burst.count
            #expect(left == 2)
            let first = bytes(of: burst[0])
            #expect(first == DeviceBench.contents(60, seed: 4))
            let stalls = device.statistics.transmitStalls
            #expect(stalls == 1)
            var incoming = bench.burst()
            device.receive(into: &incoming)
            device.transmit(&burst)
            device.receive(into: &incoming)
            for seed in 0..<6 {
                let received = incoming.takeBytes()
                #expect(received == DeviceBench.contents(60, seed: seed))
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `frames that no device carries are dropped and counted`() throws {
        let bench = try DeviceBench()
        do {
            var device = try RingDevice.loop(address: 1, mtu: 1500)
            var burst = bench.burst()
            for count in [13, 1519, 1518] { burst.append(bench.frame(count, seed: count)) }
            device.transmit(&burst)
            let statistics = device.statistics
            #expect(statistics.transmitDrops == 2 && statistics.transmittedFrames == 1)
        }
        #expect(bench.isEmpty)  // also what nobody has received
    }

    @Test func `a received burst is never overfilled`() throws {
        let bench = try DeviceBench()
        do {
            var device = try RingDevice.loop(capacity: 64, address: 1)
            var burst = bench.burst()
            for seed in 0..<10 { burst.append(bench.frame(60, seed: seed)) }
            device.transmit(&burst)
            var small = bench.burst(capacity: 4)
            for round in 0..<3 {
                device.receive(into: &small)
                let count = small.count
                #expect(count == [4, 4, 2][round])
                for index in 0..<count {
                    let received = small.takeBytes()
                    #expect(received == DeviceBench.contents(60, seed: round * 4 + index))
                }
            }
        }
        #expect(bench.isEmpty)
    }

    @Test(arguments: 1...20) func `random transmissions and receptions agree with a queue`(seed: UInt64) throws {
        let bench = try DeviceBench()
        do {
            var generator = SplitMix64(seed: seed)
            let capacity = 1 << Int.random(in: 0...5, using: &generator)
            var device = try RingDevice.loop(capacity: capacity, address: 1, mtu: 9000)
            var outgoing = bench.burst(capacity: 16)
            var incoming = bench.burst(capacity: 8)
            var model: [(Int, Int)] = []
            var next = 0
            for _ in 0..<500 {
                if Bool.random(using: &generator) {
                    let room = outgoing.room
                    for _ in 0..<Int.random(in: 0...room, using: &generator) {
                        let count = Int.random(in: 14...2000, using: &generator)
                        outgoing.append(bench.frame(count, seed: next, parts: Int.random(in: 0...3, using: &generator)))
                        model.append((count, next))
                        next += 1
                    }
                    device.transmit(&outgoing)
                } else {
                    device.receive(into: &incoming)
                    while let received = incoming.takeBytes() {
                        let (count, seed) = model.removeFirst()
                        #expect(received == DeviceBench.contents(count, seed: seed))
                    }
                }
                let isIdle = device.prepareToSleep()
                let waiting = model.count - outgoing.count
                #expect(isIdle == (waiting == 0) && waiting <= capacity)
            }
        }
        #expect(bench.isEmpty)
    }

    @Test func `bad settings are refused`() {
        func errorOf(_ capacity: Int, _ mtu: Int) -> DemikernelError? {
            do throws(DemikernelError) {
                _ = try RingDevice.loop(capacity: capacity, address: 1, mtu: mtu)
                return nil
            } catch { return error }
        }
        #expect(errorOf(0, 1500)?.errno == .invalidArgument && errorOf(65_537, 1500)?.errno == .invalidArgument)
        #expect(errorOf(1, 67)?.errno == .invalidArgument && errorOf(1, 65_536)?.errno == .invalidArgument)
        #expect(errorOf(1, 68) == nil && errorOf(65_536, 65_535) == nil)
    }

    @Test func `the end of one of a pair disconnects the other`() throws {
        let bench = try DeviceBench()
        do {
            var pair = try RingDevice.pair(addresses: (1, 2))
            var first = try taken(pair.takeFirst())
            var second = pair.takeSecond()
            let isConnected = first.isConnected
            #expect(isConnected)
            let isAsleep = first.prepareToSleep()
            #expect(isAsleep && !isReadable(first.eventDescriptor))
            second = nil
            _ = consume second
            #expect(!first.isConnected && isReadable(first.eventDescriptor))
            first.wake()
            var burst = bench.burst()
            burst.append(bench.frame(60, seed: 1))
            first.transmit(&burst)
            let statistics = first.statistics
            #expect(statistics.transmitDrops == 1)
        }
        #expect(bench.isEmpty)
    }

    @Test(arguments: [false, true]) func `two threads exchange frames through a pair`(sleeps: Bool) throws {
        let count = 20_000
        let bench = try DeviceBench()
        do {
            var pair = try RingDevice.pair(capacity: 64, addresses: (1, 2))
            let other = OtherEnd(pair.takeSecond())
            // The other thread sends everything back, one more in its first byte.
            let thread = PosixThread {
                guard let bench = try? DeviceBench(), var device = other.device.take() else { return }
                var burst = bench.burst()
                var echoed = 0
                while echoed < count {
                    device.receive(into: &burst)
                    if burst.isEmpty {
                        guard device.isConnected else { return }
                        if sleeps, device.prepareToSleep() {
                            waitUntilReadable(device.eventDescriptor)
                            device.wake()
                        } else { sched_yield() }
                    }
                    echoed += burst.count
                    for index in 0..<burst.count { unsafe burst[index].head.bytes[0] &+= 1 }
                    while !burst.isEmpty {
                        device.transmit(&burst)
                        if !burst.isEmpty { sched_yield() }
                    }
                }
                other.echoed = echoed
            }
            var device = try taken(pair.takeFirst())
            var burst = bench.burst()
            var answers = bench.burst()
            var (sent, received, wrong) = (0, 0, 0)
            while received < count {
                while sent < count, !burst.isFull, sent - received < 100 {
                    burst.append(bench.frame(60 + sent % 100, seed: sent, parts: sent % 3))
                    sent += 1
                }
                device.transmit(&burst)
                device.receive(into: &answers)
                if answers.isEmpty {
                    if sleeps, burst.isEmpty, device.prepareToSleep() {
                        waitUntilReadable(device.eventDescriptor)
                        device.wake()
                    } else { sched_yield() }
                }
                while let answer = answers.takeBytes() {
                    var expected = DeviceBench.contents(60 + received % 100, seed: received)
                    expected[0] &+= 1
                    if answer != expected { wrong += 1 }
                    received += 1
                }
                bench.heap.drainReturns()
            }
            thread.join()
            #expect(wrong == 0 && other.echoed == count)
        }
        #expect(bench.isEmpty)
    }
}

/// Passes an end of a pair to another thread. Sendable unchecked: the test reads it again only after that thread was joined.
private final class OtherEnd: @unchecked Sendable {
    var device: RingDevice?
    var echoed = 0
    init(_ device: consuming RingDevice?) { self.device = device }
}
