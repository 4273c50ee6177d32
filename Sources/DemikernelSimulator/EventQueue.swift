/// What is to happen, and when: a binary heap by time, and among equal times by the order of insertion.
struct EventQueue {
    enum Event {
        /// A frame reaches the far end of a link.
        case arrival(LinkDirection, [UInt8])
        /// A node asked to be called at this time; stale where it has asked for another since.
        case wake(any SimulatedNode, ticket: UInt64)
        case action(() -> Void)
    }

    struct Entry {
        let time: UInt64
        let order: UInt64
        let event: Event

        func precedes(_ other: Entry) -> Bool { (time, order) < (other.time, other.order) }
    }

    private var entries: [Entry] = []
    private var inserted: UInt64 = 0

    var isEmpty: Bool { entries.isEmpty }
    var count: Int { entries.count }
    /// The time of the first event.
    var next: UInt64? { entries.first?.time }

    /// Complexity: O(log count).
    mutating func insert(_ event: Event, at time: UInt64) {
        entries.append(Entry(time: time, order: inserted, event: event))
        inserted += 1
        var index = entries.count - 1
        while index > 0 {
            let parent = (index - 1) / 2
            guard entries[index].precedes(entries[parent]) else { return }
            entries.swapAt(index, parent)
            index = parent
        }
    }

    /// Takes the first event out. Complexity: O(log count).
    mutating func removeFirst() -> Entry? {
        guard let last = entries.popLast() else { return nil }
        guard let first = entries.first else { return last }
        entries[0] = last
        var index = 0
        while true {
            var least = index
            for child in [2 * index + 1, 2 * index + 2] where child < entries.count && entries[child].precedes(entries[least]) { least = child }
            guard least != index else { return first }
            entries.swapAt(index, least)
            index = least
        }
    }
}
