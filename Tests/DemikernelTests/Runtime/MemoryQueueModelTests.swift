import SystemPackage
import Testing
@testable import Demikernel

/// Memory queues against arrays: whatever the interleaving of push, pop, cancel and close, every operation completes exactly once, in the
/// order and with the data that the model says.
@Suite struct MemoryQueueModelTests {
    private struct Model {
        struct Queue {
            var stored: [UInt32] = []
            var readers: [QToken] = []
            var writers: [(token: QToken, number: UInt32)] = []
        }

        let capacity: Int
        var queues: [QueueDescriptor: Queue] = [:]
        var completed: [Outcome] = []

        mutating func push(_ queue: QueueDescriptor, _ token: QToken, _ number: UInt32) {
            if !queues[queue]!.readers.isEmpty {
                complete(queues[queue]!.readers.removeFirst(), popped: number)
                complete(token)
            } else if queues[queue]!.stored.count < capacity {
                queues[queue]!.stored.append(number)
                complete(token)
            } else {
                queues[queue]!.writers.append((token, number))
            }
        }

        mutating func pop(_ queue: QueueDescriptor, _ token: QToken) {
            guard !queues[queue]!.stored.isEmpty else { return queues[queue]!.readers.append(token) }
            complete(token, popped: queues[queue]!.stored.removeFirst())
            guard !queues[queue]!.writers.isEmpty else { return }
            let writer = queues[queue]!.writers.removeFirst()
            queues[queue]!.stored.append(writer.number)
            complete(writer.token)
        }

        mutating func cancel(_ token: QToken) {
            for descriptor in queues.keys {
                if let place = queues[descriptor]!.readers.firstIndex(of: token) {
                    queues[descriptor]!.readers.remove(at: place)
                    complete(token, errno: .canceled)
                }
                if let place = queues[descriptor]!.writers.firstIndex(where: { $0.token == token }) {
                    let writer = queues[descriptor]!.writers.remove(at: place)
                    complete(token, errno: .canceled, returned: writer.number)
                }
            }
        }

        mutating func close(_ descriptor: QueueDescriptor) {
            guard let queue = queues.removeValue(forKey: descriptor) else { return }
            for reader in queue.readers { complete(reader, errno: .canceled) }
            for writer in queue.writers { complete(writer.token, errno: .canceled, returned: writer.number) }
        }

        private mutating func complete(_ token: QToken, errno: Errno? = nil, popped: UInt32? = nil, returned: UInt32? = nil) {
            completed.append(Outcome(token: token, errno: errno?.rawValue, popped: popped, returned: returned))
        }
    }

    @Test(arguments: [1, 2, 3, 16], 1...8 as ClosedRange<UInt64>)
    func `every operation completes exactly once`(capacity: Int, seed: UInt64) throws {
        var generator = SplitMix64(seed: seed &* 100 &+ UInt64(capacity))
        let libOS = try smallLibOS(operations: 512, queueCapacity: capacity)
        var model = Model(capacity: capacity)
        var outstanding: [QToken] = []
        var taken: [QToken] = []
        for step in 0..<3_000 as Range<UInt32> {
            let queue = model.queues.keys.sorted { $0.rawValue < $1.rawValue }.randomElement(using: &generator)
            switch Int.random(in: 0..<100, using: &generator) {
            case 0..<2 where model.queues.count < 4:
                model.queues[try libOS.queue()] = Model.Queue()
            case 2..<3:
                guard let queue else { continue }
                try libOS.close(queue)
                model.close(queue)
                expectError(.badFileDescriptor) { _ = try libOS.pop(queue) }
                expectError(.badFileDescriptor) { _ = try libOS.push(queue, try libOS.numbered(0)) }
                expectError(.badFileDescriptor) { try libOS.close(queue) }
            case 3..<35:
                guard let queue, outstanding.count < 500 else { continue }
                let token = try libOS.push(queue, try libOS.numbered(step))
                outstanding.append(token)
                model.push(queue, token, step)
            case 35..<67:
                guard let queue, outstanding.count < 500 else { continue }
                let token = try libOS.pop(queue)
                outstanding.append(token)
                model.pop(queue, token)
            case 67..<80:
                guard let token = outstanding.randomElement(using: &generator) else { continue }
                if model.completed.contains(where: { $0.token == token }) {
                    expectError(.alreadyInProcess) { try libOS.cancel(token) }
                } else {
                    try libOS.cancel(token)
                    model.cancel(token)
                }
            case 80..<83:
                guard let token = taken.randomElement(using: &generator) else { continue }
                expectError(.invalidArgument) { try libOS.cancel(token) }
                expectError(.invalidArgument) { _ = try libOS.wait(token) }
            case 83..<90:
                // Out of order, by name.
                guard let place = model.completed.indices.randomElement(using: &generator) else { continue }
                let expected = model.completed.remove(at: place)
                #expect(Outcome(try libOS.wait(expected.token, timeout: .zero)) == expected)
                outstanding.removeAll { $0 == expected.token }
                taken.append(expected.token)
            default:
                if let expected = model.completed.first {
                    model.completed.removeFirst()
                    try libOS.waitNext(1, timeout: .zero) { #expect(Outcome($0) == expected) }
                    outstanding.removeAll { $0 == expected.token }
                    taken.append(expected.token)
                } else {
                    expectError(.timedOut) { try libOS.waitNext(1, timeout: .zero) { _ in } }
                }
            }
            #expect(libOS.core.operations.count == outstanding.count)
        }
        for queue in model.queues.keys.sorted(by: { $0.rawValue < $1.rawValue }) {
            try libOS.close(queue)
            model.close(queue)
        }
        var last: [Outcome] = []
        while libOS.core.operations.count > 0 { try libOS.waitNext(64, timeout: .zero) { last.append(Outcome($0)) } }
        #expect(last == model.completed)
        #expect(Set(last.map(\.token)).isDisjoint(with: taken))
        #expect(libOS.core.heap.statistics.liveObjects == 0)
    }
}
