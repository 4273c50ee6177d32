import Demikernel
@testable import DemikernelConfiguration
import Foundation
import Testing

struct FileTests {
    /// A text, and what is wrong with it.
    static let mistakes: [(text: String, description: String)] = [
        ("libos: catnap\ncatnap:\n  recieve_size: 1", "f.yaml:3:3: catnap.recieve_size: unknown key; did you mean receive_size?"),
        ("catnap: {receiveSize: 1}", "f.yaml:1:10: catnap.receiveSize: unknown key; did you mean receive_size?"),
        ("limit: 1GiB", "f.yaml:1:1: limit: unknown key; did you mean limit in the section heap?"),
        ("heap:\n  heap.limit: 1GiB", "f.yaml:2:3: heap.heap.limit: unknown key; did you mean limit in the section heap?"),
        ("heap:\n  libos: catnap", "f.yaml:2:3: heap.libos: unknown key; did you mean libos at the top?"),
        ("catnap:\n  queue_depth: 1", "f.yaml:2:3: catnap.queue_depth: unknown key; did you mean queue_depth in the section catnap.files?"),
        ("heaps:\n  limit: 1GiB", "f.yaml:1:1: heaps: unknown key; did you mean heap?"),
        ("raw_socket:\n  linux_interface_name: abcde",
            "f.yaml:1:1: raw_socket: unknown key; the settings are libos, heap, wait, queues, operations, descriptors, clock, catnap, network, memif, catloop, catpowder, control"),
        ("demikernel:\n  x: 1", "f.yaml:1:1: demikernel: unknown key; the settings are libos, heap, wait, queues, operations, descriptors, clock, catnap, network, memif, catloop, catpowder, control"),
        ("heap:\n  zzzzzzzz: 1", "f.yaml:2:3: heap.zzzzzzzz: unknown key; heap has limit, huge_pages, lock_pages, checked"),
        ("<<: 1", "f.yaml:1:1: <<: unknown key; the settings are libos, heap, wait, queues, operations, descriptors, clock, catnap, network, memif, catloop, catpowder, control"),
        ("heap:\n  limit: many", "f.yaml:2:3: heap.limit: expected a size in bytes, KiB, MiB or GiB from 2MiB to 256GiB, found \"many\""),
        ("heap:\n  limit: 1", "f.yaml:2:3: heap.limit: expected a size in bytes, KiB, MiB or GiB from 2MiB to 256GiB, found \"1\""),
        ("heap:\n  limit:\n", "f.yaml:2:3: heap.limit: expected a size in bytes, KiB, MiB or GiB from 2MiB to 256GiB, found nothing"),
        ("heap: 5", "f.yaml:1:1: heap: expected a section with limit, huge_pages, lock_pages, checked, found \"5\""),
        ("heap: [1]", "f.yaml:1:1: heap: expected a section with limit, huge_pages, lock_pages, checked, found a list"),
        ("heap:\n  checked: 1\n  checked: 1", "f.yaml:3:3: heap.checked: stands here for the second time; the first is on line 2"),
        ("heap:\nwait:\nheap:\n", "f.yaml:3:1: heap: stands here for the second time; the first is on line 1"),
        ("libos: &a catnap", "f.yaml:1:8: libos: an anchor (&name); settings are written out, without anchors and aliases"),
        ("libos: *a", "f.yaml:1:8: libos: an alias (*name); settings are written out, without anchors and aliases"),
        ("heap: &a\n  checked: 1", "f.yaml:1:7: heap: an anchor (&name); settings are written out, without anchors and aliases"),
        ("*a : 1", "f.yaml:1:1: an alias (*name); settings are written out, without anchors and aliases"),
        ("heap:\n  checked: !!bool yes", "f.yaml:2:12: heap.checked: a tag (!name); each setting has its type already"),
        ("libos: catnap\n---\nlibos: catnip", "f.yaml:2:1: a second document; the settings are one document"),
        ("- libos", "f.yaml:1:1: expected sections and settings such as \"libos: catnap\", found a list"),
        ("catnap", "f.yaml:1:1: expected sections and settings such as \"libos: catnap\", found \"catnap\""),
        ("? [a]\n: b", "f.yaml:1:3: expected the name of a setting, found a list"),
        ("heap: {{a: b}: c}", "f.yaml:1:8: heap: expected the name of a setting, found a section"),
        ("heap:\n\tlimit: 1GiB", "f.yaml:2:1: heap: found character that cannot start any token (while scanning for the next token, line 2); "
            + "YAML indents with spaces, not tabs"),
        ("heap: {limit: 1GiB", "f.yaml:2:1: heap: did not find expected ',' or '}' (while parsing a flow mapping, line 1)"),
        ("libos: \"catnap", "f.yaml:1:15: libos: found unexpected end of stream (while scanning a quoted scalar, line 1)"),
        ("libos: a: b", "f.yaml:1:9: mapping values are not allowed in this context"),
        ("libos: ]", "f.yaml:1:8: libos: did not find expected node content (while parsing a block node, line 1)"),
        ("é: \u{1}", "f.yaml:1:4: control characters are not allowed"),
        ("libos: a\0b", "f.yaml:1:9: control characters are not allowed"),
        ("%YAML 9.9\n---\nlibos: a", "f.yaml:1:1: found incompatible YAML document"),
        ("\"li\\nbos\\e\": 1", "f.yaml:1:1: li\\nbos\\u{1b}: unknown key; did you mean libos?"),
    ]

    @Test(arguments: mistakes.indices)
    func `each mistake names file, line and key`(_ index: Int) throws {
        let (text, description) = Self.mistakes[index]
        let error = try #require(throws: ConfigurationError.self) { _ = try Configuration.parse(text, file: "f.yaml") }
        #expect(error.description == description)
        #expect(error.errno == .invalidArgument)
        try withFile(text) { (path: String) throws in
            let loaded = try #require(throws: ConfigurationError.self) { _ = try Configuration.load(path: path, environment: []) }
            #expect(loaded.message == error.message && loaded.line == error.line && loaded.key == error.key && loaded.file == path)
        }
    }

    @Test(arguments: ["", "\n\n", "# nothing\n", "---\n", "---\n...\n", "~", "{}", "\u{feff}", "\u{feff}libos: catnap", "heap:\nwait: ~\ncatnap:\n  files:\n",
        "%YAML 1.2\n---\nlibos: catnap\n...\n", "libos: catnap\r\nheap:\r\n  checked: false\r\n", "'libos': 'catnap'", "{libos: catnap, heap: {limit: 4GiB}}"])
    func `what says nothing new leaves the defaults`(_ text: String) throws {
        #expect(try Configuration.parse(text, file: "f") == Configuration())
        try withFile(text) { (path: String) throws in #expect(try Configuration.load(path: path, environment: []) == Configuration()) }
    }

    @Test func `a file that cannot be read says why, and that CONFIG_PATH named it`() throws {
        func failure(_ path: String) throws -> ConfigurationError {
            try #require(throws: ConfigurationError.self) { _ = try Configuration.load(environment: ["CONFIG_PATH=\(path)"]) }
        }
        let missing = try failure("/nowhere/demikernel.yaml")
        #expect(missing.errno == .noSuchFileOrDirectory)
        #expect(missing.description == "environment variable CONFIG_PATH: /nowhere/demikernel.yaml: No such file or directory")
        #expect(try failure("/").errno == .isDirectory)
        #expect(try failure("/etc/passwd/x").errno == .notDirectory)
        #expect(try failure(String(repeating: "a", count: 100_000)).errno == .fileNameTooLong)
        #expect(try failure("/dev/zero").errno == .fileTooLarge)
        let named = try #require(throws: ConfigurationError.self) { _ = try Configuration.load(path: "/nowhere", environment: []) }
        #expect(named.description == "/nowhere: No such file or directory")
    }

    @Test func `a file that may not be read is EACCES`() throws {
        try withFile("libos: catnap") { (path: String) throws in
            #expect(unsafe chmod(path, 0) == 0)
            // Root reads everything; without its file-system identity, which is this thread's own, it does not.
            typealias SetFileSystemUser = @convention(c) (uid_t) -> CInt
            let setfsuid = try unsafe unsafeBitCast(#require(dlsym(nil, "setfsuid")), to: SetFileSystemUser.self)
            let previous = setfsuid(65_534)
            defer { _ = setfsuid(uid_t(previous)) }
            let error = try #require(throws: ConfigurationError.self) { _ = try Configuration.load(path: path, environment: []) }
            #expect(error.errno == .permissionDenied)
            #expect(error.description == "\(path): Permission denied")
        }
    }

    @Test func `a file of 1 MiB is read, and one byte more is refused`() throws {
        let comment = [UInt8](repeating: UInt8(ascii: "#"), count: Configuration.fileByteCountMaximum)
        try withFile(comment) { (path: String) throws in #expect(try Configuration.load(path: path, environment: []) == Configuration()) }
        try withFile(comment + [UInt8(ascii: "#")]) { (path: String) throws in
            let error = try #require(throws: ConfigurationError.self) { _ = try Configuration.load(path: path, environment: []) }
            #expect(error.errno == .fileTooLarge)
            #expect(error.description == "\(path): larger than 1048576 bytes, the most that settings may take")
        }
        let text = String(repeating: "#", count: Configuration.fileByteCountMaximum + 1)
        let error = try #require(throws: ConfigurationError.self) { _ = try Configuration.parse(text, file: "f") }
        #expect(error.errno == .fileTooLarge)
    }

    @Test(arguments: [("libos: a\nh\u{e9}ap: ", [0xff], 2, 7), ("", [0xff, 0xfe, 0x61, 0x00], 1, 1), ("\n", [0xc3], 2, 1), ("#", [0xed, 0xa0, 0x80], 1, 2)])
    func `a file that is not UTF-8 says where`(_ text: String, _ bytes: [UInt8], _ line: Int, _ column: Int) throws {
        try withFile(Array(text.utf8) + bytes) { (path: String) throws in
            let error = try #require(throws: ConfigurationError.self) { _ = try Configuration.load(path: path, environment: []) }
            #expect(error.description == "\(path):\(line):\(column): not UTF-8")
            #expect(error.errno == .illegalByteSequence)
        }
    }

    @Test(arguments: ["[", "{a: ", "- ", "? ", "heap: {", "[{", "\"", "!", "&a ", "|\n ", "heap:\n "])
    func `nesting a mebibyte deep is refused`(_ unit: String) throws {
        let text = String(repeating: unit, count: Configuration.fileByteCountMaximum / unit.utf8.count)
        let error = try #require(throws: ConfigurationError.self) { _ = try Configuration.parse(text, file: "f") }
        #expect(error.line != nil)
        #expect(error.description.utf8.count < 1_000)
    }
}

struct MutationTests {
    /// splitmix64: the same mutations in every run.
    struct Chance: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
    }

    @Test(arguments: 0..<8 as Range<UInt64>)
    func `a mutated file is valid settings or an error that says where, and never more`(_ seed: UInt64) throws {
        var chance = Chance(state: seed)
        let valid = Array("""
            libos: catnap # the kernel
            heap: {limit: 1GiB, checked: "yes"}
            wait:
              spin: 50us
            catnap:
              receive_size: '4KiB'
              files:
                queue_depth: 12
                io_uring: prefer

            """.utf8)
        let tokens = ["\t", "\n", "  ", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "!!int ", "? ", "| ", "> ", "'", "\"", "#", "---\n", "...\n", "%", "\0", "é", "<<: ",
            "~", "99999999999999999999", "heap:", "\u{feff}", "\r", "\\x41", "forever"].map { Array($0.utf8) } + [[0xff], [0xc3], [0xf0, 0x9f]]
        for _ in 0..<400 {
            var bytes = valid
            for _ in 0..<Int.random(in: 1...4, using: &chance) {
                let place = Int.random(in: 0...bytes.count, using: &chance)
                switch Int.random(in: 0..<4, using: &chance) {
                case 0: bytes.insert(contentsOf: tokens.randomElement(using: &chance)!, at: place)
                case 1: bytes.removeSubrange(place..<min(bytes.count, place + Int.random(in: 0...9, using: &chance)))
                case 2: if place < bytes.count { bytes[place] = UInt8.random(in: 0...255, using: &chance) }
                default: bytes.insert(contentsOf: bytes[place..<min(bytes.count, place + 40)], at: Int.random(in: 0...bytes.count, using: &chance))
                }
            }
            do throws(ConfigurationError) {
                var assembly = ConfigurationAssembly()
                try ConfigurationFileParser.apply(bytes, file: "f", to: &assembly)
                try assembly.finish().validate()
            } catch {
                let lines = bytes.count { $0 == 0x0a || $0 == 0x0d } + 2
                #expect((1...lines).contains(error.line ?? 0) || error.message.contains("UTF-8"))
                #expect(!error.message.isEmpty && error.description.unicodeScalars.allSatisfy { $0.value >= 0x20 })
            }
        }
    }
}
