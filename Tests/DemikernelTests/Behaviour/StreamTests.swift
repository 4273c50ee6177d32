import Glibc
import SystemPackage
import Testing
@testable import Demikernel

// Bytes on a TCP connection: in order, whole, and no faster than the reader.

extension PDPIXBehaviour {
    @Suite struct Streams {
        @Test(arguments: LibOSUnderTest.all)
        func `a thousand small messages come back in both families`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let pair = try libOS.pair(subject.address(family))
                    for round in 0..<500 {
                        let message = pattern(1 + round % 97, seed: UInt64(round))
                        let popping = try libOS.pop(pair.server)
                        try libOS.send(pair.client, message)
                        #expect(try libOS.outcome(popping) == .popped(message))
                        try libOS.send(pair.server, message)
                        #expect(try libOS.receive(pair.client, exactly: message.count) == message)
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `bytes arrive in order whatever the sizes of pushes and pops`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                var generator = SplitMix64(seed: 3)
                let pair = try libOS.pair(subject.address())
                let bytes = pattern(600_000)
                var sent = 0, received: [UInt8] = []
                received.reserveCapacity(bytes.count)
                var pushes: [QToken] = []
                while received.count < bytes.count {
                    if sent < bytes.count, pushes.count < 20 {
                        let size = min(bytes.count - sent, Int.random(in: 1...30_000, using: &generator))
                        pushes.append(try libOS.push(pair.client, libOS.buffer(Array(bytes[sent..<sent + size]))))
                        sent += size
                    }
                    let limit = Bool.random(using: &generator) ? Int.random(in: 1...20_000, using: &generator) : nil
                    let part = try libOS.receive(pair.server, limit: limit)
                    if let limit { #expect(part.count <= limit) }
                    received += part
                    for token in pushes where try !libOS.isPending(token) {
                        #expect(try libOS.outcome(token) == .pushed)
                        pushes.removeAll { $0 == token }
                    }
                }
                #expect(received == bytes)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a pop brings at most its limit, and what is left comes next`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                try libOS.send(pair.client, "abcdefghij")
                #expect(try libOS.receive(pair.server, limit: 1) == [UInt8]("a".utf8))
                #expect(try libOS.receive(pair.server, limit: 3) == [UInt8]("bcd".utf8))
                #expect(try libOS.receive(pair.server, limit: .max) == [UInt8]("efghij".utf8))
                let pop = try libOS.pop(pair.server, limit: 2)
                #expect(try libOS.isPending(pop))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `sixteen mebibytes go in one push to a peer that reads slowly`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let size = 16 << 20
                var buffer = try libOS.allocate(size)
                fillWithPlaces(&buffer)
                let push = try libOS.push(pair.client, buffer)
                #expect(try libOS.isPending(push))
                var place = 0
                while place < size {
                    var segments = try libOS.wait(libOS.pop(pair.server), timeout: .patience).popped()
                    while let part = segments.removeFirst() {
                        guard showsPlaces(part, from: place) else { throw Unexpected(description: "wrong bytes near \(place)") }
                        place += part.count
                    }
                }
                #expect(place == size)
                #expect(try libOS.outcome(push) == .pushed)
                libOS.expectLiveObjects(0)
            }
        }

        @Test(arguments: LibOSUnderTest.all, [2, 16, 17, 100, 1_024])
        func `many segments go as one, in order`(_ subject: LibOSUnderTest, count: Int) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                var segments = ScatterGatherArray()
                var expected: [UInt8] = []
                for position in 0..<count {
                    let bytes = pattern(1 + position % 300, seed: UInt64(position))
                    let refused = segments.append(try libOS.buffer(bytes)) != nil
                    #expect(!refused)
                    expected += bytes
                }
                let push = try libOS.push(pair.client, segments)
                #expect(try libOS.receive(pair.server, exactly: expected.count) == expected)
                #expect(try libOS.outcome(push) == .pushed)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `many segments wait for room and go on where they stopped`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                var segments = ScatterGatherArray()
                let part = pattern(9_999)
                for _ in 0..<700 {
                    let refused = segments.append(try libOS.buffer(part)) != nil
                    #expect(!refused)
                }
                let push = try libOS.push(pair.client, segments)
                #expect(try libOS.isPending(push))
                for _ in 0..<700 { #expect(try libOS.receive(pair.server, exactly: part.count) == part) }
                #expect(try libOS.outcome(push) == .pushed)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `pushes that are outstanding on one socket complete in order`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let sizes = [6 << 20, 1, 500_000, 3, 2 << 20, 70_000]
                let pushes = try sizes.enumerated().map { try libOS.push(pair.client, libOS.buffer(.init(repeating: UInt8($0), count: $1))) }
                for token in pushes { #expect(try libOS.isPending(token)) }
                for (position, size) in sizes.enumerated() {
                    #expect(try libOS.receive(pair.server, exactly: size) == [UInt8](repeating: UInt8(position), count: size))
                }
                var order: [QToken] = []
                while order.count < pushes.count { try libOS.waitNext(1, timeout: .patience) { order.append($0.token) } }
                #expect(order == pushes)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `pops that are outstanding on one socket are served in order`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let pops = try (0..<10).map { _ in try libOS.pop(pair.server, limit: 3) }
                try libOS.send(pair.client, pattern(30))
                let bytes = pattern(30)
                for (position, token) in pops.enumerated() {
                    #expect(try libOS.outcome(token) == .popped(Array(bytes[position * 3..<position * 3 + 3])))
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a waitAny over pushes and pops of both ends moves them all`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let size = 3 << 20
                var tokens: [QToken] = []
                var left = [pair.client: size, pair.server: size]
                for end in [pair.client, pair.server] {
                    tokens.append(try libOS.push(end, libOS.buffer(.init(repeating: 5, count: size))))
                    tokens.append(try libOS.pop(end))
                }
                while !tokens.isEmpty {
                    let completion = try libOS.waitAny(tokens, timeout: .patience)
                    let (offset, end) = (completion.offset, completion.descriptor)
                    switch OperationOutcome(completion) {
                    case .pushed: tokens.remove(at: offset)
                    case .popped(let bytes) where !bytes.isEmpty:
                        left[end]! -= bytes.count
                        if left[end]! > 0 { tokens[offset] = try libOS.pop(end) } else { tokens.remove(at: offset) }
                    case let other: throw Unexpected(description: "\(other)")
                    }
                }
                #expect(left == [pair.client: 0, pair.server: 0])
            }
        }

        // MARK: Back-pressure

        @Test(arguments: LibOSUnderTest.all)
        func `pushes wait, and memory stays bounded, while the application does not pop`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                var pushes: [QToken] = []
                // Until the connection holds no more.
                repeat { pushes.append(try libOS.push(pair.client, libOS.allocate(1 << 20))) } while try !libOS.isPending(pushes.last!) && pushes.count < 64
                #expect(pushes.count < 64)
                for _ in 0..<8 { pushes.append(try libOS.push(pair.client, libOS.allocate(1 << 20))) }
                // What a network stack in the libOS takes until its windows are full counts as well, and after that a probe of the closed window and
                // its answer, which come and go.
                let hasOwnStack = !subject.capabilities.contains(.kernelBuffers)
                if hasOwnStack { libOS.turnUntilMemoryRests() }
                let held = libOS.liveBytes
                libOS.turn(500)
                // Nothing is read ahead for a pop that was not made, nothing sent ahead.
                #expect(libOS.liveBytes <= held + (hasOwnStack ? 16_384 : 0))
                for token in pushes.suffix(8) { #expect(try libOS.isPending(token)) }
                var left = pushes.count << 20
                while left > 0 {
                    let popped = try libOS.wait(libOS.pop(pair.server), timeout: .patience).popped()
                    #expect(popped.byteCount > 0)
                    left -= popped.byteCount
                    if popped.byteCount == 0 { break }
                }
                try libOS.waitAll(pushes, timeout: .patience) { #expect(OperationOutcome($0) == .pushed) }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `one pop reads no more than one read's worth`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                try libOS.send(pair.client, pattern(200_000))
                var total = 0
                while total < 200_000 {
                    let bytes = try libOS.receive(pair.server)
                    #expect(bytes.count <= subject.configuration.catnap.receiveSizeMaximum)
                    total += bytes.count
                    if subject.capabilities.contains(.kernelBuffers) { libOS.expectLiveObjects(0) }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.kernelBuffers) })
        func `an exhausted heap fails pops with ENOMEM, and the bytes wait`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(adjusting: { $0.heap.limit = 2 << 20; $0.heap.hugePages = .never; $0.heap.checked = false }) { libOS in
                let pair = try libOS.pair(subject.address())
                try libOS.send(pair.client, "patience")
                var hoard = ScatterGatherArray()
                for size in [262_144, 65_536, 16_384, 4_096, 1_024, 64] {
                    while let buffer = try? libOS.allocate(size) { if hoard.append(buffer) != nil { break } }
                }
                let outcome = try libOS.outcome(libOS.pop(pair.server))
                #expect(outcome == .failed(.noMemory))
                expect(.noMemory) { _ = try libOS.allocate(1 << 20) }
                _ = consume hoard
                #expect(try libOS.receiveText(pair.server) == "patience")
            }
        }
    }
}

/// Fills a buffer so that each word says where it is.
private func fillWithPlaces(_ buffer: inout Buffer) {
    unsafe buffer.withUnsafeMutableBytes { bytes in
        for place in stride(from: 0, to: bytes.count, by: 8) { unsafe bytes.storeBytes(of: UInt64(place), toByteOffset: place, as: UInt64.self) }
    }
}

/// Whether a buffer holds what stands at `start` and behind it. Each byte of a word is looked at where the word is whole.
private func showsPlaces(_ buffer: borrowing Buffer, from start: Int) -> Bool {
    unsafe buffer.withUnsafeBytes { bytes in
        let first = (8 - start % 8) % 8
        for offset in stride(from: first, to: bytes.count - 7, by: 8) {
            guard unsafe bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self) == UInt64(start + offset) else { return false }
        }
        return true
    }
}
