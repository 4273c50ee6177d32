import Glibc

extension Buffer {
    /// The bytes, for reading. Every access is checked against the bounds.
    public var bytes: RawSpan {
        @_lifetime(borrow self) get {
            let span = unsafe RawSpan(_unsafeStart: segment.start, byteCount: count)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }

    /// The bytes, for writing. Every access is checked against the bounds.
    public var mutableBytes: MutableRawSpan {
        @_lifetime(&self) mutating get {
            let span = unsafe MutableRawSpan(_unsafeStart: segment.start, byteCount: count)
            return unsafe _overrideLifetime(span, mutating: &self)
        }
    }

    /// Calls `body` with the bytes, which it must not keep.
    public borrowing func withUnsafeBytes<Result: ~Copyable, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe try body(UnsafeRawBufferPointer(segment.bytes))
    }

    /// Calls `body` with the bytes, which it must not keep.
    public mutating func withUnsafeMutableBytes<Result: ~Copyable, Failure: Error>(
        _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe try body(segment.bytes)
    }

    // MARK: Writing

    /// Copies `source` behind the last byte. ENOBUFS, and nothing changed, without the tailroom. Complexity: O(n).
    public mutating func append(contentsOf source: RawSpan) throws(DemikernelError) {
        try unsafe source.withUnsafeBytes { (bytes) throws(DemikernelError) in try unsafe append(contentsOf: bytes) }
    }

    /// Copies `source` behind the last byte. ENOBUFS, and nothing changed, without the tailroom. Complexity: O(n).
    public mutating func append(contentsOf source: UnsafeRawBufferPointer) throws(DemikernelError) {
        let end = count
        guard segment.append(source.count) else { throw Buffer.noTailroom }
        if let first = source.baseAddress { unsafe memmove(segment.start + end, first, source.count) }
    }

    /// Copies `source` behind the last byte. ENOBUFS, and nothing changed, without the tailroom. Complexity: O(n).
    public mutating func append(contentsOf source: [UInt8]) throws(DemikernelError) { try unsafe append(contentsOf: source.span.bytes) }

    /// Copies the text's UTF-8 behind the last byte. ENOBUFS, and nothing changed, without the tailroom. Complexity: O(n).
    public mutating func append(contentsOf source: String) throws(DemikernelError) { try unsafe append(contentsOf: source.utf8Span.span.bytes) }

    /// Makes `source` the contents, from the same first byte on. ENOBUFS, and nothing changed, where the object is too small. Complexity: O(n).
    public mutating func replaceContents(with source: RawSpan) throws(DemikernelError) {
        try unsafe source.withUnsafeBytes { (bytes) throws(DemikernelError) in try unsafe replaceContents(with: bytes) }
    }

    /// Makes `source` the contents, from the same first byte on. ENOBUFS, and nothing changed, where the object is too small. Complexity: O(n).
    public mutating func replaceContents(with source: UnsafeRawBufferPointer) throws(DemikernelError) {
        guard source.count <= count + tailroom else { throw Buffer.noTailroom }
        if let first = source.baseAddress { unsafe memmove(segment.start, first, source.count) }
        segment.trimLast(count)
        _ = segment.append(source.count)
    }

    /// Makes `source` the contents, from the same first byte on. ENOBUFS, and nothing changed, where the object is too small. Complexity: O(n).
    public mutating func replaceContents(with source: [UInt8]) throws(DemikernelError) { try unsafe replaceContents(with: source.span.bytes) }

    /// Makes the text's UTF-8 the contents. ENOBUFS, and nothing changed, where the object is too small. Complexity: O(n).
    public mutating func replaceContents(with source: String) throws(DemikernelError) {
        try unsafe replaceContents(with: source.utf8Span.span.bytes)
    }

    // MARK: Reading

    /// Whether the bytes are those. Complexity: O(n).
    public borrowing func contentsEqual(_ other: RawSpan) -> Bool {
        unsafe other.withUnsafeBytes { unsafe $0.count == count && ($0.isEmpty || memcmp(segment.start, $0.baseAddress!, count) == 0) }
    }

    /// Whether the bytes are those. Complexity: O(n).
    public borrowing func contentsEqual(_ other: [UInt8]) -> Bool { unsafe contentsEqual(other.span.bytes) }

    /// Whether the bytes are the text's UTF-8. Complexity: O(n).
    public borrowing func contentsEqual(_ other: String) -> Bool { unsafe contentsEqual(other.utf8Span.span.bytes) }

    /// A copy of the bytes.
    public borrowing func copyToArray() -> [UInt8] { unsafe [UInt8](UnsafeRawBufferPointer(segment.bytes)) }

    /// The bytes as UTF-8 text; what is none becomes U+FFFD.
    public borrowing func decodedAsUTF8() -> String { unsafe String(decoding: UnsafeRawBufferPointer(segment.bytes), as: UTF8.self) }
}
