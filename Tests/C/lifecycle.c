/*
 * A thread's libOS ends with its thread, and everything in it; the library survives dlclose. The argument is the library's path.
 *
 * For the library of Scripts/build-library: the build folder's own is not linked to survive dlclose.
 * Nothing here is linked with the library: it comes by dlopen, as into a program that is a plug-in's host.
 */
#define _GNU_SOURCE
#define DEMI_NO_NONNULL
#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks, failures;

static void ok(int condition, const char *text) {
    printf("%s %d - %s\n", condition ? "ok" : "not ok", ++checks, text);
    failures += !condition;
}

static struct {
    int (*init)(const struct demi_args *);
    int (*socket)(int *, int, int, int);
    int (*queue)(int *);
    int (*bind)(int, const struct sockaddr *, socklen_t);
    int (*listen)(int, int);
    int (*accept)(demi_qtoken_t *, int);
    int (*push)(demi_qtoken_t *, int, const demi_sgarray_t *);
    demi_sgarray_t (*sgaalloc)(size_t);
    int (*sgafree)(demi_sgarray_t *);
} demi;

static void find(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    if (!symbol) exit((fprintf(stderr, "%s\n", dlerror()), 1));
    memcpy(function, &symbol, sizeof symbol);
}

/* Starts a libOS and leaves it behind: a listener with a pending accept, a queue with something in it. Answers NULL where all went well. */
static void *leave_behind(void *unused) {
    static char bad;
    struct demi_args args;
    struct sockaddr_in address;
    int listener, queue;
    demi_qtoken_t token;
    memset(&args, 0, sizeof args);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (demi.socket(&listener, AF_INET, SOCK_STREAM, 0) != ENOSYS) return &bad;
    if (demi.init(&args) != 0 || demi.init(&args) != EEXIST) return &bad;
    if (demi.socket(&listener, AF_INET, SOCK_STREAM, 0) != 0 || demi.bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        demi.listen(listener, 1) != 0 || demi.accept(&token, listener) != 0 || demi.queue(&queue) != 0)
        return &bad;
    demi_sgarray_t array = demi.sgaalloc(100000);
    if (array.sga_numsegs != 1 || demi.push(&token, queue, &array) != 0 || demi.sgafree(&array) != 0) return &bad;
    return unused;
}

static int run_thread(void) {
    pthread_t thread;
    void *result = NULL;
    return pthread_create(&thread, NULL, leave_behind, NULL) == 0 && pthread_join(thread, &result) == 0 && result == NULL;
}

static int count_descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    while (folder && readdir(folder)) count++;
    if (folder) closedir(folder);
    return count;
}

/* Address space in pages. */
static long count_pages(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    long pages = -1;
    if (file && fscanf(file, "%ld", &pages) != 1) pages = -1;
    if (file) fclose(file);
    return pages;
}

static void *wait_for_library_to_close(void *barrier) {
    void *result = leave_behind(NULL);
    pthread_barrier_wait(barrier); /* the libOS runs */
    pthread_barrier_wait(barrier); /* the library is closed */
    return result;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    find(library, "demi_init", &demi.init);
    find(library, "demi_socket", &demi.socket);
    find(library, "demi_queue", &demi.queue);
    find(library, "demi_bind", &demi.bind);
    find(library, "demi_listen", &demi.listen);
    find(library, "demi_accept", &demi.accept);
    find(library, "demi_push", &demi.push);
    find(library, "demi_sgaalloc", &demi.sgaalloc);
    find(library, "demi_sgafree", &demi.sgafree);

    int good = 1;
    /* The first ones also find out what the process itself keeps: stacks of threads, the allocator's arenas. */
    for (int i = 0; i < 3; i++) good &= run_thread();
    int descriptors = count_descriptors();
    long pages = count_pages();
    for (int i = 0; i < 30; i++) good &= run_thread();
    ok(good, "33 threads, one after the other, start a libOS each and leave all of it behind");
    ok(count_descriptors() == descriptors, "no file descriptor is left");
    ok(count_pages() - pages < 256 * 1024, "nor address space, of which a heap takes 4 GiB"); /* less than 1 GiB more */

    pthread_t thread;
    pthread_barrier_t barrier;
    void *result = NULL;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, wait_for_library_to_close, &barrier);
    pthread_barrier_wait(&barrier);
    dlclose(library);
    pthread_barrier_wait(&barrier);
    ok(pthread_join(thread, &result) == 0 && result == NULL, "a thread whose libOS runs may end after dlclose");
    printf("1..%d\n", checks);
    return failures > 0;
}
