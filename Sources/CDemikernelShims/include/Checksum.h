/* The sum under the Internet checksum (RFC 1071), over memory-order 16-bit words: Swift has no spelling for the multiply-add below. */
#ifndef DEMIKERNEL_CHECKSUM_H
#define DEMIKERNEL_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Up to this many bytes are summed a word at a time: cheaper than to set up vectors and add up their lanes. */
#define DK_CHECKSUM_SHORT ((size_t)256)

static inline uint64_t dk_word_load(const uint8_t *_Nonnull p) {
    uint64_t v;
    __builtin_memcpy(&v, p, 8);
    return v;
}

static inline void dk_word_store(uint8_t *_Nonnull p, uint64_t v) { __builtin_memcpy(p, &v, 8); }

/* A sum of 64-bit words as one of 16-bit words: both 2^64 and 2^16 leave 1 when divided by 2^16 - 1. */
static inline uint64_t dk_words_fold(uint64_t sum, uint64_t carries) {
    return (sum & 0xffffffffu) + (sum >> 32) + carries;
}

/* The last `count` bytes of at most 7, as a word with zeroes behind them: an odd last byte is padded with one. */
static inline uint64_t dk_word_tail(const uint8_t *_Nonnull p, size_t count) {
    uint64_t word = 0;
    size_t shift = 0;
    if (count & 4) {
        uint32_t v;
        __builtin_memcpy(&v, p, 4);
        word = v;
        p += 4;
        shift = 32;
    }
    if (count & 2) {
        uint16_t v;
        __builtin_memcpy(&v, p, 2);
        word |= (uint64_t)v << shift;
        p += 2;
        shift += 16;
    }
    if (count & 1) word |= (uint64_t)*p << shift;
    return word;
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

/* The sum of the memory-order words of `count` bytes, not folded: below 2^48 for any memory there is. With `copies`, a
   constant where this is inlined, they go to `q` on the way, which does not overlap them. */
static inline __attribute__((always_inline)) uint64_t dk_checksum_pass(
    uint8_t *_Nullable q, const uint8_t *_Nonnull p, size_t count, int copies) {
    uint64_t sum = 0;
#if defined(__SSE2__)
    if (count >= DK_CHECKSUM_SHORT) {
        while (count >= 32) {
            size_t chunk = (count < DK_CHECKSUM_CHUNK ? count : DK_CHECKSUM_CHUNK) & ~(size_t)31;
            const uint8_t *end = p + chunk;
            dk_sums a = {0, 0, 0, 0}, b = {0, 0, 0, 0};
            do {
                dk_words v = dk_words_load(p), w = dk_words_load(p + 16);
                if (copies) {
                    __builtin_memcpy(q, &v, 16);
                    __builtin_memcpy(q + 16, &w, 16);
                    q += 32;
                }
                a = dk_words_add(a, v);
                b = dk_words_add(b, w);
                p += 32;
            } while (p != end);
            sum += dk_sums_total(a + b, chunk / 16);
            count -= chunk;
        }
    }
#endif
    /* The carries of each chain of additions are counted apart, so that a chain is one instruction a word. */
    unsigned long long words = 0, carries = 0, carry;
    for (; count >= 32; count -= 32, p += 32) {
        uint64_t a = dk_word_load(p), b = dk_word_load(p + 8), c = dk_word_load(p + 16), d = dk_word_load(p + 24);
        if (copies) {
            dk_word_store(q, a);
            dk_word_store(q + 8, b);
            dk_word_store(q + 16, c);
            dk_word_store(q + 24, d);
            q += 32;
        }
        words = __builtin_addcll(words, a, 0, &carry);
        words = __builtin_addcll(words, b, carry, &carry);
        words = __builtin_addcll(words, c, carry, &carry);
        words = __builtin_addcll(words, d, carry, &carry);
        carries += carry;
    }
    for (; count >= 8; count -= 8, p += 8) {
        uint64_t a = dk_word_load(p);
        if (copies) {
            dk_word_store(q, a);
            q += 8;
        }
        words = __builtin_addcll(words, a, 0, &carry);
        carries += carry;
    }
    if (count != 0) {
        words = __builtin_addcll(words, dk_word_tail(p, count), 0, &carry);
        carries += carry;
        if (copies) __builtin_memcpy(q, p, count);
    }
    return sum + dk_words_fold(words, carries);
}

static inline uint64_t dk_checksum_sum(const void *_Nonnull start, size_t count) {
    return dk_checksum_pass(NULL, (const uint8_t *)start, count, 0);
}

/* Copies `count` bytes, which do not overlap, and answers their sum, in one pass. */
static inline uint64_t dk_checksum_copy(void *_Nonnull target, const void *_Nonnull source, size_t count) {
    return dk_checksum_pass((uint8_t *)target, (const uint8_t *)source, count, 1);
}

#endif
