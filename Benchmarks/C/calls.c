/*
 * What the C calls cost, a JSON object per line: name, unit, minimum, median, repetitions. No thread but this one, no device but memory.
 *
 *   cc -O2 -I Sources/CDemikernel/include -o calls Benchmarks/C/calls.c -L .build/library -ldemikernel
 */
#define _POSIX_C_SOURCE 200809L
#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MANY = 1048576, ROUNDS = 101 };

static demi_qtoken_t *many_tokens;
static int queue;
static const struct timespec at_once = {0, 0};

static void check(int error, const char *what) {
    if (error == 0) return;
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(1);
}

static void wait_any_of(int count) {
    demi_qresult_t result;
    int offset;
    if (demi_wait_any(&result, &offset, many_tokens, count, &at_once) == 0) exit(1);
}

static void wait_any_one(void) { wait_any_of(1); }
static void wait_any_many(void) { wait_any_of(MANY); }

static void allocate_64(void) {
    demi_sgarray_t array = demi_sgaalloc(64);
    if (demi_sgafree(&array) != 0) exit(1);
}

static void push_and_pop(void) {
    demi_qtoken_t push, pop;
    demi_qresult_t result;
    demi_sgarray_t array = demi_sgaalloc(64);
    int error = demi_push(&push, queue, &array) | demi_sgafree(&array) | demi_wait(&result, push, NULL) | demi_pop(&pop, queue) |
                demi_wait(&result, pop, NULL);
    array = result.qr_value.sga;
    if (error != 0 || demi_sgafree(&array) != 0) exit(1);
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void measure(const char *name, void (*operation)(void), int repetitions) {
    double rounds[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (int i = 0; i < repetitions; i++) operation();
        clock_gettime(CLOCK_MONOTONIC, &end);
        rounds[round] = ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / repetitions;
    }
    qsort(rounds, ROUNDS, sizeof *rounds, ascending);
    printf("{\"name\":\"%s\",\"unit\":\"ns\",\"minimum\":%.2f,\"median\":%.2f,\"repetitions\":%d}\n", name, rounds[0], rounds[ROUNDS / 2],
           ROUNDS * repetitions);
}

int main(void) {
    struct demi_args args;
    memset(&args, 0, sizeof args);
    check(demi_init(&args), "demi_init");
    check(demi_queue(&queue), "demi_queue");
    many_tokens = malloc(MANY * sizeof *many_tokens);
    if (!many_tokens) return 1;
    for (int i = 0; i < MANY; i++) many_tokens[i] = UINT64_MAX;
    measure("c.wait-any-invalid.1", wait_any_one, 2000);
    measure("c.wait-any-invalid", wait_any_many, 2000);
    measure("c.sgaalloc-sgafree.64", allocate_64, 2000);
    measure("c.queue.push-pop", push_and_pop, 1000);
    free(many_tokens);
    return 0;
}
