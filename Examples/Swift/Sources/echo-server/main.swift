import Demikernel
import DemikernelConfiguration
import Glibc

do {
    try LibOS(.load()).run { libOS in
        let listener = try libOS.listener(on: .any(port: 7000))
        await withDiscardingTaskGroup { group in
            for await connection in listener {
                group.addTask {
                    do {
                        while let buffer = try await connection.pop() { try await connection.push(buffer) }
                    } catch { print("\(connection.remoteAddress): \(error)") }
                }
            }
        }
    }
} catch {
    print("echo-server: \(error)")
    exit(1)
}
