import SystemPackage
import Testing
@testable import Demikernel

// Whose memory it is, and when it is reused: only when the application's and the libOS's references are both gone (paper, section 5.3).

extension PDPIXBehaviour {
    @Suite struct Ownership {
        @Test(arguments: LibOSUnderTest.all)
        func `a pushed buffer is free when its push has completed`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                for size in [1, 64, 4_096, 65_536, 1 << 20] {
                    let push = try libOS.push(pair.client, libOS.allocate(size))
                    _ = try libOS.receive(pair.server, exactly: size)
                    #expect(try libOS.outcome(push) == .pushed)
                    libOS.expectLiveObjects(0)
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a push that waits holds its memory, and nobody else gets it`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let filler = try libOS.push(pair.client, libOS.allocate(8 << 20))
                #expect(try libOS.isPending(filler))
                let message = pattern(1_000)
                let push = try libOS.push(pair.client, libOS.buffer(message))
                // Whatever is allocated and written meanwhile is other memory.
                for round in 0..<200 {
                    var buffer = try libOS.allocate(1_000)
                    try buffer.replaceContents(with: [UInt8](repeating: UInt8(truncatingIfNeeded: round), count: 1_000))
                }
                _ = try libOS.receive(pair.server, exactly: 8 << 20)
                #expect(try libOS.receive(pair.server, exactly: 1_000) == message)
                #expect(try libOS.outcome(push) == .pushed)
                #expect(try libOS.outcome(filler) == .pushed)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `memory that is freed right after the push lives until the push is done`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(faults: 1) { libOS in
                let pair = try libOS.pair(subject.address())
                let filler = try libOS.push(pair.client, libOS.allocate(8 << 20))
                #expect(try libOS.isPending(filler))
                // As the C face does: an application reference, a libOS reference for the push, and the application's is dropped at once.
                let message = pattern(2_000)
                let raw = unsafe libOS.core.heap.allocateRaw(2_000)!
                unsafe raw.copyMemory(from: message, byteCount: 2_000)
                let segment = unsafe libOS.core.heap.segment(containing: raw, count: 2_000)
                #expect(!segment.isNull)
                let push = libOS.core.operations.token(of: try libOS.core.push(pair.client, .single(segment)))
                unsafe try libOS.core.heap.free(raw)
                let isHeld = unsafe libOS.core.heap.segment(containing: raw, count: 1).isNull
                #expect(isHeld, "the application has no reference any more")
                expect(.invalidArgument) { unsafe try libOS.core.heap.free(raw) }
                var others: [UInt] = []
                for _ in 0..<300 {
                    let other = unsafe libOS.core.heap.allocateRaw(2_000)!
                    unsafe other.initializeMemory(as: UInt8.self, repeating: 0xee, count: 2_000)
                    others.append(UInt(bitPattern: other))
                    unsafe try libOS.core.heap.free(other)
                }
                let isReused = others.contains(UInt(bitPattern: raw))
                #expect(!isReused)
                _ = try libOS.receive(pair.server, exactly: 8 << 20)
                #expect(try libOS.receive(pair.server, exactly: 2_000) == message)
                #expect(try libOS.outcome(push) == .pushed)
                #expect(try libOS.outcome(filler) == .pushed)
                libOS.expectLiveObjects(0)
                // The second free was a fault, and a checked or unchecked heap says so.
                let faults = libOS.core.heap.faults
                #expect(faults.count == 1 && faults.first?.kind == .doubleFree)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `memory that the application keeps outlives its push`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let raw = unsafe libOS.core.heap.allocateRaw(100)!
                unsafe raw.copyMemory(from: pattern(100), byteCount: 100)
                for _ in 0..<3 {
                    let segment = unsafe libOS.core.heap.segment(containing: raw + 10, count: 50)
                    let push = libOS.core.operations.token(of: try libOS.core.push(pair.client, .single(segment)))
                    #expect(try libOS.outcome(push) == .pushed)
                    #expect(try libOS.receive(pair.server) == Array(pattern(100)[10..<60]))
                    libOS.expectLiveObjects(1)
                }
                unsafe try libOS.core.heap.free(raw)
                libOS.expectLiveObjects(0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `memory that is not the heap's is never pushed`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let raw = unsafe libOS.core.heap.allocateRaw(100)!
                let size = unsafe libOS.core.heap.segment(containing: raw, count: 100)
                size.release()
                for (offset, count) in [(0, 129), (100, 29), (-1, 1), (0, Int.max), (64, -1)] {
                    let isNull = unsafe libOS.core.heap.segment(containing: raw + offset, count: count).isNull
                    #expect(isNull, "\(count) bytes at \(offset)")
                }
                var local: UInt64 = 0
                let isForeign = unsafe withUnsafeBytes(of: &local) { unsafe libOS.core.heap.segment(containing: $0.baseAddress!, count: 8).isNull }
                #expect(isForeign)
                unsafe try libOS.core.heap.free(raw)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `slices of one buffer are pushed side by side and free it together`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                let bytes = pattern(900)
                var rest = try libOS.buffer(bytes)
                var pushes: [QToken] = []
                for _ in 0..<8 {
                    let tail = try rest.split(at: 100)
                    pushes.append(try libOS.push(pair.client, rest))
                    rest = tail
                }
                #expect(try libOS.receive(pair.server, exactly: 800) == Array(bytes[..<800]))
                for token in pushes { #expect(try libOS.outcome(token) == .pushed) }
                libOS.expectLiveObjects(1)
                let isLast = rest.contentsEqual(Array(bytes[800...]))
                #expect(isLast)
                _ = consume rest
                libOS.expectLiveObjects(0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `popped memory is the application's until it lets go`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                var kept = ScatterGatherArray()
                for number in 0..<100 {
                    try libOS.send(pair.client, "message \(number)")
                    var popped = try libOS.wait(libOS.pop(pair.server), timeout: .patience).popped()
                    if let buffer = popped.removeFirst() { _ = kept.append(buffer) }
                }
                try libOS.close(pair.server)
                let text = String(decoding: kept.copyToArray(), as: UTF8.self)
                #expect(text == (0..<100).map { "message \($0)" }.joined())
                _ = consume kept
                libOS.expectLiveObjects(0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a completion that is dropped releases what it carried`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                for _ in 0..<50 {
                    try libOS.send(pair.client, "dropped")
                    _ = try libOS.wait(libOS.pop(pair.server), timeout: .patience)
                    libOS.expectLiveObjects(0)
                }
                let queue = try libOS.queue()
                try libOS.send(queue, "no accept")
                expect(.invalidArgument) { _ = try libOS.wait(libOS.pop(queue)).accepted() }
                let push = try libOS.push(queue, "no pop")
                expect(.invalidArgument) { _ = try libOS.wait(push).popped() }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `a buffer popped here can be dropped on another thread`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let pair = try libOS.pair(subject.address())
                for round in 0..<20 {
                    try libOS.send(pair.client, "travels \(round)")
                    var popped = try libOS.wait(libOS.pop(pair.server), timeout: .patience).popped()
                    guard let buffer = popped.removeFirst() else { throw Unexpected(description: "no buffer") }
                    try onPlainThread(carrying: buffer) { buffer in
                        let isRight = buffer.contentsEqual("travels \(round)")
                        #expect(isRight)
                    }
                }
                libOS.core.heap.drainReturns()
                libOS.expectLiveObjects(0)
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `an exhausted heap is an error, and everything works again afterwards`(_ subject: LibOSUnderTest) async throws {
            try await subject.run(adjusting: { $0.heap.limit = 4 << 20; $0.heap.hugePages = .never }) { libOS in
                let pair = try libOS.pair(subject.address())
                for _ in 0..<3 {
                    var hoard: [QToken] = []
                    let queue = try libOS.queue()
                    while let buffer = try? libOS.allocate(60_000) { hoard.append(try libOS.push(queue, buffer)) }
                    #expect(!hoard.isEmpty)
                    expect(.noMemory) { _ = try libOS.allocate(60_000) }
                    try libOS.close(queue)
                    for token in hoard { #expect(try libOS.outcome(token) == .pushed) }
                    try libOS.send(pair.client, "again")
                    #expect(try libOS.receiveText(pair.server) == "again")
                }
                expect(.invalidArgument) { _ = try libOS.allocate(-1) }
                expect(.invalidArgument) { _ = try libOS.allocate(1, headroom: -1) }
                expect(.invalidArgument) { _ = try libOS.allocate(.max, headroom: .max) }
                expect(.noMemory) { _ = try libOS.allocate(.max) }
                expect(.noMemory) { _ = try libOS.allocate(1 << 40) }
            }
        }
    }
}
