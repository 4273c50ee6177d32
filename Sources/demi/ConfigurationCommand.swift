import ArgumentParser
import DemikernelConfiguration

struct ConfigurationCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "configuration", abstract: "Lists every setting, with its variable, its default and what it takes.",
        discussion: """
            Settings come from the file that CONFIG_PATH names and from the environment, which goes first. See demikernel.yaml(5).

            Examples:
              demi configuration
              demi configuration --example > demikernel.yaml
              CONFIG_PATH=demikernel.yaml demi echo serve
            """)

    @Flag(help: "Print a settings file with every setting at its default.") var example = false

    func run() throws {
        let text = example ? ConfigurationManual.example : ConfigurationManual.help
        writeLine(String(text.last == "\n" ? text.dropLast() : text[...]))
    }
}
