import CDemikernelShims
import Glibc

/// One request carried out by the calling thread, as the helper thread does it; it may wait for the disk, but for nobody else.
enum FileTransfer {
    /// `RWF_DSYNC`: the write is durable before it completes.
    static var durable: UInt32 { 2 }
    /// `RWF_NOWAIT`: `EAGAIN` instead of waiting.
    private static var withoutWaiting: Int32 { 8 }

    /// What a request has come to.
    enum Progress {
        /// Bytes, a descriptor or 0; or a negative errno.
        case ended(Int32)
        /// A pipe or a terminal has nothing (or no room) yet: try again when `poll(2)` reports these events.
        case blocked(Int16)
    }

    static func perform(_ request: FileRequest) -> Progress {
        switch request.kind {
        case .read, .write: transfer(request)
        case .synchronize: .ended(result(request.option ? fdatasync(request.descriptor) : fsync(request.descriptor)))
        case .truncate: .ended(result(ftruncate(request.descriptor, Int(request.offset))))
        case .open: .ended(open(request))
        case .close: .ended(result(Glibc.close(request.descriptor)))
        }
    }

    private static func result(_ answer: Int32) -> Int32 { answer < 0 ? -errno : answer }

    private static func transfer(_ request: FileRequest) -> Progress {
        if request.offset != FileEngine.currentPosition {
            let answer = transfer(request, at: request.offset)
            guard answer == -ESPIPE else { return .ended(answer) }
        }
        // io_uring reads a stream whatever the offset, and so does this. A file is never a stream: it does not wait for anybody.
        guard lseek(request.descriptor, 0, SEEK_CUR) < 0, errno == ESPIPE else {
            return .ended(transfer(request, at: FileEngine.currentPosition))
        }
        return stream(request)
    }

    /// Never waits, since a stream with nobody at its other end would hold up every other request, and the shutdown.
    private static func stream(_ request: FileRequest) -> Progress {
        let events = Int16(request.kind == .write ? POLLOUT : POLLIN)
        let answer = transfer(request, at: FileEngine.currentPosition, flags: withoutWaiting)
        if answer == -EOPNOTSUPP {
            guard isReady(request.descriptor, events) else { return .blocked(events) }
            return .ended(transfer(request, at: FileEngine.currentPosition))
        }
        // Also where the descriptor is non-blocking: io_uring waits for such a pipe too.
        return answer == -EAGAIN ? .blocked(events) : .ended(answer)
    }

    private static func isReady(_ descriptor: Int32, _ events: Int16) -> Bool {
        var question = pollfd(fd: descriptor, events: events, revents: 0)
        return unsafe poll(&question, 1, 0) != 0
    }

    private static func transfer(_ request: FileRequest, at offset: Int64, flags: Int32 = 0) -> Int32 {
        let writes = request.kind == .write
        let flags = flags | (writes && request.option ? Int32(durable) : 0)
        if request.pieces > 0, let pieces = unsafe request.pointer?.assumingMemoryBound(to: iovec.self) {
            return unsafe Int32(dk_transfer_pieces(request.descriptor, writes ? 1 : 0, pieces, Int(request.pieces), offset, flags))
        }
        return unsafe Int32(dk_transfer(request.descriptor, writes ? 1 : 0, request.pointer, Int(request.count), offset, flags))
    }

    /// Opens without waiting for the other end of a named pipe, which may never come, and then makes the descriptor what was asked for.
    private static func open(_ request: FileRequest) -> Int32 {
        guard let address = unsafe request.pointer else { return -EFAULT }
        let path = unsafe UnsafePointer(address.assumingMemoryBound(to: CChar.self))
        let descriptor = unsafe Glibc.open(path, request.flags | O_NONBLOCK, mode_t(request.count))
        guard descriptor >= 0 else { return -errno }
        if request.flags & O_NONBLOCK == 0 { _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK) }
        return descriptor
    }
}
