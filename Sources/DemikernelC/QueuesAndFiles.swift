public import CDemikernel.Types
import Demikernel
import Glibc
import SystemPackage

// Memory queues and files, all ours. What each call does and answers stands in demi/libos.h.

@c(demi_queue)
public func demi_queue(_ descriptorOut: UnsafeMutableRawPointer?) -> Int32 {
    call { core throws(DemikernelError) in
        let descriptorOut = unsafe try required(descriptorOut)
        let index = try core.queue()
        unsafe descriptorOut.store(core.queues.descriptor(of: index))
    }
}

@c(demi_open)
public func demi_open(_ descriptorOut: UnsafeMutableRawPointer?, _ path: UnsafePointer<CChar>?, _ flags: Int32) -> Int32 {
    call { core throws(DemikernelError) in unsafe try open(&core, descriptorOut, path, flags, mode: 0o666) }
}

@c(demi_creat)
public func demi_creat(_ descriptorOut: UnsafeMutableRawPointer?, _ path: UnsafePointer<CChar>?, _ mode: mode_t) -> Int32 {
    call { core throws(DemikernelError) in
        unsafe try open(&core, descriptorOut, path, O_CREAT | O_TRUNC | O_RDWR, mode: UInt16(truncatingIfNeeded: mode & 0o7777))
    }
}

private func open(
    _ core: inout Core, _ descriptorOut: UnsafeMutableRawPointer?, _ path: UnsafePointer<CChar>?, _ flags: Int32, mode: UInt16
) throws(DemikernelError) {
    let descriptorOut = unsafe try required(descriptorOut)
    guard let path = unsafe path else { throw .null }
    let index = try core.open(unsafe FilePath(platformString: path), flags: flags, mode: mode)
    unsafe descriptorOut.store(core.queues.descriptor(of: index))
}

@c(demi_lseek)
public func demi_lseek(_ descriptor: Int32, _ offset: off_t, _ whence: Int32) -> Int32 {
    call { core throws(DemikernelError) in
        _ = try core.seek(QueueDescriptor(rawValue: descriptor), offset: Int64(offset), whence: whence)
    }
}

@c(demi_truncate)
public func demi_truncate(_ descriptor: Int32, _ length: off_t) -> Int32 {
    call { core throws(DemikernelError) in
        do throws(DemikernelError) {
            try core.truncate(QueueDescriptor(rawValue: descriptor), length: Int64(length))
        } catch {
            // As ftruncate(2) answers for what is no file.
            throw error.errno == .illegalSeek ? DemikernelError(.invalidArgument, "the descriptor is no file") : error
        }
    }
}
