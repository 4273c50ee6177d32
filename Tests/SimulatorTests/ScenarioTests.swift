import DemikernelSimulator
import Testing

@Suite struct `The standing scenario` {
    private func run(_ seed: UInt64, seconds: Double = 1, loss: Double = 0.05, hosts: Int? = nil) -> ScenarioReport {
        var settings = ScenarioSettings()
        settings.seed = seed
        settings.duration = .seconds(seconds)
        settings.loss = loss
        settings.hosts = hosts
        return Scenario.run(settings)
    }

    // `Scripts/seeds` runs thousands, with the optimised tool.
    @Test(arguments: 1...30 as ClosedRange<UInt64>) func `a seed ends as planned`(_ seed: UInt64) {
        #expect(run(seed).failure == nil)
    }

    @Test(arguments: [3, 69, 815] as [UInt64]) func `a seed replays bit for bit`(_ seed: UInt64) {
        let (first, second) = (run(seed), run(seed))
        #expect(first.hash == second.hash && first.steps == second.steps && first.streamBytes == second.streamBytes)
        #expect(first.streamBytes > 0)
    }

    @Test func `other seeds are other runs`() {
        #expect(run(1).hash != run(2).hash)
    }

    @Test func `nothing is lost where nothing is to be lost`() {
        let report = run(5, loss: 0)
        #expect(report.failure == nil && report.links.lost == 0 && report.links.corrupted == 0)
    }

    @Test func `many hosts talk through one switch`() {
        let report = run(9, seconds: 0.5, hosts: 12)
        #expect(report.failure == nil && report.hosts == 12)
    }

    @Test func `a run stops where it is interrupted`() {
        var settings = ScenarioSettings()
        settings.duration = .seconds(1000)
        let report = Scenario.run(settings, isInterrupted: { true })
        #expect(report.wasInterrupted && report.steps == 0)
    }
}
