import Demikernel
import FoundationEssentials

/// What iperf3's two ends tell each other over their control connection, a byte at a time. The client opens that connection and every stream with the
/// same 37 bytes; settings and results are JSON behind their length. There is no specification: this is what iperf 3.12 says and understands.
enum IperfState: Int8 {
    case testStart = 1
    case testRunning = 2
    /// The client's: the time is over.
    case testEnd = 4
    case settings = 9
    case createStreams = 10
    case serverTerminate = 11
    case clientTerminate = 12
    case exchangeResults = 13
    case displayResults = 14
    /// The client's last word.
    case done = 16
    case accessDenied = -1
    /// Two 32-bit numbers follow: iperf's error and errno.
    case serverError = -2
}

/// Names a test: 36 characters and a zero.
struct IperfCookie: Hashable {
    static let byteCount = 37
    let bytes: [UInt8]
}

/// What the client wants done. Only TCP.
struct IperfSettings: Decodable {
    static let streamMaximum = 128
    /// iperf's own bound.
    static let lengthMaximum = 1 << 20

    let streams: Int
    /// The server sends.
    let isReverse: Bool
    let isBidirectional: Bool
    /// Bytes of a push.
    let length: Int
    /// Small segments go out at once (iperf3 -N).
    let hasNoDelay: Bool

    private let isUDP: Bool
    private let isSCTP: Bool

    private enum CodingKeys: String, CodingKey {
        case parallel, reverse, bidirectional, len, nodelay, udp, sctp
    }

    init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        streams = try values.decodeIfPresent(Int.self, forKey: .parallel) ?? 1
        isReverse = try values.decodeIfPresent(Bool.self, forKey: .reverse) ?? false
        isBidirectional = try values.decodeIfPresent(Bool.self, forKey: .bidirectional) ?? false
        length = try values.decodeIfPresent(Int.self, forKey: .len) ?? 131_072
        hasNoDelay = try values.decodeIfPresent(Bool.self, forKey: .nodelay) ?? false
        isUDP = try values.decodeIfPresent(Bool.self, forKey: .udp) ?? false
        isSCTP = try values.decodeIfPresent(Bool.self, forKey: .sctp) ?? false
    }

    /// Whether it can be done here.
    var isPossible: Bool { !isUDP && !isSCTP && 1...Self.streamMaximum ~= streams && 1...Self.lengthMaximum ~= length }

    var connections: Int { isBidirectional ? 2 * streams : streams }
}

/// The control connection.
struct IperfControl: Sendable {
    private static let textMaximum = 1 << 20
    let connection: Connection
    let here: TaskLibOS

    func send(_ state: IperfState) async throws(DemikernelError) { try await connection.push([UInt8(bitPattern: state.rawValue)], here) }

    func state() async throws(DemikernelError) -> IperfState {
        guard let state = IperfState(rawValue: Int8(bitPattern: try await connection.bytes(1)[0])) else {
            throw DemikernelError(.invalidArgument, "the iperf client says what no iperf says")
        }
        return state
    }

    func send(_ text: String) async throws(DemikernelError) {
        let bytes = Array(text.utf8)
        try await connection.push(Self.bigEndian(UInt32(bytes.count)) + bytes, here)
    }

    /// A JSON text behind its length.
    func text() async throws(DemikernelError) -> [UInt8] {
        let count = try await connection.bytes(4).reduce(0) { $0 << 8 | Int($1) }
        guard count <= Self.textMaximum else { throw DemikernelError(.invalidArgument, "what the iperf client sent is too long") }
        return try await connection.bytes(count)
    }

    func settings() async throws(DemikernelError) -> IperfSettings {
        let text = try await text()
        do { return try JSONDecoder().decode(IperfSettings.self, from: Data(text)) } catch {
            throw DemikernelError(.invalidArgument, "what the iperf client sent are no settings")
        }
    }

    /// Tells the client that its test cannot be: `number` is one of iperf's errors.
    func refuse(_ number: UInt32) async throws(DemikernelError) {
        try await connection.push([UInt8(bitPattern: IperfState.serverError.rawValue)] + Self.bigEndian(number) + Self.bigEndian(0), here)
    }

    private static func bigEndian(_ number: UInt32) -> [UInt8] { [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: number >> $0) } }
}
