/* Tests of the C ABI through a compiled C program, as a user's is: layouts, life cycle, then every group. `./abi`; status 1 when a check failed. */
#include "abi.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void test_layouts(void) {
    ok(sizeof(demi_qtoken_t) == 8, "demi_qtoken_t has 8 bytes");
    ok(sizeof(demi_sgaseg_t) == 12 && offsetof(demi_sgaseg_t, sgaseg_buf) == 0 && offsetof(demi_sgaseg_t, sgaseg_len) == 8,
       "demi_sgaseg_t: 12 bytes, fields at 0, 8");
    ok(sizeof(demi_sgarray_t) == 40 && offsetof(demi_sgarray_t, sga_buf) == 0 && offsetof(demi_sgarray_t, sga_numsegs) == 8 &&
           offsetof(demi_sgarray_t, sga_segs) == 12 && offsetof(demi_sgarray_t, sga_addr) == 24 && DEMI_SGARRAY_MAXSIZE == 1,
       "demi_sgarray_t: 40 bytes, fields at 0, 8, 12, 24");
    ok(sizeof(demi_accept_result_t) == 20 && offsetof(demi_accept_result_t, qd) == 0 && offsetof(demi_accept_result_t, addr) == 4,
       "demi_accept_result_t: 20 bytes, fields at 0, 4");
    ok(sizeof(demi_qresult_t) == 64 && offsetof(demi_qresult_t, qr_opcode) == 0 && offsetof(demi_qresult_t, qr_qd) == 4 &&
           offsetof(demi_qresult_t, qr_qt) == 8 && offsetof(demi_qresult_t, qr_ret) == 16 && offsetof(demi_qresult_t, qr_value) == 24,
       "demi_qresult_t: 64 bytes, fields at 0, 4, 8, 16, 24");
    ok(sizeof(struct demi_args) == 20 && offsetof(struct demi_args, argc) == 0 && offsetof(struct demi_args, argv) == 4 &&
           offsetof(struct demi_args, callback) == 12,
       "struct demi_args: 20 bytes, fields at 0, 4, 12");
    ok(DEMI_OPC_INVALID == 0 && DEMI_OPC_PUSH == 1 && DEMI_OPC_POP == 2 && DEMI_OPC_ACCEPT == 3 && DEMI_OPC_CONNECT == 4 &&
           DEMI_OPC_CLOSE == 5 && DEMI_OPC_FAILED == 6,
       "the opcodes have their values");
}

static int all_zero(const demi_sgarray_t *array) {
    static const demi_sgarray_t zero;
    return memcmp(array, &zero, sizeof zero) == 0;
}

/* Every call on a thread without a libOS. Also run on a fresh thread by test_threads. */
void test_without_libos(void);
void test_without_libos(void) {
    int qd = 0, offset = 0;
    char option[16] = {0}, byte = 0;
    socklen_t size = sizeof(struct sockaddr_in);
    demi_qtoken_t token = 1;
    demi_qresult_t result;
    struct sockaddr_in address = loopback(7);
    struct sockaddr *generic = (struct sockaddr *)&address;
    struct iovec piece = {&byte, 1};
    demi_sgarray_t array;
    memset(&array, 0, sizeof array);
    answers(demi_socket(&qd, AF_INET, SOCK_STREAM, 0), ENOSYS, "before demi_init, demi_socket answers ENOSYS");
    answers(demi_listen(500, 1), ENOSYS, "demi_listen likewise");
    answers(demi_bind(500, generic, size), ENOSYS, "demi_bind");
    answers(demi_accept(&token, 500), ENOSYS, "demi_accept");
    answers(demi_connect(&token, 500, generic, size), ENOSYS, "demi_connect");
    answers(demi_close(500), ENOSYS, "demi_close");
    answers(demi_shutdown(500, SHUT_WR), ENOSYS, "demi_shutdown");
    answers(demi_push(&token, 500, &array), ENOSYS, "demi_push");
    answers(demi_pushto(&token, 500, &array, generic, size), ENOSYS, "demi_pushto");
    answers(demi_pushv(&token, 500, &piece, 1), ENOSYS, "demi_pushv");
    answers(demi_pop(&token, 500), ENOSYS, "demi_pop");
    answers(demi_setsockopt(500, SOL_SOCKET, SO_LINGER, option, 8), ENOSYS, "demi_setsockopt");
    answers(demi_getsockopt(500, SOL_SOCKET, SO_LINGER, option, &size), ENOSYS, "demi_getsockopt");
    answers(demi_getpeername(500, generic, &size), ENOSYS, "demi_getpeername");
    answers(demi_getsockname(500, generic, &size), ENOSYS, "demi_getsockname");
    answers(demi_sgafree(&array), ENOSYS, "demi_sgafree");
    answers(demi_wait(&result, token, &at_once), ENOSYS, "demi_wait");
    answers(demi_wait_any(&result, &offset, &token, 1, &at_once), ENOSYS, "demi_wait_any");
    answers(demi_wait_all(&result, &token, 1, &at_once), ENOSYS, "demi_wait_all");
    answers(demi_wait_next_n(&result, 1, &offset, &at_once), ENOSYS, "demi_wait_next_n");
    answers(demi_cancel(token), ENOSYS, "demi_cancel");
    answers(demi_queue(&qd), ENOSYS, "demi_queue");
    answers(demi_open(&qd, "/dev/null", 0), ENOSYS, "demi_open");
    answers(demi_creat(&qd, "/nonexistent/file", 0600), ENOSYS, "demi_creat");
    answers(demi_lseek(500, 0, SEEK_SET), ENOSYS, "demi_lseek");
    answers(demi_truncate(500, 0), ENOSYS, "demi_truncate");
    array = demi_sgaalloc(64);
    ok(all_zero(&array), "before demi_init, demi_sgaalloc answers an all-zero array");
    ok(demi_malloc(64) == NULL, "before demi_init, demi_malloc answers NULL");
    demi_free(NULL);
    ok(1, "before demi_init, demi_free(NULL) does nothing");
}

static void test_init(void) {
    struct demi_args args;
    memset(&args, 0, sizeof args);
    answers(demi_init(NULL), EINVAL, "demi_init(NULL) answers EINVAL");
    args.argc = -1;
    answers(demi_init(&args), EINVAL, "demi_init with a negative argc answers EINVAL");
    args.argc = 0;
    if (!answers(demi_init(&args), 0, "demi_init answers 0, after failures too")) exit(1);
    answers(demi_init(&args), EEXIST, "a second demi_init on the thread answers EEXIST");
    answers(demi_init(NULL), EINVAL, "demi_init(NULL) answers EINVAL afterwards too");
}

static void test_descriptors(void) {
    int a = 0, b = 0, c = 0;
    ok(demi_socket(&a, AF_INET, SOCK_STREAM, 0) == 0 && a == 500, "the first queue descriptor is 500");
    ok(demi_socket(&b, AF_INET, SOCK_DGRAM, 0) == 0 && b == 501, "the second is 501");
    answers(demi_close(a), 0, "500 closes");
    answers(demi_close(a), EBADF, "500 cannot be closed twice");
    ok(demi_queue(&c) == 0 && c == 500, "the lowest free descriptor comes first");
    ok(demi_close(b) == 0 && demi_close(c) == 0, "both close");
}

int main(void) {
    signal(SIGALRM, SIG_DFL);
    alarm(300); /* the guard against a call that never returns */
    setenv("LIBOS", "catnap", 0);
    test_layouts();
    test_without_libos();
    test_init();
    test_descriptors();
    test_arguments();
    test_memory();
    test_queues();
    test_files();
    test_sockets();
    test_datagrams();
    test_waiting();
    test_threads();
    return 0;
}
