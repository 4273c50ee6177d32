/* The C ABI's calls in loops, as a C program makes them: through the public headers. */
#define _POSIX_C_SOURCE 200809L
#include "CDemikernelBench.h"

#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <errno.h>
#include <stdlib.h>

static const struct timespec at_once = {0, 0};

int dk_bench_wait_any_invalid(int count, int repetitions) {
    /* Filled once, and kept: a round is to cost its calls alone. */
    static demi_qtoken_t *tokens;
    if (count < 1 || count > DK_BENCH_TOKENS) return EINVAL;
    if (!tokens) {
        tokens = malloc(DK_BENCH_TOKENS * sizeof *tokens);
        if (!tokens) return ENOMEM;
        for (int i = 0; i < DK_BENCH_TOKENS; i++) tokens[i] = UINT64_MAX;
    }
    int unexpected = 0;
    for (int i = 0; i < repetitions; i++) {
        demi_qresult_t result;
        int offset;
        unexpected |= demi_wait_any(&result, &offset, tokens, count, &at_once) ^ EINVAL;
    }
    return unexpected ? EIO : 0;
}

int dk_bench_queue_push_pop(int size, int repetitions) {
    int queue, error = demi_queue(&queue);
    if (error) return error;
    demi_sgarray_t array = demi_sgaalloc((size_t)size);
    if (!array.sga_buf) error = ENOMEM;
    for (int i = 0; !error && i < repetitions; i++) {
        demi_qtoken_t token;
        demi_qresult_t result;
        error = demi_push(&token, queue, &array);
        /* The application's reference goes; the pop brings another. */
        if (!error) error = demi_sgafree(&array);
        if (!error) error = demi_wait(&result, token, NULL);
        if (!error) error = demi_pop(&token, queue);
        if (!error) error = demi_wait(&result, token, NULL);
        if (!error) array = result.qr_value.sga;
    }
    if (!error) error = demi_sgafree(&array);
    int closing = demi_close(queue);
    return error ? error : closing;
}

int dk_bench_allocate_free(int size, int repetitions) {
    for (int i = 0; i < repetitions; i++) {
        demi_sgarray_t array = demi_sgaalloc((size_t)size);
        int error = demi_sgafree(&array);
        if (error) return error;
    }
    return 0;
}
