import Foundation
import Testing

/// The README shows two programs; they are files, so that they are compiled and run.
struct ReadmeTests {
    static let root = ManualTests.root

    @Test(arguments: [("swift", "Examples/Swift/Sources/echo-server/main.swift"), ("c", "Examples/C/echo-server-twenty-lines.c")])
    func `the README shows the example as it is`(language: String, path: String) throws {
        let readme = try String(contentsOf: Self.root.appending(path: "README.md"), encoding: .utf8)
        let program = try String(contentsOf: Self.root.appending(path: path), encoding: .utf8)
        #expect(readme.contains("```\(language)\n\(program)```\n"), "copy \(path) into the README")
        #expect(readme.contains("(\(path))"))
    }

    @Test(arguments: ["README.md", "ARCHITECTURE.md", "COMPATIBILITY.md", "CONTRIBUTING.md"])
    func `links to files of the repository lead somewhere`(document: String) throws {
        let text = try String(contentsOf: Self.root.appending(path: document), encoding: .utf8)
        for match in text.matches(of: /\]\(([A-Za-z][^):#]*)\)/) {
            #expect(FileManager.default.fileExists(atPath: Self.root.appending(path: String(match.1)).path), "\(match.1)")
        }
    }
}
