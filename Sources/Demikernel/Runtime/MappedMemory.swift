import Glibc

/// Anonymous memory that the system commits page by page when it is first touched: room for tables that are sized for the worst case.
///
/// Invariant: `base` addresses `count` zeroed elements' worth of memory until `deinit`; `Element` is trivial and valid when all zero.
@safe
package struct MappedMemory<Element: BitwiseCopyable>: ~Copyable {
    @unsafe let base: UnsafeMutablePointer<Element>
    package let count: Int

    /// Complexity: O(1). Throws ENOMEM where the system has no address space.
    package init(count: Int) throws(DemikernelError) {
        let byteCount = max(1, count) * MemoryLayout<Element>.stride
        let memory = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
            throw DemikernelError(.noMemory, "the system has no address space for the libOS's tables")
        }
        unsafe base = memory.bindMemory(to: Element.self, capacity: max(1, count))
        self.count = count
    }

    deinit { unsafe munmap(base, max(1, count) * MemoryLayout<Element>.stride) }
}
