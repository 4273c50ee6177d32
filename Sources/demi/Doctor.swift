import ArgumentParser
import Demikernel

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor", abstract: "Says what this machine offers to a libOS, what it lacks, and which libOSes can run here.",
        discussion: """
            Each finding is good (+), worth knowing (-) or in the way (!), the last two with what to do about it. Nothing is changed.

            Examples:
              demi doctor
              demi doctor --json

            Exit status: 0 some libOS can run here, 1 none can, 2 wrong usage.
            """)

    @Flag(help: "Print one JSON object.") var json = false

    func run() throws {
        let sections = [
            DoctorSection("processor", DoctorProbes.processor()),
            DoctorSection("memory", DoctorProbes.memory()),
            DoctorSection("rights and limits", DoctorProbes.rights()),
            DoctorSection("kernel", DoctorProbes.kernel()),
            DoctorSection("network", DoctorProbes.network()),
        ]
        let libOSes = DoctorLibOS.all()
        writeLine(json ? object(sections, libOSes).text : text(sections, libOSes))
        guard libOSes.contains(where: \.canRun) else {
            throw json ? Failure.quiet(ExitStatus.failed) : Failure("no libOS can run here")
        }
    }

    private func text(_ sections: [DoctorSection], _ libOSes: [DoctorLibOS]) -> String {
        var lines: [String] = []
        for section in sections {
            lines.append(section.title)
            for finding in section.findings {
                lines.append("  \(finding.verdict.mark) \(finding.name.padded(to: 22)) \(finding.value)")
                if let hint = finding.hint { lines.append("      \(hint)") }
            }
        }
        lines.append("libOSes")
        for libOS in libOSes {
            let state = libOS.canRun ? "can run" : libOS.isInBuild ? "cannot run: \(libOS.reason)" : libOS.reason
            lines.append("  \(libOS.canRun ? "+" : "-") \(libOS.name.padded(to: 22)) \(state)")
            lines.append("      \(libOS.hint.map { "\(libOS.summary). \($0)" } ?? libOS.summary)")
        }
        return lines.joined(separator: "\n")
    }

    private func object(_ sections: [DoctorSection], _ libOSes: [DoctorLibOS]) -> JSONObject {
        var object = JSONObject()
        object.add("findings", sections.flatMap { section in
            section.findings.map { finding in
                var object = JSONObject()
                object.add("section", section.title)
                object.add("name", finding.name)
                object.add("value", finding.value)
                object.add("verdict", finding.verdict.rawValue)
                if let hint = finding.hint { object.add("hint", hint) }
                return object
            }
        })
        object.add("libOSes", libOSes.map { libOS in
            var object = JSONObject()
            object.add("name", libOS.name)
            object.add("summary", libOS.summary)
            object.add("inBuild", libOS.isInBuild)
            object.add("canRun", libOS.canRun)
            if !libOS.canRun { object.add("reason", libOS.reason) }
            if let hint = libOS.hint { object.add("hint", hint) }
            return object
        })
        return object
    }
}

struct DoctorSection {
    let title: String
    let findings: [DoctorFinding]

    init(_ title: String, _ findings: [DoctorFinding]) {
        self.title = title
        self.findings = findings
    }
}

/// One thing that was looked at.
struct DoctorFinding {
    enum Verdict: String {
        case good, note, bad

        var mark: String {
            switch self {
            case .good: "+"
            case .note: "-"
            case .bad: "!"
            }
        }
    }

    let name: String
    let value: String
    let verdict: Verdict
    /// What to do about it, or what it is good for.
    let hint: String?

    init(_ name: String, _ value: String, _ verdict: Verdict, _ hint: String? = nil) {
        self.name = name
        self.value = value
        self.verdict = verdict
        self.hint = hint
    }
}

/// A libOS, and whether it can run here.
struct DoctorLibOS {
    let name: String
    let summary: String
    let isInBuild: Bool
    /// Why it cannot run; empty where it can.
    let reason: String
    let hint: String?

    var canRun: Bool { isInBuild && reason.isEmpty }

    /// Those of this build, each tried, and those that are planned.
    static func all() -> [DoctorLibOS] {
        let names = Registry.entries.map(\.name)
        return Registry.entries.map(tried) + planned.filter { !names.contains($0.name) }
    }

    /// Starts the libOS, takes memory from it and opens a socket.
    private static func tried(_ entry: Registry.Entry) -> DoctorLibOS {
        var reason = ""
        do {
            let libOS = try LibOS(Registry.trial(of: entry.name))
            _ = try libOS.allocate(2048)
            try libOS.close(try libOS.socket())
        } catch {
            reason = "\(error)"
        }
        let hint = reason.isEmpty ? nil : "See the findings above; demi configuration lists the settings."
        return DoctorLibOS(name: entry.name, summary: entry.summary, isInBuild: true, reason: reason, hint: hint)
    }

    private static let planned = [
        ("catmint", "RDMA"),
        ("cattree", "NVMe through SPDK: the log"),
    ].map { DoctorLibOS(name: $0.0, summary: $0.1, isInBuild: false, reason: "not in this build", hint: nil) }
}
