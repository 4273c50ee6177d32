import Glibc
import Testing

@Suite struct `Scripts` {
    /// `area/name` of each script there is. `DEMI_SCRIPT=area/name` (or a part of it) picks some.
    static let names: [String] = {
        var names: [String] = []
        for area in entries(folder) where !area.hasPrefix(".") {
            for file in entries(folder + "/" + area) where file.hasSuffix(".pkt") { names.append("\(area)/\(file.dropLast(4))") }
        }
        guard let wanted = unsafe getenv("DEMI_SCRIPT").map({ unsafe String(cString: $0) }) else { return names }
        return names.filter { $0.contains(wanted) }
    }()

    private static let folder: String = {
        let here = #filePath
        return String(here[..<here.lastIndex(of: "/")!]) + "/Scripts"
    }()

    private static func entries(_ path: String) -> [String] {
        guard let directory = unsafe opendir(path) else { return [] }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe names.append(String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self))
            }
        }
        return names.sorted()
    }

    private static func read(_ path: String) -> String? {
        guard let file = unsafe fopen(path, "r") else { return nil }
        defer { unsafe fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = unsafe fread(&chunk, 1, chunk.count, file)
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk[..<count]
        }
    }

    static func script(_ name: String) throws -> Script {
        try Script(#require(read("\(folder)/\(name).pkt")), file: "Scripts/\(name).pkt")
    }

    @Test(arguments: names) func `the stack does what the script says`(_ name: String) throws {
        do {
            try ScriptRunner.run(Self.script(name))
        } catch let error as ScriptError {
            Issue.record("\(error)")
        }
    }
}
