import Glibc
import SystemPackage
import Testing
@testable import Demikernel

/// Random requests against arrays that stand for files, and the parts that the engine is made of.
@Suite(.timeLimit(.minutes(2))) struct FileEngineModelTests {
    /// Requests on one file follow each other, those on different files overlap, and each file ends as its model does.
    @Test(arguments: FileBackendUnderTest.available, [1, 2, 3] as [UInt64])
    func `random requests leave every file as its model`(backend: FileBackendUnderTest, seed: UInt64) throws {
        let engine = try makeEngine(backend, depth: 16)
        var generator = FileTestGenerator(seed: seed)
        let files = try (0..<16).map { _ in try TemporaryFile() }
        var models = [[UInt8]](repeating: [], count: 16)
        for step in 0..<200 {
            var expected = [Int32](repeating: 0, count: 16)
            var reads: [(file: Int, start: Int, memory: Bytes)] = []
            var keep: [Bytes] = []
            for index in 0..<16 {
                let descriptor = files[index].descriptor
                let offset = Int.random(in: 0...3000, using: &generator)
                let userData = UInt64(index)
                switch Int.random(in: 0..<10, using: &generator) {
                case 0..<4:
                    let memory = Bytes(count: Int.random(in: 1...500, using: &generator), filledWith: UInt8(truncatingIfNeeded: step + index))
                    keep.append(memory)
                    let count = memory.array.count
                    if step % 3 == 0 {
                        #expect(engine.write(descriptor, memory, pieces: Int.random(in: 1...64, using: &generator), at: Int64(offset), userData: userData))
                    } else {
                        #expect(engine.write(descriptor, memory, at: Int64(offset), userData: userData))
                    }
                    if models[index].count < offset { models[index] += [UInt8](repeating: 0, count: offset - models[index].count) }
                    models[index].replaceSubrange(offset..<min(offset + count, models[index].count), with: memory.array)
                    expected[index] = Int32(count)
                case 4..<8:
                    let memory = Bytes(count: 500)
                    reads.append((index, offset, memory))
                    #expect(engine.read(descriptor, memory, at: Int64(offset), userData: userData))
                    expected[index] = Int32(max(0, min(500, models[index].count - offset)))
                case 8:
                    #expect(engine.truncate(descriptor, length: Int64(offset), userData: userData))
                    models[index] = Array(models[index].prefix(offset))
                    models[index] += [UInt8](repeating: 0, count: offset - models[index].count)
                default:
                    #expect(engine.synchronize(descriptor, dataOnly: step % 2 == 0, userData: userData))
                }
            }
            #expect(try engine.complete(16).map(\.result) == expected)
            for (index, start, memory) in reads {
                #expect(memory.array.prefix(Int(expected[index])) == models[index].dropFirst(start).prefix(500))
            }
            keep.removeAll()
        }
        for (file, model) in zip(files, models) { #expect(file.contents == model) }
    }

    @Test func `what one thread appends another takes, in order and whole`() {
        final class Shared: @unchecked Sendable { let handoff = FileHandoff<UInt64>(capacity: 100) }
        let shared = Shared()
        var thread = pthread_t()
        let context = unsafe Unmanaged.passRetained(shared).toOpaque()
        unsafe pthread_create(&thread, nil, { context in
            let shared = unsafe Unmanaged<Shared>.fromOpaque(context!).takeRetainedValue()
            // The taker confirms nothing, so that the appender stays within the capacity by counting in hundreds.
            for number in 0..<100 { shared.handoff.append(UInt64(number) &* 0x0101_0101_0101_0101) }
            return nil
        }, context)
        var next: UInt64 = 0
        while next < 100 {
            guard let number = shared.handoff.take() else { continue }
            #expect(number == next &* 0x0101_0101_0101_0101)
            next += 1
        }
        pthread_join(thread, nil)
        let isEmpty = shared.handoff.isEmpty
        #expect(isEmpty)
        var mistakes = 0
        for round in 0..<1000 {
            for number in 0..<128 { shared.handoff.append(UInt64(round * number)) }
            for number in 0..<128 where shared.handoff.take() != UInt64(round * number) { mistakes += 1 }
        }
        #expect(mistakes == 0)
    }

    @Test func `a table gives each live request its own slot`() throws {
        var table = FileRequestTable(capacity: 5)
        var slots: [UInt32] = []
        for index in 0..<5 {
            let slot = table.insert(FileRequest(kind: .read, descriptor: 1, userData: UInt64(index % 2)))
            slots.append(try #require(slot))
        }
        let refused = table.insert(FileRequest(kind: .read, descriptor: 1, userData: 9))
        #expect(refused == nil && Set(slots).count == 5)
        let first = table.uncancelled(1)
        #expect(first == slots[1])
        table.markCancelled(slots[1])
        let second = table.uncancelled(1)
        #expect(second == slots[3])
        let removed = table.remove(slots[1])
        #expect(removed.userData == 1)
        let again = table.insert(FileRequest(kind: .read, descriptor: 1, userData: 7))
        #expect(again == slots[1])
        let (cancelled, live, count) = (table.isCancelled(slots[1]), table.isLive(99), table.count)
        #expect(!cancelled && !live && count == 5)
    }
}
