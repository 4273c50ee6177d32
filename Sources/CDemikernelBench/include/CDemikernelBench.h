/* What `demi bench` calls to measure the C ABI from C. Each works on the libOS of the calling thread, and loops in C, so that the loop costs
 * what it costs a C program. From one thread only. */
#ifndef C_DEMIKERNEL_BENCH_H
#define C_DEMIKERNEL_BENCH_H

/** How many tokens the dearer of two calls of `dk_bench_wait_any_invalid` names. */
enum { DK_BENCH_TOKENS = 1048576 };

/** Calls `demi_wait_any` `repetitions` times with `count` tokens (up to DK_BENCH_TOKENS) of which none names an operation. Returns 0; EINVAL
 * for another count; EIO where a call answered anything but EINVAL. */
int dk_bench_wait_any_invalid(int count, int repetitions);

/** Pushes, waits, pops and waits `repetitions` times on a memory queue, with an array of `size` bytes that goes round. Returns 0 or an errno. */
int dk_bench_queue_push_pop(int size, int repetitions);

/** Allocates and frees an array of `size` bytes `repetitions` times. Returns 0 or an errno. */
int dk_bench_allocate_free(int size, int repetitions);

#endif
