import Glibc
import Synchronization

/// The requests in flight, by slot: a back-end knows a request by its slot, the caller by the number that it gave.
///
/// Insertion and removal take constant time and allocate nothing.
///
/// Invariant: `requests`, `live`, `nextFree` and `cancellations` hold `capacity` initialised elements, `pieces` room for `piecesMaximum` times as many; a slot is either live or on the free
/// list. While a slot is live its request is not written, so the helper thread may read it; `cancellations` is all that both threads write.
@safe
struct FileRequestTable: ~Copyable {
    let capacity: Int
    let requests: UnsafeMutablePointer<FileRequest>
    let cancellations: UnsafeMutablePointer<Atomic<Bool>>
    /// Room for each slot's pieces, untouched until a request has some.
    private let pieces: UnsafeMutablePointer<iovec>
    private let live: UnsafeMutablePointer<Bool>
    private let nextFree: UnsafeMutablePointer<UInt32>
    private var firstFree: UInt32 = 0
    private(set) var count = 0

    private static var none: UInt32 { .max }

    init(capacity: Int) {
        precondition(capacity > 0 && capacity < Int(Self.none))
        self.capacity = capacity
        unsafe requests = .allocate(capacity: capacity)
        unsafe requests.initialize(repeating: FileRequest(kind: .close, descriptor: -1, userData: 0), count: capacity)
        unsafe cancellations = .allocate(capacity: capacity)
        unsafe pieces = .allocate(capacity: capacity * Self.piecesMaximum)
        unsafe live = .allocate(capacity: capacity)
        unsafe live.initialize(repeating: false, count: capacity)
        unsafe nextFree = .allocate(capacity: capacity)
        for slot in 0..<capacity {
            unsafe (cancellations + slot).initialize(to: Atomic(false))
            unsafe (nextFree + slot).initialize(to: slot + 1 < capacity ? UInt32(slot + 1) : Self.none)
        }
    }

    deinit {
        for slot in 0..<capacity where unsafe live[slot] { releasePath(of: slot) }
        unsafe requests.deallocate()
        unsafe cancellations.deinitialize(count: capacity)
        unsafe cancellations.deallocate()
        unsafe pieces.deallocate()
        unsafe live.deallocate()
        unsafe nextFree.deallocate()
    }

    /// Stores `request` and returns its slot; nil where every slot is taken.
    mutating func insert(_ request: FileRequest) -> UInt32? {
        let slot = firstFree
        guard slot != Self.none else { return nil }
        firstFree = unsafe nextFree[Int(slot)]
        unsafe requests[Int(slot)] = request
        unsafe cancellations[Int(slot)].store(false, ordering: .relaxed)
        unsafe live[Int(slot)] = true
        count += 1
        return slot
    }

    /// The most pieces that one request has.
    static var piecesMaximum: Int { 64 }

    /// Stores `request` with the pieces that `fill`, called at once with room for ``piecesMaximum``, puts there, and whose number it answers. Returns
    /// the slot; nil where every slot is taken.
    mutating func insert(_ request: FileRequest, pieces fill: (UnsafeMutablePointer<iovec>) -> Int) -> UInt32? {
        guard let slot = insert(request) else { return nil }
        let room = unsafe pieces + Int(slot) * Self.piecesMaximum
        let count = unsafe fill(room)
        precondition(0...Self.piecesMaximum ~= count)
        var byteCount = 0
        for index in 0..<count { byteCount += unsafe room[index].iov_len }
        unsafe requests[Int(slot)].address = UInt(bitPattern: room)
        unsafe requests[Int(slot)].pieces = UInt32(count)
        unsafe requests[Int(slot)].count = UInt32(min(byteCount, FileRequest.transferMaximum))
        return slot
    }

    /// Takes the request out, once its back-end has reported its end, and frees the path that it may hold.
    mutating func remove(_ slot: UInt32) -> FileRequest {
        precondition(isLive(slot))
        releasePath(of: Int(slot))
        unsafe live[Int(slot)] = false
        unsafe nextFree[Int(slot)] = firstFree
        firstFree = slot
        count -= 1
        return unsafe requests[Int(slot)]
    }

    func isLive(_ slot: UInt32) -> Bool { Int(slot) < capacity && (unsafe live[Int(slot)]) }

    /// The request of a live slot.
    subscript(_ slot: UInt32) -> FileRequest {
        precondition(isLive(slot))
        return unsafe requests[Int(slot)]
    }

    /// The next live request named `userData`, from `start` on, that nobody has asked to cancel yet. Complexity: O(`capacity`).
    func uncancelled(_ userData: UInt64, from start: UInt32 = 0) -> UInt32? {
        for slot in start..<UInt32(capacity)
        where isLive(slot) && (unsafe requests[Int(slot)].userData == userData) && !isCancelled(slot) { return slot }
        return nil
    }

    func isCancelled(_ slot: UInt32) -> Bool { unsafe cancellations[Int(slot)].load(ordering: .acquiring) }
    func markCancelled(_ slot: UInt32) { unsafe cancellations[Int(slot)].store(true, ordering: .releasing) }

    private func releasePath(of slot: Int) {
        if unsafe requests[slot].kind == .open { unsafe free(requests[slot].pointer) }
    }
}
