import Glibc
@testable import DemikernelPacketdrill

/// Calls the table as packetdrill does.
///
/// Invariant: `table` holds 33 words, filled in by `packetdrill_interface_init`. Sendable unchecked: packetdrill calls from two threads as well.
@safe
final class Driver: @unchecked Sendable {
    private let table: UnsafeMutableRawPointer

    init(_ flags: String = "") {
        unsafe table = .allocate(byteCount: 33 * 8, alignment: 8)
        unsafe table.initializeMemory(as: UInt8.self, repeating: 0, count: 33 * 8)
        unsafe flags.withCString { unsafe packetdrill_interface_init($0, table) }
    }

    deinit {
        unsafe function(.free, as: (@convention(c) (UnsafeMutableRawPointer?) -> Void).self)(user)
        unsafe table.deallocate()
    }

    var words: [UInt] { (0..<33).map { unsafe table.load(fromByteOffset: $0 * 8, as: UInt.self) } }
    private var user: UnsafeMutableRawPointer? { unsafe table.load(as: UnsafeMutableRawPointer?.self) }
    private func function<Function>(_ slot: PacketdrillTable.Slot, as type: Function.Type) -> Function {
        unsafe table.load(fromByteOffset: slot.rawValue * 8, as: type)
    }

    typealias Numbers = @convention(c) (UnsafeMutableRawPointer?, Int32, Int32, Int32) -> Int32
    typealias Address = @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafeMutableRawPointer?, UInt32) -> Int32
    typealias Accept = @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafeMutableRawPointer?, UnsafeMutablePointer<UInt32>?) -> Int32
    typealias Transfer = @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafeMutableRawPointer?, Int) -> Int
    typealias Set = @convention(c) (UnsafeMutableRawPointer?, Int32, Int32, Int32, UnsafeMutableRawPointer?, UInt32) -> Int32
    typealias Get = @convention(c) (UnsafeMutableRawPointer?, Int32, Int32, Int32, UnsafeMutableRawPointer?, UnsafeMutablePointer<UInt32>?) -> Int32
    typealias Inject = @convention(c) (UnsafeMutableRawPointer?, UnsafeMutableRawPointer?, Int) -> Int32
    typealias Sniff = @convention(c) (UnsafeMutableRawPointer?, UnsafeMutableRawPointer?, UnsafeMutablePointer<Int>?, UnsafeMutablePointer<Int64>?) -> Int32
    typealias Sleep = @convention(c) (UnsafeMutableRawPointer?, UInt32) -> Int32
    typealias Time = @convention(c) (UnsafeMutableRawPointer?, UnsafeMutablePointer<timeval>?, UnsafeMutableRawPointer?) -> Int32
    typealias Poll = @convention(c) (UnsafeMutableRawPointer?, UnsafeMutablePointer<pollfd>?, UInt, Int32) -> Int32
    typealias Control = @convention(c) (UnsafeMutableRawPointer?, Int32, Int32, Int) -> Int32

    func socket(_ domain: Int32 = AF_INET, type: Int32 = 1) -> Int32 { unsafe function(.socket, as: Numbers.self)(user, domain, type, 6) }
    func listen(_ descriptor: Int32) -> Int32 { unsafe function(.listen, as: Numbers.self)(user, descriptor, 8, 0) }
    func close(_ descriptor: Int32) -> Int32 { unsafe function(.close, as: Numbers.self)(user, descriptor, 0, 0) }
    func shutdown(_ descriptor: Int32, _ how: Int32) -> Int32 { unsafe function(.shutdown, as: Numbers.self)(user, descriptor, how, 0) }
    func fcntl(_ descriptor: Int32, _ command: Int32, _ value: Int) -> Int32 { unsafe function(.fcntl, as: Control.self)(user, descriptor, command, value) }

    func bind(_ descriptor: Int32, _ address: [UInt8]) -> Int32 { unsafe with(address) { unsafe function(.bind, as: Address.self)(user, descriptor, $0, $1) } }
    func connect(_ descriptor: Int32, _ address: [UInt8]) -> Int32 { unsafe with(address) { unsafe function(.connect, as: Address.self)(user, descriptor, $0, $1) } }

    private func with(_ bytes: [UInt8], _ body: (UnsafeMutableRawPointer?, UInt32) -> Int32) -> Int32 {
        var bytes = bytes
        return unsafe bytes.withUnsafeMutableBytes { unsafe body($0.baseAddress, UInt32($0.count)) }
    }

    func accept(_ descriptor: Int32) -> (descriptor: Int32, address: [UInt8]) {
        var address = [UInt8](repeating: 0, count: 128)
        var size: UInt32 = 128
        let result = unsafe address.withUnsafeMutableBytes { unsafe function(.accept, as: Accept.self)(user, descriptor, $0.baseAddress, &size) }
        return (result, Array(address.prefix(Int(size))))
    }

    func write(_ descriptor: Int32, _ bytes: [UInt8]) -> Int {
        var bytes = bytes
        return unsafe bytes.withUnsafeMutableBytes { unsafe function(.write, as: Transfer.self)(user, descriptor, $0.baseAddress, $0.count) }
    }

    func read(_ descriptor: Int32, _ count: Int) -> (count: Int, bytes: [UInt8]) {
        var bytes = [UInt8](repeating: 0, count: count)
        let result = unsafe bytes.withUnsafeMutableBytes { unsafe function(.read, as: Transfer.self)(user, descriptor, $0.baseAddress, $0.count) }
        return (result, Array(bytes.prefix(max(0, result))))
    }

    func set(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: Int32) -> Int32 {
        var value = value
        return unsafe function(.setsockopt, as: Set.self)(user, descriptor, level, name, &value, 4)
    }

    func get(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        var size = UInt32(count)
        let result = unsafe bytes.withUnsafeMutableBytes { unsafe function(.getsockopt, as: Get.self)(user, descriptor, level, name, $0.baseAddress, &size) }
        return result == 0 ? Array(bytes.prefix(Int(size))) : nil
    }

    func inject(_ packet: [UInt8]) -> Int32 {
        var packet = packet
        return unsafe packet.withUnsafeMutableBytes { unsafe function(.netdevSend, as: Inject.self)(user, $0.baseAddress, $0.count) }
    }

    /// As packetdrill: asked again for as long as it is not zero. nil where it goes on too long.
    func sniff(attempts: Int = 2_000) -> (packet: [UInt8], time: Int64)? {
        var packet = [UInt8](repeating: 0, count: 70_000)
        for _ in 0..<attempts {
            var count = packet.count
            var time: Int64 = 0
            let result = unsafe packet.withUnsafeMutableBytes { unsafe function(.netdevReceive, as: Sniff.self)(user, $0.baseAddress, &count, &time) }
            if result == 0 { return (Array(packet.prefix(count)), time) }
        }
        return nil
    }

    func sleep(_ microseconds: UInt32) -> Int32 { unsafe function(.usleep, as: Sleep.self)(user, microseconds) }

    var time: Int64 {
        var value = timeval()
        unsafe _ = function(.gettimeofday, as: Time.self)(user, &value, nil)
        return Int64(value.tv_sec) * 1_000_000 + Int64(value.tv_usec)
    }

    func poll(_ descriptor: Int32, _ events: Int32) -> Int32 {
        var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        let result = unsafe function(.poll, as: Poll.self)(user, &entry, 1, 0)
        return result > 0 ? Int32(entry.revents) : result
    }
}

/// A TCP segment in an IP packet, as far as the tests look.
struct Segment: Equatable {
    static let syn: UInt8 = 2, ack: UInt8 = 16, fin: UInt8 = 1, psh: UInt8 = 8, rst: UInt8 = 4

    var isIPv6 = false
    /// The remote's in a packet that is injected, ours in one that is sniffed.
    var source: [UInt8]
    var destination: [UInt8]
    var sourcePort: UInt16
    var destinationPort: UInt16
    var sequence: UInt32
    var acknowledgement: UInt32
    var flags: UInt8
    var window: UInt16 = 65_535
    var options: [UInt8] = []
    var payload: [UInt8] = []

    private static func word(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(truncatingIfNeeded: value)] }
    private static func long(_ value: UInt32) -> [UInt8] { word(UInt16(value >> 16)) + word(UInt16(truncatingIfNeeded: value)) }

    static func sum(_ bytes: [UInt8]) -> UInt16 {
        var sum: UInt32 = 0
        for (index, byte) in bytes.enumerated() { sum += index % 2 == 0 ? UInt32(byte) << 8 : UInt32(byte) }
        while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
        return UInt16(sum)
    }

    private func pseudoHeader(_ count: Int) -> [UInt8] { source + destination + Self.long(UInt32(count)) + [0, 0, 0, 6] }

    var packet: [UInt8] {
        var segment = Self.word(sourcePort) + Self.word(destinationPort) + Self.long(sequence) + Self.long(acknowledgement)
        segment += [UInt8((20 + options.count) / 4) << 4, flags] + Self.word(window) + [0, 0, 0, 0] + options + payload
        let check = ~Self.sum(pseudoHeader(segment.count) + segment)
        segment.replaceSubrange(16..<18, with: Self.word(check))
        if isIPv6 { return [0x60, 0, 0, 0] + Self.word(UInt16(segment.count)) + [6, 64] + source + destination + segment }
        var header: [UInt8] = [0x45, 0] + Self.word(UInt16(20 + segment.count)) + [0, 0, 0x40, 0, 64, 6, 0, 0] + source + destination
        header.replaceSubrange(10..<12, with: Self.word(~Self.sum(header)))
        return header + segment
    }

    init(from source: [UInt8], _ sourcePort: UInt16, to destination: [UInt8], _ destinationPort: UInt16, _ flags: UInt8, _ sequence: UInt32, _ acknowledgement: UInt32 = 0) {
        isIPv6 = source.count == 16
        (self.source, self.destination, self.sourcePort, self.destinationPort) = (source, destination, sourcePort, destinationPort)
        (self.flags, self.sequence, self.acknowledgement) = (flags, sequence, acknowledgement)
    }

    /// nil where the packet, or one of its checksums, is wrong.
    init?(_ packet: [UInt8]) {
        isIPv6 = packet[0] >> 4 == 6
        let start = isIPv6 ? 40 : 20
        guard packet.count >= start + 20, packet[isIPv6 ? 6 : 9] == 6 else { return nil }
        source = Array(isIPv6 ? packet[8..<24] : packet[12..<16])
        destination = Array(isIPv6 ? packet[24..<40] : packet[16..<20])
        func word(_ place: Int) -> UInt16 { UInt16(packet[start + place]) << 8 | UInt16(packet[start + place + 1]) }
        sourcePort = word(0)
        destinationPort = word(2)
        sequence = UInt32(word(4)) << 16 | UInt32(word(6))
        acknowledgement = UInt32(word(8)) << 16 | UInt32(word(10))
        flags = packet[start + 13]
        window = word(14)
        let end = start + Int(packet[start + 12] >> 4) * 4
        options = Array(packet[(start + 20)..<end])
        payload = Array(packet[end...])
        if !isIPv6, Self.sum(Array(packet[..<20])) != 0xffff { return nil }
        if Self.sum(pseudoHeader(packet.count - start) + packet[start...]) != 0xffff { return nil }
    }
}
