import ArgumentParser
import CDemikernelShims
import Demikernel
import Glibc
import SystemPackage

struct SoakCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "soak", abstract: "Runs many connections against the kernel for long, and sees whether anything is left.",
        discussion: """
            Our stack and the kernel's, in a network namespace of its own, are the two ends of a TAP interface that loses, repeats, reorders and \
            damages frames. Each opens connections to the other, of which every one streams, idles, ends or resets as the seed says; every byte \
            is compared where it arrives. After a warm-up, and again at the end, all connections come to their ends, and what the process holds \
            then is compared: memory, descriptors, objects of the heap, timers, sockets. Takes root.

            Examples:
              demi soak --minutes 5
              demi soak --minutes 600 --connections 400 --loss 0.02 --processor 0
              demi soak --minutes 1 --seed 7 --json

            Exit status: 0 every byte was right and nothing is left, 1 something was not (it is said what), 2 wrong usage, 130 interrupted.
            """)

    @Option(help: ArgumentHelp("For how long connections are opened, without the warm-up.", valueName: "number"))
    var minutes = 5.0

    @Option(help: ArgumentHelp("Connections at a time that each end opens.", valueName: "number"))
    var connections = 100

    @Option(help: ArgumentHelp("What each connection does follows from it.", valueName: "number"))
    var seed: UInt64 = 1

    @Option(help: ArgumentHelp("The chance that a frame is lost, 0 to 0.05.", valueName: "chance"))
    var loss = 0.005

    @Option(help: ArgumentHelp("The chance that a frame is overtaken, 0 to 0.5.", valueName: "chance"))
    var reorder = 0.01

    @Option(help: ArgumentHelp("The chance that a frame comes twice, 0 to 0.5.", valueName: "chance"))
    var duplicate = 0.005

    @Option(help: ArgumentHelp("The chance that a frame is damaged, 0 to 0.05.", valueName: "chance"))
    var corrupt = 0.001

    @Option(help: ArgumentHelp("Percent of a processor that each end keeps to; 0 for as much as there is.", valueName: "percent"))
    var processor = 10.0

    @Flag(help: "Print one JSON object instead of a summary.")
    var json = false

    func validate() throws {
        guard minutes > 0, minutes <= 1_000_000 else { throw ValidationError("--minutes: expected a number above 0, at most 1000000") }
        guard 1...2_000 ~= connections else { throw ValidationError("--connections: expected a number from 1 to 2000, found \(connections)") }
        // More, and connections time out by rights: neighbours are asked for three times, and SYNs sent seven times.
        for (name, value, limit) in [("loss", loss, 0.05), ("reorder", reorder, 0.5), ("duplicate", duplicate, 0.5), ("corrupt", corrupt, 0.05)]
        where !(0...limit).contains(value) {
            throw ValidationError("--\(name): expected a chance from 0 to \(limit), found \(value)")
        }
        guard (0...100).contains(processor) else { throw ValidationError("--processor: expected a percentage, found \(processor)") }
    }

    func run() throws {
        try Interruption.handle {
            // Namespace and interface have no names in the system, and go with their descriptors.
            Child.stopAll()
            _exit(ExitStatus.interrupted)
        }
        let namespace: Int32
        do throws(DemikernelError) { namespace = try NetworkNamespace.make() } catch { throw Failure("\(error)") }
        defer { close(namespace) }
        let path = "/proc/\(getpid())/fd/\(namespace)"
        let libOS = try LibOS(configuration(path))
        let peer = try SoakPeerProcess(
            path, interface: Self.interface, seed: seed, connections: connections, share: processor / 100)
        let outcome: SoakOutcome
        do {
            let soak = Soak(self, libOS, peer)
            outcome = try libOS.run { _ in try await soak.run() }
        }
        peer.finish()
        writeLine(json ? outcome.json : outcome.text)
        if let failure = outcome.failure { throw Failure(failure) }
    }

    private static let interface = "soak0"

    private func configuration(_ namespace: String) -> Configuration {
        var configuration = Configuration()
        configuration.libOS = "catpowder"
        configuration.heap.limit = 512 << 20
        configuration.heap.hugePages = .never
        configuration.heap.lockPages = false
        configuration.wait.spin = .atMost(.zero)
        configuration.operations.capacity = 65_536
        configuration.descriptors.capacity = 16_384
        configuration.catpowder.device = .tap
        configuration.catpowder.interface = Self.interface
        configuration.catpowder.namespace = namespace
        // What a minute would hide is to be seen at the end.
        configuration.network.timers.timeWait = .seconds(1)
        // A reset that was lost is found out in seconds.
        configuration.network.timers.keepalive = .seconds(5)
        configuration.network.faults.loss = Int(loss * 1e6)
        configuration.network.faults.reorder = Int(reorder * 1e6)
        configuration.network.faults.duplicate = Int(duplicate * 1e6)
        configuration.network.faults.corrupt = Int(corrupt * 1e6)
        configuration.network.faults.seed = Int(seed & 0xffff_ffff)
        return configuration
    }

    /// How long connections are opened before what is held is first looked at: tables, pools and caches have grown by then.
    var warmUpSeconds: Double { min(60, max(5, minutes * 60 / 5)) }
}

/// The process with the kernel's sockets.
///
/// Sendable unchecked: it is made before the libOS's tasks run, used on their thread alone while they do, and ended after.
final class SoakPeerProcess: @unchecked Sendable {
    private let child: Child
    private let control: Int32

    init(_ namespace: String, interface: String, seed: UInt64, connections: Int, share: Double) throws {
        var ends: [Int32] = [0, 0]
        guard unsafe ends.withUnsafeMutableBufferPointer({ unsafe pipe($0.baseAddress!) }) == 0 else { throw Failure("no pipe: \(errorText(errno))") }
        _ = fcntl(ends[1], F_SETFD, FD_CLOEXEC)
        control = ends[1]
        child = try Child(
            Child.ownPath(),
            [
                "soak-peer", "--namespace", namespace, "--interface", interface, "--control", "\(ends[0])", "--seed", "\(seed)",
                "--connections", "\(connections)", "--share", "\(share)",
            ])
        close(ends[0])
        guard child.line(within: 30) == "ready" else { throw Failure("the kernel's side does not start") }
    }

    func tell(_ letter: Character) {
        var byte = letter.asciiValue ?? 0
        unsafe _ = write(control, &byte, 1)
    }

    /// How many connections it has, and what has come of them.
    func ask() throws -> (streams: Int, counts: SoakCounts) {
        tell("s")
        guard let line = child.line(within: 60), let space = line.firstIndex(of: " "), let streams = Int(line[..<space]),
            let counts = SoakCounts(line: line[line.index(after: space)...])
        else { throw Failure("the kernel's side has ended") }
        return (streams, counts)
    }

    func finish() {
        close(control)
        child.finish()
    }
}
