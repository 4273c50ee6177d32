import Testing
@testable import Demikernel

@Suite struct SocketAddressTests {
    @Test(arguments: ["127.0.0.1:80", "0.0.0.0:0", "[::1]:443", "[2001:db8::1]:65535"])
    func `text survives the round trip`(text: String) throws {
        #expect(try #require(SocketAddress(text)).description == text)
    }

    @Test(arguments: ["", "256.0.0.1:80", "127.0.0.1:65536", "[::1", "[::1]80", "host:80", "1.2.3.4:"])
    func `what is no address is refused`(text: String) {
        if text.isEmpty { #expect(SocketAddress(text) == .any(port: 0)) } else { #expect(SocketAddress(text) == nil) }
    }
}
