/// Something that was done wrong with a heap's memory. Found and recorded, never a trap.
package struct HeapFault: Sendable, Equatable, CustomStringConvertible {
    package enum Kind: Sendable, Equatable {
        /// More references were dropped than taken.
        case doubleFree
        /// A freed object was written to (checked heaps only).
        case writeAfterFree
        /// A pointer that is no object of this heap was freed.
        case foreignPointer
    }

    package let kind: Kind
    package let address: UInt
    /// The bytes of one object of its size class; the whole span's for large ones; 0 for foreign pointers.
    package let objectByteCount: Int
    /// Nanoseconds since the object was freed; nil in unchecked heaps and for foreign pointers.
    package let age: UInt64?

    package var description: String {
        let what =
            switch kind {
            case .doubleFree: "double free of"
            case .writeAfterFree: "write after free to"
            case .foreignPointer: "free of a foreign pointer,"
            }
        let place = " 0x\(String(address, radix: 16))"
        if kind == .foreignPointer { return what + place }
        return what + " the \(objectByteCount)-byte object at" + place + (age.map { ", freed \($0 / 1000) µs before" } ?? "")
    }
}

/// The first faults of a heap, and how many there were.
struct HeapFaultLog {
    static var capacity: Int { 16 }
    private(set) var count = 0
    private var first = InlineArray<16, HeapFault?>(repeating: nil)

    mutating func append(_ fault: HeapFault) {
        if count < HeapFaultLog.capacity { first[count] = fault }
        count += 1
    }

    var all: [HeapFault] { (0..<min(count, HeapFaultLog.capacity)).compactMap { first[$0] } }
}

/// An object that was still referenced when its heap was shut down.
package struct LeakedObject: Sendable, CustomStringConvertible {
    package let address: UInt
    /// The bytes of one object of its size class; the whole span's for large ones.
    package let objectByteCount: Int
    package let applicationReferences: Int
    package let libOSReferences: Int
    /// Nanoseconds since it was allocated; nil in unchecked heaps.
    package let age: UInt64?

    package var description: String {
        "\(objectByteCount)-byte object at 0x\(String(address, radix: 16)): \(applicationReferences) application and \(libOSReferences) libOS"
            + " references" + (age.map { ", allocated \($0 / 1000) µs before" } ?? "")
    }
}

/// What a heap found when it was shut down. Leaked objects stay usable: the arena goes when the last of them is released.
package struct LeakReport: Sendable, CustomStringConvertible {
    package let liveObjects: Int
    package let liveBytes: Int
    /// The first 64 of them.
    package let objects: [LeakedObject]
    /// How many faults there were, and the first 16 of them.
    package let faultCount: Int
    package let faults: [HeapFault]

    package var isClean: Bool { liveObjects == 0 && faultCount == 0 }

    package var description: String {
        if isClean { return "heap: clean" }
        var lines = ["heap: \(liveObjects) objects (\(liveBytes) bytes) leaked, \(faultCount) faults"]
        lines += objects.map { "  leaked \($0)" }
        if liveObjects > objects.count { lines.append("  and \(liveObjects - objects.count) more") }
        lines += faults.map { "  \($0)" }
        return lines.joined(separator: "\n")
    }
}

/// A heap's counters at one moment.
package struct HeapStatistics: Sendable {
    package struct SizeClass: Sendable {
        package var objectByteCount = 0
        package var superblocks = 0
        package var liveObjects = 0
    }

    /// Bytes of address space, and what of them has memory.
    package var limit = 0
    package var groups = 0
    /// Bytes of the groups, which have memory as a whole.
    package var residentBytes: Int { groups * HeapGeometry.groupByteCount }
    /// Groups on reserved huge pages.
    package var hugePageGroups = 0
    /// Groups that cannot be swapped out; fewer than `groups` where RLIMIT_MEMLOCK refused.
    package var lockedGroups = 0
    package var freeSuperblocks = 0
    /// Objects that are referenced or wait in the return queue.
    package var liveObjects = 0
    package var liveBytes = 0
    /// Bytes of superblocks in use, now and at most.
    package var usedBytes = 0
    package var peakUsedBytes = 0
    package var failedAllocations: UInt64 = 0
    /// Objects that came back through the return queue.
    package var remoteReturns: UInt64 = 0
    package var faults = 0
    package var spans = 0
    package var classes = InlineArray<11, SizeClass>(repeating: SizeClass())
}

/// What a heap holds, without a look at each of its objects.
package struct HeapSummary: Sendable {
    package var limit: Int
    /// Bytes made usable, in groups of 2 MiB; and those of them that are on huge pages.
    package var mappedBytes: Int
    package var hugePageBytes: Int
    /// Superblocks in use.
    package var usedBytes: Int
    package var peakUsedBytes: Int
    package var failedAllocations: UInt64
}
