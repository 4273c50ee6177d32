/* What the C library's allocator has given out, which Glibc's Swift module leaves out: mallinfo(3). */
#ifndef DEMIKERNEL_ALLOCATOR_H
#define DEMIKERNEL_ALLOCATOR_H

#include <malloc.h>
#include <stddef.h>

/* Bytes that are allocated now, in all arenas and in mappings of their own; 0 where another allocator stands in (sanitizers). */
static inline size_t dk_allocated_bytes(void) {
    struct mallinfo2 about = mallinfo2();
    return about.uordblks + about.hblkhd;
}

#endif
