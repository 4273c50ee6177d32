import Demikernel
import Glibc

// The shared-object interface of packetdrill (`--so_filename`): one symbol, which fills in a table of C functions. Each takes what it was
// given as `userdata` first, answers as its namesake of POSIX does, and sets errno.

/// Makes a stack, as `flags` (`--so_flags`) say, and fills in packetdrill's table: 33 words, `userdata` and the calls in the order of ``Slot``.
@c(packetdrill_interface_init)
public func packetdrill_interface_init(_ flags: UnsafePointer<CChar>?, _ table: UnsafeMutableRawPointer?) {
    guard let table = unsafe table else { return }
    let settings = PacketdrillSettings(unsafe flags.map { unsafe String(cString: $0) } ?? "")
    for word in settings.ignored { complain("the word of so_flags is not understood, and ignored: \(word)") }
    let world: PacketdrillWorld
    do {
        world = try PacketdrillWorld(settings)
    } catch {
        // The interface has no way to say so; packetdrill would call into nothing.
        complain("\(error)")
        exit(1)
    }
    unsafe table.storeBytes(of: Unmanaged.passRetained(world).toOpaque(), as: UnsafeMutableRawPointer.self)
    unsafe PacketdrillTable.fill(table)
}

/// On the standard error output, packetdrill's own.
private func complain(_ text: String) {
    let text = Array("demikernel-packetdrill: \(text)\n".utf8)
    unsafe text.withUnsafeBytes { unsafe _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
}

// Functions of the file, not of the type: C functions capture nothing, not even a type.

/// What `userdata` is: retained until `free`.
private func world(_ user: UnsafeMutableRawPointer?) -> PacketdrillWorld { unsafe Unmanaged.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue() }

/// A result as POSIX has it: -1 and errno for a negative one.
private func answer(_ result: Int) -> Int {
    guard result < 0 else { return result }
    errno = Int32(-result)
    return -1
}

private func address(_ bytes: UnsafeMutableRawPointer?, _ size: UInt32) -> SocketAddress? {
    guard let bytes = unsafe bytes else { return nil }
    return unsafe SocketAddress(reading: bytes, byteCount: Int(size))
}

/// Writes an address as `accept(2)` does: as much as there is room for, and its real size.
private func store(_ address: SocketAddress, _ target: UnsafeMutableRawPointer?, _ size: UnsafeMutablePointer<UInt32>?) {
    guard let target = unsafe target, let size = unsafe size else { return }
    unsafe withUnsafeTemporaryAllocation(byteCount: SocketAddress.encodedByteCountMaximum, alignment: 8) { storage in
        let count = unsafe address.write(to: storage.baseAddress!)
        unsafe target.copyMemory(from: storage.baseAddress!, byteCount: min(count, Int(size.pointee)))
        unsafe size.pointee = UInt32(count)
    }
}

/// The pieces of an iovec array, as one message; nil for what is none.
///
/// Invariant: each piece is memory of the caller's for as long as its call lasts, and no longer does this exist.
@safe
private struct Pieces {
    private let list: [UnsafeMutableRawBufferPointer]
    let count: Int

    init?(_ pieces: UnsafeMutableRawPointer?, _ number: Int) {
        guard 0...1024 ~= number else { return nil }
        var list: [UnsafeMutableRawBufferPointer] = unsafe []
        var sum = 0
        for index in 0..<number {
            guard let pieces = unsafe pieces else { return nil }
            let piece = unsafe pieces.load(fromByteOffset: index * MemoryLayout<iovec>.stride, as: iovec.self)
            guard unsafe piece.iov_len <= 1 << 30 - sum else { return nil }
            unsafe sum += Int(piece.iov_len)
            unsafe list.append(UnsafeMutableRawBufferPointer(start: piece.iov_base, count: Int(piece.iov_len)))
        }
        unsafe self.list = list
        count = sum
    }

    func gather() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        for unsafe piece in unsafe list { unsafe bytes.append(contentsOf: piece) }
        return bytes
    }

    func scatter(_ bytes: ArraySlice<UInt8>) {
        var bytes = bytes
        for unsafe piece in unsafe list {
            let part = unsafe bytes.prefix(piece.count)
            unsafe piece.copyBytes(from: part)
            bytes = bytes.dropFirst(part.count)
        }
    }

    /// Receives one message into the pieces.
    func receive(_ call: (UnsafeMutableRawBufferPointer) -> PacketdrillWorld.Received) -> PacketdrillWorld.Received {
        var bytes = [UInt8](repeating: 0, count: min(count, 1 << 20))
        let received = unsafe bytes.withUnsafeMutableBytes { unsafe call($0) }
        if received.result > 0 { scatter(bytes.prefix(received.result)) }
        return received
    }
}

/// Invariant: `userdata` is what `packetdrill_interface_init` retained, until `free`; buffers have the sizes that packetdrill says.
@safe
enum PacketdrillTable {
    /// Words of the table, in its order.
    enum Slot: Int {
        case userdata, free, socket, bind, listen, accept, connect, read, readv, recv, recvfrom, recvmsg, write, writev, send, sendto, sendmsg
        case fcntl, ioctl, close, shutdown, getsockopt, setsockopt, poll, netdevSend, netdevReceive, usleep, gettimeofday
        case epollCreate, epollControl, epollWait, pipe, splice
    }

    typealias User = UnsafeMutableRawPointer?
    typealias Memory = UnsafeMutableRawPointer?

    private static func put(_ table: UnsafeMutableRawPointer, _ slot: Slot, _ function: UInt) {
        unsafe table.storeBytes(of: function, toByteOffset: slot.rawValue * MemoryLayout<UInt>.size, as: UInt.self)
    }

    static func fill(_ table: UnsafeMutableRawPointer) {
        unsafe fillSockets(table)
        unsafe fillData(table)
        unsafe fillRest(table)
    }

    private static func fillSockets(_ table: UnsafeMutableRawPointer) {
        let free: @convention(c) (User) -> Void = { user in
            if let user = unsafe user { unsafe Unmanaged<PacketdrillWorld>.fromOpaque(user).release() }
        }
        let socket: @convention(c) (User, Int32, Int32, Int32) -> Int32 = { user, domain, type, number in
            Int32(answer(unsafe world(user).socket(domain, type, number)))
        }
        let bind: @convention(c) (User, Int32, Memory, UInt32) -> Int32 = { user, descriptor, bytes, size in
            guard let address = unsafe address(bytes, size) else { return Int32(answer(-Int(EINVAL))) }
            return Int32(answer(unsafe world(user).bind(descriptor, address)))
        }
        let listen: @convention(c) (User, Int32, Int32) -> Int32 = { user, descriptor, backlog in
            Int32(answer(unsafe world(user).listen(descriptor, backlog)))
        }
        let accept: @convention(c) (User, Int32, Memory, UnsafeMutablePointer<UInt32>?) -> Int32 = { user, descriptor, bytes, size in
            Int32(answer(unsafe world(user).accept(descriptor) { unsafe store($0, bytes, size) }))
        }
        let connect: @convention(c) (User, Int32, Memory, UInt32) -> Int32 = { user, descriptor, bytes, size in
            guard let bytes = unsafe bytes, size >= 2 else { return Int32(answer(-Int(EINVAL))) }
            if unsafe bytes.loadUnaligned(as: UInt16.self) == UInt16(AF_UNSPEC) { return Int32(answer(unsafe world(user).disconnect(descriptor))) }
            guard let address = unsafe address(bytes, size) else { return Int32(answer(-Int(EINVAL))) }
            return Int32(answer(unsafe world(user).connect(descriptor, address)))
        }
        let close: @convention(c) (User, Int32) -> Int32 = { user, descriptor in Int32(answer(unsafe world(user).close(descriptor))) }
        let shutdown: @convention(c) (User, Int32, Int32) -> Int32 = { user, descriptor, how in
            Int32(answer(unsafe world(user).shutdown(descriptor, how)))
        }
        // Variadic in C: on this machine's convention their one further argument comes as any other would.
        let fcntl: @convention(c) (User, Int32, Int32, Int) -> Int32 = { user, descriptor, command, argument in
            Int32(answer(unsafe world(user).control(descriptor, command, argument)))
        }
        let ioctl: @convention(c) (User, Int32, UInt, UnsafeMutablePointer<Int32>?) -> Int32 = { user, descriptor, request, target in
            if request == 0x5421 { return Int32(answer(unsafe world(user).setNonblocking(descriptor, target.map { unsafe $0.pointee } != 0))) }
            let count = unsafe world(user).count(descriptor, request)
            if count >= 0 { unsafe target?.pointee = Int32(clamping: count) }
            return Int32(min(0, answer(count)))
        }
        unsafe put(table, .free, unsafeBitCast(free, to: UInt.self))
        unsafe put(table, .socket, unsafeBitCast(socket, to: UInt.self))
        unsafe put(table, .bind, unsafeBitCast(bind, to: UInt.self))
        unsafe put(table, .listen, unsafeBitCast(listen, to: UInt.self))
        unsafe put(table, .accept, unsafeBitCast(accept, to: UInt.self))
        unsafe put(table, .connect, unsafeBitCast(connect, to: UInt.self))
        unsafe put(table, .close, unsafeBitCast(close, to: UInt.self))
        unsafe put(table, .shutdown, unsafeBitCast(shutdown, to: UInt.self))
        unsafe put(table, .fcntl, unsafeBitCast(fcntl, to: UInt.self))
        unsafe put(table, .ioctl, unsafeBitCast(ioctl, to: UInt.self))
    }

    private static func fillData(_ table: UnsafeMutableRawPointer) {
        let read: @convention(c) (User, Int32, Memory, Int) -> Int = { user, descriptor, bytes, count in
            answer(unsafe world(user).receive(descriptor, 0, UnsafeMutableRawBufferPointer(start: bytes, count: count)).result)
        }
        let readv: @convention(c) (User, Int32, Memory, Int32) -> Int = { user, descriptor, pieces, count in
            guard let pieces = unsafe Pieces(pieces, Int(count)) else { return answer(-Int(EINVAL)) }
            return answer(unsafe pieces.receive { unsafe world(user).receive(descriptor, 0, $0) }.result)
        }
        let recv: @convention(c) (User, Int32, Memory, Int, Int32) -> Int = { user, descriptor, bytes, count, flags in
            answer(unsafe world(user).receive(descriptor, flags, UnsafeMutableRawBufferPointer(start: bytes, count: count)).result)
        }
        let recvfrom: @convention(c) (User, Int32, Memory, Int, Int32, Memory, UnsafeMutablePointer<UInt32>?) -> Int = {
            user, descriptor, bytes, count, flags, name, size in
            let received = unsafe world(user).receive(descriptor, flags, UnsafeMutableRawBufferPointer(start: bytes, count: count))
            // A stream has no source to tell.
            if let source = received.source { unsafe store(source, name, size) } else if received.result >= 0 { unsafe size?.pointee = 0 }
            return answer(received.result)
        }
        let recvmsg: @convention(c) (User, Int32, UnsafeMutablePointer<msghdr>?, Int32) -> Int = { user, descriptor, message, flags in
            guard let message = unsafe message else { return answer(-Int(EFAULT)) }
            guard let pieces = unsafe Pieces(UnsafeMutableRawPointer(message.pointee.msg_iov), Int(message.pointee.msg_iovlen)) else {
                return answer(-Int(EINVAL))
            }
            let received = unsafe pieces.receive { unsafe world(user).receive(descriptor, flags, $0) }
            guard received.result >= 0 else { return answer(received.result) }
            var size = unsafe received.source == nil || message.pointee.msg_name == nil ? 0 : message.pointee.msg_namelen
            if let source = received.source { unsafe store(source, message.pointee.msg_name, &size) }
            unsafe message.pointee.msg_namelen = size
            // No control messages come.
            unsafe (message.pointee.msg_controllen, message.pointee.msg_flags) = (0, received.isTruncated ? 0x20 : 0)
            return received.result
        }
        let write: @convention(c) (User, Int32, Memory, Int) -> Int = { user, descriptor, bytes, count in
            answer(unsafe world(user).send(descriptor, 0, UnsafeRawBufferPointer(start: bytes, count: count)))
        }
        let writev: @convention(c) (User, Int32, Memory, Int32) -> Int = { user, descriptor, pieces, count in
            guard let pieces = unsafe Pieces(pieces, Int(count)) else { return answer(-Int(EINVAL)) }
            return unsafe answer(pieces.gather().withUnsafeBytes { unsafe world(user).send(descriptor, 0, $0) })
        }
        let send: @convention(c) (User, Int32, Memory, Int, Int32) -> Int = { user, descriptor, bytes, count, flags in
            answer(unsafe world(user).send(descriptor, flags, UnsafeRawBufferPointer(start: bytes, count: count)))
        }
        let sendto: @convention(c) (User, Int32, Memory, Int, Int32, Memory, UInt32) -> Int = { user, descriptor, bytes, count, flags, name, size in
            let target = unsafe address(name, size)
            guard unsafe name == nil || target != nil else { return answer(-Int(EINVAL)) }
            return answer(unsafe world(user).send(descriptor, flags, UnsafeRawBufferPointer(start: bytes, count: count), to: target))
        }
        let sendmsg: @convention(c) (User, Int32, UnsafeMutablePointer<msghdr>?, Int32) -> Int = { user, descriptor, message, flags in
            guard let message = unsafe message else { return answer(-Int(EFAULT)) }
            guard let pieces = unsafe Pieces(UnsafeMutableRawPointer(message.pointee.msg_iov), Int(message.pointee.msg_iovlen)) else {
                return answer(-Int(EINVAL))
            }
            // What a control message asks for cannot be done.
            guard unsafe message.pointee.msg_controllen == 0 else { return answer(-Int(EOPNOTSUPP)) }
            let target = unsafe address(message.pointee.msg_name, message.pointee.msg_namelen)
            guard unsafe message.pointee.msg_name == nil || target != nil else { return answer(-Int(EINVAL)) }
            return unsafe answer(pieces.gather().withUnsafeBytes { unsafe world(user).send(descriptor, flags, $0, to: target) })
        }
        unsafe put(table, .read, unsafeBitCast(read, to: UInt.self))
        unsafe put(table, .readv, unsafeBitCast(readv, to: UInt.self))
        unsafe put(table, .recv, unsafeBitCast(recv, to: UInt.self))
        unsafe put(table, .recvfrom, unsafeBitCast(recvfrom, to: UInt.self))
        unsafe put(table, .recvmsg, unsafeBitCast(recvmsg, to: UInt.self))
        unsafe put(table, .write, unsafeBitCast(write, to: UInt.self))
        unsafe put(table, .writev, unsafeBitCast(writev, to: UInt.self))
        unsafe put(table, .send, unsafeBitCast(send, to: UInt.self))
        unsafe put(table, .sendto, unsafeBitCast(sendto, to: UInt.self))
        unsafe put(table, .sendmsg, unsafeBitCast(sendmsg, to: UInt.self))
    }

    private static func fillRest(_ table: UnsafeMutableRawPointer) {
        let getsockopt: @convention(c) (User, Int32, Int32, Int32, Memory, UnsafeMutablePointer<UInt32>?) -> Int32 = {
            user, descriptor, level, name, target, size in
            let (bytes, error) = unsafe world(user).option(descriptor, level, name)
            guard error == 0 else { return Int32(answer(error)) }
            guard let target = unsafe target, let size = unsafe size else { return Int32(answer(-Int(EFAULT))) }
            let count = unsafe min(bytes.count, Int(size.pointee))
            unsafe bytes.withUnsafeBytes { unsafe target.copyMemory(from: $0.baseAddress!, byteCount: count) }
            unsafe size.pointee = UInt32(count)
            return 0
        }
        let setsockopt: @convention(c) (User, Int32, Int32, Int32, Memory, UInt32) -> Int32 = { user, descriptor, level, name, value, size in
            Int32(answer(unsafe world(user).setOption(descriptor, level, name, UnsafeRawBufferPointer(start: value, count: Int(size)))))
        }
        let poll: @convention(c) (User, UnsafeMutablePointer<pollfd>?, UInt, Int32) -> Int32 = { user, entries, count, timeout in
            guard let entries = unsafe entries, count <= 1024 else { return Int32(answer(-Int(EINVAL))) }
            let world = unsafe world(user)
            return Int32(world.waitForReadiness(milliseconds: timeout) {
                var ready = 0
                for index in 0..<Int(count) {
                    let wanted = unsafe entries[index].events | Int16(POLLERR | POLLHUP)
                    unsafe entries[index].revents = world.readiness(entries[index].fd) & wanted
                    if unsafe entries[index].revents != 0 { ready += 1 }
                }
                return ready
            })
        }
        let netdevSend: @convention(c) (User, Memory, Int) -> Int32 = { user, bytes, count in
            Int32(answer(unsafe world(user).receive(UnsafeRawBufferPointer(start: bytes, count: count)) ? 0 : -Int(EINVAL)))
        }
        let netdevReceive: @convention(c) (User, Memory, UnsafeMutablePointer<Int>?, UnsafeMutablePointer<Int64>?) -> Int32 = {
            user, target, count, time in
            guard let target = unsafe target, let count = unsafe count else { return Int32(answer(-Int(EFAULT))) }
            guard let (packet, microseconds) = unsafe world(user).nextPacket() else { return Int32(answer(-Int(EAGAIN))) }
            let size = unsafe min(packet.count, count.pointee)
            unsafe packet.withUnsafeBytes { unsafe target.copyMemory(from: $0.baseAddress!, byteCount: size) }
            unsafe count.pointee = size
            unsafe time?.pointee = Int64(microseconds)
            return 0
        }
        let usleep: @convention(c) (User, UInt32) -> Int32 = { user, microseconds in
            unsafe world(user).sleep(microseconds: microseconds)
            return 0
        }
        let gettimeofday: @convention(c) (User, UnsafeMutablePointer<timeval>?, Memory) -> Int32 = { user, target, _ in
            let time = unsafe world(user).time()
            unsafe target?.pointee = timeval(tv_sec: Int(time / 1_000_000), tv_usec: Int(time % 1_000_000))
            return 0
        }
        let epollCreate: @convention(c) (User, Int32) -> Int32 = { user, _ in unsafe world(user).enter { world, _ in world.descriptors.insertPoll() } }
        let epollControl: @convention(c) (User, Int32, Int32, Int32, Memory) -> Int32 = { user, poll, operation, descriptor, event in
            let events = unsafe event?.loadUnaligned(as: UInt32.self) ?? 0
            // Packed on x86-64: the data follows at once.
            let data = unsafe event?.loadUnaligned(fromByteOffset: 4, as: UInt64.self) ?? 0
            return Int32(answer(unsafe world(user).changePoll(poll, operation, descriptor, events, data)))
        }
        let epollWait: @convention(c) (User, Int32, Memory, Int32, Int32) -> Int32 = { user, poll, target, capacity, timeout in
            guard let target = unsafe target, capacity > 0 else { return Int32(answer(-Int(EINVAL))) }
            let world = unsafe world(user)
            guard let entries = world.enter({ world, _ in world.descriptors.polls[poll] }) else { return Int32(answer(-Int(EBADF))) }
            return Int32(world.waitForReadiness(milliseconds: timeout) {
                var ready = 0
                for (descriptor, wanted) in entries.sorted(by: { $0.key < $1.key }) where ready < Int(capacity) {
                    // EPOLLIN and its kin have poll(2)'s numbers.
                    let events = UInt32(UInt16(bitPattern: world.readiness(descriptor))) & (wanted.events | UInt32(POLLERR | POLLHUP))
                    guard events != 0 else { continue }
                    unsafe target.storeBytes(of: events, toByteOffset: ready * 12, as: UInt32.self)
                    unsafe target.storeBytes(of: wanted.data, toByteOffset: ready * 12 + 4, as: UInt64.self)
                    ready += 1
                }
                return ready
            })
        }
        let pipe: @convention(c) (User, UnsafeMutablePointer<Int32>?) -> Int32 = { user, target in
            guard let target = unsafe target else { return Int32(answer(-Int(EFAULT))) }
            unsafe (target[0], target[1]) = world(user).enter { world, _ in world.descriptors.insertPipe() }
            return 0
        }
        let splice: @convention(c) (User, Int32, UnsafeMutablePointer<Int64>?, Int32, UnsafeMutablePointer<Int64>?, Int, UInt32) -> Int32 = {
            user, source, sourceOffset, target, targetOffset, count, flags in
            let offsets = unsafe (sourceOffset?.pointee ?? 0, targetOffset?.pointee ?? 0)
            return Int32(answer(unsafe world(user).splice(source, offsets, target, count, flags)))
        }
        unsafe put(table, .getsockopt, unsafeBitCast(getsockopt, to: UInt.self))
        unsafe put(table, .setsockopt, unsafeBitCast(setsockopt, to: UInt.self))
        unsafe put(table, .poll, unsafeBitCast(poll, to: UInt.self))
        unsafe put(table, .netdevSend, unsafeBitCast(netdevSend, to: UInt.self))
        unsafe put(table, .netdevReceive, unsafeBitCast(netdevReceive, to: UInt.self))
        unsafe put(table, .usleep, unsafeBitCast(usleep, to: UInt.self))
        unsafe put(table, .gettimeofday, unsafeBitCast(gettimeofday, to: UInt.self))
        unsafe put(table, .epollCreate, unsafeBitCast(epollCreate, to: UInt.self))
        unsafe put(table, .epollControl, unsafeBitCast(epollControl, to: UInt.self))
        unsafe put(table, .epollWait, unsafeBitCast(epollWait, to: UInt.self))
        unsafe put(table, .pipe, unsafeBitCast(pipe, to: UInt.self))
        unsafe put(table, .splice, unsafeBitCast(splice, to: UInt.self))
    }
}
