import Demikernel
import DemikernelConfiguration
import Foundation
import Testing

struct EnvironmentTests {
    private func failure(_ variables: String...) throws -> ConfigurationError {
        try #require(throws: ConfigurationError.self) { _ = try Configuration.environment(variables) }
    }

    @Test func `a variable goes before the file, and the file before the default`() throws {
        try withFile("libos: catnip\nheap: {limit: 1GiB, checked: yes}\n") { (path: String) throws in
            let variables = ["LIBOS=catpowder", "DEMI_HEAP_LIMIT=64MiB", "CONFIG_PATH=\(path)"]
            var expected = Configuration()
            expected.libOS = "catpowder"
            expected.heap.limit = 64 << 20
            expected.heap.checked = true
            #expect(try Configuration.load(environment: variables) == expected)
            #expect(try Configuration.load(path: path, environment: Array(variables.prefix(2))) == expected)
            #expect(try Configuration.load(path: path, environment: ["CONFIG_PATH=/nowhere"]).heap.limit == 1 << 30)
        }
    }

    @Test func `a variable mends what the file says, and what does not fit together is told where it stands`() throws {
        try withFile("catnap:\n  receive_size: 128KiB\n") { (path: String) throws in
            let error = try #require(throws: ConfigurationError.self) { _ = try Configuration.load(path: path, environment: []) }
            #expect(error.description == "\(path):2:3: catnap.receive_size: expected at most catnap.receive_size_maximum (65536), found 131072")
            #expect(try Configuration.load(path: path, environment: ["DEMI_CATNAP_RECEIVE_SIZE_MAXIMUM=1MiB"]).catnap.receiveSize == 128 << 10)
        }
        let error = try failure("DEMI_CATNAP_RECEIVE_SIZE=128KiB")
        #expect(error.description == "environment variable DEMI_CATNAP_RECEIVE_SIZE: catnap.receive_size: "
            + "expected at most catnap.receive_size_maximum (65536), found 131072")
    }

    @Test func `a misspelt variable is an error that says what was meant`() throws {
        #expect(try failure("DEMI_HEAP_LIMTI=1GiB").description == "environment variable DEMI_HEAP_LIMTI: no such setting; did you mean DEMI_HEAP_LIMIT?")
        #expect(try failure("DEMI_LIBOS=catnap").description == "environment variable DEMI_LIBOS: no such setting; did you mean LIBOS?")
        #expect(try failure("DEMI_XYZZY=1").description == "environment variable DEMI_XYZZY: no such setting; demikernel.yaml(5) lists the settings")
        #expect(try failure("DEMI_\(String(repeating: "A", count: 10_000))=1").errno == .invalidArgument)
    }

    @Test func `the tools' own variables, empty ones and everybody else's are left alone`() throws {
        let others = Configuration.reservedVariablePrefixes.map { $0 + "ANYTHING=1" }
        let variables = others + ["LIBOS=", "DEMI_HEAP_LIMIT=", "DEMI_XYZZY=", "CONFIG_PATH=", "DEMIKERNEL=1", "PATH=/bin", "=", "", "NOTHING", "DEMI_HEAP_LIMIT"]
        #expect(try Configuration.load(environment: variables) == Configuration())
    }

    @Test func `of a variable that stands twice the first counts, as with getenv`() throws {
        #expect(try Configuration.environment(["LIBOS=one", "LIBOS=two"]).libOS == "one")
    }

    @Test func `without the reader of files, CONFIG_PATH is an error that says where it is`() throws {
        let error = try failure("CONFIG_PATH=/etc/demikernel.yaml")
        #expect(error.errno == .notSupported)
        #expect(error.description == "environment variable CONFIG_PATH: /etc/demikernel.yaml: "
            + "reading a settings file takes Configuration.load() of the module DemikernelConfiguration")
    }

    @Test func `the process's own environment is the default`() throws {
        let own = ProcessInfo.processInfo.environment.map { "\($0.key)=\($0.value)" }
        #expect(throws: Never.self) { _ = try Configuration.load() }
        #expect(try Configuration.load() == Configuration.load(environment: own))
    }
}

/// Runs `body` with a file that holds `bytes`, and removes it.
func withFile<Result>(_ bytes: some Sequence<UInt8>, _ body: (String) throws -> Result) throws -> Result {
    let url = FileManager.default.temporaryDirectory.appending(path: "demikernel-\(UUID().uuidString).yaml")
    try Data(bytes).write(to: url)
    defer { try? FileManager.default.removeItem(at: url) }
    return try body(url.path)
}

func withFile<Result>(_ text: String, _ body: (String) throws -> Result) throws -> Result { try withFile(text.utf8, body) }
