import Demikernel

/// What `--so_flags` says: words between commas.
///
/// | word | meaning | default |
/// |---|---|---|
/// | `local=ADDRESS/LENGTH` | this host's address; twice for both families | 192.168.0.1/16, fd3d:fa7b:d17d::1/48 |
/// | `gateway=ADDRESS` | the router to everybody else; twice likewise | 192.168.0.2, fd3d:fa7b:d17d::2 |
/// | `mtu=BYTES` | the link's | 1500 |
/// | `seed=NUMBER` | where chance begins | 1 |
/// | `options=mss+sackok+ts+nop+ws` | the order of a SYN's options, `nop` where it stands | Linux's |
///
/// The defaults are packetdrill's own. What is none of these is ignored, and noted in ``ignored``.
struct PacketdrillSettings {
    /// An option of a SYN, in the order in which they are sent.
    enum Option: String {
        case mss, sackok, ts, ws, nop, eol
    }

    var local: [NetworkConfiguration.InterfaceAddress] = []
    var gateways: [IPAddress] = []
    var mtu = 1_500
    var seed: UInt64 = 1
    var options: [Option] = []
    /// Words that were not understood.
    private(set) var ignored: [Substring] = []

    /// Stations of a link that packetdrill knows nothing of.
    let ownStation = MACAddress(0x0200_0000_0001)
    let peerStation = MACAddress(0x0200_0000_0002)

    init(_ flags: String = "") {
        for word in flags.split(separator: ",") {
            if !take(word) { ignored.append(word) }
        }
        if local.isEmpty {
            for text in ["192.168.0.1/16", "fd3d:fa7b:d17d::1/48"] {
                if let parsed = ConfigurationGrammar.interfaceAddress(text) { local.append(.init(parsed.address, prefixLength: parsed.prefixLength)) }
            }
        }
        if gateways.isEmpty { gateways = ["192.168.0.2", "fd3d:fa7b:d17d::2"].compactMap { IPAddress($0) } }
    }

    /// False, and nothing changed, for a word that is none, or has no such value.
    private mutating func take(_ word: Substring) -> Bool {
        guard let equals = word.firstIndex(of: "=") else { return false }
        let value = String(word[word.index(after: equals)...])
        switch word[..<equals] {
        case "local":
            guard let parsed = ConfigurationGrammar.interfaceAddress(value) else { return false }
            local.append(.init(parsed.address, prefixLength: parsed.prefixLength))
        case "gateway":
            guard let address = IPAddress(value) else { return false }
            gateways.append(address)
        case "mtu":
            guard let number = Int(value), 576...65_535 ~= number else { return false }
            mtu = number
        case "seed":
            guard let number = UInt64(value) else { return false }
            seed = number
        case "options":
            let order = value.split(separator: "+").map { Option(rawValue: String($0)) }
            guard !order.contains(nil) else { return false }
            options = order.compactMap(\.self)
        default: return false
        }
        return true
    }

    var network: NetworkConfiguration {
        var configuration = NetworkConfiguration(addresses: mtu < 1_280 ? local.filter(\.address.isIPv4) : local)
        let families = configuration.addresses.map(\.address.isIPv4)
        configuration.gatewayIPv4 = families.contains(true) ? gateways.first { $0.isIPv4 } : nil
        configuration.gatewayIPv6 = families.contains(false) ? gateways.first { !$0.isIPv4 } : nil
        configuration.staticNeighbours = gateways.filter { families.contains($0.isIPv4) }.map { .init($0, peerStation) }
        configuration.announcesAddresses = false
        configuration.addsLinkLocalAddress = false
        return configuration
    }
}
