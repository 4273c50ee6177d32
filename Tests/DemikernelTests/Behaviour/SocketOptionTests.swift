import SystemPackage
import Testing
@testable import Demikernel

extension PDPIXBehaviour {
    @Suite struct SocketOptions {
        @Test(arguments: LibOSUnderTest.all)
        func `flags read back as they were set`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for family in subject.families {
                    let socket = try libOS.socket(family)
                    for option in [SocketOption<Bool>.noDelay, .keepAlive, .reuseAddress, .reusePort] {
                        for value in [true, false, true] {
                            try libOS.set(option, to: value, on: socket)
                            #expect(try libOS.value(of: option, on: socket) == value)
                        }
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `buffers are at least as large as was asked for`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                for type in [SocketType.stream, .datagram] {
                    let socket = try libOS.socket(.ipv4, type)
                    for option in [SocketOption<Int>.sendBufferSize, .receiveBufferSize] {
                        try libOS.set(option, to: 65_536, on: socket)
                        #expect(try libOS.value(of: option, on: socket) >= 65_536)
                        for size in [-1, Int.min, Int.max, 1 << 31] {
                            expect(.invalidArgument) { try libOS.set(option, to: size, on: socket) }
                        }
                        #expect(try libOS.value(of: option, on: socket) >= 65_536)
                    }
                }
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `linger is off, zero or whole seconds, rounded up`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let socket = try libOS.socket()
                #expect(try libOS.value(of: .linger, on: socket) == nil)
                for value in [Duration.zero, .seconds(5), nil, .seconds(65_535)] {
                    try libOS.set(.linger, to: value, on: socket)
                    #expect(try libOS.value(of: .linger, on: socket) == value)
                }
                // Zero would reset the connection: nobody who asks for some time means that.
                try libOS.set(.linger, to: .milliseconds(1), on: socket)
                #expect(try libOS.value(of: .linger, on: socket) == .seconds(1))
                for value in [Duration.seconds(-1), .milliseconds(-1), .seconds(65_536), .milliseconds(65_535_001), .seconds(Int64.max)] {
                    expect(.invalidArgument) { try libOS.set(.linger, to: value, on: socket) }
                }
                #expect(try libOS.value(of: .linger, on: socket) == .seconds(1))
            }
        }

        @Test(arguments: LibOSUnderTest.all)
        func `an option that the socket does not have is refused`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let datagram = try libOS.socket(.ipv4, .datagram)
                #expect(throws: DemikernelError.self) { try libOS.set(.noDelay, to: true, on: datagram) }
                #expect(throws: DemikernelError.self) { _ = try libOS.value(of: .noDelay, on: datagram) }
            }
        }

        @Test(arguments: LibOSUnderTest.all.filter { $0.capabilities.contains(.sharedPorts) })
        func `sockets that all say so share a port`(_ subject: LibOSUnderTest) async throws {
            try await subject.run { libOS in
                let first = try libOS.socket(), second = try libOS.socket(), third = try libOS.socket()
                try libOS.set(.reusePort, to: true, on: first)
                try libOS.bind(first, to: subject.address())
                let address = try libOS.localAddress(of: first)
                expect(.addressInUse) { try libOS.bind(second, to: address) }
                try libOS.set(.reusePort, to: true, on: third)
                try libOS.bind(third, to: address)
                try libOS.listen(first)
                try libOS.listen(third)
            }
        }
    }
}
