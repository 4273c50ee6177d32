import Glibc
@testable import DemikernelPacketdrill
@testable import DemikernelSimulator

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

    func socket(_ domain: Int32 = AF_INET, type: Int32 = 1) -> Int32 {
        unsafe function(.socket, as: Numbers.self)(user, domain, type, type & 0xf == 2 ? 17 : 6)
    }
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

    typealias SendTo = @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafeMutableRawPointer?, Int, Int32, UnsafeMutableRawPointer?, UInt32) -> Int
    typealias ReceiveFrom = @convention(c) (
        UnsafeMutableRawPointer?, Int32, UnsafeMutableRawPointer?, Int, Int32, UnsafeMutableRawPointer?, UnsafeMutablePointer<UInt32>?
    ) -> Int
    typealias Message = @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafeMutablePointer<msghdr>?, Int32) -> Int
    typealias Count = @convention(c) (UnsafeMutableRawPointer?, Int32, UInt, UnsafeMutablePointer<Int32>?) -> Int32
    typealias Pipe = @convention(c) (UnsafeMutableRawPointer?, UnsafeMutablePointer<Int32>?) -> Int32
    typealias Splice = @convention(c) (
        UnsafeMutableRawPointer?, Int32, UnsafeMutablePointer<Int64>?, Int32, UnsafeMutablePointer<Int64>?, Int, UInt32
    ) -> Int32

    func send(_ descriptor: Int32, _ bytes: [UInt8], to address: [UInt8], flags: Int32 = 0) -> Int {
        var (bytes, address) = (bytes, address)
        return unsafe bytes.withUnsafeMutableBytes { bytes in
            unsafe address.withUnsafeMutableBytes { address in
                unsafe function(.sendto, as: SendTo.self)(user, descriptor, bytes.baseAddress, bytes.count, flags, address.baseAddress, UInt32(address.count))
            }
        }
    }

    func receive(_ descriptor: Int32, _ count: Int, flags: Int32 = 0) -> (count: Int, bytes: [UInt8], source: [UInt8]) {
        var bytes = [UInt8](repeating: 0, count: count)
        var source = [UInt8](repeating: 0, count: 128)
        var size: UInt32 = 128
        let result = unsafe bytes.withUnsafeMutableBytes { bytes in
            unsafe source.withUnsafeMutableBytes { source in
                unsafe function(.recvfrom, as: ReceiveFrom.self)(user, descriptor, bytes.baseAddress, bytes.count, flags, source.baseAddress, &size)
            }
        }
        return (result, Array(bytes.prefix(max(0, result))), Array(source.prefix(Int(size))))
    }

    /// sendmsg(2) or recvmsg(2) with two pieces; what the header says afterwards.
    func message(
        _ slot: PacketdrillTable.Slot, _ descriptor: Int32, _ first: inout [UInt8], _ second: inout [UInt8], name: inout [UInt8]
    ) -> (count: Int, nameCount: Int, flags: Int32) {
        var header = unsafe msghdr()
        let count = unsafe first.withUnsafeMutableBytes { first in
            unsafe second.withUnsafeMutableBytes { second in
                unsafe name.withUnsafeMutableBytes { name in
                    var pieces = unsafe [iovec(iov_base: first.baseAddress, iov_len: first.count), iovec(iov_base: second.baseAddress, iov_len: second.count)]
                    return unsafe pieces.withUnsafeMutableBufferPointer { pieces in
                        unsafe (header.msg_iov, header.msg_iovlen) = (pieces.baseAddress, 2)
                        if name.count > 0 { unsafe (header.msg_name, header.msg_namelen) = (name.baseAddress, UInt32(name.count)) }
                        return unsafe function(slot, as: Message.self)(user, descriptor, &header, 0)
                    }
                }
            }
        }
        return unsafe (count, Int(header.msg_namelen), header.msg_flags)
    }

    func ioctl(_ descriptor: Int32, _ request: UInt, _ value: Int32 = 0) -> (result: Int32, value: Int32) {
        var value = value
        let result = unsafe function(.ioctl, as: Count.self)(user, descriptor, request, &value)
        return (result, value)
    }

    func pipe() -> (reader: Int32, writer: Int32) {
        var ends: [Int32] = [-1, -1]
        let result = unsafe ends.withUnsafeMutableBufferPointer { unsafe function(.pipe, as: Pipe.self)(user, $0.baseAddress) }
        return result == 0 ? (ends[0], ends[1]) : (-1, -1)
    }

    /// As packetdrill: with a pointer to each offset, whatever the script says.
    func splice(_ source: Int32, _ target: Int32, _ count: Int, flags: UInt32 = 0, offset: Int64 = 0) -> Int32 {
        var (from, to): (Int64, Int64) = (offset, 0)
        return unsafe function(.splice, as: Splice.self)(user, source, &from, target, &to, count, flags)
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

    func poll(_ descriptor: Int32, _ events: Int32, milliseconds: Int32 = 0) -> Int32 {
        var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        let result = unsafe function(.poll, as: Poll.self)(user, &entry, 1, milliseconds)
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

    var packet: [UInt8] {
        AttackFrame.tcp(
            .init(
                source: source, destination: destination, sourcePort: sourcePort, destinationPort: destinationPort, sequence: sequence,
                acknowledgment: acknowledgement, flags: flags, window: window, options: options, payload: payload))
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
        func long(_ place: Int) -> UInt32 { UInt32(packet.bigEndian16(start + place)) << 16 | UInt32(packet.bigEndian16(start + place + 2)) }
        sourcePort = packet.bigEndian16(start)
        destinationPort = packet.bigEndian16(start + 2)
        sequence = long(4)
        acknowledgement = long(8)
        flags = packet[start + 13]
        window = packet.bigEndian16(start + 14)
        let end = start + Int(packet[start + 12] >> 4) * 4
        options = Array(packet[(start + 20)..<end])
        payload = Array(packet[end...])
        guard Packet.isIntact(packet) else { return nil }
    }
}

/// What an IP packet says, whatever it carries.
enum Packet {
    static func start(_ packet: [UInt8]) -> Int { packet[0] >> 4 == 6 ? 40 : 20 }
    static func proto(_ packet: [UInt8]) -> UInt8 { packet[packet[0] >> 4 == 6 ? 6 : 9] }

    /// Whether the header's checksum and the transport's are right.
    static func isIntact(_ packet: [UInt8]) -> Bool {
        let start = start(packet)
        if start == 20, packet.checksum(0..<20) != 0 { return false }
        let addresses = start == 40 ? 8..<40 : 12..<20
        let pseudo = UInt32(~packet.checksum(addresses)) + UInt32(packet.count - start) + UInt32(proto(packet))
        return packet.checksum(start..<packet.count, adding: pseudo) == 0
    }

    /// A UDP datagram as a packet.
    static func datagram(from source: [UInt8], _ port: UInt16, to destination: [UInt8], _ destinationPort: UInt16, _ payload: [UInt8]) -> [UInt8] {
        AttackFrame.packet(
            from: source, to: destination, proto: 17, AttackFrame.udp(from: source, port: port, to: destination, port: destinationPort, payload))
    }
}
