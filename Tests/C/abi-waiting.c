/* The wait calls over many operations, and a libOS per thread. */
#include "abi.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MANY = 200 };

static void free_result(const demi_qresult_t *result) {
    demi_sgarray_t array = result->qr_value.sga;
    if (demi_sgafree(&array) != 0) ok(0, "a completion's array is freed");
}

static void test_any(void) {
    static int queues[MANY];
    static demi_qtoken_t tokens[MANY];
    demi_qresult_t result;
    int offset = -1, right = 1;
    for (int i = 0; i < MANY; i++) right &= demi_queue(&queues[i]) == 0 && demi_pop(&tokens[i], queues[i]) == 0;
    ok(right, "200 memory queues wait for a pop each");
    answers(demi_wait_any(&result, &offset, tokens, MANY, &at_once), ETIMEDOUT, "demi_wait_any times out");
    static const int order[] = {150, 3, 199, 0, 150};
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        int i = order[k];
        push_text(queues[i], "go");
        int error = demi_wait_any(&result, &offset, tokens, MANY, &long_enough);
        if (!ok(error == 0 && offset == i && result.qr_opcode == DEMI_OPC_POP && result.qr_qd == queues[i] && result.qr_qt == tokens[i],
                "demi_wait_any answers the completed one's offset, queue and token"))
            printf("#   error %d, offset %d for %d\n", error, offset, i);
        free_result(&result);
        right &= demi_pop(&tokens[i], queues[i]) == 0;
    }

    int served[MANY] = {0};
    for (int i = 0; i < MANY; i++) push_text(queues[i], "all");
    for (int i = 0; i < MANY; i++) {
        if (demi_wait_any(&result, &offset, tokens, MANY, &long_enough) != 0 || offset < 0 || offset >= MANY) break;
        served[offset]++;
        free_result(&result);
        /* Re-armed and fed at once: a libOS that serves low tokens first would never come to the last ones. */
        demi_sgarray_t array = array_of("again");
        demi_qtoken_t push = 0;
        right &= demi_pop(&tokens[offset], queues[offset]) == 0 && demi_push(&push, queues[offset], &array) == 0 && demi_sgafree(&array) == 0 &&
                 demi_wait(&result, push, &long_enough) == 0;
    }
    for (int i = 0; i < MANY; i++) right &= served[i] == 1;
    ok(right, "with everything ready all the time, 200 calls serve each of 200 tokens once");

    for (int i = 0; i < MANY; i++) right &= demi_close(queues[i]) == 0;
    static demi_qresult_t results[MANY];
    answers(demi_wait_all(results, tokens, MANY, &long_enough), 0, "after closing all queues, demi_wait_all takes all completions");
    for (int i = 0; i < MANY; i++) {
        demi_opcode_t opcode = results[i].qr_opcode;
        right &= results[i].qr_qt == tokens[i] && (opcode == DEMI_OPC_POP || (opcode == DEMI_OPC_FAILED && results[i].qr_ret == ECANCELED));
        if (opcode == DEMI_OPC_POP) free_result(&results[i]);
    }
    ok(right, "each of which is a pop's or ECANCELED");
    answers(demi_wait_all(results, tokens, MANY, &long_enough), EINVAL, "and uses the tokens up");
}

static void test_all(void) {
    int a = -1, b = -1;
    demi_qtoken_t tokens[2] = {0, 0};
    demi_qresult_t results[2];
    ok(demi_queue(&a) == 0 && demi_queue(&b) == 0 && demi_pop(&tokens[0], a) == 0 && demi_pop(&tokens[1], b) == 0, "two pops wait");
    push_text(b, "second");
    answers(demi_wait_all(results, tokens, 2, &at_once), ETIMEDOUT, "with one of two complete, demi_wait_all times out");
    push_text(a, "first");
    answers(demi_wait_all(results, tokens, 2, &long_enough), 0, "and has used up neither");
    ok(results[0].qr_qd == a && results[0].qr_qt == tokens[0] && results[0].qr_value.sga.sga_segs[0].sgaseg_len == 5 && results[1].qr_qd == b &&
           results[1].qr_value.sga.sga_segs[0].sgaseg_len == 6,
       "completions come in the tokens' order");
    free_result(&results[0]);
    free_result(&results[1]);
    ok(demi_close(a) == 0 && demi_close(b) == 0, "the queues close");
}

static void test_next_n(void) {
    int queue = -1, count = -1, total = 0, right = 1;
    demi_qtoken_t tokens[5];
    demi_qresult_t results[8];
    answers(demi_queue(&queue), 0, "a memory queue is made");
    answers(demi_wait_next_n(results, 8, &count, &at_once), ETIMEDOUT, "with nothing under way, demi_wait_next_n times out");
    ok(count == 0, "and answers no completions");
    for (int i = 0; i < 5; i++) {
        demi_sgarray_t array = array_of("12345678");
        array.sga_segs[0].sgaseg_len = (uint32_t)i + 1;
        right &= demi_push(&tokens[i], queue, &array) == 0 && demi_sgafree(&array) == 0;
    }
    ok(right, "five pushes are submitted");
    while (total < 5) {
        int error = demi_wait_next_n(results, 2, &count, &long_enough);
        if (error != 0 || count < 1 || count > 2) break;
        for (int i = 0; i < count; i++) right &= results[i].qr_opcode == DEMI_OPC_PUSH && results[i].qr_qt == tokens[total + i];
        total += count;
    }
    ok(right && total == 5, "demi_wait_next_n takes them, two at most a call, in the order of completion");
    answers(demi_wait(results, tokens[0], &at_once), EINVAL, "and uses their tokens up");
    for (int i = 0; i < 5; i++) right &= demi_pop(&tokens[i], queue) == 0;
    for (total = 0; total < 5; total += count) {
        count = 1;
        if (demi_wait_next_n(results, 8, &count, &long_enough) != 0) break;
        for (int i = 0; i < count; i++) {
            right &= results[i].qr_opcode == DEMI_OPC_POP && results[i].qr_value.sga.sga_segs[0].sgaseg_len == (uint32_t)(total + i) + 1;
            free_result(&results[i]);
        }
    }
    ok(right && total == 5, "five pops come in order too");
    answers(demi_close(queue), 0, "the queue closes");
}

/* Callers keep all of this in packed structures of their own. */
static void test_unaligned(void) {
    struct __attribute__((packed)) {
        char shift;
        int queue;
        demi_qtoken_t tokens[2];
        demi_qresult_t results[2];
        int offset;
        struct timespec timeout;
        demi_sgarray_t array;
        struct iovec piece;
    } in;
    memset(&in, 0, sizeof in);
    void *queue = (char *)&in + 1, *tokens = (char *)queue + sizeof(int), *second = (char *)tokens + sizeof(demi_qtoken_t);
    void *results = (char *)second + sizeof(demi_qtoken_t), *offset = (char *)results + 2 * sizeof(demi_qresult_t);
    void *timeout = (char *)offset + sizeof(int), *piece = (char *)timeout + sizeof(struct timespec) + sizeof(demi_sgarray_t);
    in.timeout.tv_sec = 10;
    answers(demi_queue(queue), 0, "unaligned: a queue's descriptor");
    in.array = array_of("unaligned");
    in.piece.iov_base = in.array.sga_buf;
    in.piece.iov_len = 2;
    answers(demi_push(tokens, in.queue, &in.array), 0, "unaligned: a push's token and array");
    answers(demi_pushv(second, in.queue, piece, 1), 0, "unaligned: a piece");
    answers(demi_wait_all(results, tokens, 2, timeout), 0, "unaligned: the tokens, results and timeout of demi_wait_all");
    answers(demi_sgafree(&in.array), 0, "unaligned: an array that is freed");
    ok(demi_pop(tokens, in.queue) == 0 && demi_pop(second, in.queue) == 0, "unaligned: the tokens of pops");
    answers(demi_wait_any(results, offset, second, 1, timeout), 0, "unaligned: demi_wait_any");
    in.array = in.results[0].qr_value.sga;
    ok(in.offset == 0 && in.array.sga_segs[0].sgaseg_len == 2 && demi_sgafree(&in.array) == 0, "delivers");
    answers(demi_wait_next_n(results, 2, offset, timeout), 0, "unaligned: demi_wait_next_n");
    in.array = in.results[0].qr_value.sga;
    ok(in.offset == 1 && in.array.sga_segs[0].sgaseg_len == 9 && demi_sgafree(&in.array) == 0, "delivers too");
    answers(demi_close(in.queue), 0, "the queue closes");
}

void test_waiting(void) {
    test_unaligned();
    test_any();
    test_all();
    test_next_n();
}

void test_without_libos(void);

/* A thread of its own, which connects to the main thread's listener and waits for its echo. */
struct peer {
    struct sockaddr_in address;
    int foreign; /* a descriptor of the main thread's */
    demi_qtoken_t foreign_token;
};

static void *run_peer(void *context) {
    struct peer *peer = context;
    struct demi_args args;
    int socket = -1;
    demi_qtoken_t token = 0;
    demi_qresult_t result;
    test_without_libos();
    memset(&args, 0, sizeof args);
    if (!answers(demi_init(&args), 0, "a second thread starts a libOS of its own")) return NULL;
    answers(demi_close(peer->foreign), EBADF, "in which the first one's descriptors mean nothing");
    answers(demi_wait(&result, peer->foreign_token, &at_once), EINVAL, "nor its tokens");
    ok(demi_socket(&socket, AF_INET, SOCK_STREAM, 0) == 0 && socket == 500, "its descriptors start at 500 again");
    answers(connect4(&token, socket, peer->address), 0, "it connects to the first thread");
    completes(token, DEMI_OPC_CONNECT, "the connect completes");
    push_text(socket, "between threads");
    pops_text(socket, "between threads");
    answers(demi_close(socket), 0, "it closes");
    return NULL;
}

void test_threads(void) {
    struct peer peer;
    pthread_t thread;
    char bytes[32];
    int queues[4], right = 1;
    demi_qtoken_t accept = 0;
    for (int i = 0; i < 4; i++) right &= demi_queue(&queues[i]) == 0;
    peer.foreign = queues[3];
    right &= demi_pop(&peer.foreign_token, queues[3]) == 0;
    int listener = bound(SOCK_STREAM, &peer.address);
    ok(right && demi_listen(listener, 1) == 0 && demi_accept(&accept, listener) == 0, "the first thread listens");
    if (!ok(pthread_create(&thread, NULL, run_peer, &peer) == 0, "a second thread starts")) return;
    demi_qresult_t result = completes(accept, DEMI_OPC_ACCEPT, "the first thread accepts it");
    int server = result.qr_value.ares.qd;
    size_t length = pop_bytes(server, bytes, strlen("between threads"));
    ok(length == 15 && memcmp(bytes, "between threads", 15) == 0, "and pops its text");
    push_text(server, "between threads");
    pops_end(server, "then the end of its stream");
    ok(pthread_join(thread, NULL) == 0, "the second thread ends");
    ok(demi_close(server) == 0 && demi_close(listener) == 0, "the sockets close");
    for (int i = 0; i < 4; i++) right &= demi_close(queues[i]) == 0;
    ok(right, "the first thread's libOS is unharmed");
    fails(peer.foreign_token, ECANCELED, "its pending pop is cancelled");
}
