// Fragments of datagrams, in and out.

extension NetworkLayer {
    mutating func reassemble(_ whole: Segment, _ view: IPv4HeaderView, _ link: Link, now: UInt64) -> Segment? {
        counters.fragmentsReceived &+= 1
        counters.fragmentsDropped &+= 1
        whole.release()
        return nil
    }

    mutating func receiveFragment(
        _ whole: Segment, _ view: IPv6HeaderView, _ header: IPv6FragmentHeader, offset: Int, isBroadcast: Bool, _ link: Link,
        into packet: inout ReceivedPacket, now: UInt64
    ) -> Arrival {
        counters.fragmentsReceived &+= 1
        counters.fragmentsDropped &+= 1
        return drop(whole)
    }

    mutating func sendFragments(_ header: Segment, payload: SegmentList, on path: NetworkPath, proto: UInt8, traffic: UInt8, now: UInt64) {
        counters.packetsTooBig &+= 1
        Frame(header, rest: payload).release()
    }
}
