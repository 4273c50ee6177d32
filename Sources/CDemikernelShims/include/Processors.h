/* The processors that a thread may run on, which Glibc's Swift module leaves out: sched_getaffinity(2). */
#ifndef DEMIKERNEL_PROCESSORS_H
#define DEMIKERNEL_PROCESSORS_H

#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One bit a processor, as the kernel wants it. Fills `set`; the bytes filled, or -1 with errno. */
static inline long dk_processors_get(void *_Nonnull set, size_t size) { return syscall(SYS_sched_getaffinity, 0, size, set); }

#endif
