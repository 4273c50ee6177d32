/// Whether a heap's superblock groups are to lie on huge pages.
package enum HugePagePolicy: String, Sendable {
    /// Ordinary pages; the kernel may still merge them where transparent huge pages are on for everyone.
    case never
    /// Reserved huge pages (`vm.nr_hugepages`) where there are some, else ordinary pages that ask for transparent huge pages.
    case prefer
    /// Reserved huge pages or nothing: a heap that cannot have them is exhausted.
    case require
}

/// How a heap is made.
package struct HeapConfiguration: Sendable {
    /// The most bytes that the heap ever takes from the system, rounded up to 2 MiB; only address space until they are needed. At most 256 GiB.
    package var limit: Int
    package var hugePages: HugePagePolicy
    /// Whether pages are locked into memory. A heap that may not lock (RLIMIT_MEMLOCK) goes on unlocked; its statistics say so.
    package var lockPages: Bool
    /// Whether freed objects are poisoned, quarantined and verified, and every misuse is recorded with the object's size class and age.
    package var checked: Bool

    /// - Parameter checked: also on where the environment has `DEMI_HEAP_CHECKED=1`.
    package init(limit: Int = 4 << 30, hugePages: HugePagePolicy = .prefer, lockPages: Bool = true, checked: Bool = false) {
        self.limit = limit
        self.hugePages = hugePages
        self.lockPages = lockPages
        self.checked = checked
    }
}
