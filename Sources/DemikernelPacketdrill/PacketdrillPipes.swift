import Demikernel
import Glibc

/// pipe(2) and splice(2): a pipe here is 64 KiB of memory, and splicing copies. What scripts look at is what it does to the connection.
extension PacketdrillWorld {
    func isPipe(_ descriptor: Int32) -> Bool { enter { world, _ in world.descriptors.pipeEnds[descriptor] != nil } }

    /// Calls `body` with the pipe of a descriptor that is the end that it should be, until it has an answer; EAGAIN where it is not to block.
    private func withPipe(_ descriptor: Int32, isWriter: Bool, isBlocking: Bool = true, _ body: (inout PacketdrillPipe) -> Int?) -> Int {
        let waits = isBlocking && enter { world, _ in world.descriptors.isNonblocking(descriptor) == false }
        let result = wait(isBlocking: waits) { world, _ -> Int? in
            guard let end = world.descriptors.pipeEnds[descriptor], end.isWriter == isWriter, var pipe = world.descriptors.pipes[end.pipe] else {
                return -Int(EBADF)
            }
            defer { world.descriptors.pipes[end.pipe] = pipe }
            return body(&pipe)
        }
        return result ?? -Int(EAGAIN)
    }

    func readPipe(_ descriptor: Int32, _ target: UnsafeMutableRawBufferPointer, isBlocking: Bool = true) -> Int {
        withPipe(descriptor, isWriter: false, isBlocking: isBlocking) { pipe in
            guard target.count > 0 else { return 0 }
            guard !pipe.bytes.isEmpty else { return pipe.hasWriter ? nil : 0 }
            let count = min(pipe.bytes.count, target.count)
            unsafe target.copyBytes(from: pipe.bytes.prefix(count))
            pipe.bytes.removeFirst(count)
            return count
        }
    }

    func writePipe(_ descriptor: Int32, _ source: UnsafeRawBufferPointer) -> Int {
        var done = 0
        let result = withPipe(descriptor, isWriter: true) { pipe in
            guard pipe.hasReader else { return done > 0 ? done : -Int(EPIPE) }
            let count = min(pipe.room, source.count - done)
            unsafe pipe.bytes.append(contentsOf: source[done..<done + count])
            done += count
            return done == source.count ? done : nil
        }
        return result == -Int(EAGAIN) && done > 0 ? done : result
    }

    /// Moves up to `count` bytes between a pipe and a stream socket, either way, or between two pipes.
    ///
    /// packetdrill hands over a pointer to each offset even where its script says NULL, which it counts as 0: neither end has a place to begin at, so
    /// any other is ESPIPE.
    func splice(_ source: Int32, _ offsets: (Int64, Int64), _ target: Int32, _ count: Int, _ flags: UInt32) -> Int {
        guard offsets == (0, 0) else { return -Int(ESPIPE) }
        let (move, nonblocking, more, gift): (UInt32, UInt32, UInt32, UInt32) = (1, 2, 4, 8)
        guard flags & ~(move | nonblocking | more | gift) == 0, count >= 0 else { return -Int(EINVAL) }
        let isBlocking = flags & nonblocking == 0
        let ends = enter { world, _ in (world.descriptors.pipeEnds[source], world.descriptors.pipeEnds[target]) }
        guard ends.0 != nil || ends.1 != nil else { return -Int(EINVAL) }
        guard ends.0?.isWriter != true, ends.1?.isWriter != false else { return -Int(EBADF) }
        guard !isDatagram(source), !isDatagram(target) else { return -Int(EINVAL) }
        var room = min(count, PacketdrillPipe.capacity)
        if ends.1 != nil {
            // Nothing is taken from the source that the pipe cannot hold.
            var limit = room
            let ready = withPipe(target, isWriter: true, isBlocking: isBlocking) { pipe in
                guard pipe.hasReader else { return -Int(EPIPE) }
                limit = min(limit, pipe.room)
                return pipe.room > 0 ? 0 : nil
            }
            guard ready == 0 else { return ready }
            room = limit
        }
        guard room > 0 else { return 0 }
        return ends.0 != nil ? unsafe splice(pipe: source, to: target, room, isBlocking: isBlocking) : unsafe splice(socket: source, to: target, room, isBlocking)
    }

    private func splice(socket: Int32, to pipe: Int32, _ count: Int, _ isBlocking: Bool) -> Int {
        unsafe withUnsafeTemporaryAllocation(byteCount: count, alignment: 1) { buffer in
            let taken = unsafe receive(socket, isBlocking ? 0 : Self.dontWait, buffer).result
            guard taken > 0 else { return taken }
            return unsafe writePipe(pipe, UnsafeRawBufferPointer(rebasing: buffer[..<taken]))
        }
    }

    private func splice(pipe: Int32, to target: Int32, _ count: Int, isBlocking: Bool) -> Int {
        var bytes: [UInt8] = []
        let taken = withPipe(pipe, isWriter: false, isBlocking: isBlocking) { pipe in
            guard !pipe.bytes.isEmpty else { return pipe.hasWriter ? nil : 0 }
            bytes = Array(pipe.bytes.prefix(count))
            return bytes.count
        }
        guard taken > 0 else { return taken }
        let sent = unsafe bytes.withUnsafeBytes { unsafe send(target, isBlocking || isPipe(target) ? 0 : Self.dontWait, $0) }
        // What the other end did not take stays.
        if sent > 0 {
            _ = withPipe(pipe, isWriter: false, isBlocking: false) { pipe in
                pipe.bytes.removeFirst(min(sent, pipe.bytes.count))
                return 0
            }
        }
        return sent
    }
}
