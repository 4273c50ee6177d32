import Glibc

/// SIGINT and SIGTERM as something to react to, on a thread of its own.
enum Interruption {
    /// Keeps both signals from ending the process, and calls `body` on another thread each time that one comes.
    ///
    /// To be called before anything starts threads, which inherit the mask.
    static func handle(_ body: @escaping @Sendable () -> Void) throws {
        var signals = signalSet()
        unsafe pthread_sigmask(SIG_BLOCK, &signals, nil)
        let context = unsafe Unmanaged.passRetained(Handler(body)).toOpaque()
        var thread = pthread_t()
        let error = unsafe pthread_create(&thread, nil, { context in
            let handler = unsafe Unmanaged<Handler>.fromOpaque(context!).takeRetainedValue()
            var signals = Interruption.signalSet()
            var number: Int32 = 0
            while unsafe sigwait(&signals, &number) == 0 { handler.body() }
            return nil
        }, context)
        guard error == 0 else {
            unsafe Unmanaged<Handler>.fromOpaque(context).release()
            throw Failure("no thread for signals: \(errorText(error))")
        }
        pthread_detach(thread)
    }

    private static func signalSet() -> sigset_t {
        var signals = sigset_t()
        unsafe sigemptyset(&signals)
        unsafe sigaddset(&signals, SIGINT)
        unsafe sigaddset(&signals, SIGTERM)
        return signals
    }

    private final class Handler: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
}

/// What `errno` means, in words.
func errorText(_ number: Int32) -> String { unsafe String(cString: strerror(number)) }
