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

/// What both halves of the echo are told.
struct EchoOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The libOS, by name. Without it the settings say.", valueName: "name"))
    var libos: String?

    @Option(help: ArgumentHelp("A settings file, instead of the one that CONFIG_PATH names.", valueName: "file"))
    var config: String?

    @Option(
        help: ArgumentHelp("A numeric address with a port; [ADDRESS]:PORT for IPv6. Without it 127.0.0.1:7000.", valueName: "address"),
        transform: address(_:))
    var address = SocketAddress.loopback(port: 7000)

    @Option(help: "tcp or udp.")
    var transport = Transport.tcp

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
        if let spin { try Self.check(spin) }
        if let cpu, !Processors.allowed.contains(cpu) {
            let list = Processors.allowed.map(String.init).joined(separator: ", ")
            throw ValidationError("--cpu: this process may not run on processor \(cpu); it may on \(list)")
        }
    }

    private static func address(_ text: String) throws -> SocketAddress {
        guard let address = SocketAddress(text) else {
            throw ValidationError("expected a numeric address with a port, such as 127.0.0.1:7000 or [::1]:7000")
        }
        return address
    }

    private static var spinSetting: ConfigurationSetting? { Configuration.settings.first { $0.path == "wait.spin" } }

    private static func check(_ text: String) throws {
        guard let setting = spinSetting else { return }
        guard let value = setting.type.parse(text), setting.type.problem(with: value) == nil else {
            throw ValidationError("--spin: expected \(setting.type.expectation), found \(text.quotedForMessage)")
        }
    }

    /// The settings: file, then environment, then these options.
    func libOSConfiguration() throws -> Configuration {
        var configuration = try config.map { path throws(ConfigurationError) in try Configuration.load(path: path) } ?? Configuration.load()
        if let libos { configuration.libOS = libos }
        if let spin, let setting = Self.spinSetting, let value = setting.type.parse(spin) { setting.write(&configuration, value) }
        return configuration
    }
}
