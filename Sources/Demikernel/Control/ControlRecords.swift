// What a libOS said of itself, as records: written on the control socket's threads, never on the libOS's.

extension ControlStatus {
    /// One counter of a libOS.
    struct Counter {
        let layer: String
        /// As its property is called: `framesReceived`.
        let name: String
        let value: UInt64

        func record(of libOS: Int) -> ControlRecord {
            var record = ControlRecord("counter")
            record.add("libos", libOS)
            record.add("layer", layer)
            record.add("name", name)
            record.add("value", value)
            return record
        }
    }

    /// Everything that only counts up.
    var counters: [Counter] {
        var result = [
            Counter(layer: "libos", name: "operationsCompleted", value: completed),
            Counter(layer: "heap", name: "failedAllocations", value: heap.failedAllocations),
        ]
        guard let network else { return result }
        for (layer, counters) in [("device", network.device), ("ip", network.ip), ("udp", network.udp), ("tcp", network.tcp)] as [(String, Any)] {
            result += Mirror(reflecting: counters).children.compactMap { child in
                guard let name = child.label, let value = child.value as? UInt64 else { return nil }
                return Counter(layer: layer, name: name, value: value)
            }
        }
        return result
    }

    /// What goes up and down.
    var gauges: [(name: String, help: String, value: Int)] {
        var result = [
            ("queues", "Open queue descriptors.", queues), ("operations", "Operations submitted and not yet waited for.", operations),
            ("heap_limit_bytes", "The most that the heap grows to.", heap.limit),
            ("heap_mapped_bytes", "Memory made usable for the heap.", heap.mappedBytes),
            ("heap_huge_page_bytes", "That part of it that lies on huge pages.", heap.hugePageBytes),
            ("heap_used_bytes", "Superblocks in use.", heap.usedBytes),
            ("heap_peak_used_bytes", "The most superblocks in use at any time.", heap.peakUsedBytes),
        ]
        guard let network else { return result }
        result += [
            ("device_connected", "Whether frames can be exchanged.", network.isConnected ? 1 : 0),
            ("tcp_connections", "TCP connections, half-open ones included, without those in TIME_WAIT.", network.connections),
            ("tcp_time_waits", "TCP connections in TIME_WAIT.", network.timeWaits),
            ("udp_sockets", "Open UDP sockets.", network.udpSockets),
        ]
        return result
    }

    func record(of libOS: Int) -> ControlRecord {
        var record = ControlRecord("libos")
        record.add("libos", libOS)
        record.add("name", self.libOS)
        record.add("answers", true)
        for gauge in gauges { record.add(gauge.name, gauge.value) }
        guard let network else { return record }
        record.add("device", network.capabilities.name)
        record.add("mac", "\(MACAddress(network.capabilities.address))")
        record.add("mtu", network.capabilities.maximumTransmissionUnit)
        record.add("addresses", network.addresses.map { "\($0.address)/\($0.prefixLength)" }.joined(separator: ","))
        record.add("captured", network.isCaptured)
        return record
    }
}

extension ControlSocket {
    func record(of libOS: Int) -> ControlRecord {
        var record = ControlRecord("socket")
        record.add("libos", libOS)
        record.add("transport", transport.rawValue)
        record.add("state", stateName)
        record.add("local", local.map { "\($0)" } ?? "*")
        record.add("remote", remote.map { "\($0)" } ?? "*")
        record.add("receiveQueue", receiveQueue)
        record.add("sendQueue", sendQueue)
        if let descriptor { record.add("descriptor", descriptor) }
        record.add("stack", isKernel ? "kernel" : "libos")
        if transport == .udp { record.add("drops", drops) }
        guard let tcp, tcp.state != .listen, tcp.state != .timeWait, tcp.state != .closed else { return record }
        record.add("congestionWindow", tcp.congestionWindow)
        if tcp.slowStartThreshold < 1 << 30 { record.add("slowStartThreshold", tcp.slowStartThreshold) }
        record.add("sendWindow", tcp.sendWindow)
        record.add("receiveWindow", tcp.receiveWindow)
        record.add("segmentSize", tcp.maximumSegmentSize)
        record.add("roundTripNanoseconds", tcp.smoothedRoundTrip)
        record.add("roundTripVariationNanoseconds", tcp.roundTripVariation)
        if tcp.minimumRoundTrip != .max { record.add("minimumRoundTripNanoseconds", tcp.minimumRoundTrip) }
        record.add("retransmissionTimeoutNanoseconds", tcp.retransmissionTimeout)
        record.add("retransmissions", tcp.retransmissions)
        record.add("backOff", tcp.backOff)
        record.add("inFlight", tcp.bytesInFlight)
        record.add("unsent", tcp.bytesUnsent)
        record.add("outOfOrder", tcp.bytesOutOfOrder)
        record.add("isInRecovery", tcp.isInRecovery)
        let options = [
            ("timestamps", tcp.hasTimestamps), ("sack", tcp.hasSelectiveAcknowledgement), ("wscale", tcp.hasWindowScale), ("ecn", tcp.hasECN),
        ]
        record.add("options", options.filter(\.1).map(\.0).joined(separator: ","))
        return record
    }
}

/// The text form that Prometheus scrapes: exposition format 0.0.4.
enum PrometheusText {
    /// Counters and gauges of libOSes with their numbers.
    static func of(_ statuses: [(Int, ControlStatus)]) -> String {
        var text = ""
        var names: [String] = []
        var samples: [String: [String]] = [:]
        func add(_ name: String, _ head: String, _ sample: String) {
            if samples[name] == nil {
                names.append(name)
                samples[name] = [head]
            }
            samples[name]?.append(sample)
        }
        for (number, status) in statuses {
            let labels = "{libos=\"\(number)\",name=\"\(escaped(status.libOS))\"}"
            for gauge in status.gauges {
                let name = "demikernel_\(gauge.name)"
                add(name, "# HELP \(name) \(gauge.help)\n# TYPE \(name) gauge\n", "\(name)\(labels) \(gauge.value)\n")
            }
            for counter in status.counters {
                let name = "demikernel_\(counter.layer)_\(snakeCase(counter.name))_total"
                let help = "# HELP \(name) The libOS's counter \(counter.name) of its layer \(counter.layer).\n# TYPE \(name) counter\n"
                add(name, help, "\(name)\(labels) \(counter.value)\n")
            }
        }
        for name in names { text += (samples[name] ?? []).joined() }
        return text
    }

    /// `framesOfOtherVLANs` becomes `frames_of_other_vlans`.
    static func snakeCase(_ name: String) -> String {
        var result = ""
        var previousIsSmall = false
        for character in name {
            if character.isUppercase, previousIsSmall { result += "_" }
            previousIsSmall = !character.isUppercase
            result += character.lowercased()
        }
        return result
    }

    private static func escaped(_ value: String) -> String {
        value.reduce(into: "") { text, character in
            switch character {
            case "\\": text += "\\\\"
            case "\"": text += "\\\""
            case "\n": text += "\\n"
            default: text.append(character)
            }
        }
    }
}
