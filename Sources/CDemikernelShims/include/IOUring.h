/* The io_uring interface of the Linux kernel, and the few calls beside it that Glibc's Swift module leaves out.
 *
 * The kernel's ABI is stated here instead of included: <linux/io_uring.h> is as old as the machine that compiles, and a program built on
 * an old one must still use what the kernel it runs on offers. Structs and numbers: io_uring_setup(2), io_uring_enter(2). */
#ifndef DEMIKERNEL_IO_URING_H
#define DEMIKERNEL_IO_URING_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* A submission queue entry. `operation_flags` is rw_flags, fsync_flags, open_flags or cancel_flags, by opcode. */
struct dk_ring_request {
    uint8_t opcode;
    uint8_t flags;
    uint16_t priority;
    int32_t descriptor;
    uint64_t offset;
    uint64_t address;
    uint32_t length;
    uint32_t operation_flags;
    uint64_t user_data;
    uint16_t buffer_index;
    uint16_t personality;
    uint32_t file_index;
    uint64_t unused[2];
};

/* A completion queue entry. */
struct dk_ring_completion {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};

struct dk_ring_submission_offsets { uint32_t head, tail, mask, entries, flags, dropped, array, reserved; uint64_t user_address; };
struct dk_ring_completion_offsets { uint32_t head, tail, mask, entries, overflow, completions, flags, reserved; uint64_t user_address; };

struct dk_ring_parameters {
    uint32_t submission_entries, completion_entries, flags, thread_cpu, thread_idle, features, worker_descriptor, reserved[3];
    struct dk_ring_submission_offsets submission;
    struct dk_ring_completion_offsets completion;
};

_Static_assert(sizeof(struct dk_ring_request) == 64, "an entry of the submission queue");
_Static_assert(sizeof(struct dk_ring_completion) == 16, "an entry of the completion queue");
_Static_assert(sizeof(struct dk_ring_parameters) == 120, "the parameters of io_uring_setup");

/* The numbers are the same on every architecture. Each answers what the kernel does: a count, or a negative errno. */
static inline long dk_ring_setup(uint32_t entries, struct dk_ring_parameters *_Nonnull parameters) {
    long answer = syscall(425, entries, parameters);
    return answer < 0 ? -errno : answer;
}

static inline long dk_ring_enter(int ring, uint32_t submit, uint32_t minimum, uint32_t flags) {
    long answer = syscall(426, ring, submit, minimum, flags, NULL, (size_t)0);
    return answer < 0 ? -errno : answer;
}

static inline long dk_ring_register_event(int ring, int event) {
    long answer = syscall(427, ring, 4 /* IORING_REGISTER_EVENTFD */, &event, 1);
    return answer < 0 ? -errno : answer;
}

/* The opcodes below 64 that this kernel knows, as bits. */
static inline long dk_ring_supported(int ring, uint64_t *_Nonnull operations) {
    struct {
        uint8_t last, count;
        uint16_t reserved;
        uint32_t reserved2[3];
        struct { uint8_t opcode, reserved; uint16_t flags; uint32_t reserved2; } operation[64];
    } probe = {0};
    long answer = syscall(427, ring, 8 /* IORING_REGISTER_PROBE */, &probe, 64);
    *operations = 0;
    if (answer < 0) return -errno;
    for (int i = 0; i < 64; i++) if (probe.operation[i].flags & 1) *operations |= (uint64_t)1 << probe.operation[i].opcode;
    return 0;
}

/* A counter that epoll can wait for: never blocks, not inherited. */
static inline int dk_event_create(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

/* Names the calling thread for debuggers and `top -H`; at most 15 characters. */
static inline void dk_thread_set_name(const char *_Nonnull name) { prctl(PR_SET_NAME, name); }

/* One transfer at `offset`, or at the descriptor's own position where that is -1. `flags`: RWF_*. Bytes, or a negative errno. */
static inline long dk_transfer_pieces(
    int descriptor, int writes, const struct iovec *_Nonnull pieces, size_t count, int64_t offset, int flags
) {
    long answer = syscall(writes ? SYS_pwritev2 : SYS_preadv2, descriptor, pieces, count, (long)offset, 0L, flags);
    return answer < 0 ? -errno : answer;
}

static inline long dk_transfer(int descriptor, int writes, void *_Nullable address, size_t count, int64_t offset, int flags) {
    struct iovec piece = {address, count};
    return dk_transfer_pieces(descriptor, writes, &piece, 1, offset, flags);
}

#endif
