public import CDemikernel.Types
import Demikernel
import Glibc
import SystemPackage

// push and pop, for queues of every kind. What each call does and answers stands in demi/libos.h.

@c(demi_push)
public func demi_push(_ tokenOut: UnsafeMutableRawPointer?, _ descriptor: Int32, _ array: UnsafeRawPointer?) -> Int32 {
    call { core throws(DemikernelError) in
        unsafe try push(&core, tokenOut, descriptor, array, to: nil)
    }
}

@c(demi_pushto)
public func demi_pushto(
    _ tokenOut: UnsafeMutableRawPointer?, _ descriptor: Int32, _ array: UnsafeRawPointer?, _ destination: UnsafeRawPointer?, _ size: socklen_t
) -> Int32 {
    call { core throws(DemikernelError) in
        unsafe try push(&core, tokenOut, descriptor, array, to: address(destination, size))
    }
}

@inline(__always)
private func push(
    _ core: inout Core, _ tokenOut: UnsafeMutableRawPointer?, _ descriptor: Int32, _ array: UnsafeRawPointer?, to address: SocketAddress?
) throws(DemikernelError) {
    let (tokenOut, start) = unsafe (try required(tokenOut), try required(array))
    let array = unsafe start.loadUnaligned(as: demi_sgarray_t.self)
    guard unsafe array.sga_numsegs == 1 else { throw DemikernelError(.invalidArgument, "the array does not have one segment") }
    let segment = unsafe array.sga_segs
    do throws(DemikernelError) {
        let token = unsafe try core.push(
            QueueDescriptor(rawValue: descriptor), allocation: array.sga_buf, start: segment.sgaseg_buf, count: Int(segment.sgaseg_len), to: address)
        unsafe tokenOut.store(token)
    } catch {
        throw error.withoutDestination
    }
}

/// Ours.
@c(demi_pushv)
public func demi_pushv(_ tokenOut: UnsafeMutableRawPointer?, _ descriptor: Int32, _ pieces: UnsafeRawPointer?, _ count: Int32) -> Int32 {
    call { core throws(DemikernelError) in
        let (tokenOut, pieces) = unsafe (try required(tokenOut), try required(pieces))
        do throws(DemikernelError) {
            unsafe tokenOut.store(try core.push(QueueDescriptor(rawValue: descriptor), pieces: pieces, count: Int(count)))
        } catch {
            throw error.withoutDestination
        }
    }
}

extension DemikernelError {
    /// The C ABI answers ENOTCONN, as for TCP, where a datagram has no destination.
    fileprivate var withoutDestination: DemikernelError {
        errno == .addressRequired ? DemikernelError(.socketNotConnected, "the socket is not connected") : self
    }
}

@c(demi_pop)
public func demi_pop(_ tokenOut: UnsafeMutableRawPointer?, _ descriptor: Int32) -> Int32 {
    call { core throws(DemikernelError) in
        let tokenOut = unsafe try required(tokenOut)
        unsafe tokenOut.store(try core.popToken(QueueDescriptor(rawValue: descriptor)))
    }
}
