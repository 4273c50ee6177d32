import Testing

/// A script that cannot fail shows nothing: each is made wrong in every way that its lines allow, and has to be refused.
@Suite struct `Scripts that are made wrong` {
    /// The error with which a script ends; nil for none.
    private func failure(of script: Script) throws -> ScriptError? {
        do {
            try ScriptRunner.run(script)
            return nil
        } catch let error as ScriptError {
            return error
        }
    }

    /// Of all mutations of a script one of each kind, the last: so that what comes before has not been in vain.
    private func mutations(of script: Script) -> [String: (step: Int, action: ScriptStep.Action)] {
        var found: [String: (step: Int, action: ScriptStep.Action)] = [:]
        for (index, step) in script.steps.enumerated() {
            for mutation in ScriptMutations.all(of: step.action) { found[mutation.name] = (index, mutation.action) }
        }
        return found
    }

    @Test(arguments: `Scripts`.names) func `a line that is wrong in one thing is refused, and no line before it`(_ name: String) throws {
        let script = try `Scripts`.script(name)
        let mutations = mutations(of: script)
        for (kind, mutation) in mutations.sorted(by: { $0.key < $1.key }) {
            let line = script.steps[mutation.step].line
            let error = try failure(of: script.replacing(mutation.step, with: mutation.action))
            #expect(error?.line == line, "\(name):\(line) with another \(kind): \(error.map { "\($0)" } ?? "nobody noticed")")
        }
    }

    @Test(arguments: `Scripts`.names) func `a packet that never comes is missed, and one that nobody expected is noticed`(_ name: String) throws {
        let script = try `Scripts`.script(name)
        let added = try failure(of: script.appending(.expect(ScriptMutations.never)))
        #expect(added?.line == script.steps.last!.line + 1, "\(name): nobody missed it")
        // The last packet that is expected comes all the same, while nothing is expected for as long as it was.
        let last = script.steps.lastIndex { if case .expect = $0.action { true } else { false } }
        guard let last else { return }
        var time = script.steps[last].time
        time.from = time.isAny ? 60_000_000_000 : (time.until ?? time.from) + script.configuration.tolerance
        let left = try failure(of: script.replacing(last, with: .call(.nothing(until: time))))
        #expect(left != nil, "\(name):\(script.steps[last].line) left out: nobody noticed")
    }
}
