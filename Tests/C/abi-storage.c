/* Heap memory, memory queues and files. */
#include "abi.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_zero(demi_sgarray_t array) {
    static const demi_sgarray_t zero;
    return memcmp(&array, &zero, sizeof zero) == 0;
}

static void test_allocation(void) {
    static const size_t sizes[] = {1, 63, 64, 65, 2048, 65535, 65536, 65537, 1 << 20, 5 << 20};
    ok(is_zero(demi_sgaalloc(0)), "demi_sgaalloc(0) answers an all-zero array");
    ok(is_zero(demi_sgaalloc(SIZE_MAX)), "demi_sgaalloc(SIZE_MAX) answers an all-zero array");
    ok(is_zero(demi_sgaalloc((size_t)1 << 40)), "demi_sgaalloc of a terabyte answers an all-zero array");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        demi_sgarray_t array = demi_sgaalloc(sizes[i]);
        if (!ok(array.sga_numsegs == 1 && array.sga_segs[0].sgaseg_len == sizes[i] && array.sga_segs[0].sgaseg_buf && array.sga_buf,
                "an array of the size asked for"))
            continue;
        memset(array.sga_segs[0].sgaseg_buf, 0xa5, sizes[i]);
        answers(demi_sgafree(&array), 0, "written to its end, and freed");
    }
    ok(demi_malloc(0) == NULL && demi_malloc(SIZE_MAX) == NULL, "demi_malloc answers NULL to 0 and SIZE_MAX");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *memory = demi_malloc(sizes[i]);
        if (!ok(memory != NULL && (uintptr_t)memory % 16 == 0, "demi_malloc answers memory aligned to 16")) continue;
        memset(memory, 0xa5, sizes[i]);
        demi_free(memory);
    }
    demi_free(NULL);
    ok(1, "demi_free(NULL) does nothing");
}

static void test_free(void) {
    char local[64] = {0};
    demi_sgarray_t array = demi_sgaalloc(1000), copy = array, forged, zero;
    answers(demi_sgafree(&array), 0, "an array is freed");
    answers(demi_sgafree(&copy), EINVAL, "a copy of it, freed once more, is EINVAL");
    memset(&zero, 0, sizeof zero);
    answers(demi_sgafree(&zero), EINVAL, "an all-zero array is EINVAL");
    memset(&forged, 0, sizeof forged);
    forged.sga_buf = local;
    forged.sga_numsegs = 1;
    forged.sga_segs[0].sgaseg_buf = local;
    forged.sga_segs[0].sgaseg_len = sizeof local;
    answers(demi_sgafree(&forged), EINVAL, "an array over the stack is EINVAL");
    demi_free(local);
    demi_free(&local[1]);
    ok(1, "demi_free of the stack's memory changes nothing");
    array = demi_sgaalloc(1000);
    array.sga_segs[0].sgaseg_buf = (char *)array.sga_segs[0].sgaseg_buf + 10;
    array.sga_segs[0].sgaseg_len = 10;
    answers(demi_sgafree(&array), 0, "an array whose segment was moved is freed");
}

static void test_bad_arrays(int queue) {
    char local[64] = {0};
    demi_qtoken_t token = 0;
    demi_sgarray_t array = demi_sgaalloc(100), bad = array;
    char *begin = array.sga_segs[0].sgaseg_buf;
    bad.sga_segs[0].sgaseg_len = 0;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: length 0 is EINVAL");
    bad = array;
    bad.sga_numsegs = 0;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: no segment is EINVAL");
    bad.sga_numsegs = 2;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: two segments are EINVAL");
    bad.sga_numsegs = UINT32_MAX;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: very many segments are EINVAL");
    bad = array;
    bad.sga_segs[0].sgaseg_buf = local;
    bad.sga_segs[0].sgaseg_len = sizeof local;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: a segment outside its allocation is EINVAL");
    bad.sga_buf = local;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: an array over the stack is EINVAL");
    bad.sga_buf = NULL;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: an array without an allocation is EINVAL");
    bad = array;
    bad.sga_segs[0].sgaseg_buf = begin - 1;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: a segment that begins before its allocation is EINVAL");
    bad.sga_segs[0].sgaseg_buf = begin;
    bad.sga_segs[0].sgaseg_len = UINT32_MAX;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: a segment that ends beyond its allocation is EINVAL");
    bad.sga_segs[0].sgaseg_buf = NULL;
    bad.sga_segs[0].sgaseg_len = 1;
    answers(demi_push(&token, queue, &bad), EINVAL, "demi_push: a NULL segment is EINVAL");
    answers(demi_sgafree(&array), 0, "the failed pushes took nothing");
}

void test_memory(void) {
    test_allocation();
    test_free();
    int queue = -1;
    answers(demi_queue(&queue), 0, "a memory queue is made");
    test_bad_arrays(queue);

    demi_qtoken_t token = 0;
    demi_sgarray_t array = array_of("0123456789");
    array.sga_segs[0].sgaseg_buf = (char *)array.sga_segs[0].sgaseg_buf + 3;
    array.sga_segs[0].sgaseg_len = 4;
    answers(demi_push(&token, queue, &array), 0, "a segment moved within its allocation is pushed");
    completes(token, DEMI_OPC_PUSH, "and completes");
    answers(demi_sgafree(&array), 0, "and is freed");
    for (int i = 0; i < 1000; i++) { /* would take the memory over, were it free already */
        demi_sgarray_t other = demi_sgaalloc(10);
        memset(other.sga_segs[0].sgaseg_buf, 'x', 10);
        if (demi_sgafree(&other) != 0) ok(0, "an array is freed");
    }
    pops_text(queue, "3456");

    array = array_of("once");
    demi_sgarray_t copy = array;
    answers(demi_push(&token, queue, &array), 0, "an array is pushed");
    answers(demi_sgafree(&array), 0, "and freed by the application");
    answers(demi_sgafree(&copy), EINVAL, "but not twice, although the libOS still holds it");
    completes(token, DEMI_OPC_PUSH, "the push completes");
    pops_text(queue, "once");
    answers(demi_close(queue), 0, "the queue closes");
}

static void test_pieces(int queue) {
    char local[8] = "stack";
    char *first = demi_malloc(100), *second = demi_malloc(5000);
    demi_qtoken_t token = 0;
    memcpy(first + 7, "gather", 6);
    memcpy(second, "ed write", 8);
    struct iovec pieces[3] = {{first + 7, 6}, {first, 0}, {second, 8}}, stack = {local, 5}, empty = {first, 0}, beyond = {second, SIZE_MAX / 2};
    answers(demi_pushv(NULL, queue, pieces, 3), EINVAL, "demi_pushv: a NULL token is EINVAL");
    answers(demi_pushv(&token, queue, pieces, 0), EINVAL, "demi_pushv: no piece is EINVAL");
    answers(demi_pushv(&token, queue, pieces, -1), EINVAL, "demi_pushv: a negative count is EINVAL");
    answers(demi_pushv(&token, queue, pieces, 1025), EINVAL, "demi_pushv: more than 1,024 pieces are EINVAL");
    answers(demi_pushv(&token, queue, &stack, 1), EINVAL, "demi_pushv: memory that is not the heap's is EINVAL");
    answers(demi_pushv(&token, queue, &empty, 1), EINVAL, "demi_pushv: no bytes at all are EINVAL");
    answers(demi_pushv(&token, queue, &beyond, 1), EINVAL, "demi_pushv: a piece that ends beyond its allocation is EINVAL");
    answers(demi_pushv(&token, queue, pieces, 3), 0, "three pieces are pushed as one");
    demi_free(first);
    demi_free(second);
    completes(token, DEMI_OPC_PUSH, "the push completes, its memory freed meanwhile");
    demi_sgarray_t array;
    answers(demi_pop(&token, queue), 0, "a pop is submitted");
    array = completes(token, DEMI_OPC_POP, "and completes").qr_value.sga;
    ok(array.sga_segs[0].sgaseg_len == 14 && memcmp(array.sga_segs[0].sgaseg_buf, "gathered write", 14) == 0, "one element holds all pieces");
    answers(demi_sgafree(&array), 0, "it is freed");
}

void test_queues(void) {
    int queue = -1;
    demi_qtoken_t pops[2] = {0, 0};
    answers(demi_queue(&queue), 0, "a memory queue is made");
    push_text(queue, "first");
    push_text(queue, "second");
    pops_text(queue, "first");
    pops_text(queue, "second");
    test_pieces(queue);

    ok(demi_pop(&pops[0], queue) == 0 && demi_pop(&pops[1], queue) == 0, "two pops wait");
    push_text(queue, "third");
    demi_sgarray_t array = completes(pops[0], DEMI_OPC_POP, "the first of them gets what is pushed").qr_value.sga;
    ok(array.sga_segs[0].sgaseg_len == 5 && memcmp(array.sga_segs[0].sgaseg_buf, "third", 5) == 0, "and it is that");
    answers(demi_sgafree(&array), 0, "it is freed");
    answers(demi_close(queue), 0, "the queue closes");
    fails(pops[1], ECANCELED, "the second pop is cancelled");
}

void test_files(void) {
    char folder[] = "/tmp/demikernel-abi-XXXXXX", path[64], bytes[64];
    int file = -1, other = -1;
    struct stat status;
    if (!ok(mkdtemp(folder) != NULL, "a folder is made")) return;
    snprintf(path, sizeof path, "%s/log", folder);
    int error = demi_creat(&file, path, 0600);
    if (error == ENOTSUP) {
        skip("this libOS has no files");
        rmdir(folder);
        return;
    }
    answers(error, 0, "demi_creat makes a file");
    ok(stat(path, &status) == 0 && (status.st_mode & 0777) == 0600, "of the mode asked for");
    push_text(file, "append");
    push_text(file, " and ");
    push_text(file, "read");
    pops_text(file, "append and read");
    pops_end(file, "a pop at the end of the file completes");
    answers(demi_lseek(file, 7, SEEK_SET), 0, "the cursor moves to 7");
    pops_text(file, "and read");
    answers(demi_lseek(file, -4, SEEK_END), 0, "the cursor moves to 4 before the end");
    push_text(file, "!");
    pops_text(file, "read!");
    answers(demi_lseek(file, -1, SEEK_CUR), 0, "the cursor moves 1 back");
    pops_text(file, "!");
    answers(demi_lseek(file, -1, SEEK_SET), EINVAL, "demi_lseek: before the start is EINVAL");
    answers(demi_lseek(file, 0, 99), EINVAL, "demi_lseek: an unknown whence is EINVAL");
    answers(demi_truncate(file, -1), EINVAL, "demi_truncate: a negative length is EINVAL");
    answers(demi_truncate(file, 6), 0, "the file is cut to 6");
    ok(stat(path, &status) == 0 && status.st_size == 6, "and has that length");
    answers(demi_lseek(file, 0, SEEK_SET), 0, "the cursor moves to the start");
    memset(bytes, 0, sizeof bytes);
    ok(pop_bytes(file, bytes, sizeof bytes) == 6 && memcmp(bytes, "append", 6) == 0, "6 bytes are left");
    test_pieces(file);
    answers(demi_listen(file, 1), ENOTSOCK, "demi_listen: a file is ENOTSOCK");
    answers(demi_close(file), 0, "the file closes");

    answers(demi_open(&other, path, O_RDWR | O_CREAT | O_EXCL), EEXIST, "demi_open: O_EXCL on an existing file is EEXIST");
    answers(demi_open(&other, folder, O_RDWR), EISDIR, "demi_open: a folder is EISDIR");
    answers(demi_open(&other, path, O_RDWR | O_DSYNC), 0, "demi_open opens it again, durably");
    push_text(other, "?");
    ok(stat(path, &status) == 0 && status.st_size == 6 + 14 + 1, "a push appends to what is there");
    answers(demi_close(other), 0, "it closes");
    answers(demi_creat(&other, path, 0600), 0, "demi_creat opens an existing file");
    ok(stat(path, &status) == 0 && status.st_size == 0, "and empties it");
    answers(demi_close(other), 0, "it closes");
    ok(unlink(path) == 0 && rmdir(folder) == 0, "file and folder are removed");
    answers(demi_open(&other, path, O_RDONLY), ENOENT, "demi_open: a missing file is ENOENT");
}
