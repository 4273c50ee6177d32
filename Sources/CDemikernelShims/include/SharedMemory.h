/* What devices over shared memory and Unix sockets need and Swift has no spelling for: atomics of 16 bits, single loads of memory that somebody
   else may be changing, descriptors in messages (the CMSG macros), memory files with seals. */
#ifndef DEMIKERNEL_SHARED_MEMORY_H
#define DEMIKERNEL_SHARED_MEMORY_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* --- memory that the peer writes as well ------------------------------------------------------------------------------- */

static inline uint16_t dk_shared_load_u16(const void *_Nonnull p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }
static inline void dk_shared_store_u16(void *_Nonnull p, uint16_t v) { __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE); }
/* Stores, and lets no later load overtake the store. */
static inline void dk_shared_publish_u16(void *_Nonnull p, uint16_t v) { __atomic_exchange_n((uint16_t *)p, v, __ATOMIC_SEQ_CST); }
static inline void dk_shared_publish_u64(uint64_t *_Nonnull p, uint64_t v) { __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }

/* Loads once, whatever the compiler would like: what was checked is what is used. */
static inline uint64_t dk_shared_load_once_u64(const void *_Nonnull p) { return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED); }
static inline void dk_shared_store_once_u64(void *_Nonnull p, uint64_t v) { __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); }

static inline void dk_prefetch_read(const void *_Nonnull p) { __builtin_prefetch(p, 0, 3); }
/* The cache lines of `count` bytes, for a copy out of them, or into them, that begins a little later. */
static inline void dk_prefetch_source(const void *_Nonnull p, size_t count) {
    for (size_t i = 0; i < count; i += 64) __builtin_prefetch((const char *)p + i, 0, 3);
}
static inline void dk_prefetch_target(void *_Nonnull p, size_t count) {
#if defined(__x86_64__)
    for (size_t i = 0; i < count; i += 64) __asm__ volatile("prefetchw %0" : : "m"(((char *)p)[i]));
#else
    for (size_t i = 0; i < count; i += 64) __builtin_prefetch((char *)p + i, 1, 3);
#endif
}

/* memcpy(3) without the call where a frame is short: up to 128 bytes by 16, the last of them overlapping. */
static inline void dk_copy_frame(void *_Nonnull target, const void *_Nonnull source, size_t count) {
#if defined(__SSE2__)
    if (count >= 16 && count <= 128) {
        char *t = target;
        const char *s = source;
        __m128i last = _mm_loadu_si128((const __m128i *)(s + count - 16));
        for (size_t i = 0; i + 16 < count; i += 16) _mm_storeu_si128((__m128i *)(t + i), _mm_loadu_si128((const __m128i *)(s + i)));
        _mm_storeu_si128((__m128i *)(t + count - 16), last);
        return;
    }
#endif
    memcpy(target, source, count);
}

/* --- memory files -------------------------------------------------------------------------------------------------------- */

/* memfd_create(2) of `size` bytes that can neither shrink nor grow; a descriptor, or -1 with errno. */
static inline int dk_memory_file_create(const char *_Nonnull name, uint64_t size) {
    int file = (int)syscall(SYS_memfd_create, name, 3u /* MFD_CLOEXEC | MFD_ALLOW_SEALING */);
    if (file < 0) return -1;
    if (ftruncate(file, (off_t)size) < 0 || fcntl(file, 1033 /* F_ADD_SEALS */, 1 | 2 | 4 /* F_SEAL_SEAL | _SHRINK | _GROW */) < 0) {
        int error = errno;
        close(file);
        errno = error;
        return -1;
    }
    return file;
}

/* The size of a memory file that cannot shrink any more and whose pages are ordinary ones, so that no access within it ever faults;
   0 where that is not certain, -1 with errno. */
static inline int64_t dk_memory_file_fixed_size(int file) {
    struct stat status;
    struct statfs system;
    int seals = fcntl(file, 1034 /* F_GET_SEALS */);
    if (seals < 0) return errno == EINVAL ? 0 : -1;
    if (!(seals & 2 /* F_SEAL_SHRINK */)) return 0;
    if (fstatfs(file, &system) < 0 || fstat(file, &status) < 0) return -1;
    return system.f_type == 0x01021994 /* TMPFS_MAGIC */ ? (int64_t)status.st_size : 0;
}

/* --- messages with descriptors ------------------------------------------------------------------------------------------- */

/* Sends one message, and `file` with it unless it is negative, never blocking, without SIGPIPE; bytes, or a negative errno. */
static inline long dk_message_send(int socket, const void *_Nonnull bytes, size_t count, int file) {
    struct iovec part = {(void *)bytes, count};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control;
    struct msghdr message = {0};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (file >= 0) {
        memset(&control, 0, sizeof control);
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.header), &file, sizeof(int));
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    ssize_t sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

/* Receives one message and the first descriptor with it, close-on-exec, or -1; others are closed. Never blocks. The message's whole length
   (which may be above `count`), 0 at the end, or a negative errno. */
static inline long dk_message_receive(int socket, void *_Nonnull bytes, size_t count, int *_Nonnull file) {
    struct iovec part = {bytes, count};
    union {
        char bytes[CMSG_SPACE(16 * sizeof(int)) + CMSG_SPACE(64)];
        struct cmsghdr header;
    } control;
    struct msghdr message = {0};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    *file = -1;
    ssize_t received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    if (received < 0) return -errno;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t files = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < files; i++) {
            int one;
            memcpy(&one, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            if (*file < 0) *file = one; else close(one);
        }
    }
    return received;
}

/* --- Unix sockets -------------------------------------------------------------------------------------------------------- */

/* A path's address; one that begins with '@' is a name in the abstract namespace. Its length, or 0 where the path is empty or too long. */
static inline socklen_t dk_unix_address(struct sockaddr_un *_Nonnull address, const char *_Nonnull path) {
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof address->sun_path) return 0;
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length);
    if (path[0] != '@') return sizeof *address;
    address->sun_path[0] = 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
}

/* A sequenced-packet socket, non-blocking and close-on-exec; a descriptor, or -1 with errno. */
static inline int dk_unix_socket(void) { return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

static inline int dk_unix_bind(int socket, const char *_Nonnull path) {
    struct sockaddr_un address;
    socklen_t length = dk_unix_address(&address, path);
    if (length == 0) return errno = ENAMETOOLONG, -1;
    return bind(socket, (struct sockaddr *)&address, length);
}

static inline int dk_unix_connect(int socket, const char *_Nonnull path) {
    struct sockaddr_un address;
    socklen_t length = dk_unix_address(&address, path);
    if (length == 0) return errno = ENAMETOOLONG, -1;
    return connect(socket, (struct sockaddr *)&address, length);
}

/* --- events -------------------------------------------------------------------------------------------------------------- */

/* Whether a descriptor that somebody sent is an eventfd: other kinds can block whoever writes to them. Makes it non-blocking. */
static inline int dk_event_adopt(int file) {
    char path[32], target[32];
    char digits[12];
    int count = 0, rest = file;
    do { digits[count++] = (char)('0' + rest % 10); rest /= 10; } while (rest);
    memcpy(path, "/proc/self/fd/", 14);
    for (int i = 0; i < count; i++) path[14 + i] = digits[count - 1 - i];
    path[14 + count] = 0;
    ssize_t length = readlink(path, target, sizeof target);
    if (length < 0) return 0;
    if (length != 20 || memcmp(target, "anon_inode:[eventfd]", 20) != 0) return 0;
    return fcntl(file, F_SETFL, O_NONBLOCK) == 0;
}

/* Adds 1 to an eventfd; a full one is as good. */
static inline void dk_event_signal(int event) {
    uint64_t one = 1;
    (void)!write(event, &one, sizeof one);
}

static inline void dk_event_drain(int event) {
    uint64_t count;
    (void)!read(event, &count, sizeof count);
}

#endif
