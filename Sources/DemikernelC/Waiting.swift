import CDemikernel.Types
import Demikernel
import Glibc
import SystemPackage

// Waiting for completions. What each call does and answers stands in demi/wait.h.

@c(demi_wait)
public func demi_wait(_ resultOut: UnsafeMutableRawPointer?, _ token: UInt64, _ timeout: UnsafeRawPointer?) -> Int32 {
    call { core throws(DemikernelError) in
        let resultOut = unsafe try required(resultOut)
        let timeout = unsafe try nanoseconds(timeout)
        unsafe core.store(try core.wait(QToken(rawValue: token), timeout: timeout), to: resultOut)
    }
}

@c(demi_wait_any)
public func demi_wait_any(
    _ resultOut: UnsafeMutableRawPointer?, _ offsetOut: UnsafeMutableRawPointer?, _ tokens: UnsafeRawPointer?, _ count: Int32,
    _ timeout: UnsafeRawPointer?
) -> Int32 {
    call { core throws(DemikernelError) in
        let (resultOut, offsetOut) = unsafe (try required(resultOut), try required(offsetOut))
        let timeout = unsafe try nanoseconds(timeout)
        unsafe try withTokens(tokens, count) { tokens throws(DemikernelError) in
            let offset = try core.waitAny(tokens, timeout: timeout)
            unsafe core.store(core.take(completed: tokens[offset]), to: resultOut)
            unsafe offsetOut.storeBytes(of: Int32(truncatingIfNeeded: offset), as: Int32.self)
        }
    }
}

@c(demi_wait_next_n)
public func demi_wait_next_n(
    _ resultsOut: UnsafeMutableRawPointer?, _ capacity: Int32, _ countOut: UnsafeMutableRawPointer?, _ timeout: UnsafeRawPointer?
) -> Int32 {
    call { core throws(DemikernelError) in
        let countOut = unsafe try required(countOut)
        unsafe countOut.storeBytes(of: 0, as: Int32.self)
        let resultsOut = unsafe try required(resultsOut)
        guard capacity >= 1 else { throw DemikernelError(.invalidArgument, "there is no room for a result") }
        let timeout = unsafe try nanoseconds(timeout)
        var next: UInt32? = try core.waitNext(timeout: timeout)
        var count: Int32 = 0
        while let slot = next {
            unsafe core.store(core.take(slot), to: resultsOut + Int(count) * MemoryLayout<demi_qresult_t>.size)
            count += 1
            next = count < capacity ? core.oldestCompletion : nil
        }
        unsafe countOut.storeBytes(of: count, as: Int32.self)
    }
}

/// Ours.
@c(demi_wait_all)
public func demi_wait_all(
    _ resultsOut: UnsafeMutableRawPointer?, _ tokens: UnsafeRawPointer?, _ count: Int32, _ timeout: UnsafeRawPointer?
) -> Int32 {
    call { core throws(DemikernelError) in
        let resultsOut = unsafe try required(resultsOut)
        let timeout = unsafe try nanoseconds(timeout)
        unsafe try withTokens(tokens, count) { tokens throws(DemikernelError) in
            try core.waitUntilAllComplete(tokens, timeout: timeout)
            for offset in tokens.indices {
                unsafe core.store(core.take(completed: tokens[offset]), to: resultsOut + offset * MemoryLayout<demi_qresult_t>.size)
            }
        }
    }
}

/// Ours.
@c(demi_cancel)
public func demi_cancel(_ token: UInt64) -> Int32 {
    call { core throws(DemikernelError) in
        core.turn()
        do throws(DemikernelError) {
            try core.cancel(QToken(rawValue: token))
        } catch {
            // The operation was faster, or has left: its own completion is still to come. (EALREADY, EBUSY)
            if error.errno == .invalidArgument { throw error }
        }
    }
}

// MARK: - Arrays of tokens

/// Lends C's array of tokens. Throws EINVAL for NULL and a count below 1.
@inline(__always)
private func withTokens(
    _ tokens: UnsafeRawPointer?, _ count: Int32, _ body: (Span<QToken>) throws(DemikernelError) -> Void
) throws(DemikernelError) {
    let tokens = unsafe try required(tokens)
    guard count >= 1 else { throw DemikernelError(.invalidArgument, "there is no token to wait for") }
    guard UInt(bitPattern: tokens) % UInt(MemoryLayout<QToken>.alignment) == 0 else {
        return unsafe try withUnalignedTokens(tokens, Int(count), body)
    }
    let start = unsafe tokens.assumingMemoryBound(to: QToken.self)
    try body(unsafe UnsafeBufferPointer(start: start, count: Int(count)).span)
}

/// The tokens may lie in a packed structure: works on a copy.
@inline(never)
private func withUnalignedTokens(
    _ tokens: UnsafeRawPointer, _ count: Int, _ body: (Span<QToken>) throws(DemikernelError) -> Void
) throws(DemikernelError) {
    var copy = [QToken](repeating: QToken(rawValue: 0), count: count)
    unsafe copy.withUnsafeMutableBytes { unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: tokens, count: $0.count)) }
    try body(copy.span)
}

// MARK: - Completions

extension Core {
    /// Writes a completion as a `demi_qresult_t`. What it carries becomes the application's.
    @inline(__always)
    fileprivate mutating func store(_ completion: RawCompletion, to resultOut: UnsafeMutableRawPointer) {
        var result = unsafe demi_qresult_t()
        unsafe result.qr_qd = completion.descriptor.rawValue
        unsafe result.qr_qt = completion.token.rawValue
        unsafe result.qr_ret = Int64(completion.errno)
        if completion.errno != 0 {
            // The application holds what a failed push was to send.
            completion.segments.releaseAll()
            unsafe result.qr_opcode = DEMI_OPC_FAILED
        } else {
            switch completion.kind {
            case .push: unsafe result.qr_opcode = DEMI_OPC_PUSH
            case .pop: unsafe fill(&result, popped: completion)
            case .accept:
                unsafe result.qr_opcode = DEMI_OPC_ACCEPT
                unsafe result.qr_value.ares = demi_accept_result_t(qd: completion.accepted.rawValue, addr: sockaddr_in(completion.address))
            case .connect: unsafe result.qr_opcode = DEMI_OPC_CONNECT
            // Swift's own, which C cannot submit but may meet where both use one thread's libOS.
            case .timer, .yield: unsafe result.qr_opcode = DEMI_OPC_INVALID
            }
        }
        unsafe resultOut.storeBytes(of: result, as: demi_qresult_t.self)
    }

    @inline(__always)
    private mutating func fill(_ result: inout demi_qresult_t, popped completion: RawCompletion) {
        let segment = applicationSegment(adopting: completion.segments)
        guard let object = unsafe segment.object else {
            unsafe result.qr_opcode = DEMI_OPC_FAILED
            unsafe result.qr_ret = Int64(ENOMEM)
            return
        }
        unsafe result.qr_opcode = DEMI_OPC_POP
        unsafe result.qr_value.sga = demi_sgarray_t(
            sga_buf: object, sga_numsegs: 1, sga_segs: demi_sgaseg_t(sgaseg_buf: object + Int(segment.offset), sgaseg_len: segment.count),
            sga_addr: completion.hasAddress ? sockaddr_in(completion.address) : sockaddr_in())
    }
}
