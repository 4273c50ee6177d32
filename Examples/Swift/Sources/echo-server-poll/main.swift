import Demikernel
import DemikernelConfiguration
import Glibc

// The echo server with plain PDPIX calls: one token per connection in an array, and `waitAny` over all of them. No Swift task runs.
// What one array entry stands for follows from its completion: the accept is first, each other token is a connection's pop or push.
func serve(_ libOS: LibOS, on address: SocketAddress) throws {
    let listener = try libOS.socket(address.family, .stream)
    try libOS.bind(listener, to: address)
    try libOS.listen(listener)
    var tokens = [try libOS.accept(listener)]
    while true {
        let completion = try libOS.waitAny(tokens)
        let (offset, descriptor) = (completion.offset, completion.descriptor)
        var next: QToken?
        switch completion.take() {
        case .accepted(let connection, from: _):
            tokens.append(try libOS.pop(connection))
            next = try libOS.accept(listener)
        case .popped(let segments, from: _):
            // No segments are the end of the stream. A push that is refused, as after a reset, ends the connection too.
            if !segments.isEmpty { next = try? libOS.push(descriptor, segments) }
        case .pushed:
            next = try? libOS.pop(descriptor)
        case .failed(let error, returned: _):
            print("\(descriptor): \(error)")
            if descriptor == listener { next = try libOS.accept(listener) }
        default:
            break  // nothing here connects, and no timer runs
        }
        if let next {
            tokens[offset] = next
        } else {
            // The connection has ended: the last token takes its place.
            try libOS.close(descriptor)
            tokens[offset] = tokens[tokens.count - 1]
            tokens.removeLast()
        }
    }
}

do {
    try serve(LibOS(.load()), on: .any(port: 7000))
} catch {
    print("echo-server-poll: \(error)")
    exit(1)
}
