import CDemikernelShims
import Demikernel
import DemikernelConfiguration
import Glibc
import SystemPackage

// The libOS of the calling thread, and what all calls have in common: none before `demi_init` (ENOSYS), positive errnos.

/// Starts a libOS on this thread (demi_init(3)).
///
/// `args` must not be NULL. Its `argc` and `argv` say nothing that a libOS uses; its `callback` takes the reference implementation's latency
/// statistics, which this one does not make.
@c(demi_init)
public func demi_init(_ args: UnsafeRawPointer?) -> Int32 {
    do {
        guard let args = unsafe args, unsafe args.loadUnaligned(as: Int32.self) >= 0 else {
            throw DemikernelError(.invalidArgument, "the arguments are NULL, or their count is negative")
        }
        guard unsafe dk_thread_libos_get() == nil else {
            throw DemikernelError(.fileExists, "this thread has a libOS already: there is one for each thread")
        }
        try ThreadLibOS.start()
        return 0
    } catch {
        writeToStandardError("demi_init: \(error)\n")
        return switch error {
        case let error as DemikernelError: error.errno.rawValue
        case let error as ConfigurationError: error.errno.rawValue
        default: EIO
        }
    }
}

/// Calls `body` with the core of this thread's libOS; answers ENOSYS where there is none, else 0 or the errno of what `body` throws.
@inline(__always)
func call(_ body: (inout Core) throws(DemikernelError) -> Void) -> Int32 {
    guard let core = unsafe ThreadLibOS.core else { return ENOSYS }
    do throws(DemikernelError) {
        try unsafe body(&core.pointee)
        return 0
    } catch {
        return error.errno.rawValue
    }
}

/// Keeps the libOS that `demi_init` started for as long as its thread lives.
///
/// Invariant: the thread's value of `key` is NULL or a retained `LibOS`, which `end` releases.
@safe
enum ThreadLibOS {
    /// The core of this thread's libOS, whether C or Swift started it.
    static var core: UnsafeMutablePointer<Core>? {
        @inline(__always) get { unsafe dk_thread_libos_get()?.assumingMemoryBound(to: Core.self) }
    }

    /// Has its destructor called when a thread ends. The library is linked with `-z nodelete`: `dlclose` must not unmap that destructor.
    private static let key: pthread_key_t? = {
        var key = pthread_key_t()
        let result = unsafe pthread_key_create(&key) { libOS in
            if let libOS = unsafe libOS { unsafe Unmanaged<LibOS>.fromOpaque(libOS).release() }
        }
        return result == 0 ? key : nil
    }()

    static func start() throws {
        guard let key else { throw DemikernelError(.resourceTemporarilyUnavailable, "the process has no thread-specific key left") }
        let libOS = try LibOS(.load())
        let retained = unsafe Unmanaged.passRetained(libOS)
        guard unsafe pthread_setspecific(key, retained.toOpaque()) == 0 else {
            unsafe retained.release()
            throw DemikernelError(.noMemory, "there is no memory for the thread's libOS")
        }
        // `exit` calls no destructors of keys, and ends faster for it. A checked heap has leaks to report.
        if libOS.configuration.heap.checked { atexit { ThreadLibOS.end() } }
    }

    private static func end() {
        guard let key, let libOS = unsafe pthread_getspecific(key) else { return }
        pthread_setspecific(key, nil)
        unsafe Unmanaged<LibOS>.fromOpaque(libOS).release()
    }
}
