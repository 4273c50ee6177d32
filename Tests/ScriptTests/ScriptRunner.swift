import Demikernel

/// Carries a script out against a stack, in virtual time, and judges every frame that the stack sends.
///
/// Time moves from line to line; on the way the stack's timers run at exactly the moments that it asks for. A frame that was sent more than
/// the tolerance before the next line that does something, and that no line expected, is an error, so "nothing happens" needs no line.
struct ScriptRunner {
    private let script: Script
    private let stack: ScriptStack
    private var context: ScriptContext
    private var now: UInt64 = 0
    /// The nominal time of the last line, which the next one counts from.
    private var base: UInt64 = 0

    private init(_ script: Script) throws {
        self.script = script
        context = script.configuration.context()
        do {
            stack = try ScriptStack(script.configuration)
        } catch let error as DemikernelError {
            throw ScriptError(file: script.file, line: 1, text: "the stack does not start: \(error)")
        }
    }

    /// Throws ``ScriptError`` where the stack does something else than the script says.
    static func run(_ script: Script) throws {
        var runner = try ScriptRunner(script)
        for step in script.steps {
            do {
                try runner.run(step)
            } catch let error as ScriptSyntaxError {
                throw ScriptError(file: script.file, line: step.line, text: error.text)
            }
        }
        let last = script.steps.last!.line
        try runner.refuseFrames(before: .max, line: last, next: "the end of the script")
    }

    private func fail(_ step: ScriptStep, _ text: String) -> ScriptError {
        ScriptError(file: script.file, line: step.line, text: "\(step.source)\n    \(text)")
    }

    private func nominal(_ time: ScriptTime) -> UInt64 { time.isRelative ? base + time.from : time.from }

    private mutating func run(_ step: ScriptStep) throws {
        if case .expect(let packet) = step.action { return try expect(packet, step) }
        let time = nominal(step.time)
        guard time >= base else { throw fail(step, "time goes back: the line before is at \(ScriptTime.text(base))") }
        try advance(to: time)
        base = time
        try refuseFrames(before: time, line: step.line, next: step.source)
        switch step.action {
        case .inject(let packet): try stack.inject(packet.frame(&context))
        case .call(let call): try perform(call, step)
        case .expect: break
        }
    }

    /// Runs the stack's timers up to `time`; stops early where `condition` does not hold any more.
    private mutating func advance(to time: UInt64, while condition: (ScriptStack) -> Bool = { _ in true }) throws {
        var turns = 0
        while condition(stack) {
            guard let deadline = stack.nextDeadline, deadline <= time else {
                now = max(now, time)
                return stack.advance(to: now)
            }
            turns = deadline <= now ? turns + 1 : 0
            guard turns < 1000 else { throw ScriptSyntaxError("the stack asks again and again to be polled at \(ScriptTime.text(now))") }
            now = max(now, deadline)
            stack.advance(to: now)
        }
    }

    private func refuseFrames(before time: UInt64, line: Int, next: String) throws {
        guard let frame = stack.frames.first, time == .max || frame.time + script.configuration.tolerance < time else { return }
        throw ScriptError(
            file: script.file, line: line,
            text: "\(next)\n    before it, at \(ScriptTime.text(frame.time)), the stack sent what no line expects:\n      > "
                + ScriptFormat.text(frame, context.flows))
    }

    // MARK: - Frames

    private mutating func expect(_ packet: ScriptPacket, _ step: ScriptStep) throws {
        let tolerance = script.configuration.tolerance
        let earliest = step.time.isAny ? 0 : nominal(step.time)
        let latest: UInt64
        if step.time.isAny {
            latest = base + 3_600_000_000_000
        } else if let until = step.time.until {
            latest = (step.time.isRelative ? base : 0) + until
        } else {
            latest = earliest + tolerance
        }
        if stack.frames.isEmpty { try advance(to: latest) { $0.frames.isEmpty } }
        guard let frame = stack.takeFrame() else {
            throw fail(step, "the stack sent nothing by \(ScriptTime.text(latest))")
        }
        note(frame, isNew: packet.attributes["new"] != nil)
        let text = ScriptFormat.text(frame, context.flows)
        do {
            try ScriptMatch(context: context, expected: packet, frame: frame).check()
        } catch let mismatch as ScriptMismatch {
            throw fail(step, "the stack sent at \(ScriptTime.text(frame.time)):\n      > \(text)\n    \(mismatch.text)")
        }
        guard frame.time + tolerance >= earliest, frame.time <= latest else {
            throw fail(
                step,
                "the stack sent it at \(ScriptTime.text(frame.time)), expected at \(ScriptTime.text(earliest))"
                    + (step.time.until == nil ? "" : " to \(ScriptTime.text(latest))") + ":\n      > \(text)")
        }
        if case .fragment(let sent) = frame.content, context.fragmentIdentification == nil { context.fragmentIdentification = sent.identification }
        base = step.time.isAny || step.time.until != nil ? frame.time : earliest
    }

    private mutating func note(_ frame: DecodedFrame, isNew: Bool) {
        guard let packet = frame.packet else { return }
        context.lastSent = packet.bytes
        guard case .tcp(_, let segment) = frame.content else { return }
        let flow = context.flows.values.sorted { $0.name > $1.name }.first {
            $0.isFlow(of: packet, source: segment.sourcePort, destination: segment.destinationPort)
        }
        flow?.note(segment, packet, isNew: isNew)
    }

    // MARK: - Calls

    private func require(_ step: ScriptStep, _ expected: ScriptCall.Outcome, _ found: ScriptCall.Outcome) throws {
        guard expected != found else { return }
        throw fail(step, "expected \(expected), found \(found)")
    }

    private mutating func perform(_ call: ScriptCall, _ step: ScriptStep) throws {
        switch call {
        case .listen(let name, let address, let backlog, let options):
            try require(step, .success, stack.listen(name, address, backlog: backlog, options))
            if context.flows[""]?.localPort == nil { context.flows[""]?.localPort = address.port }
        case .connect(let name, let remote, let local, let flow, let options, let outcome):
            guard let flow = context.flows[flow] else { throw ScriptSyntaxError("no flow \(flow)") }
            flow.remotePort = remote.port
            flow.remote = IPAddress(remote)
            flow.localPort = local?.port == 0 ? nil : local?.port
            flow.localInitial = nil
            try require(step, outcome, stack.connect(name, remote, from: local, options))
        case .accept(let listener, let name):
            let found = try stack.accept(listener, as: name)
            guard found == (name != nil) else { throw fail(step, found ? "there is a connection" : "there is no connection to accept") }
        case .push(let name, let content, let outcome): try push(name, content, outcome, step)
        case .pop(let name, let limit, let outcome): try pop(name, limit, outcome, step)
        case .shutdown(let name, let isSend): try stack.shutdown(name, isSend: isSend)
        case .close(let name, let isAbort): try stack.close(name, isAbort: isAbort)
        case .option(let name, let options): try stack.setOptions(name, options)
        case .events(let name, let kinds):
            let found = stack.takeEvents(name)
            guard found == kinds else { throw fail(step, "expected \(ScriptCall.text(kinds)), found \(ScriptCall.text(found))") }
        case .udpBind(let name, let address, let outcome): try require(step, outcome, stack.udpBind(name, address))
        case .udpConnect(let name, let address): try require(step, .success, stack.udpConnect(name, address))
        case .udpSend(let name, let content, let address, let outcome):
            try require(step, outcome, stack.udpSend(name, bytes(content, from: 0), to: address))
        case .udpReceive(let name, let outcome, let source): try udpReceive(name, outcome, source, step)
        case .udpError(let name, let outcome):
            let number = try stack.udpError(name)
            try require(step, outcome, number == 0 ? .empty : .failed(ScriptErrno.name(number)))
        case .assertState(let name, let state): try assertState(name, state, step)
        case .assertValue(let name, let field, let comparison, let value): try assertValue(name, field, comparison, value, step)
        case .nothing(let until):
            let end = until.isRelative ? base + until.from : until.from
            try advance(to: end)
            base = end
            try refuseFrames(before: .max, line: step.line, next: step.source)
        }
    }

    private func bytes(_ content: ScriptCall.Content, from start: Int) -> [UInt8] {
        switch content {
        case .pattern(let count): ScriptWire.pattern(count, from: start)
        case .text(let bytes): bytes
        }
    }

    /// The flow of a socket: named like it, or the default one.
    private func flow(of socket: String) -> ScriptFlow? { context.flows[socket] ?? context.flows[""] }

    private func push(_ name: String, _ content: ScriptCall.Content, _ outcome: ScriptCall.Outcome, _ step: ScriptStep) throws {
        let flow = flow(of: name)
        let bytes = bytes(content, from: flow?.pushed.count ?? 0)
        // Taken note of before, as the segments may go out at once.
        if outcome == .success { flow?.pushed += bytes }
        try require(step, outcome, stack.push(name, bytes))
    }

    private func pop(_ name: String, _ limit: Int, _ outcome: ScriptCall.Outcome, _ step: ScriptStep) throws {
        let found = try stack.pop(name, limit: limit)
        guard case .text(let bytes) = found else { return try require(step, outcome, found) }
        let flow = flow(of: name)
        let start = flow?.popped ?? 0
        flow?.popped += bytes.count
        if case .bytes(let count) = outcome {
            guard count == bytes.count else { throw fail(step, "expected \(count) bytes, found \(bytes.count)") }
            guard flow?.hasText == true || bytes == ScriptWire.pattern(count, from: start) else {
                throw fail(step, "the bytes are not those that the peer sent")
            }
            return
        }
        try require(step, outcome, found)
    }

    private func udpReceive(_ name: String, _ outcome: ScriptCall.Outcome, _ source: SocketAddress?, _ step: ScriptStep) throws {
        guard let (bytes, from) = try stack.udpReceive(name) else { return try require(step, outcome, .empty) }
        if let source, source != from { throw fail(step, "expected a datagram from \(source), found one from \(from)") }
        if case .bytes(let count) = outcome {
            guard bytes == ScriptWire.pattern(count) else { throw fail(step, "expected \(count) bytes, found \(bytes.count), or other ones") }
            return
        }
        try require(step, outcome, .text(bytes))
    }

    private func assertState(_ name: String, _ state: String, _ step: ScriptStep) throws {
        let names: [TCPState: String] = [
            .closed: "CLOSED", .listen: "LISTEN", .synSent: "SYN-SENT", .synReceived: "SYN-RECEIVED", .established: "ESTABLISHED",
            .finWait1: "FIN-WAIT-1", .finWait2: "FIN-WAIT-2", .closeWait: "CLOSE-WAIT", .closing: "CLOSING",
            .lastAcknowledgement: "LAST-ACK", .timeWait: "TIME-WAIT",
        ]
        guard names.values.contains(state) else { throw ScriptSyntaxError("no state \(state)") }
        let found = try names[stack.information(name).state] ?? "?"
        guard found == state else { throw fail(step, "expected \(state), found \(found)") }
    }

    private func assertValue(_ name: String, _ field: String, _ comparison: String, _ value: Int, _ step: ScriptStep) throws {
        let found = name.isEmpty ? stack.counter(field) : ScriptStack.field(try stack.information(name), field)
        guard let found else { throw ScriptSyntaxError("nothing is called \(field)") }
        let holds: Bool
        switch comparison {
        case "==": holds = found == value
        case "!=": holds = found != value
        case ">=": holds = found >= value
        case "<=": holds = found <= value
        case ">": holds = found > value
        case "<": holds = found < value
        default: throw ScriptSyntaxError("no comparison: \(comparison)")
        }
        guard holds else { throw fail(step, "\(field) is \(found)") }
    }
}
