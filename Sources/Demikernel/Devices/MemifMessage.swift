/// The messages that two memif peers exchange over their socket, each of 128 bytes (memif 2.0: `memif.h` in VPP and DPDK). Little-endian, as the
/// protocol is between processes of one machine; packed, so fields are where they are.
struct MemifMessage: BitwiseCopyable {
    enum Kind: UInt16 {
        case acknowledge = 1
        case hello
        case initialize
        case addRegion
        case addRing
        case connect
        case connected
        case disconnect
    }

    static var byteCount: Int { 128 }
    static var version: UInt16 { 2 << 8 }
    static var nameByteCount: Int { 32 }
    static var secretByteCount: Int { 24 }
    /// `mode` in ``initialize``: frames begin with an Ethernet header.
    static var ethernetMode: UInt8 { 0 }
    /// `flags` in ``addRing``: the ring leads from the client to the server.
    static var toServerFlag: UInt16 { 1 }

    private var bytes = InlineArray<128, UInt8>(repeating: 0)

    init() {}

    init(_ kind: Kind) { store(kind.rawValue, at: 0) }

    /// Nil for a number that the protocol does not have.
    var kind: Kind? { Kind(rawValue: load(0)) }

    mutating func withBytes<Result>(_ body: (UnsafeMutableRawPointer) -> Result) -> Result {
        unsafe withUnsafeMutableBytes(of: &bytes) { unsafe body($0.baseAddress!) }
    }

    // MARK: Fields

    func load<Value: FixedWidthInteger>(_ offset: Int, as type: Value.Type = Value.self) -> Value {
        var value: Value = 0
        for index in (0..<Value.bitWidth / 8).reversed() { value = value << 8 | Value(truncatingIfNeeded: bytes[offset + index]) }
        return value
    }

    mutating func store<Value: FixedWidthInteger>(_ value: Value, at offset: Int) {
        for index in 0..<Value.bitWidth / 8 { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (index * 8)) }
    }

    /// A text ends with its field or with a zero before that.
    func text(_ offset: Int, _ size: Int) -> String {
        var text: [UInt8] = []
        for index in offset..<offset + size {
            if bytes[index] == 0 { break }
            text.append(bytes[index])
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Cuts what does not fit; a zero ends the text unless it fills the field and `endsWithZero` is false.
    mutating func store(_ text: String, at offset: Int, _ size: Int, endsWithZero: Bool = true) {
        for (index, byte) in text.utf8.prefix(endsWithZero ? size - 1 : size).enumerated() { bytes[offset + index] = byte }
    }
}

// MARK: - Messages that are sent

extension MemifMessage {
    /// The server's greeting: limits are the highest indices.
    static func hello(name: String, rings: Int) -> MemifMessage {
        var message = MemifMessage(.hello)
        message.store(name, at: 2, nameByteCount)
        message.store(version, at: 34)
        message.store(version, at: 36)
        message.store(UInt16(MemifLimits.regionsMaximum - 1), at: 38)
        message.store(UInt16(rings - 1), at: 40)
        message.store(UInt16(rings - 1), at: 42)
        message.store(UInt8(MemifLimits.ringSizeLog2Maximum), at: 44)
        return message
    }

    static func initialize(_ configuration: MemifConfiguration) -> MemifMessage {
        var message = MemifMessage(.initialize)
        message.store(version, at: 2)
        message.store(configuration.interfaceIdentifier, at: 4)
        message.store(ethernetMode, at: 8)
        message.store(configuration.secret, at: 9, secretByteCount, endsWithZero: false)
        message.store(configuration.name, at: 33, nameByteCount)
        return message
    }

    static func addRegion(_ index: Int, byteCount: Int) -> MemifMessage {
        var message = MemifMessage(.addRegion)
        message.store(UInt16(index), at: 2)
        message.store(UInt64(byteCount), at: 4)
        return message
    }

    static func addRing(_ index: Int, toServer: Bool, region: Int, offset: Int, sizeLog2: Int) -> MemifMessage {
        var message = MemifMessage(.addRing)
        message.store(toServer ? toServerFlag : 0, at: 2)
        message.store(UInt16(index), at: 4)
        message.store(UInt16(region), at: 6)
        message.store(UInt32(offset), at: 8)
        message.store(UInt8(sizeLog2), at: 12)
        return message
    }

    static func connect(_ kind: Kind, name: String) -> MemifMessage {
        var message = MemifMessage(kind)
        message.store(name, at: 2, nameByteCount)
        return message
    }

    static func disconnect(_ reason: String) -> MemifMessage {
        var message = MemifMessage(.disconnect)
        message.store(reason, at: 6, 96)
        return message
    }
}

// MARK: - Messages that came

extension MemifMessage {
    /// `hello`: the versions that the server speaks, and the most that it takes.
    var helloVersions: ClosedRange<UInt16>? {
        let least: UInt16 = load(34)
        let most: UInt16 = load(36)
        return least <= most ? least...most : nil
    }
    var helloRegions: Int { Int(load(38, as: UInt16.self)) + 1 }
    var helloRingsToClient: Int { Int(load(40, as: UInt16.self)) + 1 }
    var helloRingsToServer: Int { Int(load(42, as: UInt16.self)) + 1 }
    var helloRingSizeLog2: Int { Int(load(44, as: UInt8.self)) }
    var helloName: String { text(2, Self.nameByteCount) }

    var initializeVersion: UInt16 { load(2) }
    var initializeIdentifier: UInt32 { load(4) }
    var initializeMode: UInt8 { load(8) }
    var initializeSecret: String { text(9, Self.secretByteCount) }
    var initializeName: String { text(33, Self.nameByteCount) }

    var regionIndex: Int { Int(load(2, as: UInt16.self)) }
    var regionByteCount: UInt64 { load(4) }

    var ringIsToServer: Bool { load(2, as: UInt16.self) & Self.toServerFlag != 0 }
    var ringIndex: Int { Int(load(4, as: UInt16.self)) }
    var ringRegion: Int { Int(load(6, as: UInt16.self)) }
    var ringOffset: Int { Int(load(8, as: UInt32.self)) }
    var ringSizeLog2: Int { Int(load(12, as: UInt8.self)) }

    var disconnectReason: String { text(6, 96) }
}
