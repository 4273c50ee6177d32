/* The sum under the Internet checksum (RFC 1071), over memory-order 16-bit words: Swift has no spelling for the multiply-add below. */
#ifndef DEMIKERNEL_CHECKSUM_H
#define DEMIKERNEL_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The sum of `count` bytes of at most 15, as above. */
static inline uint64_t dk_checksum_tail(const uint8_t *_Nonnull p, size_t count) {
    uint64_t sum = 0;
    if (count & 8) {
        uint64_t v;
        __builtin_memcpy(&v, p, 8);
        sum += (v & 0xffffffffu) + (v >> 32);
        p += 8;
    }
    if (count & 4) {
        uint32_t v;
        __builtin_memcpy(&v, p, 4);
        sum += v;
        p += 4;
    }
    if (count & 2) {
        uint16_t v;
        __builtin_memcpy(&v, p, 2);
        sum += v;
        p += 2;
    }
    if (count & 1) {
        uint16_t v = 0;
        __builtin_memcpy(&v, p, 1); /* an odd last byte is padded with a zero behind it */
        sum += v;
    }
    return sum;
}

#if defined(__SSE2__)
typedef short dk_words __attribute__((vector_size(16)));
typedef int dk_sums __attribute__((vector_size(16)));

static inline dk_words dk_words_load(const uint8_t *_Nonnull p) {
    dk_words v;
    __builtin_memcpy(&v, p, 16);
    return v;
}

/* Adds eight words in pairs to four sums. The multiply-add is signed: each word is taken less 32,768, which the caller puts back. */
static inline dk_sums dk_words_add(dk_sums sums, dk_words v) {
    const dk_words bias = {-32768, -32768, -32768, -32768, -32768, -32768, -32768, -32768};
    const dk_words one = {1, 1, 1, 1, 1, 1, 1, 1};
    return sums + __builtin_ia32_pmaddwd128(v ^ bias, one);
}

static inline uint64_t dk_sums_total(dk_sums sums, size_t vectors) {
    int64_t total = (int64_t)sums[0] + sums[1] + sums[2] + sums[3];
    return (uint64_t)(total + (int64_t)vectors * (8 * 32768));
}

/* A sum grows by 65,536 at most, either way: 2^13 iterations leave room for two accumulators to be added. */
#define DK_CHECKSUM_CHUNK ((size_t)32 << 13)
#endif

/* The sum of the memory-order words of `count` bytes, not folded: below 2^48 for any memory there is. */
static inline uint64_t dk_checksum_sum(const void *_Nonnull start, size_t count) {
    const uint8_t *p = (const uint8_t *)start;
    uint64_t sum = 0;
#if defined(__SSE2__)
    while (count >= 32) {
        size_t chunk = (count < DK_CHECKSUM_CHUNK ? count : DK_CHECKSUM_CHUNK) & ~(size_t)31;
        const uint8_t *end = p + chunk;
        dk_sums a = {0, 0, 0, 0}, b = {0, 0, 0, 0};
        do {
            a = dk_words_add(a, dk_words_load(p));
            b = dk_words_add(b, dk_words_load(p + 16));
            p += 32;
        } while (p != end);
        sum += dk_sums_total(a + b, chunk / 16);
        count -= chunk;
    }
#else
    for (; count >= 32; count -= 32, p += 32) {
        uint32_t v[8];
        __builtin_memcpy(v, p, 32);
        for (int i = 0; i < 8; i++) sum += v[i];
    }
#endif
    if (count == 0) return sum;
    if (count & 16) {
        uint64_t v[2];
        __builtin_memcpy(v, p, 16);
        sum += (v[0] & 0xffffffffu) + (v[0] >> 32) + (v[1] & 0xffffffffu) + (v[1] >> 32);
        p += 16;
    }
    return sum + dk_checksum_tail(p, count & 15);
}

/* Copies `count` bytes, which do not overlap, and answers their sum, in one pass. */
static inline uint64_t dk_checksum_copy(void *_Nonnull target, const void *_Nonnull start, size_t count) {
    const uint8_t *p = (const uint8_t *)start;
    uint8_t *q = (uint8_t *)target;
    uint64_t sum = 0;
#if defined(__SSE2__)
    while (count >= 32) {
        size_t chunk = (count < DK_CHECKSUM_CHUNK ? count : DK_CHECKSUM_CHUNK) & ~(size_t)31;
        const uint8_t *end = p + chunk;
        dk_sums a = {0, 0, 0, 0}, b = {0, 0, 0, 0};
        do {
            dk_words v = dk_words_load(p), w = dk_words_load(p + 16);
            __builtin_memcpy(q, &v, 16);
            __builtin_memcpy(q + 16, &w, 16);
            a = dk_words_add(a, v);
            b = dk_words_add(b, w);
            p += 32;
            q += 32;
        } while (p != end);
        sum += dk_sums_total(a + b, chunk / 16);
        count -= chunk;
    }
#endif
    if (count == 0) return sum;
    __builtin_memcpy(q, p, count);
    return sum + dk_checksum_sum(q, count);
}

#endif
