import Glibc
import SystemPackage
import Testing
@testable import Demikernel

// Catnap's pushes that wait for others, to be sent with them in one system call: what they do is what every push does.

extension PDPIXBehaviour {
    @Suite struct SendingInBatches {
        /// Catnap learning everything from epoll, with batches and without.
        private static func catnap(_ name: String, _ batchSends: Configuration.Preference) -> LibOSUnderTest {
            var subject = Configuration()
            subject.heap.limit = 64 << 20
            subject.heap.lockPages = false
            subject.heap.checked = true
            subject.operations.capacity = 4_096
            subject.descriptors.capacity = 1_024
            subject.catnap.directPollLimit = 0
            subject.catnap.batchSends = batchSends
            subject.wait.spin = .forever
            return LibOSUnderTest(name: name, configuration: subject, capabilities: LibOSUnderTest.catnapCapabilities)
        }

        static let required = catnap("catnap, sends in batches", .require)
        static let alone = catnap("catnap, each send alone", .never)
        static let both = kernelHasRing ? [required, alone] : [alone]

        private static let kernelHasRing: Bool = {
            var ring = SendRing()
            do throws(Errno) { try ring.open() } catch { return false }
            return true
        }()

        // MARK: - When

        @Test(.enabled(if: kernelHasRing))
        func `answers to requests that came together go in one system call and complete in their order`() async throws {
            try await Self.required.run { libOS in
                let (pushes, pairs) = try libOS.deferring(3)
                for push in pushes { #expect(try !libOS.isComplete(push)) }
                let batches = libOS.core.catnap.sends.batchCount
                libOS.core.sendDeferred()
                for push in pushes { #expect(try libOS.isComplete(push)) }
                #expect(libOS.core.catnap.sends.batchCount == batches + 1)
                var order: [QToken] = []
                while order.count < pushes.count { try libOS.waitNext(1) { order.append($0.token) } }
                #expect(order == pushes)
                for (position, pair) in pairs.enumerated() { #expect(try libOS.receiveText(pair.client) == "answer \(position)") }
            }
        }

        @Test(.enabled(if: kernelHasRing))
        func `a batch that is full goes at once`() async throws {
            try await Self.required.run { libOS in
                let (pushes, pairs) = try libOS.deferring(SendRing.capacity)
                #expect(libOS.core.catnap.sends.count == 0)
                for push in pushes { #expect(try libOS.isComplete(push)) }
                for push in pushes { #expect(try libOS.outcome(push) == .pushed) }
                for (position, pair) in pairs.enumerated() { #expect(try libOS.receiveText(pair.client) == "answer \(position)") }
            }
        }

        @Test(arguments: [Duration.zero, .seconds(1_000)])
        func `whoever waits for a push, or sleeps, has what waits sent`(_ spin: Duration) async throws {
            for subject in Self.both {
                try await subject.run(adjusting: { $0.wait.spin = .atMost(spin) }) { libOS in
                    let pairs = try (0..<6).map { _ in try libOS.pair() }
                    for round in 0..<50 {
                        let pops = try pairs.map { try libOS.pop($0.server) }
                        for pair in pairs { try libOS.send(pair.client, "request") }
                        // The first two are answered as soon as they are there, the others not at all: nobody else has a batch sent.
                        let first = try libOS.firstPopped(of: pops)
                        let answer = try libOS.pop(pairs[first].client)
                        let push = try libOS.push(pairs[first].server, "answer")
                        if round % 2 == 0 { #expect(try libOS.outcome(push) == .pushed) }
                        #expect(try libOS.outcome(answer) == .popped([UInt8]("answer".utf8)))
                        if round % 2 == 1 { #expect(try libOS.outcome(push) == .pushed) }
                        for (place, pop) in pops.enumerated() where place != first {
                            #expect(try libOS.outcome(pop) == .popped([UInt8]("request".utf8)))
                        }
                    }
                }
            }
        }

        @Test func `never means that each push is sent when it is made`() async throws {
            try await Self.alone.run { libOS in
                let pairs = try (0..<6).map { _ in try libOS.pair() }
                for _ in 0..<20 {
                    let pops = try pairs.map { try libOS.pop($0.server) }
                    for pair in pairs { try libOS.send(pair.client, "request") }
                    let first = try libOS.firstPopped(of: pops)
                    #expect(try libOS.isComplete(libOS.push(pairs[first].server, "answer")))
                    #expect(try libOS.receiveText(pairs[first].client) == "answer")
                    for (place, pop) in pops.enumerated() where place != first { _ = try libOS.outcome(pop) }
                }
                #expect(libOS.core.catnap.sends.batchCount == 0)
            }
        }

        @Test(.enabled(if: kernelHasRing))
        func `a batch that was long in the making is the last one for a while`() async throws {
            try await Self.required.run { libOS in
                let (pushes, _) = try libOS.deferring(2)
                libOS.core.catnap.sends.patience = 0
                for push in pushes { #expect(try libOS.outcome(push) == .pushed) }
                #expect(libOS.core.catnap.sends.pause > 0)
                let pairs = try (0..<6).map { _ in try libOS.pair() }
                let pops = try pairs.map { try libOS.pop($0.server) }
                for pair in pairs { try libOS.send(pair.client, "request") }
                let first = try libOS.firstPopped(of: pops)
                #expect(try libOS.isComplete(libOS.push(pairs[first].server, "at once")))
                #expect(try libOS.receiveText(pairs[first].client) == "at once")
            }
        }

        @Test func `where the kernel gives no ring, each push is sent when it is made, unless batches are required`() async throws {
            try await Self.alone.run(adjusting: { $0.catnap.batchSends = .prefer }) { libOS in
                let pairs = try (0..<6).map { _ in try libOS.pair() }
                let pops = try pairs.map { try libOS.pop($0.server) }
                for pair in pairs { try libOS.send(pair.client, "request") }
                let first = try libOS.firstPopped(of: pops)
                try withoutFileDescriptors {
                    let isComplete = try libOS.isComplete(libOS.push(pairs[first].server, "answer"))
                    #expect(isComplete)
                    expect(.tooManyOpenFiles) { _ = try BatchedSends(.require) }
                }
                #expect(try libOS.receiveText(pairs[first].client) == "answer")
                #expect(libOS.core.catnap.sends.batchCount == 0)
            }
        }

        // MARK: - The stream

        @Test(.enabled(if: kernelHasRing))
        func `further pushes on a queue stay behind the one that waits`() async throws {
            try await Self.required.run { libOS in
                let (pushes, pairs) = try libOS.deferring(2)
                let more = try [", then more", ", and the end"].map { try libOS.push(pairs[0].server, $0) }
                for push in more { #expect(try !libOS.isComplete(push)) }
                for push in pushes + more { #expect(try libOS.outcome(push) == .pushed) }
                let expected = "answer 0, then more, and the end"
                #expect(try libOS.receive(pairs[0].client, exactly: expected.utf8.count) == [UInt8](expected.utf8))
                #expect(try libOS.receiveText(pairs[1].client) == "answer 1")
            }
        }

        @Test(.enabled(if: kernelHasRing), arguments: [1, 2])
        func `a push that finds no room waits for some`(_ count: Int) async throws {
            try await Self.required.run { libOS in
                let (pushes, pairs) = try libOS.deferring(count)
                // Behind the libOS's back, which takes the socket for writable.
                var filled = 0
                while let sent = libOS.sendRaw(pairs[0].server, 10_000) { filled += sent }
                libOS.core.sendDeferred()
                #expect(try !libOS.isComplete(pushes[0]))
                if count == 2 { #expect(try libOS.outcome(pushes[1]) == .pushed) }
                let bytes = try libOS.receive(pairs[0].client, exactly: filled + 8)
                #expect(bytes.suffix(8) == Array("answer 0".utf8)[...])
                #expect(try libOS.outcome(pushes[0]) == .pushed)
            }
        }

        @Test(arguments: both)
        func `the streams of many connections arrive whole`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                libOS.core.catnap.sends.patience = .max
                let pairs = try (0..<16).map { _ in try libOS.pair() }
                for pair in pairs {
                    // Pushes find no room, or room for a part.
                    try libOS.set(.sendBufferSize, to: 4_096, on: pair.server)
                    try libOS.set(.receiveBufferSize, to: 4_096, on: pair.client)
                }
                let stream = pattern(1 << 15)
                var random = SplitMix64(seed: 6)
                var sent = [Int](repeating: 0, count: pairs.count)
                var received = sent
                var requests: [QToken: Int] = [:], answers: [QToken: Int] = [:]
                for (place, pair) in pairs.enumerated() {
                    requests[try libOS.pop(pair.server)] = place
                    answers[try libOS.pop(pair.client)] = place
                    try libOS.send(pair.client, "go on")
                }
                while !answers.isEmpty {
                    let completion = try libOS.waitAny(Array(requests.keys) + Array(answers.keys), timeout: .patience)
                    let token = completion.token
                    guard case .popped(let bytes) = OperationOutcome(completion) else { throw Unexpected(description: "pop failed") }
                    if let place = requests.removeValue(forKey: token) {
                        for _ in 0...random.next() % 3 {
                            let count = min(stream.count - sent[place], Int(random.next() % 5_000) + 1)
                            guard count > 0 else { break }
                            _ = try libOS.push(pairs[place].server, libOS.buffer(Array(stream[sent[place]..<sent[place] + count])))
                            sent[place] += count
                        }
                        requests[try libOS.pop(pairs[place].server)] = place
                    } else if let place = answers.removeValue(forKey: token) {
                        guard stream[received[place]...].starts(with: bytes) else { throw Unexpected(description: "the stream is torn") }
                        received[place] += bytes.count
                        if received[place] < stream.count {
                            _ = try libOS.push(pairs[place].client, "go on")
                            answers[try libOS.pop(pairs[place].client)] = place
                        }
                    }
                }
                #expect(received == sent)
                #expect((libOS.core.catnap.sends.batchCount > 0) == (subject.configuration.catnap.batchSends == .require))
                for token in requests.keys { try libOS.cancel(token) }
                while libOS.core.operations.count > requests.count {
                    try libOS.waitNext(1) { completion in #expect(!completion.isFailure || requests[completion.token] != nil) }
                }
            }
        }

        // MARK: - The end

        @Test(.enabled(if: kernelHasRing))
        func `a push that is cancelled while it waits is not sent, and its memory comes back`() async throws {
            try await Self.required.run { libOS in
                let (pushes, pairs) = try libOS.deferring(4)
                let behind = try libOS.push(pairs[0].server, "the one behind")
                for place in [2, 0] { try libOS.cancel(pushes[place]) }
                for place in [0, 2] { #expect(try libOS.outcome(pushes[place]) == .failed(.canceled, returned: [UInt8]("answer \(place)".utf8))) }
                for token in [pushes[1], behind, pushes[3]] { #expect(try libOS.outcome(token) == .pushed) }
                #expect(try libOS.receiveText(pairs[0].client) == "the one behind")
                for place in [1, 3] { #expect(try libOS.receiveText(pairs[place].client) == "answer \(place)") }
                try libOS.send(pairs[2].server, "later")
                #expect(try libOS.receiveText(pairs[2].client) == "later")
            }
        }

        @Test(.enabled(if: kernelHasRing), arguments: [1, 3])
        func `closing and shutting down send what waits first`(_ count: Int) async throws {
            try await Self.required.run { libOS in
                for closes in [false, true] {
                    let (pushes, pairs) = try libOS.deferring(count)
                    if closes { try libOS.close(pairs[0].server) } else { try libOS.shutdown(pairs[0].server, .send) }
                    for push in pushes { #expect(try libOS.outcome(push) == .pushed) }
                    #expect(try libOS.receiveText(pairs[0].client) == "answer 0")
                    #expect(try libOS.receive(pairs[0].client) == [])
                }
            }
        }

        @Test(.enabled(if: kernelHasRing), arguments: [1, 3])
        func `a push whose peer resets while it waits fails and gives its memory back`(_ count: Int) async throws {
            try await Self.required.run { libOS in
                let (pushes, pairs) = try libOS.deferring(count)
                try libOS.set(.linger, to: .seconds(0), on: pairs[0].client)
                try libOS.close(pairs[0].client)
                guard case .failed(let errno, let returned) = try libOS.outcome(pushes[0]) else { throw Unexpected(description: "it was sent") }
                #expect([.connectionReset, .brokenPipe].contains(errno) && returned == [UInt8]("answer 0".utf8))
                for push in pushes.dropFirst() { #expect(try libOS.outcome(push) == .pushed) }
            }
        }
    }
}

extension LibOS {
    /// Whether an operation has completed, without a turn of the libOS.
    fileprivate func isComplete(_ token: QToken) throws -> Bool {
        guard core.operations.contains(token) else { throw Unexpected(description: "no operation") }
        return core.operations[token.slot].phase == .complete
    }

    /// Waits for the first of pops that bring "request".
    fileprivate func firstPopped(of pops: [QToken]) throws -> Int {
        let completion = try waitAny(pops, timeout: .patience)
        let place = completion.offset
        guard OperationOutcome(completion) == .popped([UInt8]("request".utf8)) else { throw Unexpected(description: "no request") }
        return place
    }

    /// Pushes "answer 0", "answer 1" … that wait for one another, and the connections that they are on. Requests have to have come together,
    /// which they mostly do: tried until they have.
    fileprivate func deferring(_ count: Int) throws -> (pushes: [QToken], pairs: [Pair]) {
        core.catnap.sends.patience = .max
        for _ in 0..<1_000 {
            var pairs = try (0..<count + 4).map { _ in try pair() }
            var pops = try pairs.map { try pop($0.server) }
            for pair in pairs { try send(pair.client, "request") }
            let batches = core.catnap.sends.batchCount
            // No turn of the devices that nobody asks for, here and in what the test does next.
            core.calls = 0
            core.catnap.sends.pause = 0
            var answered: [Pair] = [], pushes: [QToken] = []
            repeat {
                let place = try firstPopped(of: pops)
                pops.remove(at: place)
                answered.append(pairs.remove(at: place))
                pushes.append(try push(answered[answered.count - 1].server, "answer \(pushes.count)"))
            } while pushes.count < count && core.catnap.sends.count == pushes.count
            let isFull = count == SendRing.capacity && core.catnap.sends.batchCount == batches + 1
            for (pop, pair) in zip(pops, pairs) {
                if try !isComplete(pop) { try cancel(pop) }
                _ = try outcome(pop)
                try close(pair.client)
                try close(pair.server)
            }
            core.calls = 0
            if pushes.count == count, isFull || core.catnap.sends.count == count { return (pushes, answered) }
            for push in pushes { _ = try outcome(push) }
            for pair in answered {
                try close(pair.client)
                try close(pair.server)
            }
        }
        throw Unexpected(description: "requests never came together")
    }

    /// What `send(2)` takes of so many bytes on a socket, past the libOS; nil for nothing.
    fileprivate func sendRaw(_ descriptor: QueueDescriptor, _ count: Int) -> Int? {
        guard let index = core.queues.index(of: descriptor) else { return nil }
        let bytes = [UInt8](repeating: 7, count: count)
        let sent = unsafe bytes.withUnsafeBytes { unsafe Glibc.send(core.queues[index].fileDescriptor, $0.baseAddress!, count, Int32(MSG_DONTWAIT)) }
        return sent > 0 ? sent : nil
    }
}
