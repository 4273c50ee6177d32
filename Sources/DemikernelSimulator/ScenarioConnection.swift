import Demikernel

/// One end of a connection of the scenario, as the program on its host sees it.
final class ScenarioEnd {
    /// nil for a server that has not yet read who its client is.
    unowned var connection: ScenarioConnection?
    unowned let host: ScenarioHost
    let isClient: Bool
    let socket: TCPSocket
    let tag: UInt32
    var isConnected: Bool
    var sent = 0
    var received = 0
    /// What a server has read before it knew whose it is.
    var prefix: [UInt8] = []
    var hasShutDown = false
    var hasEnded = false
    var isDone = false
    /// 0 for none.
    var error: Int32 = 0
    var isReadPaused = false
    var isWritePaused = false
    /// A server that has an attacker before it.
    var isHostile = false

    init(_ host: ScenarioHost, isClient: Bool, _ socket: TCPSocket, tag: UInt32) {
        self.host = host
        self.isClient = isClient
        self.socket = socket
        self.tag = tag
        isConnected = !isClient
    }

    /// Bytes that it sends, and that it reads, when everything goes as planned.
    var sendTotal: Int { connection.map { isClient ? $0.plan.clientBytes : $0.plan.serverBytes } ?? 0 }
    var receiveTotal: Int { connection.map { isClient ? $0.plan.serverBytes : $0.plan.clientBytes } ?? 8 }
    var readPause: UInt64 { connection.map { isClient ? $0.plan.readPauses.client : $0.plan.readPauses.server } ?? 0 }
    var peer: ScenarioEnd? { connection.flatMap { isClient ? $0.server : $0.client } }
}

/// A connection of the scenario: what was planned, and its ends.
final class ScenarioConnection {
    let number: Int
    let plan: ScenarioConnectionPlan
    /// Made when the network was well again: it may not fail.
    var isLast = false
    var client: ScenarioEnd?
    var server: ScenarioEnd?

    init(_ number: Int, _ plan: ScenarioConnectionPlan) {
        self.number = number
        self.plan = plan
    }

    /// Both ends have done what they were to do, or failed.
    var isFinished: Bool { client?.isDone != false && server?.isDone != false }

    var state: String {
        "\(number) (\(plan.ending), host\(plan.client) to host\(plan.server), \(plan.clientBytes) and \(plan.serverBytes) bytes):"
            + " client \(client.map { $0.host.describe($0) } ?? "gone"), server \(server.map { $0.host.describe($0) } ?? "unknown")"
    }

    func pattern(sentByClient: Bool) -> ScenarioPattern { ScenarioPattern(connection: number, isClient: sentByClient) }

    /// Whether an end may have failed with this error, as things are.
    func tolerates(_ error: Int32, at end: ScenarioEnd, _ world: ScenarioWorld) -> Bool {
        if plan.ending == .refused, error == ScenarioError.refused { return true }
        if isLast { return false }
        let isBroken = error == ScenarioError.reset || error == ScenarioError.pipe
        // Who resets, or reads no more, breaks it for the other.
        if plan.ending == .reset || plan.ending == .closeEarly, !end.isClient, isBroken { return true }
        // One end that gave up, or never knew that it was connected, answers the other with a reset.
        if isBroken, end.peer == nil || end.peer?.error != 0 { return true }
        if world.starves { return true }
        if world.attacker?.plan.kinds.contains(.poisoning) == true, error == ScenarioError.timedOut || error == ScenarioError.noRoute { return true }
        guard world.plan.mayLose || world.report.partitions > 0 else { return false }
        return error == ScenarioError.timedOut || error == ScenarioError.noRoute
    }
}

/// Errors of Linux, by number: the scenario's hosts see nothing else.
enum ScenarioError {
    static let noMemory: Int32 = 12
    static let pipe: Int32 = 32
    static let reset: Int32 = 104
    static let timedOut: Int32 = 110
    static let refused: Int32 = 111
    static let noRoute: Int32 = 113
}
