import CDemikernel.Types
import Demikernel
import Glibc
import SystemPackage

// What C hands over and is handed: checked, and read and written byte by byte, because callers keep tokens and addresses in packed structures.

extension DemikernelError {
    static var null: DemikernelError { DemikernelError(.invalidArgument, "a pointer is NULL") }
    /// What the last system call of this thread left in `errno`.
    static func last(_ text: StaticString) -> DemikernelError { DemikernelError(Errno(rawValue: Glibc.errno), text) }
}

@inline(__always)
func required(_ pointer: UnsafeMutableRawPointer?) throws(DemikernelError) -> UnsafeMutableRawPointer {
    guard let pointer = unsafe pointer else { throw .null }
    return unsafe pointer
}

@inline(__always)
func required(_ pointer: UnsafeRawPointer?) throws(DemikernelError) -> UnsafeRawPointer {
    guard let pointer = unsafe pointer else { throw .null }
    return unsafe pointer
}

extension UnsafeMutableRawPointer {
    @inline(__always) func store(_ token: QToken) { unsafe storeBytes(of: token.rawValue, as: UInt64.self) }
    @inline(__always) func store(_ descriptor: QueueDescriptor) { unsafe storeBytes(of: descriptor.rawValue, as: Int32.self) }
}

/// A relative timeout in nanoseconds: nil for NULL, which is for ever. Throws EINVAL for a negative one and for nanoseconds beyond 999,999,999.
@inline(__always)
func nanoseconds(_ timeout: UnsafeRawPointer?) throws(DemikernelError) -> UInt64? {
    guard let timeout = unsafe timeout else { return nil }
    let time = unsafe timeout.loadUnaligned(as: timespec.self)
    guard time.tv_sec >= 0, 0..<1_000_000_000 ~= time.tv_nsec else {
        throw DemikernelError(.invalidArgument, "the timeout is negative, or its nanoseconds are a second or more")
    }
    let (whole, isTooLong) = UInt64(time.tv_sec).multipliedReportingOverflow(by: 1_000_000_000)
    let (sum, isTooLongWithRest) = whole.addingReportingOverflow(UInt64(time.tv_nsec))
    return isTooLong || isTooLongWithRest ? .max : sum
}

/// A `struct sockaddr` of `size` bytes. Throws EINVAL for NULL and for a size that is not its family's, EAFNOSUPPORT for another family.
func address(_ address: UnsafeRawPointer?, _ size: socklen_t) throws(DemikernelError) -> SocketAddress {
    let address = unsafe try required(address)
    guard size >= MemoryLayout<sa_family_t>.size else { throw DemikernelError(.invalidArgument, "the address has no family") }
    guard AddressFamily(rawValue: unsafe address.loadUnaligned(as: UInt16.self)) != nil else {
        throw DemikernelError(.addressFamilyNotSupported, "the address is neither IPv4 nor IPv6")
    }
    guard let result = unsafe SocketAddress(reading: address, byteCount: Int(size)) else {
        throw DemikernelError(.invalidArgument, "the address does not have its family's size")
    }
    return result
}

/// Answers an address as `getsockname(2)` does: cut off at the room that `size` tells of, and `size` then says how long it is.
func store(_ address: SocketAddress, to room: UnsafeMutableRawPointer, _ size: UnsafeMutableRawPointer) throws(DemikernelError) {
    let capacity = unsafe size.loadUnaligned(as: socklen_t.self)
    guard capacity <= Int32.max else { throw DemikernelError(.invalidArgument, "the room for the address is negative") }
    unsafe withUnsafeTemporaryAllocation(byteCount: SocketAddress.encodedByteCountMaximum, alignment: 8) { encoded in
        guard let start = encoded.baseAddress else { return }
        let count = unsafe address.write(to: start)
        unsafe room.copyMemory(from: start, byteCount: min(count, Int(capacity)))
        unsafe size.storeBytes(of: socklen_t(count), as: socklen_t.self)
    }
}

extension sockaddr_in {
    /// The C structure of an IPv4 address; all zero for another.
    init(_ address: SocketAddress) {
        self.init()
        guard address.family == .ipv4 else { return }
        unsafe withUnsafeTemporaryAllocation(byteCount: SocketAddress.encodedByteCountMaximum, alignment: 8) { encoded in
            guard let start = encoded.baseAddress else { return }
            unsafe address.write(to: start)
            self = unsafe start.load(as: sockaddr_in.self)
        }
    }
}
