public import SystemPackage

/// How a file is opened: `open(2)`.
public struct OpenOptions: OptionSet, Sendable {
    public let rawValue: Int32
    public init(rawValue: Int32) { self.rawValue = rawValue }

    /// `O_CREAT`: made where it does not exist.
    public static let create = OpenOptions(rawValue: 0o100)
    /// `O_EXCL`: refused where it exists (EEXIST).
    public static let exclusive = OpenOptions(rawValue: 0o200)
    /// `O_TRUNC`: emptied.
    public static let truncate = OpenOptions(rawValue: 0o1000)
    /// `O_DSYNC`: a push completes when its bytes are durable.
    public static let dataSync = OpenOptions(rawValue: 0o10000)
    /// `O_RDONLY` instead of reading and writing.
    public static let readOnly = OpenOptions(rawValue: 1 << 30)

    var systemFlags: Int32 { (rawValue & ~OpenOptions.readOnly.rawValue) | (contains(.readOnly) ? 0 : 2) }
}

/// From where ``LibOS/seek(_:to:from:)`` counts.
public enum SeekOrigin: Int32, Sendable {
    case start = 0
    case cursor = 1
    case end = 2
}

extension LibOS {
    /// Opens a file as a queue: push appends, pop reads at the cursor, which starts at the beginning (paper, section 6.4).
    ///
    /// Throws ENOENT, EACCES, EISDIR, EEXIST, EMFILE; EINVAL for what is no regular file.
    @inline(never)
    public func open(  // Inlined, it crashes the optimiser of Swift 6.3.1 (CopyPropagation: "leaked owned value").
        _ path: FilePath, _ options: OpenOptions = [], permissions: FilePermissions = [.ownerReadWrite, .groupRead, .otherRead]
    ) throws(DemikernelError) -> QueueDescriptor {
        core.queues.descriptor(of: try core.open(path, flags: options.systemFlags, mode: UInt16(permissions.rawValue)))
    }

    /// Makes a file, or empties one that exists, and opens it: `creat(2)`.
    public func create(
        _ path: FilePath, permissions: FilePermissions = [.ownerReadWrite, .groupRead, .otherRead]
    ) throws(DemikernelError) -> QueueDescriptor {
        try open(path, [.create, .truncate], permissions: permissions)
    }

    /// Moves a file's cursor and answers where it is then. Throws ESPIPE for what is no file, EINVAL for a place before the beginning, EBUSY
    /// while a pop is pending.
    @discardableResult
    public func seek(_ descriptor: QueueDescriptor, to offset: Int64, from origin: SeekOrigin = .start) throws(DemikernelError) -> Int64 {
        try core.seek(descriptor, offset: offset, whence: origin.rawValue)
    }

    /// Cuts or extends a file. Throws ESPIPE for what is no file, EINVAL for a negative length, EBUSY while a push is pending.
    public func truncate(_ descriptor: QueueDescriptor, to length: Int64) throws(DemikernelError) {
        try core.truncate(descriptor, length: length)
    }
}
