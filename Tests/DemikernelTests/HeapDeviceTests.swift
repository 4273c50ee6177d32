import Testing
@testable import Demikernel

/// What a device saw: C functions have no captures, so this is their context.
final class RegistrationLog {
    var bases: [UInt] = []
    var refusals = 0
    var errno: Int32 = 0
}

private let logRegistration: DeviceRegistrationHook = { context, base, byteCount, key in
    let log = unsafe Unmanaged<RegistrationLog>.fromOpaque(context!).takeUnretainedValue()
    if log.errno != 0 {
        log.refusals += 1
        return log.errno
    }
    log.bases.append(UInt(bitPattern: base))
    unsafe key.pointee = UInt64(log.bases.count) + 1000
    return byteCount == 2 << 20 ? 0 : 22
}

@Suite struct HeapDeviceTests {
    @Test func `a device is told of each group once, of later ones too, and its keys are in the headers`() throws {
        let heap = try Heap(HeapConfiguration(limit: 16 << 20, lockPages: false))
        heap.makeCurrent()
        let before = heap.allocateSegment(1 << 20)
        let log = RegistrationLog()
        let device = try unsafe heap.registerDevice(logRegistration, context: Unmanaged.passUnretained(log).toOpaque())
        #expect(device == 0 && log.bases.count == 1)
        #expect(before.deviceKey(device) == 1001)
        var segments: [Segment] = []
        for _ in 0..<10 { segments.append(heap.allocateSegment(1 << 20)) }
        #expect(!segments.contains { $0.isNull })
        #expect(log.bases.count == heap.statistics.groups)
        #expect(Set(log.bases).count == log.bases.count)
        for segment in segments {
            let group = log.bases.firstIndex { base in unsafe UInt(bitPattern: segment.start) / (2 << 20) == base / (2 << 20) }!
            #expect(segment.deviceKey(device) == UInt64(group + 1001))
            #expect(unsafe heap.key(device: device, of: segment.start) == UInt64(group + 1001))
        }
        let small = heap.allocateSegment(100)
        #expect(small.deviceKey(device) == (unsafe heap.key(device: device, of: small.start)))
        small.release()
        for segment in segments + [before] { segment.release() }
        #expect(log.bases.count == heap.statistics.groups)
    }

    @Test func `a span that crosses groups has each group's key`() throws {
        let heap = try Heap(HeapConfiguration(limit: 16 << 20, lockPages: false))
        heap.makeCurrent()
        let log = RegistrationLog()
        let device = try unsafe heap.registerDevice(logRegistration, context: Unmanaged.passUnretained(log).toOpaque())
        let span = heap.allocateSegment(5 << 20)
        let second = span.slice(3 << 20, count: 10)
        #expect(span.deviceKey(device) == 1001 && second.deviceKey(device) == 1002)
        second.release()
        span.release()
    }

    @Test func `a device that refuses fails its registration, or the group that comes later`() throws {
        let heap = try Heap(HeapConfiguration(limit: 4 << 20, lockPages: false))
        heap.makeCurrent()
        let log = RegistrationLog()
        let context = unsafe Unmanaged.passUnretained(log).toOpaque()
        heap.allocateSegment(64).release()
        log.errno = 12
        #expect(throws: DemikernelError(.noMemory, "")) { _ = try unsafe heap.registerDevice(logRegistration, context: context) }
        log.errno = 0
        _ = try unsafe heap.registerDevice(logRegistration, context: context)
        log.errno = 5
        #expect(heap.allocateSegment(3 << 20).isNull)
        #expect(heap.statistics.groups == 1)
        log.errno = 0
        let span = heap.allocateSegment(3 << 20)
        #expect(!span.isNull && log.bases.count == 2)
        span.release()
        heap.unregisterDevice(0)
        #expect(log.refusals > 1)
    }

    @Test func `the ninth device is refused`() throws {
        let heap = try Heap(HeapConfiguration(limit: 2 << 20))
        let log = RegistrationLog()
        let context = unsafe Unmanaged.passUnretained(log).toOpaque()
        for device in 0..<8 { #expect(try unsafe heap.registerDevice(logRegistration, context: context) == device) }
        #expect(throws: DemikernelError(.noSpace, "")) { _ = try unsafe heap.registerDevice(logRegistration, context: context) }
    }
}
