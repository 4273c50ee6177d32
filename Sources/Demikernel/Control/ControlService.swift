import Glibc
import SystemPackage

/// The libOSes of this process that answer questions, and the sockets on which they are asked. One for the process, as its sockets are.
package final class ControlService: Sendable {
    /// A libOS that answers.
    struct Member: Sendable {
        let number: Int
        let mailbox: Mailbox
        /// The endpoints that are open for it.
        let places: [ControlEndpoint.Place]
    }

    private struct State {
        var members: [Member] = []
        var endpoints: [ControlEndpoint] = []
        var last = 0
    }

    package static let shared = ControlService()
    private let state = Lock(State())

    private init() {
        // Programs that exit without ending their libOSes, as those of the C ABI do, leave no file behind either.
        atexit { ControlService.shared.removeFiles() }
    }

    /// Opens what the settings ask for, on behalf of a libOS; nil where they ask for nothing, or for a socket at a place of our choice and there is
    /// none to be had: a libOS starts all the same. Throws EADDRINUSE and what else is in the way of a place that was named.
    static func join(_ settings: Configuration.Control, mailbox: Mailbox) throws(DemikernelError) -> ControlMembership? {
        // Under one lock, as is leaving: between opening a place and being a member of it nobody finds the place to be nobody's.
        try shared.state.withLock { state throws(DemikernelError) in
            var places: [ControlEndpoint.Place] = []
            if settings.socket == ControlPath.automaticWord {
                if let path = try? ControlPath.automatic(), (try? open(.path(path), &state)) != nil { places.append(.path(path)) }
            } else if !settings.socket.isEmpty {
                let place = ControlEndpoint.Place.path(isFolder(settings.socket) ? "\(settings.socket)/\(getpid()).sock" : settings.socket)
                try open(place, &state)
                places.append(place)
            }
            if settings.metricsPort != 0 {
                let place = ControlEndpoint.Place.port(UInt16(settings.metricsPort))
                do throws(DemikernelError) {
                    try open(place, &state)
                } catch {
                    close(places, &state)
                    throw error
                }
                places.append(place)
            }
            guard !places.isEmpty else { return nil }
            state.last += 1
            state.members.append(Member(number: state.last, mailbox: mailbox, places: places))
            return ControlMembership(number: state.last, mailbox: mailbox, places: places)
        }
    }

    private static func isFolder(_ path: String) -> Bool {
        var status = stat()
        return unsafe stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    /// The libOSes that are asked at a place, in the order in which they started.
    func members(at place: ControlEndpoint.Place) -> [Member] { state.withLock { $0.members.filter { $0.places.contains(place) } } }

    /// Opens an endpoint, or takes part in one that is open.
    private static func open(_ place: ControlEndpoint.Place, _ state: inout State) throws(DemikernelError) {
        if !state.endpoints.contains(where: { $0.place == place }) { state.endpoints.append(try ControlEndpoint(place)) }
    }

    /// Ends the endpoints that no libOS is left for. Their threads never take the lock under which this is called.
    private static func close(_ places: [ControlEndpoint.Place], _ state: inout State) {
        for place in places where !state.members.contains(where: { $0.places.contains(place) }) {
            guard let index = state.endpoints.firstIndex(where: { $0.place == place }) else { continue }
            state.endpoints.remove(at: index).stop()
        }
    }

    fileprivate func leave(_ membership: ControlMembership) {
        state.withLock { state in
            state.members.removeAll { $0.number == membership.number }
            Self.close(membership.places, &state)
        }
        membership.mailbox.refuseQuestions()
    }

    private func removeFiles() {
        for endpoint in state.withLock({ $0.endpoints }) { endpoint.removeFile() }
    }
}

/// A libOS's part in the ``ControlService``: to be left before the libOS ends.
final class ControlMembership: Sendable {
    let number: Int
    fileprivate let mailbox: Mailbox
    fileprivate let places: [ControlEndpoint.Place]

    fileprivate init(number: Int, mailbox: Mailbox, places: [ControlEndpoint.Place]) {
        self.number = number
        self.mailbox = mailbox
        self.places = places
    }

    func leave() { ControlService.shared.leave(self) }
}
