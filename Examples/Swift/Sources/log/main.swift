import Demikernel
import DemikernelConfiguration
import Glibc
import SystemPackage

// A file as a log: each text is appended as a line and is durable when its push completes; then the whole log is read from the start.

func log(_ path: FilePath, _ records: ArraySlice<String>) throws {
    try LibOS(.load()).run { libOS in
        let file = try libOS.file(path, [.create, .dataSync])
        for record in records {
            var buffer = try libOS.allocate(record.utf8.count + 1)
            try buffer.replaceContents(with: record + "\n")
            try await file.push(ScatterGatherArray(buffer))
            print("durable: \(record)")
        }
        try file.seek(to: 0)
        while let chunk = try await file.pop() {  // nil at the end of the file
            print(chunk.decodedAsUTF8(), terminator: "")
        }
    }
}

guard CommandLine.arguments.count >= 2 else {
    print("usage: log FILE [TEXT]...")
    exit(2)
}
do {
    try log(FilePath(CommandLine.arguments[1]), CommandLine.arguments.dropFirst(2))
} catch {
    print("log: \(error)")
    exit(1)
}
