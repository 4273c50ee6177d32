import CDemikernelShims
import Glibc
import SystemPackage

/// The program that the driver runs for each frame that comes: it hands frames to our station, and to groups, to the AF_XDP socket of their receive
/// queue, and leaves all others to the kernel. In eBPF's bytecode, RFC 9669.
enum XDPProgram {
    /// A register: 0 holds results, 1 to 5 arguments, 6 to 9 survive calls.
    enum Register: UInt64 {
        case result = 0, first, second, third, fourth, fifth, kept
    }

    /// One instruction: an operation in the low byte, the target's and the source's registers, 16 bits of offset, 32 bits of a number.
    struct Instruction {
        var word: UInt64

        private init(_ operation: UInt8, _ target: Register, _ source: UInt64 = 0, offset: Int16 = 0, number: UInt32 = 0) {
            word = UInt64(operation) | target.rawValue << 8 | source << 12 | UInt64(UInt16(bitPattern: offset)) << 16 | UInt64(number) << 32
        }

        enum Width: UInt8 {
            case word = 0x61, half = 0x69, byte = 0x71
        }

        static func load(_ target: Register, _ width: Width, at offset: Int16, of source: Register) -> Instruction {
            Instruction(width.rawValue, target, source.rawValue, offset: offset)
        }
        static func move(_ target: Register, _ source: Register) -> Instruction { Instruction(0xbf, target, source.rawValue) }
        static func set(_ target: Register, _ number: UInt32) -> Instruction { Instruction(0xb7, target, number: number) }
        static func add(_ target: Register, _ number: UInt32) -> Instruction { Instruction(0x07, target, number: number) }
        /// Skips `count` instructions where the one is greater than the other, both without sign.
        static func skip(_ count: Int16, ifGreater one: Register, _ other: Register) -> Instruction { Instruction(0x2d, one, other.rawValue, offset: count) }
        /// Skips where a register has one of the bits.
        static func skip(_ count: Int16, if register: Register, hasBits bits: UInt32) -> Instruction { Instruction(0x45, register, offset: count, number: bits) }
        /// Skips where the low 32 bits of a register are not the number.
        static func skip(_ count: Int16, if register: Register, isNot number: UInt32) -> Instruction { Instruction(0x56, register, offset: count, number: number) }
        /// The first half of loading a map, by its descriptor; ``rest`` is the second.
        static func load(_ target: Register, map: Int32) -> Instruction { Instruction(0x18, target, 1, number: UInt32(bitPattern: map)) }
        static var rest: Instruction { Instruction(0, .result) }
        static func call(_ function: UInt32) -> Instruction { Instruction(0x85, .result, number: function) }
        static var exit: Instruction { Instruction(0x95, .result) }
    }

    private static var pass: UInt32 { 2 }
    private static var redirectMap: UInt32 { 51 }

    /// The instructions, for a map of sockets by queue. `station` is an Ethernet address, 48 bits in host order; nil takes every frame.
    static func instructions(map: Int32, station: UInt64?) -> [UInt64] {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index.
        var program: [Instruction] = [.move(.kept, .first)]
        // A queue that has no socket: the kernel gets the frame.
        let redirect: [Instruction] = [
            .load(.second, .word, at: 16, of: .kept), .load(.first, map: map), .rest, .set(.third, pass), .call(redirectMap), .exit,
        ]
        if let station {
            // The address as the driver's machine loads it.
            let bytes = (0..<6).map { UInt32(truncatingIfNeeded: station >> (40 - 8 * UInt64($0))) & 0xff }
            let first = UInt32(littleEndian: bytes[0] | bytes[1] << 8 | bytes[2] << 16 | bytes[3] << 24)
            let last = UInt32(UInt16(littleEndian: UInt16(bytes[4] | bytes[5] << 8)))
            let toKernel = Int16(redirect.count)
            program += [
                .load(.second, .word, at: 0, of: .first), .load(.third, .word, at: 4, of: .first),
                .move(.fourth, .second), .add(.fourth, 14), .skip(6 + toKernel, ifGreater: .fourth, .third),
                .load(.fifth, .byte, at: 0, of: .second), .skip(4, if: .fifth, hasBits: 1),
                .load(.fifth, .word, at: 0, of: .second), .skip(2 + toKernel, if: .fifth, isNot: first),
                .load(.fifth, .half, at: 4, of: .second), .skip(toKernel, if: .fifth, isNot: last),
            ]
        }
        program += redirect + [.set(.result, pass), .exit]
        return program.map(\.word)
    }

    /// Loads the program and answers its descriptor. Throws EPERM without CAP_BPF and CAP_NET_ADMIN, and what the verifier says.
    static func load(_ instructions: [UInt64], takesSegments: Bool) throws(XDPFailure) -> Int32 {
        let count = UInt32(instructions.count)
        let loaded = unsafe instructions.withUnsafeBufferPointer {
            unsafe dk_xdp_program_load($0.baseAddress!, count, takesSegments ? 1 : 0, nil, 0)
        }
        if loaded >= 0 { return Int32(loaded) }
        guard loaded != -Int(EPERM) else { throw XDPFailure(.notPermitted, permission) }
        var log = [CChar](repeating: 0, count: 16_384)
        let again = unsafe log.withUnsafeMutableBufferPointer { log in
            unsafe instructions.withUnsafeBufferPointer {
                unsafe dk_xdp_program_load($0.baseAddress!, count, takesSegments ? 1 : 0, log.baseAddress!, UInt32(log.count))
            }
        }
        if again >= 0 { return Int32(again) }
        let text = log.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
        throw XDPFailure(.negated(again), "this kernel does not take the XDP program", detail: String(decoding: text, as: UTF8.self))
    }

    static var permission: StaticString {
        "AF_XDP takes CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF: run as root, or setcap cap_net_raw,cap_net_admin,cap_bpf+ep FILE"
    }
}

/// A program that is attached to an interface, and its map: by descriptors, with the last of which the kernel takes the program off again.
struct XDPAttachment {
    private(set) var map: Int32 = -1
    private var program: Int32 = -1
    private var link: Int32 = -1
    private(set) var isGeneric = false

    /// Throws EPERM; EBUSY where another program is attached; EOPNOTSUPP where the mode asks for a driver that can and this one cannot.
    init(_ configuration: XDPConfiguration, index: Int32, station: UInt64?, takesSegments: Bool) throws(XDPFailure) {
        do throws(XDPFailure) {
            let made = dk_xdp_map_create(UInt32(configuration.queues))
            guard made != -Int(EPERM) else { throw XDPFailure(.notPermitted, XDPProgram.permission) }
            try XDPFailure.check(made, "this kernel has no map of AF_XDP sockets (bpf(2), BPF_MAP_TYPE_XSKMAP)")
            map = Int32(made)
            program = try XDPProgram.load(XDPProgram.instructions(map: map, station: station), takesSegments: takesSegments)
            try attach(configuration, index)
        } catch {
            close()
            throw error
        }
    }

    private mutating func attach(_ configuration: XDPConfiguration, _ index: Int32) throws(XDPFailure) {
        let program = program
        func attempt(generic: Bool) throws(XDPFailure) -> Int {
            try XDPFailure.wrapping { () throws(DemikernelError) in
                try NetworkNamespace.run(in: configuration.namespace) { dk_xdp_attach(program, index, generic ? 1 : 0) }
            }
        }
        var result = -Int(EOPNOTSUPP)
        if configuration.mode != .generic { result = try attempt(generic: false) }
        let isRefused = result == -Int(EOPNOTSUPP) || result == -Int(EINVAL) || result == -Int(ERANGE)
        if configuration.mode == .generic || (configuration.mode == .auto && isRefused) {
            isGeneric = true
            result = try attempt(generic: true)
        }
        switch -result {
        case ...0: link = Int32(result)
        case Int(EBUSY), Int(EEXIST):
            throw XDPFailure(
                .resourceBusy, "another XDP program is attached to the interface, that of another process perhaps; to take one off: ip link set NAME xdp off")
        case Int(EPERM): throw XDPFailure(.notPermitted, XDPProgram.permission)
        case Int(EOPNOTSUPP):
            throw XDPFailure(.notSupportedOnSocket, "the interface's driver runs no XDP program: set catpowder.xdp_mode to generic, or auto")
        case Int(ERANGE), Int(EINVAL):
            throw XDPFailure(
                .negated(result), "the interface's driver does not take the XDP program with its MTU, or that of its peer: make it smaller, or set catpowder.xdp_mode to generic")
        default: throw XDPFailure(.negated(result), "the XDP program cannot be attached to the interface")
        }
    }

    /// Takes the program off.
    mutating func close() {
        for descriptor in [link, program, map] where descriptor >= 0 { _ = Glibc.close(descriptor) }
        (link, program, map) = (-1, -1, -1)
    }
}
