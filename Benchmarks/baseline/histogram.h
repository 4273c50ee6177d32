/*
 * A log-linear histogram of nanoseconds, as HdrHistogram keeps it: exact below 2,048, three significant digits above, up to 18 minutes.
 * Recording is a shift and an increment.
 */
#ifndef BASELINE_HISTOGRAM_H
#define BASELINE_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_BITS = 11,                       /* 2^11 steps in the linear part, half as many in each power of two above */
    HISTOGRAM_HALF = 1 << (HISTOGRAM_BITS - 1),
    HISTOGRAM_POWERS = 40 - HISTOGRAM_BITS,    /* values up to 2^40 - 1 ns */
    HISTOGRAM_BUCKETS = (HISTOGRAM_POWERS + 2) * HISTOGRAM_HALF
};

struct histogram {
    uint64_t total, largest;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline void histogram_record(struct histogram *histogram, uint64_t value) {
    if (value >> 40) value = (UINT64_C(1) << 40) - 1;
    int shift = 63 - __builtin_clzll(value | HISTOGRAM_HALF) - (HISTOGRAM_BITS - 1);
    histogram->buckets[(uint64_t)shift * HISTOGRAM_HALF + (value >> shift)]++;
    histogram->total++;
    if (value > histogram->largest) histogram->largest = value;
}

/* The value that `percentile` of the records do not exceed: the upper end of its bucket, but never above the largest record. */
static inline uint64_t histogram_percentile(const struct histogram *histogram, double percentile) {
    uint64_t wanted = (uint64_t)(percentile / 100 * (double)histogram->total + 0.5), seen = 0;
    if (wanted < 1) wanted = 1;
    for (uint64_t index = 0; index < HISTOGRAM_BUCKETS; index++) {
        seen += histogram->buckets[index];
        if (seen < wanted) continue;
        uint64_t shift = index < 2 * HISTOGRAM_HALF ? 0 : index / HISTOGRAM_HALF - 1;
        uint64_t upper = ((index - shift * HISTOGRAM_HALF + 1) << shift) - 1;
        return upper < histogram->largest ? upper : histogram->largest;
    }
    return histogram->largest;
}

#endif
