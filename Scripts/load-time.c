/* Prints how many nanoseconds dlopen of the library that its argument names took, and then demi_init. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv) {
    char arguments[20] = {0}; /* struct demi_args, all zero */
    if (argc != 2) return 2;
    long long start = now();
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    long long loaded = now();
    int (*init)(const void *) = NULL;
    void *symbol = library ? dlsym(library, "demi_init") : NULL;
    memcpy(&init, &symbol, sizeof init);
    if (!init) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    int error = init(arguments);
    long long started = now();
    if (error != 0) return 1;
    printf("%lld %lld\n", loaded - start, started - loaded);
    return 0;
}
