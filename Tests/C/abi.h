/*
 * The harness of the C ABI's tests. Output: "ok N - text" or "not ok N - text" a check, lines with "#" for what went wrong.
 *
 * DEMI_NO_NONNULL: the tests pass NULL on purpose; with the attribute in sight the compiler would warn, and could assume that they do not.
 */
#ifndef TESTS_ABI_H
#define TESTS_ABI_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define DEMI_NO_NONNULL
#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

/* One check. Safe from several threads. Answers `condition`. */
int ok(int condition, const char *text);
/* `answer` is this errno (0 for success). */
int answers(int answer, int expected, const char *text);
/* A group that this machine or libOS cannot run. */
void skip(const char *text);

/* The guard against a hang, never a pass condition: ten seconds. */
extern const struct timespec long_enough;
extern const struct timespec at_once;

/* Waits and checks the opcode; the text names the check. */
demi_qresult_t completes(demi_qtoken_t token, demi_opcode_t opcode, const char *text);
/* Waits and checks for DEMI_OPC_FAILED with this errno. */
void fails(demi_qtoken_t token, int error, const char *text);

/* 127.0.0.1 with `port` in host order. */
struct sockaddr_in loopback(int port);
int bind4(int socket, struct sockaddr_in address);
int connect4(demi_qtoken_t *token, int socket, struct sockaddr_in address);
/* A socket bound to a free port of 127.0.0.1, which goes to `address`. */
int bound(int type, struct sockaddr_in *address);

/* Both ends of a TCP connection over loopback, in this thread's libOS; the listener stays open. */
struct connection {
    int listener, client, server;
    struct sockaddr_in address; /* the listener's */
};
struct connection connection_pair(void);
void close_connection(struct connection *connection);

/* An array that holds the text, without its NUL. */
demi_sgarray_t array_of(const char *text);
/* Pushes it, frees it, waits. */
void push_text(int queue, const char *text);
/* Pops `size` bytes in as many pieces as they come; answers how many came before the end of the stream. */
size_t pop_bytes(int queue, void *bytes, size_t size);
/* Pops and compares; the text names the check too. */
void pops_text(int queue, const char *text);
/* Pops a segment of length 0. */
void pops_end(int queue, const char *text);

void test_arguments(void);
void test_memory(void);
void test_queues(void);
void test_files(void);
void test_sockets(void);
void test_datagrams(void);
void test_waiting(void);
void test_threads(void);

#endif
