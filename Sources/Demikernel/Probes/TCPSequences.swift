// What an attacker who had guessed everything would know of a connection: for the simulator's attackers, who keep clear of it.

/// Ports and sequence numbers of a connection.
package struct TCPSequences: Sendable {
    package let state: TCPState
    package let localPort: UInt16
    package let remotePort: UInt16
    /// SND.UNA, SND.NXT.
    package let sendUnacknowledged: UInt32
    package let sendNext: UInt32
    /// RCV.NXT; 0 before the peer has said where it begins.
    package let receiveNext: UInt32
}

extension TCP {
    /// Where a connection stands; nil for a listener, and where there is none.
    package mutating func sequences(of socket: TCPSocket) -> TCPSequences? {
        guard isConnection(socket) else { return nil }
        let tuple = connections[unchecked: socket.slot].tuple
        return TCPSequences(
            state: connections[unchecked: socket.slot].state, localPort: tuple.localPort, remotePort: tuple.remotePort,
            sendUnacknowledged: connections[unchecked: socket.slot].sendUnacknowledged.rawValue,
            sendNext: connections[unchecked: socket.slot].sendNext.rawValue, receiveNext: connections[unchecked: socket.slot].receiveNext.rawValue)
    }
}
