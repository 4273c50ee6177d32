import ArgumentParser
DemiTemporary.main()
struct DemiTemporary: ParsableCommand { static let configuration = CommandConfiguration(commandName: "demi", subcommands: [BenchCommand.self]) }
