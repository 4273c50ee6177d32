import CDemikernelShims
import Demikernel
import Glibc

/// What a process and its libOS hold at one moment, when nothing is under way. ``SoakJudge`` compares two.
struct SoakGauges {
    var residentBytes: Int
    /// What the process has allocated outside of the libOS's heap.
    var allocatedBytes: Int
    /// The libOS's heap: memory that it has made usable and never gives back, and what of it is in use.
    var heapMappedBytes: Int
    var heapObjects: Int
    var heapBytes: Int
    var descriptors: Int
    var timers: Int
    var queues: Int
    var operations: Int
    var connections: Int
    var timeWaits: Int

    /// The least of each that either has: what comes and goes is not held.
    func least(_ other: SoakGauges) -> SoakGauges {
        SoakGauges(
            residentBytes: min(residentBytes, other.residentBytes), allocatedBytes: min(allocatedBytes, other.allocatedBytes),
            heapMappedBytes: min(heapMappedBytes, other.heapMappedBytes), heapObjects: min(heapObjects, other.heapObjects),
            heapBytes: min(heapBytes, other.heapBytes), descriptors: min(descriptors, other.descriptors), timers: min(timers, other.timers),
            queues: min(queues, other.queues), operations: min(operations, other.operations), connections: min(connections, other.connections),
            timeWaits: min(timeWaits, other.timeWaits))
    }
}

extension SoakGauges {
    /// On the libOS's thread.
    init(_ libOS: LibOS) {
        let statistics = libOS.core.heap.statistics
        heapMappedBytes = statistics.residentBytes
        heapObjects = statistics.liveObjects
        heapBytes = statistics.liveBytes
        timers = libOS.core.timers.count + libOS.core.network.stack.tcp.armedTimerCount
        queues = libOS.core.queues.count
        operations = libOS.core.operations.count
        connections = libOS.core.network.stack.tcp.connectionCount
        timeWaits = libOS.core.network.stack.tcp.timeWaitCount
        residentBytes = Self.resident
        allocatedBytes = Int(dk_allocated_bytes())
        descriptors = Self.openDescriptors
    }

    /// The second number of /proc/self/statm, in pages.
    private static var resident: Int {
        guard let file = unsafe fopen("/proc/self/statm", "r") else { return 0 }
        defer { unsafe _ = fclose(file) }
        var text = [UInt8](repeating: 0, count: 256)
        let count = unsafe text.withUnsafeMutableBytes { unsafe fread($0.baseAddress, 1, $0.count, file) }
        let numbers = text[..<count].split(separator: 0x20).map { String(decoding: $0, as: UTF8.self) }
        return (numbers.count > 1 ? Int(numbers[1]) ?? 0 : 0) * sysconf(Int32(_SC_PAGESIZE))
    }

    private static var openDescriptors: Int {
        guard let folder = unsafe opendir("/proc/self/fd") else { return 0 }
        defer { unsafe _ = closedir(folder) }
        var count = 0
        while unsafe readdir(folder) != nil { count += 1 }
        // Without the two dots, and the folder itself.
        return count - 3
    }

    var object: JSONObject {
        var object = JSONObject()
        object.add("residentBytes", residentBytes)
        object.add("allocatedBytes", allocatedBytes)
        object.add("heapMappedBytes", heapMappedBytes)
        object.add("heapObjects", heapObjects)
        object.add("heapBytes", heapBytes)
        object.add("descriptors", descriptors)
        object.add("timers", timers)
        object.add("queues", queues)
        object.add("operations", operations)
        object.add("connections", connections)
        object.add("timeWaits", timeWaits)
        return object
    }

    var text: String {
        "\((residentBytes >> 20).grouped) MiB resident (heap \((heapMappedBytes >> 20).grouped)), \((allocatedBytes >> 10).grouped) KiB allocated,"
            + " \(heapObjects.grouped) objects, \(descriptors) descriptors, \(timers.grouped) timers, \(queues) queues, \(connections) connections"
            + " and \(timeWaits) in TIME_WAIT"
    }
}

/// Keeps a process to a share of a processor: whoever is about to do something asks first how long to wait.
struct SoakPace {
    private let share: Double
    private var began = (real: 0.0, processor: 0.0)

    /// `share` is of one processor; 0 for no limit.
    init(share: Double) {
        self.share = share
        restart()
    }

    /// Time that was spent waiting for peers is not to be made up for.
    mutating func restart() { began = (Self.seconds(CLOCK_MONOTONIC), Self.seconds(CLOCK_PROCESS_CPUTIME_ID)) }

    /// Milliseconds to wait until the share is kept; 0 for none.
    mutating func wait() -> Int {
        guard share > 0 else { return 0 }
        let real = Self.seconds(CLOCK_MONOTONIC) - began.real
        let due = (Self.seconds(CLOCK_PROCESS_CPUTIME_ID) - began.processor) / share - real
        if due < -1 { restart() }
        return due <= 0 ? 0 : min(1_000, max(1, Int(due * 1_000)))
    }

    private static func seconds(_ clock: clockid_t) -> Double {
        var time = timespec()
        unsafe _ = clock_gettime(clock, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}
