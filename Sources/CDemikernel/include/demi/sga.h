/* Memory that every device can send from and receive into without a copy. Conventions: see libos.h. */
#ifndef DEMI_SGA_H
#define DEMI_SGA_H

#include <demi/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Allocates a scatter-gather array of one segment of `size` bytes.
 *
 * Returns: the array, which the caller owns and gives back with `demi_sgafree`; all zero when `size` is 0, when the heap is exhausted, when
 * `size` is more than it can ever hold, and on a thread without a libOS. The bytes are not initialised.
 * Complexity: constant up to 64 KiB; above that, linear in the superblocks of 256 KiB that it takes.
 */
demi_sgarray_t demi_sgaalloc(size_t size);

/**
 * Gives an array back. Its memory is used again once the libOS has let go of it too: freeing right after a push is fine.
 *
 * Returns: 0. EINVAL: NULL, an array that is not from this thread's `demi_sgaalloc` or a pop, or one that was freed before. ENOSYS.
 * Complexity: constant.
 */
int demi_sgafree(demi_sgarray_t *sga);

/**
 * Ours. Allocates `size` bytes of the same memory, aligned to 16, for `demi_pushv`.
 *
 * Returns: the memory, which the caller owns and gives back with `demi_free`; NULL where `demi_sgaalloc` would answer all zero.
 * Complexity: as `demi_sgaalloc`.
 */
void *demi_malloc(size_t size);

/**
 * Ours. Gives back memory of `demi_malloc`; NULL is ignored. Memory that a push still needs stays untouched until the push is done with it.
 *
 * A pointer that is not from this heap, or was freed before, changes nothing; the checked heap reports it. Complexity: constant.
 */
void demi_free(void *memory);

#ifdef __cplusplus
}
#endif

#endif
