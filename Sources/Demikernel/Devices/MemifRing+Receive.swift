import CDemikernelShims

extension MemifRing {
    /// Takes frames into `burst` until it is full or there are no more. False where the peer's position is impossible.
    mutating func receive(into burst: inout FrameBurst, _ traffic: inout MemifTraffic) -> Bool {
        guard var count = arrived() else { return false }
        guard count > 0 else { return true }
        let heap = burst.heap
        while count > 0, !burst.isFull {
            let word = loadDescriptor(position)
            if word & MemifRingLayout.next != 0 {
                receiveChain(&count, into: &burst, &traffic)
                continue
            }
            let length = Int(word &>> 32)
            let source = unsafe buffer(position, word, length)
            position &+= 1
            count &-= 1
            guard length >= 14, let source = unsafe source else {
                traffic.statistics.malformed &+= 1
                continue
            }
            guard length <= traffic.frameMaximum else {
                traffic.statistics.receiveDrops &+= 1
                continue
            }
            if length >= MemifRing.prefetchMinimum, count > 0 { prefetchSource(length) }
            let segment = heap.allocateSegment(length)
            guard !segment.isNull else {
                traffic.statistics.receiveDrops &+= 1
                continue
            }
            unsafe dk_copy_frame(segment.start, source, length)
            burst.append(Frame(segment))
            traffic.statistics.receivedFrames &+= 1
            traffic.statistics.receivedBytes &+= UInt64(truncatingIfNeeded: length)
        }
        if isClient { offerBuffers(atLeast: min(16, size / 4)) } else { publish() }
        return true
    }

    /// A frame in several buffers, of which `count` have come. First its length, to get memory; then the bytes, checked anew, because the
    /// peer may have changed the descriptors in between.
    @inline(never)
    private mutating func receiveChain(_ count: inout UInt16, into burst: inout FrameBurst, _ traffic: inout MemifTraffic) {
        var total = 0
        var links: UInt16 = 0
        var isEnded = false
        while links < count, !isEnded {
            let word = loadDescriptor(position &+ links)
            links &+= 1
            total &+= Int(word &>> 32)
            isEnded = word & MemifRingLayout.next == 0
        }
        let first = position
        position &+= links
        count &-= links
        // Whole frames are published: one that does not end within what has come never does.
        guard isEnded, total >= 14 else {
            traffic.statistics.malformed &+= 1
            return
        }
        guard total <= traffic.frameMaximum else {
            traffic.statistics.receiveDrops &+= 1
            return
        }
        let segment = burst.heap.allocateSegment(total)
        guard !segment.isNull else {
            traffic.statistics.receiveDrops &+= 1
            return
        }
        var done = 0
        for link in 0..<links {
            let word = loadDescriptor(first &+ link)
            let length = Int(word &>> 32)
            guard length <= total - done, let source = unsafe buffer(first &+ link, word, length) else {
                done = -1
                break
            }
            unsafe segment.start.advanced(by: done).copyMemory(from: source, byteCount: length)
            done += length
        }
        guard done == total else {
            traffic.statistics.malformed &+= 1
            segment.release()
            return
        }
        burst.append(Frame(segment))
        traffic.statistics.receivedFrames &+= 1
        traffic.statistics.receivedBytes &+= UInt64(truncatingIfNeeded: total)
    }
}
