/*
 * Counts the heap calls of the program that it is preloaded into, and at the program's end writes them to the file that ALLOCATIONS_OUTPUT
 * names: malloc, calloc, realloc, aligned, free. With ALLOCATIONS_STACKS=1 the stacks that called follow, the most frequent first.
 *
 *   cc -O2 -shared -fPIC -o count.so Tests/Allocations/count-allocations.c
 *   ALLOCATIONS_OUTPUT=/tmp/counts LD_PRELOAD=./count.so program
 */
#define _GNU_SOURCE
#include <errno.h>
#include <execinfo.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* glibc's own, under the names that it keeps for interposers. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *memory);

enum { MALLOC, CALLOC, REALLOC, ALIGNED, FREE, KINDS };
static const char *const names[KINDS] = {"malloc", "calloc", "realloc", "aligned", "free"};
static atomic_ullong counts[KINDS];

/* --- stacks, for whoever has to find a call ---------------------------------------------------------------------------- */

enum { FRAMES = 16, STACKS = 4096 };
struct stack {
    atomic_ullong hash; /* 0: free */
    atomic_ullong count;
    int depth;
    void *frames[FRAMES];
};
static struct stack stacks[STACKS];
static int wants_stacks;
/* Walking a stack may allocate. */
static __thread int is_walking;

static void note_stack(void) {
    if (!wants_stacks || is_walking) return;
    is_walking = 1;
    void *frames[FRAMES];
    int depth = backtrace(frames, FRAMES);
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < depth; i++) hash = (hash ^ (uintptr_t)frames[i]) * 1099511628211u;
    if (hash == 0) hash = 1;
    for (size_t probe = 0; probe < STACKS; probe++) {
        struct stack *stack = &stacks[(hash + probe) % STACKS];
        unsigned long long found = 0;
        if (atomic_compare_exchange_strong(&stack->hash, &found, hash)) {
            memcpy(stack->frames, frames, sizeof frames);
            stack->depth = depth;
        } else if (found != hash) {
            continue;
        }
        atomic_fetch_add(&stack->count, 1);
        break;
    }
    is_walking = 0;
}

static void count(int kind) {
    atomic_fetch_add_explicit(&counts[kind], 1, memory_order_relaxed);
    note_stack();
}

/* --- the calls --------------------------------------------------------------------------------------------------------- */

void *malloc(size_t size) {
    count(MALLOC);
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    count(CALLOC);
    return __libc_calloc(number, size);
}

void *realloc(void *memory, size_t size) {
    count(REALLOC);
    return __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size) {
    count(ALIGNED);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size) {
    void *memory = memalign(alignment, size);
    if (!memory) return ENOMEM;
    *out = memory;
    return 0;
}

void free(void *memory) {
    if (!memory) return;
    count(FREE);
    __libc_free(memory);
}

/* --- the report -------------------------------------------------------------------------------------------------------- */

static int more_frequent(const void *left, const void *right) {
    unsigned long long a = ((const struct stack *)left)->count, b = ((const struct stack *)right)->count;
    return (a < b) - (a > b);
}

__attribute__((constructor)) static void begin(void) { wants_stacks = getenv("ALLOCATIONS_STACKS") != NULL; }

__attribute__((destructor)) static void report(void) {
    wants_stacks = 0;
    unsigned long long seen[KINDS];
    for (int kind = 0; kind < KINDS; kind++) seen[kind] = atomic_load(&counts[kind]);
    const char *path = getenv("ALLOCATIONS_OUTPUT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    for (int kind = 0; kind < KINDS; kind++) fprintf(file, "%s %llu\n", names[kind], seen[kind]);
    qsort(stacks, STACKS, sizeof *stacks, more_frequent);
    for (int i = 0; i < 10 && stacks[i].count > 0; i++) {
        fprintf(file, "stack %llu\n", (unsigned long long)stacks[i].count);
        char **texts = backtrace_symbols(stacks[i].frames, stacks[i].depth);
        for (int frame = 2; texts && frame < stacks[i].depth; frame++) fprintf(file, "    %s\n", texts[frame]);
        free(texts);
    }
    fclose(file);
}
