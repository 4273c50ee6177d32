/* The four system calls of the datapath, made directly: glibc's wrappers are cancellation points, which costs an atomic exchange before and
   after each call in every program that has a second thread, and hand over errors through a thread-local. */
#ifndef DEMIKERNEL_SYSTEM_CALLS_H
#define DEMIKERNEL_SYSTEM_CALLS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A system call with up to six arguments; answers its result, or a negative errno. */
static inline long dk_system_call(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
    long result = syscall(number, a, b, c, d, e, f);
    return result < 0 ? -errno : result;
#endif
}

/* recv(2), never blocking: bytes, 0 at the end of the stream, or a negative errno. */
static inline long dk_receive(int socket, void *_Nonnull target, size_t size) {
    return dk_system_call(SYS_recvfrom, socket, (long)target, (long)size, MSG_DONTWAIT, 0, 0);
}

/* send(2), never blocking and without SIGPIPE: bytes, or a negative errno. */
static inline long dk_send(int socket, const void *_Nonnull source, size_t size) {
    return dk_system_call(SYS_sendto, socket, (long)source, (long)size, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
}

/* epoll_wait(2) without waiting: how many events, or a negative errno. */
static inline long dk_epoll_poll(int epoll, struct epoll_event *_Nonnull events, int capacity) {
    return dk_system_call(SYS_epoll_pwait, epoll, (long)events, capacity, 0, 0, 8);
}

/* io_uring_enter(2) that submits and waits for nothing: how many requests, or a negative errno. The number is the same everywhere. */
static inline long dk_ring_submit(int ring, uint32_t count) { return dk_system_call(426, ring, count, 0, 0, 0, 0); }

#endif
