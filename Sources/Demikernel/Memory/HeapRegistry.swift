import Synchronization

/// Every heap of the process, so that C callers may free on any thread. Off every hot path: a thread's own heap is asked first.
@safe enum HeapRegistry {
    @safe private struct Entry: @unchecked Sendable {
        let base: UInt
        let end: UInt
        let state: UnsafeMutablePointer<HeapState>
    }

    private static let entries = Mutex<[Entry]>([])

    static func add(_ state: UnsafeMutablePointer<HeapState>) {
        let base = unsafe UInt(bitPattern: state.pointee.arena.base)
        let entry = unsafe Entry(base: base, end: base + UInt(state.pointee.arena.byteCount), state: state)
        entries.withLock { $0.append(entry) }
    }

    static func remove(_ state: UnsafeMutablePointer<HeapState>) {
        let address = UInt(bitPattern: state)
        entries.withLock { list in list.removeAll { UInt(bitPattern: unsafe $0.state) == address } }
    }

    /// The heap in whose arena `address` lies. Complexity: O(heaps).
    static func heap(of address: UnsafeRawPointer) -> UnsafeMutablePointer<HeapState>? {
        let address = UInt(bitPattern: address)
        let found = entries.withLock { list in list.first { $0.base <= address && address < $0.end } }
        return unsafe found?.state
    }
}
