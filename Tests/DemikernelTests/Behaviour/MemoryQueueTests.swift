import SystemPackage
import Testing
@testable import Demikernel

extension PDPIXBehaviour {
    @Suite struct MemoryQueues {
        @Test(arguments: LibOSUnderTest.all)
        func `elements come out in the order in which they went in`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queue = try libOS.queue()
                for round in 0..<5 {
                    for number in 0..<200 { try libOS.send(queue, "\(round) \(number)") }
                    for number in 0..<200 { #expect(try libOS.receiveText(queue) == "\(round) \(number)") }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a full queue lets pushes wait until there is room`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(adjusting: { $0.queues.memoryQueueCapacity = 3 }) { libOS in
                let queue = try libOS.queue()
                let pushes = try (0..<6).map { try libOS.push(queue, "\($0)") }
                for token in pushes.prefix(3) { #expect(try libOS.outcome(token) == .pushed) }
                for token in pushes.suffix(3) { #expect(try libOS.isPending(token)) }
                for number in 0..<3 {
                    #expect(try libOS.receiveText(queue) == "\(number)")
                    #expect(try libOS.outcome(pushes[3 + number]) == .pushed)
                    for token in pushes.suffix(2 - number) { #expect(try libOS.isPending(token)) }
                }
                for number in 3..<6 { #expect(try libOS.receiveText(queue) == "\(number)") }
                let empty = try libOS.pop(queue)
                #expect(try libOS.isPending(empty))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a queue of one element works like any other`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(adjusting: { $0.queues.memoryQueueCapacity = 1 }) { libOS in
                let queue = try libOS.queue()
                let pushes = try (0..<20).map { try libOS.push(queue, "\($0)") }
                for number in 0..<20 { #expect(try libOS.receiveText(queue) == "\(number)") }
                for token in pushes { #expect(try libOS.outcome(token) == .pushed) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `pops wait in line for pushes`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queue = try libOS.queue()
                let pops = try (0..<10).map { _ in try libOS.pop(queue) }
                for token in pops { #expect(try libOS.isPending(token)) }
                for number in 0..<10 {
                    try libOS.send(queue, "\(number)")
                    #expect(try libOS.outcome(pops[number]) == .popped([UInt8]("\(number)".utf8)))
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `an element keeps its segments, and its memory is not copied`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let queue = try libOS.queue()
                var segments = ScatterGatherArray()
                for size in [1, 300, 70_000] { _ = segments.append(try libOS.buffer(pattern(size))) }
                let before = try place(of: segments, 2)
                #expect(try libOS.outcome(libOS.push(queue, segments)) == .pushed)
                let popped = try libOS.wait(libOS.pop(queue), timeout: .patience).popped()
                let (count, byteCount) = (popped.count, popped.byteCount)
                #expect(count == 3 && byteCount == 70_301)
                #expect(try place(of: popped, 2) == before)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a random history agrees with an array`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(adjusting: { $0.queues.memoryQueueCapacity = 5 }) { libOS in
                var generator = SplitMix64(seed: 17)
                let queue = try libOS.queue()
                // The model: what is stored or waits to be, and the pops that wait.
                var contents: [(token: QToken, number: Int)] = [], pops: [QToken] = []
                for number in 0..<2_000 {
                    switch Int.random(in: 0..<5, using: &generator) {
                    case 0, 1:
                        let token = try libOS.push(queue, "\(number)")
                        if pops.isEmpty {
                            contents.append((token, number))
                            if contents.count > 5 { #expect(try libOS.isPending(token)) } else { #expect(try !libOS.isPending(token)) }
                        } else {
                            #expect(try libOS.outcome(pops.removeFirst()) == .popped([UInt8]("\(number)".utf8)))
                            #expect(try libOS.outcome(token) == .pushed)
                        }
                    case 2, 3:
                        let token = try libOS.pop(queue)
                        if contents.isEmpty {
                            #expect(try libOS.isPending(token))
                            pops.append(token)
                        } else {
                            let element = contents.removeFirst()
                            #expect(try libOS.outcome(token) == .popped([UInt8]("\(element.number)".utf8)))
                            #expect(try libOS.outcome(element.token) == .pushed)
                        }
                    default:
                        if let position = pops.indices.randomElement(using: &generator) {
                            let token = pops.remove(at: position)
                            try libOS.cancel(token)
                            #expect(try libOS.outcome(token) == .failed(.canceled))
                        } else if contents.count > 5 {
                            let element = contents.remove(at: Int.random(in: 5..<contents.count, using: &generator))
                            try libOS.cancel(element.token)
                            #expect(try libOS.outcome(element.token) == .failed(.canceled, returned: [UInt8]("\(element.number)".utf8)))
                        }
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `queues and sockets share one waitAny`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let (datagram, address) = try libOS.datagramSocketBound(to: subject.address())
                let queue = try libOS.queue()
                let ends = [pair.server, datagram, queue]
                var tokens = try ends.map { try libOS.pop($0) }
                tokens.append(try libOS.timer(after: .seconds(1_000)))
                for position in [2, 0, 1, 0, 2, 1, 1] {
                    switch position {
                    case 0: try libOS.send(pair.client, "m")
                    case 1: try libOS.send(datagram, "m", to: address)
                    default: try libOS.send(queue, "m")
                    }
                    let completion = try libOS.waitAny(tokens, timeout: .patience)
                    #expect(completion.offset == position && completion.descriptor == ends[position])
                    tokens[position] = try libOS.pop(ends[position])
                }
                try libOS.cancel(tokens[3])
                #expect(try libOS.waitAny(tokens, timeout: .patience).offset == 3)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a queue closes with elements stored and operations pending`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(adjusting: { $0.queues.memoryQueueCapacity = 2 }) { libOS in
                let full = try libOS.queue(), empty = try libOS.queue()
                let pushes = try (0..<4).map { try libOS.push(full, "\($0)") }
                let pops = try (0..<2).map { _ in try libOS.pop(empty) }
                try libOS.close(full)
                try libOS.close(empty)
                for token in pushes.prefix(2) { #expect(try libOS.outcome(token) == .pushed) }
                for number in 2..<4 { #expect(try libOS.outcome(pushes[number]) == .failed(.canceled, returned: [UInt8]("\(number)".utf8))) }
                for token in pops { #expect(try libOS.outcome(token) == .failed(.canceled)) }
                libOS.expectLiveObjects(0)
                let fresh = try libOS.queue()
                #expect(fresh == full)
                let pop = try libOS.pop(fresh)
                #expect(try libOS.isPending(pop))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `what a socket brings goes through a queue to another socket without a copy`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let from = try libOS.pair(subject.address()), to = try libOS.pair(subject.address())
                let queue = try libOS.queue()
                for number in 0..<100 {
                    try libOS.send(from.client, "relay \(number)")
                    let popped = try libOS.wait(libOS.pop(from.server), timeout: .patience).popped()
                    #expect(try libOS.outcome(libOS.push(queue, popped)) == .pushed)
                    let relayed = try libOS.wait(libOS.pop(queue), timeout: .patience).popped()
                    #expect(try libOS.outcome(libOS.push(to.client, relayed)) == .pushed)
                    #expect(try libOS.receiveText(to.server) == "relay \(number)")
                }
                libOS.expectLiveObjects(0)
            }
        }
    }
}

/// Where a segment's bytes are.
private func place(of segments: borrowing ScatterGatherArray, _ index: Int) throws -> UInt {
    try segments.withSegment(at: index) { span in unsafe span.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) } }
}
