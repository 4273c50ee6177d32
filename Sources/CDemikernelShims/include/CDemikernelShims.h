/* What Swift has no spelling for, and nothing else. Everything here is `static inline`, so that it inlines into Swift. */
#ifndef DEMIKERNEL_SHIMS_H
#define DEMIKERNEL_SHIMS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* --- time-stamp counter ------------------------------------------------------------------------------------------- */

static inline uint64_t dk_timestamp_counter(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return 0;
#endif
}

/* Whether the counter advances at one rate in every power state (CPUID 8000_0007h, EDX bit 8; always so on AArch64). */
static inline int dk_timestamp_counter_is_invariant(void) {
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(0x80000007u, &eax, &ebx, &ecx, &edx) ? (int)((edx >> 8) & 1u) : 0;
#elif defined(__aarch64__)
    return 1;
#else
    return 0;
#endif
}

static inline void dk_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline void dk_prefetch(const void *_Nullable address) { __builtin_prefetch(address, 1, 3); }

/* Keeps a value alive for a benchmark without costing more than a register. */
static inline void dk_black_box(uint64_t value) { __asm__ volatile("" : : "r"(value) : "memory"); }

/* --- thread-locals: the heap that this thread owns, and the libOS that it runs ---------------------------------------- */

extern __thread void *_Nullable dk_thread_heap __attribute__((tls_model("initial-exec")));
extern __thread void *_Nullable dk_thread_libos __attribute__((tls_model("initial-exec")));

static inline void *_Nullable dk_thread_heap_get(void) { return dk_thread_heap; }
static inline void dk_thread_heap_set(void *_Nullable heap) { dk_thread_heap = heap; }
static inline void *_Nullable dk_thread_libos_get(void) { return dk_thread_libos; }
static inline void dk_thread_libos_set(void *_Nullable libos) { dk_thread_libos = libos; }
/* Tells threads apart, for as long as they live. */
static inline uintptr_t dk_thread_identity(void) { return (uintptr_t)&dk_thread_libos; }

/* --- atomics on memory that Swift reaches by pointer ------------------------------------------------------------------ */

static inline uint32_t dk_atomic_add_u32(uint32_t *_Nonnull p, uint32_t v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
static inline uint32_t dk_atomic_exchange_u32(uint32_t *_Nonnull p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
static inline uint64_t dk_atomic_load_u64(const uint64_t *_Nonnull p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void dk_atomic_store_u64(uint64_t *_Nonnull p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t dk_atomic_exchange_u64(uint64_t *_Nonnull p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL); }
static inline int dk_atomic_compare_exchange_u64(uint64_t *_Nonnull p, uint64_t *_Nonnull expected, uint64_t desired) {
    return __atomic_compare_exchange_n(p, expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* --- the Swift concurrency runtime ------------------------------------------------------------------------------------ */

/* What withTaskCancellationHandler is made of, without its closures and frames (110 ns): registers dk_operation_cancelled for the current
   task. The record belongs to the task's stack-like allocator: remove it before anything that was allocated earlier is freed. While a
   handler runs, removing waits. */
void *_Nonnull dk_cancellation_handler_add(void *_Nonnull context);
void dk_cancellation_handler_remove(void *_Nonnull record);

/* In Swift: what happens, on any thread, when the task is cancelled. */
void dk_operation_cancelled(void *_Nonnull context);

/* --- system calls that the Glibc module leaves out --------------------------------------------------------------------- */

/* sched_setaffinity(2) of the calling thread to one CPU below 1,024; 0, or -1 with errno. */
static inline int dk_pin_thread(int cpu) {
    unsigned long mask[1024 / (8 * sizeof(unsigned long))] = {0};
    mask[(unsigned)cpu / (8 * sizeof(unsigned long))] = 1ul << ((unsigned)cpu % (8 * sizeof(unsigned long)));
    return syscall(SYS_sched_setaffinity, 0, sizeof mask, mask) < 0 ? -1 : 0;
}
/* --- memory mappings -------------------------------------------------------------------------------------------------- */

/* Moves a mapping to exactly `target`, over what is there; 0, or -1 with errno. mremap is variadic, which Swift cannot call.
   3 is MREMAP_MAYMOVE | MREMAP_FIXED, which the headers hide without _GNU_SOURCE. */
static inline int dk_move_mapping(void *_Nonnull from, size_t size, void *_Nonnull target) {
    return syscall(SYS_mremap, from, size, size, 3, target) == -1 ? -1 : 0;
}

/* --- the Swift concurrency runtime ------------------------------------------------------------------------------------ */

/* accept4(2), the new descriptor non-blocking and close-on-exec. */
static inline int dk_accept(int descriptor, struct sockaddr *_Nullable address, socklen_t *_Nullable size) {
    return (int)syscall(SYS_accept4, descriptor, address, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

#endif
