import Testing
@testable import Demikernel

@Suite struct IPv4Tests {
    /// Whether a datagram in this frame reaches a socket that is bound to all addresses.
    private func isDelivered(
        _ frame: [UInt8], _ change: (inout NetworkConfiguration, inout NetworkDeviceCapabilities) -> Void = { _, _ in }
    ) throws -> Bool {
        var host = try NetworkHost(change)
        let socket = try host.bind("0.0.0.0:1000")
        let answers = host.receive(frame)
        #expect(answers.isEmpty)
        let delivered = host.take(socket) != nil
        #expect(host.end() == 0)
        return delivered
    }

    private let content = udp(pattern(20))

    // MARK: Ethernet

    @Test func `frames for the host's address and for all are taken, others dropped (IEEE 802.3)`() throws {
        #expect(try isDelivered(ethernet(.ipv4, ipv4(.udp, content))))
        #expect(try !isDelivered(ethernet(.ipv4, ipv4(.udp, content), to: Peer.mac)))
        #expect(try !isDelivered(ethernet(.ipv4, ipv4(.udp, content), to: MACAddress(0x0100_5e00_0005))))
        #expect(try !isDelivered(ethernet(.ipv4, ipv4(.udp, content), from: MACAddress.broadcast)))
        #expect(try !isDelivered(ethernet(.ipv4, ipv4(.udp, content), from: NetworkHost.mac)))
        #expect(try !isDelivered(ethernet(EtherType(rawValue: 0x1234), ipv4(.udp, content))))
    }

    @Test func `a packet to one host in a frame to all is dropped (RFC 1122, section 3.3.6)`() throws {
        #expect(try !isDelivered(ethernet(.ipv4, ipv4(.udp, content), to: .broadcast)))
    }

    @Test func `a station with a VLAN takes frames of that VLAN alone, and tags its own (IEEE 802.1Q)`() throws {
        let packet = ipv4(.udp, content)
        #expect(try !isDelivered(ethernet(.ipv4, packet)) { configuration, _ in configuration.vlan = 5 })
        #expect(try isDelivered(ethernet(.ipv4, packet, tag: VLANTag(identifier: 5))) { configuration, _ in configuration.vlan = 5 })
        #expect(try isDelivered(ethernet(.ipv4, packet, tag: VLANTag(priority: 3, identifier: 5))) { configuration, _ in configuration.vlan = 5 })
        #expect(try !isDelivered(ethernet(.ipv4, packet, tag: VLANTag(identifier: 6))) { configuration, _ in configuration.vlan = 5 })
        #expect(try !isDelivered(ethernet(.ipv4, packet, tag: VLANTag(identifier: 6))))
        // A tag that carries a priority alone is no VLAN.
        #expect(try isDelivered(ethernet(.ipv4, packet, tag: VLANTag(priority: 6, identifier: 0))))

        var host = try NetworkHost { configuration, _ in configuration.vlan = 5 }
        try host.introduceTagged()
        let socket = try host.bind("0.0.0.0:1000")
        let frames = try host.send(socket, pattern(100), to: "10.0.0.2:9")
        #expect(frames.first?.ethernet.tag == VLANTag(identifier: 5))
        #expect(frames.first?.udp?.payload == pattern(100))
        #expect(host.end() == 0)
    }

    // MARK: The header

    @Test func `padding behind the packet is no part of it`() throws {
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000")
        host.receive(ethernet(.ipv4, ipv4(.udp, udp([1, 2])) + [UInt8](repeating: 0xee, count: 30)))
        #expect(host.take(socket)?.bytes == [1, 2])
        #expect(host.end() == 0)
    }

    @Test func `a header whose checksum is wrong is dropped, options included (RFC 791, section 3.1)`() throws {
        for options in [[], [UInt8](repeating: 1, count: 8)] {
            let packet = ipv4(.udp, content, options: options)
            #expect(try isDelivered(ethernet(.ipv4, packet)))
            for byte in [1, 8, 10, 13, 19 + options.count] {
                var damaged = packet
                damaged[byte] ^= 0x10
                #expect(try !isDelivered(ethernet(.ipv4, damaged)), "byte \(byte)")
            }
        }
    }

    @Test func `options are skipped, whatever they are, but for source routes (RFC 791, 3.1; RFC 7126, 4.3)`() throws {
        #expect(try isDelivered(ethernet(.ipv4, ipv4(.udp, content, options: [148, 4, 0, 0]))))
        #expect(try isDelivered(ethernet(.ipv4, ipv4(.udp, content, options: [7, 7, 4, 0, 0, 0, 0, 0]))))
        #expect(try isDelivered(ethernet(.ipv4, ipv4(.udp, content, options: [99, 200, 1, 1]))))
        #expect(try isDelivered(ethernet(.ipv4, ipv4(.udp, content, options: [UInt8](repeating: 1, count: 40)))))
        #expect(try !isDelivered(ethernet(.ipv4, ipv4(.udp, content, options: [131, 7, 4, 1, 2, 3, 4, 0]))))
        #expect(try !isDelivered(ethernet(.ipv4, ipv4(.udp, content, options: [1, 137, 3, 4]))))
    }

    @Test func `lengths that contradict the frame are dropped`() throws {
        let packet = ipv4(.udp, content)
        for length in 0..<packet.count { #expect(try !isDelivered(ethernet(.ipv4, Array(packet[..<length]))), "\(length) bytes") }
        var short = packet
        short[0] = 0x44
        #expect(try !isDelivered(ethernet(.ipv4, short)))
    }

    @Test(arguments: ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "10.0.0.255", "10.0.0.1"])
    func `a source that can be nobody's is dropped (RFC 1122, section 3.2.1.3)`(source: String) throws {
        let address = IPAddress(source)!
        var host = try NetworkHost()
        let socket = try host.bind("0.0.0.0:1000")
        host.receive(ethernet(.ipv4, ipv4(.udp, udp([1], from: address), from: address)))
        #expect(host.take(socket) == nil)
        let dropped = host.stack.ip.counters.packetsBadSource
        #expect(dropped == 1)
        #expect(host.end() == 0)
    }

    @Test(arguments: ["10.0.0.2", "10.0.0.0", "10.0.1.255", "127.0.0.1", "224.0.0.5", "192.0.2.1", "0.0.0.0"])
    func `a packet for another is dropped`(destination: String) throws {
        let address = IPAddress(destination)!
        #expect(try !isDelivered(ethernet(.ipv4, ipv4(.udp, udp([1], to: address), to: address))))
    }

    @Test(arguments: [("10.0.0.255", "ff:ff:ff:ff:ff:ff"), ("255.255.255.255", "ff:ff:ff:ff:ff:ff"), ("224.0.0.1", "01:00:5e:00:00:01")])
    func `packets for all stations are taken (RFC 919; RFC 1112)`(destination: String, link: String) throws {
        let address = IPAddress(destination)!
        #expect(try isDelivered(ethernet(.ipv4, ipv4(.udp, udp([1], to: address), to: address), to: MACAddress(link)!)))
    }

    @Test func `a hop limit that has run out is no reason to drop for a host (RFC 1122, section 3.2.1.7)`() throws {
        #expect(try isDelivered(ethernet(.ipv4, ipv4(.udp, content, timeToLive: 1))))
    }

    @Test func `a protocol that nobody speaks is answered (RFC 1122, section 3.2.2.1)`() throws {
        var host = try NetworkHost()
        try host.introduce(Peer.v4, Peer.mac)
        let packet = ipv4(IPProtocol(rawValue: 132), pattern(100))
        let answers = host.receive(ethernet(.ipv4, packet))
        #expect(answers.first?.icmpv4 == .destinationUnreachable(.ipProtocol, nextHopMTU: 0))
        #expect(answers.first?.quoted == packet)
        #expect(host.end() == 0)
    }

    // MARK: Local delivery

    @Test(arguments: ["127.0.0.1", "127.9.9.9", "10.0.0.1", "0.0.0.0"])
    func `what the host sends to itself does not leave it`(address: String) throws {
        var host = try NetworkHost()
        let server = try host.bind("0.0.0.0:1000")
        let client = try host.bind("0.0.0.0:2000", tag: 2)
        #expect(try host.send(client, pattern(3000), to: "\(address):1000").isEmpty)
        #expect(host.stack.nextDeadline() == 0)
        host.stack.poll(now: host.now)
        let datagram = try required(host.take(server))
        #expect(datagram.bytes == pattern(3000))
        #expect(datagram.source == (address == "0.0.0.0" ? "127.0.0.1:2000" : "\(address):2000"))
        #expect(host.sent().isEmpty)
        #expect(host.end() == 0)
    }

    @Test func `a device that is connected to itself carries what the host sends to itself`() throws {
        var host = try NetworkHost { configuration, device in
            configuration.localDelivery = .device
            device.isLoop = true
            device.fillsChecksums = true
        }
        let server = try host.bind("10.0.0.1:1000")
        let client = try host.bind("10.0.0.1:2000", tag: 2)
        let frames = try host.send(client, [1, 2, 3], to: "10.0.0.1:1000")
        #expect(frames.count == 1)
        #expect(frames[0].ethernet == EthernetHeader(destination: NetworkHost.mac, source: NetworkHost.mac, etherType: .ipv4))
        #expect(frames[0].offload == FrameOffload(flags: .partialChecksum, checksumStart: 34, checksumOffset: 6))
        host.receive(frames[0].bytes, offload: frames[0].offload)
        #expect(host.take(server)?.bytes == [1, 2, 3])
        #expect(host.end() == 0)
    }

    @Test func `a full queue of packets to oneself drops and counts, and nothing is lost silently`() throws {
        var host = try NetworkHost()
        let server = try host.bind("127.0.0.1:1000")
        var sent = 0
        while host.stack.ip.canSend, sent < 10_000 {
            try host.send(server, [1], to: "127.0.0.1:1000")
            sent += 1
        }
        #expect(sent == 256)
        #expect(throws: DemikernelError(.resourceTemporarilyUnavailable, "")) { try host.send(server, [1], to: "127.0.0.1:1000") }
        host.stack.poll(now: host.now)
        var received = 0
        while host.take(server) != nil { received += 1 }
        #expect(received == sent)
        #expect(host.end() == 0)
    }

    // MARK: Routes

    @Test func `paths: on link, gateway, nowhere`() throws {
        var host = try NetworkHost { configuration, _ in
            configuration.addresses.append(.init(IPAddress("10.0.0.129")!, prefixLength: 25))
        }
        #expect(try host.source("10.0.0.2") == "10.0.0.1")
        // The longest prefix decides.
        #expect(try host.source("10.0.0.200") == "10.0.0.129")
        #expect(try host.source("10.0.0.200", from: "10.0.0.1") == "10.0.0.1")
        #expect(try host.source("192.0.2.1") == "10.0.0.129")
        #expect(try host.source("255.255.255.255") == "10.0.0.1")
        #expect(try host.source("fd00::2") == "fd00::1")
        #expect(try host.source("2001:db8::1") == "fd00::1")
        #expect(try host.source("fe80::2") == IPAddress.linkLocal(NetworkHost.mac).description)
        #expect(try host.source("ff02::1") == IPAddress.linkLocal(NetworkHost.mac).description)
        for (destination, from) in [("10.0.0.2", "10.0.0.3"), ("10.0.0.2", "fd00::1"), ("10.0.0.2", "127.0.0.1")] {
            #expect(throws: DemikernelError(.addressNotAvailable, "")) { _ = try host.source(destination, from: from) }
        }
        for destination in ["0.1.2.3", "240.0.0.1"] {
            #expect(throws: DemikernelError(.networkUnreachable, "")) { _ = try host.source(destination) }
        }
        #expect(host.end() == 0)
    }

    @Test func `without a gateway other networks are unreachable`() throws {
        var host = try NetworkHost { configuration, _ in
            configuration.gatewayIPv4 = nil
            configuration.gatewayIPv6 = nil
        }
        #expect(throws: DemikernelError(.networkUnreachable, "")) { _ = try host.stack.ip.path(from: nil, to: Peer.far) }
        #expect(throws: DemikernelError(.networkUnreachable, "")) { _ = try host.stack.ip.path(from: nil, to: IPAddress("2001:db8::1")!) }
        #expect(host.end() == 0)
    }

    @Test func `settings that contradict each other are errors that say so`() {
        func refuses(_ change: (inout NetworkConfiguration, inout NetworkDeviceCapabilities) -> Void) -> Bool {
            do {
                _ = try NetworkHost(change).end()
                return false
            } catch {
                return (error as? DemikernelError)?.errno == .invalidArgument
            }
        }
        #expect(!refuses { _, _ in })
        #expect(refuses { configuration, _ in configuration.addresses.append(.init(NetworkHost.v4, prefixLength: 24)) })
        #expect(refuses { configuration, _ in configuration.addresses[0].prefixLength = 33 })
        #expect(refuses { configuration, _ in configuration.addresses[0].address = IPAddress("10.0.0.255")! })
        #expect(refuses { configuration, _ in configuration.addresses[0].address = IPAddress("10.0.0.0")! })
        #expect(refuses { configuration, _ in configuration.addresses[0].address = IPAddress("224.0.0.1")! })
        #expect(refuses { configuration, _ in configuration.gatewayIPv4 = Peer.far })
        #expect(refuses { configuration, _ in configuration.gatewayIPv6 = Peer.v4 })
        #expect(refuses { configuration, _ in configuration.mtu = 9000 })
        #expect(refuses { configuration, _ in configuration.mtu = 1000 })
        #expect(refuses { configuration, _ in configuration.vlan = 0 })
        #expect(refuses { configuration, _ in configuration.macAddress = .broadcast })
        #expect(refuses { _, device in device.address = 0 })
        #expect(refuses { configuration, _ in configuration.addresses += (0..<8).map { .init(IPAddress("10.1.0.\($0 + 1)")!, prefixLength: 24) } })
    }
}

extension NetworkHost {
    /// Where the path to `destination` begins.
    mutating func source(_ destination: String, from source: String? = nil) throws -> String {
        try stack.ip.path(from: source.map { IPAddress($0)! }, to: IPAddress(destination)!).source.description
    }

    /// As `introduce`, on VLAN 5.
    mutating func introduceTagged() throws {
        let packet = ARPPacket(
            operation: .request, senderHardwareAddress: Peer.mac, senderProtocolAddress: Peer.v4.ipv4, targetHardwareAddress: .zero,
            targetProtocolAddress: NetworkHost.v4.ipv4)
        let bytes = written(ARPPacket.byteCount) { packet.emit(into: $0) }
        let frames = receive(ethernet(.arp, bytes, to: .broadcast, tag: VLANTag(identifier: 5)))
        #expect(frames.first?.ethernet.tag == VLANTag(identifier: 5))
    }
}
