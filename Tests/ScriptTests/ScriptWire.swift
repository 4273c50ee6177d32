import Demikernel

/// Frames made from what scripts write, independently of the stack's own headers.
enum ScriptWire {
    /// The pseudo-header and the payload, to be summed. RFC 9293, section 3.1; RFC 8200, section 8.1.
    static func pseudoHeader(
        _ source: IPAddress, _ destination: IPAddress, _ number: UInt8, _ count: Int, _ payload: [UInt8]
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.put(source)
        bytes.put(destination)
        if source.isIPv4 {
            bytes += [0, number]
            bytes.put16(count)
        } else {
            bytes.put32(UInt32(count))
            bytes.put32(UInt32(number))
        }
        return bytes + payload
    }

    /// Stores the checksum of a transport packet at `offset`; of UDP 0 becomes 0xffff.
    static func fill(_ payload: inout [UInt8], at offset: Int, _ number: UInt8, _ source: IPAddress, _ destination: IPAddress) {
        payload.set16(0, offset)
        let isICMPv4 = number == 1
        let sum = isICMPv4 ? payload.onesSum : pseudoHeader(source, destination, number, payload.count, payload).onesSum
        payload.set16(~sum == 0 && number == 17 ? 0xffff : ~sum, offset)
    }

    static func pattern(_ count: Int, from start: Int = 0) -> [UInt8] { (0..<max(0, count)).map { ScriptFlow.pattern(start + $0) } }

    static func tcp(_ script: ScriptTCP, _ flow: ScriptFlow) -> [UInt8] {
        let sequence = script.sequence ?? flow.remoteNext
        let isAck = script.flags.contains(".")
        let acknowledgment = script.acknowledgment ?? (isAck ? flow.localNext : nil)
        var options: [UInt8] = []
        for option in script.options ?? [] { options += encode(option, flow) }
        while options.count % 4 != 0 { options.append(1) }
        var bits: UInt16 = 0
        for letter in script.flags {
            bits |= ["F": 1, "S": 2, "R": 4, "P": 8, ".": 16, "U": 32, "E": 64, "W": 128, "A": 256][letter] ?? 0
        }
        if script.acknowledgment != nil, !script.flags.contains("R") { bits |= 16 }
        var bytes: [UInt8] = []
        bytes.put16(Int(flow.remotePort))
        bytes.put16(Int(flow.localPort ?? 0))
        bytes.put32(flow.remoteAbsolute(sequence))
        bytes.put32(acknowledgment.map { flow.localAbsolute($0) } ?? 0)
        bytes.put16(Int(UInt16((20 + options.count) / 4) << 12 | bits))
        bytes.put16(script.window ?? 65_535)
        bytes.put32(0)
        bytes += options
        bytes += script.literal ?? pattern(script.count, from: script.flags.contains("S") ? sequence : sequence - 1)
        return bytes
    }

    private static func encode(_ option: ScriptTCPOption, _ flow: ScriptFlow) -> [UInt8] {
        var bytes: [UInt8] = []
        switch option {
        case .nop: return [1]
        case .end: return [0]
        case .sackPermitted: return [4, 2]
        case .maximumSegmentSize(let size):
            bytes = [2, 4]
            bytes.put16(size ?? 536)
        case .windowScale(let shift): bytes = [3, 3, UInt8(truncatingIfNeeded: shift ?? 0)]
        case .timestamps(let value, let echo):
            bytes = [8, 10]
            if case .value(let number) = value { flow.lastRemoteTimestamp = UInt32(truncatingIfNeeded: number) }
            bytes.put32(flow.lastRemoteTimestamp)
            switch echo {
            case .value(let number): bytes.put32(flow.timestampBase.map { $0 &+ UInt32(truncatingIfNeeded: number) } ?? UInt32(truncatingIfNeeded: number))
            case .last, .any: bytes.put32(flow.lastLocalTimestamp ?? 0)
            }
        case .sack(let blocks):
            bytes = [5, UInt8(2 + 8 * blocks.count)]
            for block in blocks {
                bytes.put32(flow.localAbsolute(block.lowerBound))
                bytes.put32(flow.localAbsolute(block.upperBound))
            }
        case .other(let kind, let value): bytes = [kind, UInt8(2 + value.count)] + value
        }
        return bytes
    }

    static func udp(_ source: UInt16, _ destination: UInt16, _ payload: [UInt8]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.put16(Int(source))
        bytes.put16(Int(destination))
        bytes.put16(8 + payload.count)
        bytes.put16(0)
        return bytes + payload
    }

    /// Type, code and MTU or pointer of what a script calls by name.
    static func numbers(_ script: ScriptICMP, isIPv4: Bool) throws -> (type: UInt8, code: UInt8, word: UInt32?) {
        switch script.kind {
        case .echoRequest: return (isIPv4 ? 8 : 128, 0, nil)
        case .echoReply: return (isIPv4 ? 0 : 129, 0, nil)
        case .unreachable("frag-needed"): return (3, 4, UInt32(script.mtu ?? 0))
        case .tooBig: return isIPv4 ? (3, 4, UInt32(script.mtu ?? 0)) : (2, 0, UInt32(script.mtu ?? 0))
        case .unreachable(let name):
            let codes: [String: UInt8] = isIPv4 ? ["net": 0, "host": 1, "protocol": 2, "port": 3, "admin": 13] : ["net": 0, "admin": 1, "host": 3, "port": 4]
            guard let code = codes[name] ?? UInt8(name) else { throw ScriptSyntaxError("no kind of unreachable: \(name)") }
            return (isIPv4 ? 3 : 1, code, 0)
        case .timeExceeded(let reassembly): return (isIPv4 ? 11 : 3, reassembly ? 1 : 0, 0)
        case .parameterProblem(let code, let pointer):
            return (isIPv4 ? 12 : 4, UInt8(code), pointer.map { isIPv4 ? UInt32($0) << 24 : UInt32($0) })
        case .other(let type, let code): return (type, code, nil)
        }
    }

    static func icmp(_ script: ScriptICMP, quoting quoted: [UInt8], isIPv4: Bool) throws -> [UInt8] {
        let (type, code, word) = try numbers(script, isIPv4: isIPv4)
        var bytes: [UInt8] = [type, code, 0, 0]
        bytes.put32(word ?? UInt32(script.identifier ?? 0) << 16 | UInt32(script.sequence ?? 0))
        return bytes + quoted + pattern(script.count ?? 0)
    }

    static func ndp(_ script: ScriptNDP) -> [UInt8] {
        var bytes: [UInt8]
        var optionType: UInt8 = 1
        switch script.kind {
        case .solicit: bytes = [135, 0, 0, 0, 0, 0, 0, 0]
        case .advertise:
            let flags = script.flags ?? "SO"
            bytes = [136, 0, 0, 0, (flags.contains("R") ? 0x80 : 0) | (flags.contains("S") ? 0x40 : 0) | (flags.contains("O") ? 0x20 : 0), 0, 0, 0]
            optionType = 2
        case .routerSolicit: bytes = [133, 0, 0, 0, 0, 0, 0, 0]
        case .routerAdvertise:
            bytes = [134, 0, 0, 0, 64, 0]
            bytes.put16(script.lifetime)
            bytes += [0, 0, 0, 0, 0, 0, 0, 0]
        case .redirect: bytes = [137, 0, 0, 0, 0, 0, 0, 0]
        }
        if let target = script.target { bytes.put(target) }
        if script.kind == .redirect, let target = script.target { bytes.put(target) }
        if let hardware = script.hardware {
            bytes += [optionType, 1]
            bytes.put(hardware)
        }
        if let mtu = script.mtu {
            bytes += [5, 1, 0, 0]
            bytes.put32(UInt32(mtu))
        }
        return bytes
    }

    static func arp(isReply: Bool, hardware: MACAddress, sender: IPAddress, target: IPAddress, targetHardware: MACAddress) -> [UInt8] {
        var bytes: [UInt8] = [0, 1, 8, 0, 6, 4, 0, isReply ? 2 : 1]
        bytes.put(hardware)
        bytes.put(sender)
        bytes.put(targetHardware)
        bytes.put(target)
        return bytes
    }
}
