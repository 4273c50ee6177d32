import Demikernel
import Glibc

/// A libOS for the tasks of an async program.
///
/// Sendable unchecked: `LibOS.run` has all of its tasks on the libOS's own thread, and none of them takes it elsewhere.
struct TaskLibOS: @unchecked Sendable {
    let libOS: LibOS

    /// Accepts on `address` until SIGINT or SIGTERM, and has a task for each connection. Says "listening on ADDRESS:PORT" once it does.
    ///
    /// A connection is closed when its task lets go of it. What is still going on when the signal comes is cancelled.
    static func serve(
        _ configuration: Configuration, on address: SocketAddress, _ body: @escaping @Sendable (Connection, TaskLibOS) async -> Void
    ) throws {
        let libOS = try LibOS(configuration)
        // What a signal cancels: the pop of a queue to which nothing is ever pushed.
        let stop = try libOS.pop(libOS.queue())
        let mailbox = libOS.core.mailbox
        try Interruption.handle { mailbox.cancel(stop) }
        try libOS.run { libOS in
            let here = TaskLibOS(libOS: libOS)
            let listener: Listener
            do throws(DemikernelError) {
                listener = try libOS.listener(on: address, backlog: 4_096)
            } catch {
                throw Failure("cannot serve on \(address): \(error)")
            }
            writeLine("listening on \(listener.localAddress)")
            await withDiscardingTaskGroup { group in
                group.addTask {
                    _ = try? await here.libOS.completion(of: stop)
                    try? listener.close()
                }
                for await connection in listener { group.addTask { await body(connection, here) } }
                group.cancelAll()
            }
        }
    }

    /// A buffer of these bytes.
    func buffer(_ bytes: [UInt8]) throws(DemikernelError) -> Buffer {
        var buffer = try libOS.allocate(bytes.count)
        try buffer.replaceContents(with: bytes)
        return buffer
    }
}

extension Connection {
    /// Sends bytes, whole.
    func push(_ bytes: [UInt8], _ here: TaskLibOS) async throws(DemikernelError) {
        let buffer = try here.buffer(bytes)
        do throws(PushError) { try await push(buffer) } catch { throw error.reason }
    }

    /// The next bytes, exactly so many. Throws ECONNRESET where the stream ends before.
    func bytes(_ count: Int) async throws(DemikernelError) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            guard let buffer = try await pop(limit: count - bytes.count) else {
                throw DemikernelError(.connectionReset, "the stream ended in the middle of a message")
            }
            bytes += buffer.copyToArray()
        }
        return bytes
    }
}
