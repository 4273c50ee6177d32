import Synchronization

/// Every heap of the process, so that C callers may free on any thread. Off every hot path: a thread's own heap is asked first.
@safe enum HeapRegistry {
    @safe private struct Entry: @unchecked Sendable {
        let base: UInt
        let end: UInt
        let state: UnsafeMutablePointer<HeapState>
        /// Addresses come back, numbers do not.
        let number: Int
    }

    private struct Heaps {
        var entries: [Entry] = []
        var lastNumber = 0
    }

    private static let heaps = Mutex(Heaps())

    /// Answers the heap's number, which no other heap of the process ever has.
    static func add(_ state: UnsafeMutablePointer<HeapState>) -> Int {
        let base = unsafe UInt(bitPattern: state.pointee.arena.base)
        let end = unsafe base + UInt(state.pointee.arena.byteCount)
        let address = UInt(bitPattern: state)
        return heaps.withLock { heaps in
            heaps.lastNumber += 1
            let state = unsafe UnsafeMutablePointer<HeapState>(bitPattern: address).unsafelyUnwrapped
            unsafe heaps.entries.append(Entry(base: base, end: end, state: state, number: heaps.lastNumber))
            return heaps.lastNumber
        }
    }

    static func remove(_ number: Int) {
        heaps.withLock { heaps in heaps.entries.removeAll { $0.number == number } }
    }

    static func contains(_ number: Int) -> Bool {
        heaps.withLock { heaps in heaps.entries.contains { $0.number == number } }
    }

    /// The heap in whose arena `address` lies. Complexity: O(heaps).
    static func heap(of address: UnsafeRawPointer) -> UnsafeMutablePointer<HeapState>? {
        let address = UInt(bitPattern: address)
        let found = heaps.withLock { heaps in heaps.entries.first { $0.base <= address && address < $0.end } }
        return unsafe found?.state
    }
}
