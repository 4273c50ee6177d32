public import CDemikernel.Types
import Demikernel
import Glibc
import SystemPackage

// Memory that every device can send from and receive into. What each call does and answers stands in demi/sga.h. These calls give the
// scheduler no turn: allocating touches nothing else.

@c(demi_sgaalloc)
public func demi_sgaalloc(_ size: Int) -> demi_sgarray_t {
    guard let count = UInt32(exactly: size), let memory = unsafe demi_malloc(size) else { return unsafe demi_sgarray_t() }
    return unsafe demi_sgarray_t(
        sga_buf: memory, sga_numsegs: 1, sga_segs: demi_sgaseg_t(sgaseg_buf: memory, sgaseg_len: count), sga_addr: sockaddr_in())
}

@c(demi_sgafree)
public func demi_sgafree(_ array: UnsafeMutableRawPointer?) -> Int32 {
    call { core throws(DemikernelError) in
        let array = unsafe try required(array).loadUnaligned(as: demi_sgarray_t.self)
        guard let memory = unsafe array.sga_buf, unsafe array.sga_numsegs == 1 else {
            throw DemikernelError(.invalidArgument, "the array has no memory")
        }
        unsafe try core.heap.free(memory)
    }
}

/// Ours.
@c(demi_malloc)
public func demi_malloc(_ size: Int) -> UnsafeMutableRawPointer? {
    // A size_t beyond Int.max comes as a negative number.
    guard size > 0, let core = unsafe ThreadLibOS.core else { return nil }
    return unsafe core.pointee.heap.allocateRaw(size)
}

/// Ours.
@c(demi_free)
public func demi_free(_ memory: UnsafeMutableRawPointer?) {
    guard let memory = unsafe memory else { return }
    // There is nobody to tell of a pointer that is not a heap's or was freed before; a checked heap reports it.
    if let core = unsafe ThreadLibOS.core {
        unsafe try? core.pointee.heap.free(memory)
    } else {
        unsafe try? Heap.freeOnAnyThread(memory)
    }
}
