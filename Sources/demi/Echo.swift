import ArgumentParser
import Demikernel
import DemikernelConfiguration

struct EchoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "echo", abstract: "Answers messages with themselves, or measures how long such answers take.",
        discussion: """
            Examples:
              demi echo serve --spin forever --cpu 0
              demi echo ping --clients 8 --count 1000000 --cpu 1
            """,
        subcommands: [ServeCommand.self, PingCommand.self])
}

enum Transport: String, ExpressibleByArgument, CaseIterable {
    case tcp
    case udp

    var socketType: SocketType { self == .tcp ? .stream : .datagram }
}

/// Which libOS a command starts, and how.
struct LibOSOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The libOS, by name. Without it the settings say.", valueName: "name"))
    var libos: String?

    @Option(
        help: ArgumentHelp(
            "Take catnip, over memif at this socket: the end that serves as memif's server, the other as its client.", valueName: "path"))
    var memif: String?

    @Option(help: ArgumentHelp("A settings file, instead of the one that CONFIG_PATH names.", valueName: "file"))
    var config: String?

    @Option(help: ArgumentHelp(
        "How long a wait polls before it sleeps: forever, 0, or a time such as 50us. Without it the settings say.", valueName: "time"))
    var spin: String?

    @Option(help: ArgumentHelp("Run on this processor alone.", valueName: "number"))
    var cpu: Int?

    mutating func validate() throws {
        if let libos, !Registry.entries.contains(where: { $0.name == libos }) {
            let names = Registry.entries.map(\.name).joined(separator: ", ")
            throw ValidationError("--libos: there is no libOS named \(libos.quotedForMessage); this build has: \(names)")
        }
        if let libos, memif != nil, libos != "catnip" { throw ValidationError("--memif is for catnip, not for \(libos)") }
        if let spin { try Self.check(spin) }
        if let cpu, !Processors.allowed.contains(cpu) {
            let list = Processors.allowed.map(String.init).joined(separator: ", ")
            throw ValidationError("--cpu: this process may not run on processor \(cpu); it may on \(list)")
        }
    }

    private static var spinSetting: ConfigurationSetting? { Configuration.settings.first { $0.path == "wait.spin" } }

    private static func check(_ text: String) throws {
        guard let setting = spinSetting else { return }
        guard let value = setting.type.parse(text), setting.type.problem(with: value) == nil else {
            throw ValidationError("--spin: expected \(setting.type.expectation), found \(text.quotedForMessage)")
        }
    }

    /// The settings: file, then environment, then these options. `role` is this end's where a memif socket is given.
    func configuration(_ role: Configuration.Memif.Role) throws -> Configuration {
        var configuration = try config.map { path throws(ConfigurationError) in try Configuration.load(path: path) } ?? Configuration.load()
        if let libos { configuration.libOS = libos }
        if let memif {
            configuration.libOS = "catnip"
            configuration.memif.socket = memif
            configuration.memif.role = role
        }
        if let spin, let setting = Self.spinSetting, let value = setting.type.parse(spin) { setting.write(&configuration, value) }
        guard configuration.libOS != "catnip" || !configuration.memif.socket.isEmpty else {
            throw Failure("catnip meets its peer at a memif socket, of which none is set: give --memif PATH, or DEMI_MEMIF_SOCKET and DEMI_MEMIF_ROLE")
        }
        return configuration
    }
}

/// What either end of a measurement is told.
struct EndpointOptions: ParsableArguments {
    @OptionGroup var common: LibOSOptions

    @Option(
        help: ArgumentHelp(
            "A numeric address with a port; [ADDRESS]:PORT for IPv6. Without it port 7000 of 127.0.0.1, or with catnip of the memif server's default.",
            valueName: "address"),
        transform: address(_:))
    var address: SocketAddress?

    private static func address(_ text: String) throws -> SocketAddress {
        guard let address = SocketAddress(text) else {
            throw ValidationError("expected a numeric address with a port, such as 127.0.0.1:7000 or [::1]:7000")
        }
        return address
    }

    var cpu: Int? { common.cpu }

    /// The settings: see ``LibOSOptions/configuration(_:)``.
    func configuration(_ role: Configuration.Memif.Role) throws -> Configuration { try common.configuration(role) }

    /// Where a server listens.
    func localAddress(_ configuration: Configuration) -> SocketAddress {
        address ?? (configuration.libOS == "catnap" ? .loopback(port: 7000) : .any(port: 7000))
    }

    /// Where a client finds its server: with a stack of our own, at the address that the other end of the link has by default.
    func remoteAddress(_ configuration: Configuration) -> SocketAddress {
        address ?? Self.peer(of: configuration)
    }

    /// The other end's default address.
    static func peer(of configuration: Configuration) -> SocketAddress {
        switch configuration.libOS {
        case "catnap": .loopback(port: 7000)
        case "catnip" where configuration.memif.role == .server: .ipv4(0x0a75_0002, port: 7000)
        default: .ipv4(0x0a75_0001, port: 7000)
        }
    }
}

extension LibOS {
    /// What to say besides where a peer does not answer: whether there is one at all.
    var missingPeer: String {
        guard let network = networkStatistics, !network.isConnected else { return "" }
        if configuration.libOS == "catpowder" { return "; the interface \(configuration.catpowder.interface) is down, or gone" }
        guard configuration.libOS == "catnip" else { return "" }
        let socket = configuration.memif.socket
        return configuration.memif.role == .client
            ? "; nobody serves the memif socket \(socket): start the other end first, as with demi echo serve --memif \(socket)"
            : "; no client has come to the memif socket \(socket)"
    }
}
