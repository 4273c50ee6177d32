import Testing
import TestSupport
@testable import Demikernel

@Suite struct TransportWireTests {
    // MARK: UDP

    @Test func `a UDP header comes back as it was written`() {
        var generator = SplitMix64(seed: 91)
        for _ in 0..<3000 {
            let payload = generator.bytes(Int.random(in: 0...50, using: &generator))
            let header = UDPHeader(sourcePort: generator.value(), destinationPort: generator.value(), payloadLength: payload.count)
            let pseudo = InternetChecksum.pseudoHeader(
                source: generator.ipv6(), destination: generator.ipv6(), ipProtocol: .udp, length: header.length)
            let bytes = written(8 + payload.count) { packet in
                let sum = withPacket(payload) { InternetChecksum.copyAndSum(from: $0, to: packet.slice(from: 8)) }
                header.emit(into: packet, checksum: header.checksum(payloadSum: sum, pseudoHeader: pseudo))
            }
            withPacket(bytes) { packet in
                let view = UDPHeaderView(packet)
                #expect(view.map { UDPHeader($0) } == header)
                #expect(view?.hasChecksum == true && view?.checksumIsValid(pseudoHeader: pseudo) == true)
                #expect(view?.payload.count == payload.count)
            }
            #expect(lengthsAccepted(of: bytes, below: bytes.count) { UDPHeaderView($0) == nil } == [])
        }
    }

    @Test func `a UDP length below 8 or beyond the packet is refused, padding is dropped`() {
        var bytes = written(20) { UDPHeader(sourcePort: 1, destinationPort: 2, payloadLength: 4).emit(into: $0) }
        #expect(withPacket(bytes) { UDPHeaderView($0)?.payload.count } == 4)
        for length: UInt8 in [0, 7, 21] {
            bytes[5] = length
            #expect(withPacket(bytes) { UDPHeaderView($0) == nil })
        }
    }

    @Test func `a UDP checksum of 0 is sent as ffff`() {
        // Ports that make up for everything else: the sum is ffff.
        let header = UDPHeader(sourcePort: 0xffff - 8, destinationPort: 0, payloadLength: 0)
        #expect(header.checksum(payloadSum: 0, pseudoHeader: 0) == 0xffff)
        let without = written(8) { header.emit(into: $0) }
        #expect(withPacket(without) { UDPHeaderView($0)?.hasChecksum } == false)
    }

    // MARK: TCP

    @Test func `a TCP header comes back as it was written`() {
        var generator = SplitMix64(seed: 92)
        for _ in 0..<3000 {
            let header = TCPHeader(
                sourcePort: generator.value(), destinationPort: generator.value(), sequenceNumber: generator.sequence(),
                acknowledgmentNumber: generator.sequence(), flags: TCPFlags(rawValue: generator.value() & 0x1ff),
                window: generator.value(), urgentPointer: generator.value())
            let options = TCPOptionsTests.random(&generator)
            let payload = generator.bytes(Int.random(in: 0...30, using: &generator))
            let total = 20 + options.byteCount + payload.count
            let pseudo = InternetChecksum.pseudoHeader(
                source: generator.value(UInt32.self), destination: generator.value(UInt32.self), ipProtocol: .tcp, length: total)
            let bytes = written(total) { packet in
                let length = header.emit(into: packet, options: options)
                let sum = withPacket(payload) { InternetChecksum.copyAndSum(from: $0, to: packet.slice(from: length), initial: pseudo) }
                TCPHeader.storeChecksum(in: packet.slice(0, length), sum: sum)
            }
            withPacket(bytes) { packet in
                let view = TCPHeaderView(packet)
                #expect(view.map { TCPHeader($0) } == header)
                #expect(view.map { TCPOptions($0) } == options)
                #expect(view?.checksumIsValid(pseudoHeader: pseudo) == true)
                #expect(view?.payloadLength == payload.count && view?.payload.count == payload.count)
                #expect(view?.ports == UInt32(header.sourcePort) << 16 | UInt32(header.destinationPort))
                let control = (header.flags.contains(.syn) ? 1 : 0) + (header.flags.contains(.fin) ? 1 : 0)
                #expect(view?.segmentLength == payload.count + control)
            }
            #expect(lengthsAccepted(of: bytes, below: 20 + options.byteCount) { TCPHeaderView($0) == nil } == [])
        }
    }

    @Test func `a data offset below 5, or beyond the segment, is refused`() {
        for offset: UInt8 in 0...15 {
            var bytes = [UInt8](repeating: 0, count: 40)
            bytes[12] = offset << 4
            #expect(withPacket(bytes) { TCPHeaderView($0) != nil } == (5...10).contains(offset))
        }
    }

    @Test func `flags are where RFC 9293 has them`() {
        let names: [(TCPFlags, String)] = [
            (.fin, "FIN"), (.syn, "SYN"), (.rst, "RST"), (.psh, "PSH"), (.ack, "ACK"), (.urg, "URG"), (.ece, "ECE"), (.cwr, "CWR"), (.ae, "AE"),
        ]
        for (bit, (flag, name)) in names.enumerated() {
            #expect(flag.rawValue == 1 << bit && flag.description == name)
        }
        #expect(TCPFlags([.syn, .ack]).description == "SYN|ACK")
        // Reserved bits are ignored: RFC 9293, section 3.1.
        var bytes = [UInt8](repeating: 0xff, count: 60)
        bytes[12] = 0xff
        #expect(withPacket(bytes) { TCPHeaderView($0)?.flags.rawValue } == 0x1ff)
    }
}
