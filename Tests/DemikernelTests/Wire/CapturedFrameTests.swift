import Testing
import TestSupport
@testable import Demikernel

/// Frames that Linux 6 sent over a veth pair with its offloads off: parsing and emitting them again gives the same bytes.
@Suite struct CapturedFrameTests {
    static let arpRequest = hex("ffffffffffff 020000000001 0806 0001080006040001 020000000001 0a000001 000000000000 0a000002")
    static let arpReply = hex("020000000001 020000000002 0806 0001080006040002 020000000002 0a000002 020000000001 0a000001")

    static let tcpIPv4: [[UInt8]] = [
        hex("02000000000202000000000108004500003c992c400040068d8d0a0000010a000002c6ee00505ab692d900000000a002faf03f050000020405b40402080a6932dc03000000000103030a"),
        hex("02000000000102000000000208004500003c00004000400626ba0a0000020a0000010050c6eee0d017915ab692daa012fe8853fb0000020405b40402080a7e3a70c46932dc030103030a"),
        hex("020000000002020000000001080045000034992d400040068d940a0000010a000002c6ee00505ab692dae0d017928010003f811400000101080a6932dc037e3a70c4"),
        hex("020000000002020000000001080045000039992e400040068d8e0a0000010a000002c6ee00505ab692dae0d017928018003f3d3500000101080a6932dc037e3a70c468656c6c6f"),
        hex("020000000002020000000001080045000034992f400040068d920a0000010a000002c6ee00505ab692dfe0d017978010003f810a00000101080a6932dc037e3a70c4"),
        hex("020000000001020000000002080045000034904d4000400696740a0000020a0000010050c6eee0d017975ab692df80110040810800000101080a7e3a70c46932dc03"),
    ]

    static let tcpIPv6: [[UInt8]] = [
        hex("02000000000202000000000186dd6001fee60028064020010db800000000000000000000000120010db800000000000000000000000297a00050aff5fb9f00000000a002fd20af2a0000020405a00402080af7f504d5000000000103030a"),
        hex("02000000000102000000000286dd600787ff0028064020010db800000000000000000000000220010db8000000000000000000000001005097a01cf36c2baff5fba0a012fb049ba70000020405a00402080afe618e0df7f504d50103030a"),
        hex("02000000000202000000000186dd6001fee60025064020010db800000000000000000000000120010db800000000000000000000000297a00050aff5fba01cf36c2c80180040814800000101080af7f504d5fe618e0d68656c6c6f"),
        hex("02000000000202000000000186dd6001fee60020064020010db800000000000000000000000120010db800000000000000000000000297a00050aff5fba51cf36c3280110040c51b00000101080af7f504d5fe618e0d"),
    ]

    static let udpIPv4 = hex("020000000002020000000001080045000024bac1400040116c050a0000010a000002810100090010c91e646174616772616d")
    static let udpIPv6 = hex("02000000000202000000000186dd600630370010114020010db800000000000000000000000120010db8000000000000000000000002ce8000090010342d646174616772616d")
    static let portUnreachable = hex("020000000001020000000002080045c00040c750000040019eaa0a0000020a000001030311210000000045000024bac1400040116c050a0000010a000002810100090010c91e646174616772616d")
    static let portUnreachableIPv6 = hex("02000000000102000000000286dd6005f7e400403a4020010db800000000000000000000000220010db8000000000000000000000001010401a000000000600630370010114020010db800000000000000000000000120010db8000000000000000000000002ce8000090010342d646174616772616d")
    static let echoRequest = hex("02000000000202000000000108004500001c1a16400040010cc90a0000010a0000020800f7fd00010001")
    static let echoReply = hex("02000000000102000000000208004500001cc75b000040019f830a0000020a0000010000fffd00010001")
    static let echoRequestIPv6 = hex("02000000000202000000000186dd600a4ccd00083a4020010db800000000000000000000000120010db80000000000000000000000028000244600010001")
    static let neighbourSolicitation = hex("3333ff00000202000000000186dd6000000000203aff20010db8000000000000000000000001ff0200000000000000000001ff00000287001c270000000020010db80000000000000000000000020101020000000001")
    static let neighbourAdvertisement = hex("02000000000102000000000286dd6000000000203aff20010db800000000000000000000000220010db800000000000000000000000188008a716000000020010db80000000000000000000000020201020000000002")
    static let routerSolicitation = hex("33330000000202000000000186dd6000000000103afffe80000000000000000000fffe000001ff02000000000000000000000000000285007b2c000000000101020000000001")
    /// Hop-by-hop options with a router alert, then MLDv2.
    static let multicastListenerReport = hex("33330000001602000000000186dd6000000000240001fe80000000000000000000fffe000001ff0200000000000000000000000000163a000502000001008f0072070000000104000000ff0200000000000000000001ff000001")
    /// The second of two fragments, its 128 bytes of payload all `x`.
    static let fragmentIPv4 = hex("020000000002020000000001080045000094bac200b94011aadb0a0000010a000002") + [UInt8](repeating: 0x78, count: 128)
    static let fragmentIPv6 = hex("02000000000202000000000186dd6006303700a82c4020010db800000000000000000000000120010db8000000000000000000000002110005a823df6148") + [UInt8](repeating: 0x78, count: 160)

    @Test(arguments: [arpRequest, arpReply])
    func arp(frame: [UInt8]) throws {
        try withPacket(frame) { packet in
            let ethernet = try #require(EthernetHeaderView(packet))
            let view = try #require(ARPPacketView(ethernet.payload))
            #expect(ethernet.etherType == .arp)
            #expect(view.senderHardwareAddress == ethernet.source)
            let again = written(frame.count) {
                EthernetHeader(ethernet).emit(into: $0)
                ARPPacket(view).emit(into: $0.slice(from: 14))
            }
            #expect(again == frame)
        }
    }

    @Test func `the ARP reply is the one to the request`() throws {
        try withPacket(Self.arpRequest) { packet in
            let request = ARPPacket(try #require(ARPPacketView(packet.slice(from: 14))))
            #expect(request == .request(for: 0x0a00_0002, from: MACAddress(0x0200_0000_0001), 0x0a00_0001))
            let reply = written(28) { request.reply(from: MACAddress(0x0200_0000_0002)).emit(into: $0) }
            #expect(reply == Array(Self.arpReply[14...]))
        }
    }

    @Test(arguments: tcpIPv4 + tcpIPv6)
    func tcp(frame: [UInt8]) throws {
        try withPacket(frame) { packet in
            let ethernet = try #require(EthernetHeaderView(packet))
            let (payload, source, destination) = try addresses(ethernet)
            let view = try #require(TCPHeaderView(payload))
            let pseudo = InternetChecksum.pseudoHeader(
                source: source, destination: destination, ipProtocol: .tcp, length: payload.count)
            #expect(view.checksumIsValid(pseudoHeader: pseudo))
            let options = TCPOptions(view)
            #expect(!options.isMalformed)
            #expect(view.hasOnlyTimestamps == (view.headerLength == 32))
            #expect(options == TCPOptions(parsing: view.options))
            let again = written(frame.count) { target in
                EthernetHeader(ethernet).emit(into: target)
                let offset = emitNetworkHeader(of: ethernet, into: target)
                let segment = target.slice(from: offset)
                let length = TCPHeader(view).emit(into: segment, options: options)
                #expect(length == view.headerLength)
                let sum = InternetChecksum.copyAndSum(from: view.payload, to: segment.slice(from: length), initial: pseudo)
                TCPHeader.storeChecksum(in: segment.slice(0, length), sum: sum)
            }
            #expect(again == frame)
        }
    }

    @Test(arguments: [udpIPv4, udpIPv6])
    func udp(frame: [UInt8]) throws {
        try withPacket(frame) { packet in
            let ethernet = try #require(EthernetHeaderView(packet))
            let (payload, source, destination) = try addresses(ethernet)
            let view = try #require(UDPHeaderView(payload))
            let pseudo = InternetChecksum.pseudoHeader(source: source, destination: destination, ipProtocol: .udp, length: view.length)
            #expect(view.hasChecksum)
            #expect(view.checksumIsValid(pseudoHeader: pseudo))
            #expect(!view.checksumIsValid(pseudoHeader: pseudo + 1))
            let again = written(frame.count) { target in
                EthernetHeader(ethernet).emit(into: target)
                let offset = emitNetworkHeader(of: ethernet, into: target)
                let header = UDPHeader(view)
                let sum = InternetChecksum.copyAndSum(from: view.payload, to: target.slice(from: offset + 8))
                header.emit(into: target.slice(from: offset), checksum: header.checksum(payloadSum: sum, pseudoHeader: pseudo))
            }
            #expect(again == frame)
        }
    }

    @Test(arguments: [portUnreachable, echoRequest, echoReply])
    func icmp(frame: [UInt8]) throws {
        try withPacket(frame) { packet in
            let ethernet = try #require(EthernetHeaderView(packet))
            let (payload, _, _) = try addresses(ethernet)
            let view = try #require(ICMPView(payload))
            #expect(view.checksumIsValid)
            let message = ICMPv4(view)
            if frame == Self.portUnreachable {
                #expect(message == .destinationUnreachable(.port, nextHopMTU: 0))
                #expect(message.isError)
                // What the error is about begins behind its header, and is the datagram as it was sent.
                let original = try #require(IPv4HeaderView(view.payload))
                #expect(original.checksumIsValid)
                #expect(UDPHeaderView(original.payload)?.destinationPort == 9)
            } else {
                #expect(!message.isError)
            }
            let again = written(frame.count) { target in
                EthernetHeader(ethernet).emit(into: target)
                let offset = emitNetworkHeader(of: ethernet, into: target)
                target.copy(from: view.payload, at: offset + 8)
                message.emit(into: target.slice(from: offset))
            }
            #expect(again == frame)
        }
    }

    @Test(arguments: [portUnreachableIPv6, echoRequestIPv6, neighbourSolicitation, neighbourAdvertisement, routerSolicitation])
    func `ICMPv6 and neighbour discovery`(frame: [UInt8]) throws {
        try withPacket(frame) { packet in
            let ethernet = try #require(EthernetHeaderView(packet))
            let (payload, source, destination) = try addresses(ethernet)
            let view = try #require(ICMPView(payload))
            #expect(view.checksumIsValid(source: source, destination: destination))
            if destination.isMulticast { #expect(ethernet.destination == .ipv6Multicast(destination)) }
            let again = written(frame.count) { target in
                EthernetHeader(ethernet).emit(into: target)
                let message = target.slice(from: emitNetworkHeader(of: ethernet, into: target))
                if let discovery = NDPMessage(view) {
                    #expect(discovery.byteCount == payload.count)
                    discovery.emit(into: message, source: source, destination: destination)
                } else {
                    message.copy(from: view.payload, at: 8)
                    ICMPv6(view).emit(into: message, source: source, destination: destination)
                }
            }
            #expect(again == frame)
        }
    }

    @Test func `what neighbour discovery says`() throws {
        let target = try #require(IPAddress("2001:db8::2"))
        let message = try withPacket(Self.neighbourAdvertisement) { NDPMessage(try #require(ICMPView($0.slice(from: 54)))) }
        #expect(
            message
                == .neighbourAdvertisement(
                    .init(target: target, isRouter: false, isSolicited: true, overrides: true),
                    NDPOptions(targetLinkLayerAddress: MACAddress(0x0200_0000_0002))))
        let question = try withPacket(Self.neighbourSolicitation) { NDPMessage(try #require(ICMPView($0.slice(from: 54)))) }
        #expect(question == .neighbourSolicitation(target: target, NDPOptions(sourceLinkLayerAddress: MACAddress(0x0200_0000_0001))))
    }

    @Test func `a router alert is an option to pass over`() throws {
        try withPacket(Self.multicastListenerReport) { packet in
            let view = try #require(IPv6HeaderView(packet.slice(from: 14)))
            #expect(view.nextHeader == .hopByHop)
            let outcome = IPv6ExtensionHeaders.walk(view.payload, nextHeader: view.nextHeader)
            guard case .upperLayer(.icmpv6, offset: 8, nextHeaderPointer: 40) = outcome else {
                Issue.record("\(outcome)")
                return
            }
            let report = try #require(ICMPView(view.payload.slice(from: 8)))
            #expect(report.checksumIsValid(source: view.source, destination: view.destination))
            #expect(report.type == 143)
        }
    }

    @Test func fragments() throws {
        try withPacket(Self.fragmentIPv4) { packet in
            let view = try #require(IPv4HeaderView(packet.slice(from: 14)))
            #expect(view.isFragment && !view.moreFragments && !view.dontFragment)
            #expect(view.fragmentOffset == 1480)
            let again = written(20) { IPv4Header(view).emit(into: $0) }
            #expect(again == Array(Self.fragmentIPv4[14..<34]))
        }
        try withPacket(Self.fragmentIPv6) { packet in
            let view = try #require(IPv6HeaderView(packet.slice(from: 14)))
            let outcome = IPv6ExtensionHeaders.walk(view.payload, nextHeader: view.nextHeader)
            guard case .fragment(let header, offset: 8) = outcome else {
                Issue.record("\(outcome)")
                return
            }
            #expect(header == IPv6FragmentHeader(nextHeader: .udp, fragmentOffset: 1448, moreFragments: false, identification: 0x23df_6148))
            #expect(written(8) { header.emit(into: $0) } == Array(Self.fragmentIPv6[54..<62]))
        }
    }

    private func addresses(_ ethernet: EthernetHeaderView) throws -> (PacketBytes, IPAddress, IPAddress) {
        if ethernet.etherType == .ipv4 {
            let view = try #require(IPv4HeaderView(ethernet.payload))
            #expect(view.checksumIsValid)
            return (view.payload, view.sourceAddress, view.destinationAddress)
        }
        let view = try #require(IPv6HeaderView(ethernet.payload))
        return (view.payload, view.source, view.destination)
    }

    /// Writes the IP header anew and answers where its payload goes.
    private func emitNetworkHeader(of ethernet: EthernetHeaderView, into target: PacketBytes) -> Int {
        if let view = IPv4HeaderView(ethernet.payload) {
            IPv4Header(view).emit(into: target.slice(from: 14))
            return 34
        }
        if let view = IPv6HeaderView(ethernet.payload) { IPv6Header(view).emit(into: target.slice(from: 14)) }
        return 54
    }
}
