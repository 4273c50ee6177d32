import ArgumentParser
import Demikernel
import Glibc
import Synchronization

struct DumpCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump", abstract: "Captures the frames of a running libOS, as pcapng for Wireshark.",
        discussion: """
            The frames are those that pass between the libOS's network stack and its device, both ways. The libOS never waits for the capture:
            frames that are not written in time are left out, and counted at the end, as they are in the capture's last block. Without
            --count it goes on until it is interrupted, its reader goes away, or the libOS ends.

            Examples:
              demi dump -w trace.pcapng
              demi dump --pid 4711 --count 1000 -w trace.pcapng
              demi dump --pid 4711 -w - | tshark -r -
              demi dump --pid 4711 -w - | wireshark -k -i -

            Exit status: 0 done, 1 there is no such process, it has no frames of its own, or the file cannot be written, 2 wrong usage.
            """)

    @Option(name: [.customShort("w"), .long], help: ArgumentHelp("The file to write; - is standard output.", valueName: "file"))
    var write: String

    @Option(help: ArgumentHelp("The process. Without it the only one that there is.", valueName: "number"))
    var pid: Int?

    @Option(help: ArgumentHelp("The process at this control socket.", valueName: "path"))
    var socket: String?

    @Option(help: ArgumentHelp("The libOS, where the process has several: the number that demi netstat shows.", valueName: "number"))
    var number: Int?

    @Option(name: [.customShort("s"), .long], help: ArgumentHelp("The most bytes of a frame that are kept.", valueName: "bytes"))
    var snapLength: Int = PcapngWriter.snapLengthMaximum

    @Option(name: [.customShort("c"), .long], help: ArgumentHelp("End after so many frames.", valueName: "frames"))
    var count: UInt64?

    @Flag(help: "Say at the end what there was as one JSON object, on standard error.") var json = false

    mutating func validate() throws {
        if pid != nil, socket != nil { throw ValidationError("--pid and --socket exclude each other") }
        if let pid, pid < 1 { throw ValidationError("--pid: expected a process's number, found \(pid)") }
        guard 1...PcapngWriter.snapLengthMaximum ~= snapLength else {
            throw ValidationError("--snap-length: expected 1 to \(PcapngWriter.snapLengthMaximum) bytes, found \(snapLength)")
        }
        if let count, count < 1 { throw ValidationError("--count: expected at least 1, found \(count)") }
        if let number, number < 1 { throw ValidationError("--number: expected at least 1, found \(number)") }
    }

    func run() throws {
        let processes = try ControlledProcess.chosen(pid: pid, socket: socket)
        guard processes.count == 1, let process = processes.first else {
            let list = processes.map { "\($0.number)" }.joined(separator: ", ")
            throw Failure("there are several processes that can be captured: choose one with --pid, of \(list)")
        }
        if write == "-", isatty(STDOUT_FILENO) == 1 { throw Failure("a capture is not for a terminal: give -w FILE, or a pipe behind -w -") }
        let reader = try process.ask("dump snap=\(snapLength)" + (number.map { " libos=\($0)" } ?? ""))
        guard let line = try reader.line(seconds: 5), let answer = ControlRecord(line: line) else {
            throw Failure("\(process.title): its answer cannot be read")
        }
        guard answer.kind == "dump" else { throw Failure("\(process.title): \(answer["text"] ?? "refused")") }
        // Not before: a capture that is refused leaves the file as it was.
        let output = write == "-" ? STDOUT_FILENO : unsafe open(write, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard output >= 0 else { throw Failure("\(write): \(errorText(errno))") }
        let descriptor = reader.descriptor
        // The half that is closed asks for the end; what was captured until then still comes.
        try Interruption.handle { _ = Glibc.shutdown(descriptor, Int32(SHUT_WR)) }
        if !json { writeError("capturing \(answer["name"] ?? "") of \(process.title); interrupt to end\n") }
        var copy = PcapngCopy(limit: count ?? .max)
        try copy.run(from: reader, to: output)
        report(copy)
    }

    private func report(_ copy: PcapngCopy) {
        let missing = copy.droppedByLibOS.map { $0.grouped } ?? "an unknown number"
        guard json else { return writeError("\(copy.frames.grouped) frames written, \(missing) left out\n") }
        var object = JSONObject()
        object.add("frames", copy.frames)
        object.add("bytes", copy.bytes)
        if let dropped = copy.droppedByLibOS { object.add("dropped", dropped) }
        writeError(object.text + "\n")
    }
}

/// Copies a capture block by block, and counts.
struct PcapngCopy {
    private let limit: UInt64
    private(set) var frames: UInt64 = 0
    private(set) var bytes: UInt64 = 0
    /// What the capture's last block says; nil where it has not come.
    private(set) var droppedByLibOS: UInt64?
    private var pending: [UInt8] = []
    private var hasEnded = false

    init(limit: UInt64) { self.limit = limit }

    /// Until the end, or the limit and what belongs to it. Throws where the output cannot be written; a reader that went away is an end.
    mutating func run(from reader: ControlAnswerReader, to output: Int32) throws {
        pending = reader.takeRest()
        while true {
            let whole = wholeBlocks(reader)
            guard write(pending[..<whole], to: output) else {
                if errno == EPIPE { return }
                throw Failure("the capture cannot be written: \(errorText(errno))")
            }
            bytes += UInt64(whole)
            pending.removeFirst(whole)
            let chunk = reader.read(262_144)
            if chunk.isEmpty { return }
            pending += chunk
        }
    }

    /// The length of the blocks that are there whole and are to be written. Blocks of frames beyond the limit are taken out.
    private mutating func wholeBlocks(_ reader: ControlAnswerReader) -> Int {
        var place = 0
        while pending.count - place >= 12 {
            let length = Int(word(place + 4))
            guard length >= 12, length % 4 == 0, pending.count - place >= length else { return place }
            switch word(place) {
            case 6 where frames == limit:
                pending.removeSubrange(place..<place + length)
                continue
            case 6:
                frames += 1
                if frames == limit, !hasEnded {
                    hasEnded = true
                    _ = Glibc.shutdown(reader.descriptor, Int32(SHUT_WR))
                }
            case 5 where length >= 52: droppedByLibOS = UInt64(word(place + 36)) | UInt64(word(place + 40)) << 32
            default: break
            }
            place += length
        }
        return place
    }

    private func word(_ offset: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(pending[offset + $1]) << UInt32(8 * $1) }
    }

    private func write(_ bytes: ArraySlice<UInt8>, to output: Int32) -> Bool {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(output, $0.baseAddress! + done, $0.count - done) }
            if count > 0 { done += count } else if errno != EINTR { return false }
        }
        return true
    }
}
