import Demikernel

let libOS = try LibOS(Configuration())
let listener = try libOS.socket()
try libOS.bind(listener, to: .loopback(port: 0))
try libOS.listen(listener)
let address = try libOS.localAddress(of: listener)
print(address)
let client = try libOS.socket()
let connecting = try libOS.connect(client, to: address)
let accepting = try libOS.accept(listener)
try libOS.wait(connecting).get()
let server = try libOS.wait(accepting).accepted()
for _ in 0..<3 {
    var buffer = try libOS.allocate(5)
    buffer.withUnsafeMutableBytes { unsafe $0.copyBytes(from: "hello".utf8) }
    try libOS.wait(try libOS.push(client, buffer)).get()
    let popped = try libOS.wait(try libOS.pop(server)).popped()
    print(popped.copyToArray())
    try libOS.wait(try libOS.push(server, popped)).get()
    print(try libOS.wait(try libOS.pop(client)).popped().copyToArray())
}
let result = try libOS.run { libOS in
    let listener = try libOS.listener(on: .loopback(port: 0))
    let address = listener.localAddress
    return try await withThrowingTaskGroup(of: Int.self) { group in
        group.addTask {
            for await connection in listener {
                while let buffer = try await connection.pop() { try await connection.push(buffer) }
                return 0
            }
            return 0
        }
        let connection = try await libOS.connection(to: address)
        let other = try libOS.allocate(1000)
        try await connection.push(other)
        let n = try await connection.pop()!.count
        try connection.close()
        try await group.waitForAll()
        return n
    }
}
print(result)
