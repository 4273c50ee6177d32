import Glibc
import Testing
@testable import Demikernel

/// Frames that a libOS hands to whoever looks.
@Suite struct CaptureQueueTests {
    private struct Seen: Equatable {
        var bytes: [UInt8]
        var length: Int
        var direction: UInt32
        var time: UInt64
    }

    private func drain(_ queue: CaptureQueue) -> [Seen] {
        var seen: [Seen] = []
        queue.drain { entry in
            seen.append(Seen(bytes: unsafe Array(entry.bytes), length: entry.frameByteCount, direction: entry.direction.rawValue, time: entry.time))
        }
        return seen
    }

    @Test(arguments: [1, 2, 3])
    func `frames come out as they went in, and those that do not fit are counted`(_ seed: UInt64) throws {
        let bench = try DeviceBench()
        let queue = try CaptureQueue(capacity: 65_536, snapLength: 3_000)
        var random = SplitMix64(seed: seed)
        var expected: [Seen] = []
        var put: UInt64 = 0
        var drops: UInt64 = 0
        for step in 0..<4_000 {
            if random.next() % 40 == 0 {
                #expect(drain(queue) == expected)
                expected = []
            } else {
                let length = 1 + Int(random.next() % 6_000)
                let frame = bench.frame(length, seed: step, parts: step % 3)
                let before = queue.drops
                queue.put(frame, direction: step % 2 == 0 ? .inbound : .outbound, time: UInt64(step))
                put += 1
                if queue.drops == before {
                    let bytes = DeviceBench.contents(length, seed: step).prefix(3_000)
                    expected.append(Seen(bytes: Array(bytes), length: length, direction: step % 2 == 0 ? 1 : 2, time: UInt64(step)))
                } else {
                    drops += 1
                    // Never while there is a lot of room: two records of the largest size would fit whatever the place.
                    #expect(expected.reduce(0) { $0 + $1.bytes.count } > 65_536 - 3 * 3_100)
                }
                frame.release()
            }
        }
        #expect(drain(queue) == expected)
        #expect(queue.frames == put && queue.drops == drops && drops > 0)
        #expect(bench.isEmpty)
    }

    @Test func `one thread puts while another takes`() throws {
        let queue = try CaptureQueue(capacity: 65_536, snapLength: 200)
        let count = 20_000
        let writer = TestThread {
            guard let bench = try? DeviceBench() else { return queue.close() }
            let frame = bench.frame(100, seed: 5)
            for number in 0..<count { queue.put(frame, direction: .inbound, time: UInt64(number)) }
            frame.release()
            queue.close()
        }
        let bytes = DeviceBench.contents(100, seed: 5)
        var last: UInt64?
        var seen = 0
        var wrong = 0
        var isClosed = false
        while !isClosed {
            isClosed = queue.isClosed
            queue.drain { entry in
                seen += 1
                if let last, entry.time <= last { wrong += 1 }
                last = entry.time
                if unsafe !entry.bytes.elementsEqual(bytes) { wrong += 1 }
            }
        }
        _ = consume writer
        #expect(wrong == 0)
        #expect(UInt64(seen) + queue.drops == UInt64(count))
    }

    @Test func `a libOS is captured while somebody looks, and costs nothing after`() throws {
        let folder = TestFolder()
        let path = folder.path + "/control.sock"
        try ServedLibOS.run(ServedLibOS.configuration(folder)) { libOS in
            // Something that goes on for as long as the test looks: a datagram socket that talks to itself.
            let socket = try libOS.socket(.ipv4, .datagram)
            try libOS.bind(socket, to: .ipv4(0x0a75_0001, port: 53))
        } test: { served in
            let dump = try #require(TestClient(path: path))
            dump.send(Array("dump snap=60\n".utf8))
            var status = try TestClient.ask(path, "status")
            while status.first?["captured"] != "true" { status = try TestClient.ask(path, "status") }
            // One at a time.
            #expect(try TestClient.ask(path, "dump").first?.kind == "error")
            dump.finish()
            let bytes = dump.readAll()
            let end = try #require(bytes.firstIndex(of: 0x0a))
            #expect(ControlRecord(line: String(decoding: bytes[..<end], as: UTF8.self))?.kind == "dump")
            // A section, an interface, frames or none, the interface's numbers.
            let capture = Array(bytes[(end + 1)...])
            #expect(capture.prefix(4) == [0x0a, 0x0d, 0x0d, 0x0a] && capture.suffix(52).prefix(4) == [5, 0, 0, 0])
            #expect(try TestClient.ask(path, "status").first?["captured"] == "false")
            // And again.
            let again = try #require(TestClient(path: path))
            again.send(Array("dump\n".utf8))
            again.finish()
            #expect(again.readAll().starts(with: Array("dump\t".utf8)))
        }
    }

    @Test func `a capture ends with the libOS`() throws {
        let folder = TestFolder()
        let path = folder.path + "/control.sock"
        var dump: TestClient?
        try ServedLibOS.run(ServedLibOS.configuration(folder)) { _ in } test: { _ in
            dump = TestClient(path: path)
            dump?.send(Array("dump\n".utf8))
            var status = try TestClient.ask(path, "status")
            while status.first?["captured"] != "true" { status = try TestClient.ask(path, "status") }
        }
        let bytes = try #require(dump).readAll()
        #expect(bytes.suffix(52).prefix(4) == [5, 0, 0, 0])
    }

    @Test func `the kernel's frames are not ours to capture`() throws {
        let folder = TestFolder()
        try ServedLibOS.run(ServedLibOS.configuration(folder, libOS: "catnap")) { _ in } test: { _ in
            let answer = try #require(try TestClient.ask(folder.path + "/control.sock", "dump").first)
            #expect(answer.kind == "error" && answer["text"]?.contains("tcpdump") == true)
        }
    }
}
