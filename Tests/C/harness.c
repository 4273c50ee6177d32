/* What the C ABI tests have in common: counted checks, sockets and pairs of connections on loopback, pushes and pops of text. */
#include "abi.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

const struct timespec long_enough = {10, 0};
const struct timespec at_once = {0, 0};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int checks, failures;

static void report(void) {
    printf("1..%d\n", checks);
    if (failures > 0) printf("# %d of %d failed\n", failures, checks);
    fflush(stdout);
    if (failures > 0) _Exit(1);
}

int ok(int condition, const char *text) {
    pthread_mutex_lock(&lock);
    if (checks == 0) atexit(report);
    printf("%s %d - %s\n", condition ? "ok" : "not ok", ++checks, text);
    fflush(stdout);
    failures += !condition;
    pthread_mutex_unlock(&lock);
    return condition;
}

int answers(int answer, int expected, const char *text) {
    if (ok(answer == expected, text)) return 1;
    printf("#   expected %d (%s), got %d (%s)\n", expected, strerror(expected), answer, strerror(answer));
    return 0;
}

void skip(const char *text) {
    pthread_mutex_lock(&lock);
    printf("ok %d - # SKIP %s\n", ++checks, text);
    pthread_mutex_unlock(&lock);
}

demi_qresult_t completes(demi_qtoken_t token, demi_opcode_t opcode, const char *text) {
    demi_qresult_t result;
    memset(&result, 0, sizeof result);
    int error = demi_wait(&result, token, &long_enough);
    demi_opcode_t found = result.qr_opcode;
    if (!ok(error == 0 && found == opcode && result.qr_qt == token, text))
        printf("#   wait answered %d (%s), opcode %d, ret %lld\n", error, strerror(error), found, (long long)result.qr_ret);
    return result;
}

void fails(demi_qtoken_t token, int error, const char *text) {
    demi_qresult_t result = completes(token, DEMI_OPC_FAILED, text);
    if (result.qr_opcode == DEMI_OPC_FAILED && result.qr_ret != error) {
        ok(0, text);
        printf("#   expected %s, got %s\n", strerror(error), strerror((int)result.qr_ret));
    }
}

struct sockaddr_in loopback(int port) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int bind4(int socket, struct sockaddr_in address) { return demi_bind(socket, (struct sockaddr *)&address, sizeof address); }

int connect4(demi_qtoken_t *token, int socket, struct sockaddr_in address) {
    return demi_connect(token, socket, (struct sockaddr *)&address, sizeof address);
}

int bound(int type, struct sockaddr_in *address) {
    int socket = -1;
    socklen_t size = sizeof *address;
    if (demi_socket(&socket, AF_INET, type, 0) != 0 || bind4(socket, loopback(0)) != 0 ||
        demi_getsockname(socket, (struct sockaddr *)address, &size) != 0)
        ok(0, "a socket is bound to a free port of 127.0.0.1");
    return socket;
}

struct connection connection_pair(void) {
    struct connection connection = {-1, -1, -1, loopback(0)};
    demi_qtoken_t tokens[2] = {0, 0};
    demi_qresult_t results[2];
    memset(results, 0, sizeof results);
    connection.listener = bound(SOCK_STREAM, &connection.address);
    int error = demi_listen(connection.listener, 16);
    if (error == 0) error = demi_accept(&tokens[0], connection.listener);
    if (error == 0) error = demi_socket(&connection.client, AF_INET, SOCK_STREAM, 0);
    if (error == 0) error = connect4(&tokens[1], connection.client, connection.address);
    if (error == 0) error = demi_wait_all(results, tokens, 2, &long_enough);
    connection.server = results[0].qr_value.ares.qd;
    ok(error == 0 && results[0].qr_opcode == DEMI_OPC_ACCEPT && results[1].qr_opcode == DEMI_OPC_CONNECT,
       "two sockets of one thread connect over loopback");
    return connection;
}

void close_connection(struct connection *connection) {
    int one = demi_close(connection->client), two = demi_close(connection->server), three = demi_close(connection->listener);
    ok(one == 0 && two == 0 && three == 0, "the connection and its listener close");
}

demi_sgarray_t array_of(const char *text) {
    demi_sgarray_t array = demi_sgaalloc(strlen(text));
    if (array.sga_numsegs == 1) memcpy(array.sga_segs[0].sgaseg_buf, text, strlen(text));
    else ok(0, "demi_sgaalloc answers an array");
    return array;
}

void push_text(int queue, const char *text) {
    demi_qtoken_t token = 0;
    demi_sgarray_t array = array_of(text);
    int error = demi_push(&token, queue, &array), freed = demi_sgafree(&array);
    demi_qresult_t result;
    memset(&result, 0, sizeof result);
    int waited = error == 0 ? demi_wait(&result, token, &long_enough) : 0;
    demi_opcode_t opcode = result.qr_opcode;
    if (!ok(error == 0 && freed == 0 && waited == 0 && opcode == DEMI_OPC_PUSH && result.qr_qd == queue && result.qr_qt == token &&
                result.qr_ret == 0,
            "a text is pushed, and freed before the push completes"))
        printf("#   push %d, free %d, wait %d, opcode %d, ret %lld\n", error, freed, waited, opcode, (long long)result.qr_ret);
}

size_t pop_bytes(int queue, void *bytes, size_t size) {
    size_t received = 0;
    while (received < size) {
        demi_qtoken_t token = 0;
        demi_qresult_t result;
        if (demi_pop(&token, queue) != 0 || demi_wait(&result, token, &long_enough) != 0 || result.qr_opcode != DEMI_OPC_POP) break;
        demi_sgarray_t array = result.qr_value.sga;
        size_t length = array.sga_segs[0].sgaseg_len;
        int fits = array.sga_numsegs == 1 && length <= size - received;
        if (fits) memcpy((char *)bytes + received, array.sga_segs[0].sgaseg_buf, length);
        if (demi_sgafree(&array) != 0 || !fits || length == 0) break;
        received += length;
    }
    return received;
}

void pops_text(int queue, const char *text) {
    char bytes[256];
    memset(bytes, 0, sizeof bytes);
    size_t length = pop_bytes(queue, bytes, strlen(text));
    if (!ok(length == strlen(text) && memcmp(bytes, text, length) == 0, "what was pushed is popped"))
        printf("#   expected '%s', got '%.*s'\n", text, (int)length, bytes);
}

void pops_end(int queue, const char *text) {
    demi_qtoken_t token = 0;
    answers(demi_pop(&token, queue), 0, "a pop is submitted");
    demi_qresult_t result = completes(token, DEMI_OPC_POP, text);
    demi_sgarray_t array = result.qr_value.sga;
    ok(array.sga_numsegs == 1 && array.sga_segs[0].sgaseg_len == 0, "the end is one segment of length 0");
    answers(demi_sgafree(&array), 0, "which is freed like any other array");
}
