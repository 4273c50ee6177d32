import Testing
@testable import Demikernel

/// Counts what is destroyed, through memory that outlives the slab.
private struct Tracked: ~Copyable {
    let value: Int
    let destroyed: Counter
    deinit { destroyed.count += 1 }
}

private struct Missing: Error {}

private final class Counter {
    var count = 0
}

@Suite struct SlabTests {
    @Test func `a random history agrees with a dictionary`() throws {
        var generator = SplitMix64(seed: 7)
        var slab = try Slab<Int>(capacity: 50)
        var model: [Slab<Int>.Key: Int] = [:]
        var stale: [Slab<Int>.Key] = []
        for step in 0..<20_000 {
            switch Int.random(in: 0..<4, using: &generator) {
            case 0, 1:
                let key = slab.insert(step)
                #expect((key == nil) == (model.count == 50))
                if let key {
                    #expect(model[key] == nil)
                    model[key] = step
                }
            case 2:
                guard let key = model.keys.sorted(by: { $0.slot < $1.slot }).randomElement(using: &generator) else { continue }
                #expect(slab.remove(key) == model.removeValue(forKey: key))
                stale.append(key)
            default:
                guard let key = model.keys.sorted(by: { $0.slot < $1.slot }).randomElement(using: &generator) else { continue }
                slab[key] += 1
                model[key]! += 1
                #expect(slab[unchecked: key.slot] == model[key])
            }
            #expect(slab.count == model.count)
        }
        for (key, value) in model {
            #expect(slab.contains(key) == true)
            #expect(slab.key(of: key.slot) == key)
            #expect(slab[key] == value)
        }
        for key in stale {
            #expect(slab.contains(key) == false)
            #expect(slab.remove(key) == nil)
        }
    }

    @Test func `a key does not reach the slot's next tenant`() throws {
        var slab = try Slab<String>(capacity: 1)
        let first = try required(slab.insert("first"))
        #expect(slab.remove(first) == "first")
        let second = try required(slab.insert("second"))
        #expect(second.slot == first.slot)
        #expect(slab.contains(first) == false)
        #expect(slab.remove(first) == nil)
        #expect(slab[second] == "second")
    }

    @Test func `forged keys are recognised`() throws {
        var slab = try Slab<Int>(capacity: 4)
        let key = try required(slab.insert(1))
        #expect(slab.contains(.init(slot: 1, generation: 0)) == false)
        #expect(slab.contains(.init(slot: 4, generation: 1)) == false)
        #expect(slab.contains(.init(slot: .max, generation: .max)) == false)
        #expect(slab.contains(.init(slot: key.slot, generation: key.generation)) == true)
        #expect(slab.key(of: 1) == nil)
        #expect(slab.key(of: .max) == nil)
        _ = slab.remove(key)
        #expect(slab.contains(.init(slot: key.slot, generation: key.generation &+ 1)) == false)
    }

    @Test func `a full slab leaves the element with its owner`() throws {
        let counter = Counter()
        var slab = try Slab<Tracked>(capacity: 1)
        var first: Tracked? = Tracked(value: 1, destroyed: counter)
        let key = slab.insert(taking: &first)
        #expect(key != nil)
        let emptied = first == nil
        #expect(emptied)
        var second: Tracked? = Tracked(value: 2, destroyed: counter)
        let refused = slab.insert(taking: &second)
        #expect(refused == nil)
        #expect(counter.count == 0)
        guard let survivor = second.take() else { throw Missing() }
        #expect(survivor.value == 2)
        #expect(slab.isFull == true)
    }

    @Test func `what is left is destroyed with the slab, once`() throws {
        let counter = Counter()
        do {
            var slab = try Slab<Tracked>(capacity: 1000)
            var keys: [Slab<Tracked>.Key] = []
            for value in 0..<100 { keys.append(try required(slab.insert(Tracked(value: value, destroyed: counter)))) }
            for key in keys.prefix(40) {
                guard let removed = slab.remove(key) else { throw Missing() }
                #expect(removed.value == Int(key.slot))
            }
            #expect(counter.count == 40)
            #expect(slab.count == 60)
        }
        #expect(counter.count == 100)
    }

    @Test func `live slots are walked in order`() throws {
        var slab = try Slab<UInt8>(capacity: 10)
        let keys = (0..<6).compactMap { slab.insert($0) }
        for index in [0, 2, 5] { #expect(slab.remove(keys[index]) == UInt8(index)) }
        var seen: [UInt32] = []
        var next = slab.firstLive(from: 0)
        while let slot = next {
            seen.append(slot)
            next = slab.firstLive(from: slot + 1)
        }
        #expect(seen == [1, 3, 4])
    }

    @Test(arguments: [0, -1, Int(UInt32.max), Int.max, Int.min])
    func `a capacity out of range is refused`(capacity: Int) {
        #expect(throws: DemikernelError(.invalidArgument, "")) { _ = try Slab<Int>(capacity: capacity) }
    }

    @Test func `more than the address space holds is refused`() {
        #expect(throws: DemikernelError(.noMemory, "")) {
            _ = try Slab<InlineArray<65536, UInt64>>(capacity: Slab<InlineArray<65536, UInt64>>.capacityMax)
        }
    }

    @Test func `small and empty elements work`() throws {
        var bytes = try Slab<UInt8>(capacity: 300)
        let byteKeys = (0..<300).compactMap { bytes.insert(UInt8(truncatingIfNeeded: $0)) }
        #expect(byteKeys.count == 300)
        for (index, key) in byteKeys.enumerated() { #expect(bytes[key] == UInt8(truncatingIfNeeded: index)) }
        var voids = try Slab<Void>(capacity: 2)
        let first = try required(voids.insert(()))
        #expect(voids.insert(()) != nil)
        #expect(voids.insert(()) == nil)
        #expect(voids.remove(first) != nil)
        #expect(voids.insert(())?.slot == first.slot)
    }
}

/// The value, or a test that ends here; `#require` itself takes no call of a mutating or noncopyable value's method.
func required<Value>(_ value: Value?, at location: SourceLocation = #_sourceLocation) throws -> Value {
    try #require(value, sourceLocation: location)
}
