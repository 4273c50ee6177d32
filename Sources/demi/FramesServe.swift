import ArgumentParser
import Demikernel
import Glibc

struct FramesServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Sends every frame back with its Ethernet addresses exchanged.",
        discussion: """
            Prints "serving PATH" once the device is open. Peers may come and go. On SIGINT or SIGTERM it says how much it has echoed and ends.
            """)

    @OptionGroup var options: FramesOptions

    func run() throws {
        var loop = try FramesLoop(options.device(.server, address: 0x0200_0000_0001), sleeps: options.sleep)
        writeLine("serving \(options.memif)")
        while !loop.isStopped {
            loop.receive()
            guard !loop.burst.isEmpty else { continue }
            for index in 0..<loop.burst.count { Self.exchangeAddresses(loop.burst[index]) }
            loop.transmitAll()
        }
        report(loop)
    }

    @inline(__always)
    private static func exchangeAddresses(_ frame: Frame) {
        let bytes = unsafe PacketBytes(start: frame.head.start, count: frame.head.byteCount)
        let (destination, source) = (bytes.loadMAC(0), bytes.loadMAC(6))
        bytes.storeMAC(source, at: 0)
        bytes.storeMAC(destination, at: 6)
    }

    private func report(_ loop: borrowing FramesLoop) {
        let statistics = loop.device.statistics
        guard options.json else {
            return writeLine(
                "echoed \(statistics.transmittedFrames.grouped) frames, \(statistics.transmittedBytes.grouped) bytes; "
                    + "\(statistics.disconnections.grouped) disconnections, \(statistics.malformed.grouped) malformed")
        }
        var object = JSONObject()
        object.add("device", "memif")
        loop.addStatistics(to: &object)
        writeLine(object.text)
    }
}
