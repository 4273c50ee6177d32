import ArgumentParser
import Demikernel
import Glibc

/// The command-line tool: one file a subcommand.
struct Demi: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demi",
        abstract: "Runs, measures and examines Demikernel, a datapath operating system.",
        discussion: """
            Examples:
              demi demo                 measure the echo over our own stack, the kernel's sockets, and plain epoll
              demi echo serve           answer on 127.0.0.1:7000
              demi echo ping            measure round trips to it
              demi netstat              the sockets and counters of running libOSes
              demi dump -w x.pcapng     their frames, for Wireshark
              demi ping 10.0.0.1        ICMP echo from our own stack
              demi doctor               what this machine offers, and what it lacks

            Exit status: 0 done, 1 failed, 2 wrong usage. What was interrupted before its end exits with 130.
            """,
        version: Version.line,
        // One line a subcommand.
        subcommands: [
            DemoCommand.self,
            EchoCommand.self,
            StreamCommand.self,
            ChurnCommand.self,
            LinkCommand.self,
            IperfCommand.self,
            HTTPCommand.self,
            FramesCommand.self,
            BenchCommand.self,
            SimulateCommand.self,
            SoakCommand.self,
            SoakPeerCommand.self,
            NetstatCommand.self,
            DumpCommand.self,
            EchoRequestCommand.self,
            DoctorCommand.self,
            ConfigurationCommand.self,
            VersionCommand.self,
        ])

    /// Runs a command line and answers the exit status.
    static func run(_ arguments: [String]) -> Int32 {
        // A reader that went away is an error of the write, not the end of the process.
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot(arguments)
            try command.run()
            return ExitStatus.done
        } catch let failure as Failure {
            return failure.report()
        } catch let error as DemikernelError {
            return Failure("\(error)").report()
        } catch let error as ConfigurationError {
            return Failure("\(error)").report()
        } catch {
            return report(error)
        }
    }

    /// What the argument parser throws: help and versions, which are no errors, and usage.
    private static func report(_ error: any Error) -> Int32 {
        switch exitCode(for: error) {
        case .success:
            print(fullMessage(for: error))
            return ExitStatus.done
        case .validationFailure:
            let text = message(for: error).split(separator: "\n").joined(separator: " ")
            return Failure("\(text) (try --help)", status: ExitStatus.usage).report()
        case let code:
            return code.rawValue
        }
    }
}

/// What the process ends with.
enum ExitStatus {
    static let done: Int32 = 0
    static let failed: Int32 = 1
    static let usage: Int32 = 2
    /// SIGINT came before the work was done, as shells write it.
    static let interrupted: Int32 = 128 + SIGINT
}

/// Why a subcommand gave up, in one line.
struct Failure: Error {
    /// Empty where what is to be said has been said.
    let text: String
    let status: Int32

    init(_ text: String, status: Int32 = ExitStatus.failed) {
        self.text = text
        self.status = status
    }

    /// Ends with a status, without a word.
    static func quiet(_ status: Int32) -> Failure { Failure("", status: status) }

    func report() -> Int32 {
        if !text.isEmpty { writeError("demi: \(text)\n") }
        return status
    }
}

/// Writes to standard error, whole.
func writeError(_ text: String) { writeAll(text, to: STDERR_FILENO) }

/// Writes a line to standard output at once, so that a reader at the other end of a pipe sees it.
func writeLine(_ text: String) { writeAll(text + "\n", to: STDOUT_FILENO) }

private func writeAll(_ text: String, to descriptor: Int32) {
    let bytes = Array(text.utf8)
    var written = 0
    while written < bytes.count {
        let count = unsafe bytes.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress! + written, $0.count - written) }
        if count > 0 { written += count } else if errno != EINTR { return }
    }
}
