import Glibc

/// A value under a POSIX lock, for the few places where threads meet. Never on the datapath.
///
/// Does what `Synchronization.Mutex` does, whose futex calls lie in the uninstrumented standard library: the thread sanitizer would take
/// every access for a race. It knows `pthread_mutex_lock(3)`.
///
/// Invariant: `mutex` and `value` address an initialised lock and value until `deinit`; `value` is touched under the lock alone.
@safe
package struct Lock<Value: ~Copyable>: ~Copyable, @unchecked Sendable {
    @unsafe private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    @unsafe private let value: UnsafeMutablePointer<Value>

    package init(_ value: consuming sending Value) {
        unsafe mutex = .allocate(capacity: 1)
        unsafe mutex.initialize(to: pthread_mutex_t())
        let status = unsafe pthread_mutex_init(mutex, nil)
        precondition(status == 0, "pthread_mutex_init fails only for attributes")
        unsafe self.value = .allocate(capacity: 1)
        unsafe self.value.initialize(to: value)
    }

    deinit {
        unsafe pthread_mutex_destroy(mutex)
        unsafe mutex.deallocate()
        unsafe value.deinitialize(count: 1)
        unsafe value.deallocate()
    }

    /// Calls `body` with the value, which nobody else sees meanwhile. `body` must not take the same lock again.
    package borrowing func withLock<Result: ~Copyable, Failure: Error>(
        _ body: (inout Value) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return unsafe try body(&value.pointee)
    }
}
