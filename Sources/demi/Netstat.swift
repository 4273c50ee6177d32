import ArgumentParser
import Demikernel
import Glibc

struct NetstatCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "netstat", abstract: "Shows the sockets and counters of running libOSes.",
        discussion: """
            Asks every process of this user that runs a libOS, at its control socket. Queues and windows are in bytes; of a listener, recv-q is
            the connections that wait to be accepted, and send-q the most that may. Counters that are zero are left out.

            Examples:
              demi netstat
              demi netstat --pid 4711 --watch 1
              demi netstat --counters
              demi netstat --json
              curl --unix-socket /run/user/1000/demikernel/4711.sock http://localhost/metrics

            Exit status: 0 done, 1 there is no such process, or it does not answer, 2 wrong usage.
            """)

    @Option(help: ArgumentHelp("Only this process.", valueName: "number"))
    var pid: Int?

    @Option(help: ArgumentHelp("Only the process at this control socket: one that control.socket names.", valueName: "path"))
    var socket: String?

    @Flag(help: "Counters alone, without the sockets.") var counters = false

    @Flag(help: "Sockets alone, without the counters.") var sockets = false

    @Option(help: ArgumentHelp("Again and again, with so many seconds between.", valueName: "seconds"))
    var watch: Double?

    @Flag(help: "Print one JSON object, or with --watch one each time.") var json = false

    mutating func validate() throws {
        if counters, sockets { throw ValidationError("--counters and --sockets exclude each other") }
        if pid != nil, socket != nil { throw ValidationError("--pid and --socket exclude each other") }
        if let pid, pid < 1 { throw ValidationError("--pid: expected a process's number, found \(pid)") }
        if let watch, !(0.05...86_400).contains(watch) { throw ValidationError("--watch: expected 0.05 to 86400 seconds, found \(watch)") }
    }

    func run() throws {
        while true {
            let text = try picture()
            if let watch {
                // On a terminal the picture stays in its place.
                writeLine(json || isatty(STDOUT_FILENO) == 0 ? text : "\u{1b}[H\u{1b}[2J\(text)")
                // No event to wait for: a picture each so many seconds is what was asked for.
                usleep(UInt32(watch * 1_000_000))
            } else {
                return writeLine(text)
            }
        }
    }

    private func picture() throws -> String {
        let request = counters ? "status" : sockets ? "sockets" : "netstat"
        var processes: [(ControlledProcess, [ControlRecord])] = []
        var refusal: Failure?
        for process in try ControlledProcess.chosen(pid: pid, socket: socket) {
            do {
                processes.append((process, try process.records(request)))
            } catch let failure as Failure {
                // Of several, one may just have ended.
                refusal = failure
            }
        }
        if processes.isEmpty, let refusal { throw refusal }
        return json ? NetstatPicture.object(processes).text : NetstatPicture.text(processes, counters: !sockets, sockets: !counters)
    }
}

/// What `demi netstat` prints.
enum NetstatPicture {
    static func text(_ processes: [(ControlledProcess, [ControlRecord])], counters: Bool, sockets: Bool) -> String {
        var parts: [String] = []
        for (process, records) in processes {
            for libOS in records where libOS.kind == "libos" {
                parts.append(heading(process, libOS))
                let own = records.filter { $0["libos"] == libOS["libos"] }
                if sockets { parts.append(table(own.filter { $0.kind == "socket" })) }
                if counters { parts.append(list(own.filter { $0.kind == "counter" })) }
            }
        }
        return parts.filter { !$0.isEmpty }.joined(separator: "\n")
    }

    private static func heading(_ process: ControlledProcess, _ libOS: ControlRecord) -> String {
        let number = libOS["libos"] ?? "?"
        guard libOS["answers"] == "true" else { return "\(process.title), libOS \(number): does not answer, its program is not waiting for it" }
        var line = "\(process.title), libOS \(number): \(libOS["name"] ?? "")"
        if let device = libOS["device"] {
            let state = libOS["device_connected"] == "1" ? "" : ", not connected"
            line += " on \(device)\(state), \(libOS["mac"] ?? ""), \((libOS["addresses"] ?? "").replacingCommas)"
        }
        let used = (libOS["heap_used_bytes"].flatMap { Int($0) } ?? 0) >> 10
        return line + "; \(libOS["queues"] ?? "0") queues, \(libOS["operations"] ?? "0") operations, \(used.grouped) KiB of heap in use"
    }

    private static func table(_ sockets: [ControlRecord]) -> String {
        guard !sockets.isEmpty else { return "no sockets" }
        var table = Table(
            ["", "state", "local", "remote", "recv-q", "send-q", "cwnd", "snd-wnd", "rcv-wnd", "rtt µs", "rto ms", "retrans", "qd"], names: 4)
        for socket in sockets {
            table.add([
                (socket["transport"] ?? "") + (socket["stack"] == "kernel" ? " (kernel)" : ""), socket["state"] ?? "", socket["local"] ?? "",
                socket["remote"] ?? "", grouped(socket["receiveQueue"]), grouped(socket["sendQueue"]), grouped(socket["congestionWindow"]),
                grouped(socket["sendWindow"]), grouped(socket["receiveWindow"]), scaled(socket["roundTripNanoseconds"], 1000, 1),
                scaled(socket["retransmissionTimeoutNanoseconds"], 1_000_000, 0), grouped(socket["retransmissions"]), socket["descriptor"] ?? "-",
            ])
        }
        return table.text
    }

    private static func grouped(_ text: String?) -> String { text.flatMap { Int($0) }.map(\.grouped) ?? "" }

    private static func scaled(_ text: String?, _ scale: Double, _ digits: Int) -> String {
        text.flatMap { Double($0) }.map { ($0 / scale).fixed(digits) } ?? ""
    }

    private static func list(_ counters: [ControlRecord]) -> String {
        var lines: [String] = []
        for layer in ["libos", "heap", "device", "ip", "udp", "tcp"] {
            let own = counters.filter { $0["layer"] == layer && $0["value"] != "0" }
            guard !own.isEmpty else { continue }
            lines.append("\(layer):")
            for counter in own { lines.append("  \(grouped(counter["value"]).paddedLeft(to: 20))  \(counter["name"] ?? "")") }
        }
        return lines.joined(separator: "\n")
    }

    static func object(_ processes: [(ControlledProcess, [ControlRecord])]) -> JSONObject {
        var object = JSONObject()
        object.add("processes", processes.map { process, records in
            var object = JSONObject()
            if process.number > 0 { object.add("pid", process.number) }
            object.add("name", process.name)
            object.add("socket", process.path)
            object.add("libOSes", records.filter { $0.kind == "libos" }.map { libOS in
                var object = fields(of: libOS)
                let own = records.filter { $0["libos"] == libOS["libos"] }
                object.add("sockets", own.filter { $0.kind == "socket" }.map(fields))
                var counters = JSONObject()
                for layer in ["libos", "heap", "device", "ip", "udp", "tcp"] {
                    var layerObject = JSONObject()
                    for counter in own where counter.kind == "counter" && counter["layer"] == layer {
                        layerObject.add(counter["name"] ?? "", UInt64(counter["value"] ?? "") ?? 0)
                    }
                    if !layerObject.isEmpty { counters.add(layer, layerObject) }
                }
                if !counters.isEmpty { object.add("counters", counters) }
                return object
            })
            return object
        })
        return object
    }

    /// Numbers as numbers, truths as truths.
    private static func fields(of record: ControlRecord) -> JSONObject {
        var object = JSONObject()
        for field in record.fields {
            if let number = Int(field.value) {
                object.add(field.name, number)
            } else if field.value == "true" || field.value == "false" {
                object.add(field.name, field.value == "true")
            } else {
                object.add(field.name, field.value)
            }
        }
        return object
    }
}

extension String {
    /// Between commas, with a space behind each.
    fileprivate var replacingCommas: String { split(separator: ",").joined(separator: ", ") }
}
