/// Every heap of the process, so that C callers may free on any thread. Off every hot path: a thread's own heap is asked first.
///
/// Invariant: `lock` and `table` are made once and never go; `table` is touched under `lock` only.
@safe enum HeapRegistry {
    @safe private struct Entry {
        let base: UInt
        let end: UInt
        let state: UnsafeMutablePointer<HeapState>
        /// Addresses come back, numbers do not.
        let number: Int
    }

    private struct Table {
        var entries: [Entry] = []
        var lastNumber = 0
    }

    // Not `Synchronization.Mutex`: the thread sanitizer does not see through it.
    nonisolated(unsafe) private static let lock: UnsafeMutablePointer<UInt64> = {
        let word = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
        unsafe word.initialize(to: 0)
        return unsafe word
    }()
    nonisolated(unsafe) private static let table: UnsafeMutablePointer<Table> = {
        let table = UnsafeMutablePointer<Table>.allocate(capacity: 1)
        unsafe table.initialize(to: Table())
        return unsafe table
    }()

    private static func withTable<Result>(_ body: (inout Table) -> Result) -> Result {
        unsafe SpinLock.lock(lock)
        defer { unsafe SpinLock.unlock(lock) }
        return unsafe body(&table.pointee)
    }

    /// Answers the heap's number, which no other heap of the process ever has.
    static func add(_ state: UnsafeMutablePointer<HeapState>) -> Int {
        let base = unsafe UInt(bitPattern: state.pointee.arena.base)
        let end = unsafe base + UInt(state.pointee.arena.byteCount)
        return withTable { table in
            table.lastNumber += 1
            unsafe table.entries.append(Entry(base: base, end: end, state: state, number: table.lastNumber))
            return table.lastNumber
        }
    }

    static func remove(_ number: Int) {
        withTable { table in table.entries.removeAll { $0.number == number } }
    }

    static func contains(_ number: Int) -> Bool {
        withTable { table in table.entries.contains { $0.number == number } }
    }

    /// The heap in whose arena `address` lies. Complexity: O(heaps).
    static func heap(of address: UnsafeRawPointer) -> UnsafeMutablePointer<HeapState>? {
        let address = UInt(bitPattern: address)
        let found = withTable { table in table.entries.first { $0.base <= address && address < $0.end } }
        return unsafe found?.state
    }
}
