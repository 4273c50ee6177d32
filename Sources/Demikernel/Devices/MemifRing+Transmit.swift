import CDemikernelShims

extension MemifRing {
    /// Descriptors that can be filled, after the peer's position was looked at; nil where that is impossible.
    @inline(__always) private mutating func refreshFree() -> UInt16? {
        seen = loadPeer()
        let free = self.free
        return free <= size ? free : nil
    }

    /// What can be filled as far as we have seen.
    @inline(__always) var free: UInt16 { isClient ? size &- (position &- seen) : seen &- position }

    /// Transmits from the burst's front what there is room for. False where the peer's position or one of its buffers is impossible.
    mutating func transmit(_ burst: inout FrameBurst, _ traffic: inout MemifTraffic) -> Bool {
        let start = position
        var isSane = true
        while !burst.isEmpty {
            let outcome = put(burst[0], &traffic)
            if outcome == .full { break }
            if outcome == .impossible {
                isSane = false
                break
            }
            burst.removeFirst().release()
        }
        if position != start { publishAndInterrupt() }
        return isSane
    }

    enum Outcome {
        case done
        case full
        case impossible
    }

    /// Copies a frame into the next buffers, unpublished. Takes no references. A frame that is longer than the device carries is counted and
    /// done with.
    @inline(__always)
    mutating func put(_ frame: Frame, _ traffic: inout MemifTraffic) -> Outcome {
        let count = frame.byteCount
        guard count <= traffic.frameMaximum, count >= 14 else {
            traffic.statistics.transmitDrops &+= 1
            return .done
        }
        if free == 0 {
            guard let free = refreshFree() else { return .impossible }
            guard free > 0 else { return .full }
        }
        let word = isClient ? UInt64(bufferSize) << 32 : loadDescriptor(position)
        guard count <= Int(word &>> 32) else { return putChain(frame, count, &traffic) }
        guard let target = unsafe buffer(position, word, count) else { return .impossible }
        if count >= MemifRing.prefetchMinimum { prefetchTarget(count) }
        unsafe dk_copy_frame(target, frame.head.start, frame.head.byteCount)
        if !frame.rest.isEmpty {
            unsafe MemifRing.gather(frame.rest, target + frame.head.byteCount, count &- frame.head.byteCount)
        }
        storeDescriptor(position, word & 0xffff_0000 | UInt64(truncatingIfNeeded: count) &<< 32)
        position &+= 1
        traffic.statistics.transmittedFrames &+= 1
        traffic.statistics.transmittedBytes &+= UInt64(truncatingIfNeeded: count)
        return .done
    }

    @inline(__always) @unsafe
    private static func gather(_ rest: SegmentList, _ target: UnsafeMutableRawPointer, _ count: Int) {
        if rest.count == 1 {
            unsafe dk_copy_frame(target, rest.first.start, rest.first.byteCount)
        } else {
            unsafe _ = rest.copyBytes(to: UnsafeMutableRawBufferPointer(start: target, count: count))
        }
    }

    /// A frame that needs several buffers. Nothing is changed unless all of it has room.
    @inline(never)
    private mutating func putChain(_ frame: Frame, _ count: Int, _ traffic: inout MemifTraffic) -> Outcome {
        var room = free
        var isFresh = false
        var source = FrameReader(frame)
        var left = count
        var used: UInt16 = 0
        while left > 0 {
            if used == room {
                if isFresh {
                    guard room == size else { return .full }
                    // Longer than all of the peer's buffers together.
                    traffic.statistics.transmitDrops &+= 1
                    return .done
                }
                guard let free = refreshFree() else { return .impossible }
                room = free
                isFresh = true
                continue
            }
            let slot = position &+ used
            let word = isClient ? UInt64(bufferSize) << 32 : loadDescriptor(slot)
            let length = min(left, Int(word &>> 32))
            guard length > 0, let target = unsafe buffer(slot, word, length) else { return .impossible }
            unsafe source.copy(to: target, length)
            left -= length
            used &+= 1
            storeDescriptor(slot, word & 0xffff_0000 | (left > 0 ? MemifRingLayout.next : 0) | UInt64(length) << 32)
        }
        position &+= used
        traffic.statistics.transmittedFrames &+= 1
        traffic.statistics.transmittedBytes &+= UInt64(count)
        return .done
    }
}

/// Reads a frame's bytes in pieces of any size.
private struct FrameReader {
    private let frame: Frame
    private var segment: Segment
    private var index = 0

    init(_ frame: Frame) {
        self.frame = frame
        segment = frame.head
    }

    /// The next `count` bytes, which the frame has.
    @unsafe mutating func copy(to target: UnsafeMutableRawPointer, _ count: Int) {
        var done = 0
        while done < count {
            while segment.byteCount == 0 {
                segment = frame.rest[index]
                index += 1
            }
            let length = min(count - done, segment.byteCount)
            unsafe (target + done).copyMemory(from: segment.start, byteCount: length)
            segment.trimFirst(length)
            done += length
        }
    }
}
