import Testing
@testable import Demikernel

@Suite struct OperationTableTests {
    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `a random history agrees with a dictionary`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        let capacity = 40
        var table = try OperationTable(capacity: capacity)
        var model: [QToken: (kind: OperationKind, queue: UInt32)] = [:]
        var stale: Set<QToken> = []
        for step in 0..<8_000 as Range<UInt32> {
            if Int.random(in: 0..<5, using: &generator) < 3 {
                let kind: OperationKind = Bool.random(using: &generator) ? .pop : .push
                let slot = table.insert(kind, queue: step)
                #expect((slot == nil) == (model.count == capacity))
                guard let slot else { continue }
                let token = table.token(of: slot)
                #expect(model[token] == nil && !stale.contains(token), "a token is given out once")
                #expect(token.rawValue != 0 && token.rawValue != .max)
                model[token] = (kind, step)
            } else {
                guard let token = model.keys.sorted(by: { $0.slot < $1.slot }).randomElement(using: &generator) else { continue }
                table.remove(token.slot)
                model[token] = nil
                stale.insert(token)
            }
            #expect(table.count == model.count)
        }
        for (token, value) in model {
            #expect(table.contains(token) == true)
            #expect(table[token.slot].kind == value.kind)
            #expect(table[token.slot].queue == value.queue)
            #expect(table[token.slot].phase == .pending)
        }
        for token in stale { #expect(table.contains(token) == false) }
    }

    @Test func `a new tenant has nothing of the one before`() throws {
        var table = try OperationTable(capacity: 1)
        let slot = try required(table.insert(.push, queue: 1))
        table[slot].errno = 5
        table[slot].flags = [.parked, .hasAddress, .inFlight, .awaited]
        table[slot].hint = 9
        table.remove(slot)
        #expect(table.insert(.pop, queue: 2) == slot)
        let fresh = table[slot]
        #expect(fresh.errno == 0 && fresh.flags.isEmpty && fresh.hint == Operation.none)
        #expect(fresh.queue == 2 && fresh.kind == .pop && fresh.segments.isEmpty)
    }

    @Test func `forged tokens name nothing`() throws {
        var table = try OperationTable(capacity: 8)
        let slot = try required(table.insert(.pop, queue: 0))
        let token = table.token(of: slot)
        for forged in [0, .max, token.rawValue + 1, token.rawValue + 1 << 32, token.rawValue + 2 << 32, token.rawValue | 1 << 31] as [UInt64] {
            #expect(table.contains(QToken(rawValue: forged)) == false)
        }
        #expect(table.contains(token) == true)
        table.remove(slot)
        // The even generation that the free slot has now.
        #expect(table.contains(QToken(slot: slot, generation: token.generation &+ 1)) == false)
    }

    @Test func `operations lie on two cache lines`() {
        #expect(MemoryLayout<Operation>.stride == 128)
        #expect(MemoryLayout<Operation>.offset(of: \.continuation) == 64)
    }
}

@Suite struct OperationListTests {
    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `two lists over one table agree with two arrays`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var table = try OperationTable(capacity: 32)
        var lists = [OperationList(), OperationList()]
        var models: [[UInt32]] = [[], []]
        for _ in 0..<6_000 {
            let which = Int.random(in: 0..<2, using: &generator)
            switch Int.random(in: 0..<4, using: &generator) {
            case 0, 1:
                guard let slot = table.insert(.pop, queue: 0) else { continue }
                lists[which].append(slot, in: table)
                models[which].append(slot)
            case 2:
                guard let slot = models[which].first else { continue }
                #expect(lists[which].first == slot)
                lists[which].remove(slot, in: table)
                models[which].removeFirst()
                table.remove(slot)
            default:
                guard let position = models[which].indices.randomElement(using: &generator) else { continue }
                let slot = models[which].remove(at: position)
                lists[which].remove(slot, in: table)
                // From one list to the other, as a completion goes.
                if Bool.random(using: &generator) {
                    lists[1 - which].append(slot, in: table)
                    models[1 - which].append(slot)
                } else {
                    table.remove(slot)
                }
            }
            for side in 0..<2 { #expect(slots(of: lists[side], in: table) == models[side]) }
        }
    }

    private func slots(of list: OperationList, in table: borrowing OperationTable) -> [UInt32] {
        var slots: [UInt32] = []
        var slot = list.first
        while slot != Operation.none, slots.count <= table.capacity {
            slots.append(slot)
            slot = table[slot].next
        }
        return slots
    }
}

@Suite struct CompletionListTests {
    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `the boundary between looked-at and new agrees with two arrays`(seed: UInt64) throws {
        var generator = SplitMix64(seed: seed)
        var table = try OperationTable(capacity: 24)
        var list = CompletionList()
        var parked: [UInt32] = []
        var new: [UInt32] = []
        for _ in 0..<6_000 {
            switch Int.random(in: 0..<6, using: &generator) {
            case 0, 1, 2:
                guard let slot = table.insert(.pop, queue: 0) else { continue }
                list.append(slot, in: table)
                new.append(slot)
            case 3:
                guard !new.isEmpty else { continue }
                list.parkNextNew(in: table)
                parked.append(new.removeFirst())
            default:
                guard let slot = (parked + new).randomElement(using: &generator) else { continue }
                list.remove(slot, in: table)
                table.remove(slot)
                parked.removeAll { $0 == slot }
                new.removeAll { $0 == slot }
            }
            #expect(list.first == parked.first ?? new.first)
            #expect(list.nextNew == new.first)
            #expect(list.parkedCount == parked.count)
        }
    }
}
