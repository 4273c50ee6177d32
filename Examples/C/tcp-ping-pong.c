/* A message goes to and fro over one TCP connection; both sides check it. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <stdio.h>
#include <string.h>

static const struct program program = {
    "tcp-ping-pong",
    "usage: tcp-ping-pong server|client [--address HOST:PORT] [--size BYTES] [--count N]\n"
    "\n"
    "The server takes one connection and sends each message back; the client makes the round trips.\n"
    "  --address HOST:PORT  numeric, [HOST]:PORT for IPv6; default 127.0.0.1:7000\n"
    "  --size BYTES         of a message, the same on both sides; default 64\n"
    "  --count N            round trips that the client makes; default 1000\n"
    "\n"
    "example: tcp-ping-pong server &     and then: tcp-ping-pong client --count 100000\n",
    "--address",
    {"server", "client"}};

static void push_message(int queue, size_t size, int value) {
    demi_sgarray_t array = allocate(size);
    size_t length;
    memset(bytes_of(&array, &length), value, size);
    push_and_free(queue, &array);
}

/* Pops `size` bytes, in as many pieces as they come. Answers 0 when the stream has ended instead, before the first of them. */
static int pop_message(int queue, size_t size, int value) {
    size_t received = 0;
    while (received < size) {
        demi_qtoken_t token;
        demi_sgarray_t array;
        size_t length, i;
        const unsigned char *bytes;
        check("demi_pop", demi_pop(&token, queue));
        array = wait_for("pop", token).qr_value.sga;
        bytes = bytes_of(&array, &length);
        for (i = 0; i < length; i++)
            if (bytes[i] != value) fail("a byte changed on its way");
        check("demi_sgafree", demi_sgafree(&array));
        if (length == 0 && received == 0) return 0;
        if (length == 0) fail("the stream ended within a message");
        received += length;
        if (received > size) fail("more came than one message: is --size the same on both sides?");
    }
    return 1;
}

int main(int argc, char **argv) {
    struct options options = parse_options(argc, argv, &program);
    size_t i = 0;
    int queue;
    start(&program);
    if (options.role == 0) {
        queue = accept_one(&options);
        for (; pop_message(queue, options.size, (int)(i % 256)); i++) push_message(queue, options.size, (int)(i % 256));
    } else {
        queue = connect_to(&options);
        for (; i < options.count; i++) {
            push_message(queue, options.size, (int)(i % 256));
            if (!pop_message(queue, options.size, (int)(i % 256))) fail("the server ended the stream");
        }
    }
    check("demi_close", demi_close(queue));
    printf("%lu round trips of %lu bytes\n", (unsigned long)i, (unsigned long)options.size);
    return 0;
}
