/* A TCP echo server for any number of clients: one operation under way per connection, all of them in one array for demi_wait_any. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const struct program program = {
    "tcp-echo",
    "usage: tcp-echo [--listen HOST:PORT]\n"
    "\n"
    "Echoes what TCP clients send, until SIGINT or SIGTERM.\n"
    "  --listen HOST:PORT   numeric, [HOST]:PORT for IPv6; default 127.0.0.1:7000\n"
    "\n"
    "example: LIBOS=catnap tcp-echo --listen 0.0.0.0:7000     and then: nc 127.0.0.1 7000\n",
    "--listen",
    {NULL, NULL}};

/* tokens[0] is the accept; each other one belongs to a connection, whose descriptor its completion tells. */
static demi_qtoken_t *tokens;
static int count, room;

static void add(demi_qtoken_t token) {
    if (count == room) {
        room = room ? 2 * room : 64;
        tokens = realloc(tokens, (size_t)room * sizeof *tokens);
        if (!tokens) check("memory", ENOMEM);
    }
    tokens[count++] = token;
}

/* The connection of tokens[i] is over: the last token takes its place. */
static void finish(int queue, int i) {
    check("demi_close", demi_close(queue));
    tokens[i] = tokens[--count];
}

static void accepted(const demi_qresult_t *result, int listener) {
    demi_qtoken_t token;
    int error;
    if (result->qr_opcode == DEMI_OPC_ACCEPT) {
        error = demi_pop(&token, result->qr_value.ares.qd);
        if (error == 0) add(token);
        else check("demi_close", demi_close(result->qr_value.ares.qd));
    }
    check("demi_accept", demi_accept(&tokens[0], listener));
}

int main(int argc, char **argv) {
    struct options options = parse_options(argc, argv, &program);
    demi_qtoken_t token;
    int listener;
    start(&program);
    listener = bound_socket(&options, SOCK_STREAM);
    check("demi_listen", demi_listen(listener, 128));
    check("demi_accept", demi_accept(&token, listener));
    add(token);

    while (!stop) {
        demi_qresult_t result;
        demi_sgarray_t array;
        int i, error = demi_wait_any(&result, &i, tokens, count, &quarter_second);
        if (error == ETIMEDOUT) continue;
        check("demi_wait_any", error);
        if (i == 0) {
            accepted(&result, listener);
            continue;
        }
        switch (result.qr_opcode) {
        case DEMI_OPC_POP:
            array = result.qr_value.sga;
            error = array.sga_segs[0].sgaseg_len == 0 ? ECONNRESET : demi_push(&tokens[i], result.qr_qd, &array);
            check("demi_sgafree", demi_sgafree(&array));
            if (error != 0) finish(result.qr_qd, i); /* the end of the stream, or a connection that broke */
            break;
        case DEMI_OPC_PUSH:
            if (demi_pop(&tokens[i], result.qr_qd) != 0) finish(result.qr_qd, i);
            break;
        default: finish(result.qr_qd, i); break; /* DEMI_OPC_FAILED: a peer that reset, say */
        }
    }
    check("demi_close", demi_close(listener));
    free(tokens);
    return 0;
}
