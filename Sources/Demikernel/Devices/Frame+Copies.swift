import CDemikernelShims

extension Frame {
    /// A copy in one segment of `heap`, with one reference; null where the heap is exhausted. The frame keeps its own references.
    @inline(__always)
    package func flattened(in heap: HeapReference) -> Segment {
        let segment = heap.allocateSegment(byteCount)
        guard !segment.isNull else { return .null }
        unsafe dk_copy_frame(segment.start, head.start, head.byteCount)
        if !rest.isEmpty {
            unsafe _ = rest.copyBytes(to: UnsafeMutableRawBufferPointer(rebasing: segment.bytes[head.byteCount...]))
        }
        return segment
    }

    /// The same frame in one segment. Takes over the references; nil, with the frame released, where the heap is exhausted.
    @inline(__always)
    package consuming func inOneSegment(of heap: HeapReference) -> Frame? {
        if rest.isEmpty { return self }
        let segment = flattened(in: heap)
        release()
        guard !segment.isNull else { return nil }
        return Frame(segment, offload: offload)
    }
}

extension NetworkDeviceCapabilities {
    /// The longest frame that the device carries, in bytes: the packet, the Ethernet header and an 802.1Q tag.
    @inline(__always) package var frameByteCountMaximum: Int { maximumTransmissionUnit &+ 18 }
}
